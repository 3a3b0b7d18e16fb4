"""Intervals of calibration scores: many resamples at once are what each resample gives by itself."""

import csv
import io
import json

import numpy as np
import pytest
from scipy import stats

from mien.audit.page import html, text_csv, text_json
from mien.audit.sample import Sample
from mien.audit.sure import sure
from mien.metrics.confidence import (
    adaptive_error,
    brier,
    calibrated_error,
    class_wise_error,
    equal_mass,
    equal_mass_error,
    mean_log_loss,
    risk_coverage,
)
from mien.metrics.intervals import bootstrap_mean
from mien.metrics.reweighted import calibration_intervals, calibration_scores

CLASSES = ("Happiness", "Anger", "Sadness")


def answers(n=240, seed=0, ties=False):
    """Probabilities of a model that is too sure, labels, and who is seen."""
    rng = np.random.default_rng(seed)
    labels, people = rng.integers(0, 3, n), rng.integers(0, 30, n)
    logits = rng.normal(0, 1, (n, 3)) + 1.2 * np.eye(3)[labels] + rng.normal(0, 1, (30, 3))[people]
    shares = np.exp(1.7 * logits)
    shares /= shares.sum(1, keepdims=True)
    if ties:
        shares = np.round(shares, 1)
        shares[:, 0] = 1 - shares[:, 1:].sum(1)
    return shares, labels, people


def one_by_one(shares, labels):
    """Every score by the function that takes one set of faces."""
    parts, each = brier(shares, labels), class_wise_error(shares, labels)
    return {
        "ece": equal_mass_error(shares, labels), "adaptive": adaptive_error(shares, labels), "class_wise": each.mean(),
        "over": shares.max(1).mean() - (shares.argmax(1) == labels).mean(), "brier": parts.score,
        "reliability": parts.reliability, "resolution": parts.resolution, "uncertainty": parts.uncertainty,
        "within": parts.within, "log_loss": mean_log_loss(shares, labels), "aurc": risk_coverage(shares, labels).area,
        **{f"class_wise {k}": value for k, value in enumerate(each)},
    }  # fmt: skip


@pytest.mark.parametrize("ties", [False, True])
def test_a_weighted_sample_is_the_sample_repeated(ties):
    shares, labels, _ = answers(ties=ties)
    weights = np.random.default_rng(3).integers(0, 4, (25, len(labels))).astype(float)
    weights[1, 5:] = 0  # five faces, fewer than bins
    found = calibration_scores(shares, labels, weights)
    for d, row in enumerate(weights):
        again = np.repeat(np.arange(len(labels)), row.astype(int))
        expected = one_by_one(shares[again], labels[again])
        assert set(expected) == set(found)
        for name, value in expected.items():
            assert found[name][d] == pytest.approx(value, abs=1e-9), name


def loop_interval(shares, labels, people, name, draws):
    """People drawn with replacement, the score of the drawn faces, its spread in a t."""
    known = np.unique(people)
    rng, values = np.random.default_rng(0), []
    for _ in range(draws):
        chosen = rng.integers(len(known), size=len(known))
        rows = np.concatenate([np.flatnonzero(people == known[k]) for k in chosen])
        values.append(one_by_one(shares[rows], labels[rows])[name])
    share = np.array([(people == who).mean() for who in known])
    effective = (share**2).sum() ** 2 / (share**4).sum()
    return stats.t.ppf(0.975, effective - 1) * np.std(values) * (effective / (effective - 1)) ** 0.5


@pytest.mark.parametrize("name", ["ece", "reliability", "resolution", "uncertainty", "aurc"])
def test_the_interval_is_its_loop(name):
    shares, labels, people = answers()
    found = calibration_intervals(shares, labels, people, draws=150)[name]
    half = loop_interval(shares, labels, people, name, 150)
    assert found.value == pytest.approx(one_by_one(shares, labels)[name])
    assert found.high - found.value == pytest.approx(half)
    assert (found.clusters, found.grouped) == (30, True)


def test_the_bias_of_an_ece_is_its_loop_and_shrinks_with_the_faces():
    shares, _, _ = answers(n=40)
    rng, errors = np.random.default_rng(0), []
    for hits in rng.random((200, 40)) < shares.max(1):
        errors.append(equal_mass(shares.max(1), hits).error)
    assert calibrated_error(shares) == pytest.approx(np.mean(errors))
    assert calibrated_error(answers(n=4000)[0]) < 0.3 * calibrated_error(shares)
    assert calibrated_error(np.eye(3)) == 0


def test_means_have_the_interval_that_the_other_parts_give_them():
    shares, labels, people = answers()
    found = calibration_intervals(shares, labels, people)
    squares = np.square(shares - np.eye(3)[labels]).sum(1)
    for name, values in (("brier", squares), ("over", shares.max(1) - (shares.argmax(1) == labels))):
        twin = bootstrap_mean(values, people)
        assert found[name][:3] == pytest.approx(twin[:3])
    alone = calibration_intervals(shares, labels, None)["over"]
    assert alone.high - alone.low < found["over"].high - found["over"].low, "faces of one person are alike"


@pytest.mark.slow
def test_the_interval_holds_what_other_people_show():
    """The mean over other samples lies in about 95 of 100 intervals of the parts of a Brier score."""
    truth = {
        name: np.mean([one_by_one(*answers(seed=s)[:2])[name] for s in range(1000, 1300)])
        for name in ("resolution", "over")
    }
    held = dict.fromkeys(truth, 0)
    for seed in range(100):
        found = calibration_intervals(*answers(seed=seed), draws=200, seed=seed)
        for name, value in truth.items():
            held[name] += found[name].low <= value <= found[name].high
    assert min(held.values()) >= 88, held


@pytest.mark.parametrize("which", ["people", "nobody", "one person", "twelve faces", "one class", "always sure"])
def test_every_score_has_its_interval_in_page_json_and_csv(which):
    shares, labels, people = answers(n=12 if which == "twelve faces" else 240)
    if which == "one class":
        labels = np.zeros_like(labels)
    if which == "always sure":
        shares = np.eye(3)[shares.argmax(1)]
    known = {"nobody": None, "one person": np.zeros_like(people)}.get(which, people)
    n = len(labels)
    sample = Sample(
        CLASSES,
        labels,
        np.full((n, 68, 2), np.nan, np.float32),
        np.full((n, 3), np.nan, np.float32),
        known,
        {},
        np.arange(n),
    )
    part = sure(sample, shares)
    tables = [table for table in part.tables if table.key in ("before", "after", "classes")]
    assert len(tables) == (2 if which in ("twelve faces", "one person") else 3)
    for table in tables:
        for row in table.rows:
            assert row.low is not None, (table.key, row.name)
            assert row.low <= row.value <= row.high, (table.key, row.name)
            assert row.low >= 0 or row.name in ("mean confidence minus accuracy", "· within bins")
    rows = {row.name: row for row in tables[0].rows}
    error, facts = rows["ECE, bins of equal mass"], facts_of()
    assert "a perfectly calibrated model has" in error.note
    kept = json.loads(text_json([part], facts))["parts"][0]["tables"][0]["rows"][0]
    assert (kept["low"], kept["high"]) == (error.low, error.high)
    written = next(csv.DictReader(io.StringIO(text_csv([part]))))
    assert float(written["low"]) == pytest.approx(error.low, rel=1e-4)
    assert f"[{error.low:.3f}, {error.high:.3f}]" in html([part], facts)


def facts_of():
    return {
        "title": "t", "faces": 1, "people": 0, "store": "s", "split": "test", "date": "d", "banners": [], "classes": [],
        "method": "m", "identity": "i", "fingerprint": "f", "command": "c",
    }  # fmt: skip
