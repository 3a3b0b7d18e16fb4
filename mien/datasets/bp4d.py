"""BP4D-Spontaneous (Zhang et al. 2014, doi 10.1016/j.imavis.2014.06.002): 41 people in eight tasks, action units present or not.

Layout as released: ``AUCoding/AU_OCC/F001_T1.csv`` with the header ``0,1,2,4,...`` (0 is the frame; 9 in a cell is unknown),
``AUCoding/AU_INT/AU06/F001_T1_AU06.csv`` (frame and intensity 0 to 5, of five units) and the pictures ``2D+3D/F001/T1/2440.jpg``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mien.data.arrow import Skipped
from mien.data.au_folds import split_of_subject
from mien.data.au_scale import intensity
from mien.datasets import graph_au
from mien.errors import DataError, unknown_name
from mien.faces.text_table import open_table
from mien.files import IMAGE_SUFFIXES, listing, walk
from mien.schema import ACTION_UNITS, FloatArray, Record

CODES = ("AUCoding/AU_OCC", "AU_OCC", "AUCoding")
PICTURES = ("Sequences(2D+3D)", "2D+3D", "BP4D-training", "2D", "Sequences", "Images", "images", "imgs", ".")
STRENGTHS = ("AUCoding/AU_INT", "AU_INT")
STRENGTH = re.compile(r"([FM]\d+_T\d+)_AU0*(\d+)\.csv", re.IGNORECASE)
FOLD = "literature-1"


def records(root: Path, *, fold: str | None = None, au_scale: str | None = None) -> Iterator[Record | Skipped]:
    """Coded frames by subject, task and frame, id as in AUDetNet: ``M001_T2_0232``, digits as in the file name.

    `root` is the folder with ``AUCoding`` and the pictures. `fold` (default literature-1; also published-1, ...) says which
    subjects are split `test`; all others are `train`, and "none" puts all there (BP4D+, whose people are in no list).
    Occurrences are kept as 0 and 5, unknown ones as NaN. With `au_scale` "intensity", or without occurrences, the coded intensities of
    five units (AU_INT) are read in their place. Frames without a picture, with an odd code, or without any known code are skipped.
    Lists of ME-GraphAU are read by `graph_au`, with `fold` 1 to 3.
    """
    root = Path(root)
    if au_scale not in (None, *SCALES):
        raise unknown_name("scale of action units of bp4d", str(au_scale), SCALES)
    if lists := graph_au.find_lists(root, "bp4d"):
        yield from graph_au.records(lists, root, "bp4d", fold)
        return
    videos = _strengths(root) if _kind(root, au_scale) == "intensity" else _occurrences(root)
    pictures = next((root / name for name in PICTURES if any((root / name).glob("[FM][0-9]*/T*"))), None)
    if pictures is None:
        raise DataError(f"'{root}' has no pictures such as 2D+3D/F001/T1/2440.jpg.")
    for video, rows in videos:
        subject, _, task = video.partition("_")
        split = split_of_subject("bp4d", fold or FOLD, subject)
        files = _files(pictures / subject / task)
        for frame, row in rows:
            picture = files.get(frame)
            name = f"{subject}_{task}_{picture.stem if picture is not None else frame}"
            if isinstance(row, str):
                yield Skipped(name, row)
            elif picture is None:
                yield Skipped(name, f"no picture {subject}/{task}/{frame}")
            else:
                yield Record(name, picture, split, subject, action_units=row, attributes={"task": task})


SCALES = ("occurrence", "intensity")


def _kind(root: Path, asked: str | None) -> str:
    """Occurrences where they are there, unless intensities are asked for."""
    return asked or ("occurrence" if _folder(root, CODES) or not _strength_files(root) else "intensity")


def _folder(root: Path, names: tuple[str, ...]) -> Path | None:
    return next((root / name for name in names if any((root / name).glob("*_T*.csv"))), None)


def _occurrences(root: Path) -> Iterator[tuple[str, Iterator[tuple[int, FloatArray | str]]]]:
    """Video (F001_T1) and its coded frames."""
    codes = _folder(root, CODES)
    if codes is None:
        raise DataError(f"'{root}' is not BP4D: no AUCoding/AU_OCC/F001_T1.csv or the like in it.")
    return ((path.stem, read_codes(path)) for path in listing(codes) if path.match("*_T*.csv"))


def _strength_files(root: Path) -> dict[str, dict[str, Path]]:
    """Video (F001_T1) -> action unit -> file of its intensities."""
    found: dict[str, dict[str, Path]] = {}
    for path in (path for name in STRENGTHS if (root / name).is_dir() for path in walk(root / name)):
        if (name := STRENGTH.fullmatch(path.name)) and f"AU{name[2]}" in ACTION_UNITS:
            found.setdefault(name[1], {})[f"AU{name[2]}"] = path
    return found


def _strengths(root: Path) -> Iterator[tuple[str, Iterator[tuple[int, FloatArray | str]]]]:
    """Video and its frames with intensities 0 to 5; 9 is unknown."""
    files = _strength_files(root)
    if not files:
        raise DataError(f"'{root}' has no intensities: AUCoding/AU_INT/AU06/F001_T1_AU06.csv or the like.")
    for video, units in sorted(files.items()):
        frames: dict[int, dict[str, str]] = {}
        for unit, path in units.items():
            for line, row in open_table(path, header=False).rows():
                if len(row) != 2 or not row[0].isdigit():
                    if line == 1:
                        continue  # a header
                    raise DataError(
                        f"'{path}', line {line}: a frame and an intensity expected, found {','.join(row[:4])}."
                    )
                frames.setdefault(int(row[0]), {})[unit] = row[1]
        yield video, ((frame, _strength_row(cells)) for frame, cells in sorted(frames.items()))


def _strength_row(cells: dict[str, str]) -> FloatArray | str:
    values = np.full(len(ACTION_UNITS), np.nan, dtype=np.float32)
    for unit, cell in cells.items():
        value = intensity(cell, "intensity")
        if value is None:
            return f"{unit} is '{cell}', none of 0 to 5, 9"
        values[ACTION_UNITS.index(unit)] = value
    return values if np.isfinite(values).any() else "no action unit is coded"


def notes(root: Path, *, fold: str | None = None, au_scale: str | None = None) -> dict[str, str]:
    """What the store should remember."""
    return {
        "source": "BP4D-Spontaneous, Zhang et al. 2014",
        "licence": "research under BP4D's agreement; pictures may not be redistributed",
        "fold": fold or FOLD,
        "au_scale": _kind(Path(root), au_scale),
    }


def _files(folder: Path) -> dict[int, Path]:
    """Frame -> picture."""
    if not folder.is_dir():
        return {}
    files = (path for path in sorted(folder.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES)
    return {int(path.stem): path for path in files if path.stem.isdigit()}


def read_codes(path: Path) -> Iterator[tuple[int, FloatArray | str]]:
    """Frame and (A,) intensities 0 or 5 over schema.ACTION_UNITS, or the reason why the row cannot be used.

    Columns of units that Mien has no name for are left out. A first line that repeats a number is no header but codes: DataError,
    as for a frame that is no number.
    """
    table = open_table(path, header=True)
    header = [re.sub(r"^AU0*", "", cell.strip()) for cell in table.header or ()]
    columns = {f"AU{cell}": k for k, cell in enumerate(header) if k and f"AU{cell}" in ACTION_UNITS}
    if not columns or len(set(header)) < len(header):
        raise DataError(
            f"'{path}' needs the header 0,1,2,4,...: the frame, then numbers of action units; without this line nothing says "
            "which column is which unit. Add it, as in the files of the release."
        )
    for line, row in table.body():
        if not row[0].isdigit():
            raise DataError(f"'{path}', line {line}: '{row[0]}' is no frame number.")
        yield int(row[0]), _row(row, columns)


def _row(row: list[str], columns: dict[str, int]) -> FloatArray | str:
    values = np.full(len(ACTION_UNITS), np.nan, dtype=np.float32)
    for name, k in columns.items():
        cell = row[k] if k < len(row) else ""
        value = intensity(cell, "occurrence")
        if value is None:
            return f"{name} is '{cell}', none of 0, 1, 9"
        values[ACTION_UNITS.index(name)] = value
    return values if np.isfinite(values).any() else "no action unit is coded"
