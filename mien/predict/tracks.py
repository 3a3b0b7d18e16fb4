"""Who is who from frame to frame, and probabilities that do not jitter. Pure functions, and a tracker that keeps state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mien.faces.provider import overlap
from mien.predict.results import PicturePrediction
from mien.schema import FloatArray

LEAST_OVERLAP = 0.3
"""Intersection over union from which two boxes of consecutive frames may be one face."""
KEPT = 1.0
"""Seconds that a track waits for its face to come back, where frames come closer than that."""
KEPT_STEPS = 1.5
"""It waits at least so many times the shortest step from frame to frame."""


def match(before: FloatArray, now: FloatArray, least: float = LEAST_OVERLAP) -> list[tuple[int, int]]:
    """Pairs of boxes (T, 4) and (N, 4), x0 y0 x1 y1, with the largest sum of overlaps; each box in one pair at most.

    Hungarian assignment (Kuhn 1955) on the intersection over union, as in SORT (Bewley et al. 2016, arXiv 1602.00763);
    pairs that overlap less than `least` are dropped. Sorted by the index of the first.
    """
    from scipy.optimize import linear_sum_assignment

    if len(before) == 0 or len(now) == 0:
        return []
    shared = np.stack([overlap(box, now) for box in before])
    # pairs under `least` must not take a box from a pair that counts
    rows, columns = linear_sum_assignment(np.where(shared >= least, shared, 0.0), maximize=True)
    return [(int(i), int(k)) for i, k in zip(rows, columns, strict=True) if shared[i, k] >= least]


def weight_of_now(elapsed: float, seconds: float) -> float:
    """Weight of a new value after `elapsed` seconds in an exponential mean of time constant `seconds`: 1 - exp(-dt / s).

    1 without smoothing (seconds 0). It does not depend on the frame rate: two steps of dt weigh as one of 2 dt.
    """
    return 1.0 if seconds <= 0 else float(-np.expm1(-max(elapsed, 0.0) / seconds))


def smoothed(before: Mapping[str, float], now: Mapping[str, float], weight: float) -> dict[str, float]:
    """(1 - weight) * before + weight * now, name by name; still adds up to 1 where both do."""
    return {name: (1 - weight) * before[name] + weight * value for name, value in now.items()}


@dataclass
class Track:
    """One face over the frames of a video."""

    number: int
    box: FloatArray
    """Where it was last."""
    time: float
    """When it was last seen, seconds."""
    probabilities: Mapping[str, float]


@dataclass
class Tracker:
    """Numbers the faces of one video in the order of their first frame, and smooths their probabilities."""

    seconds: float = 0.0
    """Time constant of the smoothing; 0 leaves the probabilities alone."""
    threshold: float = 0.0
    """Of abstaining, for the smoothed confidence."""
    tracks: list[Track] = field(default_factory=list)
    count: int = 0
    before: float = -np.inf
    """Time of the frame before, seconds."""
    step: float = np.inf
    """Shortest step from frame to frame, seconds."""

    def follow(self, picture: PicturePrediction) -> PicturePrediction:
        """The frame with the track of each face; frames must come in order. A face without a box is the whole frame."""
        time = picture.time or 0.0
        self.step, self.before = min(self.step, time - self.before), time
        kept = max(KEPT, KEPT_STEPS * self.step)
        self.tracks = [track for track in self.tracks if time - track.time <= kept]
        boxes = _boxes([face.box or (0, 0, picture.width - 1, picture.height - 1) for face in picture.faces])
        pairs = {k: i for i, k in match(_boxes([track.box for track in self.tracks]), boxes)}
        faces = list(picture.faces)
        for k, (face, box) in enumerate(zip(picture.faces, boxes, strict=True)):
            if k in pairs:
                track = self.tracks[pairs[k]]
                weight = weight_of_now(time - track.time, self.seconds)
                track.probabilities = smoothed(track.probabilities, face.probabilities, weight)
                track.box, track.time = box, time
            else:
                self.count += 1
                track = Track(self.count, box, time, face.probabilities)
                self.tracks.append(track)
            best = max(track.probabilities, key=lambda name: track.probabilities[name])
            confidence = track.probabilities[best]
            faces[k] = replace(
                face, track=track.number, probabilities=dict(track.probabilities), expression=best,
                confidence=confidence, abstained=confidence < self.threshold or bool(face.outside),
            )  # fmt: skip
        return replace(picture, faces=tuple(faces))


def _boxes(boxes: Sequence[object]) -> FloatArray:
    return np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
