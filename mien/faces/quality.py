"""How well a face can be read: pose, size, sharpness, contrast, and how much of it lies in the picture.

What counts as too little is measured, not chosen: `limits.json` of mien.predict, docs/confidence.md.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mien.faces.align import similarity, template, warp
from mien.faces.head import head_of
from mien.faces.landmarks import five_points
from mien.faces.occlusion import covered_share
from mien.faces.provider import Face
from mien.schema import ByteArray, FloatArray

SIDE = 64
"""Pixels of the aligned view in which sharpness and light are measured."""
INNER = (slice(10, 58), slice(10, 54))
"""Rows and columns of that view: brows to chin without the background."""


class Quality(NamedTuple):
    """Of one face; NaN where it cannot be told."""

    yaw: float
    """Degrees, positive towards the person's own left; `mien.faces.head` states the convention."""
    pitch: float
    """Degrees, positive downwards."""
    roll: float
    """Degrees, positive clockwise in the picture. Faces are turned upright before they are read."""
    size: float
    """Distance of the outer eye corners seen from the front, pixels."""
    sharpness: float
    """Detail of the aligned face, see `sharpness`."""
    light: float
    """Mean grey level of the aligned face, 0 to 1. It follows skin as much as light, so that nothing is refused by it."""
    contrast: float
    """Range of the grey levels of the aligned face that the middle 98 % of its pixels take, 0 to 1."""
    cut: float
    """Share of the face's points that lie outside the picture."""
    occlusion: float
    """Share of the face that something covers, guessed (`mien.faces.occlusion`)."""


UNKNOWN = Quality(*[float("nan")] * 9)


def quality_of(image: ByteArray, face: Face) -> Quality:
    """Quality of a face of an RGB picture (H, W, 3); fields that need its points are NaN where these are not known."""
    head = head_of(face.landmarks, face.mesh)
    view = view_of(image, face.landmarks)
    if view is None:
        return UNKNOWN
    grey = np.asarray(view / np.float32(255), dtype=np.float32)
    low, high = np.quantile(grey, (0.01, 0.99))
    points = face.landmarks if face.mesh is None else face.mesh[:, :2]
    return Quality(
        head.yaw, head.pitch, head.roll, head.size, sharpness(grey), float(grey.mean()), float(high - low),
        outside_share(points, *image.shape[:2]), covered_share(view),
    )  # fmt: skip


def view_of(image: ByteArray, landmarks: FloatArray) -> ByteArray | None:
    """(48, 44) grey uint8 pixels of the aligned face of an RGB picture, brows to chin; None without usable points."""
    placed = similarity(five_points(landmarks), template(SIDE))
    if placed is None:
        return None
    luma = warp(image, placed, SIDE, replicate=True)[INNER] @ np.array([0.299, 0.587, 0.114], np.float32)
    return np.rint(luma).astype(np.uint8)


def sharpness(grey: FloatArray) -> float:
    """Root mean square of the Laplacian over the standard deviation: (H, W) -> at least 0, higher is sharper.

    The Laplacian is 4 times a pixel less its four neighbours, inside the border. Free of brightness and contrast; noise
    counts as detail. 0 for a constant picture.
    """
    inner = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    spread = float(grey.std())
    return float(np.sqrt(np.mean(inner**2))) / spread if spread > 1e-6 else 0.0


def outside_share(points: FloatArray, height: int, width: int) -> float:
    """Share of points (N, 2), pixel centres at .0, that lie outside a picture, in [0, 1]."""
    inside = (points > -0.5).all(1) & (points[:, 0] < width - 0.5) & (points[:, 1] < height - 0.5)
    return float(1 - inside.mean())
