"""The report: real run folders with untrained models in, one self-contained page and model cards out."""

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import yaml
from PIL import Image

from mien.data.store import write_store
from mien.demo import demo_recipe
from mien.errors import DataError, UsageError
from mien.evaluation.evaluate import evaluate
from mien.files import write_json
from mien.metrics.classification import f1_and_ece_intervals
from mien.metrics.intervals import paired_bootstrap, wilson
from mien.models import create_model
from mien.report import plots, report
from mien.report.card import card
from mien.report.export import latex
from mien.report.facts import parameters_of
from mien.report.family import family_of
from mien.report.figures import figures
from mien.report.map_plot import dot_of, rows_of
from mien.report.numbers import beyond, classification, compare, right_and_wrong
from mien.report.page import context
from mien.report.pictures import typical_faces
from mien.report.runs import Group, choose_baseline, group_runs, load_run, load_runs
from mien.report.tables import beyond_tests
from mien.schema import EXPRESSIONS, Record
from mien.training import checkpoint
from mien.training.loop import fit
from mien.training.session import split_rows, start_run

SIDE = 32


def make_store(path: Path, seed: int = 0):
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.linspace(6, 26, 17), np.linspace(8, 26, 4))
    points = np.stack([x.ravel(), y.ravel()], 1).astype(np.float32)

    def records():
        for k in range(63):
            split = "train" if k < 21 else "valid" if k < 28 else "test"
            yield Record(
                f"face-{k}", rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8), split, subject=f"{split}-{k % 12}",
                expression=EXPRESSIONS[k % 7], landmarks=points + rng.normal(0, 0.5, points.shape).astype(np.float32),
            )  # fmt: skip

    return write_store(records(), path, dataset="synthetic", size=SIDE)


def make_run(folder: Path, store, seed: int, weight: float, **data) -> Path:
    recipe = demo_recipe(store.path, size=SIDE, epochs=2, seed=seed, weight=weight)
    recipe = replace(
        recipe, model=replace(recipe.model, channels=[4, 4, 8, 8], initial=None), data=replace(recipe.data, **data)
    )
    start_run(folder, recipe, store, split_rows(store, recipe), "cpu", {"precision": "32-true"})
    torch.manual_seed(int(10 * seed + weight))
    model = create_model(recipe.model, 7 if recipe.data.scheme == "basic-7" else 3)
    weights = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    checkpoint.save_tensors(folder / "best.ckpt", weights, {"epoch": 2, "score": 0.5})
    lines = [
        {
            "epoch": e,
            "train_classification": 2 / e,
            "valid_loss": 2.1 / e,
            "train_accuracy": 0.2 * e,
            "valid_accuracy": 0.3,
        }
        for e in (1, 2)
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    evaluate(folder)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    torch.set_num_threads(1)
    store = make_store(root / "store")
    for name, seed, weight in (("plain-s0", 0, 0.0), ("plain-s1", 1, 0.0), ("led-s0", 0, 4.0), ("led-s1", 1, 4.0)):
        make_run(root / name, store, seed, weight)
    return root


@pytest.fixture(autouse=True)
def undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of a page's time is drawing its figures: only the tests that look at them wait for that."""
    if "drawn" not in request.keywords:
        monkeypatch.setattr(plots, "uri", lambda figure: "data:image/svg+xml;base64,")


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Path:
    """A copy whose files a test may spoil; the store is named by config.yaml and stays."""
    for name in ("plain-s0", "plain-s1", "led-s0", "led-s1"):
        shutil.copytree(made / name, tmp_path / name)
    return tmp_path


def spoil(path: Path, section: str, **values) -> None:
    file = path / "config.yaml"
    tree = yaml.safe_load(file.read_text())
    tree[section].update(values)
    file.write_text(yaml.safe_dump(tree))


@pytest.mark.drawn
def test_page_is_one_file_with_everything_in_order(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = report(runs / "plain-s0", runs / "led-s0", out=runs / "new" / "page.html")
    text = page.read_text()
    bare = re.sub(r"data:[a-z/+]+;base64,[A-Za-z0-9+/=]+", "DATA", text)
    assert "http" not in bare
    assert "<script" not in bare
    assert (
        bare.count("DATA") == 7 + 8
    )  # dots, curves, confusion, errors, maps, typical, reliability; four strips a recipe
    assert bare.index("Every map of every recipe with its class-mean baseline and its ceiling") < bare.index(
        'id="runs"'
    )
    titles = re.findall(r'<h2 id="(\w+)"', bare)
    assert titles == [
        "runs", "classification", "alignment", "faithfulness", "classes", "tests", "curves", "confusion", "errors", "maps", "faces",
        "reliability", "meaning", "again",
    ]  # fmt: skip
    for phrase in (
        "led-s0 against plain-s0",
        "guidance.weight",
        "Grad-CAM++",
        "dataset-mean cue",
        "another expression",
        "McNemar",
    ):
        assert phrase in bare
    assert "trained once" in bare
    assert "not know what a person feels" in bare
    assert len(text) < 4_000_000
    assert "page.html" in capsys.readouterr().out
    for name in ("plain-s0", "led-s0"):
        words = (runs / name / "model-card.md").read_text()
        assert "Article 5(1)(f)" in words
        assert "dataset-mean cue" in words
    assert not (runs / "led-s1" / "model-card.md").exists()


@pytest.mark.slow
def test_same_input_same_page(runs: Path) -> None:
    first = report(runs / "plain-s0", out=runs / "a.html").read_text()
    assert first == report(runs / "plain-s0", out=runs / "b.html").read_text()
    assert "nothing to compare it with" in first


def test_seeds_of_a_recipe_are_taken_together(runs: Path) -> None:
    loaded = load_runs([runs / name for name in ("led-s0", "led-s1", "plain-s1", "plain-s0")])
    groups = group_runs(loaded)
    assert [(group.name, len(group.runs)) for group in groups] == [("led", 2), ("plain", 2)]
    base, partners = choose_baseline(groups)
    assert (base.name, [group.name for group in partners]) == ("plain", ["led"])
    test = compare(base, partners[0], seed=0)
    assert [(a.recipe.run.seed, b.recipe.run.seed) for a, b in test.pairs] == [(0, 0), (1, 1)]
    means = [
        np.mean([run.results["classification"]["accuracy"] for run in group.runs]) for group in (groups[1], groups[0])
    ]
    for shown in (test.differences["accuracy"].faces, test.differences["accuracy"].seeds):
        assert shown is not None
        assert shown.difference == pytest.approx(means[1] - means[0])
    assert len(test.differences["accuracy"].mcnemar) == 2
    page = context(loaded, False, 0)
    assert len(page["per_run"]) == 4
    assert any("over 12 people and 2 seeds" in sentence for sentence in page["verdict"])


def test_differences_are_those_of_the_tables(made: Path) -> None:
    a, b = (Group(name, [load_run(made / name, name)]) for name in ("plain-s0", "led-s0"))
    found = compare(a, b, seed=3).differences
    for key, map_, kind in (
        ("att_cos", "layer-5", "cosine"),
        ("att_pearson", "layer-5", "pearson"),
        ("cam_cos", "cam", "cosine"),
    ):
        values = [group.first.results["alignment"][map_][kind]["class_mean"] for group in (a, b)]
        assert found[key].faces.difference == pytest.approx(values[1] - values[0], abs=1e-6)
    scores = [group.first.results["classification"]["balanced_accuracy"] for group in (a, b)]
    assert found["balanced"].faces.difference == pytest.approx(scores[1] - scores[0])
    people = a.first.faces["subject"]
    assert len(set(people)) == 12
    plain = paired_bootstrap(a.first.right.astype(float), b.first.right.astype(float), people, seed=3)
    assert found["accuracy"].faces == plain


def test_beyond_the_floor_is_the_difference_of_the_table(made: Path) -> None:
    run = load_run(made / "led-s0", "led")
    for name in ("baseline:class_mean_predicted", "mismatched:other_class"):
        test = beyond(Group("led", [run]), name, "cosine", 0)
        assert test is not None
        means = [run.results["alignment"][key]["cosine"]["class_mean"] for key in ("layer-5", name)]
        assert test.difference == pytest.approx(means[0] - means[1], abs=1e-6)
    assert beyond(Group("led", [run]), "baseline:none", "cosine", 0) is None


def test_intervals_enclose_their_values(made: Path) -> None:
    run = load_run(made / "led-s0", "led")
    scores = run.results["classification"]
    for name, shown in classification(Group("led", [run]), 0).items():
        assert 0 <= shown.low <= scores[name] <= shown.high <= 1
        low, high = scores[f"{name}_interval"]
        assert (shown.low, shown.high) == pytest.approx((low, high), abs=0.02)
    assert scores["clusters"] == 12
    assert scores["grouped"]


def test_f1_draws_like_their_slow_twin(made: Path) -> None:
    from scipy import stats
    from sklearn.metrics import f1_score

    run = load_run(made / "plain-s0", "plain")
    labels, guess = run.faces["label"], run.faces["probabilities"].argmax(1)
    n, rng, slow, gaps = len(labels), np.random.default_rng(0), [], []
    top = run.faces["probabilities"].max(1).astype(float)
    bins = np.ceil(top * 15).astype(int)
    for rows in rng.integers(n, size=(50, n)):
        slow.append(
            f1_score(labels[rows], guess[rows], labels=np.unique(labels[rows]), average="macro", zero_division=0)
        )
        inside = [rows[bins[rows] == k] for k in np.unique(bins[rows])]
        gaps.append(sum(abs((top[k] - (guess[k] == labels[k])).sum()) for k in inside) / n)
    found = f1_and_ece_intervals(run.faces["probabilities"], labels, seed=0, draws=50)
    for interval, draws in zip(found, (slow, gaps), strict=True):
        error, t = np.std(draws) * (n / (n - 1)) ** 0.5, stats.t.ppf(0.975, n - 1)
        size = min(n, (n - 1) / (n + 1) * interval.value * (1 - interval.value) / error**2)
        assert (interval.low, interval.high) == pytest.approx(wilson(interval.value, size, t))


def test_equality_is_tested_never_assumed(runs: Path) -> None:
    """An interval around zero is "undecided"; "kept" is a test against a margin of one point; the seeds that it takes are told."""
    seeds = [runs / name for name in ("plain-s0", "plain-s1", "led-s0", "led-s1")]
    text = report(*seeds, out=runs / "p.html", no_faces=True).read_text()
    assert "no difference shown" not in text
    assert "a loss of 1 point is not ruled out" in text
    assert "would rule out a loss of 1 point with a chance of 80 %" in text
    alike = runs / "alike"
    shutil.copytree(runs / "plain-s0", alike)
    spoil(alike, "optim", lr=0.5)
    for name in ("maps/faces.npz",):  # the same answers on 1,000 faces: now a loss can be ruled out
        for run in (alike, runs / "plain-s0"):
            faces = dict(np.load(run / name))
            faces = {key: np.resize(values, (1000, *values.shape[1:])) for key, values in faces.items()}
            np.savez(run / name, **{**faces, "id": np.arange(1000).astype(str), "subject": np.full(1000, "")})
            results = json.loads((run / "results.json").read_text())
            write_json(run / "results.json", {**results, "faces": 1000})
    rows = context(load_runs([runs / "plain-s0", alike]), False, 0)["tests"][0]["rows"]
    assert rows[0]["verdict"] == "kept: a loss of 1 point is ruled out"
    assert "undecided" in rows[2]["verdict"]


def test_tests_of_a_page_are_one_family(runs: Path) -> None:
    from mien.metrics.decisions import holm

    loaded = load_runs([runs / "plain-s0", runs / "led-s0"])
    groups = group_runs(loaded)
    test = compare(groups[0], groups[1], 0)
    others = [one for row in beyond_tests(groups, 0).values() for one in row if one]
    family = family_of([test], others)
    raw = [row.test.p for row in test.differences.values()] + [one.p for one in others]
    assert family.size == len(raw) == 6 + 12
    shown = [ruling.p for ruling in family.rulings[0].values()] + family.beyond
    assert shown == pytest.approx(holm(raw))
    assert (
        f"Holm over all {family.size} differences"
        in report(runs / "plain-s0", runs / "led-s0", out=runs / "p.html", no_faces=True).read_text()
    )


def test_people_are_resampled_also_where_they_are_few(runs: Path) -> None:
    wide, narrow = [], []
    for people, found in ((np.arange(35) % 3, wide), (np.arange(35), narrow)):
        for name in ("plain-s0", "led-s0"):
            faces = dict(np.load(runs / name / "maps" / "faces.npz"))
            faces["subject"] = np.array([f"p{k}" for k in people])
            np.savez(runs / name / "maps" / "faces.npz", **faces)
        a, b = (Group(name, [load_run(runs / name, name)]) for name in ("plain-s0", "led-s0"))
        found.append(compare(a, b, 0).differences["accuracy"].faces)
    assert (wide[0].clusters, narrow[0].clusters) == (3, 35)
    assert wide[0].grouped


def test_right_and_wrong_counts(made: Path) -> None:
    run = load_run(made / "led-s0", "led")
    (right, n_right), (wrong, n_wrong) = right_and_wrong(Group("led", [run]), "layer-5", 0)
    summary = run.results["alignment"]["layer-5"]["cosine"]
    assert n_right + n_wrong == run.results["faces_with_cue"]
    for shown, expected in ((right.value, summary["correct"]), (wrong.value, summary["wrong"])):
        assert (shown is None and expected is None) or shown == pytest.approx(expected)


def test_paper_protocol_is_prominent(runs: Path) -> None:
    spoil(runs / "led-s0", "data", protocol="paper")
    text = report(runs / "led-s0", out=runs / "p.html").read_text()
    assert "Protocol “paper”" in text[: text.index('id="runs"')]
    assert "Protocol `paper`" in card(load_run(runs / "led-s0", "led"))


def test_scores_behind_masks_of_the_label_are_told(runs: Path) -> None:
    file = runs / "led-s0" / "results.json"
    write_json(file, {**json.loads(file.read_text()), "label_leak": True})
    text = report(runs / "led-s0", runs / "plain-s0", out=runs / "p.html").read_text()
    assert "The label was shown (led-s0)" in text[: text.index('id="runs"')]
    told = ["masks drawn from their true label" in card(load_run(runs / name, name)) for name in ("led-s0", "plain-s0")]
    assert told == [True, False]


@pytest.mark.slow
def test_missing_or_other_store_is_said(runs: Path) -> None:
    spoil(runs / "plain-s0", "data", store=str(runs / "gone"))
    text = report(runs / "plain-s0", out=runs / "p.html").read_text()
    assert "No pictures of faces: no prepared store" in text
    other = make_store(runs / "other", seed=5)
    spoil(runs / "plain-s0", "data", store=str(other.path))
    assert "holds other faces" in report(runs / "plain-s0", out=runs / "p.html").read_text()


def test_no_faces_and_no_log(runs: Path) -> None:
    (runs / "plain-s0" / "log.jsonl").unlink()
    (runs / "plain-s0" / "environment.json").unlink()
    text = report(runs / "plain-s0", out=runs / "p.html", no_faces=True).read_text()
    assert "left out on request" in text
    assert "No log.jsonl" in text
    assert "Most confident" not in text


def test_hostile_names_are_escaped(runs: Path) -> None:
    folder = runs / "<img src=x onerror=1>"
    (runs / "led-s0").rename(folder)
    assert "<img src=x" not in report(folder, out=runs / "p.html", no_faces=True).read_text()


@pytest.mark.slow
def test_runs_on_other_faces_stand_apart(runs: Path, made: Path) -> None:
    foreign = make_run(runs / "foreign", make_store(runs / "store2", seed=9), 0, 4.0)
    page = context(load_runs([runs / "plain-s0", runs / "led-s0", foreign]), False, 0)
    assert page["apart"] == ["foreign"]
    assert [test["other"] for test in page["tests"]] == ["led-s0"]
    with pytest.raises(UsageError, match=r"nothing can be compared: plain-s0 was scored on store .* foreign on"):
        report(runs / "plain-s0", foreign, out=runs / "p.html")


def test_other_classes_do_not_compare(runs: Path, made: Path) -> None:
    from mien.data.store import open_store

    polar = make_run(runs / "polar", open_store(made / "store"), 0, 0.0, scheme="polarity-3")
    with pytest.raises(UsageError, match="has classes"):
        report(runs / "plain-s0", polar, out=runs / "p.html")


def test_other_cues_compare_in_recognition_only(runs: Path) -> None:
    spoil(runs / "led-s0", "cue", codebook="paper")
    page = context(load_runs([runs / "plain-s0", runs / "led-s0"]), False, 0)
    assert page["cues_differ"]
    assert [row["title"] for row in page["tests"][0]["rows"]] == ["accuracy", "balanced accuracy"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda run: (run / "results.json").unlink(), ["no results.json", "mien evaluate"]),
        (lambda run: (run / "results.json").write_text("{"), ["results.json is damaged", "mien evaluate"]),
        (lambda run: (run / "results.json").write_text("[]"), ["results.json is damaged", "not a mapping"]),
        (lambda run: (run / "results.json").write_text('{"run_version": 99}'), ["run version 99", "reads 1"]),
        (lambda run: (run / "environment.json").write_text('{"run_version": 99}'), ["run version 99"]),
        (lambda run: (run / "maps" / "faces.npz").unlink(), ["faces.npz is missing", "mien evaluate"]),
        (lambda run: (run / "maps" / "faces.npz").write_bytes(b"PK??"), ["faces.npz is damaged"]),
        (lambda run: np.savez(run / "maps" / "faces.npz", a=np.zeros(2)), ["does not belong to results.json"]),
        (lambda run: np.savez(run / "maps" / "class_means.npz", a=np.array([{}])), ["class_means.npz is damaged"]),
        (lambda run: (run / "log.jsonl").write_text('{"epoch": 1}\n{"ep'), ["log.jsonl line 2", "damaged"]),
        (lambda run: (run / "log.jsonl").write_bytes(b'{"epoch": 1}\n{"e\xf5'), ["log.jsonl line 2", "damaged"]),
        (lambda run: (run / "config.yaml").unlink(), ["not a run folder"]),
    ],
)
def test_bad_run_folder_is_one_clear_line(runs: Path, damage, words: list[str]) -> None:
    damage(runs / "led-s0")
    with pytest.raises(DataError) as caught:
        report(runs / "led-s0", out=runs / "p.html")
    assert "\n" not in str(caught.value)
    assert "led-s0" in str(caught.value)
    assert all(word in str(caught.value) for word in words)
    assert not (runs / "p.html").exists()


def test_scores_on_another_store_stand_beside_the_store_of_the_training(runs: Path) -> None:
    """The page has both; the card keeps to the run's own scores, and never calls the scored store that of the training."""
    run, other = runs / "led-s0", make_store(runs / "abroad", seed=9)
    own = json.loads((run / "environment.json").read_text())["store_fingerprint"]
    report(run, out=runs / "own.html")
    before = (run / "model-card.md").read_text()
    evaluate(run, store=other.path)
    report(run, out=runs / "p.html", store=Path("abroad"))
    page = (runs / "p.html").read_text()
    assert own[:12] in page
    assert other.fingerprint[:12] in page
    assert "of another store than that of the training" in page
    assert "mien evaluate" in page
    assert "--store STORE" in page
    assert (run / "model-card.md").read_text() == before
    (run / "results.json").unlink()
    report(run, out=runs / "p.html", store=other.path)
    told = (run / "model-card.md").read_text()
    assert f"Trained on store synthetic, fingerprint {own[:12]}." in told
    assert f"of another store (synthetic, fingerprint {other.fingerprint[:12]}, 0 of them training faces)" in told


def test_the_card_names_synthetic_faces_and_votes(tmp_path: Path) -> None:
    """From environment.json; of a run that is older than this note from its results or from its store."""
    faces = [
        face._replace(id=f"synthetic/{face.id}") if face.id.startswith("train0") else face for face in tiny.records()
    ]
    notes = {"synthetic_source": "feed" * 16}
    store = write_store(faces, tmp_path / "store", dataset="photos", size=tiny.SIZE, notes=notes)
    run = tmp_path / "run"
    fit(tiny.recipe(store.path, data={"targets": "both"}, optim={"epochs": 1}), run)
    noted = json.loads((run / "environment.json").read_text())
    synthetic = noted["split"].pop("synthetic")
    assert synthetic["source"] == notes["synthetic_source"]
    assert synthetic["test"] == 0
    assert synthetic["train"] + synthetic["valid"] == 7
    evaluate(run, methods="cam")
    told = card(load_run(run, "run"))
    assert f"not photos: train {synthetic['train']}" in told
    assert "`feedfeedfeed`" in told
    assert "Targets `both`: one head for the shares" in told
    write_json(run / "environment.json", noted)
    old = load_run(run, "run")
    results = {name: value for name, value in old.results.items() if name != "synthetic_source"}
    among = "Among them are faces drawn by a computer (`mien synthesize`), not photos (source `feedfeedfeed`)."
    assert among in card(old._replace(results=results))
    shutil.rmtree(store.path)
    assert among in card(old)
    plain = card(old._replace(results=results, recipe=tiny.recipe(store.path)))
    assert "drawn by" not in plain
    assert "Targets" not in plain


def test_bad_arguments(runs: Path) -> None:
    with pytest.raises(UsageError, match="no runs"):
        report(out=runs / "p.html")
    with pytest.raises(UsageError, match="given twice"):
        report(runs / "led-s0", runs / "plain-s0" / ".." / "led-s0", out=runs / "p.html")
    with pytest.raises(UsageError, match=r"\.html"):
        report(runs / "led-s0", out=runs / "p.pdf")
    with pytest.raises(DataError, match=r"no results-valid\.json.*--split valid"):
        report(runs / "led-s0", out=runs / "p.html", split="valid")


def test_folders_of_one_name_are_told_apart(runs: Path) -> None:
    (runs / "a").mkdir()
    shutil.move(runs / "led-s0", runs / "a" / "run")
    (runs / "b").mkdir()
    shutil.move(runs / "plain-s0", runs / "b" / "run")
    assert [run.name for run in load_runs([runs / "a" / "run", runs / "b" / "run"])] == ["a/run", "b/run"]


# ---------------------------------------------------------------- what stands on the page


def test_faithfulness_and_the_map_without_a_label_are_shown_where_measured(runs: Path) -> None:
    before = report(runs / "led-s0", out=runs / "p.html", no_faces=True).read_text()
    assert "mien evaluate RUN --faithfulness" in before
    assert "CAM, predicted class" in before
    evaluate(runs / "led-s0", faithfulness=True, faithfulness_faces=6, faithfulness_steps=2)
    text = report(runs / "led-s0", runs / "plain-s0", out=runs / "p.html", no_faces=True).read_text()
    found = json.loads((runs / "led-s0" / "results.json").read_text())
    kinds = found["faithfulness"]["scores"]["cam"]
    for name, arrow in (("deletion", "↓"), ("insertion", "↑")):
        assert f"{name} {arrow}" in text
        assert f"{kinds[name]['class_mean']:.3f}" in text
    assert "Not measured for plain-s0" in text
    told = card(load_run(runs / "led-s0", "led"))
    assert "CAM of the predicted class, which needs no label |" in told
    assert "| deletion ↓ |" in told
    assert "always the most frequent class" in told
    assert re.search(r"\| Neutral \| [\d.]+ \[[\d.]+, [\d.]+\] \|", told)
    assert "over 12 people" in told


def test_the_user_chooses_the_baseline(runs: Path) -> None:
    folders = [runs / "plain-s0", runs / "led-s0"]
    loaded = load_runs(folders)
    assert [test["base"] for test in context(loaded, False, 0)["tests"]] == ["plain-s0"]
    other = context(loaded, False, 0, runs / "a" / ".." / "led-s0")
    assert [(test["other"], test["base"]) for test in other["tests"]] == [("plain-s0", "led-s0")]
    text = report(*folders, out=runs / "p.html", no_faces=True, baseline=runs / "led-s0").read_text()
    assert "plain-s0 minus led-s0" in text
    assert "--baseline" in text
    with pytest.raises(UsageError, match=r"--baseline .*plain-s1 is none of the runs given; choose one of .*plain-s0"):
        report(*folders, out=runs / "p.html", baseline=runs / "plain-s1")


def test_tables_and_figures_are_exported(runs: Path) -> None:
    folders = [runs / name for name in ("plain-s0", "plain-s1", "led-s0", "led-s1")]
    report(*folders, out=runs / "p.html", no_faces=True, export=runs / "out")
    names = {path.name for path in (runs / "out").iterdir()}
    tables = {"recognition", "alignment", "classes", "right-wrong", "beyond", "test-1"}
    figures_ = {"maps", "curves", "confusion", "reliability"}
    assert names == {f"{t}.{e}" for t in tables for e in ("csv", "tex")} | {
        f"{f}.{e}" for f in figures_ for e in ("svg", "pdf")
    }
    rows = list(csv.DictReader((runs / "out" / "recognition.csv").open(encoding="utf-8")))
    values = [load_run(run, "").results["classification"]["accuracy"] for run in folders[:2]]
    assert float(rows[0]["accuracy ↑"]) == pytest.approx(np.mean(values), rel=1e-5)
    assert float(rows[0]["accuracy ↑ low"]) < float(rows[0]["accuracy ↑"]) < float(rows[0]["accuracy ↑ high"])
    tex = (runs / "out" / "test-1.tex").read_text(encoding="utf-8")
    assert "\\toprule" in tex
    assert "ruled out" in tex
    assert "seeds 0, 1" in tex
    assert not set(tex) & set("↑−–")
    assert (runs / "out" / "maps.pdf").read_bytes().startswith(b"%PDF")
    assert b"<svg" in (runs / "out" / "maps.svg").read_bytes()
    assert latex("a_b & 5% <x> $") == r"a\_b \& 5\% $<$x$>$ \$"


def test_first_figure_shows_what_the_table_says(made: Path) -> None:
    run = load_run(made / "led-s0", "led")
    dot = dot_of(Group("led", [run]), "layer-5", "cosine", 0)
    found = run.results["alignment"]
    assert dot is not None
    assert dot.value.value == found["layer-5"]["cosine"]["class_mean"]
    assert dot.blind == found["baseline:class_mean_predicted"]["cosine"]["class_mean"]
    assert dot.ceiling == found["ceiling"]["cosine"]["class_mean"]
    assert {"layer-1", "layer-5", "cam", "cam@predicted"} <= set(rows_of([Group("led", [run])]))


def test_bins_of_the_reliability_show_their_counts(made: Path) -> None:
    groups = [Group(name, [load_run(made / name, name)]) for name in ("plain-s0", "led-s0")]
    shown = [int(text.get_text()) for text in plots.reliability(groups).axes[1].texts]
    assert sum(shown) == sum(len(group.first.right) for group in groups)


def test_every_table_says_where_it_comes_from(runs: Path) -> None:
    """Date, seeds, parameters and chance level below, directions in the heads: a table may be cut out of the page."""
    text = report(runs / "plain-s0", runs / "led-s0", out=runs / "p.html", no_faces=True).read_text()
    results_ = json.loads((runs / "led-s0" / "results.json").read_text())
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", results_["date"])
    facts = re.search(r'facts">(.*?)</p>', text)
    assert facts is not None
    words = (
        results_["date"],
        "35 test faces",
        "seed 0",
        parameters_of(load_run(runs / "led-s0", "")),
        "Chance level of accuracy 0.143",
    )
    assert all(word in facts[1] for word in words)
    for part in ("classification", "alignment", "classes", "tests"):
        section = text.split(f'<h2 id="{part}"')[1].split("<h2")[0]
        assert 'class="note facts"' in section
        assert "↑" in section


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="needs a browser")
def test_nothing_overflows_a_phone_or_a_sheet_of_paper(runs: Path) -> None:
    """390 px: only tables scroll, in their own frame. A4: every recipe's column is printed."""
    import subprocess

    folders = [runs / name for name in ("plain-s0", "led-s0", "plain-s1")]
    for k, name in enumerate(("led-with-a-long-name-of-its-own", "other", "third")):
        shutil.copytree(runs / "led-s1", runs / name)
        spoil(runs / name, "optim", lr=0.1 * (k + 1))
        folders.append(runs / name)
    page = report(*folders, out=runs / "p.html")
    (runs / "wrap.html").write_text(
        "<iframe id=f src=p.html style='width:390px;height:900px;border:0'></iframe><p id=o></p><script>"
        "f.onload=()=>{const d=f.contentDocument.documentElement;o.textContent='WIDE '+(d.scrollWidth-d.clientWidth)+'.'}</script>"
    )
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --allow-file-access-from-files"
    browser = ["chromium", *flags.split(), f"--user-data-dir={runs / 'profile'}"]
    shown = subprocess.run(
        [*browser, "--virtual-time-budget=5000", "--dump-dom", (runs / "wrap.html").as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    assert "WIDE 0." in shown
    if shutil.which("pdftotext"):
        pdf = runs / "p.pdf"
        subprocess.run(
            [*browser, "--no-pdf-header-footer", f"--print-to-pdf={pdf}", page.as_uri()],
            capture_output=True,
            timeout=120,
            check=True,
        )
        text = subprocess.run(
            ["pdftotext", "-layout", str(pdf), "-"], capture_output=True, text=True, timeout=60, check=True
        ).stdout
        start = text.index("How well it recognises")
        line = next(line for line in text[start:].splitlines() if line.strip().startswith("CAM "))
        assert len(re.findall(r"[−\d.]+\d", line)) == 5  # a column a recipe; two runs are one recipe


# ---------------------------------------------------------------- mien figures


def test_figures_of_runs(runs: Path) -> None:
    folders = [runs / "plain-s0", runs / "led-s0"]
    for out, hidden in ((runs / "shown", False), (runs / "hidden", True)):
        figures(*folders, out=out, no_faces=hidden)
        assert sorted(path.name for path in out.iterdir()) == ["class_maps.png", "faces.png"]
    wide, narrow = (np.asarray(Image.open(runs / name / "faces.png")).shape[1] for name in ("shown", "hidden"))
    assert narrow < wide  # picture and cue are left out


def test_a_panel_of_every_face(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures(runs / "plain-s0", out=runs / "all", faces="all")
    panels = sorted((runs / "all" / "faces").iterdir())
    assert len(panels) == len(load_runs([runs / "plain-s0"])[0].faces["id"])
    before = panels[0].read_bytes()
    panels[1].unlink()
    figures(runs / "plain-s0", out=runs / "all", faces="all")
    assert f"{len(panels)} panels, 1 drawn now" in capsys.readouterr().out
    assert panels[0].read_bytes() == before
    assert panels[1].is_file()


def test_typical_faces_like_its_slow_twin(made: Path) -> None:
    loaded = load_runs([made / "plain-s0", made / "led-s0"])
    first, second = loaded
    by_class: dict[int, list[tuple[float, int]]] = {}
    for place, name in enumerate(first.faces["id"]):
        other = list(second.faces["id"]).index(name)
        if first.faces["valid"][place] and second.faces["valid"][other]:
            cosines = [run.faces[f"{run.last_layer}/cosine"][k] for run, k in ((first, place), (second, other))]
            by_class.setdefault(int(first.faces["label"][place]), []).append((sum(cosines) / 2, place))
    chosen = typical_faces(loaded)
    assert set(chosen) == set(by_class)
    for label, members in by_class.items():
        middle = sorted(members)[len(members) // 2][0]
        assert {place: cosine for cosine, place in members}[chosen[label][0]] == pytest.approx(middle)
        assert second.faces["id"][chosen[label][1]] == first.faces["id"][chosen[label][0]]


def test_figures_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither a run folder nor one of `mien reproduce`"):
        figures(tmp_path, out=tmp_path / "out")
