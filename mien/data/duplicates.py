"""Identical and near-duplicate pictures, found without comparing all pairs."""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.data.cluster import ordered_map
from mien.data.near import copies, small_pictures
from mien.data.store import Store
from mien.errors import DataError
from mien.files import read_npz, write_npz
from mien.schema import ByteArray, IntArray

NEAR_BITS = 8
NEAR_CORRELATION = 0.8
"""On FER-2013 likeness has two hills with a valley from 0.7 to 0.75, other people below and copies above (docs/near-duplicates.md)."""
KEPT = "near-duplicates.npz"
"""In the store's folder: pairs that were found, so that they are looked for once."""
PICTURES = 4096
"""That a worker of a cluster decodes at a time."""
SEARCH = 4
"""Version of the search; a file of another one is not used."""


def exact_groups(digest: npt.NDArray[Any]) -> IntArray:
    """(N,) group number, equal where the digest is; numbered by first appearance."""
    _, first, inverse = np.unique(digest, return_index=True, return_inverse=True)
    return first[inverse].astype(np.int64)


def near_pairs(
    store: Store, bits: int = NEAR_BITS, correlation: float = NEAR_CORRELATION, cluster: str | None = None
) -> IntArray:
    """(P, 2) pairs of different pictures that are copies of each other, also mirrored, turned and cropped ones (mien.data.near).

    Of identical pictures only the first takes part. Two people who are known are never near-duplicates, nor are they
    through a third picture (`of_one_person`). What was found is kept in the store's folder and read from there, as long as
    the store and the limits are the same. The workers of a `cluster` (`mien.data.cluster`) decode and shrink the pictures.
    """
    first = np.sort(np.unique(store.digest, return_index=True)[1]).astype(np.int64)
    key = f"{SEARCH} {store.info.fingerprint} {bits} {correlation:g}"
    found = _read_kept(store.path / KEPT, key)
    if found is None:
        pairs, likeness = copies(_small_pictures(store, first, cluster), bits, correlation)
        found = first[pairs], likeness
        with contextlib.suppress(OSError):  # a folder that one may not write into: looked for again next time
            write_npz(store.path / KEPT, {"key": np.array(key), "pairs": found[0], "likeness": found[1]})
    pairs = of_one_person(np.sort(found[0], axis=1), found[1], exact_groups(store.digest), store.subject)
    return pairs[np.lexsort(pairs.T[::-1])]


def _small_pictures(store: Store, rows: IntArray, cluster: str | None) -> ByteArray:
    """`small_pictures`, by the workers of a cluster where one is named."""
    if cluster is None or not len(rows):
        return small_pictures(store, rows)
    groups = np.array_split(rows, -(-len(rows) // PICTURES))
    return np.concatenate(list(ordered_map(partial(small_pictures, store), groups, chunk=1, cluster=cluster)))


def _read_kept(path: Path, key: str) -> tuple[IntArray, npt.NDArray[np.float32]] | None:
    """Pairs and likeness of a file that answers the same question; None of none, of another one and of a damaged one."""
    try:
        kept = read_npz(path, "it is looked for again")
        if str(kept["key"]) != key:
            return None
        return kept["pairs"].astype(np.int64), kept["likeness"].astype(np.float32)
    except (DataError, KeyError, TypeError, ValueError):
        return None


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
