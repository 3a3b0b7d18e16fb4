"""Tracks and smoothing, against loops and by hand."""

import itertools
from dataclasses import replace

import numpy as np
import predict_parts as parts
import pytest

from mien.predict.results import FacePrediction, PicturePrediction
from mien.predict.tracks import KEPT, Tracker, appearance, looks_apart, paired, smoothed, weight_of_now


def test_pairs_are_the_best_of_all_assignments():
    rng = np.random.default_rng(0)
    for _ in range(20):
        costs = rng.uniform(-1, 1, (3, 4))
        costs[rng.random((3, 4)) < 0.3] = np.inf
        found = paired(costs)
        ways = [
            [(i, k) for i, k in enumerate(order) if np.isfinite(costs[i, k])]
            for order in itertools.permutations(range(4), 3)
        ]
        most = max(len(way) for way in ways)
        best = min(sum(costs[i, k] for i, k in way) for way in ways if len(way) == most)
        assert len(found) == most
        assert sum(costs[i, k] for i, k in found) == pytest.approx(best)


def test_pairs_of_nothing():
    assert paired(np.zeros((0, 3))) == paired(np.zeros((3, 0))) == paired(np.full((2, 2), np.inf)) == []


def test_appearance_by_a_loop_and_in_another_light():
    display = np.random.default_rng(0).integers(0, 120, (18, 18, 3), dtype=np.uint8)
    slow = [display[4 * r : 4 * r + 4, 4 * c : 4 * c + 4].reshape(-1, 3).mean(0) for r in range(4) for c in range(4)]
    np.testing.assert_allclose(appearance(display), np.concatenate(slow) / np.mean(slow), rtol=1e-5)
    assert looks_apart(appearance(display), appearance(display * 2)) < 1e-5
    assert looks_apart(appearance(display), appearance(display[::-1, ::-1].copy())) > 0.05
    assert np.isfinite(appearance(np.zeros((8, 8, 3), np.uint8))).all()


def coloured(picture: PicturePrediction, *colours: tuple[int, int, int]) -> PicturePrediction:
    """The faces of a frame in a colour each."""
    shown = [np.full((8, 8, 3), colour, np.uint8) for colour in colours]
    faces = tuple(replace(face, display=display) for face, display in zip(picture.faces, shown, strict=True))
    return replace(picture, faces=faces)


RED, GREEN = (200, 60, 60), (60, 200, 60)


def test_a_face_comes_back_from_a_turn_of_the_head_beside_where_it_was():
    tracker = Tracker()
    tracker.follow(coloured(frame(0.0, (10, 10, 0.9)), RED))
    tracker.follow(frame(0.1))
    assert tracker.follow(coloured(frame(1.5, (70, 30, 0.9)), RED)).faces[0].track == 1
    assert tracker.follow(coloured(frame(3.0, (20, 20, 0.9)), GREEN)).faces[0].track == 2  # another one


def test_two_that_cross_keep_their_numbers():
    tracker = Tracker()
    for k in range(12):
        red, green = (10 + 7 * k, 10, 0.9), (90 - 7 * k, 12, 0.9)
        if abs(red[0] - green[0]) < 20:
            shown = coloured(frame(k / 10, red), RED)  # the other one is behind
            wanted = [1]
        else:
            shown, wanted = coloured(frame(k / 10, red, green), RED, GREEN), [1, 2]
        assert [face.track for face in tracker.follow(shown).faces] == wanted


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
    assert tracks(tracker, frame(3 * step), frame(4 * step + KEPT, (10, 10, 0.1))) == [[], [2]]


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
