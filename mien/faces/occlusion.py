"""How far the points of a face move when its picture is mirrored: far where something covers them.

A mesh net sets points that it does not see by those that it sees. It guesses otherwise when the picture is mirrored, so that the
two answers disagree: docs/confidence.md has the measured curve.
"""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path

import numpy as np

from mien.faces.landmarks import FLIP, MESH_TO_68, eye_distance
from mien.faces.mediapipe import CROP, POINTS, Net, Square, open_mesh, sample, to_image
from mien.faces.provider import Face
from mien.schema import ByteArray, FloatArray


class MirroredMesh:
    """The mesh net of mediapipe's bundle, one for each thread that asks."""

    def __init__(self, model: Path | None) -> None:
        self._open, self._own = partial(open_mesh, model), threading.local()
        self._own.mesh = self._open()

    def __call__(self, image: ByteArray, face: Face) -> float:
        """`occlusion_of` a face of an RGB picture; NaN for one of another provider."""
        if face.region is None:
            return float("nan")
        if not hasattr(self._own, "mesh"):
            self._own.mesh = self._open()
        return occlusion_of(image, face, self._own.mesh)


def occlusion_of(image: ByteArray, face: Face, mesh: Net) -> float:
    """Mean distance of a face's 68 points from those of its mirror image, in eye distances: 0 or more, NaN without eyes apart."""
    assert face.region is not None
    apart = np.linalg.norm(mirrored_points(image, Square(*face.region), mesh) - face.landmarks, axis=1).mean()
    across = float(eye_distance(face.landmarks))
    return float(apart) / across if across > 0 else float("nan")


def mirrored_points(image: ByteArray, region: Square, mesh: Net) -> FloatArray:
    """(68, 2) pixels of the picture: what the net sees in the mirror image of a region, mirrored back."""
    view = np.ascontiguousarray(sample(image, region, CROP, replicate=True)[:, ::-1])
    points = mesh(view.astype(np.float32)[None] / np.float32(255))[0].reshape(POINTS, 3)[list(MESH_TO_68), :2][
        list(FLIP)
    ]
    points = np.column_stack([CROP - points[:, 0], points[:, 1]])
    matrix = to_image(region, CROP)
    return np.asarray(points @ matrix[:, :2].T + matrix[:, 2] - 0.5, dtype=np.float32)
