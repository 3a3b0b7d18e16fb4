"""The dataset folder of AUDetNet: labels of all frames in one file, lists of ids, and ``imgs/<id>.jpg``.

``aus_dict.pkl`` is a pickled dictionary of id -> vector without names; ``aus.csv`` (`id,AU1,AU2,...`) is its safe successor.
``train_ids.csv`` and ``test_ids.csv`` hold one id a line.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mien.data import au_scale as scales
from mien.data.arrow import Skipped
from mien.data.au_folds import SUBJECT_LISTS, dataset_of, refuse_leaks, split_of_subject, subject_of
from mien.data.au_table import read_unit_cells, spread_units, unit_name
from mien.datasets.label_pickle import read_label_pickle
from mien.errors import DataError, UsageError
from mien.files import IMAGE_SUFFIXES, listing
from mien.schema import FloatArray, Record

SPLITS = {"train": "train", "valid": "valid", "test": "test"}


class Labels(NamedTuple):
    """What a label file says."""

    rows: dict[str, FloatArray | str]
    """Id -> (A,) intensities 0-5 over schema.ACTION_UNITS, or the reason why they cannot be used."""
    units: tuple[str, ...]
    scale: str
    """As `au_scale.note` has it."""


def records(
    root: Path,
    *,
    units: str | None = None,
    au_scale: str | None = None,
    fold: str | None = None,
    subject_leak: bool = False,
) -> Iterator[Record | Skipped]:
    """Frames in the order of the lists, id as listed; subject = what stands before the first underscore.

    Args:
        root: the folder, or the label file in it where there are several.
        units: names in the order of a pickled vector, e.g. ``AU1,AU2,AU4``; known for the ids of DISFA and BP4D.
        au_scale: what the numbers are, see `au_scale.read_scale`; decided from all of them by default. Occurrences are kept as 0
            and 5; 9, 999, -1 and NaN are unknown.
        fold: a number takes ``train_ids_2.csv`` and ``test_ids_2.csv``; ``literature-1`` or ``published-1`` puts the listed
            frames into train and test by subject; by default ``train_ids.csv`` and ``test_ids.csv`` as they are.
        subject_leak: read lists that have subjects on both sides.

    An id without a label or with a vector of another length is skipped. DataError when a subject is on both sides.

    """
    folder, labels = find_labels(Path(root)), load_labels(Path(root), units, au_scale)
    listed = read_lists(folder.parent, fold)
    sides = {name: {subject_of(key) for key, split in listed.items() if split == name} for name in SPLITS}
    if not subject_leak:
        remedy = "Give --fold literature-1 for a split by subjects, or --subject-leak to read the lists as they are."
        refuse_leaks(sides["train"], sides["test"] | sides["valid"], f"'{folder.parent}'", remedy)
    pictures = {p.stem: p for p in (folder.parent / "imgs").glob("*") if p.suffix.lower() in IMAGE_SUFFIXES}
    for key, split in listed.items():
        row = labels.rows.get(key, "no label")
        if isinstance(row, str):
            yield Skipped(key, row)
        else:
            picture = pictures.get(key, folder.parent / "imgs" / f"{key}.jpg")
            yield Record(key, picture, split, subject_of(key), action_units=row)


def notes(
    root: Path, *, units: str | None = None, au_scale: str | None = None, fold: str | None = None
) -> dict[str, str]:
    """What the store should remember."""
    labels = load_labels(Path(root), units, au_scale)
    known = {"source": "a dataset folder of AUDetNet", "units": ",".join(labels.units), "au_scale": labels.scale}
    return known | ({} if fold is None else {"fold": fold})


def find_labels(root: Path) -> Path:
    """The label file in, or at, `root`: ``aus.csv``, else the only ``.pkl``."""
    if root.is_file():
        return root
    if not root.is_dir():
        raise DataError(f"folder '{root}' does not exist: give the folder with imgs and train_ids.csv.")
    if (root / "aus.csv").is_file():
        return root / "aus.csv"
    files = [path for path in listing(root) if path.suffix.lower() == ".pkl"]
    if not files:
        raise DataError(f"'{root}' has no label file: neither aus.csv nor a .pkl.")
    if len(files) > 1:
        raise DataError(
            f"'{root}' has {len(files)} label files ({files[0].name}, {files[1].name}): give one as --root."
        )
    return files[0]


def load_labels(root: Path, units: str | None, scale: str | None) -> Labels:
    """Labels of the file in, or at, `root`; see `records`."""
    path = find_labels(root)
    return _load(path, path.stat().st_mtime_ns, units, scale)


@lru_cache(maxsize=1)
def _load(path: Path, _modified: int, units: str | None, scale: str | None) -> Labels:
    vectors: Mapping[str, Sequence[Any]]
    if path.suffix.lower() == ".csv":
        if units is not None:
            raise UsageError(f"--units belongs to pickled labels; the header of '{path}' names the action units.")
        names, vectors = read_unit_cells(path)
    else:
        vectors = {key: value.tolist() for key, value in read_label_pickle(path).items()}
        names = _names(path, vectors, units)
    counts: dict[str, Counter[float | str]] = {name: Counter() for name in names}
    whole = [value for value in vectors.values() if len(value) == len(names)]
    for k, name in enumerate(names):
        scales.count_values((value[k] for value in whole), counts[name])
    kinds = scales.decide(counts, scales.read_scale(scale), f"'{path}'")
    print(scales.told(kinds, counts, scale is not None), file=sys.stderr)
    rows = {key: _row(value, kinds, names) for key, value in vectors.items()}
    return Labels(rows, names, scales.note(kinds))


def _row(cells: Sequence[Any], kinds: dict[str, scales.Scale], names: tuple[str, ...]) -> FloatArray | str:
    if len(cells) != len(names):
        return f"{len(cells)} labels, expected {len(names)}"
    values = [scales.intensity(cell, kinds[name]) for cell, name in zip(cells, names, strict=True)]
    for value, cell, name in zip(values, cells, names, strict=True):
        if value is None:
            return f"{name} is {cell}, a label outside its scale ({kinds[name]})"
    known = scales.beside_marks([float(value) for value in values if value is not None], map(kinds.get, names))  # type: ignore[arg-type]
    return spread_units(names, np.array([known], dtype=np.float32))[0]


def _names(path: Path, vectors: Mapping[str, Sequence[Any]], units: str | None) -> tuple[str, ...]:
    """Names of the columns of pickled vectors: those given, else those of the dataset that the ids belong to."""
    length = Counter(len(value) for value in vectors.values()).most_common(1)[0][0]
    if units is not None:
        names = tuple(unit_name(word) for word in units.split(","))
        if len(names) != length or len(set(names)) < length:
            raise UsageError(f"--units names {len(set(names))} action units, the vectors of '{path}' have {length}.")
        return names
    dataset = dataset_of({subject_of(key) or "" for key in vectors})
    if dataset is None or len(SUBJECT_LISTS[dataset].units) != length:
        raise UsageError(f"'{path}' does not say which {length} action units it holds: name them, --units AU1,AU2,...")
    return SUBJECT_LISTS[dataset].units


def read_lists(folder: Path, fold: str | None) -> dict[str, str]:
    """Id -> split; an id that is listed again keeps its first place, and one line says how many there were."""
    suffix = f"_{fold}" if fold is not None and fold.isdigit() else ""
    files = {name: folder / f"{name}_ids{suffix}.csv" for name in SPLITS}
    if not any(path.is_file() for path in files.values()):
        raise DataError(f"'{folder}' has neither train_ids{suffix}.csv nor test_ids{suffix}.csv.")
    listed: dict[str, str] = {}
    again = 0
    for split, path in files.items():
        if not path.is_file():
            continue
        try:
            words = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"'{path}' cannot be read ({error}).") from error
        for key in filter(None, words):
            if listed.get(key, split) != split:
                raise DataError(f"'{folder}': '{key}' is in the lists of {listed[key]} and {split}.")
            again += key in listed
            listed[key] = split
    if again:
        print(f"{again} ids are listed more than once (oversampled lists) and read once.", file=sys.stderr)
    if fold is None or suffix:
        return listed
    dataset = dataset_of({subject_of(key) or "" for key in listed})
    if dataset is None:
        raise UsageError(f"--fold {fold} needs ids of DISFA (SN003_110) or BP4D (F010_T3_113).")
    return {key: split_of_subject(dataset, fold, str(subject_of(key))) for key in listed}
