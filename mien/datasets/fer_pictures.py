"""FER-2013 as picture files: the layout of the guided spatial transformers, and FER+ as its script writes it.

* ``labels_FER2013.csv`` (emotion;path;in_set) with ``IMAGES/17.png`` for row 17 (Luna-Jimenez et al. 2021).
* ``FER2013Train/fer0000000.png`` ... with a ``label.csv`` of ten votes a picture (Barsoum et al. 2016), or ``fer2013new.csv`` and the
  pictures that it names, without the official CSV.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mien.data.arrow import Skipped
from mien.datasets.picture_paths import find_base
from mien.datasets.words import find_split
from mien.errors import DataError
from mien.faces.text_table import open_table
from mien.files import IMAGE_SUFFIXES, walk
from mien.schema import EXPRESSIONS, FloatArray, Record

LABELS = ("Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise", "Neutral")
"""The order of the integers in the official file."""
FER_PLUS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF")
"""Order of FER+'s votes; NF = not a face."""
VOTE_ORDER = [[column.capitalize() for column in FER_PLUS[:8]].index(name) for name in EXPRESSIONS]


def usage_splits(private: bool) -> dict[str, str]:
    """Usage -> split: PublicTest serves as test where PrivateTest is kept back."""
    return {"Training": "train", "PublicTest": "valid" if private else "test", "PrivateTest": "test"}


def shares_of(votes: FloatArray) -> FloatArray | None:
    """(8,) shares over EXPRESSIONS of ten FER+ votes, without "unknown" and "not a face"; None where nothing is left."""
    total = votes[:8].sum()
    return (votes[:8][VOTE_ORDER] / total).astype(np.float32) if total > 0 else None


def not_a_face(votes: FloatArray) -> str | None:
    """Reason to leave a row out where most annotators call it not a face."""
    return f"not a face ({votes[9]:.0f} of {votes.sum():.0f} FER+ votes)" if 2 * votes[9] > votes.sum() else None


def first_of(votes: FloatArray) -> str | None:
    """The expression with the most of ten votes; None where "unknown" or "not a face" has most, or two have as many."""
    best = np.flatnonzero(votes == votes.max())
    return FER_PLUS[int(best[0])].capitalize() if len(best) == 1 and best[0] < 8 else None


# --- the guided spatial transformers -------------------------------------------------------------------------------


def find_list(root: Path) -> Path | None:
    """``labels_FER2013.csv`` at, in or below `root`; not one of its fold files."""
    files = [root] if root.is_file() else [*root.glob("labels_FER2013*.csv"), *root.glob("*/labels_FER2013*.csv")]
    found = [path for path in files if path.name.startswith("labels_FER2013") and "FOLD" not in path.name.upper()]
    return sorted(found)[0] if found else None


def from_list(path: Path, root: Path, ballots: Sequence[FloatArray] | None = None) -> Iterator[Record | Skipped]:
    """Rows of ``labels_FER2013.csv``, id ``row-00017`` for ``17.png``."""
    table = open_table(path, header=True)
    header = [name.lower() for name in table.header or ()]
    missing = [name for name in ("emotion", "path", "in_set") if name not in header]
    if missing:
        raise DataError(f"'{path}' has no column '{missing[0]}': expected emotion;path;in_set.")
    rows = [
        [row[header.index(name)] for name in ("emotion", "path", "in_set")]
        for _, row in table.body()
        if len(row) >= len(header)
    ]
    splits = usage_splits(any(row[2] == "PrivateTest" for row in rows))
    pictures = find_base(
        [row[1] for row in rows[:500]], path.parent, root if root.is_dir() else path.parent, None, path
    )
    for k, (code, name, usage) in enumerate(rows):
        number = re.fullmatch(r"\D*(\d+)", Path(name).stem)
        row = int(number[1]) if number else k
        key = f"row-{row:05d}"
        if usage not in splits:
            yield Skipped(key, f"unknown Usage '{usage}' (Training, PublicTest, PrivateTest)")
        elif not code.isdigit() or int(code) >= len(LABELS):
            yield Skipped(key, f"emotion '{code}' is no integer from 0 to 6")
        else:
            votes = ballots[row] if ballots is not None and row < len(ballots) else None
            if votes is not None and (why := not_a_face(votes)) is not None:
                yield Skipped(key, why)
                continue
            yield Record(
                key, pictures.find(name), splits[usage], expression=LABELS[int(code)],
                votes=None if votes is None else shares_of(votes), attributes={"usage": usage},
            )  # fmt: skip


# --- FER+ ----------------------------------------------------------------------------------------------------------


def find_vote_folders(root: Path) -> list[tuple[str, Path, Path]]:
    """(split, label.csv, folder of pictures) of ``FER2013Train``, ``FER2013Valid``, ``FER2013Test``, at or below `root`.

    The pictures lie beside ``label.csv``, or in a folder of that name elsewhere (``Labels/FER2013Train``, ``Images/FER2013Train``).
    """
    lists = (
        [*root.glob("*/label.csv"), *root.glob("*/*/label.csv"), *root.glob("*/*/*/label.csv")] if root.is_dir() else []
    )
    found = []
    for path in lists:
        split, name = find_split(path.parent.name), path.parent.name
        beside = [path.parent, *sorted(path.parent.parent.parent.glob(f"*/{name}"))]
        place = next((folder for folder in beside if any(folder.glob("*.png"))), None)
        if split is not None and place is not None:
            found.append((split, path, place))
    return sorted(found, key=lambda each: ("train", "valid", "test").index(each[0]))


def from_vote_folders(folders: Sequence[tuple[str, Path, Path]]) -> Iterator[Record | Skipped]:
    """Pictures of each folder's ``label.csv``: name, box, ten votes; the expression is the annotators' first choice."""
    for split, path, folder in folders:
        for line, row in open_table(path, header=False).rows():
            key = f"{folder.name}/{row[0]}"
            votes = ballot(row[2:12])
            if votes is None:
                if line > 1:  # a header
                    yield Skipped(key, "ten votes are expected behind name and box")
                continue
            yield _voted(key, folder / row[0], split, votes)


def from_vote_table(path: Path, root: Path) -> Iterator[Record | Skipped]:
    """Rows of ``fer2013new.csv`` with the pictures that its column "Image name" names, found anywhere below `root`."""
    table = open_table(path, header=True)
    header = list(table.header or ())
    if not {"Usage", "Image name", *FER_PLUS} <= set(header):
        raise DataError(f"'{path}' lacks columns of FER+'s fer2013new.csv (Usage, Image name, neutral, ... NF).")
    where = [header.index(name) for name in FER_PLUS]
    files = {picture.name: picture for picture in walk(root) if picture.suffix.lower() in IMAGE_SUFFIXES}
    rows = [row for _, row in table.body()]
    usage_at, name_at = header.index("Usage"), header.index("Image name")
    splits = usage_splits(any(row[usage_at] == "PrivateTest" for row in rows))
    for k, row in enumerate(rows):
        name, usage = row[name_at] if len(row) > name_at else "", row[usage_at]
        votes = ballot([row[at] for at in where]) if len(row) >= len(header) else None
        key = name or f"row-{k:05d}"
        if not name or name not in files:
            yield Skipped(key, "no picture of this name" if name else "FER+ names no picture for this row")
        elif votes is None or usage not in splits:
            yield Skipped(key, "no ten votes, or an unknown Usage")
        else:
            yield _voted(key, files[name], splits[usage], votes)


def ballot(cells: Sequence[str]) -> FloatArray | None:
    """(10,) votes, None where they are none."""
    try:
        votes = np.array(cells, dtype=np.float32)
    except ValueError:
        return None
    return votes if len(votes) == len(FER_PLUS) and votes.sum() > 0 else None


def _voted(key: str, picture: Path, split: str, votes: FloatArray) -> Record | Skipped:
    why = not_a_face(votes)
    if why is not None:
        return Skipped(key, why)
    label = first_of(votes)
    return Record(
        key, picture, split, expression=label, votes=shares_of(votes), attributes={"ferplus": label or "unknown"}
    )
