"""Copies of a picture that were mirrored, turned, cropped, brightened or coded again, found without comparing all pairs.

Every picture is shrunk to a small grey one. One matrix product gives the 48-bit hashes of its *variants*: turned by 0 to 12
degrees, cropped by 0 to 6 % a side, also off centre; mirroring inverts half of the bits. A copy differs from one variant of
its original, or the original from one variant of the copy, in few bits, so the two meet in one of six tables by some of
their bits, whose keys are the same for a picture and its mirror image (A. Gionis, P. Indyk and R. Motwani, "Similarity
Search in High Dimensions via Hashing", 1999). Pairs that meet are compared in detail (`mien.data.likeness`).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mien.data.likeness import centred, correlate, cosine, least_likeness, second_moment, whitening
from mien.data.store import Store
from mien.data.variants import SIDE, cells, variants
from mien.schema import ByteArray, FloatArray, IntArray

CELLS = 8
"""A side, of a picture that is hashed."""
RANK, ROUNDS = 112, 3
"""Numbers of a picture from which all its variants' hashes follow, see `compressed`."""
BITS = 48
"""Of a hash: half of the directions are the same in a mirrored picture, half change their sign."""
STEP = 8
"""Bits from one table's key to the next one's; keys wrap around."""
ALIKE = 0.85
"""Least cosine of the numbers behind two hashes."""
TRIED = 2
"""Variants of a pair that are compared in detail."""
SAMPLE = 5000
"""Pictures whose spread is measured."""
CROWD = 64
"""Most pictures of one key that a picture is compared with, so that a film's frames do not become all their pairs."""
CHUNK = 1024
PAIRS_AT_ONCE = 1 << 20

Hashes = npt.NDArray[np.uint64]
ALL = np.uint64((1 << BITS) - 1)
MIRROR = np.uint64(sum(1 << bit for bit in range(1, BITS, 2)))
"""Bits that mirroring inverts."""


class Table(NamedTuple):
    """Rows and their `upright` hashes in the order of their keys: `rows[starts[key] : starts[key + 1]]` have that key."""

    rows: npt.NDArray[np.int32]
    hashes: Hashes
    turned: npt.NDArray[np.uint64]
    starts: npt.NDArray[np.int32]


class Pairs(NamedTuple):
    """Pairs that may be copies: variant `number` (P,) of picture `one` (P,) is like picture `other` (P,)."""

    one: IntArray
    other: IntArray
    number: IntArray
    closeness: FloatArray


def small_pictures(store: Store, rows: IntArray) -> ByteArray:
    """(N, SIDE * SIDE) grey rows of a store, shrunk by area."""
    import cv2

    size = store.info.size
    found = np.empty((len(rows), SIDE, SIDE), dtype=np.uint8)
    step = max(1, (1 << 22) // size**2)
    for start in range(0, len(rows), step):
        some = store.grey(rows[start : start + step])
        if size >= SIDE:  # one tall picture: no cell lies on the border of two
            tall = cv2.resize(some.reshape(-1, size), (SIDE, len(some) * SIDE), interpolation=cv2.INTER_AREA)
            found[start : start + step] = tall.reshape(-1, SIDE, SIDE)
        else:
            found[start : start + step] = [cv2.resize(one, (SIDE, SIDE)) for one in some]
    return found.reshape(len(rows), -1)


def some_of(pictures: ByteArray) -> ByteArray:
    """At most SAMPLE of a set's pictures (N, P), evenly spaced."""
    return pictures[:: max(1, -(-len(pictures) // SAMPLE))]


def directions(pictures: ByteArray) -> FloatArray:
    """(SIDE * SIDE, V * BITS) what a set's small pictures (N, SIDE * SIDE) are multiplied with, for the V variants that are
    not mirrored; the signs of the products are the hash.

    Directions of largest spread in the set, weighted to like spread and rotated at random, so that all bits tell as much
    (Y. Gong and S. Lazebnik, "Iterative Quantization", 2011, without the iteration). Odd ones change their sign when the
    picture is mirrored, even ones do not.
    """
    every = [cells(variant, SIDE, CELLS, 0.95) for variant in variants() if not variant.mirrored]
    moment = second_moment(pictures.astype(np.float32) @ every[0].T)
    across = np.eye(CELLS * CELLS).reshape(CELLS, CELLS, -1)[:, ::-1].reshape(CELLS * CELLS, -1)
    rng, half = np.random.default_rng(0), BITS // 2
    found = np.empty((CELLS * CELLS, BITS))
    for first, sign in enumerate((1, -1)):
        side = (np.eye(CELLS * CELLS) + sign * across) / 2
        spread, axes = np.linalg.eigh(side @ moment @ side)
        scaled = axes[:, -half:] / np.sqrt(np.maximum(spread[-half:], 0) + 1 / len(spread))
        found[:, first::2] = centred(CELLS) @ scaled @ np.linalg.qr(rng.normal(size=(half, half)))[0]
    return np.concatenate([(each.T @ found).astype(np.float32) for each in every], axis=1)


def compressed(lines: FloatArray, pictures: ByteArray) -> tuple[FloatArray, FloatArray]:
    """(P, RANK) and (RANK, D), whose product is `lines` (P, D) as far as a set's pictures (N, P) can tell, at a quarter of the cost.

    The dominant directions of the products' spread, by ROUNDS of subspace iteration (N. Halko, P.-G. Martinsson and J. Tropp,
    "Finding Structure with Randomness", 2011).
    """
    values = pictures.astype(np.float32) / 255
    moment = values.T @ values / np.float32(len(values))
    mix = np.random.default_rng(0).normal(size=(lines.shape[1], RANK)).astype(np.float32)
    for _ in range(ROUNDS):
        mix = np.linalg.qr(lines.T @ (moment @ (lines @ mix)))[0]
    return lines @ mix, np.ascontiguousarray(mix.T)


def pack(values: FloatArray) -> Hashes:
    """(...) hashes of (..., BITS) numbers: bit k is set where number k is positive, by more than a flat picture's rounding."""
    packed = np.zeros((*values.shape[:-1], 8), dtype=np.uint8)
    packed[..., : BITS // 8] = np.packbits(values > 1e-2, axis=-1, bitorder="little")
    return np.asarray(packed.view("<u8")[..., 0])


def key_bits(count: int) -> int:
    """Bits of a key: about as many keys as pictures."""
    return int(np.clip(np.ceil(np.log2(max(count, 1))), 8, 22))


def window(hashes: Hashes, table: int, bits: int) -> Hashes:
    """The `bits` bits of 48-bit hashes from bit STEP * table on, wrapped around."""
    first = np.uint64(table * STEP)
    turned = (hashes >> first) | (hashes << (np.uint64(BITS) - first))
    return np.asarray(turned & np.uint64((1 << bits) - 1))


def upright(hashes: Hashes, table: int) -> tuple[Hashes, npt.NDArray[np.uint64]]:
    """Of each hash and that of the mirrored picture the one whose first odd bit in a table's window is not set, the same for
    both; and 1 where that is the mirrored one.
    """
    turned = (hashes >> np.uint64(table * STEP + 1)) & np.uint64(1)
    return hashes ^ (turned * MIRROR), turned


def key_of(hashes: Hashes, table: int, bits: int) -> npt.NDArray[np.int32]:
    """Keys of `bits` - 1 bits, the window of upright hashes without its second bit, which is not set."""
    key = window(hashes, table, bits)
    return np.asarray((key & np.uint64(1)) | (key >> np.uint64(2) << np.uint64(1))).astype(np.int32)


def tables(hashes: Hashes, bits: int) -> list[Table]:
    """The BITS / STEP tables of a set's hashes (N,)."""
    found = []
    for number in range(BITS // STEP):
        ours, turned = upright(hashes, number)
        keys = key_of(ours, number, bits)
        starts = np.concatenate([[0], np.cumsum(np.bincount(keys, minlength=1 << (bits - 1)))])
        rows = np.argsort(keys, kind="stable").astype(np.int32)
        found.append(Table(rows, ours[rows], turned[rows], starts.astype(np.int32)))
    return found


def meetings(
    asked: Hashes, made: list[Table], bits: int, limit: int
) -> Iterator[tuple[IntArray, IntArray, npt.NDArray[np.bool_]]]:
    """(query, row, mirrored): places of hashes `asked` (Q,) and of the tables' hashes, as they are or mirrored, with `bits` common
    bits of a table's window and at most `limit` different ones, each once.

    Of a key with more than CROWD rows a query meets CROWD, another stretch for each query.
    """
    for number, table in enumerate(made):
        ours, turned = upright(asked, number)
        keys = key_of(ours, number, bits)
        begin, counts = table.starts[keys], table.starts[keys + 1] - table.starts[keys]
        crowded = np.flatnonzero(counts > CROWD)
        begin[crowded] += (crowded * 7919) % (counts[crowded] - CROWD + 1)
        counts = np.minimum(counts, CROWD)
        some = np.flatnonzero(counts)
        for part in _slices(counts[some]):
            queries = some[part]
            many = counts[queries]
            ends = np.cumsum(many, dtype=np.int32)
            place = np.repeat(begin[queries] - ends + many, many) + np.arange(ends[-1], dtype=np.int32)
            differ = np.repeat(ours[queries], many) ^ table.hashes[place]
            close = np.flatnonzero(np.bitwise_count(differ) <= limit)
            query, place, differ = queries[np.searchsorted(ends, close, side="right")], place[close], differ[close]
            for earlier in range(number):
                fresh = window(differ, earlier, bits) != 0
                query, place, differ = query[fresh], place[fresh], differ[fresh]
            yield query, table.rows[place].astype(np.int64), turned[query] != table.turned[place]


def _slices(counts: IntArray) -> list[slice]:
    """Runs of queries with about PAIRS_AT_ONCE candidates each."""
    if not len(counts):
        return []
    total = np.cumsum(counts)
    cuts = np.searchsorted(total, np.arange(PAIRS_AT_ONCE, int(total[-1]), PAIRS_AT_ONCE)) + 1
    return [slice(a, b) for a, b in pairwise([0, *np.unique(cuts).tolist(), len(counts)]) if b > a]


def candidates(pictures: ByteArray, limit: int) -> Pairs:
    """Pairs of small pictures (N, SIDE * SIDE) whose hashes differ in at most `limit` bits, by their closest variants."""
    basis, mix = compressed(directions(some_of(pictures)), some_of(pictures))
    half = mix.shape[1] // BITS
    short = np.concatenate(
        [pictures[start : start + CHUNK].astype(np.float32) @ basis for start in range(0, len(pictures), CHUNK)]
    )
    numbers = short @ mix[:, :BITS]
    base, bits = pack(numbers), key_bits(len(pictures))
    made = tables(base, bits)
    found = []
    for start in range(0, len(pictures), CHUNK):
        values = (short[start : start + CHUNK] @ mix).reshape(-1, BITS)
        for query, row, mirrored in meetings(pack(values), made, bits, limit):
            number, one = query % half + half * mirrored, start + query // half
            new = np.where(number == 0, one < row, one != row)
            query, row, number, one, mirrored = query[new], row[new], number[new], one[new], mirrored[new]
            own = values[query]
            own[mirrored, 1::2] *= -1
            closeness = cosine(own, numbers[row])
            kept = closeness >= ALIKE
            found.append(Pairs(one[kept], row[kept], number[kept], closeness[kept]))
    none = np.empty(0, dtype=np.int64)
    one, other, number = (np.concatenate([none, *(each[k] for each in found)]) for k in range(3))
    near_by = np.concatenate([np.empty(0, dtype=np.float32), *(each.closeness for each in found)])
    return _closest(Pairs(one, other, number, near_by))


def _closest(pairs: Pairs) -> Pairs:
    """Each pair of pictures with its TRIED closest variants, whichever of the two is the variant; a pair's rows stand together."""
    low, high = np.minimum(pairs.one, pairs.other), np.maximum(pairs.one, pairs.other)
    order = np.lexsort((-pairs.closeness, high, low))
    again = np.zeros(len(order), dtype=bool)
    again[TRIED:] = (low[order[TRIED:]] == low[order[:-TRIED]]) & (high[order[TRIED:]] == high[order[:-TRIED]])
    kept = order[~again]
    return Pairs(pairs.one[kept], pairs.other[kept], pairs.number[kept], pairs.closeness[kept])


def copies(pictures: ByteArray, limit: int, correlation: float) -> tuple[IntArray, FloatArray]:
    """(P, 2) pairs i < j of small pictures (N, SIDE * SIDE) that are copies, sorted, and how much each correlates (P,).

    Hashes of a variant of one and of the other differ in at most `limit` bits of 48, and their likeness (`correlate`) is at
    least `correlation`, or more in a set of pictures that are all alike (`least_likeness`).
    Two flat pictures count as copies, a flat one and another do not.
    """
    found = candidates(pictures, limit)
    white = whitening(some_of(pictures))
    likeness = np.empty(len(found.one), dtype=np.float32)
    for number in np.unique(found.number).tolist():
        some = found.number == number
        likeness[some] = correlate(pictures[found.one[some]], pictures[found.other[some]], number, white)
    pairs = np.sort(np.stack([found.one, found.other], axis=1), axis=1)
    order = np.lexsort((-likeness, pairs[:, 1], pairs[:, 0]))
    pairs, likeness = pairs[order], likeness[order]
    kept = likeness >= least_likeness(some_of(pictures), white, correlation)
    kept[1:] &= (pairs[1:] != pairs[:-1]).any(axis=1)
    return pairs[kept], likeness[kept]
