"""Whole clusters drawn with replacement: the one resampling behind every interval and every paired test.

A cluster is a person, or a picture where nobody is known. Equal numbers of clusters, draws and seed give the same draws, so
that the interval of a score and the test of a difference rest on the same samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.errors import DataError

Array = npt.NDArray[np.float64]
Counts = npt.NDArray[np.unsignedinteger[Any]]
_CHUNK = 100_000  # drawn clusters held at once
_KEPT = 16_000_000  # drawn clusters that are kept for the next score of the same faces, a byte each
MIN_DRAWS = 400
"""Draws of very many clusters: their error is then known to 4 %."""


def people(subjects: npt.ArrayLike) -> npt.NDArray[np.int64] | None:
    """(N,) cluster of each face from names of subjects; None where no name is known.

    An empty name is an unknown person, who is a cluster of one face.
    """
    names = np.asarray(subjects).astype(str)
    if names.ndim != 1:
        raise DataError(f"subjects have shape {names.shape}; expected a name a face, (N,).")
    if not (names != "").any():
        return None
    known, index = np.unique(names, return_inverse=True)
    alone = names == ""
    index = index.astype(np.int64)
    index[alone] = len(known) + np.arange(int(alone.sum()))
    return np.unique(index, return_inverse=True)[1].astype(np.int64)


def clusters_of(n: int, groups: npt.ArrayLike | None) -> tuple[npt.NDArray[np.int64], bool]:
    """(N,) cluster of each value from 0 on, and whether they are groups; DataError where groups do not fit.

    One group alone cannot be resampled: then each value is its own cluster, and the second answer is False.
    """
    if groups is None:
        return np.arange(n), False
    names = np.asarray(groups)
    if names.shape != (n,):
        raise DataError(f"groups have shape {names.shape}, scores ({n},); expected one group a score.")
    known, index = np.unique(names, return_inverse=True)
    if len(known) < 2 or len(known) == n:
        return np.arange(n), False
    return index.astype(np.int64), True


def person_blocks(groups: npt.ArrayLike | None, n: int, most: int | None = None) -> npt.NDArray[np.int64]:
    """(G, m) rows: m faces, in order, of each of G people, so that whole people can be exchanged for each other.

    m is the median of their numbers of faces, so at least half of the people stay; of those with more, m evenly spaced faces are
    taken. At most `most` rows: fewer faces of each, then fewer people. Without groups every face is a block of its own.
    """
    if groups is None:
        return np.arange(n)[:most, None]
    index = np.unique(np.asarray(groups), return_inverse=True)[1]
    counts = np.bincount(index)
    each = int(np.sort(counts)[(len(counts) - 1) // 2])
    chosen = np.flatnonzero(counts >= each)
    if most is not None:
        each = max(1, min(each, most // len(chosen)))
        chosen = np.flatnonzero(counts >= each)[:most]
    rows = (np.flatnonzero(index == person) for person in chosen)
    return np.stack([own[np.arange(each) * len(own) // each] for own in rows])


def cluster_totals(columns: Array, clusters: npt.NDArray[np.int64]) -> Array:
    """Sums of the columns (N, C) over each cluster, (G, C)."""
    count = int(clusters.max()) + 1
    if count == len(clusters) and (clusters == np.arange(count)).all():
        return columns
    return np.stack([np.bincount(clusters, weights=column, minlength=count) for column in columns.T], axis=1)


def class_totals(values: Array, index: npt.NDArray[np.int64], classes: int, clusters: npt.NDArray[np.int64]) -> Array:
    """(G, classes) sums of values (N,) over each cluster and class, `index` (N,) from 0 on."""
    count = int(clusters.max()) + 1
    sums = np.bincount(clusters * classes + index, weights=values, minlength=count * classes)
    return sums.astype(np.float64, copy=False).reshape(count, classes)


def resampled(totals: Array, statistic: Callable[[Array], Array], draws: int, seed: int) -> Array:
    """(draws,) statistic of the totals (G, C) of G clusters drawn with replacement; it gets sums (d, C) and gives (d,).

    Where G is above 8,000, fewer draws are made (`drawn_weights`).
    """
    return np.concatenate([statistic(weights @ totals) for weights in drawn_weights(len(totals), draws, seed)])


def effective_clusters(shares: Array) -> float:
    """How many equal clusters carry as much as clusters with these shares (G,) of a mean; at least 2.

    (sum w^2)^2 / sum w^4: Satterthwaite's (1946) degrees of freedom of a sum of squares whose terms weigh w^2, plus one for
    the mean. Equal shares give G; one person with half of all faces gives hardly more than one.
    """
    squares = np.square(shares)
    return max(2.0, float(squares.sum() ** 2 / np.square(squares).sum()))


def drawn_weights(clusters: int, draws: int, seed: int) -> Iterator[Array]:
    """How often each cluster is drawn, (d, G) a time; fewer draws, though at least MIN_DRAWS, where clusters are many."""
    draws = min(draws, max(MIN_DRAWS, _KEPT // clusters))
    counts = _kept_counts(clusters, draws, seed) if clusters * draws <= _KEPT else _drawn(clusters, draws, seed)
    for part in counts:
        yield part.astype(np.float64)


@lru_cache(maxsize=2)
def _kept_counts(clusters: int, draws: int, seed: int) -> tuple[Counts, ...]:
    return tuple(_drawn(clusters, draws, seed))


def _drawn(clusters: int, draws: int, seed: int) -> Iterator[Counts]:
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK // clusters)
    for start in range(0, draws, step):
        d = min(step, draws - start)
        rows = rng.integers(clusters, size=(d, clusters)) + clusters * np.arange(d)[:, None]
        counts = np.bincount(rows.ravel(), minlength=d * clusters).reshape(d, clusters)
        yield counts.astype(np.min_scalar_type(counts.max()))  # a byte: no cluster is drawn 256 times
