"""A person's neutral face, which action units may be measured against: from a photo, or from the quietest seconds of a video."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mien.draw import rgb
from mien.errors import DataError, PictureError, UsageError
from mien.faces.pictures import load_picture
from mien.faces.provider import Face
from mien.faces.units import FULL, in_words, present_units, read_units, unit_columns
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

    What makes it a poor neutral face is told on standard error: several faces, proven units that are present.
    DataError where there is no face with blendshapes.
    """
    name = "the neutral picture" if isinstance(image, np.ndarray) else name_of(image)
    if isinstance(image, Path) and image.is_file() and is_video(image):
        times, rows, several, reason = faces_of(image, provider)
        if not len(times):
            reason = reason or "no frame of this video shows a face with blendshapes"
            raise DataError(f"{name}: {reason}; name another, or a photo.")
        if reason:
            print(f"mien: {name}: {reason}.", file=sys.stderr)
        return told(name, quietest(times, rows), several)
    try:
        faces = provider(rgb(load_picture(image)))
    except PictureError as error:
        raise DataError(f"{name}: {error}; name a photo of the person's neutral face.") from None
    if not faces:
        raise DataError(f"{name}: no face found; name a photo of the person's neutral face.")
    if faces[0].blendshapes is None:
        raise DataError(f"{name}: its face has no blendshapes; a neutral face needs the face provider mediapipe.")
    return told(name, np.asarray(raw_intensities(faces[:1])[0]), len(faces))


def told(name: str, intensities: FloatArray, several: int) -> FloatArray:
    """The (C,) intensities; what of them and of the number of faces a person should know is printed."""
    if several > 1:
        print(f"mien: {name}: up to {several} faces; the main one counts as neutral, for all people.", file=sys.stderr)
    shown = {unit: sides for unit, sides in present_units(intensities).items() if unit not in RESTLESS}
    if shown:
        print(f"mien: {name}: this face shows {in_words(shown)}, which is subtracted, too.", file=sys.stderr)
    return intensities


def units_from_neutral(image: Path | str | ByteArray, provider: Callable[[ByteArray], list[Face]] | None) -> PointUnits:
    """Action units relative to a neutral face (`neutral_of`); UsageError without a provider whose points give action units."""
    if provider is None:
        raise UsageError(
            "a neutral face needs the action units of mediapipe's points: no action_units, faces mediapipe."
        )
    return PointUnits(neutral_of(Path(image) if isinstance(image, str) else image, provider))


def faces_of(
    video: Path, provider: Callable[[ByteArray], list[Face]]
) -> tuple[FloatArray, FloatArray, int, str | None]:
    """Times (N,) and intensities (N, C) of the main face of a video's frames, STEP seconds apart; none without blendshapes.

    Behind them the most faces of a frame, and what the video itself lacks.
    """
    times, rows, several, reason = list[float](), list[FloatArray](), 0, None
    after = -np.inf
    for picture in frames(video):
        reason = picture.reason or reason
        if picture.image is None or picture.time is None or picture.time < after:
            continue
        after = picture.time + STEP - 1e-6
        faces = provider(picture.image)
        several = max(several, len(faces))
        found = raw_intensities(faces[:1])
        if len(found):
            times.append(picture.time)
            rows.append(found[0])
    kept = np.array(rows, np.float32).reshape(len(rows), len(unit_columns()))
    return np.array(times, np.float32), kept, several, reason


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
