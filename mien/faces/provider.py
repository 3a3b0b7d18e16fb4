"""What a face provider gives: faces of one image, the main one first."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mien.errors import DataError
from mien.schema import ByteArray, FloatArray


class Face(NamedTuple):
    """One face found in an image."""

    box: FloatArray
    """(4,) float32 x0, y0, x1, y1 in pixels of the image, not clipped."""
    landmarks: FloatArray
    """(68, 2) float32 iBUG-68 (x, y) pixels of the image, pixel centres at .0, not clipped."""
    score: float
    """Confidence of the provider; 0-1 for mediapipe, an open scale for dlib, 1 for given landmarks."""
    provider: str
    """Key of PROVIDERS, or "given"."""
    mesh: FloatArray | None = None
    """(478, 3) points of MediaPipe's face mesh: x, y pixels of the image, pixel centres at .0, and z in the same unit, smaller
    towards the viewer; None from other providers."""
    blendshapes: FloatArray | None = None
    """(52,) in [0, 1] over `mien.faces.blendshapes.BLENDSHAPES`; None from other providers."""


Provider = Callable[[ByteArray], list[Face]]


def overlap(box: FloatArray, boxes: FloatArray) -> FloatArray:
    """Intersection over union of one box (4,) with boxes (n, 4), x0 y0 x1 y1: (n,) in [0, 1]."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    common = np.prod(np.maximum(high - low, 0), axis=1)
    union = np.prod(box[2:] - box[:2]) + np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) - common
    return np.asarray(common / np.maximum(union, 1e-9), dtype=np.float32)


def check_image(image: ByteArray) -> None:
    """DataError unless the image is RGB uint8 (H, W, 3) with at least one pixel."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise DataError(f"image of shape {image.shape} and type {image.dtype}: RGB uint8 (H, W, 3) is expected.")


def main_first(faces: list[Face], height: int, width: int) -> list[Face]:
    """Sort faces by area of the box times closeness to the image centre (1 at the centre, 0.2 in a corner)."""

    def weight(face: Face) -> float:
        x0, y0, x1, y1 = (float(v) for v in face.box)
        off = np.hypot((x0 + x1 + 1 - width) / width, (y0 + y1 + 1 - height) / height) / np.sqrt(2)
        return max(x1 - x0, 0) * max(y1 - y0, 0) * max(1 - 0.8 * float(off), 0.0)

    return sorted(faces, key=weight, reverse=True)
