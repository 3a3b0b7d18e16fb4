"""Pictures out of whatever a person names: files, folders, bytes, arrays. What cannot be read carries the reason."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mien.data.pictures import PictureError, load_picture
from mien.draw import rgb
from mien.schema import ByteArray

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".heic", ".heif", ".avif")
"""Files that count as pictures in a folder; a file that is named itself is always tried."""


class Picture(NamedTuple):
    """One picture on its way through a model."""

    source: str
    image: ByteArray | None
    """RGB (H, W, 3); None where it could not be read."""
    reason: str | None = None
    """Why it could not."""
    frame: int = 0
    """Number in its video from 0."""
    time: float | None = None
    """Seconds from the start of its video."""


def pictures_of(images: Any) -> Iterator[Picture]:
    """Pictures of what `FaceModel.predict` takes, in order."""
    several = isinstance(images, list | tuple) or (isinstance(images, np.ndarray) and images.ndim == 4)
    for number, image in enumerate(images if several else [images], start=1):
        if isinstance(image, str | Path):
            yield from pictures_at(Path(image))
        else:
            yield decoded(image, f"picture {number}")


def pictures_at(path: Path) -> Iterator[Picture]:
    """The picture at a path, or those of the folder there and below it, in name order."""
    if not path.is_dir():
        yield decoded(path, str(path))
        return
    found = 0
    for file, reason in walk(path):
        found += 1
        yield decoded(file, str(file)) if reason is None else Picture(str(file), None, reason)
    if not found:
        yield Picture(str(path), None, f"folder without pictures ({', '.join(SUFFIXES)})")


def walk(folder: Path, suffixes: tuple[str, ...] = SUFFIXES) -> Iterator[tuple[Path, str | None]]:
    """Files of a folder and below it in name order, hidden ones left out; a folder that cannot be read has a reason."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        yield folder, f"folder cannot be read ({error.strerror})"
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from walk(Path(entry.path), suffixes)
        elif Path(entry.name).suffix.lower() in suffixes:
            yield Path(entry.path), None


def decoded(image: Any, source: str) -> Picture:
    """A picture from its path, encoded bytes, PIL picture or uint8 array."""
    try:
        if not isinstance(image, Path | bytes | np.ndarray) and hasattr(image, "convert"):
            from PIL import ImageOps

            image = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        if not isinstance(image, Path | bytes | np.ndarray):
            raise PictureError(
                f"a {type(image).__name__} is no picture; give a path, bytes, PIL picture or uint8 array"
            )
        return Picture(source, np.ascontiguousarray(rgb(load_picture(image))))
    except PictureError as error:
        return Picture(source, None, str(error))
