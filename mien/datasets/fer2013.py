"""FER-2013 (Goodfellow et al. 2013): 35,887 grey 48 x 48 faces from image searches, seven labels, no subjects.

Three layouts are in circulation and all are read: the official `fer2013.csv` (emotion, pixels, Usage), its relatives
with other headers (`icml_face_data.csv`; the challenge's `train.csv` without Usage), and folders
``train|test/<class>/*``.
FER+ (Barsoum et al. 2016) adds ten annotators' votes per row in `fer2013new.csv`, in the row order of the official CSV.
"""

from __future__ import annotations

import csv
import mmap
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

from mien.data.arrow import Skipped
from mien.data.fold_files import with_fold_file
from mien.datasets import folder
from mien.datasets.fer_pictures import (
    FER_PLUS,
    LABELS,
    find_list,
    find_vote_folders,
    from_list,
    from_vote_folders,
    from_vote_table,
    not_a_face,
    shares_of,
    usage_splits,
)
from mien.errors import DataError, UsageError
from mien.files import walk
from mien.schema import ByteArray, FloatArray, Record

SIZE = 48
CSV_NAMES = ("fer2013.csv", "icml_face_data.csv", "fer2013/fer2013.csv", "train.csv")


def records(
    root: Path, *, votes: Path | None = None, folds: Path | None = None, labels: str | None = None
) -> Iterator[Record | Skipped]:
    """Rows of the official CSV in their order (id ``row-00017``), or pictures of the folder layout (id = path).

    `root` is the CSV file or the folder with it or with the class folders; `votes` the FER+ file `fer2013new.csv`
    (used by default when it lies beside the CSV). The expression stays FER-2013's own label; votes become shares over
    EXPRESSIONS without "unknown" and "NF". A row that most annotators call not a face is skipped. Training is split
    "train"; PublicTest is "valid" and PrivateTest "test", but PublicTest is "test" in a file without PrivateTest;
    ``attributes["usage"]`` keeps the original name. `folds` is a published fold file (`fold_files`), whose pictures
    alone are kept. Class folders may be numbers, in the official order unless `labels` say otherwise; pictures with
    ``labels_FER2013.csv`` and FER+ as its script writes it are read, too (`fer_pictures`).
    """
    root = Path(root)
    table = _find_csv(root)
    pictures = None if table is not None or root.is_file() else _from_pictures(root, votes)
    if pictures is not None:
        yield from pictures if folds is None else with_fold_file(pictures, folds)
    elif table is not None:
        beside = table.with_name("fer2013new.csv")
        rows = _rows(table, votes or (beside if beside.is_file() else None))
        yield from rows if folds is None else with_fold_file(rows, folds)
    elif votes is not None or folds is not None:
        what = "votes" if folds is None else "folds"
        raise UsageError(f"{what} need the official fer2013.csv (they go by row), but '{root}' has class folders.")
    else:
        yield from folder.records(root, labels=labels or "fer2013")


def _from_pictures(root: Path, votes: Path | None) -> Iterator[Record | Skipped] | None:
    """Rows of a layout with picture files; None where there is none of these."""
    path, folders = find_list(root), find_vote_folders(root)
    if path is not None:
        return from_list(path, root, [votes_ for _, votes_ in _ballots(votes)] if votes is not None else None)
    if folders and votes is None:
        return from_vote_folders(folders)
    table = votes or next(
        (file for file in (root / "fer2013new.csv", *root.glob("*/fer2013new.csv")) if file.is_file()), None
    )
    if table is not None and any(path.name.startswith("fer0") for path in walk(root)):
        return from_vote_table(table, root)
    return None


def notes(root: Path) -> dict[str, str]:
    """What the store should remember: licence and the choice of splits."""
    table = _find_csv(Path(root))
    text = "folders as found" if table is None else ", ".join(f"{k} = {v}" for k, v in split_map(table).items())
    return {
        "source": "FER-2013, Goodfellow et al. 2013; FER+ votes, Barsoum et al. 2016",
        "licence": "research use; pictures may not be redistributed",
        "splits": text,
    }


def split_map(table: Path) -> dict[str, str]:
    """Usage -> split for this file: PublicTest serves as test where PrivateTest is kept back."""
    state = table.stat()
    return usage_splits(_has_private(table, state.st_size, state.st_mtime_ns))


@lru_cache(maxsize=4)
def _has_private(table: Path, size: int, changed: int) -> bool:
    """Whether PrivateTest stands somewhere in this file, which is read to its end; once for a file of this state."""
    with open(table, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(b"PrivateTest") >= 0


def _find_csv(root: Path) -> Path | None:
    if not root.exists():
        raise DataError(f"'{root}' does not exist: give fer2013.csv, or the folder with it or with train/ and test/.")
    found = root if root.is_file() else next((root / name for name in CSV_NAMES if (root / name).is_file()), None)
    if found is not None and found.stat().st_size == 0:
        raise DataError(f"'{found}' is empty.")
    return found


def _rows(table: Path, votes: Path | None) -> Iterator[Record | Skipped]:
    splits = split_map(table)
    ballots = _ballots(votes) if votes is not None else None
    with open(table, newline="", encoding="utf-8-sig", errors="replace") as file:
        reader = _lines(csv.reader(file), table)
        header = [name.strip().lower() for name in next(reader, [])]
        if "pixels" not in header:
            found = ", ".join(filter(str.isprintable, header))[:60]
            raise DataError(f"'{table}' has no 'pixels' column (found: {found}): not a fer2013.csv.")
        row = -1
        for row, fields in enumerate(reader):
            values = {name: field.strip() for name, field in zip(header, fields, strict=False)}
            usage = values.get("usage") or "Training"
            vote = None
            if ballots is not None and votes is not None:
                vote = _ballot(ballots, votes, row, values.get("usage"))
            yield _record(f"row-{row:05d}", values, usage, splits, vote)
    if ballots is not None and votes is not None and len(ballots) != row + 1:
        raise DataError(
            f"'{votes}' has {len(ballots)} rows and '{table}' {row + 1}: these two files do not belong together."
        )


def _lines(reader: Iterator[list[str]], path: Path) -> Iterator[list[str]]:
    try:
        yield from reader
    except csv.Error as error:
        raise DataError(f"'{path}' is not a readable CSV file ({error}).") from error


def _record(
    name: str, values: dict[str, str], usage: str, splits: dict[str, str], vote: FloatArray | None
) -> Record | Skipped:
    if usage not in splits:
        return Skipped(name, f"unknown Usage '{usage}' (Training, PublicTest, PrivateTest)")
    label = values.get("emotion", "")
    if label and (not label.isdigit() or int(label) >= len(LABELS)):
        return Skipped(name, f"emotion '{label}' is no integer from 0 to 6")
    image = _pixels(values.get("pixels", ""))
    if isinstance(image, str):
        return Skipped(name, image)
    attributes: dict[str, str | float] = {"usage": usage}
    shares = None
    if vote is not None:
        if (why := not_a_face(vote)) is not None:
            return Skipped(name, why)
        best = int(vote.argmax())  # ties: the first column
        attributes["ferplus"] = FER_PLUS[best].capitalize() if best < 8 else "unknown"
        shares = shares_of(vote)
    expression = LABELS[int(label)] if label else None
    return Record(name, image, splits[usage], expression=expression, votes=shares, attributes=attributes)


def _pixels(text: str) -> ByteArray | str:
    """48 x 48 pixels, or what is wrong with them."""
    if text.isascii() and text.replace(" ", "").isdigit():  # ten times faster than one text a number
        values = np.fromstring(text, dtype=np.int64, sep=" ")
        if len(values) != SIZE * SIZE:
            return f"{len(values)} pixels, expected {SIZE * SIZE}"
    else:
        words = text.split()
        if len(words) != SIZE * SIZE:
            return f"{len(words)} pixels, expected {SIZE * SIZE}"
        try:
            values = np.array(words, dtype=np.int64)
        except (ValueError, OverflowError):
            return "pixels that are no integers"
    if values.min() < 0 or values.max() > 255:
        return "pixels outside 0..255"
    return values.astype(np.uint8).reshape(SIZE, SIZE)


def _ballots(path: Path) -> list[tuple[str, FloatArray]]:
    """(usage, ten votes) of every row of `fer2013new.csv`."""
    if not path.is_file():
        raise DataError(f"votes file '{path}' does not exist.")
    with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
        reader = csv.DictReader(file)
        missing = [name for name in ("Usage", *FER_PLUS) if name not in (reader.fieldnames or ())]
        if missing:
            raise DataError(f"votes file '{path}' has no column '{missing[0]}': expected FER+'s fer2013new.csv.")
        ballots = []
        for line, row in enumerate(reader, start=2):
            try:
                ballots.append((row["Usage"], np.array([float(row[name]) for name in FER_PLUS], dtype=np.float32)))
            except (TypeError, ValueError) as error:
                raise DataError(f"votes file '{path}', line {line}: a vote is no number.") from error
        return ballots


def _ballot(ballots: list[tuple[str, FloatArray]], path: Path, row: int, usage: str | None) -> FloatArray | None:
    if row >= len(ballots) or (usage is not None and usage != ballots[row][0]):
        raise DataError(f"votes file '{path}' and the CSV disagree at row {row}: they do not belong together.")
    return ballots[row][1] if ballots[row][1].sum() > 0 else None
