"""A person's neutral face, which action units may be measured against: from a photo, or from the quietest seconds of a video."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from mien.draw import rgb
from mien.errors import DataError, PictureError, UsageError
from mien.faces.pictures import load_picture
from mien.faces.provider import Face
from mien.faces.units import FULL, read_units, unit_columns
from mien.files import name_of
from mien.predict.sources import frames, is_video
from mien.predict.units import PointUnits, raw_intensities
from mien.schema import ByteArray, FloatArray

WINDOW = 2.0
"""Seconds of a video that are taken as neutral."""
RESTLESS = ("AU45", "AU61", "AU62", "AU63", "AU64")
"""Blinks and gaze do not count when a face is called quiet."""


STEP = 0.2
"""Seconds from one looked-at frame of that video to the next."""


def neutral_of(image: Path | ByteArray, provider: Callable[[ByteArray], list[Face]]) -> FloatArray:
    """(C,) intensities of the main face of a photo, or of the quietest seconds of a video, not clipped.

    DataError where there is no face with blendshapes.
    """
    name = "the neutral picture" if isinstance(image, np.ndarray) else name_of(image)
    if isinstance(image, Path) and image.is_file() and is_video(image):
        times, found = faces_of(image, provider)
        if not len(times):
            raise DataError(f"{name}: no frame of this video shows a face with blendshapes; name another, or a photo.")
        return quietest(times, found)
    try:
        faces = provider(rgb(load_picture(image)))
    except PictureError as error:
        raise DataError(f"{name}: {error}; name a photo of the person's neutral face.") from None
    if not faces:
        raise DataError(f"{name}: no face found; name a photo of the person's neutral face.")
    if faces[0].blendshapes is None:
        raise DataError(f"{name}: its face has no blendshapes; a neutral face needs the face provider mediapipe.")
    return np.asarray(raw_intensities(faces[:1])[0])


def units_from_neutral(image: Path | str | ByteArray, provider: Callable[[ByteArray], list[Face]] | None) -> PointUnits:
    """Action units relative to a neutral face (`neutral_of`); UsageError without a provider whose points give action units."""
    if provider is None:
        raise UsageError(
            "a neutral face needs the action units of mediapipe's points: no action_units, faces mediapipe."
        )
    return PointUnits(neutral_of(Path(image) if isinstance(image, str) else image, provider))


def faces_of(video: Path, provider: Callable[[ByteArray], list[Face]]) -> tuple[FloatArray, FloatArray]:
    """Times (N,) and intensities (N, C) of the main face of a video's frames, STEP seconds apart; none without blendshapes."""
    times, rows = list[float](), list[FloatArray]()
    after = -np.inf
    for picture in frames(video):
        if picture.image is None or picture.time is None or picture.time < after:
            continue
        after = picture.time + STEP - 1e-6
        found = raw_intensities(provider(picture.image)[:1])
        if len(found):
            times.append(picture.time)
            rows.append(found[0])
    return np.array(times, np.float32), np.array(rows, np.float32).reshape(len(rows), len(unit_columns()))


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
