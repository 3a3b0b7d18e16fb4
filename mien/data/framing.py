"""Cut the face of a photo the way the faces of a training store lie in their pictures.

A run remembers in environment.json where eyes, nose and mouth of its training faces lie (the median of five points),
the size and the channels of its store. A new photo's face is turned, scaled and shifted so that its own five points fit
those, sampled at the store's size, then resized to the net's input: the same chain that training faces went through.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mien.errors import DataError
from mien.faces.align import Matrix, move_points, similarity, warp
from mien.faces.landmarks import five_points
from mien.faces.pictures import box_square, cut_square, whole_square
from mien.files import read_json
from mien.schema import ByteArray, FloatArray, IntArray

if TYPE_CHECKING:
    from mien.data.store import Store


class Framing(NamedTuple):
    """How faces lie in the pictures of a store; plain data, kept as JSON in a run folder."""

    size: int
    """Side of the stored pictures, pixels."""
    channels: int
    """1 grey, 3 colour."""
    faces: str
    """Where the store's landmarks came from (`mien prepare --faces`)."""
    aligned: bool
    """Faces were aligned to the template: outside the photo is black; else border pixels are repeated."""
    points: list[list[float]] | None
    """Median (x, y) pixels of five points over the training faces (eyes, nose tip, mouth corners as seen in the
    picture); None where the store has no landmarks."""


class FramedFace(NamedTuple):
    """One face, ready for a net of a run."""

    pixels: ByteArray
    """(S, S, 3) at the store's size, grey repeated where the store is grey."""
    landmarks: FloatArray
    """(68, 2) pixels of `pixels`, NaN unknown."""
    display: ByteArray
    """The same view sampled from the photo at a size for people, in colour."""
    placement: Matrix
    """(2, 3) from pixels of the photo to those of `display`."""
    rule: str
    """fitted: five points onto the training faces'; box: square around the face box; whole: the whole picture."""


def kept_framing(environment: Path) -> Framing:
    """Framing of the run whose environment.json this is.

    Raises:
        DataError: no such file, or its training faces had no landmarks.

    """
    kept = read_framing(read_json(environment, "give a run folder of mien train"), str(environment))
    if kept is None or kept.points is None:
        raise DataError(
            f"'{environment.parent}' was trained on faces without landmarks, so nothing can be aligned with them."
        )
    return kept


def read_framing(env: Mapping[str, Any], where: str) -> Framing | None:
    """The framing in what `where`, an environment.json, holds; None where it has none, DataError where it cannot be one."""
    kept = env.get("framing")
    if kept is None:
        return None
    try:
        found = Framing(**kept)
        points = None if found.points is None else np.array(found.points, dtype=np.float32)
        sound = isinstance(found.size, int) and 8 <= found.size <= 2**15 and found.channels in (1, 3)
        sound = sound and isinstance(found.aligned, bool) and isinstance(found.faces, str)
        if sound and (points is None or (points.shape == (5, 2) and bool(np.isfinite(points).all()))):
            return found
        reason = "values that cannot be"
    except (TypeError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200]
    raise DataError(f"{where} is damaged (framing: {reason}); train again, or bring back the file.")


def known_five(store: Store, rows: IntArray) -> FloatArray:
    """(n, 5, 2) `five_points` of those of `rows` that have them, in order."""
    from mien.data.store import BLOCK  # not at the start: a photo needs no store

    blocks = (rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK))
    points = np.concatenate(
        [np.empty((0, 5, 2), np.float32), *(five_points(store.landmarks_of(own)) for own in blocks)]
    )
    return points[np.isfinite(points).all(axis=(1, 2))]


def framing_of(store: Store, rows: IntArray) -> Framing:
    """Framing of the training faces `rows` of a store."""
    known = known_five(store, rows)
    notes = store.info.notes
    median = np.median(known, axis=0).round(3).tolist() if len(known) else None
    return Framing(
        store.info.size, store.info.channels, notes.get("faces", "dataset"), notes.get("align") == "True", median
    )


def mean_shape(store: Store, rows: IntArray) -> FloatArray:
    """(68, 2) mean landmarks over `rows`, from -1 to 1 between the edges of the picture; NaN for a point that no face has.

    Raises:
        DataError: no face has any.

    """
    points = store.landmarks[rows]
    known = np.isfinite(points).all(axis=2, keepdims=True)
    if not known.any():
        raise DataError(f"{store.path} has no landmarks, which transformer.kind landmarks lays onto their mean shape.")
    count = known.sum(axis=0)
    mean = np.where(known, points, 0).sum(axis=0) / np.where(count > 0, count, np.nan)
    return ((2 * mean + 1) / store.info.size - 1).astype(np.float32)


def frame_face(
    image: ByteArray, landmarks: FloatArray | None, box: FloatArray | None, framing: Framing, display: int
) -> FramedFace:
    """Cut one face out of an RGB photo: by landmarks, else by its box, else the whole photo.

    Args:
        image: uint8 (H, W, 3).
        landmarks: (68, 2) pixels of `image`, or None.
        box: (4,) x0, y0, x1, y1 pixels of `image`, or None.
        framing: of the run.
        display: side of the view for people, pixels.

    """
    fitted = None
    if landmarks is not None and framing.points is not None:
        fitted = similarity(five_points(landmarks), np.array(framing.points, dtype=np.float32))
    unknown = np.full((68, 2), np.nan, dtype=np.float32)
    if fitted is not None and landmarks is not None:
        pixels = warp(image, fitted, framing.size, replicate=not framing.aligned)
        scale = display / framing.size  # about pixel centres: x -> (x + 0.5) scale - 0.5
        placement = fitted * scale + np.array([[0, 0, 0.5 * scale - 0.5]] * 2)
        shown = warp(image, placement, display, replicate=not framing.aligned)
        points, rule = move_points(landmarks, fitted), "aligned"
    else:
        square = whole_square(*image.shape[:2]) if box is None else box_square(box)
        pixels, matrix = cut_square(image, square, framing.size)
        shown, placement = cut_square(image, square, display)
        points = unknown if landmarks is None else move_points(landmarks, matrix)
        rule = "whole" if box is None else "box"
    if framing.channels == 1:
        pixels = grey_repeated(pixels)
    return FramedFace(pixels, points, shown, placement, rule)


def grey_repeated(pixels: ByteArray) -> ByteArray:
    """RGB (H, W, 3) as its grey, three times."""
    import cv2

    return np.repeat(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2).astype(np.uint8)
