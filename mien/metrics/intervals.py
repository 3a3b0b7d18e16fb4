"""How sure a number is: bootstrap intervals over samples, paired tests between runs, t intervals over seeds."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mien.errors import DataError

Array = npt.NDArray[np.float64]
_CHUNK = 4_000_000  # resampled values held at once


class Interval(NamedTuple):
    """A mean with its confidence interval."""

    value: float
    low: float
    high: float


class Comparison(NamedTuple):
    """Second minus first, with its interval and two-sided p-value; n pairs."""

    difference: float
    low: float
    high: float
    p: float
    n: int


def bootstrap_mean(
    values: npt.ArrayLike,
    groups: npt.ArrayLike | None = None,
    *,
    seed: int = 0,
    draws: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Mean of per-sample scores (N,) and its percentile bootstrap interval (Efron 1979).

    With `groups` (N,), e.g. subjects, whole groups are resampled: pictures of one person are not independent, and an
    interval over pictures would be too narrow. One value (or one group) gives an interval of zero width.
    """
    data = _finite(values, "scores")
    sums, counts = _group_totals(data, groups)
    means = _resampled_means(sums, counts, np.random.default_rng(seed), draws)
    low, high = _percentiles(means, level)
    return Interval(float(data.mean()), low, high)


def normal_interval(share: float, n: int, level: float = 0.95) -> Interval:
    """Share of n samples with its normal approximation: share +- z sqrt(share (1 - share) / n), z = 1.96 at 95 %.

    The interval of published cross-validations (Luna-Jimenez et al. 2021: mean accuracy over folds, n all faces). It
    takes faces for independent and models for unpaired; not clipped to [0, 1]. DataError unless 0 <= share <= 1, n > 0.
    """
    from scipy import stats

    if not 0 <= share <= 1 or n < 1:
        raise DataError(f"a share of {share} of {n} samples has no interval; give a share in [0, 1] of at least one.")
    half = float(stats.norm.ppf((1 + level) / 2)) * (share * (1 - share) / n) ** 0.5
    return Interval(share, share - half, share + half)


def bootstrap_class_mean(
    values: npt.ArrayLike, labels: npt.ArrayLike, *, seed: int = 0, draws: int = 2000, level: float = 0.95
) -> Interval:
    """Unweighted mean over classes of the class means, with an interval; samples are resampled inside their class.

    values (N,), labels (N,) any integers; classes without samples do not exist here. With values = prediction correct
    this is balanced accuracy. 0 classes: DataError.
    """
    data, names = _finite(values, "scores"), np.asarray(labels)
    if names.shape != data.shape:
        raise DataError(f"labels have shape {names.shape}, scores {data.shape}; expected one label a score.")
    rng = np.random.default_rng(seed)
    means, resampled = [], np.zeros(draws)
    present = np.unique(names)
    for name in present:
        rows = data[names == name]
        means.append(rows.mean())
        resampled += _resampled_means(rows, np.ones_like(rows), rng, draws) / len(present)
    low, high = _percentiles(resampled, level)
    return Interval(float(np.mean(means)), low, high)


def paired_bootstrap(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    groups: npt.ArrayLike | None = None,
    *,
    seed: int = 0,
    draws: int = 2000,
    level: float = 0.95,
) -> Comparison:
    """Mean of second - first on the same samples: bootstrap interval, and p = twice the smaller tail share beyond 0.

    first, second (N,) per-sample scores of two runs in the same order. p is at least 1 / draws: the bootstrap cannot
    resolve less. Identical runs give p = 1.
    """
    a, b = _pair(first, second)
    sums, counts = _group_totals(b - a, groups)
    means = _resampled_means(sums, counts, np.random.default_rng(seed), draws)
    low, high = _percentiles(means, level)
    p = 2 * min(float((means <= 0).mean()), float((means >= 0).mean()))
    return Comparison(float((b - a).mean()), low, high, float(np.clip(p, 1 / draws, 1)), len(a))


def mcnemar(first_correct: npt.ArrayLike, second_correct: npt.ArrayLike) -> float:
    """Exact McNemar test (McNemar 1947): two-sided p that two classifiers err equally often on the same samples.

    first_correct, second_correct (N,) bool. Only samples that exactly one of them gets right count; none: p = 1.
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
    from scipy import stats

    a, b = _pair(first, second)
    if len(a) < 2:
        raise DataError(f"a paired t interval needs at least 2 seeds, got {len(a)}; run more seeds.")
    difference = b - a
    mean, error = float(difference.mean()), float(stats.sem(difference))
    if error == 0:
        return Comparison(mean, mean, mean, 1.0 if mean == 0 else 0.0, len(a))
    half = float(stats.t.ppf((1 + level) / 2, len(a) - 1)) * error
    return Comparison(mean, mean - half, mean + half, float(stats.ttest_rel(b, a).pvalue), len(a))


def _resampled_means(sums: Array, counts: Array, rng: np.random.Generator, draws: int) -> Array:
    """(draws,) means of resampled groups: sum of the drawn groups' sums over the sum of their counts."""
    n = len(sums)
    means = np.empty(draws)
    step = max(1, _CHUNK // n)
    for start in range(0, draws, step):
        rows = rng.integers(n, size=(min(step, draws - start), n))
        means[start : start + step] = sums[rows].sum(axis=1) / counts[rows].sum(axis=1)
    return means


def _group_totals(values: Array, groups: npt.ArrayLike | None) -> tuple[Array, Array]:
    if groups is None:
        return values, np.ones_like(values)
    names = np.asarray(groups)
    if names.shape != values.shape:
        raise DataError(f"groups have shape {names.shape}, scores {values.shape}; expected one group a score.")
    _, index = np.unique(names, return_inverse=True)
    return np.bincount(index, weights=values).astype(np.float64), np.bincount(index).astype(np.float64)


def _percentiles(means: Array, level: float) -> tuple[float, float]:
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


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
