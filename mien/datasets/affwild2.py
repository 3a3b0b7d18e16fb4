"""Aff-Wild2 (Kollias and Zafeiriou 2019, arXiv 1910.04855): videos from the web, annotated frame by frame in text files.

As its challenges (ABAW) release it: ``.../EXPR_Classification_Challenge/Train_Set/video.txt`` whose first line names the classes and
whose line k + 1 is the number of frame k's class, the like for action units (0, 1) and for valence and arousal, and the frames of the
videos' faces, ``cropped_aligned/video/00001.jpg``, counted from 1. -1, and -5 for valence, mean that a frame is not annotated.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mien.data.arrow import Skipped
from mien.data.au_scale import intensity, unit_of
from mien.datasets.words import find_expression, find_split
from mien.errors import DataError
from mien.faces.text_table import number, open_table
from mien.files import IMAGE_SUFFIXES, walk
from mien.schema import ACTION_UNITS, FloatArray, Record

AFFECT = ("valence", "arousal")
UNKNOWN = (-5.0, -2.0)
"""Of valence and arousal."""


class Annotation(NamedTuple):
    """One text file."""

    path: Path
    split: str
    names: tuple[str, ...]
    """Of the first line: classes in the order of their numbers, action units, or valence and arousal."""

    @property
    def kind(self) -> str:
        """expression, units or affect."""
        if set(self.names) <= {*AFFECT}:
            return "affect"
        return "units" if all(unit_of(name) for name in self.names) else "expression"


def records(root: Path) -> Iterator[Record | Skipped]:
    """Annotated frames by video, id = path of the picture; a frame has what any of its video's files say.

    Splits are those of the files' folders (Train_Set, Validation_Set); the same video has one only. The subject is not known, so
    that whole videos are held together: the subject is the video's name without ``_left`` and ``_right``. Frames without a picture,
    and those without any annotation, are left out; the latter are listed. Classes that are no expression (Other) are no label.

    DataError where there are no such files, or no folder of frames for any.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"folder '{root}' does not exist: give the folder with the annotations and the frames.")
    videos: dict[str, list[Annotation]] = {}
    for found in find_annotations(root):
        videos.setdefault(found.path.stem, []).append(found)
    if not videos:
        raise DataError(
            f"'{root}' is not Aff-Wild2: no text file in it begins with a line such as 'Neutral,Anger,Disgust,Fear,Happiness,"
            "Sadness,Surprise,Other', 'AU1,AU2,AU4,...' or 'valence,arousal'."
        )
    frames = _frames(root)
    if not set(videos) & set(frames):
        raise DataError(
            f"'{root}' has annotations of {len(videos)} videos (first: {next(iter(videos))}) and no folder of frames of such a name, "
            "as cropped_aligned/VIDEO/00001.jpg: unpack the cropped and aligned pictures there."
        )
    for video, files in sorted(videos.items()):
        yield from _of_video(root, video, files, frames.get(video, {}))


def find_annotations(root: Path) -> list[Annotation]:
    """Text files whose first line names classes, action units, or valence and arousal, and whose others are numbers."""
    found = []
    for path in (path for path in walk(root) if path.suffix.lower() == ".txt"):
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            names = tuple(name.strip() for name in file.readline(500).split(","))
            second = file.readline(500).strip().split(",")
        known = sum(bool(unit_of(name) or find_expression(name) or name.lower() in AFFECT) for name in names)
        if len(names) > 1 and known >= len(names) - 1 and all(number(cell) is not None for cell in second):
            parts = path.relative_to(root).parts[:-1]
            split = next((split for part in reversed(parts) if (split := find_split(part)) is not None), "train")
            found.append(Annotation(path, split, tuple(map(str.lower, names))))
    return found


def notes(root: Path) -> dict[str, str]:
    """What the store should remember."""
    del root
    return {
        "source": "Aff-Wild2, Kollias and Zafeiriou 2019",
        "licence": "non-commercial research under Aff-Wild2's agreement; pictures may not be redistributed",
        "au_scale": "occurrence",
    }


def _frames(root: Path) -> dict[str, dict[int, Path]]:
    """Video -> number of a frame, from 1 -> picture."""
    found: dict[str, dict[int, Path]] = {}
    for path in walk(root):
        if path.suffix.lower() in IMAGE_SUFFIXES and path.stem.isdigit():
            found.setdefault(path.parent.name, {})[int(path.stem)] = path
    return found


def _of_video(root: Path, video: str, files: list[Annotation], frames: dict[int, Path]) -> Iterator[Record | Skipped]:
    splits = sorted({file.split for file in files})
    if len(splits) > 1:
        yield Skipped(video, f"its annotations are in {' and '.join(splits)}: one folder must go")
        return
    if not frames:
        yield Skipped(video, "no folder of its frames")
        return
    rows = {
        file.kind: (file, dict(enumerate((cells for _, cells in open_table(file.path, header=True).body()), 1)))
        for file in files
    }
    who = re.sub(r"_(?:left|right)$", "", video)
    for frame, picture in sorted(frames.items()):
        cells = {kind: (file.names, row.get(frame, [])) for kind, (file, row) in rows.items()}
        expression = _expression(*cells["expression"]) if "expression" in cells else None
        units = _units(*cells["units"]) if "units" in cells else None
        affect = _affect(*cells["affect"]) if "affect" in cells else {}
        key = picture.relative_to(root).as_posix()
        if expression is None and units is None and not affect:
            yield Skipped(key, "this frame is not annotated")
        else:
            yield Record(
                key, picture, splits[0], who, expression, action_units=units, attributes={"video": video, **affect}
            )


def _expression(names: tuple[str, ...], cells: list[str]) -> str | None:
    code = number(cells[0]) if cells else None
    return find_expression(names[int(code)]) if code is not None and 0 <= code < len(names) else None


def _units(names: tuple[str, ...], cells: list[str]) -> FloatArray | None:
    """(A,) 0 and 5, NaN where a unit is not coded; None where none is."""
    values = np.full(len(ACTION_UNITS), np.nan, dtype=np.float32)
    for name, cell in zip(names, cells, strict=False):
        unit, value = unit_of(name), intensity(cell, "occurrence")
        if unit is not None and value is not None:
            values[ACTION_UNITS.index(unit[0])] = value
    return values if np.isfinite(values).any() else None


def _affect(names: tuple[str, ...], cells: list[str]) -> dict[str, str | float]:
    values = {name: number(cell) for name, cell in zip(names, cells, strict=False)}
    known = {name: value for name, value in values.items() if value is not None and value not in UNKNOWN}
    return {name: value for name, value in known.items() if math.fabs(value) <= 1}
