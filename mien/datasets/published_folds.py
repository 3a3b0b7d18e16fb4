"""Splits, labels and landmarks in the files of others, laid over a dataset: `--folds` of rafdb and affectnet."""

from __future__ import annotations

import csv
import functools
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from mien.data.arrow import Skipped
from mien.datasets.words import find_expression, find_split
from mien.errors import DataError
from mien.faces.landmark_files import picture_keys, read_landmarks
from mien.schema import FloatArray, Record

PICTURE_COLUMNS = ("image", "id", "path", "file", "name", "filename")


class Fold(NamedTuple):
    """What the folds say about one picture."""

    split: str
    expression: str | None
    """None: the dataset's own label stays."""
    landmarks: FloatArray | None
    """(68, 2), all NaN where no face was found; None without a landmark file: the dataset's own points stay."""


@functools.lru_cache(maxsize=1)
def read_folds(folder: Path) -> dict[str, Fold]:
    """Picture name -> split, label and landmarks, in the order of train, valid, test.

    Two forms are read. Belharbi et al. 2024: folders ``train``, ``val`` and ``test`` with ``image_ids.txt``,
    ``class_labels.txt`` (``id,integer``), perhaps ``landmarks.txt`` (``id,x1..x68,y1..y68``), and ``class_id.yaml``,
    which gives the integers their names. Or manifests ``train.csv``, ``valid.csv`` and ``test.csv`` with a picture
    column (PICTURE_COLUMNS): splits only, since their integers have no names.

    A picture in several splits counts once: test before validation before train. One line on stderr says so; the
    published validation list is a copy of the test list.
    """
    if not folder.is_dir():
        raise DataError(f"folds folder '{folder}' does not exist.")
    names = _class_names(folder)
    splits: dict[str, dict[str, Fold]] = {"train": {}, "valid": {}, "test": {}}
    for path in sorted(folder.iterdir()):
        split = find_split(path.stem)
        if split is not None and path.is_dir() and (path / "image_ids.txt").is_file():
            splits[split].update(_published(path, split, names))
        elif split is not None and path.suffix.lower() == ".csv":
            splits[split].update(_manifest(path, split))
    if not splits["train"] and not splits["test"]:
        raise DataError(f"no folds in '{folder}': expected train/, val/ and test/ with image_ids.txt, or train.csv ...")
    for later, earlier in (("test", "valid"), ("test", "train"), ("valid", "train")):
        twice = splits[earlier].keys() & splits[later].keys()
        if twice:
            print(_shared(folder, len(twice), len(splits[earlier]), earlier, later), file=sys.stderr)
            splits[earlier] = {name: fold for name, fold in splits[earlier].items() if name not in twice}
    return {name: fold for folds in splits.values() for name, fold in folds.items()}


def _shared(folder: Path, twice: int, count: int, earlier: str, later: str) -> str:
    line = f"folds '{folder}': {twice} of {count} pictures of {earlier} are {later} pictures too and count as {later}"
    if earlier == "valid" and twice == count:
        line += " (the published habit); protocol strict carves its own validation split out of train"
    return f"{line}."


def with_folds(items: Iterable[Record | Skipped], folder: Path | None) -> Iterator[Record | Skipped]:
    """Records with the splits, labels and landmarks of the folds; the rest, on both sides, is skipped and listed.

    DataError where folds and dataset name different expressions: then the integers mean something else.
    """
    if folder is None:
        yield from items
        return
    folds = read_folds(folder)
    example = next(iter(folds))
    left = dict.fromkeys(folds)
    for item in items:
        if isinstance(item, Skipped):
            yield item
            continue
        picture = item.image if isinstance(item.image, Path) else None
        key = next((key for key in picture_keys(item.id, picture) if key in folds), None)
        if key is None:
            yield Skipped(item.id, f"not in the folds (they list e.g. '{example}')")
            continue
        left.pop(key, None)
        fold = folds[key]
        if None not in (fold.expression, item.expression) and fold.expression != item.expression:
            raise DataError(
                f"folds '{folder}': '{key}' is {fold.expression}, but {item.expression} in the dataset; "
                "class_id.yaml does not belong to these labels."
            )
        points = item.landmarks if fold.landmarks is None else fold.landmarks
        found = points is not None and bool(np.isfinite(points).any())
        yield item._replace(
            split=fold.split, expression=fold.expression or item.expression, landmarks=points if found else None
        )
    for key in left:
        yield Skipped(key, "in the folds, but no usable picture of the dataset")


def _class_names(folder: Path) -> dict[str, str]:
    """Integer, as text -> expression."""
    path = folder / "class_id.yaml"
    if not path.is_file():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"'{path}' is no readable YAML file ({' '.join(str(error).split())}).") from error
    names = {}
    for word, number in content.items() if isinstance(content, dict) else ():
        expression = find_expression(str(word))
        if expression is None or not isinstance(number, int):
            raise DataError(f"'{path}': '{word}: {number}' is not 'expression: integer'.")
        names[str(number)] = expression
    if not names:
        raise DataError(f"'{path}' holds no 'expression: integer' lines.")
    return names


def _published(folder: Path, split: str, names: dict[str, str]) -> dict[str, Fold]:
    ids = [line.strip() for line in _text(folder / "image_ids.txt").splitlines() if line.strip()]
    labels: dict[str, str] = {}
    if (folder / "class_labels.txt").is_file():
        for n, line in enumerate(_text(folder / "class_labels.txt").splitlines(), 1):
            key, _, number = line.strip().rpartition(",")
            if line.strip() and number not in names:
                raise DataError(
                    f"'{folder / 'class_labels.txt'}', line {n}: class '{number}' has no name in "
                    f"'{folder.parent / 'class_id.yaml'}'; integers without names are not read."
                )
            labels[key] = names.get(number, "")
    path = folder / "landmarks.txt"
    points = read_landmarks(path) if path.is_file() else {}
    unknown = np.full((68, 2), np.nan, dtype=np.float32) if path.is_file() else None
    return {key: Fold(split, labels.get(key), points.get(key, unknown)) for key in ids}


def _manifest(path: Path, split: str) -> dict[str, Fold]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            names = {(name or "").strip().lower(): name for name in reader.fieldnames or ()}
            column = next((names[name] for name in PICTURE_COLUMNS if name in names), None)
            if column is None:
                raise DataError(f"'{path}' has no picture column (one of {', '.join(PICTURE_COLUMNS)}).")
            return {str(row[column]).strip(): Fold(split, None, None) for row in reader if row[column]}
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"'{path}' is not a readable CSV file ({error}).") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"'{path}' cannot be read ({error}).") from error
