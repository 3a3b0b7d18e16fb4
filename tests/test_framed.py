"""Another store in the framing of a run: scored and prepared as a photo's faces are, and scores from photo to label."""

import pickle

import cv2
import numpy as np
import pytest
import tiny

from mien.cli import main
from mien.data.framed import FramedStore, framed_as
from mien.data.framing import frame_face, kept_framing
from mien.data.store import open_store, write_store
from mien.errors import DataError
from mien.evaluation.evaluate import evaluate
from mien.evaluation.scores import end_to_end
from mien.faces.align import move_points
from mien.faces.landmarks import five_points
from mien.training.loop import fit


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("framed")
    tiny.store(folder / "faces")
    fit(tiny.recipe(folder / "faces", optim={"epochs": 1}), folder / "run")
    return folder / "run"


def turned(record, size=48):
    """The face turned and small in a larger picture, as a set of others may have it."""
    matrix = np.array([[0.8, -0.3, 14], [0.3, 0.8, 3]], dtype=np.float32)
    pixels = cv2.warpAffine(record.image, matrix, (size, size))
    return record._replace(image=pixels, landmarks=move_points(record.landmarks, matrix))


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Test faces only; one without landmarks, which no finder found."""
    records = [turned(record) for record in tiny.records(2, seed=5, splits=("test",))]
    records = [r._replace(attributes={"face": "found"}) for r in records]
    records[3] = records[3]._replace(landmarks=None, attributes={"face": "not found"})
    return write_store(records, tmp_path_factory.mktemp("other") / "others", dataset="others", size=48)


def test_a_framed_store_is_what_predict_cuts(run, other):
    framing = kept_framing(run / "environment.json")
    framed = framed_as(other, framing)
    assert isinstance(framed, FramedStore)
    assert (framed.info.size, len(framed)) == (framing.size, len(other))
    for i in range(len(other)):
        points = other.landmarks[i]
        expected = frame_face(other.image(i), None if np.isnan(points).any() else points, None, framing, 64)
        np.testing.assert_array_equal(framed.image(i), expected.pixels)
        np.testing.assert_allclose(framed.landmarks[i], expected.landmarks, atol=1e-3)
    near = np.linalg.norm(five_points(framed.landmarks) - np.array(framing.points), axis=2)
    assert np.nanmax(near) < 0.02 * framing.size
    again = pickle.loads(pickle.dumps(framed))
    assert again.fingerprint == framed.fingerprint != other.fingerprint
    np.testing.assert_array_equal(again.images([1, 3]), framed.images([1, 3]))


def test_faces_that_lie_there_already_stay_as_they_are(run, other):
    framing = kept_framing(run / "environment.json")
    own = open_store(run.parent / "faces")
    assert framed_as(own, framing) is own
    assert framed_as(other, framing._replace(points=None)) is other


def test_grey_runs_see_grey_faces(run, other):
    framing = kept_framing(run / "environment.json")._replace(channels=1)
    image = FramedStore(other, framing).image(0)
    assert (image[..., 0] == image[..., 1]).all()


def test_evaluate_says_that_it_aligns_and_counts_faces_that_were_not_found(run, other, capsys):
    results = evaluate(run, store=other.path, methods="cam")
    said = capsys.readouterr()
    assert "13 of 14 faces" in said.err
    assert results["framing"] == kept_framing(run / "environment.json")._asdict()
    whole = results["end_to_end"]
    assert (whole["faces"], whole["not_found"]) == (14, 1)
    assert whole["accuracy"] <= results["classification"]["accuracy"]
    assert "1 faces that were not found counted as wrong" in said.out
    assert evaluate(run, store=other.path, methods="cam")["store_fingerprint"] == results["store_fingerprint"]


def test_end_to_end_by_hand():
    found = np.array([True, True, False, True])
    scores = end_to_end(found, np.array([0, 1, 1, 0]), np.array([0, 1, 1, 1]))
    assert scores == {"faces": 4, "not_found": 1, "accuracy": 0.5, "balanced_accuracy": pytest.approx((1 + 1 / 3) / 2)}


def test_prepare_aligned_like_a_run(run, other, tmp_path, capsys):
    out = tmp_path / "aligned"
    words = ["prepare", "aligned", "--root", str(other.path), "--out", str(out), "--workers", "1"]
    assert main([*words, "--like", str(run)]) == 0
    store = open_store(out)
    framed = framed_as(other, kept_framing(run / "environment.json"))
    np.testing.assert_array_equal(store.images(range(14)), framed.images(range(14)))
    np.testing.assert_allclose(store.landmarks, framed.landmarks, atol=1e-4)
    assert set(store.split) == {"test"}
    assert store.info.notes["like"] == "run"
    assert main([*words, "--like", str(tmp_path)]) == 1
    assert "run folder" in capsys.readouterr().err


def test_a_run_without_points_cannot_be_copied(tmp_path):
    (tmp_path / "environment.json").write_text(
        '{"framing": {"size": 8, "channels": 3, "faces": "none", "aligned": false, "points": null}}'
    )
    with pytest.raises(DataError, match="without landmarks"):
        kept_framing(tmp_path / "environment.json")
