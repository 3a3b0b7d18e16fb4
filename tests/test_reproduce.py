"""The grids of the papers as data; a tiny one trained, stopped, resumed and failed; tables against hand-made numbers."""

import csv
import itertools
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from scipy import stats

import mien.training.loop
from mien.config import as_dict, recipe_keys
from mien.errors import DataError, UsageError
from mien.explain import DEFAULT_METHODS, TOKEN_MAPS, fitting
from mien.losses.alignment import resolve_layers
from mien.models import Classifier, create_model
from mien.report.figures import figures
from mien.report.table_plots import figure_of, png
from mien.reproduce import reproduce
from mien.reproduce.grids import SCALES, TABLES, cell_name, entries_of, recipe_of, refuse_fixed, shared_recipe
from mien.reproduce.methods import LAYER_ABLATION, METHODS
from mien.reproduce.run import Cell, duration, reason_of, run_cells
from mien.reproduce.tables import SCORES, as_csv, as_markdown, lines_of, read

TINY = ["--model.size", "32", "--model.channels", "[8,8,8,8]", "--optim.epochs", "2", "--optim.batch", "7"]
TINY += ["--run.accelerator", "cpu", "--data.valid_fraction", "0.3"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tiny.store(tmp_path_factory.mktemp("reproduce") / "store", each=4)


def run(store, out: Path, *, table: str = "lambda", only: str = "0,4", seeds: int = 1, more: tuple[str, ...] = ()):
    return reproduce(table, data=store.path, seeds=seeds, only=only, out=out, workers=1, overrides=[*TINY, *more])


# ---------------------------------------------------------------- grids


def recipes(scale: str, dataset: str = "rafdb"):
    shared = shared_recipe(scale, "strict", Path("store"), dataset, 1000)
    return [(table, e, recipe_of(e, shared, scale, 0)) for table, entries in TABLES.items() for e in entries]


@pytest.mark.parametrize("scale", SCALES)
def test_one_folder_one_recipe(scale):
    """Cells of one name have equal settings and cells of equal settings one name, across all tables."""
    named = {}
    for _, entry, recipe in recipes(scale):
        name, settings = cell_name(entry, recipe), json.dumps(as_dict(recipe))
        assert named.setdefault(name, settings) == settings, name
    assert len(set(named.values())) == len(named)


def test_the_baseline_of_all_ablations_is_the_row_of_the_paper():
    names = {(t, e.row, e.column): cell_name(e, r) for t, e, r in recipes("paper")}
    assert names["lambda", "0", ""] == names["layers", "none", ""] == names["methods", "cam", "without AUs"]
    assert names["lambda", "4", ""] == names["layers", "5", ""] == names["methods", "cam", "with AUs"]
    assert len({names["methods", row, "with AUs"] for row in ("cam", "grad_cam", "grad_cam_pp", "layer_cam")}) == 1
    assert len({names["methods", row, "with AUs"] for row in METHODS}) == 8


def test_small_models_are_built_and_have_the_layers_that_entries_name():
    models: dict[str, Classifier] = {}
    for _, entry, recipe in recipes("small"):
        key = json.dumps(as_dict(recipe)["model"])
        if key not in models:
            torch.manual_seed(0)
            models[key] = create_model(recipe.model, 7).eval()
        model = models[key]
        assert sum(p.numel() for p in model.parameters()) < 2_000_000
        resolve_layers([entry.layer, *recipe.guidance.layers], len(model.backbone.channels))
        image = torch.zeros(1, 3, 48, 48)
        assert entry.explainer is None or entry.explainer in fitting(model, image, (*DEFAULT_METHODS, *TOKEN_MAPS))
    assert len(models) == 7  # CAM and CutMix share one, as all ablations do


@pytest.mark.parametrize(("dataset", "weight"), [("rafdb", 4), ("affectnet", 9), ("fer2013", 4)])
def test_weight_of_guidance_by_dataset(dataset, weight):
    guided = [r for t, e, r in recipes("paper", dataset) if t == "methods" and e.column == "with AUs"]
    assert {recipe.guidance.weight for recipe in guided} == {weight}


def test_published_numbers_are_complete():
    assert len(METHODS) == 11
    gains = [[p.accuracy[1] - p.accuracy[0] for p in method.published.values()] for method in METHODS.values()]
    assert np.array(gains).shape == (11, 2)
    assert (np.array(gains) > 0).all()  # the paper's claim, for every method and both datasets
    assert METHODS["cam"].published["rafdb"].accuracy[1] == LAYER_ABLATION["5"][1][0]
    # sums of the printed columns, as a check against slips of the pen
    columns = np.array([[v for p in m.published.values() for v in (*p.accuracy, *p.att_cos)] for m in METHODS.values()])
    assert np.allclose(columns.sum(0), [9.702, 9.785, 5.55, 9.35, 6.548, 6.7637, 6.5, 9.0])


def test_every_setting_of_every_entry_is_a_recipe_key():
    for entries in TABLES.values():
        for entry in entries:
            assert {*entry.settings, *entry.small} <= set(recipe_keys())


def test_only_brings_its_baseline_along():
    assert {e.row for e in entries_of("layers", ["4"])} == {"4", "none"}
    with pytest.raises(UsageError, match="Did you mean 'cutmix'"):
        entries_of("methods", ["cutmx"])
    with pytest.raises(UsageError, match="Did you mean 'lambda'"):
        entries_of("lamda", [])


def test_small_scale_sees_as_many_faces_in_every_store():
    epochs = [shared_recipe("small", "strict", Path("s"), "fer2013", faces).optim.epochs for faces in (1000, 28000)]
    assert epochs == [12, 1]


def test_every_seed_can_go_on_from_its_own_net(tmp_path):
    shared = shared_recipe("small", "strict", tmp_path, "toy", 28, ["--model.initial", "runs/net-{seed}"])
    made = [recipe_of(TABLES["controls"][0], shared, "small", seed) for seed in (0, 3)]
    assert [recipe.model.initial for recipe in made] == [Path("runs/net-0"), Path("runs/net-3")]


def test_protocol_paper_takes_the_codebook_as_published():
    recipe = shared_recipe("paper", "paper", Path("s"), "rafdb", 10, ["--optim.epochs", "3"])
    assert (recipe.data.protocol, recipe.cue.codebook, recipe.optim.epochs) == ("paper", "paper", 3)


# ---------------------------------------------------------------- a tiny grid


def test_grid_trains_scores_and_is_not_done_twice(store, tmp_path, capsys):
    path = run(store, tmp_path, seeds=2)
    table = json.loads(path.read_text())
    assert path == tmp_path / "lambda" / "table.json"
    assert len(list((tmp_path / "runs").iterdir())) == 4
    assert {line["score"] for line in table["lines"]} == set(SCORES) - {"constrained_pearson", "attribution_pearson"}
    assert all(line["seeds"] == [0, 1] and line["low"] <= line["value"] <= line["high"] for line in table["lines"])
    guided = next(line for line in table["lines"] if line["row"] == "4" and line["score"] == "att_cos")
    plain = next(line for line in table["lines"] if line["row"] == "0" and line["score"] == "att_cos")
    assert guided["difference"]["value"] == pytest.approx(guided["value"] - plain["value"])
    assert set(guided["baselines"]) == {"uniform", "centre", "mean"}
    rows = list(csv.DictReader((path.parent / "table.csv").read_text().splitlines()))
    assert len(rows) == len(table["lines"])
    assert "4 trainings, 0 of them done before" in capsys.readouterr().out
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("results.json")}
    run(store, tmp_path, seeds=2)
    assert "4 trainings, 4 of them done before" in capsys.readouterr().out
    assert before == {file: file.stat().st_mtime_ns for file in tmp_path.rglob("results.json")}


@pytest.mark.slow
def test_stopped_grid_resumes_inside_a_training(store, tmp_path, monkeypatch):
    """Stopped after the first epoch of the second training; the same command ends with the numbers of a whole run."""
    whole = json.loads(run(store, tmp_path / "whole").read_text())
    keep, epochs = mien.training.loop.keep, itertools.count(1)

    def stop_in_the_third(*arguments):
        keep(*arguments)
        if next(epochs) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mien.training.loop, "keep", stop_in_the_third)
        with pytest.raises(KeyboardInterrupt):
            run(store, tmp_path / "stopped")
    runs = sorted(folder.name for folder in (tmp_path / "stopped" / "runs").iterdir())
    assert [(tmp_path / "stopped" / "runs" / name / "results.json").is_file() for name in runs] == [True, False]
    resumed = json.loads(run(store, tmp_path / "stopped").read_text())
    assert resumed["lines"] == whole["lines"]


def test_a_training_that_was_not_scored_is_scored(store, tmp_path):
    one = ("--optim.epochs", "1")
    whole = json.loads(run(store, tmp_path, only="0", more=one).read_text())
    folder = tmp_path / "runs" / "cam-lambda0-seed0"
    (folder / "results.json").unlink()
    epochs = (folder / "log.jsonl").read_text()
    assert json.loads(run(store, tmp_path, only="0", more=one).read_text())["lines"] == whole["lines"]
    assert (folder / "log.jsonl").read_text() == epochs


@pytest.mark.slow
def test_killed_grid_resumes(store, tmp_path):
    """SIGKILL in the middle; the same command ends with the numbers of a whole run."""
    options = ["--data", str(store.path), "--seeds", "1", "--only", "4", "--workers", "1", "--optim.epochs", "5"]
    command = [sys.executable, "-m", "mien", "reproduce", "lambda", *options, *[*TINY[:4], *TINY[6:]]]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*command, "--out", str(whole)], check=True, cwd=tmp_path)
    process = subprocess.Popen([*command, "--out", str(killed)], cwd=tmp_path)
    log = killed / "runs" / "cam-lambda0-seed0" / "log.jsonl"
    while process.poll() is None and not (log.is_file() and log.read_text().count("\n")):
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (killed / "lambda").exists()
    subprocess.run([*command, "--out", str(killed)], check=True, cwd=tmp_path)
    tables = [json.loads((folder / "lambda" / "table.json").read_text()) for folder in (whole, killed)]
    assert tables[0]["lines"] == tables[1]["lines"]


@pytest.mark.slow
def test_pal_trains_at_the_small_scale(store, tmp_path):
    """Gradients of an earlier layer, two guidances at once, and a control of the prior; cross-entropy comes along."""
    rows = "grad,au_pal,prior_shuffled"
    table = json.loads(run(store, tmp_path, table="pal", only=rows, more=("--optim.epochs", "1")).read_text())
    rows = {line["row"]: line for line in table["lines"] if line["score"] == "att_cos"}
    assert list(rows) == ["ce", "grad", "au_pal", "prior_shuffled"]
    assert all(np.isfinite(line["value"]) for line in rows.values())
    assert all(line["difference"]["seeds"] == 1 for row, line in rows.items() if row != "ce")
    values = {(line["row"], line["score"]): line["value"] for line in table["lines"]}
    assert {row for row, score in values if score == "attribution_pearson"} == {
        "ce",
        "grad",
        "au_pal",
        "prior_shuffled",
    }
    assert {row for row, score in values if score == "constrained_pearson"} == {"au_pal", "prior_shuffled"}
    assert values["au_pal", "attribution_pearson"] == pytest.approx(values["au_pal", "constrained_pearson"], abs=1e-3)
    assert not table["failed"]


def test_one_failure_does_not_lose_the_others(store, tmp_path, monkeypatch, capsys):
    fit = mien.training.loop.fit

    def fails_when_guided(recipe, out):
        if recipe.guidance.weight:
            raise RuntimeError("CUDA out of\nmemory")
        return fit(recipe, out)

    with monkeypatch.context() as patch:
        patch.setattr(mien.training.loop, "fit", fails_when_guided)
        with pytest.raises(DataError, match="1 of 2 trainings failed"):
            run(store, tmp_path)
    table = json.loads((tmp_path / "lambda" / "table.json").read_text())
    assert table["failed"] == {"cam-lambda4-last-seed0": "RuntimeError: CUDA out of memory"}
    assert [line["value"] is None for line in table["lines"] if line["score"] == "accuracy"] == [False, True]
    assert "FAILED: RuntimeError" in capsys.readouterr().out
    assert json.loads(run(store, tmp_path).read_text())["failed"] == {}


def test_all_failed_is_one_line(store, tmp_path):
    with pytest.raises(DataError, match=r"every training failed: .*output_stride"):
        run(store, tmp_path, more=("--model.output_stride", "5"))


def test_what_would_do_nothing_or_mix_settings_is_refused(store, tmp_path):
    with pytest.raises(UsageError, match=r"guidance.weight is set by the table"):
        run(store, tmp_path, more=("--guidance.weight", "3"))
    with pytest.raises(UsageError, match=r"guidance.layers is set by the table"):
        refuse_fixed("methods", entries_of("methods", []), ["--guidance.layers", "[3]"])
    with pytest.raises(UsageError, match=r"run.seed is set by the table"):
        run(store, tmp_path, more=("--run.seed=3",))
    with pytest.raises(UsageError, match="at least 1"):
        run(store, tmp_path, seeds=0)
    run(store, tmp_path, only="0")
    with pytest.raises(UsageError, match=r"other settings \(optim.lr"):
        run(store, tmp_path, only="0", more=("--optim.lr", "0.1"))
    results = tmp_path / "runs" / "cam-lambda0-seed0" / "results.json"
    results.write_text(results.read_text()[:40])
    with pytest.raises(DataError, match=r"results.json is damaged"):
        run(store, tmp_path, only="0")


def test_a_method_row_takes_overrides_that_others_fix(store, tmp_path):
    """guidance.weight can be given to `methods`: it is that of the guided half."""
    table = json.loads(run(store, tmp_path, table="methods", only="cam", more=("--guidance.weight", "2")).read_text())
    assert {folder.name for folder in (tmp_path / "runs").iterdir()} == {
        "cam-lambda0-seed0", "cam-lambda2-last-seed0",
    }  # fmt: skip
    assert "--guidance.weight 2" in table["command"]


@pytest.mark.slow
def test_killed_process_is_one_failure(store, tmp_path):
    """A process of its own for each cell: one that is killed takes nothing along."""
    shared = shared_recipe("small", "strict", store.path, "toy", 28, TINY)
    made = [recipe_of(entry, shared, "small", 0) for entry in TABLES["lambda"] if entry.row in ("0", "4")]
    broken = replace(made[1], data=replace(made[1].data, store=tmp_path / "nowhere"))
    cells = [Cell(tmp_path / "good", made[0]), Cell(tmp_path / "bad", broken)]
    failures = run_cells(cells, workers=2, threads=1)
    assert cells[0].done
    assert list(failures) == ["bad"]
    assert "nowhere" in failures["bad"]


def test_reason_of_a_process_that_left_nothing(tmp_path):
    cell = Cell(tmp_path, tiny.recipe(tmp_path))
    assert "killed by signal 9" in reason_of(cell, -9)
    assert "ended with code 3" in reason_of(cell, 3)
    assert [duration(s) for s in (45, 600, 12000)] == ["45 s", "10 min", "3.3 h"]


# ---------------------------------------------------------------- tables


def result(accuracy: float, cosine: float) -> dict:
    score = {kind: {"class_mean": cosine, "interval": [cosine - 0.1, cosine + 0.1]} for kind in ("cosine", "pearson")}
    names = ("layer-1", "layer-2", "cam", "baseline:uniform", "baseline:centre", "baseline:mean")
    kinds = ("accuracy", "balanced_accuracy")
    return {
        "classification": dict.fromkeys(kinds, accuracy)
        | {f"{k}_interval": [accuracy - 0.2, accuracy + 0.2] for k in kinds},
        "alignment": dict.fromkeys(names, score),
    }


ACCURACY = {0: (0.5, 0.6), 1: (0.52, 0.66), 2: (0.51, 0.58)}
"""Seed -> unguided, guided."""


def table_of(seeds: int, dataset: str = "rafdb", table: str = "lambda", only: tuple[str, ...] = ("4",)) -> dict:
    entries = entries_of(table, only)
    results = {
        (entry.row, entry.column): {
            seed: result(ACCURACY[seed][side], 0.4 + 0.2 * side + 0.01 * seed * (1 + 2 * side)) for seed in range(seeds)
        }
        for side, entry in enumerate(entries)
    }
    facts = {
        "table": table,
        "dataset": dataset,
        "scale": "small",
        "protocol": "paper",
        "mien": "0",
        "command": "mien x",
    }
    more = {"faces": 300, "classes": list("abcdefg"), "seeds": list(range(seeds)), "failed": {"bad": "why"}}
    return {**facts, **more, "lines": lines_of(entries, results, dataset)}


def test_means_and_differences_over_seeds_by_hand():
    line = next(line for line in table_of(3)["lines"] if line["row"] == "4" and line["score"] == "accuracy")
    unguided, guided = np.array([ACCURACY[k] for k in range(3)]).T
    half = stats.t.ppf(0.975, 2) * guided.std(ddof=1) / np.sqrt(3)
    assert (line["value"], line["low"], line["high"]) == pytest.approx(
        (guided.mean(), guided.mean() - half, guided.mean() + half)
    )
    moved = guided - unguided
    half = stats.t.ppf(0.975, 2) * moved.std(ddof=1) / np.sqrt(3)
    assert line["difference"]["value"] == pytest.approx(moved.mean())
    assert line["difference"]["low"] == pytest.approx(moved.mean() - half)
    assert line["difference"]["p"] == pytest.approx(stats.ttest_rel(guided, unguided).pvalue)
    assert line["published"] == 0.8895


def test_a_row_reads_the_map_of_its_method():
    """TS-CAM scores the class map times the attention, APViT the last stage of its trunk, CutMix guides layer 4."""
    names = ["layer-1", "layer-2", "layer-3", "layer-4", "layer-5", "cam", "ts_cam", "attention", "grad_cam"]
    values = {name: number / 10 for number, name in enumerate(names)}
    scores = {name: {"cosine": {"class_mean": value, "interval": [0, 1]}} for name, value in values.items()}
    found = {}
    for entry in entries_of("methods", ["cam", "grad_cam", "cutmix", "ts_cam", "apvit"]):
        of_net = {
            name: score for name, score in scores.items() if entry.row != "apvit" or name not in ("layer-4", "layer-5")
        }
        wanted = [SCORES["att_cos"], *([SCORES["cam_cos"]] if entry.explainer else [])]
        found[entry.row] = [read({"alignment": of_net}, entry, score).value for score in wanted]
    wanted = {"cam": ["layer-5", "cam"], "grad_cam": ["layer-5", "grad_cam"], "cutmix": ["layer-4", "cam"]}
    wanted |= {"ts_cam": ["layer-5", "ts_cam"], "apvit": ["layer-3"]}
    assert found == {row: [values[name] for name in names] for row, names in wanted.items()}


def test_one_seed_has_the_interval_over_faces_and_no_test():
    line = next(line for line in table_of(1)["lines"] if line["row"] == "4" and line["score"] == "accuracy")
    assert (line["value"], line["low"], line["high"]) == pytest.approx((0.6, 0.4, 0.8))
    assert line["difference"] == {"value": pytest.approx(0.1), "low": None, "high": None, "p": None, "seeds": 1}
    assert "bootstrap over the faces of one seed" in as_markdown(table_of(1))


def test_markdown_says_what_was_measured():
    text = as_markdown(table_of(3))
    for part in (
        "t over 3 seeds",
        "test faces selected the epoch",
        "one seed, selected on the test faces",
        "- bad: why",
    ):
        assert part in text
    accuracy = text.split("## Accuracy (CL)")[1].split("##")[0]
    assert "0.613 [0.510, 0.717]" in accuracy
    assert "+0.103 [+0.016, +0.191]" in accuracy
    assert " 0.8895 |" in accuracy
    assert "0.630 / 0.630 / 0.630" in text.split("## ATT-COS")[1]


def test_other_datasets_have_no_published_column():
    table = table_of(3, dataset="synthetic")
    assert "published" not in as_markdown(table)
    assert {row["published"] for row in csv.DictReader(as_csv(table).splitlines())} == {""}


def test_an_override_that_reaches_some_rows_says_so(capsys):
    refuse_fixed("pal", entries_of("pal", ["au", "pal_mean"]), ["--guidance.weight", "3", "--optim.epochs", "2"])
    assert capsys.readouterr().err == "mien: --guidance.weight does not reach pal_mean, which set it themselves.\n"


def test_a_side_that_failed_has_a_dash():
    table = table_of(3, table="methods", only=("cam",))
    there = [line for line in table["lines"] if line["column"] != "without AUs" or line["score"] != "att_cos"]
    table["lines"] += [{**line, "row": "half", "title": "half"} for line in there]
    row = next(line for line in as_markdown(table).split("## ATT-COS")[1].splitlines() if line.startswith("| half"))
    assert row.split("|")[2].strip() == "–"


def test_missing_seeds_are_told():
    table = table_of(3)
    for line in table["lines"]:
        if line["row"] == "4":
            line["seeds"] = [0, 1]
    assert "Not all seeds are there: λ = 4: 2." in as_markdown(table)
    assert "Not all seeds" not in as_markdown(table_of(3))


# ---------------------------------------------------------------- figures


@pytest.mark.parametrize(("table", "row"), [("methods", "cam"), ("lambda", "4"), ("layers", "5"), ("pal", "pal_mean")])
def test_figure_of_a_table(table, row):
    made = table_of(2, table=table, only=(row,))
    figure = figure_of(made)
    assert len(figure.axes) == 3
    for axes in figure.axes:  # intervals of two seeds reach beyond what a score can be; the axes do not
        low, high = axes.get_ylim() if table == "lambda" else axes.get_xlim()
        assert -1.03 < low < high < 1.03
    assert "95 % t interval over 2 seeds" in figure.get_suptitle()
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert ("published" in legend) == (table != "pal")
    assert png(figure_of(made)) == png(figure_of(made))


def test_figures_verb_draws_every_table_of_a_folder(tmp_path):
    for table, row in (("lambda", "4"), ("layers", "5")):
        (tmp_path / table).mkdir()
        (tmp_path / table / "table.json").write_text(json.dumps(table_of(1, table=table, only=(row,))))
    out = figures(tmp_path, out=tmp_path / "out")
    assert sorted(path.name for path in out.iterdir()) == ["lambda.png", "layers.png"]
    (tmp_path / "lambda" / "table.json").write_text("{")
    with pytest.raises(DataError, match="is damaged"):
        figures(tmp_path, out=tmp_path / "out")
