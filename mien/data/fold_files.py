"""Fold files of Luna-Jimenez et al. 2021 (doi 10.3390/app11167217): pictures with polarity and fold, `;` between columns.

`labels_FER2013_31885KFOLDimgs.csv` has the columns emotion, path, in_set, fold; `polarity_complete_5folds.csv` has path,
emotion, fold. `emotion` is the class number of polarity-3, `path` is ``17.png`` for row 17 of FER-2013 and
``folder/name.jpg`` for AffectNet.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from mien.data.arrow import Skipped
from mien.data.labels import POLARITY, labels_of, published_order
from mien.data.store import Store
from mien.errors import DataError
from mien.files import replacing
from mien.schema import IntArray, Record, class_index, scheme_classes

CLASSES = scheme_classes(POLARITY)
FER_COLUMNS = ("emotion", "path", "in_set", "fold")
COLUMNS = ("path", "emotion", "fold")
CONVERTED = (".bmp", ".tif", ".tiff")
"""Suffixes of AffectNet's odd pictures, which the published preparation turns into .jpg."""


class Entry(NamedTuple):
    """What a fold file says about one picture."""

    polarity: str
    fold: int


def published_name(name: str) -> str:
    """Folder and stem of a picture in the published files: 17 for ``row-00017`` of FER-2013, else the id without suffix."""
    row = re.fullmatch(r"row-(\d+)", name)
    return str(int(row[1])) if row else PurePosixPath(name).with_suffix("").as_posix()


def read_fold_file(path: Path) -> dict[str, Entry]:
    """Published name -> polarity and fold. DataError for a file of another kind.

    A path that the file lists twice, in two folds, counts as the first says; one line on stderr tells how many there are.
    """
    entries: dict[str, Entry] = {}
    twice = 0
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, delimiter=";")
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise DataError(f"fold file '{path}' has no column '{missing[0]}': expected {';'.join(COLUMNS)}.")
            for row in reader:
                entry = _entry(row, path, reader.line_num)
                twice += entries.setdefault(published_name(row["path"]), entry) != entry
    except (OSError, csv.Error, ValueError, TypeError) as error:
        raise DataError(f"fold file '{path}' cannot be read ({error}).") from error
    if not entries:
        raise DataError(f"fold file '{path}' lists no picture.")
    if twice:
        print(
            f"fold file '{path}': {twice} pictures are listed twice in different folds; the first counts.",
            file=sys.stderr,
        )
    return entries


def _entry(row: dict[str, str], path: Path, line: int) -> Entry:
    try:
        return Entry(CLASSES[range(len(CLASSES)).index(int(row["emotion"]))], range(1000).index(int(row["fold"])))
    except (TypeError, ValueError):
        raise DataError(
            f"fold file '{path}', line {line}: emotion '{row['emotion']}' must be 0 to {len(CLASSES) - 1} and "
            f"fold '{row['fold']}' a number from 0."
        ) from None


def with_fold_file(items: Iterable[Record | Skipped], path: Path) -> Iterator[Record | Skipped]:
    """Records with the attribute `fold`; what stands on one side only is skipped and listed.

    DataError where the file and the dataset name different polarities: then they do not belong together.
    """
    entries = read_fold_file(path)
    index = class_index(POLARITY)
    left = dict.fromkeys(entries)
    for item in items:
        name = published_name(item.id)
        left.pop(name, None)
        if isinstance(item, Skipped):
            yield item
            continue
        entry = entries.get(name)
        if entry is None:
            yield Skipped(item.id, f"not in the fold file (it lists e.g. '{next(iter(entries))}')")
            continue
        own = item.attributes.get("polarity")
        if own is None and item.expression in index:
            own = CLASSES[index[item.expression]]
        if own is not None and own != entry.polarity:
            raise DataError(
                f"fold file '{path}': '{name}' is {entry.polarity}, but {own} in the dataset; "
                "they do not belong together, or the polarity has another limit."
            )
        yield item._replace(attributes={**item.attributes, "fold": entry.fold})
    for name in left:
        yield Skipped(name, "in the fold file, but not in the dataset")


def write_fold_file(path: Path, store: Store, tests: Sequence[IntArray]) -> int:
    """Write the test rows of each fold in the published form; returns the number of lines.

    FER-2013 keeps the dataset's order; other stores are in the published order of AffectNet: Positive, Neutral, Negative.
    """
    labels = labels_of(store, POLARITY)
    numbers = {int(row): fold for fold, rows in enumerate(tests) for row in rows}
    fer = store.info.dataset == "fer2013"
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=";", lineterminator="\n")
        writer.writerow(FER_COLUMNS if fer else COLUMNS)
        for row in sorted(numbers) if fer else published_order(labels, sorted(numbers)):
            name, label, fold = store.ids[row], int(labels[row]), numbers[row]
            if fer:
                writer.writerow([label, f"{published_name(name)}.png", store.attributes[row].get("usage", ""), fold])
            else:
                odd = PurePosixPath(name).suffix.lower() in CONVERTED
                writer.writerow([f"{published_name(name)}.jpg" if odd else name, label, fold])
    return len(numbers)
