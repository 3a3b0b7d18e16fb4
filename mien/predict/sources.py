"""Pictures out of whatever a person names: files, folders, videos, a camera, bytes, arrays; one in memory at a time.

What cannot be read is a `Picture` without an image that carries the reason.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from mien.draw import is_drawn, rgb
from mien.errors import DataError, PictureError
from mien.faces.animated import animated_shots, is_animated
from mien.faces.containers import cut_off, only_sound
from mien.faces.live import address_of, live_shots, shown
from mien.faces.pictures import A_VIDEO, SOUND, UNKNOWN, load_picture, what_it_is
from mien.faces.video import VIDEO_SUFFIXES, End, Shot, is_opened_by_opencv, shots
from mien.files import name_of
from mien.schema import ByteArray

PICTURE_SUFFIXES = (
    ".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2",
    ".mpo", ".apng", ".ppm", ".pgm",
)  # fmt: skip
"""Files that count as pictures in a folder; a file that is named itself is always tried, whatever its name."""
VIDEO_MAGIC = (
    b"ftyp", b"AVI LIST", b"\x1aE\xdf\xa3", b"\x00\x00\x01\xba", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", b"FLV\x01", b"OggS",
)  # fmt: skip
"""Bytes near the beginning of MP4 and MOV, AVI, Matroska and WebM, MPEG, WMV, FLV and Ogg files."""
PACKETS = ((0, 188), (4, 192))
"""Where the first byte of a transport stream's (.ts; .mts of camcorders) packets lies, and how long one is."""
PICTURE_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"WEBP", b"II*\x00", b"MM\x00*")
"""Bytes near the beginning of JPEG, PNG, GIF, WebP and TIFF files."""


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
    """Seconds from the first frame of its video, by presentation timestamps; of a camera or stream since it was opened."""
    size: tuple[int, int] = (0, 0)
    """(width, height), which outlives the image."""
    rate: float = 0.0
    """Frames that are taken of its video in a second."""


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
    if not os.path.isdir(path):  # Path.is_dir raises for a name that is too long
        yield decoded(path, name_of(path))
        return
    found = 0
    for file, reason in walk(path, PICTURE_SUFFIXES):
        found += 1
        yield decoded(file, name_of(file)) if reason is None else Picture(name_of(file), None, reason)
    if not found:
        yield Picture(name_of(path), None, without(path, f"pictures ({', '.join(PICTURE_SUFFIXES)})"))


def walk(folder: Path, suffixes: tuple[str, ...]) -> Iterator[tuple[Path, str | None]]:
    """Files of a folder and below it in name order; a folder that cannot be read has a reason.

    Left out are hidden files and pictures that Mien itself has drawn (overlays, sheets).
    """
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
        elif (ending := Path(entry.name).suffix.lower()) in suffixes and not (
            ending == ".png" and is_drawn(Path(entry.path))
        ):
            yield Path(entry.path), None


def without(folder: Path, what: str) -> str:
    """Why `walk` found nothing in a folder; pictures of Mien's own that it left out are counted."""
    drawn = sum(
        name.lower().endswith(".png") and not name.startswith(".") and is_drawn(Path(place, name))
        for place, _, names in os.walk(folder)
        for name in names
    )
    left_out = f"; {drawn} that Mien itself has drawn are left out, name each to take it" if drawn else ""
    return f"folder without {what}{left_out}"


def decoded(image: Any, source: str) -> Picture:
    """A picture from its path, encoded bytes, PIL picture or uint8 array."""
    from PIL import Image

    try:
        if not isinstance(image, Path | bytes | np.ndarray | Image.Image):
            raise PictureError(
                f"a {type(image).__name__} is no picture; give a path, bytes, PIL picture or uint8 array"
            )
        pixels = np.ascontiguousarray(rgb(load_picture(image)))
        return Picture(source, pixels, size=(pixels.shape[1], pixels.shape[0]))
    except PictureError as error:
        return Picture(source, None, str(error))
    except OSError as error:
        return Picture(source, None, f"cannot be read ({error.strerror or error})")


def is_video(path: Path) -> bool:
    """A file that begins as videos do, or has the name of one and does not begin as a picture does; or an animated picture."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would wait for ever
            return False
        with open(path, "rb") as file:
            head = file.read(512)
    except (OSError, ValueError):
        return False
    if any(magic in head[:16] for magic in (b"ftyphei", b"ftypmif1", b"ftypavi", b"ftypcrx", *PICTURE_MAGIC)):
        return is_animated(path)
    if any(len(head) == 512 and head[at : 3 * step : step] == b"GGG" for at, step in PACKETS):
        return True
    return any(magic in head[:16] for magic in VIDEO_MAGIC) or path.suffix.lower() in VIDEO_SUFFIXES


def files_of(paths: Iterable[Path], stdin: IO[bytes] | None = None) -> Iterator[tuple[Path | bytes, str | None]]:
    """Files of paths and folders, with the reason where one cannot be read; `-` is standard input.

    Standard input holds one encoded picture, or a list of paths, one a line. A path in the list may be a folder, too.
    """
    for path in paths:
        if address_of(str(path)) is not None:
            yield path, None
            continue
        if str(path) == "-" and stdin is not None:
            yield from _standard_input(stdin)
            continue
        try:
            folder = stat.S_ISDIR(path.stat().st_mode)
        except (FileNotFoundError, NotADirectoryError, ValueError):
            yield path, "no such file"
            continue
        except OSError as error:
            yield path, f"cannot be read ({error.strerror})"
            continue
        if not folder:
            yield path, None
            continue
        empty = True
        for found in walk(path, (*PICTURE_SUFFIXES, *VIDEO_SUFFIXES)):
            empty = False
            yield found
        if empty:
            yield path, without(path, "pictures or videos")


def _standard_input(stdin: IO[bytes]) -> Iterator[tuple[Path | bytes, str | None]]:
    head = stdin.readline()
    if not head:
        raise DataError("nothing came on standard input; pipe a list of paths or one picture into `mien predict -`.")
    if any(magic in head[:16] for magic in PICTURE_MAGIC) or b"\x00" in head:
        yield head + stdin.read(), None
        return
    lines = (line.decode("utf-8", "surrogateescape").strip() for line in _chain(head, stdin))
    yield from files_of(Path(line) for line in lines if line)


def _chain(head: bytes, rest: Iterable[bytes]) -> Iterator[bytes]:
    yield head
    yield from rest


def pictures_in(
    file: Path | bytes, reason: str | None, every: int = 1, seconds: float = 0.0, start: float = 0.0
) -> Iterator[Picture]:
    """The picture of a file, or the frames of a video, as `frames`."""
    if isinstance(file, bytes):
        yield decoded(file, "standard input")
    elif (address := address_of(str(file))) is not None:
        yield from frames(address, every, seconds, start)
    elif reason is not None:
        yield Picture(name_of(file), None, reason)
    elif is_video(file):
        yield from frames(file, every, seconds, start)
    else:
        yield decoded(file, name_of(file))


def frames(video: Path | str | int, every: int = 1, seconds: float = 0.0, start: float = 0.0) -> Iterator[Picture]:
    """Every `every`-th frame of a video file, network stream or camera from `start` on, for `seconds` (0: to the end).

    Times are those of `mien.faces.video.Shot`. A file without a readable frame gives one `Picture` with the reason, as does
    one that is damaged further on; a camera or stream that is not there is a DataError.
    """
    source = f"camera {video}" if isinstance(video, int) else shown(video) if isinstance(video, str) else name_of(video)
    end = start + seconds if seconds else math.inf
    if isinstance(video, str):
        found: Iterator[Shot | End] = live_shots(video, every, start, end)
    elif isinstance(video, Path) and not is_opened_by_opencv(video):
        yield Picture(source, None, "OpenCV opens no video whose path is not UTF-8; rename it")
        return
    elif isinstance(video, Path) and only_sound(video):
        yield Picture(source, None, SOUND)  # a cover is no video
        return
    elif isinstance(video, Path) and is_animated(video):
        found = animated_shots(video, every, start, end)
    else:
        found = shots(video, every, start, end)
    some = False
    for shot in found:
        some = True
        if isinstance(shot, End):
            yield Picture(source, None, shot.reason, shot.number, shot.time)
        else:
            size = (shot.pixels.shape[1], shot.pixels.shape[0])
            yield Picture(source, shot.pixels, frame=shot.number, time=shot.time, size=size, rate=shot.rate / every)
    if not some and isinstance(video, Path):
        yield Picture(source, None, unreadable(video, start))


def unreadable(video: Path, start: float) -> str:
    """Why a video file gave no frame from a second on."""
    read = animated_shots if is_animated(video) else shots
    if start and any(isinstance(shot, Shot) for shot in read(video, start=start)):
        return "no frame of this video lies in the part that --start, --seconds and --every take"
    if start and any(isinstance(shot, Shot) for shot in read(video)):
        return f"the video ends before --start {start:g}"
    words = what_it_is(video)
    if words not in (A_VIDEO, UNKNOWN):
        return words
    if cut_off(video):
        return "a damaged video: the file is cut off, and no frame can be read"
    return "video without a readable frame: only sound, pictures of a kind that is not known, or damaged"
