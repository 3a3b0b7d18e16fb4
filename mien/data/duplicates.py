"""Identical and near-duplicate pictures, found without comparing all pairs."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.data.store import Store
from mien.schema import IntArray

NEAR_BITS = 4
NEAR_CORRELATION = 0.9
"""Set by eye on FER-2013: at 4 bits and 0.9 all of 72 drawn pairs were the same photo, edited or re-cropped; at 0.85,
or at 6 bits and below 0.95, other people slip in."""

_PAIRS_AT_ONCE = 1 << 20
_ONES = np.array([value.bit_count() for value in range(1 << 16)], dtype=np.uint8)


def exact_groups(digest: npt.NDArray[Any]) -> IntArray:
    """(N,) group number, equal where the digest is; numbered by first appearance."""
    _, first, inverse = np.unique(digest, return_index=True, return_inverse=True)
    return first[inverse].astype(np.int64)


def close_pairs(hashes: npt.NDArray[np.uint64], bits: int = NEAR_BITS) -> IntArray:
    """(P, 2) all row pairs i < j whose 64-bit hashes differ in at most `bits` bits (0-6), sorted.

    The hash is cut into bits + 2 blocks; two hashes that differ in `bits` bits agree on at least two whole blocks
    (Norouzi et al. 2012, multi-index hashing), so rows are bucketed by each pair of blocks and compared inside buckets.
    """
    if not 0 <= bits <= 6:
        raise ValueError("bits must be 0-6")
    count = bits + 2
    edges = np.linspace(0, 64, count + 1).round().astype(np.uint64)
    masks = [np.uint64((1 << int(b)) - (1 << int(a))) for a, b in pairwise(edges)]
    found = [np.empty((0, 2), dtype=np.int64)]
    for first, second in combinations(masks, 2):
        keys = hashes & (first | second)
        order = np.argsort(keys, kind="stable")
        found.extend(_in_buckets(hashes, order, keys[order], bits))
    return np.unique(np.concatenate(found), axis=0)


def _in_buckets(
    hashes: npt.NDArray[np.uint64], order: npt.NDArray[np.intp], keys: npt.NDArray[np.uint64], bits: int
) -> list[IntArray]:
    """Close pairs among rows with equal keys: every row against the one `step` places on, until buckets are spent."""
    found = []
    left = np.arange(len(keys))
    for step in range(1, len(keys)):
        left = left[left + step < len(keys)]
        left = left[keys[left] == keys[left + step]]  # a row whose bucket ended stays out: buckets are contiguous
        if not len(left):
            break
        for some in np.array_split(left, len(left) // _PAIRS_AT_ONCE + 1):
            a, b = order[some], order[some + step]
            ones = _ONES[(hashes[a] ^ hashes[b]).view(np.uint16)].reshape(-1, 4).sum(axis=1)
            close = ones <= bits
            found.append(np.sort(np.stack([a[close], b[close]], axis=1), axis=1).astype(np.int64))
    return found


def correlations(store: Store, pairs: IntArray) -> npt.NDArray[np.float32]:
    """(P,) Pearson correlation of the grey pixels of each pair; 1 for two flat pictures, 0 for flat and other."""
    out = np.empty(len(pairs), dtype=np.float32)
    chunk = max(1, (1 << 24) // store.info.size**2)
    for start in range(0, len(pairs), chunk):
        rows, inverse = np.unique(pairs[start : start + chunk], return_inverse=True)
        grey = store.images(rows).mean(axis=3, dtype=np.float32).reshape(len(rows), -1)
        grey -= grey.mean(axis=1, keepdims=True)
        norm = np.linalg.norm(grey, axis=1)
        a, b = inverse.reshape(-1, 2).T
        product = np.einsum("ij,ij->i", grey[a], grey[b])
        size = norm[a] * norm[b]
        flat = (norm[a] == 0) & (norm[b] == 0)
        out[start : start + chunk] = np.where(flat, 1.0, product / np.where(size > 0, size, 1.0))
    return out


def near_pairs(store: Store, bits: int = NEAR_BITS, correlation: float = NEAR_CORRELATION) -> IntArray:
    """(P, 2) pairs of different pictures that look alike: hashes within `bits`, pixels correlated at least so much.

    Of identical pictures only the first takes part. The hash alone is too kind to cropped faces, which share their
    coarse layout; the pixels decide. Portraits of one studio share their pixels too: two people who are known are never
    near-duplicates, nor are they through a third picture (`of_one_person`).
    """
    first = np.unique(store.digest, return_index=True)[1]
    pairs = first[close_pairs(store.dhash[first], bits)]
    found = correlations(store, pairs)
    pairs, found = pairs[found >= correlation], found[found >= correlation]
    pairs = of_one_person(np.sort(pairs, axis=1), found, exact_groups(store.digest), store.subject)
    return pairs[np.lexsort(pairs.T[::-1])]


def of_one_person(
    pairs: IntArray, likeness: npt.NDArray[np.float32], groups: IntArray, subjects: npt.NDArray[np.object_]
) -> IntArray:
    """The (P, 2) pairs that can be joined without joining two people who are known.

    Pairs are joined from the likeliest down, (P,) `likeness`; one that would join groups without a common person,
    though both have a known one, is left out. So a picture of nobody known goes to the person whom it resembles most.
    `groups` (N,) are rows that belong together in any case, whoever is on them; `subjects` (N,) str or None.
    """
    people: dict[int, set[str]] = {}
    for row in np.flatnonzero([name is not None for name in subjects]):
        people.setdefault(int(groups[row]), set()).add(subjects[row])
    if not people:
        return pairs
    parent = groups.tolist()

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = row = parent[parent[row]]
        return row

    for one, other in pairs[np.argsort(-likeness, kind="stable")].tolist():
        a, b = root(one), root(other)
        mine, theirs = people.get(a, set()), people.get(b, set())
        if not mine or not theirs or mine & theirs:
            parent[b] = a
            people[a] = mine | theirs
    together = np.array([root(one) == root(other) for one, other in pairs.tolist()], dtype=bool)
    return pairs[together]


def components(count: int, pairs: IntArray) -> IntArray:
    """(N,) connected component of each row under the pairs."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    graph = coo_matrix((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def same_picture_groups(store: Store, near: bool = True) -> IntArray:
    """(N,) group number: identical pictures together, and near-duplicates too when `near`."""
    exact = exact_groups(store.digest)
    links = [np.stack([np.arange(len(store)), exact], axis=1)]
    if near:
        links.append(near_pairs(store))
    return components(len(store), np.concatenate(links))
