"""Temperature and abstaining against grid searches and torchmetrics; the verb on a tiny run."""

import itertools
import json

import numpy as np
import pytest
import tiny
import torch

from mien.calibrate import calibrate
from mien.errors import DataError, UsageError
from mien.metrics.calibration import (
    RANGE,
    abstain_threshold,
    fit_temperature,
    negative_log_likelihood,
    scaled,
)
from mien.metrics.classification import calibration_error
from mien.predict.calibration import FILE, Calibration, read_calibration
from mien.training.loop import fit


def drawn(count: int = 4000, true: float = 2.5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are over-confident by the factor `true`, and labels."""
    rng = np.random.default_rng(seed)
    honest = rng.normal(0, 1.5, (count, 7))
    shares = scaled(honest, 1.0)
    labels = np.array([rng.choice(7, p=row) for row in shares])
    return (honest * true).astype(np.float32), labels.astype(np.int64)


def test_the_temperature_that_was_hidden_is_found():
    logits, labels = drawn()
    assert fit_temperature(logits, labels) == pytest.approx(2.5, rel=0.05)


def test_temperature_by_a_grid_search():
    logits, labels = drawn(300)
    grid = np.linspace(1.5, 4, 2501)
    losses = []
    for temperature in grid[::50]:
        exps = [np.exp(row.astype(float) / temperature) for row in logits]
        losses.append(np.mean([-np.log(e[k] / e.sum()) for e, k in zip(exps, labels, strict=True)]))
    exact = [negative_log_likelihood(logits, labels, t) for t in grid]
    assert losses == pytest.approx(exact[::50])
    assert fit_temperature(logits, labels) == pytest.approx(grid[int(np.argmin(exact))], abs=1e-3)
    assert negative_log_likelihood(logits, labels) == pytest.approx(
        float(torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels))), abs=1e-5
    )


def test_corner_temperatures():
    sure = np.eye(3, dtype=np.float32)
    assert fit_temperature(sure, np.arange(3)) == pytest.approx(RANGE[0], rel=1e-3)
    assert fit_temperature(sure, np.array([1, 2, 0])) == pytest.approx(RANGE[1], rel=1e-3)
    with pytest.raises(DataError, match="do not fit"):
        fit_temperature(np.zeros((0, 3)), np.zeros(0, np.int64))
    with pytest.raises(DataError, match="not finite"):
        fit_temperature(np.full((2, 3), np.nan), np.zeros(2, np.int64))


def test_calibration_error_falls_and_is_that_of_its_definition():
    logits, labels = drawn()
    before, after = scaled(logits, 1.0), scaled(logits, fit_temperature(logits, labels))
    assert (before.argmax(1) == after.argmax(1)).all()
    assert calibration_error(after, labels) < 0.02 < 0.1 < calibration_error(before, labels)
    edges = np.linspace(0, 1, 16)
    top, right = after.max(1), after.argmax(1) == labels
    ece = 0.0
    for low, high in itertools.pairwise(edges):
        inside = (top > low) & (top <= high)
        if inside.any():
            ece += inside.mean() * abs(top[inside].mean() - right[inside].mean())
    assert calibration_error(after, labels) == pytest.approx(ece, abs=1e-6)


def test_threshold_by_a_loop():
    logits, labels = drawn(200)
    p = scaled(logits, 2.5)
    for asked in (0.5, 0.7, 0.9):
        threshold, kept = abstain_threshold(p, labels, asked)
        top, right = p.max(1), p.argmax(1) == labels
        fits = [t for t in np.unique(top) if right[top >= t].mean() >= asked]
        assert threshold == (0.0 if min(fits) == top.min() else min(fits))
        assert kept == (top >= threshold).mean()


def test_threshold_corners():
    p = np.array([[0.6, 0.4], [0.6, 0.4], [0.6, 0.4]])
    assert abstain_threshold(p, np.array([0, 0, 0]), 1.0) == (0.0, 1.0)
    with pytest.raises(DataError, match="no threshold reaches"):  # equal confidences are kept or left together
        abstain_threshold(p, np.array([0, 1, 1]), 0.5)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tiny.store(tmp_path_factory.mktemp("data") / "store", each=12).path
    out = tmp_path_factory.mktemp("runs") / "run"
    fit(tiny.recipe(path, optim={"epochs": 6}), out)
    return out


def test_the_verb(run, capsys):
    assert read_calibration(run, ()) == Calibration(1.0, 0.0)
    result = calibrate(run, accuracy=0.2)
    assert json.loads((run / FILE).read_text()) == result
    assert read_calibration(run, ())[:4] == (result["temperature"], result["threshold"], (), "votes")
    assert RANGE[0] <= result["temperature"] <= RANGE[1]
    for split in ("valid", "test"):
        assert 0 <= result[split]["ece"] <= 1
        assert result[split]["kept"] > 0
    assert result["valid"]["nll"] <= result["valid"]["nll_before"] + 1e-9
    assert result["valid"]["accuracy_kept"] >= 0.2
    assert "abstain below" in capsys.readouterr().out


def test_a_store_without_test_faces(tmp_path, capsys):
    """The fit needs validation faces only; the other commands name what works."""
    from mien.evaluation.evaluate import evaluate
    from mien.report import report

    path = tiny.store(tmp_path / "store", each=12, splits=("train",)).path
    run = tmp_path / "run"
    fit(tiny.recipe(path, optim={"epochs": 2}), run)
    result = calibrate(run, accuracy=0.05)
    assert result["valid"]["faces"] > 0
    assert "test" not in result
    assert "  test" not in capsys.readouterr().out
    with pytest.raises(
        DataError, match=r"no labelled faces in split 'test'; score `--split valid` \(\d+ faces\).*mien crossval"
    ):
        evaluate(run)
    with pytest.raises(DataError, match=r"no test faces: run `mien evaluate \S+ --split valid`"):
        report(run, out=tmp_path / "page.html")
    evaluate(run, split="valid", methods="cam")
    with pytest.raises(DataError, match=r"no results\.json; what it has is shown by `mien report \S+ --split valid`"):
        report(run, out=tmp_path / "page.html")
    report(run, out=tmp_path / "page.html", split="valid")


def test_the_logits_are_those_of_evaluate(run):
    from mien.evaluation.evaluate import evaluate

    scores = evaluate(run, methods="cam")["classification"]
    result = calibrate(run, accuracy=0.1, views=1)["test"]
    assert result["accuracy"] == pytest.approx(scores["accuracy"])
    assert result["ece_before"] == pytest.approx(scores["calibration_error"], abs=1e-4)


def test_bad_requests(run, tmp_path):
    with pytest.raises(UsageError, match="--accuracy"):
        calibrate(run, accuracy=0)
    other = tiny.store(tmp_path / "other", seed=5).path
    with pytest.raises(DataError, match="does not hold the faces"):
        calibrate(run, store=other)
    paper = tmp_path / "paper"
    fit(tiny.recipe(tiny.store(tmp_path / "store").path, data={"protocol": "paper"}, optim={"epochs": 1}), paper)
    with pytest.raises(UsageError, match="protocol paper"):
        calibrate(paper)


def test_a_temperature_that_worsens_test_faces_is_warned_of():
    from mien.calibrate.faces import worse_on_test

    row = {"ece_before": 0.01, "ece": 0.05, "nll_before": 1.0, "nll": 0.9}
    assert worse_on_test({"test": row}) == ["calibration error 0.0100 to 0.0500"]
    assert worse_on_test({"test": {**row, "ece": 0.012}}) == []
    assert worse_on_test({}) == []
