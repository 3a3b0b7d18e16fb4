"""Scores of action units: loop-style twins, other libraries, and the corners."""

import json
import warnings

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics as sk

from mien.compat import ensure_torchvision
from mien.errors import DataError
from mien.metrics import action_units as au

UNITS = ("AU1", "AU6", "AU12")


def faces(n=200, a=3, seed=0, missing=0.0):
    """Intensities 0-5 of n faces, and predictions that are near them."""
    rng = np.random.default_rng(seed)
    truth = np.clip(rng.integers(-4, 6, (n, a)), 0, 5).astype(float)
    truth[rng.random((n, a)) < missing] = np.nan
    guess = np.clip(np.nan_to_num(truth, nan=2.0) + rng.normal(0, 1.5, (n, a)), 0, 5)
    return guess, truth


# --- twins, written from the definitions ---


def slow_f1(said, truth):
    tp = sum(1 for s, t in zip(said, truth, strict=True) if s == 1 and t == 1)
    wrong = sum(1 for s, t in zip(said, truth, strict=True) if not np.isnan(t) and s != t)
    return 2 * tp / (2 * tp + wrong) if tp + wrong else float("nan")


def slow_auc(scores, truth):
    won, pairs = 0.0, 0
    for a, t in zip(scores, truth, strict=True):
        for b, u in zip(scores, truth, strict=True):
            if t == 1 and u == 0:
                pairs += 1
                won += 1.0 if a > b else 0.5 if a == b else 0.0
    return won / pairs if pairs else float("nan")


def slow_icc(x, y):
    """Two-way analysis of variance without replication, term by term."""
    n, mean = len(x), (sum(x) + sum(y)) / (2 * len(x))
    rater = (sum(x) / n, sum(y) / n)
    rows = sum(2 * ((a + b) / 2 - mean) ** 2 for a, b in zip(x, y, strict=True)) / (n - 1)
    error = sum(
        (value - (a + b) / 2 - rater[r] + mean) ** 2
        for a, b in zip(x, y, strict=True)
        for r, value in enumerate((a, b))
    ) / (n - 1)
    return (rows - error) / (rows + error)


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_occurrence_equals_the_twin(missing):
    guess, truth = faces(60, missing=missing)
    active = au.occurrence(truth)
    said = au.occurrence(guess)
    np.testing.assert_allclose(au.f1(au.count(said, active)), [slow_f1(*p) for p in zip(said.T, active.T, strict=True)])
    rounded = guess.round()  # ties
    np.testing.assert_allclose(au.auc(rounded, active), [slow_auc(*p) for p in zip(rounded.T, active.T, strict=True)])


def test_intensity_equals_the_twin():
    guess, truth = faces(80)
    scores = au.intensity_scores(guess, truth, UNITS)["units"]
    for k, name in enumerate(UNITS):
        x, y = guess[:, k].tolist(), truth[:, k].tolist()
        assert scores[name]["icc"] == pytest.approx(slow_icc(x, y))
        assert scores[name]["mse"] == pytest.approx(sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) / len(x))
        assert scores[name]["mae"] == pytest.approx(sum(abs(a - b) for a, b in zip(x, y, strict=True)) / len(x))


# --- other libraries ---


def test_occurrence_agrees_with_scikit_learn_and_torchmetrics():
    ensure_torchvision()
    from torchmetrics.functional.classification import multilabel_auroc, multilabel_f1_score

    guess, truth = faces(300)
    active, said = au.occurrence(truth), au.occurrence(guess)
    scores = au.occurrence_scores(guess, active, UNITS, cut=au.ACTIVE, draws=10)
    for k, name in enumerate(UNITS):
        row, pair = scores["units"][name], (active[:, k], said[:, k])
        assert row["f1"] == pytest.approx(sk.f1_score(*pair))
        assert row["accuracy"] == pytest.approx(sk.accuracy_score(*pair))
        assert row["precision"] == pytest.approx(sk.precision_score(*pair))
        assert row["recall"] == pytest.approx(sk.recall_score(*pair))
        assert row["auc"] == pytest.approx(sk.roc_auc_score(active[:, k], guess[:, k]))
    assert scores["macro_f1"] == pytest.approx(sk.f1_score(active, said, average="macro"))
    assert scores["micro_f1"] == pytest.approx(sk.f1_score(active, said, average="micro"))
    assert scores["macro_auc"] == pytest.approx(sk.roc_auc_score(active, guess))
    shares, labels = torch.from_numpy(guess / 5), torch.from_numpy(active).long()
    assert float(multilabel_f1_score(shares, labels, 3, threshold=0.3999999)) == pytest.approx(
        scores["macro_f1"], abs=1e-5
    )
    assert float(multilabel_auroc(shares, labels, 3)) == pytest.approx(scores["macro_auc"], abs=1e-5)


def test_intensity_agrees_with_scipy_and_torchmetrics():
    ensure_torchvision()
    from torchmetrics.functional.regression import mean_absolute_error, mean_squared_error, pearson_corrcoef

    guess, truth = faces(120)
    scores = au.intensity_scores(guess, truth, UNITS)["units"]
    for k, name in enumerate(UNITS):
        pair = torch.from_numpy(guess[:, k]), torch.from_numpy(truth[:, k])
        assert scores[name]["pcc"] == pytest.approx(stats.pearsonr(guess[:, k], truth[:, k]).statistic)
        assert scores[name]["pcc"] == pytest.approx(float(pearson_corrcoef(*pair)), abs=1e-6)
        assert scores[name]["mse"] == pytest.approx(float(mean_squared_error(*pair)))
        assert scores[name]["mae"] == pytest.approx(float(mean_absolute_error(*pair)))


def test_icc_of_shrout_and_fleiss():
    """Table 2 of Shrout and Fleiss 1979: six targets, four judges; they print ICC(3,1) = 0.71."""
    table = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    assert au.icc_3_1(table) == pytest.approx(0.7148, abs=5e-5)


def test_icc_of_two_raters_is_consistency():
    guess, truth = faces(50)
    x, y = guess[:, 0], truth[:, 0]
    assert au.icc_3_1(np.stack([x, y], 1)) == pytest.approx(2 * np.cov(x, y)[0, 1] / (x.var(ddof=1) + y.var(ddof=1)))
    assert au.icc_3_1(np.stack([x, x + 2], 1)) == pytest.approx(1)  # an offset does not count
    assert au.icc_3_1(np.stack([x, 2 * x], 1)) < 1  # a scale does
    assert au.icc_3_1(np.stack([x, 5 - x], 1)) == pytest.approx(-1)


# --- corners ---


def test_what_is_undefined_is_none_and_named():
    active = np.array([[0, 1, np.nan], [0, 1, np.nan], [0, 0, np.nan]], float)
    scores = np.array([[0.1, 0.9, 0.5], [0.2, 0.4, 0.5], [0.3, 0.1, 0.5]])
    found = au.occurrence_scores(scores, active, UNITS, draws=10)
    assert found["undefined"] == {"f1": ["AU1", "AU12"], "auc": ["AU1", "AU12"], "accuracy": ["AU12"]}
    assert found["units"]["AU1"]["accuracy"] == 1
    assert found["macro_f1"] == found["units"]["AU6"]["f1"] == pytest.approx(2 / 3)
    assert found["units"]["AU12"]["prevalence"] is None
    json.dumps(found, allow_nan=False)


def test_never_active_but_predicted_is_zero_not_undefined():
    found = au.occurrence_scores(np.array([[0.9], [0.1]]), np.zeros((2, 1)), ["AU1"], draws=10)
    assert found["units"]["AU1"]["f1"] == 0


def test_constant_intensities_have_a_reason():
    guess = np.array([[1.0, 2, 3, 1], [2, 2, 3, 2]])
    truth = np.array([[0.0, 1, 3, np.nan], [0, 4, 3, np.nan]])
    found = au.intensity_scores(guess, truth, ["AU1", "AU2", "AU4", "AU5"])
    rows = found["units"]
    assert (rows["AU1"]["pcc"], rows["AU1"]["reason"], rows["AU1"]["icc"]) == (None, "constant labels", 0)
    assert rows["AU2"]["reason"] == "constant predictions"
    assert (rows["AU4"]["icc"], rows["AU4"]["reason"]) == (None, "constant labels and predictions")
    assert (rows["AU5"]["mse"], rows["AU5"]["reason"]) == (None, "no labelled face")
    assert found["mean_pcc"] is None
    assert found["mean_mse"] == pytest.approx(np.mean([2.5, 2.5, 0]))
    json.dumps(found, allow_nan=False)


def test_baselines_of_a_unit():
    active = np.array([[1.0], [0], [0], [0]])
    row = au.occurrence_scores(np.ones((4, 1)), active, ["AU1"], draws=10)["units"]["AU1"]
    assert (row["prevalence"], row["majority"]) == (0.25, 0.75)
    assert row["f1"] == pytest.approx(row["always_active_f1"]) == pytest.approx(0.4)


def test_threshold_of_papers_and_of_audetnet():
    intensities = np.array([[0, 1, 2, 3, np.nan]])
    np.testing.assert_array_equal(au.occurrence(intensities), [[0, 0, 1, 1, np.nan]])
    np.testing.assert_array_equal(au.occurrence(intensities, 3), [[0, 0, 0, 1, np.nan]])


def test_interval_by_subject_is_wider_than_by_face():
    guess, truth = faces(40, a=2, seed=3)
    active, said = au.occurrence(np.repeat(truth, 10, 0)), au.occurrence(np.repeat(guess, 10, 0))
    wide = au.macro_f1_interval(said, active, np.repeat(np.arange(40), 10), draws=400)
    narrow = au.macro_f1_interval(said, active, np.arange(400), draws=400)
    point = np.nanmean(au.f1(au.count(said, active)))
    assert wide[0] < narrow[0] < point < narrow[1] < wide[1]
    nothing = np.zeros((4, 1))
    assert np.isnan(au.macro_f1_interval(nothing, nothing, np.arange(4), draws=5)).all()


def test_folds_pooled_and_averaged():
    first = au.occurrence_scores(np.array([[0.9], [0.9]]), np.array([[1.0], [0]]), ["AU1"], draws=5)
    second = au.occurrence_scores(
        np.array([[0.1, 0.9], [0.9, 0.1]]), np.array([[1.0, 1], [1, 0]]), ["AU1", "AU2"], draws=5
    )
    found = au.over_folds([first, second])
    assert found["units"]["AU1"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert found["fold_mean_f1"] == pytest.approx((2 / 3 + (2 / 3 + 1) / 2) / 2)
    assert found["pooled_f1"] == pytest.approx((2 / 3 + 1) / 2)
    with pytest.raises(DataError, match="no folds"):
        au.over_folds([])


def test_units_are_matched_by_name():
    assert au.shared_units(("AU12", "AU1", "AU6"), ("AU6", "AU12", "AU7")) == ("AU12", "AU6")
    with pytest.raises(DataError, match="no action unit in common: AU1 there, AU2 here"):
        au.shared_units(["AU1"], ["AU2"])
    assert au.labelled_units([[np.nan, 0], [np.nan, np.nan]], ["AU1", "AU2"]) == ("AU2",)


@pytest.mark.parametrize(
    ("scores", "active", "units", "reason"),
    [
        (np.zeros((2, 1)), np.zeros((3, 1)), ["AU1"], "must both be a non-empty"),
        (np.zeros((0, 1)), np.zeros((0, 1)), ["AU1"], "non-empty"),
        (np.full((2, 1), np.nan), np.zeros((2, 1)), ["AU1"], "2 predictions are not finite"),
        (np.zeros((2, 2)), np.zeros((2, 2)), ["AU1"], "one name a column"),
        (np.zeros((2, 2)), np.zeros((2, 2)), ["AU1", "AU1"], "one name a column"),
    ],
)
def test_wrong_input_is_named(scores, active, units, reason):
    for function in (au.occurrence_scores, au.intensity_scores):
        with pytest.raises(DataError, match=reason):
            function(scores, active, units)


def test_no_warnings_for_odd_input():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        there = au.occurrence_scores(np.zeros((3, 2)), np.full((3, 2), np.nan), ["AU1", "AU2"], draws=5)
        strong = au.intensity_scores(np.zeros((3, 2)), np.full((3, 2), np.nan), ["AU1", "AU2"])
    assert there
    assert strong
