"""Intervals and tests: twins written as loops, scipy and statsmodels where they overlap, coverage simulated."""

import numpy as np
import pytest
from scipy import stats

from mien.errors import DataError
from mien.metrics import classification as cl
from mien.metrics import decisions, resampling
from mien.metrics import intervals as iv


def clustered(seed: int = 0, people: int = 12, faces: int = 20, share: float = 0.8, icc: float = 0.2):
    """Right answers whose rate differs by person, and the person of each."""
    rng = np.random.default_rng(seed)
    rate = rng.beta(share * (1 - icc) / icc, (1 - share) * (1 - icc) / icc, people)
    person = np.repeat(np.arange(people), rng.integers(faces // 2, 2 * faces, people))
    return (rng.random(len(person)) < rate[person]).astype(float), person


def test_mean_agrees_with_scipy():
    values = np.random.default_rng(0).normal(2, 1, 40)
    interval = iv.bootstrap_mean(values, draws=20_000)
    other = stats.ttest_1samp(values, 0).confidence_interval()
    assert interval.value == pytest.approx(values.mean())
    assert (interval.low, interval.high) == pytest.approx(tuple(other), abs=0.01)
    assert (interval.clusters, interval.grouped) == (40, False)
    assert iv.bootstrap_mean(values) == iv.bootstrap_mean(values)
    assert iv.bootstrap_mean(values) != iv.bootstrap_mean(values, seed=1)


def test_people_are_resampled_like_the_twin():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(10), 20)
    values = rng.normal(size=10)[groups] + 0.01 * rng.normal(size=200)
    wide, narrow = iv.bootstrap_mean(values, groups), iv.bootstrap_mean(values)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    assert (wide.clusters, wide.grouped) == (10, True)
    rng, means = np.random.default_rng(0), []
    for drawn in rng.integers(10, size=(300, 10)):
        means.append(np.concatenate([values[groups == g] for g in drawn]).mean())
    half = stats.t.ppf(0.975, 9) * np.std(means) * (10 / 9) ** 0.5
    few = iv.bootstrap_mean(values, groups, draws=300)
    assert (few.low, few.high) == pytest.approx((values.mean() - half, values.mean() + half))


def test_class_means_are_computed_again_in_each_draw():
    rng = np.random.default_rng(1)
    person = np.repeat(np.arange(9), 7)
    labels, values = rng.integers(3, size=63), rng.random(63)
    labels[person == 4] = 2  # a draw with this person has another share of classes
    means = []
    for drawn in np.random.default_rng(0).integers(9, size=(200, 9)):
        rows = np.concatenate([np.flatnonzero(person == g) for g in drawn])
        means.append(np.mean([values[rows][labels[rows] == k].mean() for k in np.unique(labels[rows])]))
    weight = [
        np.mean([((person == g) & (labels == k)).sum() / (labels == k).sum() for k in range(3)]) for g in range(9)
    ]
    effective = np.square(weight).sum() ** 2 / np.power(weight, 4).sum()
    half = stats.t.ppf(0.975, effective - 1) * np.std(means) * (effective / (effective - 1)) ** 0.5
    shown = iv.bootstrap_class_mean(values, labels, person, draws=200)
    assert shown.high - shown.value == pytest.approx(half)
    assert shown.value == pytest.approx(np.mean([values[labels == k].mean() for k in range(3)]))


def test_chunks_and_kept_draws_change_nothing(monkeypatch):
    values = np.arange(50.0)
    whole = iv.bootstrap_mean(values, draws=100)
    resampling._kept_counts.cache_clear()
    monkeypatch.setattr(resampling, "_CHUNK", 170)
    cut = iv.bootstrap_mean(values, draws=100)
    monkeypatch.setattr(resampling, "_KEPT", 0)
    assert cut == pytest.approx(whole)
    assert iv.bootstrap_mean(values, draws=100) == pytest.approx(whole)


@pytest.mark.parametrize(("right", "n"), [(0, 30), (30, 30), (1, 30), (17, 30), (1, 1)])
def test_shares_are_wilsons(right, n):
    other = stats.binomtest(right, n).proportion_ci(method="wilson")
    interval = iv.bootstrap_mean(np.arange(n) < right)
    assert (interval.low, interval.high) == pytest.approx(tuple(other))
    assert interval.high - interval.low > 0.05


def test_shares_at_the_ends_count_people_once():
    person = np.repeat(np.arange(12), 22)
    few, many = iv.bootstrap_mean(np.ones(264), person), iv.bootstrap_mean(np.ones(264))
    assert (few.low, few.high) == pytest.approx(iv.wilson(1, 12))
    assert few.low < 0.8 < many.low < 1
    labels = np.arange(264) % 7
    assert iv.bootstrap_class_mean(np.ones(264), labels, person).low == pytest.approx(iv.wilson(1, 12)[0])
    assert iv.bootstrap_class_mean(np.zeros(264), labels).high > 0
    scores = cl.classification_scores(np.eye(2)[[0, 1] * 10], np.array([0, 1] * 10), ("a", "b"))
    for name in ("accuracy_interval", "balanced_accuracy_interval", "macro_f1_interval"):
        assert scores[name][0] < 0.95
        assert scores[name][1] == 1


def test_one_person_and_one_value():
    values = np.array([0.1, 0.4, 0.3])
    alone = iv.bootstrap_mean(values, np.zeros(3))
    assert alone == iv.bootstrap_mean(values)
    assert not alone.grouped
    single = iv.bootstrap_mean([0.4])
    assert np.isnan([single.low, single.high]).all()
    assert iv.paired_bootstrap([0.4], [0.5]).p == 1


def test_balanced_accuracy_is_the_class_mean():
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(4, size=200), rng.integers(4, size=200)
    shown = iv.bootstrap_class_mean((predicted == labels).astype(float), labels)
    assert shown.value == pytest.approx(cl.balanced_accuracy(predicted, labels))


def test_unknown_people_are_one_face_each():
    found = resampling.people(np.array(["b", "", "a", "b", ""]))
    assert found is not None
    assert len(np.unique(found)) == 4
    assert found[0] == found[3]
    assert resampling.people(np.array(["", ""])) is None


def test_paired_test_is_its_interval():
    rng = np.random.default_rng(0)
    first = rng.normal(size=100)
    second = first + 0.02 + 0.1 * rng.normal(size=100)
    test = iv.paired_bootstrap(first, second, draws=20_000)
    other = stats.ttest_rel(second, first)
    assert test.p == pytest.approx(other.pvalue, rel=0.1)
    assert (test.low, test.high) == pytest.approx(tuple(other.confidence_interval()), abs=2e-3)
    assert iv.paired_bootstrap(first, first)[:5] == (0, 0, 0, 1, 100)
    for seed in range(40):
        gap = 0.2 * np.random.default_rng(seed).normal(size=30) + 0.07
        shown = iv.paired_bootstrap(np.zeros(30), gap)
        assert (shown.p < 0.05) == (shown.low > 0 or shown.high < 0)


def test_interval_and_test_rest_on_the_same_draws():
    values, person = clustered()
    labels = np.arange(len(values)) % 5
    test = iv.paired_bootstrap(np.zeros(len(values)), values + 0.5 * labels, person, labels)
    alone = iv.bootstrap_class_mean(values + 0.5 * labels, labels, person)
    assert (test.low, test.high) == pytest.approx((alone.low, alone.high))


def test_equal_answers_are_no_proof():
    """Twenty faces on which two runs agree: no difference, and no proof that there is none elsewhere."""
    right = np.arange(20) < 15
    test = iv.paired_bootstrap(right, right)
    assert (test.difference, test.p) == (0, 1)
    assert test.high == pytest.approx(stats.t.ppf(0.975, 19) ** 2 / (20 + stats.t.ppf(0.975, 19) ** 2))
    assert not decisions.kept(test).not_lower
    many = np.arange(4000) < 3000
    assert decisions.kept(iv.paired_bootstrap(many, many)).equal


def test_paired_seeds():
    first, second = np.array([0.5, 0.52, 0.49]), np.array([0.6, 0.58, 0.61])
    result = iv.paired_seeds(first, second)
    other = stats.ttest_rel(second, first)
    assert result.p == pytest.approx(other.pvalue)
    assert (result.low, result.high) == pytest.approx(tuple(other.confidence_interval(0.95)))
    assert iv.paired_seeds([1, 2], [1, 2])[:5] == (0, 0, 0, 1, 2)
    assert iv.paired_seeds([1, 2], [2, 3]).p == 0
    with pytest.raises(DataError, match="at least 2 seeds"):
        iv.paired_seeds([1], [2])


def test_people_and_seeds_together():
    rng = np.random.default_rng(0)
    first = rng.normal(size=(4, 200))
    faces_only = first + rng.normal(0.1, 1, size=200)
    seeds_only = first + rng.normal(0.1, 0.3, size=(4, 1))
    noise = first + rng.normal(0.1, 1, size=(4, 200))
    for second in (faces_only, seeds_only, noise):
        both = iv.paired_people_and_seeds(first, second)
        faces = iv.paired_bootstrap(first.mean(0), second.mean(0))
        seeds = iv.paired_seeds(first.mean(1), second.mean(1))
        assert both.error >= max(faces.error, seeds.error) - 1e-12
        assert both.difference == pytest.approx(seeds.difference)
    assert iv.paired_people_and_seeds(first, faces_only).error == pytest.approx(
        iv.paired_bootstrap(first.mean(0), faces_only.mean(0)).error, rel=1e-3
    )
    gap = noise - first
    gap = gap - gap.mean(1, keepdims=True)
    shared = gap.mean(0)
    both_ways = sum(float(((row - shared) ** 2).sum()) for row in gap) / (4 * 3 * 200**2)  # the twin of the interaction
    shown, faces = iv.paired_people_and_seeds(first, noise), iv.paired_bootstrap(first.mean(0), noise.mean(0))
    seeds = iv.paired_seeds(first.mean(1), noise.mean(1))
    expected = max(faces.error**2 + seeds.error**2 - both_ways, faces.error**2, seeds.error**2)
    assert shown.error**2 == pytest.approx(expected)
    with pytest.raises(DataError, match="at least 2 seeds"):
        iv.paired_people_and_seeds(first[:1], first[:1])


def test_intervals_bad_input():
    for bad in ([], [[1.0]], [1.0, np.nan]):
        with pytest.raises(DataError):
            iv.bootstrap_mean(bad)
    with pytest.raises(DataError, match="cannot pair"):
        iv.paired_bootstrap([1, 2], [1, 2, 3])
    with pytest.raises(DataError, match="groups"):
        iv.bootstrap_mean([1, 2], [1])
    with pytest.raises(DataError, match="labels"):
        iv.bootstrap_class_mean([1, 2], [1])


# ---------------------------------------------------------------- decisions


def test_holm_twin():
    """Twin of the definition; the second line is what statsmodels 0.14 multipletests(method='holm') gives."""
    p = np.random.default_rng(0).random(9) ** 3
    order, slow, worst = np.argsort(p), np.zeros(9), 0.0
    for k, place in enumerate(order):
        worst = max(worst, min(1.0, (9 - k) * p[place]))
        slow[place] = worst
    assert decisions.holm(p) == pytest.approx(slow)
    assert decisions.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert len(decisions.holm([])) == 0
    with pytest.raises(DataError, match="p-values"):
        decisions.holm([0.1, np.nan])


def test_kept_is_two_one_sided_tests():
    rng = np.random.default_rng(2)
    first = rng.normal(size=60)
    second = first + rng.normal(0.002, 0.02, 60)
    test = iv.paired_seeds(first, second)
    shown = decisions.kept(test)
    other = [
        stats.ttest_1samp(second - first, end, alternative=side).pvalue
        for end, side in ((-0.01, "greater"), (0.01, "less"))
    ]
    assert (shown.p_lower, shown.p_equal) == pytest.approx((other[0], max(other)))
    assert shown.not_lower == (test.low > -0.01)
    assert shown.equal == (test.low > -0.01 and test.high < 0.01)
    wide = decisions.kept(iv.paired_seeds([0.5, 0.6], [0.6, 0.5]))
    assert not wide.not_lower
    assert not wide.equal
    with pytest.raises(DataError, match="margin"):
        decisions.kept(test, margin=0)


@pytest.mark.parametrize(("deviation", "seeds"), [(0.005, 5), (0.01, 10), (0.02, 34), (0.05, 199)])
def test_seeds_needed(deviation, seeds):
    """Seeds as statsmodels 0.14 gives them: ceil(TTestPower().solve_power(0.01 / deviation, None, 0.025, 0.8, 'larger'))."""
    assert decisions.seeds_needed(deviation) == seeds
    assert decisions.seeds_needed(0) == 2
    assert decisions.seeds_needed(10) is None


def test_seeds_needed_by_simulation():
    n, rng = decisions.seeds_needed(0.02), np.random.default_rng(0)
    draws = rng.normal(0, 0.02, size=(4000, n))
    low = draws.mean(1) - stats.t.ppf(0.975, n - 1) * draws.std(1, ddof=1) / n**0.5
    assert (low > -0.01).mean() == pytest.approx(0.8, abs=0.03)


# ---------------------------------------------------------------- coverage


@pytest.mark.slow
@pytest.mark.parametrize("people", [12, 30, 60])
def test_coverage_with_pictures_of_the_same_people(people):
    """Nominal 0.95 covers 0.93 to 0.97 with an intraclass correlation of 0.2; the plain interval over pictures far less."""
    runs, share = 600, 0.8
    rng = np.random.default_rng(people)
    hits = np.zeros(5)
    for k in range(runs):
        right, person = clustered(1000 * people + k, people, 16, share)
        labels = rng.integers(7, size=len(right))
        cosine = 0.6 + 0.1 * (0.2**0.5 * rng.normal(size=people)[person] + 0.8**0.5 * rng.normal(size=len(right)))
        test = iv.paired_bootstrap(np.full(len(right), 0.6), cosine, person, labels, draws=500)
        covers = (
            (iv.bootstrap_mean(right, person, draws=500), share),
            (iv.bootstrap_class_mean(right, labels, person, draws=500), share),
            (iv.bootstrap_class_mean(cosine, labels, person, draws=500), 0.6),
            (test, 0.0),
            (iv.bootstrap_mean(right), share),
        )
        hits += [between.low <= truth <= between.high for between, truth in covers]
    *good, plain = hits / runs
    assert all(0.93 <= cover <= 0.97 for cover in good), good
    assert plain < 0.85


@pytest.mark.slow
def test_coverage_over_people_and_seeds():
    rng, hits, runs = np.random.default_rng(0), 0, 400
    for _ in range(runs):
        person = np.repeat(np.arange(20), 10)
        gap = rng.normal(0, 0.02, (4, 1)) + rng.normal(0, 0.05, 20)[person] + rng.normal(0, 0.2, (4, 200))
        test = iv.paired_people_and_seeds(np.zeros((4, 200)), gap, person, draws=300)
        hits += test.low <= 0 <= test.high
    assert 0.93 <= hits / runs <= 0.985
