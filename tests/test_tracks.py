"""Tracks and smoothing, against loops and by hand."""

import itertools
from dataclasses import replace

import numpy as np
import predict_parts as parts
import pytest

from mien.faces.provider import overlap
from mien.predict.results import FacePrediction, PicturePrediction
from mien.predict.tracks import KEPT, Tracker, match, smoothed, weight_of_now


def test_match_is_the_best_of_all_assignments():
    rng = np.random.default_rng(0)
    for _ in range(20):
        corners = rng.uniform(0, 40, (7, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(10, 40, (7, 2))], 1).astype(np.float32)
        before, now = boxes[:3], boxes[3:]
        shared = np.stack([overlap(box, now) for box in before])
        shared[shared < 0.3] = 0
        best = max(sum(shared[i, k] for i, k in enumerate(order)) for order in itertools.permutations(range(4), 3))
        pairs = match(before, now)
        assert sum(shared[i, k] for i, k in pairs) == pytest.approx(best, abs=1e-6)
        assert len({i for i, _ in pairs}) == len({k for _, k in pairs}) == len(pairs)
        assert all(shared[i, k] >= 0.3 for i, k in pairs)


def test_match_of_nothing():
    none, one = np.zeros((0, 4), np.float32), np.float32([[0, 0, 10, 10]])
    assert match(none, one) == match(one, none) == match(none, none) == []
    assert match(one, one + 100) == []


def test_weight_does_not_depend_on_the_frame_rate():
    assert weight_of_now(1.0, 0.0) == 1
    assert weight_of_now(0.0, 2.0) == 0
    fine, coarse = weight_of_now(0.1, 0.5), weight_of_now(0.2, 0.5)
    assert 1 - (1 - fine) ** 2 == pytest.approx(coarse)


def test_smoothed_by_hand():
    assert smoothed({"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 1.0}, 0.25) == {"a": 0.75, "b": 0.25}


def frame(time: float, *faces: tuple[float, float, float]) -> PicturePrediction:
    """Faces by x, y and the probability of the first of two classes."""
    found = []
    for number, (x, y, p) in enumerate(faces, start=1):
        box = tuple(float(v) for v in parts.face_at(x, y).box)
        best = "a" if p >= 0.5 else "b"
        found.append(
            FacePrediction(
                face=number,
                box=box,
                landmarks=None,
                landmark_confidence=1.0,
                probabilities={"a": p, "b": 1 - p},
                expression=best,
                confidence=max(p, 1 - p),
                abstained=False,
                crop="aligned",
                display=np.zeros((8, 8, 3), np.uint8),
                placement=np.eye(2, 3),
            )
        )
    return PicturePrediction("v.avi", 160, 96, tuple(found), None if found else "no face found", int(time * 10), time)


def tracks(tracker: Tracker, *frames: PicturePrediction) -> list[list[int | None]]:
    return [[face.track for face in tracker.follow(one).faces] for one in frames]


def test_two_faces_keep_their_numbers_when_their_order_changes():
    walk = [frame(k / 10, (10 + 2 * k, 10, 0.9), (90 - 2 * k, 12, 0.9)) for k in range(4)]
    swapped = frame(0.4, (82, 12, 0.9), (18, 10, 0.9))
    assert tracks(Tracker(), *walk, swapped) == [[1, 2]] * 4 + [[2, 1]]


def test_a_face_comes_back_within_a_second_or_is_new():
    one, gone = frame(0.0, (10, 10, 0.9)), frame(0.1)
    assert tracks(Tracker(), one, gone, frame(0.9, (12, 10, 0.9))) == [[1], [], [1]]
    assert tracks(Tracker(), one, gone, frame(KEPT + 0.2, (12, 10, 0.9))) == [[1], [], [2]]


@pytest.mark.parametrize("step", [0.5, 1.2, 4.0])
def test_tracks_wait_for_the_next_frame_however_far_it_is(step):
    tracker = Tracker(seconds=step)
    found = [tracker.follow(frame(k * step, (10, 10, share))).faces[0] for k, share in enumerate((0.9, 0.1, 0.1))]
    assert [face.track for face in found] == [1, 1, 1]
    assert found[1].probabilities["a"] == pytest.approx(0.1 + 0.8 * np.exp(-1))
    assert tracks(tracker, frame(3 * step), frame(4 * step + 1, (10, 10, 0.1))) == [[], [2]]


def test_a_face_without_a_box_is_the_whole_frame():
    whole = [
        replace(one, faces=(replace(one.faces[0], box=None),))
        for one in (frame(0.0, (10, 10, 0.9)), frame(0.1, (10, 10, 0.1)))
    ]
    tracker = Tracker(seconds=0.1)
    assert tracks(tracker, whole[0]) == [[1]]
    (face,) = tracker.follow(whole[1]).faces
    assert (face.track, face.box) == (1, None)
    assert face.probabilities["a"] == pytest.approx(0.1 + 0.8 * np.exp(-1))


def test_smoothing_by_a_loop():
    shares = [0.9, 0.2, 0.6, 0.1]
    tracker, mean = Tracker(seconds=0.3, threshold=0.6), 0.9
    for k, share in enumerate(shares):
        if k:
            weight = 1 - np.exp(-0.1 / 0.3)
            mean = (1 - weight) * mean + weight * share
        (face,) = tracker.follow(frame(k / 10, (10, 10, share))).faces
        assert face.probabilities["a"] == pytest.approx(mean)
        assert face.expression == ("a" if mean >= 0.5 else "b")
        assert face.confidence == pytest.approx(max(mean, 1 - mean))
        assert face.abstained == (max(mean, 1 - mean) < 0.6)


def test_without_smoothing_the_probabilities_stay():
    tracker = Tracker()
    for share in (0.9, 0.2):
        assert tracker.follow(frame(0.0, (10, 10, share))).faces[0].probabilities["a"] == share
