"""Pictures with face boxes as YOLO wants them: ``train/images/a.jpg``, ``train/labels/a.txt``, ``data.yaml``.

A line of a label file is class, middle x, middle y, width and height of a box as shares of the picture; lines with more numbers
are outlines, whose box is taken. ``images/train`` and ``labels/train``, and labels beside the pictures, are read, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import yaml

from mien.data.arrow import Skipped
from mien.datasets.words import Labels, find_split, label_remedy, named, split_in_name
from mien.errors import PictureError, UsageError
from mien.faces.pictures import upright_size
from mien.files import IMAGE_SUFFIXES, listing, walk
from mien.schema import FloatArray, Record

LEFT_BESIDE = (".names", ".data", ".labels", ".cfg", ".yaml")
NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels", "labels/classes.txt")


def is_yolo(root: Path) -> bool:
    """Whether there are folders of pictures with folders of labels beside them."""
    return bool(_pairs(root))


def _pairs(root: Path) -> list[tuple[str, Path, Path]]:
    """(split, folder of pictures, folder of labels)."""
    found = []
    for folder in (path for path in (root, *listing(root)) if path.is_dir()):
        images, labels = folder / "images", folder / "labels"
        if not images.is_dir() or not labels.is_dir():
            continue
        inner = {path: find_split(path.name) for path in listing(images) if path.is_dir()}
        if any(inner.values()):
            found += [(split, path, labels / path.name) for path, split in inner.items() if split is not None]
        else:
            found.append((find_split(folder.name) or "train", images, labels))
    found = [pair for pair in found if pair[2].is_dir() and any(path.suffix == ".txt" for path in listing(pair[2]))]
    return found or _together(root)


def _together(root: Path) -> list[tuple[str, Path, Path]]:
    """Folders with pictures and label files side by side, as Darknet wants them (``obj_train_data``, ``obj.names``)."""
    if not any((root / name).is_file() for name in NAME_FILES):
        return []
    found = []
    for folder in (path for path in (root, *listing(root)) if path.is_dir()):
        entries = listing(folder)
        stems = {path.stem for path in entries if path.suffix == ".txt"}
        if any(path.suffix.lower() in IMAGE_SUFFIXES and path.stem in stems for path in entries):
            split = split_in_name(folder.name) or "train"
            found.append((split, folder, folder))
    return found


def records(root: Path, words: Labels) -> Iterator[Record | Skipped]:
    """One face a box, id = path of the picture, and its number behind # from the second face on.

    Classes are named by ``data.yaml`` or ``classes.txt``, or by `words` (number or name -> expression).
    """
    names = _class_names(root)
    unknown = {
        name for name in names.values() if named(name, words) is None and words.get(_number_of(names, name)) is None
    }
    if unknown and len(unknown) == len(names):
        raise UsageError(
            f"'{root}': no class is an expression ({', '.join(sorted(unknown))}); {label_remedy(unknown)}."
        )
    order = {"train": 0, "valid": 1, "test": 2}
    for split, images, labels in sorted(_pairs(root), key=lambda pair: (order[pair[0]], str(pair[1]))):
        for path in walk(images):
            key = path.relative_to(root).as_posix()
            if images == labels and path.suffix in (".txt", *LEFT_BESIDE):
                continue
            if path.suffix.lower() not in IMAGE_SUFFIXES:
                yield Skipped(key, f"not a picture file ('{path.suffix}')")
                continue
            lines = _lines(labels / path.relative_to(images).with_suffix(".txt"))
            if not lines:
                yield Skipped(key, "no face is labelled in it")
            size = _size(path) if lines else (0, 0)
            for number, line in enumerate(lines, 1):
                yield _face(key if number == 1 else f"{key}#{number}", path, split, line, size, names, words)


def _number_of(names: dict[str, str], name: str) -> str:
    return next(number for number, word in names.items() if word == name)


def _face(
    key: str, path: Path, split: str, line: list[str], size: tuple[int, int], names: dict[str, str], words: Labels
) -> Record | Skipped:
    code = line[0]
    name = words.get(code)
    name = name if name is not None else named(names.get(code, code), words)
    if name is None:
        return Skipped(key, f"class '{names.get(code, code)}' is no expression (--labels {code}=...)")
    if not name:
        return Skipped(key, "its class is left out by --labels")
    box = _box(line[1:], size)
    if box is None:
        return Skipped(key, f"'{' '.join(line)[:60]}' is no line class x y width height")
    return Record(key, path, split=split, expression=name, box=box)


def _box(cells: list[str], size: tuple[int, int]) -> FloatArray | None:
    """(4,) left, top, right, bottom in pixels."""
    try:
        numbers = np.array(cells, dtype=np.float64)
    except ValueError:
        return None
    scale = np.array(size)
    if len(numbers) >= 6 and len(numbers) % 2 == 0:
        points = numbers.reshape(-1, 2)
        low, high = points.min(axis=0), points.max(axis=0)
    elif len(numbers) in (4, 5):
        low, high = numbers[:2] - numbers[2:4] / 2, numbers[:2] + numbers[2:4] / 2
    else:
        return None
    # Pixel centres at .0: the left edge of the picture lies at -0.5, which boxes of whole pixels pass over.
    return np.concatenate([low * scale, high * scale]).astype(np.float32)


def _lines(path: Path) -> list[list[str]]:
    if not path.is_file():
        return []
    return [line.split() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]


def _size(path: Path) -> tuple[int, int]:
    """Width and height of a picture when it is upright; of no meaning for one that cannot be decoded, which is told later."""
    try:
        return upright_size(path)
    except PictureError:
        return 1, 1


def _class_names(root: Path) -> dict[str, str]:
    """Number, as text -> name; empty where no file says it."""
    for path in sorted((*root.glob("*.yaml"), *root.glob("*.yml"))):
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError):
            continue
        names = content.get("names") if isinstance(content, dict) else None
        if isinstance(names, list):
            return {str(k): str(name) for k, name in enumerate(names)}
        if isinstance(names, dict):
            return {str(k): str(name) for k, name in names.items()}
    file = next((root / name for name in NAME_FILES if (root / name).is_file()), None)
    lines = file.read_text(encoding="utf-8", errors="replace").split("\n") if file is not None else []
    return {str(k): line.strip() for k, line in enumerate(lines) if line.strip()}
