"""CK+ (Lucey et al. 2010, doi 10.1109/CVPRW.2010.5543262) as released: sequences of pictures with files beside them for some frames.

``cohn-kanade-images/S005/001/S005_001_00000011.png``, ``Emotion/.../S005_001_00000011_emotion.txt`` (one number),
``FACS/.../S005_001_00000011_facs.txt`` (an action unit and its intensity a line) and ``Landmarks/..._landmarks.txt`` (68 lines, x y).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mien.data.arrow import Skipped
from mien.data.au_scale import PRESENT
from mien.errors import DataError
from mien.faces.landmark_files import read_landmarks
from mien.files import IMAGE_SUFFIXES, walk
from mien.schema import ACTION_UNITS, FloatArray, Record

EMOTIONS = ("Neutral", "Anger", "Contempt", "Disgust", "Fear", "Happiness", "Sadness", "Surprise")
"""The numbers in the emotion files."""
ENDS = ("_emotion.txt", "_facs.txt", "_landmarks.txt")


def find_files(root: Path) -> dict[str, dict[str, Path]]:
    """End of a name (ENDS) -> stem of a frame -> its file, anywhere below `root`."""
    found: dict[str, dict[str, Path]] = {end: {} for end in ENDS}
    for path in walk(root):
        for end in ENDS:
            if path.name.lower().endswith(end):
                found[end][path.name[: -len(end)]] = path
    return found


def records(root: Path, files: dict[str, dict[str, Path]]) -> Iterator[Record | Skipped]:
    """Frames with an emotion or a FACS file in the order of their paths, id = path; all are `train`.

    Units that any FACS file names are known in every coded frame: listed ones with their intensity 0 to 5, others absent. An
    intensity of 0 means that the unit is there and its strength was not coded; it is kept as 5, which a line on stderr counts.
    """
    emotions = {stem: name for stem, path in files[ENDS[0]].items() if (name := _emotion(path)) is not None}
    coded = {stem: listed for stem, path in files[ENDS[1]].items() if (listed := _units(path)) is not None}
    names = [name for name in ACTION_UNITS if any(name in listed for listed in coded.values())]
    if bare := sum(value == 0 for listed in coded.values() for value in listed.values()):
        print(
            f"FACS files: {bare} units without a strength, of {len(coded)} frames, are kept as {PRESENT:g}",
            file=sys.stderr,
        )
    for path in walk(root):
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        key, stem = path.relative_to(root).as_posix(), path.stem
        if stem not in emotions and stem not in coded:
            yield Skipped(key, "no emotion or FACS file of this frame")
            continue
        units = _row(coded[stem], names) if stem in coded else None
        points = _landmarks(files[ENDS[2]].get(stem))
        yield Record(key, path, expression=emotions.get(stem), action_units=units, landmarks=points)


def _emotion(path: Path) -> str | None:
    text = path.read_text(encoding="utf-8", errors="replace").strip()
    code = re.fullmatch(r"(\d)(?:\.0*)?(?:e\+0+)?", text)
    return EMOTIONS[int(code[1])] if code and int(code[1]) < len(EMOTIONS) else None


def _units(path: Path) -> dict[str, float] | None:
    """Action unit -> intensity of a FACS file, those that Mien has no name for left out; None for a file that is no such."""
    found: dict[str, float] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if not line.strip():
            continue
        try:
            unit, value = map(float, re.split(r"[,;\s]+", line.strip()))
        except ValueError:
            return None
        if unit != int(unit) or not 0 <= value <= 5:
            return None
        if f"AU{int(unit)}" in ACTION_UNITS:
            found[f"AU{int(unit)}"] = value
    return found


def _row(units: dict[str, float], names: list[str]) -> FloatArray | None:
    """(A,) intensities."""
    values = np.full(len(ACTION_UNITS), np.nan, dtype=np.float32)
    for name in names:
        values[ACTION_UNITS.index(name)] = (units[name] or PRESENT) if name in units else 0.0
    return values if names else None


def _landmarks(path: Path | None) -> FloatArray | None:
    try:
        return None if path is None else next(iter(read_landmarks(path, "x-y").values()))
    except DataError:
        return None
