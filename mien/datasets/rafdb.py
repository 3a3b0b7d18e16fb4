"""RAF-DB, basic expressions (Li, Deng and Du 2017, doi 10.1109/CVPR.2017.277): 15,339 photos, official train and test.

Layout as released: ``basic/EmoLabel/list_patition_label.txt`` (sic), ``basic/Image/original|aligned``,
``basic/Annotation/boundingbox|manual``. ``basic/Image/our_aligned`` is what the preparation of Belharbi et al. 2024
(arXiv 2402.00281) adds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from mien.data.arrow import Skipped
from mien.datasets import folder
from mien.datasets.published_folds import read_folds, with_folds
from mien.datasets.words import find_split
from mien.errors import DataError, PictureError, UsageError, unknown_name
from mien.faces.pictures import picture_size
from mien.faces.text_table import open_table
from mien.files import listing
from mien.schema import FloatArray, Record

CODES = {
    1: "Surprise", 2: "Fear", 3: "Disgust", 4: "Happiness", 5: "Sadness", 6: "Anger", 7: "Neutral",
}  # fmt: skip
"""The integers of the label file."""

PICTURES = {"aligned": "_aligned.jpg", "original": ".jpg", "our_aligned": ".jpg"}
"""Folder below ``basic/Image`` -> what follows the stem in its file names."""

GROUPS = {
    "gender": ("male", "female", "unsure"),
    "race": ("Caucasian", "African-American", "Asian"),
    "age": ("0-3", "4-19", "20-39", "40-69", "70+"),
}
"""Group labels of the annotators, lines 6 to 8 of the manual annotation, in the order of their integers."""

BOX_READINGS: dict[str, Callable[[FloatArray], FloatArray]] = {
    "x0 y0 x1 y1": lambda box: box,
    "y0 x0 y1 x1": lambda box: box[[1, 0, 3, 2]],
    "x0 y0 width height": lambda box: np.concatenate([box[:2], box[:2] + box[2:]]),
}
"""What the four numbers of a box file could mean. The first is right, the others serve to notice other files: the
release does not say; public code that draws, crops or adds the boxes to points found inside them takes the first; the
published crop of Belharbi et al. takes the second, their choice of the face the first."""

CHECKED = 200


def records(root: Path, *, pictures: str | None = None, folds: Path | None = None) -> Iterator[Record | Skipped]:
    """Pictures in the order of the label file, id = name in that file.

    `root` is the RAF-DB folder, its parent, or ``basic``. `pictures` is a key of PICTURES: ``aligned``, the official
    100 px crops (default); ``original``, whole photos with the annotated face box; or ``our_aligned``, the 224 px crops
    of the published guided-AU preparation. `folds` lays the split, label and landmark files of
    `published_folds.read_folds` over the dataset; by default the pictures are then those that the folds name.

    ``train/1/*.jpg`` to ``train/7`` and ``test/1`` ..., as on Kaggle, are read in place of the label file.

    Splits are the official ones, by name. Group labels of the manual annotation become attributes. A line with another
    code, or without a box file where one is needed, is skipped and listed. DataError when the boxes do not fit the
    photos.
    """
    numbered = find_numbered(Path(root))
    if numbered is not None:
        if pictures not in (None, "aligned"):
            raise UsageError(
                f"--pictures {pictures} needs basic/EmoLabel; '{numbered}' holds the aligned crops in class folders."
            )
        return with_folds(folder.records(numbered, labels="rafdb"), folds)
    return with_folds(_records(find_base(Path(root)), kind_of_pictures(pictures, folds)), folds)


def notes(root: Path, *, pictures: str | None = None, folds: Path | None = None) -> dict[str, str]:
    """What the store should remember."""
    del root
    return {
        "source": "RAF-DB basic, Li, Deng and Du 2017",
        "licence": "non-commercial research; pictures may not be redistributed",
        "pictures": kind_of_pictures(pictures, folds),
    }


def kind_of_pictures(pictures: str | None, folds: Path | None) -> str:
    """Key of PICTURES: what was asked for, else the folder that the folds name, else "aligned"."""
    named = {Path(key).parent.name for key in read_folds(folds)} if folds is not None and pictures is None else set()
    kind = pictures or next((kind for kind in PICTURES if kind in named), "aligned")
    if kind not in PICTURES:
        raise unknown_name("kind of RAF-DB pictures", kind, PICTURES)
    return kind


def find_base(root: Path) -> Path:
    """The folder ``basic`` in, or at, `root`."""
    if not root.is_dir():
        raise DataError(f"folder '{root}' does not exist: give the RAF-DB folder, the one with 'basic' in it.")
    around = [root, root / "basic", root / "RAF-DB" / "basic", *sorted(root.glob("*/basic")), *sorted(root.glob("*"))]
    lists = [base for base in around if (base / "EmoLabel" / "list_patition_label.txt").is_file()]
    found = next((base for base in lists if "compound" not in base.name.lower()), None)
    if found is None and lists:
        raise DataError(
            f"'{lists[0]}' holds RAF-DB's compound expressions (1 Happily Surprised ... 11), none of which is one of the eight: give "
            "the folder 'basic'."
        )
    if found is None:
        raise DataError(
            f"'{root}' is not RAF-DB: no basic/EmoLabel/list_patition_label.txt in it, nor train/1 to train/7; --root is the "
            "folder with one of these."
        )
    return found


def find_numbered(root: Path) -> Path | None:
    """The folder with train/1 to 7 and test/1 to 7 (Kaggle's DATASET; valid/ in the code of POSTER) in, or at, `root`."""
    if not root.is_dir():
        return None
    for base in (root, *(path for path in listing(root) if path.is_dir())):
        splits = [path for path in listing(base) if path.is_dir() and find_split(path.name)]
        names = [{child.name for child in listing(path) if child.is_dir()} for path in splits]
        if names and all(classes and classes <= set("1234567") for classes in names):
            return base
    return None


def _records(base: Path, kind: str) -> Iterator[Record | Skipped]:
    place = base / "Image" / kind
    place = place / kind if (place / kind).is_dir() else place  # an archive unpacked into a folder of its name
    if not place.is_dir():
        remedy = "it comes from the published guided-AU preparation" if kind == "our_aligned" else f"unzip {kind}.zip"
        raise DataError(f"'{place}' does not exist: {remedy}, or choose other --pictures.")
    lines = _label_lines(base)
    beyond = [code for _, code in lines if code in ("8", "9", "10", "11")]
    if len(set(beyond)) > 1 and 20 * len(beyond) > len(lines):
        raise DataError(
            f"'{base}': labels up to 11 are RAF-DB's compound expressions, and none of the eight: give the folder 'basic'."
        )
    if kind == "original":
        check_boxes(base, place, tuple(name for name, _ in lines))
    for name, code in lines:
        yield _record(base, place, kind, name, code)


def _label_lines(base: Path) -> list[tuple[str, str]]:
    path = base / "EmoLabel" / "list_patition_label.txt"
    return [(cells[0], cells[1] if len(cells) > 1 else "") for _, cells in open_table(path, header=False).rows()]


def _record(base: Path, place: Path, kind: str, name: str, code: str) -> Record | Skipped:
    stem = Path(name).stem.removesuffix("_aligned")  # some lists name the aligned files
    split = stem.split("_")[0]
    if split not in ("train", "test"):
        return Skipped(name, "the name starts with neither train nor test")
    if not code.isdigit() or int(code) not in CODES:
        return Skipped(name, f"label '{code}' is no code from 1 to 7")
    box = None
    if kind == "original":
        box = read_box(base, stem)
        if box is None:
            return Skipped(name, "no readable box file: which face of the photo is meant is unknown")
    return Record(
        id=name,
        image=place / f"{stem}{PICTURES[kind]}",
        split=split,
        expression=CODES[int(code)],
        box=box,
        attributes=_groups(base, stem),
    )


def _numbers(path: Path) -> list[float]:
    """All numbers of a small text file; none where it is missing or broken."""
    try:
        return [float(word) for word in path.read_text(encoding="utf-8").split()]
    except (OSError, ValueError):
        return []


def read_box(base: Path, stem: str) -> FloatArray | None:
    """(4,) x0, y0, x1, y1 in pixels of the original photo; None where the file is missing or holds no box."""
    numbers = _numbers(base / "Annotation" / "boundingbox" / f"{stem}_boundingbox.txt")
    box = np.array(numbers[:4], dtype=np.float32)
    return box if len(box) == 4 and np.isfinite(box).all() and (box[2:] > box[:2]).all() else None


def _manual(base: Path, stem: str) -> list[float]:
    """Five (x, y) points in the original photo, then gender, race, age; empty where unknown."""
    numbers = _numbers(base / "Annotation" / "manual" / f"{stem}_manu_attri.txt")
    return numbers if len(numbers) == 13 else []


def _groups(base: Path, stem: str) -> dict[str, str | float]:
    numbers = _manual(base, stem)[10:]
    return {
        key: words[int(number)]
        for (key, words), number in zip(GROUPS.items(), numbers, strict=False)
        if number in range(len(words))
    }


@functools.lru_cache(maxsize=1)
def check_boxes(base: Path, folder: Path, names: tuple[str, ...]) -> dict[str, int]:
    """How many of up to 200 boxes fit their photos under each of BOX_READINGS; DataError unless the first fits best.

    A box fits when it has a positive size, nine tenths of it lie inside the photo, and the five points that annotators
    placed, where the dataset has them, lie inside the box widened by a tenth a side. On photos wider than high, or with
    a face off the diagonal, only one order can fit.
    """
    votes, checked = dict.fromkeys(BOX_READINGS, 0), 0
    for name in names[:: max(1, len(names) // CHECKED)]:
        stem = Path(name).stem
        numbers = _numbers(base / "Annotation" / "boundingbox" / f"{stem}_boundingbox.txt")[:4]
        try:
            size = picture_size(folder / name)
        except PictureError:
            continue
        if len(numbers) == 4:
            checked += 1
            points = np.array(_manual(base, stem)[:10]).reshape(-1, 2)
            for reading, read in BOX_READINGS.items():
                votes[reading] += _fits(read(np.array(numbers, dtype=np.float32)), size, points)
    if not checked:
        raise DataError(
            f"no boxes in '{base / 'Annotation' / 'boundingbox'}': unzip boundingbox.zip (RAF-DB 1.1), "
            "or take --pictures aligned."
        )
    official, best = next(iter(votes)), max(votes, key=lambda reading: votes[reading])
    if best != official or 2 * votes[official] < checked:
        counts = ", ".join(f"{reading}: {count}" for reading, count in votes.items())
        raise DataError(
            f"the boxes in '{base / 'Annotation' / 'boundingbox'}' should read {official}, but of {checked} these fit "
            f"their photos: {counts}; they are not those of RAF-DB 1.1."
        )
    return votes


def _fits(box: FloatArray, size: tuple[int, int], points: FloatArray) -> bool:
    side = box[2:] - box[:2]
    if not (side > 0).all():
        return False
    inside = np.clip(np.minimum(box[2:], size) - np.maximum(box[:2], 0), 0, None)
    low, high = box[:2] - 0.1 * side, box[2:] + 0.1 * side
    return bool(inside.prod() >= 0.9 * side.prod() and (points >= low).all() and (points <= high).all())
