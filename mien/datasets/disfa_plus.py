"""DISFA+ (Mavadati, Sanger and Mahoor 2016, doi 10.1109/CVPRW.2016.182): nine people of DISFA who pose action units, coded 0 to 5.

``Labels/SN001/A1_AU1_TrailNo_1/AU1.txt`` has lines "000.jpg 0"; the pictures are ``Images/SN001/A1_AU1_TrailNo_1/000.jpg``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mien.data.arrow import Skipped
from mien.data.au_scale import intensity, unit_of
from mien.errors import DataError
from mien.faces.text_table import is_picture_name
from mien.files import listing
from mien.schema import ACTION_UNITS, FloatArray, Record


def is_there(root: Path) -> bool:
    """Whether `root` holds DISFA+."""
    labels = _folder(root, "labels")
    return labels is not None and _folder(root, "images") is not None and any(labels.glob("*/*/AU*.txt"))


def _folder(root: Path, name: str) -> Path | None:
    found = [path for path in listing(root) if path.is_dir()] if root.is_dir() else []
    return next((path for path in found if path.name.lower() == name), None)


def records(root: Path) -> Iterator[Record | Skipped]:
    """Frames by subject and trial, id ``SN001/A1_AU1_TrailNo_1/000.jpg``, all of split `train`; the trial is an attribute."""
    labels, images = _folder(root, "labels"), _folder(root, "images")
    assert labels is not None
    assert images is not None
    for subject in (path for path in listing(labels) if path.is_dir()):
        for trial in (path for path in listing(subject) if path.is_dir()):
            rows = _rows(trial)
            place = images / subject.name / trial.name
            there = {path.name for path in listing(place)} if place.is_dir() else set()
            for name in [*rows, *sorted(there - set(rows))]:
                key = f"{subject.name}/{trial.name}/{name}"
                if name not in there:
                    yield Skipped(key, f"no picture in {images.name}")
                elif name not in rows:
                    yield Skipped(key, "no label")
                else:
                    at = {"trial": trial.name}
                    yield Record(key, place / name, subject=subject.name, action_units=rows[name], attributes=at)


def _rows(trial: Path) -> dict[str, FloatArray]:
    """Picture -> (A,) intensities; NaN for units without a file or line. DataError for a label that is none of 0 to 5."""
    rows: dict[str, FloatArray] = {}
    for path in listing(trial):
        unit = unit_of(path.stem)
        if unit is None or path.suffix.lower() != ".txt":
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1):
            words = line.split()
            if len(words) < 2 or not is_picture_name(words[0]):
                continue  # lines above the table
            value = intensity(words[1], "intensity")
            if value is None:
                raise DataError(f"'{path}', line {number}: '{words[1]}' is no intensity from 0 to 5.")
            empty = np.full(len(ACTION_UNITS), np.nan, dtype=np.float32)
            rows.setdefault(words[0], empty)[ACTION_UNITS.index(unit[0])] = value
    return dict(sorted(rows.items()))
