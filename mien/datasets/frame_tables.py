"""Tables of videos, one a video, whose rows have the number of a frame and no picture: GFT, OpenFace's output, coders' files."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mien.datasets.spread import Spread
from mien.errors import DataError
from mien.faces.frame_order import FRAMES, SHIFTS, in_order
from mien.faces.landmark_tables import AXIS_FIRST
from mien.faces.text_table import is_picture_name, number, open_table
from mien.files import IMAGE_SUFFIXES, walk

ASIDE = ("aligned", "frames", "images", "imgs", "faces", "crops")
"""What may stand behind a video's name in that of its folder of pictures."""
FEWEST = 0.5
"""Share of a table's frames that must have a picture."""


class Frames(NamedTuple):
    """How the frames of a table become pictures."""

    column: str
    pictures: dict[int, str]
    """Number in a picture's name -> path below the root."""
    aligned: bool
    """Whether the pictures were cut out of the video's, so that points of the table do not lie on them."""


def frame_column(path: Path, names: Sequence[str]) -> str | None:
    """The column with numbers of frames, of a table without pictures; None for other tables."""
    bare = {re.sub(r"[\W_]+", "", name).lower(): name for name in names}
    found = next((bare[word] for word in FRAMES if word in bare), None)
    if found is None or path.suffix.lower() not in (".csv", ".tsv", ".txt"):
        return None
    _, cells = next(open_table(path, True).body(), (0, []))
    return None if not cells or any(map(is_picture_name, cells)) else found


def frames_of(tables: Sequence[tuple[Path, Sequence[str]]], root: Path) -> list[Frames] | None:
    """Of each table (path, names of its columns) how its frames are found in a folder of the table's name below `root`.

    None where a table is no table of frames. Numbers of pictures are those of frames, or one more or less where more of them fit
    so in all tables together, which a line on stderr tells.

    Raises:
        DataError: a table of frames without pictures, with what to do.

    """
    columns = [frame_column(path, names) for path, names in tables]
    if not tables or None in columns:
        return None
    folders = _folders(root)
    found, numbers = [], []
    for (path, names), column in zip(tables, columns, strict=True):
        assert column is not None
        aligned, pictures = _pictures(path.stem, folders)
        frames = _numbers(path, list(names).index(column))
        if not pictures and len(tables) == 1 and frames:
            aligned, pictures = _only_folder(root, frames, path)
        if not pictures or not frames:
            raise DataError(
                f"'{path}' has frames ('{column}') and no pictures: put those of a video into a folder '{path.stem}', named by their "
                "numbers, give their folder with --pictures FOLDER, or add a column 'image' with their paths."
            )
        found.append(Frames(column, pictures, aligned))
        numbers.append(frames)
    fits = {
        shift: sum(sum(n + shift in f.pictures for n in some) for f, some in zip(found, numbers, strict=True))
        for shift in SHIFTS
    }
    shift = max(SHIFTS, key=lambda each: fits[each])
    if fits[shift] < FEWEST * sum(map(len, numbers)):
        raise DataError(
            f"'{tables[0][0]}': of {sum(map(len, numbers))} frames only {fits[shift]} have a picture of their number."
        )
    first = numbers[0][0]
    shown = found[0].pictures.get(first + shift, "no picture")
    line = (
        f"frames: '{found[0].column}' {first} of '{tables[0][0].name}' is '{shown}'; the subject is the table's name."
    )
    if (tables[0][0], line) not in _TOLD:
        _TOLD.add((tables[0][0], line))
        print(line, file=sys.stderr)
    return [each._replace(pictures={n - shift: name for n, name in each.pictures.items()}) for each in found]


_TOLD: set[tuple[Path, str]] = set()


def with_pictures(frames: Frames, stem: str) -> Spread:
    """How a frame's number becomes a picture, a subject and an id."""

    def read(cell: Any) -> list[str]:
        value = number(str(cell))
        picture = frames.pictures.get(int(value)) if value is not None and value == int(value) else None
        return [picture or f"{stem}/no picture of frame {cell}", stem]

    return Spread(frames.column, ("image", "subject"), read)


def kept_names(frames: Frames, names: Sequence[str]) -> tuple[str, ...]:
    """Columns of a table, without points that do not lie on its pictures."""
    return tuple(name for name in names if not (frames.aligned and AXIS_FIRST.match(name.strip().lower())))


def _folders(root: Path) -> dict[str, dict[int, str]]:
    """Name of a folder, also with that of the folder around it (``F001_T1``) -> number in a picture's name -> path below the root."""
    found: dict[str, dict[int, str]] = {}
    for path in walk(root):
        digits = re.search(r"(\d+)$", path.stem)
        if path.suffix.lower() not in IMAGE_SUFFIXES or digits is None:
            continue
        name = path.relative_to(root).as_posix()
        video = path.stem[: digits.start()].rstrip("_-. ")  # 001A_0012.jpg
        for key in {path.parent.name, f"{path.parent.parent.name}_{path.parent.name}", video}:
            found.setdefault(key.lower(), {})[int(digits[1])] = name
    return found


def _pictures(stem: str, folders: dict[str, dict[int, str]]) -> tuple[bool, dict[int, str]]:
    """Whether they are cut out, and the pictures of a video."""
    for word in ("", *ASIDE):
        key = f"{stem}_{word}".rstrip("_").lower()
        if key in folders:
            return word == "aligned", folders[key]
    return False, {}


def _only_folder(root: Path, frames: list[int], table: Path) -> tuple[bool, dict[int, str]]:
    """As `_pictures`, of the only video: all pictures below a folder, whatever it is called; none where there are no pictures."""
    names = [path.relative_to(root).as_posix() for path in walk(root) if path.suffix.lower() in IMAGE_SUFFIXES]
    if not names:
        return False, {}
    found = in_order(frames, names, f"'{table}'")
    return (root / names[0]).parent.name.lower().endswith("aligned"), found


def _numbers(path: Path, at: int) -> list[int]:
    cells = (row[at] for _, row in open_table(path, True).body() if len(row) > at)
    return [int(value) for cell in cells if (value := number(cell)) is not None and value == int(value)]
