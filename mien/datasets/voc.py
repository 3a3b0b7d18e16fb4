"""Pictures with face boxes as Pascal VOC wants them: an XML file a picture, beside it or in ``Annotations`` with ``JPEGImages``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from mien.data.arrow import Skipped
from mien.datasets.words import Labels, find_split, label_remedy, named
from mien.errors import UsageError
from mien.files import IMAGE_SUFFIXES, first_with, walk
from mien.schema import Record

BESIDE = {"annotations": ("JPEGImages", "images", "Images", "imgs"), "xmls": ("images",)}


def is_voc(root: Path) -> bool:
    """Whether the XML files of a folder are annotations of pictures."""
    first = first_with(root, ".xml")
    try:
        return first is not None and b"<annotation" in first.read_bytes()[:400] and bool(_objects(first))
    except OSError:
        return False


def records(root: Path, words: Labels) -> Iterator[Record | Skipped]:
    """One face an object, id = path of the picture, and its number behind # from the second on; a folder of the path says the split.

    UsageError where no class is an expression.
    """
    files = [path for path in walk(root) if path.suffix.lower() == ".xml"]
    found = {path: _objects(path) for path in files}
    classes = {name for faces in found.values() for name, _ in faces}
    if not any(named(name, words) is not None for name in classes):
        raise UsageError(
            f"'{root}': no class is an expression ({', '.join(sorted(classes))}); {label_remedy(classes)}."
        )
    for path in files:
        picture = _picture(path)
        if picture is None or not found[path]:
            yield Skipped(
                path.relative_to(root).as_posix(),
                "no picture of its name" if picture is None else "no face is labelled in it",
            )
            continue
        key = picture.relative_to(root).as_posix()
        split = next((s for part in reversed(key.split("/")[:-1]) if (s := find_split(part)) is not None), "train")
        for number, (name, box) in enumerate(found[path], 1):
            label, here = named(name, words), key if number == 1 else f"{key}#{number}"
            if not label:
                why = (
                    f"class '{name}' is no expression (--labels '{name}=...')"
                    if label is None
                    else "its class is left out by --labels"
                )
                yield Skipped(here, why)
            else:
                yield Record(here, picture, split=split, expression=label, box=np.array(box, dtype=np.float32))


def _objects(path: Path) -> list[tuple[str, list[float]]]:
    """(class, left top right bottom) of each object of a file; none where it cannot be read."""
    try:
        tree = ElementTree.parse(path)
        sides = ("xmin", "ymin", "xmax", "ymax")
        return [
            ((each.findtext("name") or "").strip(), [float(each.findtext(f"bndbox/{side}") or "nan") for side in sides])
            for each in tree.iter("object")
        ]
    except (ElementTree.ParseError, ValueError, OSError):
        return []


def _picture(path: Path) -> Path | None:
    """The picture of an XML file: beside it, or in the folder of pictures beside its folder."""
    folders = [path.parent, *(path.parent.parent / name for name in BESIDE.get(path.parent.name.lower(), ()))]
    places = (
        folder / f"{path.stem}{suffix}"
        for folder in folders
        for kind in IMAGE_SUFFIXES
        for suffix in (kind, kind.upper())
    )
    return next((place for place in places if place.is_file()), None)
