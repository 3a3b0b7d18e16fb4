"""A person's neutral face, which action units may be measured against: from a photo, or from the quietest seconds of a video."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from mien.draw import rgb
from mien.errors import DataError, PictureError
from mien.faces.pictures import load_picture
from mien.faces.provider import Face
from mien.faces.units import FULL, read_units, unit_columns
from mien.predict.units import raw_intensities
from mien.schema import ByteArray, FloatArray

WINDOW = 2.0
"""Seconds of a video that are taken as neutral."""
RESTLESS = ("AU45", "AU61", "AU62", "AU63", "AU64")
"""Blinks and gaze do not count when a face is called quiet."""


def neutral_of(image: Path | ByteArray, provider: Callable[[ByteArray], list[Face]]) -> FloatArray:
    """(C,) intensities of the main face of a photo, not clipped; DataError where there is none with blendshapes."""
    name = "the neutral picture" if isinstance(image, np.ndarray) else str(image)
    try:
        faces = provider(rgb(load_picture(image)))
    except PictureError as error:
        raise DataError(f"{name}: {error}; name a photo of the person's neutral face.") from None
    if not faces:
        raise DataError(f"{name}: no face found; name a photo of the person's neutral face.")
    if faces[0].blendshapes is None:
        raise DataError(f"{name}: its face has no blendshapes; a neutral face needs the face provider mediapipe.")
    return np.asarray(raw_intensities(faces[:1])[0])


def quietest(times: FloatArray, intensities: FloatArray, seconds: float = WINDOW) -> FloatArray:
    """Intensities at rest: the median over the stretch of a video in which the face moves least.

    Each frame begins a stretch of `seconds`; a stretch counts where it holds at least half as many frames as the fullest. The
    quietest is the one with the smallest mean strength over all sides but RESTLESS; the first of equals.

    Args:
        times: (N,) seconds, rising, N at least 1.
        intensities: (N, C) of one person, not clipped.
        seconds: length of a stretch.

    Returns:
        (C,).

    """
    calm = [
        unit_columns().index(column) for unit in read_units() if unit.name not in RESTLESS for column in unit.columns
    ]
    level = np.clip(intensities[:, calm] / FULL, 0, 1).mean(1)
    ends = np.searchsorted(times, times + seconds)
    counts = ends - np.arange(len(times))
    total = np.concatenate([[0.0], np.cumsum(level)])
    mean = (total[ends] - total[: len(times)]) / counts
    best = int(np.argmin(np.where(2 * counts >= counts.max(), mean, np.inf)))
    return np.asarray(np.median(intensities[best : ends[best]], axis=0), dtype=np.float32)
