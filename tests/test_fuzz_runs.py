"""Mutated run folders: a model that loads and a page that shows, or one line; never other numbers in silence."""

import copy
import json
import random
import shutil
from pathlib import Path

import pytest
import tiny
from fuzzing import damaged_bytes, refusals

import mien
from mien.evaluation.evaluate import evaluate
from mien.files import write_json
from mien.predict.calibration import read_calibration
from mien.report.card import card
from mien.report.runs import load_run
from mien.training import checkpoint
from mien.training.loop import fit

FILES = (
    "best.ckpt",
    "config.yaml",
    "environment.json",
    "results.json",
    "calibration.json",
    "log.jsonl",
    "maps/faces.npz",
)
ODD = (None, True, -1, 0, 1e308, float("nan"), "", "x", [], {}, [[]], {"a": 1}, "9" * 50, ["x"] * 3)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    place = tmp_path_factory.mktemp("runs")
    tiny.store(place / "faces", each=3)
    fit(tiny.recipe(place / "faces", optim={"epochs": 1}), place / "run")
    evaluate(place / "run", methods="cam")
    kept = {"temperature": 1.2, "threshold": 0.4, "offsets": {}, "run": "run"}
    (place / "run" / "calibration.json").write_text(json.dumps(kept))
    return place / "run"


def other_types(text: str, draws: random.Random) -> str:
    """JSON in which one to three values, at any depth, are of another type or are gone."""
    content = json.loads(text)
    for _ in range(draws.randint(1, 3)):
        place = content
        while isinstance(place, dict | list) and place:
            key = draws.choice(list(place)) if isinstance(place, dict) else draws.randrange(len(place))
            if not isinstance(place[key], dict | list) or draws.random() < 0.3:
                if draws.random() < 0.2:
                    del place[key]
                else:
                    place[key] = copy.deepcopy(draws.choice(ODD))  # one of them may come twice, into each other
                break
            place = place[key]
    return json.dumps(content)


def spoil(whole: Path, run: Path, draws: random.Random) -> str:
    """Damage to one file of a copy; what was done."""
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(whole, run)
    name, how = draws.choice(FILES), draws.random()
    file = run / name
    if how < 0.1:
        file.unlink()
    elif name.endswith(".json") and how < 0.6:
        file.write_text(other_types(file.read_text(), draws))
    elif name.endswith(".jsonl") and how < 0.6:
        lines = file.read_text().splitlines()
        file.write_text("\n".join([*lines, other_types(lines[0], draws)]) + "\n")
    elif how < 0.7:
        file.write_bytes(draws.choice([b"", b"{", b"[" * 5000, b"[]", b"null", b"\0" * 50, b"3"]))
    else:
        file.write_bytes(damaged_bytes(file.read_bytes(), draws))
    return f"{name} {how:.3f}"


def look_at(run: Path, answers) -> None:
    """Everything that reads a run folder without drawing."""
    net, recipe, env = checkpoint.load_model(run)
    classes = tuple(env["classes"])
    read_calibration(run, classes)
    assert classes == tuple(mien.schema.scheme_classes(recipe.data.scheme))
    assert answers(net) == answers.whole
    assert "Article 5" in card(load_run(run, "run"))


class Answers:
    """Logits of a blank picture, which no damage may change in silence."""

    def __init__(self, run: Path) -> None:
        self.whole = self(checkpoint.load_model(run)[0])

    def __call__(self, net):
        import torch

        with torch.no_grad():
            return net(torch.zeros(1, 3, tiny.SIZE, tiny.SIZE)).logits.tolist()


@pytest.mark.parametrize("count", [15, pytest.param(400, marks=pytest.mark.slow)])
def test_mutated_run_folders(whole, tmp_path, count):
    answers = Answers(whole)
    look_at(whole, answers)
    refused, _ = refusals(
        lambda: look_at(tmp_path / "run", answers), lambda draws: spoil(whole, tmp_path / "run", draws), count, count
    )
    assert refused > count / 2


def test_results_that_were_changed_are_told(whole, tmp_path):
    run = shutil.copytree(whole, tmp_path / "run")
    results = json.loads((run / "results.json").read_text())
    results["classification"]["accuracy"] = 0.99
    (run / "results.json").write_text(json.dumps(results))
    with pytest.raises(mien.errors.DataError, match=r"results\.json was changed since it was written"):
        load_run(run, "run")
    write_json(run / "results.json", results)
    assert load_run(run, "run").results["classification"]["accuracy"] == 0.99
