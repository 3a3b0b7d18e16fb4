"""Subject-exclusive splits for action units: the published lists of DISFA and BP4D, own ones, and the check for leaks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mien.data.folds import Split, carve, official
from mien.data.store import Store
from mien.errors import DataError, UsageError
from mien.schema import IntArray

DISFA_UNITS = ("AU1", "AU2", "AU4", "AU5", "AU6", "AU9", "AU12", "AU15", "AU17", "AU20", "AU25", "AU26")
"""Every unit that DISFA is coded for, in the order of AUDetNet's vectors."""
DISFA_PAPER_UNITS = ("AU1", "AU2", "AU4", "AU6", "AU9", "AU12", "AU25", "AU26")
"""The eight that papers report."""
BP4D_UNITS = ("AU1", "AU2", "AU4", "AU6", "AU7", "AU10", "AU12", "AU14", "AU15", "AU17", "AU23", "AU24")
"""The twelve that papers report."""


class SubjectLists(NamedTuple):
    """How a dataset names its subjects, and its published test parts."""

    pattern: str
    """Regular expression of a whole subject name."""
    units: tuple[str, ...]
    """Order of the columns in AUDetNet's label files."""
    parts: dict[str, tuple[tuple[str, ...], ...]]
    """Name of a protocol -> subjects of its test parts; together they are all subjects."""


def _subjects(*ranges: str) -> tuple[str, ...]:
    """("F001-F003", "M002") -> F001, F002, F003, M002."""
    names = []
    for text in ranges:
        first, _, last = text.partition("-")
        letters, low = re.sub(r"\d", "", first), int(first[-3:])
        names += [f"{letters}{number:03d}" for number in range(low, int((last or first)[-3:]) + 1)]
    return tuple(names)


SUBJECT_LISTS: dict[str, SubjectLists] = {
    "disfa": SubjectLists(
        r"SN\d{3}",
        DISFA_UNITS,
        {
            "literature": (
                ("SN002", "SN010", "SN001", "SN026", "SN027", "SN032", "SN030", "SN009", "SN016"),
                ("SN013", "SN018", "SN011", "SN028", "SN012", "SN006", "SN031", "SN021", "SN024"),
                ("SN003", "SN029", "SN023", "SN025", "SN008", "SN005", "SN007", "SN017", "SN004"),
            )
        },
    ),
    "bp4d": SubjectLists(
        r"[FM]\d{3}",
        BP4D_UNITS,
        {
            "literature": (
                ("F001", "M007", "F018", "F008", "F002", "M004", "F010", "F009", "M012", "M001", "F016", "M014", "F023",
                 "M008"),
                ("M011", "F003", "M010", "M002", "F005", "F022", "M018", "M017", "F013", "M016", "F020", "F011", "M013",
                 "M005"),
                ("F007", "F015", "F006", "F019", "M006", "M009", "F012", "M003", "F004", "F021", "F017", "M015", "F014"),
            ),
            "published": (
                _subjects("F017-F023", "M013-M018"),
                _subjects("F009-F016", "M007-M012"),
                _subjects("F001-F008", "M001-M006"),
            ),
        },
    ),
}  # fmt: skip
"""Dataset -> its lists. literature: the three parts of papers since DRML (Zhao et al. 2016) and JAA-Net (Shao et al. 2018),
as ME-GraphAU (Luo et al. 2022, arXiv 2205.01782) prints them. published: those of AUDetNet."""


def dataset_of(subjects: Iterable[str]) -> str | None:
    """Key of SUBJECT_LISTS whose way of naming subjects fits all of these; None where none does."""
    names = list(subjects)
    for dataset, lists in SUBJECT_LISTS.items():
        if names and all(re.fullmatch(lists.pattern, name) for name in names):
            return dataset
    return None


def subject_of(name: str) -> str | None:
    """Subject of a frame id such as SN003_110 or F010_T3_113: what stands before the first underscore."""
    before, sign, _ = name.partition("_")
    return before if sign and before else None


def subjects_of_fold(dataset: str | None, fold: str) -> frozenset[str]:
    """Subjects of the test part of a fold such as literature-1; UsageError for a fold that the dataset does not have."""
    lists = SUBJECT_LISTS[dataset].parts if dataset is not None else {}
    valid = [f"{name}-{k}" for name, parts in lists.items() for k in range(1, len(parts) + 1)]
    if fold not in valid:
        known = f"Valid: {', '.join(valid)}." if valid else "Its subjects are named neither as in DISFA nor as in BP4D."
        raise UsageError(f"there is no fold '{fold}' for this dataset. {known}")
    name, _, number = fold.rpartition("-")
    return frozenset(lists[name][int(number) - 1])


NO_FOLD = "none"
"""Every subject is `train`: for sets with people outside the published lists, such as BP4D+ and DISFA+."""


def split_of_subject(dataset: str, fold: str, subject: str) -> str:
    """`test` for subjects of the fold's test part, `train` for others and for fold "none"; DataError for one in no list."""
    if fold == NO_FOLD:
        return "train"
    test = subjects_of_fold(dataset, fold)
    if not any(subject in part for part in SUBJECT_LISTS[dataset].parts[fold.rpartition("-")[0]]):
        raise DataError(
            f"subject '{subject}' is in no list of the folds '{fold[:-2]}' of {dataset}: add --fold none, and split by subjects "
            "when training (subjects-1of5)."
        )
    return "test" if subject in test else "train"


def refuse_leaks(train: Iterable[str | None], test: Iterable[str | None], where: str, remedy: str) -> None:
    """DataError with numbers and the remedy when a known subject is on both sides."""
    shared = sorted({*train} & {*test} - {None}, key=str)
    if shared:
        first = ", ".join(map(str, shared[:3])) + (", ..." if len(shared) > 3 else "")
        raise DataError(
            f"{where}: {len(shared)} subjects train and test ({first}), so the test rewards knowing the person. {remedy}"
        )


def unit_split(
    store: Store, fold: str | None = None, *, seed: int = 0, fraction: float = 0.1, subject_leak: bool = False
) -> Split:
    """Rows of a store that train, validate and test action units; no subject on two sides.

    Args:
        store: prepared store with subjects.
        fold: None takes the store's own splits; `literature-1` ... and `published-1` ... the lists of SUBJECT_LISTS;
            `subjects-1of5` the first of five seeded parts of the subjects.
        seed: of the parts of `subjects-1of5` and of the validation part.
        fraction: share of the training rows that becomes the validation part, in whole subjects; 0 for none. A store's own
            validation split is kept.
        subject_leak: allow subjects of the store's own splits on both sides, as in AUDetNet's split of DISFA.

    Raises:
        UsageError: a fold that there is not. DataError: a subject on both sides, or none known where a fold needs them.

    """
    names = store.subject
    known = sorted({name for name in names if name is not None})
    rows = np.array([name is not None for name in names], dtype=bool)
    if fold is None:
        train, valid, test, _ = official(store)
    else:
        if not known:
            raise DataError(f"'{store.path}' knows no subjects, so '{fold}' is not possible.")
        chosen = _chosen(known, fold, seed)
        inside = np.isin(names, list(chosen))
        train, valid, test = np.flatnonzero(rows & ~inside), np.empty(0, dtype=np.int64), np.flatnonzero(inside)
    if not subject_leak:
        remedy = "Name a subject-exclusive fold, e.g. subjects-1of3, or allow it."
        refuse_leaks(names[train], names[[*test, *valid]], str(store.path), remedy)
    if not len(valid) and fraction > 0:
        train, valid = carve(train, np.zeros(len(store), dtype=np.int64), subject_numbers(names), seed, fraction)
    both = set(names[[*train, *valid]]) & set(names[test]) - {None}
    report: dict[str, Any] = {
        "fold": fold or "official",
        "subjects": len(known),
        "test_subjects_also_in_train": len(both),
    }
    report |= {"train": len(train), "valid": len(valid), "test": len(test)}
    return Split(np.sort(train), np.sort(valid), np.sort(test), report)


def subject_numbers(names: Sequence[str | None] | npt.NDArray[Any]) -> IntArray:
    """(N,) number of each row's subject; a row without a subject is one of its own."""
    words = np.array([f"s{name}" if name is not None else f"r{row}" for row, name in enumerate(names)])
    return np.unique(words, return_inverse=True)[1].astype(np.int64)


def _chosen(known: Sequence[str], fold: str, seed: int) -> frozenset[str]:
    found = re.fullmatch(r"subjects-(\d+)of(\d+)", fold)
    if found is None:
        return subjects_of_fold(dataset_of(known), fold)
    part, count = int(found[1]), int(found[2])
    if not 1 <= part <= count or not 2 <= count <= len(known):
        raise UsageError(
            f"fold '{fold}' is not possible with {len(known)} subjects: 2 to {len(known)} parts, from 1 on."
        )
    order = np.random.default_rng(seed).permutation(len(known))
    return frozenset(known[k] for k in order[part - 1 :: count])
