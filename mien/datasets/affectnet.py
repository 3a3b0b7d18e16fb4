"""AffectNet (Mollahosseini, Hasani and Mahoor 2019, doi 10.1109/TAFFC.2017.2740923): faces from the web, eight labels.

Two layouts are in circulation and both are read: ``train_set|val_set`` with ``images/N.jpg`` and
``annotations/N_exp|val|aro|lnd.npy`` (from 2021), and the lists ``training.csv`` and ``validation.csv`` of the manually
annotated part beside its folders of pictures (2017).
"""

from __future__ import annotations

import csv
import math
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mien.data.arrow import Skipped
from mien.data.fold_files import CONVERTED, with_fold_file
from mien.datasets import folder
from mien.datasets.published_folds import with_folds
from mien.datasets.words import find_split, splits_of
from mien.errors import DataError, UsageError
from mien.files import listing, read_arrays, walk
from mien.schema import LANDMARKS, FloatArray, Record

CODES = ("Neutral", "Happiness", "Sadness", "Surprise", "Fear", "Disgust", "Anger", "Contempt")
"""Integer -> expression."""

NO_LABEL = {8: "None", 9: "Uncertain", 10: "No-Face"}
"""Codes of pictures without one of the expressions; these are skipped and counted."""

VALENCE_LIMIT = 0.2
"""Valence above which a face is Positive, and below whose negative it is Negative (Luna-Jimenez et al. 2021)."""

LEFT_OUT = "103/29a31ebf1567693f4644c8ba3476ca9a72ee07fe67a5860d98707a0a.jpg"
"""The one picture that the published polarity set leaves out."""

KEYS = ("exp", "val", "aro", "lnd")
"""Ends of the names of annotations."""
FOLDERS = {"train_set": "train", "val_set": "test"}
LISTS = {"training.csv": "train", "validation.csv": "test"}
COLUMNS = (
    "subDirectory_filePath", "face_x", "face_y", "face_width", "face_height", "facial_landmarks", "expression",
    "valence", "arousal",
)  # fmt: skip
"""Columns of the lists; `validation.csv` was released without this header."""


def records(root: Path, *, folds: Path | None = None, polarity: float | None = None) -> Iterator[Record | Skipped]:
    """Pictures of the training and then of the validation set; the latter is split "test", as no test set is public.

    `root` is the AffectNet folder or its parent. Ids are paths: ``train_set/images/0.jpg``, or
    ``subDirectory_filePath`` of the lists. Valence and arousal in [-1, 1] become attributes (-2 is unknown). The 68
    points are AffectNet's own; the lists also give a face box. An annotation that cannot be read skips its picture.

    `polarity` is the limit of valence beyond which a face is Positive or Negative; the class becomes the attribute
    `polarity`, and pictures of code 8 (None) stay, as they have a valence. `folds` is a folder of
    `published_folds.read_folds`, or a file of `fold_files`, which means polarity with the limit 0.2 unless another is given.
    """
    if polarity is None and folds is not None and folds.is_file():
        polarity = VALENCE_LIMIT
    if polarity is not None and not 0 <= polarity < 1:
        raise UsageError(f"--polarity {polarity:g} must be a valence from 0 to 1; 0.2 is the published limit.")
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"folder '{root}' does not exist: give the AffectNet folder.")
    around = [root, *sorted(path for path in root.iterdir() if path.is_dir() and "affectnet" in path.name.lower())]
    for base in around:
        if any((base / name / "images").is_dir() for name in FOLDERS):
            return _folded(_from_arrays(base, polarity), folds)
        lists = _find_lists(base)
        if lists:
            return _folded(_from_lists(base, lists, polarity), folds)
    numbered = next((base for base in around if _numbered(base)), None)
    if numbered is not None:
        if polarity is not None:
            raise UsageError(f"'{numbered}' holds class folders without valences, which polarity needs.")
        return _folded(_from_folders(numbered), folds)
    automatic = next((path for path in walk(root) if path.name.lower() == "automatically_annotated.csv"), None)
    if automatic is not None:
        pairs = ",".join([*(f"{k}={name}" for k, name in enumerate(CODES)), *(f"{k}=skip" for k in range(8, 12))])
        raise DataError(
            f"'{root}' has the automatically annotated part alone, whose labels a net gave; read it with mien prepare table --root "
            f"{shlex.quote(str(automatic))} --labels {pairs} --out STORE"
        )
    raise DataError(
        f"'{root}' is not AffectNet: neither train_set/images nor training.csv (of Manually_Annotated_file_lists) in it."
    )


def _folded(items: Iterator[Record | Skipped], folds: Path | None) -> Iterator[Record | Skipped]:
    return with_fold_file(items, folds) if folds is not None and folds.is_file() else with_folds(items, folds)


def notes(root: Path) -> dict[str, str]:
    """What the store should remember."""
    del root
    return {
        "source": "AffectNet, Mollahosseini, Hasani and Mahoor 2019",
        "licence": "non-commercial research; pictures may not be redistributed",
        "splits": "training set = train, validation set = test",
    }


class _BadAnnotationError(Exception):
    """An annotation that cannot be used; becomes the reason of a Skipped."""


# --- class folders ---


def _numbered(base: Path) -> bool:
    """Whether split folders hold class folders 0 to 7, perhaps 8 to 10."""
    splits = [path for path in listing(base) if path.is_dir() and find_split(path.name)]
    classes = [{child.name for child in listing(path) if child.is_dir()} for path in splits]
    return bool(classes) and all(names and names <= {str(k) for k in range(11)} for names in classes)


def _from_folders(base: Path) -> Iterator[Record | Skipped]:
    """Pictures of class folders; a validation set is "test", as elsewhere, where there is no other test set."""
    pairs = [*(f"{k}={name}" for k, name in enumerate(CODES)), *(f"{k}=skip" for k in NO_LABEL)]
    tested = "test" in splits_of(path.name for path in listing(base) if path.is_dir()).values()
    for item in folder.records(base, labels=",".join(pairs)):
        if isinstance(item, Record) and item.split == "valid" and not tested:
            item = item._replace(split="test")
        yield item


# --- arrays beside the pictures ------------------------------------------------------------------------------------


def _from_arrays(base: Path, limit: float | None) -> Iterator[Record | Skipped]:
    for name, split in FOLDERS.items():
        images, labels = base / name / "images", base / name / "annotations"
        if not images.is_dir():
            continue
        if not labels.is_dir():
            raise DataError(f"'{labels}' does not exist: the labels of AffectNet's pictures are in this folder.")
        if not any(next(labels.glob(f"*_{key}.npy"), None) for key in KEYS):
            some = next((path.name for path in listing(labels)), "nothing")
            raise DataError(
                f"'{labels}' holds no 0_exp.npy, 0_val.npy, 0_aro.npy or 0_lnd.npy (but {some}): other annotations are not read; "
                "write a table of pictures and labels for `mien prepare table`."
            )
        pictures = {path.stem: path.name for path in images.iterdir() if not path.name.startswith(".")}
        keys = KEYS if any(labels.glob("*_exp.npy")) else KEYS[1:]
        stems = {path.name.removesuffix("_exp.npy") for path in labels.glob("*_exp.npy")} | set(pictures)
        for stem in sorted(stems, key=lambda stem: (len(stem), stem)):  # 9 before 10
            picture = images / pictures.get(stem, f"{stem}.jpg")
            try:
                yield _record_of_arrays(picture, labels, f"{name}/images/{picture.name}", split, limit, keys)
            except _BadAnnotationError as error:
                yield Skipped(f"{name}/images/{picture.name}", str(error))


def _record_of_arrays(
    picture: Path, notes_at: Path, name: str, split: str, limit: float | None, keys: tuple[str, ...]
) -> Record:
    """The face of a picture with the annotations `keys`; without "exp" it has no expression."""
    numbers = {key: _array(notes_at / f"{picture.stem}_{key}.npy") for key in keys}
    for key in keys[:-1]:
        if len(numbers[key]) > 1 or (key == "exp" and not len(numbers[key])):
            raise _BadAnnotationError(f"{picture.stem}_{key}.npy holds {len(numbers[key])} numbers, expected 1")
    affect = {"valence": numbers["val"], "arousal": numbers["aro"]}
    points = numbers["lnd"]
    return Record(
        id=name,
        image=picture,
        split=split,
        expression=_expression(float(numbers["exp"][0]), limit) if "exp" in numbers else None,
        landmarks=_points(points, f"{picture.stem}_lnd.npy") if len(points) else None,
        attributes=_affect({key: float(value[0]) for key, value in affect.items() if len(value)}, limit),
    )


def _array(path: Path) -> FloatArray:
    """All numbers of an array file, whatever its shape, stored as numbers or as text; empty where it does not exist."""
    try:
        if not path.exists():
            if path.name.endswith("_exp.npy"):
                raise _BadAnnotationError(f"no annotation {path.name}")
            return np.empty(0, dtype=np.float32)
        loaded = read_arrays(path, "it is left out")[""]
        with np.errstate(over="ignore", invalid="ignore"):  # damaged numbers become infinite, and are refused by range
            return np.asarray(loaded.reshape(-1).astype(np.float64), dtype=np.float32)
    except (DataError, KeyError, ValueError, TypeError, OverflowError):
        raise _BadAnnotationError(f"{path.name} is no array of plain numbers (pickled arrays are not read)") from None


# --- lists of the manually annotated part --------------------------------------------------------------------------


def _find_lists(base: Path) -> list[Path]:
    for above in (base, base / "Manually_Annotated_file_lists", base / "Manually_Annotated"):
        for place in (above, above / "Manually_Annotated_file_lists"):
            found = [place / name for name in LISTS if (place / name).is_file()]
            if found:
                return found
    return []


def _find_pictures(base: Path, first: str) -> Path:
    """The folder that the paths of the lists start from."""
    images = "Manually_Annotated_Images"
    places = [base / images, base / "Manually_Annotated" / images, base / "Manually_Annotated", base]
    found = next((place for place in places if (place / first).is_file()), None)
    return found or next((place for place in places if place.is_dir()), base)


def _from_lists(base: Path, lists: list[Path], limit: float | None) -> Iterator[Record | Skipped]:
    pictures: Path | None = None
    for path in lists:
        for row in _rows(path):
            name = row["subDirectory_filePath"].strip()
            pictures = pictures or _find_pictures(base, name)
            try:
                yield _record_of_row(row, pictures, name, LISTS[path.name], limit)
            except _BadAnnotationError as error:
                yield Skipped(name, str(error))


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
        names: list[str] = list(COLUMNS)
        try:
            for number, cells in enumerate(csv.reader(file)):
                if number == 0 and COLUMNS[0] in cells:
                    names = cells
                elif cells:
                    row = dict.fromkeys(COLUMNS, "") | dict(zip(names, cells, strict=False))
                    if number == 0 and len(cells) != len(COLUMNS):
                        raise DataError(f"'{path}' has {len(cells)} columns and no header: not a list of AffectNet.")
                    yield row
        except csv.Error as error:
            raise DataError(f"'{path}' is not a readable CSV file ({error}).") from error


def _record_of_row(row: dict[str, str], pictures: Path, name: str, split: str, limit: float | None) -> Record:
    if limit is not None and name == LEFT_OUT:
        raise _BadAnnotationError("left out of the published polarity set")
    expression = _expression(_number(row, "expression"), limit)
    left, top, width, height = (_number(row, column) for column in COLUMNS[1:5])
    cells = [cell for cell in row["facial_landmarks"].split(";") if cell.strip()]
    try:
        points = np.array(cells, dtype=np.float64).astype(np.float32)
    except ValueError:
        raise _BadAnnotationError("facial_landmarks that are no numbers") from None
    return Record(
        id=name,
        image=_converted(pictures / name),
        split=split,
        expression=expression,
        landmarks=_points(points, "facial_landmarks") if len(points) else None,
        box=np.array([left, top, left + width, top + height], dtype=np.float32),
        attributes=_affect({key: _number(row, key) for key in ("valence", "arousal")}, limit),
    )


def _converted(picture: Path) -> Path:
    """The picture, or the .jpg that it was turned into (the published preparation deletes bmp and tif files)."""
    jpeg = picture.with_suffix(".jpg")
    odd = picture.suffix.lower() in CONVERTED
    return jpeg if odd and not picture.is_file() and jpeg.is_file() else picture


def _number(row: dict[str, Any], column: str) -> float:
    try:
        return float(row[column])
    except ValueError:
        raise _BadAnnotationError(f"{column} '{row[column]}' is no number") from None


# --- what both share -----------------------------------------------------------------------------------------------


def polarity_of(valence: float, limit: float = VALENCE_LIMIT) -> str | None:
    """Neutral within -limit .. limit, Positive above up to 1, Negative below down to -1; None for anything else."""
    if not -1 <= valence <= 1:
        return None
    return "Neutral" if abs(valence) <= limit else "Positive" if valence > 0 else "Negative"


def _expression(code: float, limit: float | None) -> str | None:
    if code == 8 and limit is not None:
        return None
    if code in NO_LABEL:
        raise _BadAnnotationError(f"labelled {NO_LABEL[int(code)]} (code {code:.0f})")
    if code not in range(len(CODES)):
        raise _BadAnnotationError(f"expression code {code:g} is none of 0 to 10")
    return CODES[int(code)]


def _points(numbers: FloatArray, place: str) -> FloatArray:
    """Numbers x y x y ... as (68, 2)."""
    if len(numbers) != 2 * LANDMARKS:
        raise _BadAnnotationError(f"{place} holds {len(numbers)} numbers, expected 136 (68 points)")
    return np.where(np.isfinite(numbers), numbers, np.float32(np.nan)).reshape(LANDMARKS, 2)


def _affect(values: dict[str, float], limit: float | None) -> dict[str, str | float]:
    known: dict[str, str | float] = {
        key: round(value, 6) for key, value in values.items() if math.isfinite(value) and abs(value) <= 1
    }
    if limit is not None:
        valence = round(values.get("valence", math.nan), 7)  # a single-precision -0.2 is not below -0.2
        polarity = polarity_of(valence, limit)
        if polarity is None:
            raise _BadAnnotationError(f"valence {valence:g} has no polarity")
        known["polarity"] = polarity
    return known
