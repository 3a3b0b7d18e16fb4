"""Faces beyond the measured limits: said in a column, and not read by default."""

from dataclasses import replace

import numpy as np
import predict_parts as parts
import pytest
import tiny

from mien.faces.quality import UNKNOWN, Quality
from mien.predict import limits
from mien.predict.limits import Limit, outside, read_limits
from mien.predict.model import load
from mien.predict.rows import QUALITY, Layout, columns
from mien.predict.units import FaceUnits
from mien.training.loop import fit

GOOD = Quality(yaw=0, pitch=0, roll=0, size=60, sharpness=0.6, light=0.5, contrast=0.7, cut=0, occlusion=0.02)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tiny.store(tmp_path_factory.mktemp("data") / "store").path
    out = tmp_path_factory.mktemp("runs") / "run"
    fit(tiny.recipe(path, optim={"epochs": 1}), out)
    return out


def test_the_measured_limits_are_of_qualities_and_let_good_faces_pass():
    assert set(read_limits()) <= set(Quality._fields)
    assert "light" not in read_limits()  # it follows the skin
    assert outside(GOOD) == outside(UNKNOWN) == ""
    assert {"size", "sharpness", "contrast", "yaw", "pitch"} <= set(read_limits())
    for name, (least, most) in read_limits().items():
        for value in (None if least is None else 0.5 * least, None if most is None else 2 * most):
            if value is not None:
                assert outside(GOOD._replace(**{name: value})).startswith(f"{name} ")


def test_angles_count_in_both_directions(monkeypatch):
    monkeypatch.setattr(limits, "read_limits", lambda: {"yaw": Limit(None, 40), "size": Limit(12, None)})
    assert outside(GOOD._replace(yaw=-62)) == "yaw 62 over 40"
    assert outside(GOOD._replace(yaw=-62, size=9)) == "yaw 62 over 40, size 9 under 12"
    assert outside(GOOD._replace(yaw=-38)) == ""
    assert outside(GOOD._replace(yaw=40.02)) == "yaw 40.02 over 40"


def test_such_a_face_abstains_unless_asked_for(run, monkeypatch):
    monkeypatch.setattr(limits, "read_limits", lambda: {"size": Limit(1000, None)})
    picture = parts.picture((20, 20))
    found = load(run, faces=parts.find).predict(picture)
    face = found.faces[0]
    assert face.outside.startswith("size ")
    assert face.abstained
    assert face.doubt == f"outside: {face.outside}"
    row = found.to_table().to_pylist()[0]
    assert row["outside"] == face.outside
    assert row["size"] == pytest.approx(face.quality.size)
    asked = load(run, faces=parts.find, any_quality=True).predict(picture).faces[0]
    assert (asked.outside, asked.abstained, asked.doubt) == ("", False, "")
    assert asked.probabilities == pytest.approx(face.probabilities)


class Smile:
    """A source of units that sees AU12 in every face."""

    names, framing = ("AU12",), None

    def read(self, faces, framed):
        return [FaceUnits({"AU12": 0.8}, {"AU12": ("AU12",)}, ("AU12",), "AU12")] * len(faces)


def test_units_of_such_a_face_have_strengths_and_no_words(run, monkeypatch):
    monkeypatch.setattr(limits, "read_limits", lambda: {"size": Limit(1000, None)})
    picture = parts.picture((20, 20))
    for any_quality, named in ((False, None), (True, "AU12")):
        model = replace(load(run, faces=parts.find, any_quality=any_quality), units=Smile())
        face = model.predict(picture, explain="cam").faces[0]
        assert face.action_units == {"AU12": 0.8}
        assert face.reading == named
        assert bool(face.present_units) is any_quality
        assert "measured" not in face.explanation.words or any_quality


def test_columns_of_quality_are_always_there(run):
    names = columns(Layout(tiny.NAMES, (), False))
    assert [name for name in names if name in QUALITY] == list(QUALITY)
    assert names["outside"] is str
    whole = load(run, faces="none").predict(np.zeros((40, 40, 3), np.uint8))
    assert all(whole.to_table().to_pylist()[0][name] is None for name in QUALITY)
    assert whole.faces[0].outside == ""
