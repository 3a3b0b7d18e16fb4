"""How alike two small pictures are, measured against the spread of the set that they come from.

In a studio's portraits two people correlate 0.9 and more: ground, light and shoulders are the same, and where the head is
moved, all of it moves. So pictures are compared after *whitening*: what varies much in the set, also the mean picture, is
weighted down by how much it varies, and what is left is a person's and a photo's own (A. Kessy, A. Lewin and K. Strimmer,
"Optimal Whitening and Decorrelation", 2018; the covariance is shrunk, O. Ledoit and M. Wolf, 2004).
"""

from __future__ import annotations

from functools import cache

import numpy as np

from mien.data.variants import SIDE, cells, variants
from mien.schema import ByteArray, FloatArray

INNER, GRID = 0.8, 16
"""Share of the picture that is compared (borders differ between a copy and its original), and cells a side."""
PRIOR, REACH = 100, 0.25
"""The spread of pictures in general counts as much as that many pictures; over that share of the side it falls to 1 / e."""
FLOOR = 0.3
"""Of the mean variance: what varies less is not weighted up further, as it is noise of coding and resampling."""
AT_ONCE = 2048
ENOUGH, DEVIATIONS, MOST = 64, 4.5, 0.9
"""See `least_likeness`. The deviations are 0.09 in photos of the web and 0.15 to 0.19 in portraits of one studio."""


def centred(grid: int) -> FloatArray:
    """(C, C) matrix that takes the mean over C = grid * grid cells out."""
    count = grid * grid
    return np.asarray(np.eye(count) - 1 / count)


@cache
def smooth_pictures(grid: int) -> FloatArray:
    """(C, C) second moment, trace 1, of pictures in general: neighbours are alike, far cells are not."""
    at = np.stack(np.meshgrid(np.arange(grid), np.arange(grid)), axis=-1).reshape(-1, 2) / grid
    distance = np.linalg.norm(at[:, None] - at[None], axis=-1)
    moment = centred(grid) @ np.exp(-distance / REACH) @ centred(grid)
    return np.asarray(moment / np.trace(moment))


def second_moment(values: FloatArray) -> FloatArray:
    """(C, C) mean outer product of rows (N, C) of a square grid, each without its mean and of length 1, shrunk to that of
    pictures in general; trace 1. Flat rows are left out.
    """
    grid = round(values.shape[1] ** 0.5)
    values = values - values.mean(axis=1, keepdims=True)
    sizes = np.linalg.norm(values, axis=1)
    values = values[sizes > 1e-3] / sizes[sizes > 1e-3, None]
    total = (values.T @ values).astype(np.float64)
    return np.asarray((total + PRIOR * smooth_pictures(grid)) / (len(values) + PRIOR))


def compared_cells(number: int) -> FloatArray:
    """(GRID * GRID, SIDE * SIDE) cells at which variant `number` is compared."""
    return cells(variants()[number], SIDE, GRID, INNER, fine=2)


def whitening(pictures: ByteArray) -> FloatArray:
    """(C, C) matrix that brings the cells of small pictures (N, SIDE * SIDE) of a set to like spread."""
    values = pictures.astype(np.float32) @ compared_cells(0).T
    spread, axes = np.linalg.eigh(second_moment(values))
    scaled = axes / np.sqrt(np.maximum(spread, 0) + FLOOR / len(spread))
    return np.asarray(centred(GRID) @ scaled @ axes.T, dtype=np.float32)


def correlate(ones: ByteArray, others: ByteArray, number: int, white: FloatArray) -> FloatArray:
    """(P,) likeness of variant `number` of small pictures (P, SIDE * SIDE) to others, -1 to 1, by a set's `whitening`."""
    first, second = compared_cells(number).T @ white, compared_cells(0).T @ white
    found = np.empty(len(ones), dtype=np.float32)
    for start in range(0, len(ones), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        found[some] = cosine(ones[some].astype(np.float32) @ first, others[some].astype(np.float32) @ second)
    return found


def least_likeness(pictures: ByteArray, white: FloatArray, asked: float) -> float:
    """Likeness from which two small pictures (N, SIDE * SIDE) of a set are copies: `asked`, and more (at most MOST) where pairs
    drawn from the set are alike, DEVIATIONS standard deviations of their likeness. Fewer than ENOUGH pictures tell no spread.
    """
    if len(pictures) < ENOUGH:
        return asked
    one, other = np.random.default_rng(0).integers(0, len(pictures), (2, 4000))
    pairs = one != other
    spread = float(correlate(pictures[one[pairs]], pictures[other[pairs]], 0, white).std())
    return max(asked, min(DEVIATIONS * spread, MOST))


def cosine(a: FloatArray, b: FloatArray) -> FloatArray:
    """(P,) cosine of rows; 1 for two rows of nearly nothing, 0 for one."""
    sizes = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    flat = (sizes[0] < 1e-2) & (sizes[1] < 1e-2)
    product = np.einsum("ij,ij->i", a, b) / np.maximum(sizes[0] * sizes[1], 1e-9)
    return np.asarray(np.where(flat, 1.0, product))
