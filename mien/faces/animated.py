"""Animated pictures (GIF, PNG, WebP, AVIF) as the short videos that they are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mien.draw import rgb
from mien.errors import PictureError
from mien.faces.pictures import opened, pixels_of
from mien.faces.video import End, Shot

ANIMATED = ("AVIF", "GIF", "PNG", "WEBP")
"""Formats whose further frames follow the first one in time; those of TIFF and MPO are pages or views."""
MAGIC = (b"GIF8", b"\x89PNG", b"WEBP", b"ftypavis")
"""Near the beginning of such files."""
SHORTEST, INSTEAD = 0.011, 0.1
"""Browsers show a frame that asks for less than the first for the second, seconds; so does Mien."""


def is_animated(path: Path) -> bool:
    """Whether a file is a picture with frames that follow each other in time; False for one that cannot be read."""
    try:
        with open(path, "rb") as file:
            head = file.read(16)
        if not any(magic in head for magic in MAGIC):
            return False
        with opened(path) as picture:
            return picture.format in ANIMATED and bool(getattr(picture, "is_animated", False))
    except (OSError, PictureError):
        return False


def animated_shots(path: Path, every: int = 1, start: float = 0.0, end: float = math.inf) -> Iterator[Shot | End]:
    """Every `every`-th frame of an animated picture whose time lies in [start, end), once through, upright, alpha dropped.

    `rate` is that of the first frame. The last thing is an `End` where the file is damaged further on.
    """
    number, moment, rate = 0, 0.0, 0.0
    try:
        with opened(path) as picture:
            # A PNG may have a picture for readers that know no animations, which is none of its frames.
            place = int(bool(getattr(picture, "default_image", False)))
            while moment < end:
                try:
                    picture.seek(place)
                except EOFError:
                    return
                picture.load()  # only now it is known how long the frame stands
                length = float(picture.info.get("duration") or 0) / 1000
                length = length if SHORTEST <= length < math.inf else INSTEAD
                rate = rate or 1 / length
                if number % every == 0 and moment >= start:
                    pixels = np.ascontiguousarray(rgb(pixels_of(picture.copy(), in_place=False)))
                    yield Shot(number, moment, pixels, rate)
                number, moment, place = number + 1, moment + length, place + 1
    except PictureError as error:
        yield End(number, moment, str(error))
