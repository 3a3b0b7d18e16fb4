"""Who is who from frame to frame, and probabilities that do not jitter. Pure functions, and a tracker that keeps state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from mien.faces.provider import overlap
from mien.predict.results import PicturePrediction
from mien.predict.sources import Picture
from mien.schema import FloatArray

LEAST_OVERLAP = 0.3
"""Intersection over union from which two boxes of consecutive frames may be one face."""
KEPT = 4.0
"""Seconds that a track waits for its face to come back, where frames come closer than that: a turn of the head, a passer-by."""
KEPT_STEPS = 1.5
"""It waits at least so many times the shortest step from frame to frame."""
COASTED = 0.5
"""Seconds for which a face that is not seen is taken to move on as it did."""
REACH, SPEED, SCALE = 1.0, 2.0, 1.6
"""A face that comes back may lie REACH faces, and SPEED faces more a second, from where it was, and be SCALE times as large."""
ALIKE = 0.4
"""Largest distance of appearances (`appearance`) of one person's faces."""
LOOKS = 2.0
"""What a distance of appearances of 1 weighs against an overlap of 1."""


def appearance(display: npt.NDArray[np.uint8]) -> FloatArray:
    """(48,) colours of a face in a grid of 4 x 4 cells, relative to its mean brightness, so that light counts little.

    It tells people of one video apart by skin, hair and background; it is no face recognition, and is forgotten with the track.
    """
    side = display.shape[0] // 4 * 4
    cells = display[:side, :side].reshape(4, side // 4, 4, side // 4, 3).mean(axis=(1, 3), dtype=np.float32)
    return np.asarray(cells / max(float(cells.mean()), 1.0), dtype=np.float32).reshape(-1)


def looks_apart(one: FloatArray, other: FloatArray) -> float:
    """Root mean square difference of two appearances; 0 for equal ones."""
    return float(np.sqrt(np.mean((one - other) ** 2)))


def paired(costs: FloatArray) -> list[tuple[int, int]]:
    """Pairs (row, column) with the smallest sum of costs, as many as there can be of finite ones."""
    from scipy.optimize import linear_sum_assignment

    if costs.size == 0:
        return []
    large = 1e6
    rows, columns = linear_sum_assignment(np.where(np.isfinite(costs), costs, large))
    return [(int(i), int(k)) for i, k in zip(rows, columns, strict=True) if np.isfinite(costs[i, k])]


def near(box: FloatArray, other: FloatArray, elapsed: float) -> bool:
    """Whether a face at `other` may be the one that was at `box` `elapsed` seconds ago."""
    sides = [float(np.sqrt(max(np.prod(b[2:] - b[:2]), 1.0))) for b in (box, other)]
    away = float(np.abs((box[:2] + box[2:] - other[:2] - other[2:]) / 2).max())
    return away <= (REACH + SPEED * elapsed) * max(sides) and max(sides) <= SCALE * min(sides)


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
    look: FloatArray
    """Mean appearance."""
    speed: FloatArray = field(default_factory=lambda: np.zeros(4, np.float32))
    """Of the box, pixels a second."""

    def at(self, time: float) -> FloatArray:
        """Where its box would be now, had it moved on as it did, for COASTED seconds at most."""
        return np.asarray(self.box + self.speed * min(time - self.time, COASTED), dtype=np.float32)

    def seen(self, box: FloatArray, time: float, look: FloatArray) -> None:
        """Move to where the face is now; speed and appearance follow slowly."""
        if 0 < (elapsed := time - self.time) <= COASTED:
            self.speed = np.asarray(0.7 * self.speed + 0.3 * (box - self.box) / elapsed, dtype=np.float32)
        self.look = np.asarray(0.9 * self.look + 0.1 * look, dtype=np.float32)
        self.box, self.time = box, time


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
        looks = [appearance(face.display) for face in picture.faces]
        pairs = self.pairs(boxes, looks, time)
        faces = list(picture.faces)
        for k, (face, box) in enumerate(zip(picture.faces, boxes, strict=True)):
            if k in pairs:
                track = self.tracks[pairs[k]]
                weight = weight_of_now(time - track.time, self.seconds)
                track.probabilities = smoothed(track.probabilities, face.probabilities, weight)
                track.seen(box, time, looks[k])
            else:
                self.count += 1
                track = Track(self.count, box, time, face.probabilities, looks[k])
                self.tracks.append(track)
            best = max(track.probabilities, key=lambda name: track.probabilities[name])
            confidence = track.probabilities[best]
            faces[k] = replace(
                face, track=track.number, probabilities=dict(track.probabilities), expression=best,
                confidence=confidence, abstained=confidence < self.threshold or bool(face.outside),
            )  # fmt: skip
        return replace(picture, faces=tuple(faces))

    def pairs(self, boxes: FloatArray, looks: Sequence[FloatArray], time: float) -> dict[int, int]:
        """Face -> its track: first those that overlap, the likest first; then those that come back near where they were left."""
        costs = np.full((len(self.tracks), len(boxes)), np.inf)
        for i, track in enumerate(self.tracks):
            for k, share in enumerate(np.maximum(overlap(track.at(time), boxes), overlap(track.box, boxes))):
                if share >= LEAST_OVERLAP:
                    costs[i, k] = LOOKS * looks_apart(track.look, looks[k]) - share
        pairs = {k: i for i, k in paired(costs)}
        taken = set(pairs.values())
        for i, track in enumerate(self.tracks):
            for k, box in enumerate(boxes):
                apart = looks_apart(track.look, looks[k])
                free = i not in taken and k not in pairs and apart <= ALIKE and near(track.box, box, time - track.time)
                costs[i, k] = apart if free else np.inf
        return pairs | {k: i for i, k in paired(costs)}


def followed(
    stream: Iterable[tuple[Picture, PicturePrediction]], seconds: float, threshold: float
) -> Iterator[tuple[Picture, PicturePrediction]]:
    """Pictures and frames with the tracks of their faces, a new tracker for each video; as `Tracker`."""
    source, frame, tracker = "", 0, Tracker()
    for picture, found in stream:
        if picture.time is not None:
            if picture.source != source or picture.frame <= frame:  # another video, or the same one again
                tracker = Tracker(seconds, threshold)
            source, frame = picture.source, picture.frame
            found = tracker.follow(found)
        yield picture, found


def _boxes(boxes: Sequence[object]) -> FloatArray:
    return np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
