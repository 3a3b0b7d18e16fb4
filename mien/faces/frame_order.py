"""Which picture a frame of a table belongs to, where the table has numbers of frames and no names of pictures (OpenFace's output)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from mien.errors import DataError
from mien.faces.landmark_tables import ID_NAMES
from mien.faces.text_table import number, open_table

FRAMES = ("frame", "frames", "frameid", "framenumber", "frameno", "framenum", "frameindex", "frameidx", "framenr")
"""Names of the column, in lower case without blanks and signs."""
SHIFTS = (0, 1, -1)


def natural(name: str) -> list[str | tuple[int, str]]:
    """A key that sorts f2 before f10."""
    return [part if k % 2 == 0 else (int(part), part) for k, part in enumerate(re.split(r"(\d+)", name))]


def last_number(name: str) -> int | None:
    """The number at the end of a picture's name, before its suffix; None without one."""
    found = re.search(r"(\d+)$", PurePosixPath(name).stem)
    return int(found[1]) if found else None


def is_sequence(path: Path) -> bool:
    """Whether a landmark file is a table of the frames of one video: numbers of frames, and no names of pictures."""
    if path.suffix.lower() not in (".csv", ".tsv", ".txt") or not path.is_file():
        return False
    table = open_table(path)
    bare = [re.sub(r"[\W_]+", "", name).lower() for name in table.header or ()]
    at = next((k for k, name in enumerate(bare[:3]) if name in FRAMES), None)
    if at is None or {*ID_NAMES} & {*bare}:
        return False
    _, cells = next(table.body(), (0, []))
    return len(cells) > at and number(cells[at]) is not None


def in_order(frames: Sequence[int], pictures: Sequence[str], where: str) -> dict[int, str]:
    """Frame -> picture, of a table of one video and the pictures (relative paths) of its frames.

    The numbers in the names of the pictures are those of the frames, or one more or less throughout; else the n-th frame belongs to
    the n-th picture in natural order, where there are as many.

    Raises:
        DataError: pictures in several folders, or another number of them, with what to do.

    """
    cure = "write the name of each frame's picture into a column 'image'"
    places = sorted({str(PurePosixPath(name).parent) for name in pictures})
    if len(places) > 1:
        raise DataError(
            f"{where}: numbers of frames and no names, and pictures in {len(places)} folders ({', '.join(places[:3])}): give one "
            f"table and one folder a video, or {cure}."
        )
    numbers = {name: number for name in pictures if (number := last_number(name)) is not None}
    if len({*numbers.values()}) == len(pictures) == len(numbers):
        by_number = {number: name for name, number in numbers.items()}
        for shift in SHIFTS:
            if {frame + shift for frame in frames} == {*by_number}:
                return {frame: by_number[frame + shift] for frame in frames}
    order = sorted({*frames})
    if len(order) != len(pictures):
        raise DataError(
            f"{where}: {len(order)} frames and {len(pictures)} pictures, whose numbers do not agree either, so nobody knows which "
            f"belongs to which: {cure}."
        )
    return dict(zip(order, sorted(pictures, key=natural), strict=True))
