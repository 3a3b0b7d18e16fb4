"""From the points of other schemes to the 68 of iBUG, and from bare numbers to points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mien.faces.landmarks import MESH_TO_68
from mien.schema import LANDMARKS

Numbers = npt.NDArray[np.float64]

WFLW_TO_68 = (
    *range(0, 33, 2), *range(33, 38), *range(42, 47), *range(51, 60),
    60, 61, 63, 64, 65, 67, 68, 69, 71, 72, 73, 75, *range(76, 96),
)  # fmt: skip
"""Point of WFLW's 98 (Wu et al. 2018) at each iBUG-68 point: every second of the jaw, the upper brow lines, four of eight points an
eye between the corners; nose and mouth are the same."""

LAYOUTS: dict[int, Sequence[int]] = {
    LANDMARKS: range(LANDMARKS), 98: WFLW_TO_68, 468: MESH_TO_68, 478: MESH_TO_68,
}  # fmt: skip
"""Number of points of a scheme -> those at the 68; MediaPipe's mesh comes with and without the irises."""
SCHEMES = "68 points (iBUG), 98 (WFLW), or 468 or 478 (MediaPipe)"
CURE = "from other points the 68 do not follow: let Mien find them, with --faces mediapipe in place of --faces given and --landmarks"
OTHERS = {
    5: "eyes, nose and mouth corners, as MTCNN, RetinaFace and CelebA have them", 21: "AFLW's", 29: "COFW's",
    49: "iBUG's without the jaw and inner mouth corners", 51: "iBUG's without the jaw", 66: "iBUG's without inner mouth corners",
    106: "JD's or InsightFace's", 194: "HELEN's",
}  # fmt: skip
"""Number of points of schemes that are not read -> whose they are."""


def refused(count: int) -> str:
    """What is told of a file with `count` points a face, and the remedy."""
    whose = f" ({OTHERS[count]})" if count in OTHERS else ""
    return f"{count} points a face{whose}; what is read are {SCHEMES}; {CURE}"


def as_68(points: Numbers) -> Numbers | None:
    """(..., 68, 2) of an array of points in one of LAYOUTS: (..., K, 2), with a third number a point (depth, visibility), as (2, K) or
    (3, K), or as bare numbers (2 K,) or (3 K,), see `paired`; None for any other shape.
    """
    if points.ndim == 2 and points.shape[0] in (2, 3) and points.shape[1] in LAYOUTS:
        points = points.T
    if points.ndim >= 2 and points.shape[-2] in LAYOUTS and points.shape[-1] in (2, 3):
        return points[..., list(LAYOUTS[points.shape[-2]]), :2]
    if points.ndim in (1, 2) and points.shape[-1] in {3 * count for count in LAYOUTS}:
        return as_68(points.reshape(*points.shape[:-1], -1, 3))
    if points.ndim in (1, 2) and points.shape[-1] in {2 * count for count in LAYOUTS}:
        return as_68(paired(points, in_pairs(points)))
    return None


def in_pairs(numbers: Numbers) -> bool:
    """Whether faces as bare numbers (N, 2 K) or (2 K,) are x y x y ...; otherwise they are all x and then all y.

    That under which more faces stand upright: the chin below the bridge of the nose, the jaw's ends left and right.
    """
    votes = [_upright(as_68(paired(np.atleast_2d(numbers), pairs))) for pairs in (True, False)]
    return votes[0] >= votes[1]


def paired(numbers: Numbers, pairs: bool) -> Numbers:
    """Bare numbers (..., 2 K) as points (..., K, 2)."""
    if pairs:
        return numbers.reshape(*numbers.shape[:-1], -1, 2)
    return np.stack(np.split(numbers, 2, axis=-1), axis=-1)


def _upright(points: Numbers | None) -> int:
    if points is None:
        return 0
    x, y = points[..., 0], points[..., 1]
    return int(((x[:, 0] < x[:, 16]) & (y[:, 8] > y[:, 27]) & (y[:, 57] > y[:, 33]) & (x[:, 36] < x[:, 45])).sum())
