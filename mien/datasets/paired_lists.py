"""Lists in two files, as JAA-Net's are: the paths of pictures in one, as many lines of labels in the other.

``BP4D_train1_path.txt`` belongs to ``BP4D_train1_AUoccur.txt``, ``images.txt`` to ``labels.txt``: files of one folder whose names
differ in the words for what is in them alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from mien.data.au_folds import BP4D_UNITS, DISFA_PAPER_UNITS, DISFA_UNITS
from mien.datasets.spread import Row
from mien.datasets.words import split_of_name
from mien.errors import DataError, UsageError
from mien.faces.text_table import is_picture_name, text_encoding
from mien.files import listing

PATHS = {"path", "paths", "img", "imgs", "image", "images", "file", "files", "filenames", "name", "names", "pictures"}
LABELS = {
    "label", "labels", "auoccur", "au", "aus", "auint", "occur", "gt", "target", "targets", "emotion", "emotions", "expression",
    "expressions", "y", "class", "classes",
}  # fmt: skip
LIST = {"list", "lists"}
UNITS = {("bp4d", 12): BP4D_UNITS, ("disfa", 12): DISFA_UNITS, ("disfa", 8): DISFA_PAPER_UNITS}
"""Word of a file's name and numbers a line -> units, in the order of the papers."""
SUFFIXES = (".txt", ".lst", ".list")


def _words(path: Path) -> list[str]:
    return [word for word in re.split(r"[\W_]+", path.stem.lower()) if word]


def _key(path: Path) -> tuple[str, ...]:
    return tuple(word for word in _words(path) if word not in PATHS | LABELS | LIST)


def _lines(path: Path) -> list[str]:
    with open(path, encoding=text_encoding(path), errors="replace") as file:
        return [line.strip() for line in file if line.strip()]


def _has_paths(path: Path) -> bool:
    lines = _lines(path)[:50] if path.suffix.lower() in SUFFIXES else []
    return bool(lines) and all(map(is_picture_name, lines))


def partner_of(path: Path) -> Path | None:
    """The file with the labels of a list of paths; None without one, and for other files. DataError where the lines differ."""
    if not _has_paths(path):
        return None
    others = [other for other in listing(path.parent) if other.suffix.lower() in SUFFIXES and other != path]
    found = [other for other in others if LABELS & {*_words(other)} and _key(other) == _key(path)]
    if len(found) != 1:
        return None
    counts = len(_lines(path)), len(_lines(found[0]))
    if counts[0] != counts[1]:
        raise DataError(f"'{path}' has {counts[0]} pictures and '{found[0]}' {counts[1]} lines: they need as many.")
    return found[0]


def find_pairs(files: Sequence[Path]) -> list[tuple[Path, Path]]:
    """(paths, labels) of the lists that belong together."""
    pairs = ((path, partner_of(path)) for path in files if path.suffix.lower() in SUFFIXES)
    return [(path, labels) for path, labels in pairs if labels is not None]


def label_column(labels: Path) -> str:
    """Name of the column with the labels: `label`, or the units that its numbers are, or `aus` where nothing says which."""
    first = re.split(r"[\s,;]+", next(iter(_lines(labels)), ""))
    words = _words(labels)
    units = next((u for (name, count), u in UNITS.items() if len(first) == count and name in words), None)
    if units is not None:
        return ",".join(units)
    return "aus" if len(first) > 1 and {"au", "aus", "auoccur", "auint"} & {*words} else "label"


def paired_rows(paths: Path, labels: Path, names: Sequence[str]) -> Iterator[Row]:
    """A row for each line of the two files."""
    for pair in zip_longest(_lines(paths), _lines(labels)):
        yield dict(zip(names, pair, strict=True))


NUMBER = re.compile(r"(?<![a-z])(?:folds?[ _.-]*|(?:train|test|val|valid)(?=\d\b|\d_))0*(\d{1,2})(?!\d)", re.IGNORECASE)
"""The number of a fold in a name: fold1_train, BP4D_train1_path."""


def refuse_several_folds(files: Sequence[Path], root: Path) -> None:
    """UsageError for lists of several folds (fold1_train.csv, fold2_test.csv): a face is train in one, test in another."""
    numbers: dict[str, list[str]] = {}
    splits = {path: split_of_name(path.stem) or split_of_name(path.parent.name) for path in files}
    for path, split in splits.items():
        found = NUMBER.search(path.relative_to(root).as_posix().replace("_", " "))
        if found and split is not None:
            numbers.setdefault(found[1], []).append(path.relative_to(root).as_posix())
    if len(numbers) > 1 and len({*splits.values()} - {None}) > 1:
        one = min(numbers.values())
        raise UsageError(
            f"'{root}' holds lists of {len(numbers)} folds, and a face is train in one and test in another: put those of one fold "
            f"({', '.join(one[:3])}) into a folder of their own and give that, with --pictures '{root}'."
        )
