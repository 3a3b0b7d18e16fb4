"""One number, one meaning: the log and `mien evaluate` agree, a copy is no second seed, and a cue is what it draws."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mien.cues import CueConfig
from mien.cues.identity import drawn_numbers, same_drawn
from mien.evaluation.evaluate import evaluate
from mien.metrics.alignment import class_mean
from mien.report.runs import group_runs, load_runs, same_cue, same_yardstick
from mien.training.loop import fit

OWN = Path(__file__).parent.parent / "mien" / "cues" / "codebook_corrected.json"


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return tiny.store(tmp_path_factory.mktemp("data") / "faces", each=4).path


@pytest.fixture(scope="module")
def run(faces, tmp_path_factory):
    """Guided twice, with a cue of its own for the second, and with an average of the weights."""
    out = tmp_path_factory.mktemp("runs") / "run-s0"
    second = {"weight": 1.0, "attribution": "grad_input", "similarity": "pearson", "channels": "first_half"}
    fit(tiny.recipe(faces, guidance={"weight": 2.0}, second={**second, "cue": "landmarks"}, optim={"ema": 0.5}), out)
    evaluate(out, methods="cam")
    return out


def test_the_log_says_what_evaluate_says(run, tmp_path):
    """Same weights, same faces, same number: ATT-COS, the trained attributions and recognition; in TensorBoard too."""
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    lines = [json.loads(line) for line in (copy / "log.jsonl").read_text().splitlines()]
    results = evaluate(copy, split="valid", methods="cam")
    logged = next(line for line in lines if line["epoch"] == results["checkpoint"]["epoch"])
    scores = {
        "att_cos": results["alignment"]["layer-5"]["cosine"]["class_mean"],
        "second:grad_input": results["alignment"]["second:grad_input"]["pearson"]["class_mean"],
        "second:grad_input-all": results["alignment"]["second:grad_input-all"]["pearson"]["class_mean"],
        **{name: results["classification"][name] for name in ("accuracy", "balanced_accuracy", "macro_f1")},
    }
    board = EventAccumulator(str(copy / "tensorboard")).Reload()
    for name, value in scores.items():
        assert logged[f"valid_{name}"] == pytest.approx(value, abs=1e-4), name
        shown = {event.step: event.value for event in board.Scalars(f"valid_{name}")}
        assert shown[logged["epoch"]] == pytest.approx(value, abs=1e-4)


def test_class_mean_by_hand():
    values, labels = [1.0, 0.0, float("nan"), 0.5, 0.9], [1, 1, 2, 2, 3]
    assert class_mean(values, labels, [True, True, True, True, False]) == pytest.approx((0.5 + 0.25) / 2)
    assert class_mean(values, labels, [False] * 5) is None


def test_a_copy_is_no_second_seed(run, tmp_path, capsys):
    copy, renamed = (Path(shutil.copytree(run, tmp_path / name)) for name in ("copy", "seed1"))
    tree = yaml.safe_load((renamed / "config.yaml").read_text())
    tree["run"]["seed"] = 1
    (renamed / "config.yaml").write_text(yaml.safe_dump(tree))
    loaded = load_runs([run, copy, renamed])
    assert [one.name for one in loaded] == ["run-s0"]
    assert len(group_runs(loaded)[0].runs) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 2
    assert "copy and run-s0 hold the same net" in told


def test_another_net_of_the_recipe_is_another_seed(run, faces, tmp_path):
    from mien.config import load_recipe

    recipe = load_recipe(run / "config.yaml")
    fit(replace(recipe, run=replace(recipe.run, seed=1)), tmp_path / "run-s1")
    evaluate(tmp_path / "run-s1", methods="cam")
    groups = group_runs(load_runs([run, tmp_path / "run-s1"]))
    assert [len(group.runs) for group in groups] == [2]


OTHER = [
    ({"kind": "landmarks"}, {"sigma": 0.0602}),
    ({"kind": "landmarks"}, {"merge": "sum"}),
    ({"kind": "landmarks"}, {"groups": {"eyes": 0.9}}),
    ({"kind": "landmarks"}, {"jaw": True}),
    ({"kind": "landmark_dilation"}, {"dilation": "published"}),
    ({"kind": "au_observed"}, {"least": 1.05}),
    ({}, {"codebook": "paper"}),
    ({}, {"kind": "au_generic"}),
]
SAME = [
    ({}, {"sigma": 0.1, "least": 3.0}),
    ({}, {"control": "shuffled"}),
    ({"kind": "landmarks"}, {"jaw": False, "codebook": "paper"}),
    ({"kind": "landmarks"}, {"groups": {"eyes": 1.0}}),
]


@pytest.mark.parametrize(("base", "change", "same"), [(*p, False) for p in OTHER] + [(*p, True) for p in SAME])
def test_a_cue_is_what_it_draws(base, change, same):
    first, second = CueConfig(**base), CueConfig(**{**base, **change})
    numbers = drawn_numbers(first, "basic-7")
    assert len(numbers) == 16
    assert all(abs(value) < 10 for value in numbers)
    assert same_drawn(numbers, drawn_numbers(second, "basic-7")) is same
    assert same_drawn(numbers, [value + 1e-7 for value in numbers])  # another processor's rounding
    assert not same_drawn(numbers, None)


def test_the_content_of_a_codebook_counts_not_its_name(faces, tmp_path):
    """A file that was changed between two runs: the keys are equal, the cue is not."""
    book = tmp_path / "own.json"
    shutil.copy(OWN, book)
    recipe = tiny.recipe(faces, cue={"codebook": str(book)}, optim={"epochs": 1})
    fit(recipe, tmp_path / "before")
    evaluate(tmp_path / "before", methods="cam")
    Path(shutil.copytree(tmp_path / "before", tmp_path / "again"))
    tree = json.loads(book.read_text())
    changed = json.dumps(tree).replace("0.2,", "0.25,", 1) if "0.2," in json.dumps(tree) else None
    fit(replace(recipe, run=replace(recipe.run, seed=1)), tmp_path / "after")
    assert changed is not None
    book.write_text(changed)
    evaluate(tmp_path / "after", methods="cam")
    before, after = load_runs([tmp_path / "before", tmp_path / "after"])
    assert before.recipe.cue == after.recipe.cue
    assert not same_cue(before, after)
    assert same_cue(before, before)


def test_action_units_from_elsewhere_are_another_cue():
    numbers = drawn_numbers(CueConfig(kind="au_observed"), "basic-7")
    first, second = ({"cue": {"drawn": numbers, "action_units": name}} for name in ("a", "b"))
    assert same_yardstick(first, first)
    assert not same_yardstick(first, second)


def test_probes_are_faces_that_have_a_cue():
    """Every kind draws something on nearly all probes; an unknown face would tell no cue from another."""
    from mien.cues import identity, render_cue

    points = identity._faces(__import__("numpy").random.default_rng(0))
    for kind in ("au_generic", "landmarks", "landmark_mask"):
        for codebook in ("corrected", "paper"):
            cue = render_cue(
                CueConfig(kind=kind, codebook=codebook), points, torch.ones(len(points), dtype=torch.int64),
                image_size=(96, 96), size=(24, 24),
            )  # fmt: skip
            assert cue.valid.all()
            assert (cue.maps.flatten(1).amax(1) > 0.3).all()
