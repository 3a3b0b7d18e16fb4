"""BP4D-Spontaneous (Zhang et al. 2014, doi 10.1016/j.imavis.2014.06.002): 41 people in eight tasks, action units present or not.

Layout as released: ``AUCoding/AU_OCC/F001_T1.csv`` with the header ``0,1,2,4,...`` (0 is the frame; 9 in a cell is unknown)
and the pictures ``2D+3D/F001/T1/2440.jpg``.
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
from mien.errors import DataError
from mien.faces.text_table import open_table
from mien.files import IMAGE_SUFFIXES, listing
from mien.schema import ACTION_UNITS, FloatArray, Record

CODES = ("AUCoding/AU_OCC", "AU_OCC", "AUCoding")
PICTURES = ("Sequences(2D+3D)", "2D+3D", "BP4D-training", "2D", "Sequences", "Images", "images", "imgs", ".")
FOLD = "literature-1"


def records(root: Path, *, fold: str | None = None) -> Iterator[Record | Skipped]:
    """Coded frames by subject, task and frame, id as in AUDetNet: ``M001_T2_0232``, digits as in the file name.

    `root` is the folder with ``AUCoding`` and the pictures. `fold` (default literature-1; also published-1, ...) says which
    subjects are split `test`; all others are `train`, and "none" puts all there (BP4D+, whose people are in no list).
    Occurrences are kept as 0 and 5, unknown ones as NaN; the coded intensities of five units are not read. Frames without a
    picture, with an odd code, or without any known code are skipped. Lists of ME-GraphAU are read by `graph_au`, with `fold` 1 to 3.
    """
    root = Path(root)
    if lists := graph_au.find_lists(root, "bp4d"):
        yield from graph_au.records(lists, root, "bp4d", fold)
        return
    codes = next((root / name for name in CODES if any((root / name).glob("*_T*.csv"))), None)
    if codes is None:
        raise DataError(f"'{root}' is not BP4D: no AUCoding/AU_OCC/F001_T1.csv or the like in it.")
    pictures = next((root / name for name in PICTURES if any((root / name).glob("[FM][0-9]*/T*"))), None)
    if pictures is None:
        raise DataError(f"'{root}' has no pictures such as 2D+3D/F001/T1/2440.jpg.")
    for path in (path for path in listing(codes) if path.match("*_T*.csv")):
        subject, _, task = path.stem.partition("_")
        split = split_of_subject("bp4d", fold or FOLD, subject)
        files = _files(pictures / subject / task)
        for frame, row in read_codes(path):
            picture = files.get(frame)
            name = f"{subject}_{task}_{picture.stem if picture is not None else frame}"
            if isinstance(row, str):
                yield Skipped(name, row)
            elif picture is None:
                yield Skipped(name, f"no picture {subject}/{task}/{frame}")
            else:
                yield Record(name, picture, split, subject, action_units=row, attributes={"task": task})


def notes(root: Path, *, fold: str | None = None) -> dict[str, str]:
    """What the store should remember."""
    del root
    return {
        "source": "BP4D-Spontaneous, Zhang et al. 2014",
        "licence": "research under BP4D's agreement; pictures may not be redistributed",
        "fold": fold or FOLD,
        "au_scale": "occurrence",
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
