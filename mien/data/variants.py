"""How a copy may lie in its original, as matrices that read small grey pictures."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mien.schema import FloatArray

SIDE = 24
"""Of the small grey pictures."""


class Variant(NamedTuple):
    """How a copy may lie in its original: mirrored first, then shrunk and shifted, then turned about the middle."""

    mirrored: bool
    angle: float
    """Degrees."""
    crop: float
    """Share of the side that is cut off, on each side."""
    shift: tuple[float, float] = (0.0, 0.0)
    """Of the cut, (x, y), as a share of the side."""


def variants() -> list[Variant]:
    """All variants that are looked for; the first is the picture as it is, the second half is mirrored.

    Both pictures of a pair are tried as the original, so that turns in one direction are enough; the largest one is tried in
    both, because what it turned out of the picture cannot be turned back.
    """
    found = [Variant(False, angle, crop) for angle in (0.0, 4.0, 8.0, 12.0) for crop in (0.0, 0.02, 0.04, 0.06)]
    found += [Variant(False, -12.0, crop) for crop in (0.0, 0.03)]
    corners = [(x, y) for x in (-1, 1) for y in (-1, 1)]
    found += [Variant(False, 0.0, cut, (x * cut, y * cut)) for cut in (0.02, 0.035, 0.05) for x, y in corners]
    return found + [variant._replace(mirrored=True) for variant in found]


def place(points: FloatArray, variant: Variant) -> FloatArray:
    """Where points (P, 2) of a variant, x and y in [-0.5, 0.5] from the middle, lie in the original."""
    at = points * np.array([-1.0 if variant.mirrored else 1.0, 1.0]) * (1 - 2 * variant.crop) + np.array(variant.shift)
    turn = np.deg2rad(variant.angle)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return np.asarray(at @ matrix.T, dtype=np.float32)


def sampling(points: FloatArray, side: int) -> FloatArray:
    """(P, side * side) bilinear weights that read a picture of `side` pixels at points (P, 2) in [-0.5, 0.5]; borders are repeated."""
    x, y = np.clip((points + 0.5) * side - 0.5, 0, side - 1).T
    left, top = np.minimum(x.astype(int), side - 2), np.minimum(y.astype(int), side - 2)
    right, below = x - left, y - top
    weights = np.zeros((len(points), side * side), dtype=np.float32)
    rows = np.arange(len(points))
    for dy, down in ((0, 1 - below), (1, below)):
        for dx, across in ((0, 1 - right), (1, right)):
            weights[rows, (top + dy) * side + left + dx] += down * across
    return weights


def cells(variant: Variant, side: int, grid: int, share: float = 1.0, fine: int = 4) -> FloatArray:
    """(grid * grid, side * side) means over the cells of a grid on the middle `share` of a variant."""
    across = ((np.arange(grid * fine) + 0.5) / (grid * fine) - 0.5) * share
    points = np.stack(np.meshgrid(across, across), axis=-1).reshape(-1, 2).astype(np.float32)
    weights = sampling(place(points, variant), side).reshape(grid, fine, grid, fine, -1)
    return np.asarray(weights.mean(axis=(1, 3)).reshape(grid * grid, -1))
