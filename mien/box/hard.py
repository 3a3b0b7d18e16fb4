"""Faces that are hard to read, by their own quality: which rows of a score they make."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from mien.faces.quality import Quality

LEAST: dict[str, tuple[str, float]] = {
    "turned, yaw from 25 degrees": ("yaw", 25.0),
    "raised or lowered, pitch from 20 degrees": ("pitch", 20.0),
    "tilted, roll from 20 degrees": ("roll", 20.0),
    "cut by the border, a twentieth or more": ("cut", 0.05),
    "covered, a tenth or more": ("occlusion", 0.1),
}
"""Row -> field of the quality and the size from which a face counts."""
MOST: dict[str, tuple[str, float]] = {
    "small, eyes less than 18 px apart": ("size", 18.0),
    "blurred, sharpness below 0.35": ("sharpness", 0.35),
    "dark, light or skin, mean grey below 0.35": ("light", 0.35),
    "low contrast, range below 0.5": ("contrast", 0.5),
}
"""Row -> field of the quality and the size below which a face counts."""
NOT_FOUND, EASY = "not found, answered by the whole picture", "none of these"
BAND, FEW = 10, 10
"""Numbers of people (ages) are grouped by tens where they take more than FEW values."""


def hard_faces(qualities: Sequence[Quality], crops: Sequence[str]) -> dict[str, np.ndarray]:
    """Row -> (N,) bool, who belongs to it; a face may belong to several rows. Rows without a face are left out.

    The limits are about the outer tenth of FER-2013's training faces; no score was looked at when they were set.

    Args:
        qualities: of N faces, NaN where unknown.
        crops: how each was cut; "whole" where a finder found no face, "" without an answer.

    """
    field = {name: np.array([getattr(one, name) for one in qualities], dtype=float) for name in Quality._fields}
    with np.errstate(invalid="ignore"):
        rows = {row: np.abs(field[name]) >= least for row, (name, least) in LEAST.items()}
        rows |= {row: field[name] < most for row, (name, most) in MOST.items()}
    found = np.array([crop not in ("whole", "") for crop in crops])
    if found.any():  # where no finder was asked, whole pictures are faces
        rows[NOT_FOUND] = ~found
    rows[EASY] = ~np.any(list(rows.values()), axis=0)
    return {row: chosen for row, chosen in rows.items() if chosen.any()}


def banded(groups: Sequence[Mapping[str, str | float]], key: str) -> list[str | None]:
    """The word of an attribute for each picture, None without; ages and other numbers of many values as "20-29".

    Words for "unknown" among numbers are no group.
    """
    values = [group.get(key) for group in groups]
    numbers = [number_of(value) for value in values]
    known = {number for number in numbers if number is not None}
    words = {value for value, number in zip(values, numbers, strict=True) if number is None}
    if len(known) <= FEW or words - {None, "NA", "N/A", "nan", "unknown", ""}:
        return [None if value is None else f"{value:g}" if isinstance(value, float) else str(value) for value in values]
    tens = [None if number is None else math.floor(number / BAND) * BAND for number in numbers]
    return [None if ten is None else f"{ten}-{ten + BAND - 1}" for ten in tens]


def number_of(value: str | float | None) -> float | None:
    """The number that an attribute says, None for a word, for nothing and for NaN."""
    try:
        number = math.nan if value is None else float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
