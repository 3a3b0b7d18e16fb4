"""The 68 iBUG landmarks: names of their groups, mirror order, quality screen. `landmark_files` reads them.

Landmarks are (68, 2) float32 (x, y) in pixels of the image they travel with, pixel centres at .0, NaN when unknown,
never clipped; indices are 0-based. Left and right are those of the image as seen, not of the person.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mien.schema import LANDMARKS, OUTER_EYE_CORNERS, FloatArray, IntArray

JAW = tuple(range(17))
LEFT_BROW, RIGHT_BROW = tuple(range(17, 22)), tuple(range(22, 27))
NOSE = tuple(range(27, 36))
LEFT_EYE, RIGHT_EYE = tuple(range(36, 42)), tuple(range(42, 48))
OUTER_LIPS, INNER_LIPS = tuple(range(48, 60)), tuple(range(60, 68))
MOUTH = OUTER_LIPS + INNER_LIPS
GROUPS = {
    "jaw": JAW,
    "brows": LEFT_BROW + RIGHT_BROW,
    "nose": NOSE,
    "eyes": LEFT_EYE + RIGHT_EYE,
    "mouth": MOUTH,
}
"""Group name -> 0-based indices; the groups do not overlap and cover all 68 points."""

FLIP = (
    16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0,
    26, 25, 24, 23, 22, 21, 20, 19, 18, 17,
    27, 28, 29, 30, 35, 34, 33, 32, 31,
    45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40,
    54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55,
    64, 63, 62, 61, 60, 67, 66, 65,
)  # fmt: skip
"""Point i of a mirrored face is point FLIP[i] of the original."""

MESH_TO_68 = (
    127, 234, 93, 58, 172, 136, 149, 176, 152, 400, 378, 365, 397, 288, 323, 454, 356,
    70, 63, 105, 66, 107, 336, 296, 334, 293, 300,
    168, 197, 5, 4, 75, 97, 2, 326, 305,
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181,
    78, 82, 13, 312, 308, 317, 14, 87,
)  # fmt: skip
"""Vertex of MediaPipe's 478-point face mesh nearest to each iBUG-68 point.

The list in common circulation has 162, 389 at points 0, 16; 148, 377 at 7, 9; and 71, 301 at 17, 26. Those lie 16, 8
and 9 % of the eye distance off dlib's points on 60 portraits, these 4, 7 and 5 %, and human-placed points agree. On
turned heads the mesh's jaw stays on the skin where iBUG follows the visible outline: it differs by definition."""

MOST_SHAPES = 20_000
"""Faces that the median shape is taken over."""

CHUNK = 4096


def flip_landmarks(landmarks: FloatArray, width: float) -> FloatArray:
    """Landmarks of the horizontally mirrored image: x -> width - 1 - x, and left/right indices swapped.

    Args:
        landmarks: (..., 68, 2) pixels of an image of `width` pixels.
        width: Width of the image.

    """
    mirrored = np.array(landmarks, dtype=np.float32)[..., list(FLIP), :]
    mirrored[..., 0] = width - 1 - mirrored[..., 0]
    return mirrored


def eye_distance(landmarks: FloatArray) -> FloatArray:
    """Distance between the outer eye corners (points 36 and 45) in pixels, (..., 68, 2) -> (...)."""
    first, second = OUTER_EYE_CORNERS
    return np.asarray(np.linalg.norm(landmarks[..., second, :] - landmarks[..., first, :], axis=-1), dtype=np.float32)


def five_points(landmarks: FloatArray) -> FloatArray:
    """Left eye centre, right eye centre, nose tip, left and right mouth corner: (..., 68, 2) -> (..., 5, 2).

    An eye centre is the mean of its six points; left means left in the image.
    """
    parts = [
        landmarks[..., list(LEFT_EYE), :].mean(-2),
        landmarks[..., list(RIGHT_EYE), :].mean(-2),
        landmarks[..., 30, :],
        landmarks[..., 48, :],
        landmarks[..., 54, :],
    ]
    return np.stack(parts, axis=-2).astype(np.float32)


def median_shape(landmarks: FloatArray) -> npt.NDArray[np.float64]:
    """The typical shape of a set of faces, free of place, size and turn: outer eye corners level, their distance 1.

    Each shape is centred, scaled and levelled, the median of each coordinate is taken; then twice every shape is moved
    onto it by the least-squares similarity and the median taken anew. Sets above 20,000 faces are thinned evenly.

    Args:
        landmarks: (N, 68, 2); faces with unknown points are left out.

    Returns:
        (68, 2) float64, mean 0; all NaN without a usable face.

    """
    points = np.asarray(landmarks, dtype=np.float32)
    usable = np.flatnonzero(usable_shapes(points))
    if not len(usable):
        return np.full((LANDMARKS, 2), np.nan)
    shapes = points[thinned(usable)].astype(np.float64)
    shapes -= shapes.mean(1, keepdims=True)
    first, second = OUTER_EYE_CORNERS
    eyes = shapes[:, second] - shapes[:, first]
    unit = (eyes[:, 0] - 1j * eyes[:, 1]) / (eyes**2).sum(1)  # complex numbers: a turn and a scale is one product
    median = _median(shapes @ [1, 1j] * unit[:, None])
    for _ in range(2):
        median = _median(_onto(shapes, median))
    return median


def usable_shapes(landmarks: FloatArray) -> npt.NDArray[np.bool_]:
    """(N,) of which faces (N, 68, 2) `median_shape` can be made: all points known, eyes apart."""
    return np.asarray(np.isfinite(landmarks).all((1, 2)) & (eye_distance(landmarks) > 0))


def thinned(rows: IntArray) -> IntArray:
    """At most MOST_SHAPES of `rows`, evenly spaced."""
    return rows[:: max(1, -(-len(rows) // MOST_SHAPES))]


def _median(shapes: npt.NDArray[np.complex128]) -> npt.NDArray[np.float64]:
    """Coordinate-wise median of (N, 68) complex shapes as (68, 2), centred, eyes level and at distance 1."""
    middle = np.median(shapes.real, axis=0) + 1j * np.median(shapes.imag, axis=0)
    middle = (middle - middle.mean()) / (middle[OUTER_EYE_CORNERS[1]] - middle[OUTER_EYE_CORNERS[0]])
    return np.stack([middle.real, middle.imag], axis=1)


def _onto(shapes: npt.NDArray[np.float64], target: npt.NDArray[np.float64]) -> npt.NDArray[np.complex128]:
    """Centred (N, 68, 2) shapes moved onto a centred target by turn and scale, least squares, as complex (N, 68)."""
    moving, fixed = shapes @ np.array([1, 1j]), target @ np.array([1, 1j])
    power = (np.abs(moving) ** 2).sum(1)
    with np.errstate(invalid="ignore"):  # unknown points stay unknown
        factor = (moving.conj() @ fixed) / np.where(power > 0, power, np.nan)
    return np.asarray(moving * factor[:, None])


def shape_distance(landmarks: FloatArray, median: npt.NDArray[np.float64]) -> FloatArray:
    """How far each face's shape lies from the typical one: a screen for wrong landmarks.

    Mean distance of the 68 points to `median` after the least-squares similarity (place, size, turn) onto it, as a
    share of the outer-eye distance of the median shape. 0 is the typical shape; 68 random points, or points with x and
    y swapped, score about 0.55, and nothing can score much higher. Turned heads and wide open mouths score high
    too: the screen finds odd shapes, a person judges them.

    Args:
        landmarks: (N, 68, 2) pixels.
        median: (68, 2) from `median_shape`.

    Returns:
        (N,) float32; NaN where a point is unknown, or all points are one.

    """
    points = np.asarray(landmarks, dtype=np.float32)
    distance = np.full(len(points), np.nan, dtype=np.float32)
    for start in range(0, len(points), CHUNK):  # a quarter of a million faces do not fit into memory as float64
        shapes = points[start : start + CHUNK].astype(np.float64)
        moved = _onto(shapes - shapes.mean(1, keepdims=True), median)
        distance[start : start + CHUNK] = np.abs(moved - median @ np.array([1, 1j])).mean(1)
    return distance


def mirrored(landmarks: FloatArray) -> npt.NDArray[np.bool_]:
    """Faces whose points are those of a mirror image, whatever their turn: x and y were swapped, or left and right.

    Seen in an image, a turn from the eye line to the line eyes - mouth goes clockwise; mirrored it does not. False
    where the points are unknown or that is not clear (eyes and mouth within about 3 degrees of one line).

    Args:
        landmarks: (N, 68, 2).

    """
    left, right, _, *corners = np.moveaxis(five_points(np.asarray(landmarks, dtype=np.float32)), -2, 0)
    across, down = right - left, (corners[0] + corners[1] - left - right) / 2
    turn = across[..., 0] * down[..., 1] - across[..., 1] * down[..., 0]
    return np.asarray(turn < -0.05 * np.linalg.norm(across, axis=-1) * np.linalg.norm(down, axis=-1))


def normalised_error(found: FloatArray, truth: FloatArray) -> FloatArray:
    """NME: mean point distance in percent of the outer-eye distance of `truth`, (..., 68, 2) -> (...). Lower is better.

    Points that are NaN in `truth` are left out (NaN when none is left or an eye corner is unknown).
    """
    gap = np.linalg.norm(np.asarray(found, np.float64) - truth, axis=-1)
    known = np.isfinite(gap)
    count = known.sum(-1)
    total = np.where(known, gap, 0.0).sum(-1)
    mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return np.asarray(100 * mean / eye_distance(truth), dtype=np.float32)
