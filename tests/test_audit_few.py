"""Stores that allow little to be said: each gives what can be given, and says what cannot."""

import numpy as np
import pytest
from test_audit_run import Net, short_follow
from tiny import NAMES, SIZE, records

from mien.audit import run
from mien.data.store import write_store
from mien.wrapped.wrap import wrap


def changed(which):
    made = [one for one in records(each=4) if one.split == "test"]
    if which == "twelve faces":
        return made[:12]
    if which == "one class":
        return [one._replace(expression="Anger", votes=None) for one in made]
    if which == "one person":
        return [one._replace(subject="s0") for one in made]
    if which == "nobody known":
        return [one._replace(subject=None) for one in made]
    if which == "no landmarks":
        return [one._replace(landmarks=None) for one in made]
    return [one._replace(expression="Neutral") for one in made]


@pytest.mark.parametrize(
    "which",
    [
        "one class",
        "no landmarks",
        *(
            pytest.param(w, marks=pytest.mark.slow)
            for w in ("twelve faces", "one person", "nobody known", "neutral alone")
        ),
    ],
)
def test_little_is_enough_for_a_page(which, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "responses", short_follow)
    made = changed(which)
    write_store(made, tmp_path / "s", dataset="few", size=SIZE)
    net = wrap(Net(), classes=NAMES, size=SIZE, preprocess="half")
    found = run.audit(net, store=tmp_path / "s", out=tmp_path / "a", explained=4, corrupted=4)
    assert len(found["parts"]) == 6
    told = " ".join(text for part in found["parts"] for text in part["cannot"])
    expected = {
        "one class": "No faces of", "nobody known": "Nobody is named", "no landmarks": "landmarks",
        "twelve faces": "temperature", "neutral alone": "No faces of",
    }  # fmt: skip
    assert expected.get(which, "") in told
    assert "nan" not in (tmp_path / "a" / "audit.csv").read_text()
    assert found["faces"] == len(made)


def test_classes_of_others_are_matched(tmp_path):
    made = [one for one in records(each=4) if one.split == "test"]
    write_store(made, tmp_path / "s", dataset="few", size=SIZE)

    def three(pictures):
        shares = np.ones((len(pictures), 3)) + pictures.mean((1, 2, 3))[:, None] * [0.01, 0.02, 0.03]
        return shares / shares.sum(1, keepdims=True)

    model = wrap(three, classes=("Positive", "Negative", "Neutral"), size=SIZE)
    found = run.audit(
        model, store=tmp_path / "s", out=tmp_path / "a", explained=2, corrupted=2, parts="right,sure,explanation"
    )
    assert found["faces"] == len(made) - 4  # Surprise has no polarity
    assert "No face has a cue" in " ".join(found["parts"][2]["cannot"])
