"""How sure a number is: intervals over people or pictures, paired tests between runs, t intervals over seeds.

One rule for all of them: whole clusters (people, or pictures where nobody is known) are drawn with replacement, the score is
computed again in each draw, and the spread of the draws stands in a Student t with as many degrees of freedom as the clusters
allow. Shares of right answers stand in Wilson's interval instead, which has a width at 0 and at 1. Percentiles of the draws are
not used: with a dozen people they are too narrow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mien.errors import DataError
from mien.metrics.resampling import class_totals, cluster_totals, clusters_of, effective_clusters, resampled

Array = npt.NDArray[np.float64]
DRAWS = 2000


class Interval(NamedTuple):
    """A score with its confidence interval; NaN ends where a single value gives none."""

    value: float
    low: float
    high: float
    clusters: int = 0
    """How many independent parts were resampled: people, or values where no groups are known."""
    grouped: bool = False
    """True where the clusters are groups of values, such as people."""


class Comparison(NamedTuple):
    """Second minus first, with its interval and two-sided p-value; n pairs."""

    difference: float
    low: float
    high: float
    p: float
    n: int
    error: float = 0.0
    """Standard error of the difference; NaN for a single pair."""
    freedom: float = 1.0
    """Degrees of freedom of its t."""
    clusters: int = 0
    grouped: bool = False


def bootstrap_mean(
    values: npt.ArrayLike,
    groups: npt.ArrayLike | None = None,
    *,
    seed: int = 0,
    draws: int = DRAWS,
    level: float = 0.95,
) -> Interval:
    """Mean of per-sample scores (N,) with an interval: mean -+ t x standard error over resampled clusters.

    With `groups` (N,), e.g. subjects, whole groups are resampled: pictures of one person are not independent, and an
    interval over pictures would be too narrow. The degrees of freedom are Satterthwaite's (`effective_clusters`). Values
    that are all 0 or 1 are a share: Wilson's interval (1927), with the sample size that the clusters are worth. One group alone
    gives an interval over its values (`grouped` False); one value that is no share gives NaN ends.
    """
    data = _finite(values, "scores")
    return bootstrap_class_mean(data, np.zeros(len(data), dtype=np.int64), groups, seed=seed, draws=draws, level=level)


def bootstrap_class_mean(
    values: npt.ArrayLike,
    labels: npt.ArrayLike,
    groups: npt.ArrayLike | None = None,
    *,
    seed: int = 0,
    draws: int = DRAWS,
    level: float = 0.95,
) -> Interval:
    """Unweighted mean over classes of the class means, with an interval as in `bootstrap_mean`.

    values (N,), labels (N,) any integers, groups (N,) e.g. subjects. Class means are computed again in every draw; a class
    that a draw lacks is left out of it. With values = prediction correct this is balanced accuracy. 0 classes: DataError.
    """
    data = _finite(values, "scores")
    spread = _class_mean_spread(data, labels, groups, seed, draws)
    ends = score_interval(spread, level, share=bool(np.isin(data, (0, 1)).all()))
    return Interval(spread.value, *ends, spread.clusters, spread.grouped)


class Spread(NamedTuple):
    """What resampling says of a score."""

    value: float
    error: float
    """Standard error; NaN for a single cluster."""
    effective: float
    """Equal clusters that carry as much."""
    clusters: int
    grouped: bool
    n: int
    """Values."""
    plain: bool = False
    """A mean of independent values, without classes."""


def score_interval(spread: Spread, level: float = 0.95, share: bool = False) -> tuple[float, float]:
    """Ends of the interval of a resampled score.

    share False: value -+ t x error. True: the score lies in [0, 1], and the interval is Wilson's with the sample size
    value (1 - value) / error^2 that independent answers would need for the same error (Dean and Pagano 2015, doi
    10.1093/jssam/smv024), at most n. At 0 and 1 no spread can be seen: then each cluster counts as one answer.
    """
    from scipy import stats

    t = float(stats.t.ppf((1 + level) / 2, spread.effective - 1))
    if not share:
        return spread.value - t * spread.error, spread.value + t * spread.error
    z = float(stats.norm.ppf((1 + level) / 2))
    variance = spread.value * (1 - spread.value)
    if spread.plain and not spread.grouped:
        return wilson(spread.value, spread.n, z)
    if variance <= 1e-12:
        return wilson(spread.value, spread.clusters if spread.plain else spread.effective, z)
    few = (spread.effective - 1) / (
        spread.effective + 1
    )  # an error of few clusters varies, and is smallest near 0 and 1
    size = few * variance / spread.error**2 if spread.error > 0 else float(spread.n)
    return wilson(spread.value, min(max(size, 1.0), float(spread.n)), t)


def wilson(share: float, n: float, z: float = 1.959963984540054) -> tuple[float, float]:
    """Ends of Wilson's interval (1927, doi 10.1080/01621459.1927.10502953) of a share of n answers: in [0, 1], never of width 0."""
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    low = 0.0 if share <= 0 else max(0.0, middle - half)
    return low, 1.0 if share >= 1 else min(1.0, middle + half)


def spread_of(
    totals: Array, statistic: Callable[[Array], Array], shares: Array, n: int, grouped: bool, *, seed: int, draws: int
) -> Spread:
    """Spread of any function of sums: totals (G, C) by cluster, statistic (d, C) -> (d,), shares (G,) of each cluster."""
    effective, value = effective_clusters(shares), float(statistic(totals.sum(axis=0, keepdims=True))[0])
    if len(totals) < 2:
        return Spread(value, float("nan"), effective, len(totals), grouped, n)
    return spread_from(resampled(totals, statistic, draws, seed), value, shares, n, grouped)


def spread_from(found: Array, value: float, shares: Array, n: int, grouped: bool) -> Spread:
    """Spread of a score of n values from what it is in each draw, (d,); those that are not finite are left out."""
    effective, known = effective_clusters(shares), found[np.isfinite(found)]
    if not len(known):
        return Spread(value, float("nan"), effective, len(shares), grouped, n)
    error = float(known.std()) * (effective / (effective - 1)) ** 0.5
    return Spread(value, error if error > 1e-12 else 0.0, effective, len(shares), grouped, n)


def _class_mean_spread(
    data: Array, labels: npt.ArrayLike, groups: npt.ArrayLike | None, seed: int, draws: int
) -> Spread:
    names = np.asarray(labels)
    if names.shape != data.shape:
        raise DataError(f"labels have shape {names.shape}, scores {data.shape}; expected one label a score.")
    clusters, grouped = clusters_of(len(data), groups)
    present, index = np.unique(names, return_inverse=True)
    k = len(present)
    totals = np.hstack([class_totals(part, index, k, clusters) for part in (data, np.ones(len(data)))])
    shares = (totals[:, k:] / totals[:, k:].sum(axis=0)).sum(axis=1) / k
    spread = spread_of(
        totals, lambda sums: class_means(sums[:, :k], sums[:, k:]), shares, len(data), grouped, seed=seed, draws=draws
    )
    return spread._replace(plain=k == 1)


def class_means(sums: Array, counts: Array) -> Array:
    """(d,) mean over the classes with a count of sum / count, both (d, K)."""
    there = counts > 0
    means = np.divide(sums, counts, out=np.zeros_like(sums), where=there)
    return np.asarray(means.sum(axis=1) / there.sum(axis=1).clip(1))


def normal_interval(share: float, n: int, level: float = 0.95) -> Interval:
    """Share of n samples with its normal approximation: share +- z sqrt(share (1 - share) / n), z = 1.96 at 95 %.

    The interval of published cross-validations (Luna-Jimenez et al. 2021: mean accuracy over folds, n all faces), for
    comparison only. It takes faces for independent and models for unpaired; not clipped to [0, 1], and of width 0 at 0 and 1.
    DataError unless 0 <= share <= 1, n > 0.
    """
    from scipy import stats

    if not 0 <= share <= 1 or n < 1:
        raise DataError(f"a share of {share} of {n} samples has no interval; give a share in [0, 1] of at least one.")
    half = float(stats.norm.ppf((1 + level) / 2)) * (share * (1 - share) / n) ** 0.5
    return Interval(share, share - half, share + half, n)


def paired_bootstrap(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    groups: npt.ArrayLike | None = None,
    labels: npt.ArrayLike | None = None,
    *,
    seed: int = 0,
    draws: int = DRAWS,
    level: float = 0.95,
) -> Comparison:
    """Mean of second - first on the same samples, with interval and p of one and the same t over resampled clusters.

    first, second (N,) per-sample scores of two runs in the same order; groups (N,) e.g. subjects; with labels (N,) the mean
    over classes of the class means, computed again in every draw. The draws are those of `bootstrap_mean`, so the interval
    leaves out 0 exactly where p is under 1 - level. Answers (0 or 1) that differ on no sample still may elsewhere: the ends are
    then t^2 / (clusters + t^2) away from the difference, as in Tango (1998). Identical runs give p = 1.
    """
    a, b = _pair(first, second)
    truth = np.zeros(len(a), dtype=np.int64) if labels is None else labels
    spread = _class_mean_spread(b - a, truth, groups, seed, draws)
    alike = spread.error == 0 and bool(np.isin(np.concatenate([a, b]), (0, 1)).all())
    return compared(spread, level, alike)


def compared(spread: Spread, level: float = 0.95, answers: bool = False) -> Comparison:
    """A resampled difference as a test against 0; `answers`: of two runs' answers that differ by the same on every sample."""
    from scipy import stats

    freedom, value, error = spread.effective - 1, spread.value, spread.error
    t = float(stats.t.ppf((1 + level) / 2, freedom))
    if answers:
        error = t / (spread.effective + t * t)
    if error == 0:
        p = 1.0 if abs(value) < 1e-12 else 0.0
    else:
        p = float(2 * stats.t.sf(abs(value) / error, freedom)) if np.isfinite(error) else 1.0
    low, high = value - t * error, value + t * error
    return Comparison(value, low, high, p, spread.n, error, freedom, spread.clusters, spread.grouped)


def mcnemar(first_correct: npt.ArrayLike, second_correct: npt.ArrayLike) -> float:
    """Exact McNemar test (McNemar 1947): two-sided p that two classifiers err equally often on the same samples.

    first_correct, second_correct (N,) bool. Only samples that exactly one of them gets right count; none: p = 1. It takes
    samples for independent, which pictures of one person are not.
    """
    from scipy import stats

    a, b = _pair(np.asarray(first_correct, dtype=float), np.asarray(second_correct, dtype=float))
    only_first, only_second = int((a > b).sum()), int((b > a).sum())
    if only_first + only_second == 0:
        return 1.0
    return float(stats.binomtest(only_first, only_first + only_second).pvalue)


def paired_seeds(first: npt.ArrayLike, second: npt.ArrayLike, level: float = 0.95) -> Comparison:
    """Paired Student t over seeds: mean of second - first, its t interval and p; both (S,), entry s from the same seed.

    At least two seeds, else DataError. Differences that are all equal have zero width: p = 0, or 1 when they are 0.
    """
    a, b = _pair(first, second)
    if len(a) < 2:
        raise DataError(f"a paired t interval needs at least 2 seeds, got {len(a)}; run more seeds.")
    difference = b - a
    error = float(difference.std(ddof=1)) / len(a) ** 0.5
    return compared(
        Spread(float(difference.mean()), error if error > 1e-15 else 0.0, len(a), len(a), False, len(a)), level
    )


def paired_people_and_seeds(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    groups: npt.ArrayLike | None = None,
    labels: npt.ArrayLike | None = None,
    *,
    seed: int = 0,
    draws: int = DRAWS,
    level: float = 0.95,
) -> Comparison:
    """Second minus first with the luck of the faces and that of the training in one interval.

    first, second (S, N) per-sample scores, row s of both from the same seed, S of at least 2. The variance is that over
    clusters of the mean over seeds, plus that over seeds, minus that of their interaction, which both hold (two-way
    clustering, Cameron, Gelbach and Miller 2011, doi 10.1198/jbes.2010.07136), never less than either; degrees of freedom
    after Satterthwaite. A t over seeds alone answers for these faces only.
    """
    a, b = (np.asarray(values, dtype=np.float64) for values in (first, second))
    if a.ndim != 2 or a.shape != b.shape or len(a) < 2:
        raise DataError(f"scores have shapes {a.shape} and {b.shape}; expected (seeds, samples) of at least 2 seeds.")
    faces = paired_bootstrap(a.mean(0), b.mean(0), groups, labels, seed=seed, draws=draws, level=level)
    truth = np.zeros(a.shape[1], dtype=np.int64) if labels is None else np.asarray(labels)
    present, index, counts = np.unique(truth, return_inverse=True, return_counts=True)
    rows = b - a
    means = np.stack([np.bincount(index, weights=row) / counts for row in rows])  # (S, K)
    seeds = paired_seeds(np.zeros(len(rows)), means.mean(axis=1), level)
    pull = (rows - means[:, index]) / (counts[index] * len(present))
    by_cluster = cluster_totals(pull.T, clusters_of(a.shape[1], groups)[0]).T
    rest, s = by_cluster - by_cluster.mean(axis=0), len(rows)
    both = float(np.square(rest).sum()) / (s * (s - 1))
    parts = faces.error**2, seeds.error**2
    variance = max(sum(parts) - both, *parts)
    weighed = parts[0] ** 2 / faces.freedom + parts[1] ** 2 / seeds.freedom
    freedom = sum(parts) ** 2 / weighed if weighed > 0 else seeds.freedom
    spread = Spread(faces.difference, variance**0.5, freedom + 1, faces.clusters, faces.grouped, faces.n)
    return compared(spread, level)


def mean_over_seeds(spreads: Sequence[Spread], level: float = 0.95) -> Interval:
    """Mean of a score over the runs of several seeds, any function of sums, with the luck of faces and training in its interval.

    The variance is the mean of the resampled variances, which all runs share, plus that over seeds; their interaction is in
    both, so the interval is a little too wide. At least 2 seeds, else DataError.
    """
    values = [spread.value for spread in spreads]
    seeds = paired_seeds(np.zeros(len(values)), values, level)
    faces = float(np.mean([spread.error**2 for spread in spreads]))
    parts = ((faces, min(spread.effective for spread in spreads) - 1), (seeds.error**2, seeds.freedom))
    weighed = sum(variance**2 / freedom for variance, freedom in parts)
    total = faces + seeds.error**2
    freedom = total**2 / weighed if weighed > 0 else seeds.freedom
    whole = Spread(seeds.difference, total**0.5, freedom + 1, spreads[0].clusters, spreads[0].grouped, spreads[0].n)
    return Interval(whole.value, *score_interval(whole, level), whole.clusters, whole.grouped)


def _pair(first: npt.ArrayLike, second: npt.ArrayLike) -> tuple[Array, Array]:
    a, b = _finite(first, "first scores"), _finite(second, "second scores")
    if a.shape != b.shape:
        raise DataError(f"cannot pair {len(a)} with {len(b)} scores; both runs must score the same samples in order.")
    return a, b


def _finite(values: npt.ArrayLike, what: str) -> Array:
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or len(data) == 0:
        raise DataError(f"{what} have shape {data.shape}; expected a non-empty (N,).")
    if not np.isfinite(data).all():
        raise DataError(
            f"{what} hold {int((~np.isfinite(data)).sum())} values that are not finite; leave those rows out."
        )
    return data
