"""Which rows train, validate and test: official splits, honest ones, k folds. All of it seeded and repeatable."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mien.data.duplicates import components, exact_groups, same_picture_groups
from mien.data.labels import POLARITY, labels_of, own_polarity, published_order
from mien.data.store import Store
from mien.errors import DataError, UsageError
from mien.schema import IntArray

Labels = npt.NDArray[Any]
PUBLISHED_K, PUBLISHED_SEED = 5, 2020
"""Folds of Luna-Jimenez et al. 2021."""


class Split(NamedTuple):
    """Row numbers of a store, sorted; the three do not overlap (under protocol `paper` valid is test)."""

    train: IntArray
    valid: IntArray
    test: IntArray
    report: dict[str, Any]
    """How the rows came here and what was left out: counts, for run folders and reports."""

    def sizes(self) -> dict[str, int]:
        """Faces in each part."""
        return {"train": len(self.train), "valid": len(self.valid), "test": len(self.test)}


def official(store: Store) -> Split:
    """The splits that the dataset came with, untouched; `valid` is empty where the dataset has none."""
    parts = {name: np.flatnonzero(store.split == name) for name in ("train", "valid", "test")}
    return _split("official", store, parts["train"], parts["valid"], parts["test"], {})


def strict(store: Store, seed: int = 0, fraction: float = 0.1, near: bool = True) -> Split:
    """Official test; validation carved out of train by whole subjects and whole duplicate groups; no leaks.

    An official validation split is kept, otherwise about `fraction` of train becomes one: groups (subject where known,
    identical and, with `near`, near-duplicate pictures) stay whole, classes keep their shares. Rows of train whose picture
    is also a test or official validation picture, and rows of validation whose picture is a test one, are left out
    and counted. Subjects that the dataset itself has on both sides stay and are reported. DataError when train is
    empty or is one single group.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"validation fraction {fraction} must lie between 0 and 1.")
    train, valid, test, _ = official(store)
    pictures = same_picture_groups(store, near)
    held = np.concatenate([test, valid])
    kept = train[~np.isin(pictures[train], pictures[held])]
    if not len(kept):
        raise DataError(f"'{store.path}' has no training rows outside its test pictures: a strict split needs some.")
    notes = {
        "identical_dropped_from_train": int(np.isin(store.digest[train], store.digest[held]).sum()),
        "dropped_from_train": len(train) - len(kept),
        "dropped_from_valid": int(np.isin(pictures[valid], pictures[test]).sum()),
    }
    if len(valid):
        fresh = valid[~np.isin(pictures[valid], pictures[test])]
        return _split("strict", store, kept, fresh, test, {"validation": "official", **notes})
    rest, fresh = carve(kept, _labels(store), _join_subjects(store, pictures), seed, fraction)
    carved = {"validation": f"carved, seed {seed}, fraction {fraction:g}", **notes}
    return _split("strict", store, rest, fresh, test, carved)


def k_folds(
    store: Store,
    k: int = 5,
    seed: int = 0,
    grouped: bool = True,
    scheme: str = "basic-8",
    fraction: float = 0.0,
    near: bool = True,
) -> list[Split]:
    """K splits whose test parts together are all rows with a label in `scheme`, the official splits pooled.

    `grouped` keeps subjects and duplicate groups whole (scikit-learn's StratifiedGroupKFold); without it the published
    habit of plain StratifiedKFold on shuffled rows (Luna-Jimenez et al. 2021: k 5, seed 2020, scheme polarity-3).
    A `fraction` above 0 carves a validation part out of each fold's train part, in whole groups when `grouped`.
    """
    labels = labels_of(store, scheme)
    groups = row_groups(store, near) if grouped else np.arange(len(store))
    tests = _deal(labels, groups, seed, k) if grouped else published_folds(store, seed, k, scheme)
    rows = np.concatenate(tests)
    splits = []
    for fold, test in enumerate(tests):
        train, valid = np.setdiff1d(rows, test), np.empty(0, dtype=np.int64)
        if fraction > 0:
            train, valid = carve(train, labels, groups, seed, fraction)
        notes = {"fold": fold, "k": k, "seed": seed, "grouped": grouped, "left_out_of_scheme": len(store) - len(rows)}
        splits.append(_split("k-folds", store, train, valid, test, notes))
    return splits


def published_folds(
    store: Store, seed: int = PUBLISHED_SEED, k: int = PUBLISHED_K, scheme: str = POLARITY
) -> list[IntArray]:
    """Test rows of each of k plain stratified folds, each sorted: the folds of Luna-Jimenez et al. 2021 as they stand.

    A store that was prepared with a fold file, or of a dataset with folds of its own, has each row's fold in the attribute `fold`,
    which is taken as it is, whatever the seed; UsageError where there is another number of folds. Otherwise the folds are drawn
    anew, which gives theirs exactly when the store holds all rows of the dataset in its own order: scikit-learn deals by place, so
    one picture fewer (not a face, unreadable) moves the others. Rows with a polarity from valence are dealt in the published order,
    Positive, Neutral, Negative. Neither subjects nor duplicates are kept together; see `grouped_folds`.
    """
    labels = labels_of(store, scheme)
    rows = np.flatnonzero(labels >= 0)
    listed = own_folds(store)[rows]
    if (listed >= 0).any():
        listed_numbers = sorted(set(listed[listed >= 0].tolist()))
        if len(listed_numbers) != k:
            raise UsageError(f"{store.path} was prepared with {len(listed_numbers)} folds, not {k}; ask for that many.")
        return [rows[listed == fold] for fold in listed_numbers]
    if scheme == POLARITY and own_polarity(store):
        rows = published_order(labels, rows)
    numbers = fold_numbers(labels[rows], k, seed)
    return [np.sort(rows[numbers == fold]) for fold in range(k)]


def own_folds(store: Store) -> IntArray:
    """(N,) the number of the fold that a dataset itself, or a fold file, puts a face in; -1 without one."""
    found = [values.get("fold") for values in store.attributes]
    return np.array([int(n) if isinstance(n, int | float) and n >= 0 and n == int(n) else -1 for n in found], np.int64)


def grouped_folds(
    store: Store, seed: int = PUBLISHED_SEED, k: int = PUBLISHED_K, scheme: str = POLARITY, near: bool = True
) -> list[IntArray]:
    """Test rows of each of k stratified folds, each sorted, that keep subjects and duplicate groups whole.

    The strict alternative to `published_folds`: identical and, with `near`, near-duplicate pictures are in one fold.
    """
    return _deal(labels_of(store, scheme), row_groups(store, near), seed, k)


def _deal(labels: Labels, groups: IntArray, seed: int, k: int) -> list[IntArray]:
    """Test rows of k folds of whole groups; labels of -1 are left out."""
    rows = np.flatnonzero(labels >= 0)
    numbers = fold_numbers(labels[rows], k, seed, groups[rows])
    return [rows[numbers == fold] for fold in range(k)]


def fold_numbers(labels: Labels, k: int, seed: int, groups: IntArray | None = None) -> IntArray:
    """(N,) test fold 0 .. k - 1 of each row, stratified by label; whole groups when given."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    counts = np.unique(labels, return_counts=True)[1]
    if k < 2 or len(labels) < k or (groups is not None and len(np.unique(groups)) < k):
        units = len(labels) if groups is None else len(np.unique(groups))
        raise UsageError(f"{k} folds are not possible with {units} {'rows' if groups is None else 'groups'}.")
    if groups is None and counts.max(initial=0) < k:
        raise UsageError(f"{k} folds are not possible: no class has {k} rows (largest: {counts.max()}).")
    folds = np.empty(len(labels), dtype=np.int64)
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class rarer than k: allowed, it misses in some folds
        parts = kind(n_splits=k, shuffle=True, random_state=seed).split(np.zeros(len(labels)), labels, groups)
        for fold, (_, test) in enumerate(parts):
            folds[test] = fold
    return folds


def carve(rows: IntArray, labels: Labels, groups: IntArray, seed: int, fraction: float) -> tuple[IntArray, IntArray]:
    """Part rows into (rest, about `fraction` of them): whole groups, drawn class by class (a group's commonest label).

    `labels` and `groups` are per store row. At least one group goes to each side; DataError when there is only one.
    """
    _, group = np.unique(groups[rows], return_inverse=True)
    kinds, label = np.unique(labels[rows], return_inverse=True)
    count = int(group.max()) + 1 if len(rows) else 0
    if count < 2:
        raise DataError(
            f"no validation part can be carved out of {len(rows)} rows in {count} group(s): give one, or more data."
        )
    votes = np.zeros((count, len(kinds)), dtype=np.int64)
    np.add.at(votes, (group, label), 1)
    size, main = votes.sum(axis=1), votes.argmax(axis=1)
    order = np.random.default_rng(seed).permutation(count)
    taken = np.zeros(count, dtype=bool)
    for kind in range(len(kinds)):
        mine = order[main[order] == kind]
        taken[mine[np.cumsum(size[mine]) <= round(fraction * size[mine].sum())]] = True
    if not taken.any():  # few large groups: the smallest one is nearest to what was asked
        taken[order[size[order].argmin()]] = True
    chosen = taken[group]
    return rows[~chosen], rows[chosen]


def row_groups(store: Store, near: bool = True) -> IntArray:
    """(N,) group of each row: rows of one subject, identical pictures and (with `near`) near-duplicates are together."""
    return _join_subjects(store, same_picture_groups(store, near))


def _join_subjects(store: Store, pictures: IntArray) -> IntArray:
    known = np.array([name is not None for name in store.subject], dtype=bool)
    if not known.any():
        return pictures
    names = exact_groups(np.array([str(name) for name in store.subject[known]]))
    rows = np.flatnonzero(known)
    links = np.concatenate(
        [
            np.stack([rows, rows[names]], axis=1),
            np.stack([np.arange(len(store)), np.unique(pictures, return_index=True)[1][pictures]], axis=1),
        ]
    )
    return components(len(store), links)


def _labels(store: Store) -> Labels:
    return np.array([name or "" for name in store.expression])


def _split(
    protocol: str, store: Store, train: IntArray, valid: IntArray, test: IntArray, notes: dict[str, Any]
) -> Split:
    """Sorted rows with a report of sizes and of the leaks that remain."""
    parts = {"train": np.sort(train), "valid": np.sort(valid), "test": np.sort(test)}
    seen = set(store.subject[np.concatenate([parts["train"], parts["valid"]])]) - {None}
    report = {
        "protocol": protocol,
        **{name: len(rows) for name, rows in parts.items()},
        **notes,
        "test_pictures_also_in_train": int(np.isin(store.digest[parts["test"]], store.digest[parts["train"]]).sum()),
        "test_subjects_also_in_train": len(seen & set(store.subject[parts["test"]])),
    }
    return Split(parts["train"], parts["valid"], parts["test"], report)
