"""Copies of a picture that were mirrored, turned, cropped, brightened or coded again, found without comparing all pairs.

Every picture is shrunk to a small grey one. From it the difference hashes of its *variants* are computed by one matrix
product: mirrored or not, turned by 0 to 12 degrees, cropped by 0 to 6 % a side, also off centre. A copy differs from one
variant of its original, or the original from one variant of the copy, in few bits (N. Krawetz, "Kind of Like That", 2013;
D. Barz and J. Denzler, "Do We Train on Test Data? Purging CIFAR of Near-Duplicates", 2020, on why it matters).

What all pictures of a set share (a studio's light, a face in the middle) says nothing about copies. So the mean picture is
taken out of each, by regression, before it is hashed and before the detail of two is correlated.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mien.data.store import Store
from mien.schema import FloatArray, IntArray

SIDE = 24
"""Of the small grey pictures."""
INNER, GRID, BLUR = 0.8, 20, 7
"""Share of the picture that is correlated (borders differ between a copy and its original), cells a side, and the cells
around one whose mean is taken off it."""
BROAD = 0.85
"""Least correlation of two pictures as a whole."""
ENOUGH = 64
"""Pictures from which on their mean is taken out; fewer have no mean worth the name."""
ROWS, COLUMNS = 8, 9
"""Cells of a difference hash: a bit for each of the 8 x 8 neighbours in a row."""
CHUNK = 4096
PAIRS_AT_ONCE = 1 << 20

Hashes = npt.NDArray[np.uint64]


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
    """All variants that are looked for; the first is the picture as it is.

    Turns in one direction are enough, because both pictures of a pair are tried as the original.
    """
    found = [Variant(False, angle, crop) for angle in (0.0, 4.0, 8.0, 12.0) for crop in (0.0, 0.02, 0.04, 0.06)]
    corners = [(x, y) for x in (-1, 1) for y in (-1, 1)]
    found += [Variant(False, 0.0, cut, (x * cut, y * cut)) for cut in (0.025, 0.05) for x, y in corners]
    return found + [variant._replace(mirrored=True) for variant in found]


def place(points: FloatArray, variant: Variant) -> FloatArray:
    """Where points (P, 2) of a variant, x and y in [-0.5, 0.5] from the middle, lie in the original."""
    at = points * np.array([-1.0 if variant.mirrored else 1.0, 1.0]) * (1 - 2 * variant.crop) + np.array(variant.shift)
    turn = np.deg2rad(variant.angle)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return np.asarray(at @ matrix.T, dtype=np.float32)


def sampling(points: FloatArray) -> FloatArray:
    """(P, SIDE * SIDE) bilinear weights that read a small picture at points (P, 2) in [-0.5, 0.5]; borders are repeated."""
    x, y = np.clip((points + 0.5) * SIDE - 0.5, 0, SIDE - 1).T
    left, top = np.minimum(x.astype(int), SIDE - 2), np.minimum(y.astype(int), SIDE - 2)
    right, below = x - left, y - top
    weights = np.zeros((len(points), SIDE * SIDE), dtype=np.float32)
    rows = np.arange(len(points))
    for dy, down in ((0, 1 - below), (1, below)):
        for dx, across in ((0, 1 - right), (1, right)):
            weights[rows, (top + dy) * SIDE + left + dx] += down * across
    return weights


def cells(variant: Variant, rows: int, columns: int, share: float = 1.0, fine: int = 4) -> FloatArray:
    """(rows * columns, SIDE * SIDE) means over the cells of a grid on the middle `share` of a variant."""
    across = ((np.arange(columns * fine) + 0.5) / (columns * fine) - 0.5) * share
    down = ((np.arange(rows * fine) + 0.5) / (rows * fine) - 0.5) * share
    points = np.stack(np.meshgrid(across, down), axis=-1).reshape(-1, 2).astype(np.float32)
    weights = sampling(place(points, variant)).reshape(rows, fine, columns, fine, -1)
    return np.asarray(weights.mean(axis=(1, 3)).reshape(rows * columns, -1))


@cache
def hash_cells() -> FloatArray:
    """(V / 2 * ROWS * COLUMNS, SIDE * SIDE) cells of all variants that are not mirrored."""
    return np.concatenate([cells(variant, ROWS, COLUMNS) for variant in variants() if not variant.mirrored])


@cache
def compared_cells(number: int) -> FloatArray:
    """(GRID * GRID, SIDE * SIDE) cells at which variant `number` is correlated."""
    return cells(variants()[number], GRID, GRID, INNER, fine=2)


@cache
def detail_of() -> FloatArray:
    """(GRID * GRID, GRID * GRID) what takes a grid's mean over BLUR x BLUR cells off every cell."""
    import cv2

    each = np.eye(GRID * GRID, dtype=np.float32).reshape(-1, GRID, GRID)
    return np.stack([grid - cv2.blur(grid, (BLUR, BLUR)) for grid in each], axis=-1).reshape(GRID * GRID, -1)


def small_pictures(store: Store, rows: IntArray) -> FloatArray:
    """(N, SIDE * SIDE) grey rows of a store, shrunk by area."""
    import cv2

    found = np.empty((len(rows), SIDE * SIDE), dtype=np.float32)
    step = max(1, (1 << 23) // store.info.size**2)
    for start in range(0, len(rows), step):
        for k, picture in enumerate(store.images(rows[start : start + step]), start):
            grey = picture[:, :, 0] if store.info.channels == 1 else cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
            found[k] = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA).ravel()
    return found


def without(values: FloatArray, mean: FloatArray | None) -> FloatArray:
    """Rows (N, P) less their own mean and less what the mean picture (P,) explains of them, by least squares."""
    values = values - values.mean(axis=-1, keepdims=True)
    if mean is None:
        return values
    direction = mean - mean.mean()
    size = float(np.linalg.norm(direction))
    if size < 1e-6:
        return values
    direction = direction / size
    return np.asarray(values - (values @ direction)[..., None] * direction)


def variant_hashes(pictures: FloatArray, mean: FloatArray | None) -> Hashes:
    """(V, N) difference hash of every variant of small pictures (N, SIDE * SIDE); `mean` is the mean picture."""
    half = len(hash_cells()) // (ROWS * COLUMNS)
    middle = None if mean is None else hash_cells()[: ROWS * COLUMNS] @ mean
    found = np.empty((2 * half, len(pictures)), dtype=np.uint64)
    for start in range(0, len(pictures), CHUNK):
        part = (pictures[start : start + CHUNK] @ hash_cells().T).reshape(-1, half, ROWS * COLUMNS)
        # mirroring comes first, so the cells of a mirrored variant are those of its twin from right to left
        for mirrored in (False, True):
            seen = part.reshape(-1, half, ROWS, COLUMNS)[..., ::-1].reshape(part.shape) if mirrored else part
            left = without(seen, middle).reshape(-1, half, ROWS, COLUMNS)
            bits = left[..., 1:] > left[..., :-1]
            packed = np.packbits(bits.reshape(-1, half, ROWS * (COLUMNS - 1)), axis=2)
            found[half * mirrored : half * (1 + mirrored), start : start + CHUNK] = packed.view(np.uint64)[..., 0].T
    return found


def close_pairs(queries: Hashes, base: Hashes, bits: int) -> IntArray:
    """(P, 2) all (query, row) whose 64-bit hashes differ in at most `bits` bits (0-6), in no order, each once.

    Two hashes that differ in at most 6 bits agree on at least two of their 8 bytes (Norouzi et al. 2012, multi-index
    hashing), so rows are looked up by each pair of bytes. A pair is kept where its first such pair of bytes finds it.
    """
    if not 0 <= bits <= 6:
        raise ValueError("bits must be 0-6")
    asked, there = queries.view(np.uint8).reshape(-1, 8), base.view(np.uint8).reshape(-1, 8)
    found = [np.empty((0, 2), dtype=np.int64)]
    looked_up = list(combinations(range(8), 2))
    for number, (first, second) in enumerate(looked_up):
        keys = there[:, first].astype(np.intp) * 256 + there[:, second]
        order = np.argsort(keys, kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(keys, minlength=1 << 16))])
        wanted = asked[:, first].astype(np.intp) * 256 + asked[:, second]
        begin = starts[wanted]
        counts = starts[wanted + 1] - begin
        for some in _slices(counts):
            query = np.repeat(np.arange(some.start, some.stop), counts[some])
            place = np.arange(len(query)) - np.repeat(np.cumsum(counts[some]) - counts[some], counts[some])
            row = order[np.repeat(begin[some], counts[some]) + place]
            close = np.bitwise_count(queries[query] ^ base[row]) <= bits
            query, row = query[close], row[close]
            same = asked[query] == there[row]
            for a, b in looked_up[:number]:
                again = same[:, a] & same[:, b]
                query, row, same = query[~again], row[~again], same[~again]
            found.append(np.stack([query, row], axis=1))
    return np.concatenate(found)


def _slices(counts: IntArray) -> list[slice]:
    """Runs of queries with about PAIRS_AT_ONCE candidates each; none where there is no candidate."""
    total = np.cumsum(counts)
    if not len(total) or not total[-1]:
        return []
    cuts = np.searchsorted(total, np.arange(PAIRS_AT_ONCE, int(total[-1]), PAIRS_AT_ONCE)) + 1
    return [slice(a, b) for a, b in pairwise([0, *np.unique(cuts).tolist(), len(counts)]) if b > a]


def copies(pictures: FloatArray, bits: int, correlation: float) -> tuple[IntArray, FloatArray]:
    """(P, 2) pairs i < j of small pictures (N, SIDE * SIDE) that are copies, and how much each correlates (P,).

    Hashes of a variant of one and of the other differ in at most `bits` bits, and the likeness of their middles (`correlate`)
    is at least `correlation`. Two flat pictures count as copies, a flat one and another do not.
    """
    count, mean = len(pictures), pictures.mean(axis=0) if len(pictures) >= ENOUGH else None
    hashes = variant_hashes(pictures, mean)
    found = close_pairs(hashes.ravel(), hashes[0].copy(), bits)
    number, one, other = found[:, 0] // count, found[:, 0] % count, found[:, 1]
    found = np.stack([number, one, other], axis=1)[np.where(number == 0, one < other, one != other)]
    found = found[np.argsort(found[:, 0], kind="stable")]
    likeness = np.empty(len(found), dtype=np.float32)
    for variant in range(len(hashes)):
        begin, end = np.searchsorted(found[:, 0], [variant, variant + 1])
        for start in range(begin, end, CHUNK):
            some = slice(start, min(start + CHUNK, end))
            likeness[some] = correlate(pictures[found[some, 1]], pictures[found[some, 2]], variant, mean)
    kept = likeness >= correlation
    return _once(np.sort(found[kept, 1:], axis=1), likeness[kept])


def correlate(ones: FloatArray, others: FloatArray, number: int, mean: FloatArray | None) -> FloatArray:
    """(P,) likeness of variant `number` of pictures (P, SIDE * SIDE) to others, at most 1; their mean picture is taken out.

    It is the correlation of detail, and 0 where the pictures as a whole correlate less than BROAD: broad light and shade
    are alike in pictures of different people, and so is the detail of one studio's background, but not both.
    """
    plain = None if mean is None else compared_cells(0) @ mean
    a = without(ones @ compared_cells(number).T, plain)
    b = without(others @ compared_cells(0).T, plain)
    broad, detail = _correlation(a, b), _correlation(a @ detail_of(), b @ detail_of())
    return np.asarray(np.where(broad >= BROAD, detail, 0.0))


def _correlation(a: FloatArray, b: FloatArray) -> FloatArray:
    """(P,) cosine of rows; 1 for two rows of nearly nothing, 0 for one."""
    sizes = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    flat = (sizes[0] < 1e-3) & (sizes[1] < 1e-3)
    product = np.einsum("ij,ij->i", a, b) / np.maximum(sizes[0] * sizes[1], 1e-9)
    return np.asarray(np.where(flat, 1.0, product))


def _once(pairs: IntArray, likeness: FloatArray) -> tuple[IntArray, FloatArray]:
    """Each pair once, sorted, with the best of its correlations."""
    order = np.lexsort((-likeness, pairs[:, 1], pairs[:, 0]))
    pairs, likeness = pairs[order], likeness[order]
    fresh: Sequence[bool] | npt.NDArray[np.bool_] = np.ones(len(pairs), dtype=bool)
    fresh = np.concatenate([fresh[:1], (pairs[1:] != pairs[:-1]).any(axis=1)])
    return pairs[fresh], likeness[fresh]
