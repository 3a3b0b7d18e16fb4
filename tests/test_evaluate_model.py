"""Any model through the scores of `mien evaluate`: two nets that Mien never saw, and what is odd about others and about stores."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tiny
from other_nets import WORDS, Flat, Small, bright, resnet, vit

import mien
from mien.audit.evaluate import evaluate_model, name_and_seed
from mien.data.store import write_store
from mien.errors import DataError, UsageError
from mien.evaluation.evaluate import evaluate
from mien.report import report

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    out = tmp_path_factory.mktemp("faces") / "toy"
    tiny.store(out, each=3)
    return out


@pytest.mark.parametrize("make", [resnet, vit])
def test_nets_that_mien_never_saw_go_through_the_readmes_lines(make, faces, tmp_path, monkeypatch):
    block = next(one for one in re.findall(r"```python\n(.*?)```", README, re.S) if "mien.wrap(" in one)
    lines = [line for line in block.splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) <= 10
    monkeypatch.chdir(tmp_path)
    scope = {"net": make(), "names": WORDS, "mien": mien, "SIZE": 32}
    code = block.replace("stores/mine", str(faces)).replace("runs/other", str(tmp_path / "other"))
    exec(compile(code, "README", "exec"), scope)
    results = json.loads((tmp_path / "other" / "results-on-toy.json").read_text())
    assert results["faces"] == 21
    assert results["classification"]["accuracy"] <= 1
    assert {"layer-1", "grad_cam", "layer_cam", "baseline:class_mean", "ceiling"} <= set(results["alignment"])
    page = report(tmp_path / "other", store=faces, out=tmp_path / "page.html")
    assert "not trained by mien" in page.read_text(encoding="utf-8")


def test_a_runs_own_scores_are_those_of_evaluate(tmp_path, faces):
    from mien.training.loop import fit

    recipe = tiny.recipe(faces, optim={"epochs": 1})
    fit(recipe, tmp_path / "run")
    own = evaluate(tmp_path / "run")
    other = evaluate_model(tmp_path / "run", faces, cue=recipe.cue)
    assert other["classification"]["accuracy"] == own["classification"]["accuracy"]
    for name in ("cam", "baseline:uniform"):
        assert other["alignment"][name]["cosine"]["class_mean"] == pytest.approx(
            own["alignment"][name]["cosine"]["class_mean"], abs=1e-5
        )


@pytest.mark.parametrize("make", [lambda: mien.wrap(bright, WORDS, size=24), lambda: mien.wrap(Flat(), WORDS, size=32)])
def test_models_without_a_layer_give_what_they_can(make, faces, tmp_path, capsys):
    results = evaluate_model(make(), faces, out=tmp_path / "box", faithfulness=True)
    assert results["methods"] == ["occlusion"]
    assert "layer-1" not in results["alignment"]
    assert "no layer" in capsys.readouterr().out
    with pytest.raises(DataError, match="has no layer"):
        report(tmp_path / "box", store=faces, out=tmp_path / "page.html")


def test_missing_and_surplus_classes(faces, capsys):
    five = mien.wrap(Small(classes=5), ("happy", "sad", "contempt", "angry", "sleepy"), size=32)
    assert five.classes == ("Happiness", "Sadness", "Contempt", "Anger")
    results = evaluate_model(five, faces)
    told = capsys.readouterr()
    assert results["faces"] == 9
    assert results["classes"][-1] == "Contempt"
    assert "sleepy" in told.err
    assert re.search(r"contempt\s+Contempt\s+0\s+\(surplus", told.out)
    assert re.search(r"-\s+Fear\s+6\s+\(missing in the model", told.out)
    assert np.isfinite(results["classification"]["calibration_error"])


@pytest.mark.parametrize("kind", ["no landmarks", "one class", "one person", "12 faces"])
def test_poor_stores_give_what_they_can(kind, tmp_path):
    records = tiny.records(each=2)
    if kind == "no landmarks":
        records = [record._replace(landmarks=None) for record in records]
    elif kind == "one class":
        records = [record for record in records if record.expression == "Anger"]
    elif kind == "one person":
        records = [record._replace(subject="she") for record in records]
    else:
        records = records[-12:]
    made = write_store(records, tmp_path / "poor", dataset="toy", size=tiny.SIZE)
    results = evaluate_model(
        mien.wrap(Small(), WORDS, size=32), made, split="all", faithfulness=True, faithfulness_faces=4
    )
    assert results["faces"] == len(records)
    assert (results["faces_with_cue"] == 0) == (kind == "no landmarks")
    assert results["faithfulness"]["faces"] == 4


def test_one_line_where_nothing_can_be_scored(faces, tmp_path):
    with pytest.raises(
        DataError, match=r"no face of the model's classes in split 'valid' \(test: 21, valid: 0, train: 21\)"
    ):
        evaluate_model(mien.wrap(Small(), WORDS, size=32), faces, split="valid")
    evaluate_model(mien.wrap(Small(), WORDS, size=32, name="small"), faces, out=tmp_path / "small")
    with pytest.raises(DataError, match="holds scores of a model that mien did not train"):
        evaluate_model(tmp_path / "small", faces)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best.ckpt").touch()
    with pytest.raises(UsageError, match="folder of a trained run"):
        evaluate_model(mien.wrap(Small(), WORDS, size=32), faces, out=tmp_path / "run")


def test_seeds_are_read_off_names():
    assert name_and_seed("dan-seed2") == ("dan", 2)
    assert name_and_seed("poster_s10") == ("poster", 10)
    assert name_and_seed("resnet18") == ("resnet18", 0)
