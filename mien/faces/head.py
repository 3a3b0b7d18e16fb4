"""Head pose and size of a face from its points: yaw, pitch and roll in degrees.

Convention, that of the synthetic faces: yaw is positive where the head turns to its own left (the right of the picture), pitch is
positive where it looks down, roll is positive where it tilts clockwise in the picture; the head turns by pitch first, then yaw,
then roll. All are 0 for a face that looks into the camera.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mien.faces.landmarks import MESH_TO_68
from mien.schema import OUTER_EYE_CORNERS, FloatArray

Matrix = npt.NDArray[np.float64]


class Head(NamedTuple):
    """How a head stands in its picture."""

    yaw: float
    pitch: float
    roll: float
    size: float
    """Distance of the outer eye corners that the face would show from the front, pixels."""


UNKNOWN = Head(*[float("nan")] * 4)


@cache
def mean_head() -> Matrix:
    """(68, 3) iBUG-68 points of the mean synthetic head at rest, centred, outer eye corners at distance 1; x to the right of
    the picture, y down, z away from the viewer.
    """
    kept = json.loads(files("mien.faces").joinpath("mean_head.json").read_text(encoding="utf-8"))
    points = np.array(kept["points"], dtype=np.float64)
    first, second = OUTER_EYE_CORNERS
    points /= np.linalg.norm(points[second] - points[first])
    return np.asarray(points - points.mean(0))


def angles(turn: Matrix) -> tuple[float, float, float]:
    """Yaw, pitch, roll in degrees of a rotation (3, 3) that maps the head to the picture (x right, y down, z away)."""
    yaw, pitch, roll = (
        np.arcsin(np.clip(turn[2, 0], -1, 1)), np.arctan2(turn[2, 1], turn[2, 2]), np.arctan2(turn[1, 0], turn[0, 0])
    )  # fmt: skip
    return float(np.degrees(yaw)), float(np.degrees(pitch)), float(np.degrees(roll))


def turn_of(points: Matrix) -> tuple[Matrix, float]:
    """Rotation (3, 3) and scale that bring the mean head onto 68 points (68, 2) or (68, 3), least squares.

    With depth: Umeyama (1991). Without: the nearest scaled orthographic view (weak perspective).
    """
    head, seen = mean_head(), points - points.mean(0)
    if seen.shape[1] == 3:
        left, sizes, right = np.linalg.svd(seen.T @ head)
        sign = np.array([1, 1, np.sign(np.linalg.det(left @ right))])
        return np.asarray((left * sign) @ right), float((sizes * sign).sum() / (head**2).sum())
    view = np.linalg.lstsq(head, seen, rcond=None)[0].T
    left, sizes, right = np.linalg.svd(view, full_matrices=False)
    two = left @ right
    return np.vstack([two, np.cross(two[0], two[1])]), float(sizes.mean())


def head_of(landmarks: FloatArray, mesh: FloatArray | None = None) -> Head:
    """Head pose of one face.

    Least squares of the mean head onto the face (`turn_of`), with the depth of a mesh where there is one.

    Args:
        landmarks: (68, 2) pixels.
        mesh: (478, 3) of `Face.mesh`, or None.

    Returns:
        `UNKNOWN` where a point is unknown or all points coincide.

    """
    points = np.asarray(landmarks if mesh is None else mesh[list(MESH_TO_68)], dtype=np.float64)
    if not np.isfinite(points).all() or np.ptp(points[:, :2], axis=0).max() < 1e-6:
        return UNKNOWN
    turn, size = turn_of(points)
    return Head(*angles(turn), size)
