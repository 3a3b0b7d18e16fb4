"""How well action units are recognised: plain functions of whole-run arrays, one column a unit.

Occurrence is (N, A) 1 active, 0 not, NaN unlabelled; intensities are (N, A) 0-5, NaN unlabelled. Unlabelled entries are left
out unit by unit and counted. What is undefined is NaN in arrays and None, with the reason, in dicts; never 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mien.errors import DataError
from mien.metrics.intervals import DRAWS, score_interval, spread_of
from mien.metrics.resampling import cluster_totals, clusters_of

HIGHER_IS_BETTER = {
    "f1": True, "precision": True, "recall": True, "accuracy": True, "auc": True, "icc": True, "pcc": True, "mse": False, "mae": False,
}  # fmt: skip
ACTIVE = 2.0
"""Intensity from which a unit counts as active in papers; 3 is AUDetNet's "more than 2"."""
PROBABLE = 0.5
"""Probability from which a unit counts as predicted. AUDetNet cuts raw logits at 0.5 instead, which is probability 0.62."""

Array = npt.NDArray[np.float64]


class Counts(NamedTuple):
    """Of labelled faces, each (A,) or with more axes in front."""

    true_positive: Array
    false_positive: Array
    false_negative: Array
    true_negative: Array


def occurrence(intensities: npt.ArrayLike, threshold: float = ACTIVE) -> Array:
    """(N, A) 1 where an intensity (or probability) is at least the threshold, 0 below, NaN where it is NaN."""
    values = np.asarray(intensities, dtype=np.float64)
    return np.where(np.isnan(values), np.nan, (values >= threshold).astype(np.float64))


def count(predicted: npt.ArrayLike, active: npt.ArrayLike) -> Counts:
    """How often each unit is predicted rightly and wrongly; both (N, A) occurrences, NaN labels left out."""
    guess, truth = _pair(predicted, active)
    yes, no = truth == 1, truth == 0
    said = guess == 1
    parts = (said & yes, said & no, ~said & yes, ~said & no)
    return Counts(*(part.sum(axis=0).astype(np.float64) for part in parts))


def f1(counts: Counts) -> Array:
    """F1 of each unit, 2 TP / (2 TP + FP + FN), in [0, 1], higher is better; NaN for one neither active nor predicted."""
    tp, fp, fn, _ = counts
    return _ratio(2 * tp, 2 * tp + fp + fn)


def accuracy(counts: Counts) -> Array:
    """Share of labelled faces that are right; read it beside the majority, which is high for rare units."""
    return _ratio(counts.true_positive + counts.true_negative, sum(counts, np.zeros(1)))


def auc(scores: npt.ArrayLike, active: npt.ArrayLike) -> Array:
    """Area under the ROC curve of each unit, (A,) in [0, 1], chance 0.5, higher is better; NaN with one class only.

    The share of pairs (active, not active) that the score puts in order, ties counting half: the 2AFC of FERA. By rank
    sums (Mann and Whitney 1947), so that time grows as N log N.
    """
    from scipy.stats import rankdata

    values, truth = _pair(scores, active)
    known, yes = ~np.isnan(truth), truth == 1
    ranks = rankdata(np.where(known, values, np.inf), axis=0)  # unknown ones last
    positives, negatives = yes.sum(0), (known & ~yes).sum(0)
    return _ratio(np.where(yes, ranks, 0).sum(0) - positives * (positives + 1) / 2, positives * negatives)


def icc_3_1(ratings: npt.ArrayLike) -> float:
    """ICC(3,1): two-way mixed, consistency, single rater (Shrout and Fleiss 1979, doi 10.1037/0033-2909.86.2.420).

    (MSR - MSE) / (MSR + (k - 1) MSE) of (N, k) finite ratings, rows targets, columns raters. In (-1/(k-1), 1], higher is
    better. A rater's constant offset does not count; for k = 2 it is 2 S_xy / (S_xx + S_yy). NaN when nothing varies or
    there are fewer than two rows.
    """
    table = np.asarray(ratings, dtype=np.float64)
    n, k = table.shape
    if n < 2 or k < 2:
        return float("nan")
    rows, columns, mean = table.mean(axis=1), table.mean(axis=0), table.mean()
    between = k * ((rows - mean) ** 2).sum() / (n - 1)
    residual = ((table - rows[:, None] - columns + mean) ** 2).sum() / ((n - 1) * (k - 1))
    total = between + (k - 1) * residual
    return float((between - residual) / total) if total > 1e-12 else float("nan")


def pearson(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """Pearson correlation of two finite (N,), in [-1, 1], higher is better; NaN when one is constant."""
    a, b = (np.asarray(values, dtype=np.float64) for values in (first, second))
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a * a).sum() * (b * b).sum())
    return float(np.clip((a * b).sum() / scale, -1, 1)) if scale > 1e-12 else float("nan")


def macro_f1_interval(
    predicted: npt.ArrayLike,
    active: npt.ArrayLike,
    groups: npt.ArrayLike | None = None,
    *,
    seed: int = 0,
    draws: int = DRAWS,
) -> tuple[float, float]:
    """95 % interval of the macro F1 over whole groups (subjects): frames of one person are not independent.

    groups (N,) any labels; without them, or with one group alone, faces are resampled. Units that a draw leaves undefined are
    left out of its mean; NaN where no unit is defined. The interval is that of `mien.metrics.intervals.score_interval`.
    """
    guess, truth = _pair(predicted, active)
    clusters, grouped = clusters_of(len(truth), groups)
    yes, no, said = truth == 1, truth == 0, guess == 1
    columns = np.hstack([said & yes, said & no, ~said & yes, ~said & no]).astype(np.float64)
    sizes = cluster_totals(np.full((len(truth), 1), 1 / len(truth)), clusters)[:, 0]

    def macro(sums: Array) -> Array:
        scores = f1(Counts(*np.split(sums, 4, axis=1)))
        known = np.isfinite(scores)
        return _ratio(np.where(known, scores, 0).sum(1), known.sum(1).astype(np.float64))

    spread = spread_of(cluster_totals(columns, clusters), macro, sizes, len(truth), grouped, seed=seed, draws=draws)
    return score_interval(spread, share=True) if np.isfinite(spread.value) else (float("nan"), float("nan"))


def occurrence_scores(
    scores: npt.ArrayLike,
    active: npt.ArrayLike,
    units: Sequence[str],
    *,
    cut: float = PROBABLE,
    groups: npt.ArrayLike | None = None,
    seed: int = 0,
    draws: int = DRAWS,
) -> dict[str, Any]:
    """Every score of occurrence as a dict that `json.dumps` takes.

    Args:
        scores: (N, A) probabilities, or intensities with `cut` 2; predicted where at least `cut`.
        active: (N, A) 1, 0, NaN unlabelled.
        units: names of the columns.
        cut: from which score a unit counts as predicted.
        groups: (N,) subjects, for the interval; without them every face counts as independent.
        seed: of the bootstrap.
        draws: of the bootstrap.

    Returns:
        count; units: name -> f1, precision, recall, accuracy, auc, prevalence, majority (accuracy of the commoner answer),
        always_active_f1 (F1 of answering yes to all), tp, fp, fn, tn; macro_f1 and its interval, clusters (how many subjects or
        faces were resampled), grouped (True for subjects), macro_auc, mean_accuracy:
        means over units where defined; micro_f1: of the pooled counts; undefined: score -> units without it.

    """
    guess, truth = _named(scores, active, units)
    said = occurrence(guess, cut)
    counts, areas = count(said, truth), auc(guess, truth)
    tp, fp, fn, tn = counts
    total, positive = tp + fp + fn + tn, tp + fn
    share = _ratio(positive, total)
    columns = {
        "f1": f1(counts), "precision": _ratio(tp, tp + fp), "recall": _ratio(tp, positive), "accuracy": accuracy(counts),
        "auc": areas, "prevalence": share, "majority": np.maximum(share, 1 - share), "always_active_f1": 2 * share / (1 + share),
    }  # fmt: skip
    numbers = {"tp": tp, "fp": fp, "fn": fn, "tn": tn}
    low, high = macro_f1_interval(said, truth, groups, seed=seed, draws=draws)
    clusters, grouped = clusters_of(len(truth), groups)
    return {
        "count": len(truth),
        "units": {
            name: {key: _plain(values[k]) for key, values in columns.items()}
            | {key: int(values[k]) for key, values in numbers.items()}
            for k, name in enumerate(units)
        },
        "macro_f1": _mean(columns["f1"]),
        "macro_f1_interval": [_plain(low), _plain(high)],
        "clusters": int(clusters.max()) + 1,
        "grouped": grouped,
        "macro_auc": _mean(areas),
        "mean_accuracy": _mean(columns["accuracy"]),
        "micro_f1": _plain(f1(Counts(*(part.sum(keepdims=True) for part in counts)))[0]),
        "undefined": {
            key: [name for k, name in enumerate(units) if np.isnan(columns[key][k])]
            for key in ("f1", "auc", "accuracy")
        },
    }


def intensity_scores(predicted: npt.ArrayLike, truth: npt.ArrayLike, units: Sequence[str]) -> dict[str, Any]:
    """ICC(3,1), Pearson correlation, mean squared and mean absolute error of intensities 0-5, as a dict for JSON.

    predicted (N, A) finite, truth (N, A) with NaN where unlabelled. Keys: count; units: name -> icc, pcc, mse, mae, count
    and, where something is None, reason; mean_icc, mean_pcc, mean_mse, mean_mae over the units where each is defined;
    undefined: score -> units without it.
    """
    guess, labels = _named(predicted, truth, units)
    table: dict[str, dict[str, Any]] = {}
    for k, name in enumerate(units):
        known = ~np.isnan(labels[:, k])
        table[name] = _intensity_scores(guess[known, k], labels[known, k])
    kinds = ("icc", "pcc", "mse", "mae")
    means = {
        kind: _mean(np.array([np.nan if row[kind] is None else row[kind] for row in table.values()])) for kind in kinds
    }
    return {
        "count": len(labels),
        "units": table,
        **{f"mean_{kind}": value for kind, value in means.items()},
        "undefined": {kind: [name for name, row in table.items() if row[kind] is None] for kind in kinds},
    }


def _intensity_scores(guess: Array, truth: Array) -> dict[str, Any]:
    if len(truth) == 0:
        return dict.fromkeys(("icc", "pcc", "mse", "mae")) | {"count": 0, "reason": "no labelled face"}
    error = guess - truth
    row: dict[str, Any] = {
        "icc": _plain(icc_3_1(np.stack([guess, truth], axis=1))),
        "pcc": _plain(pearson(guess, truth)),
        "mse": float((error**2).mean()),
        "mae": float(np.abs(error).mean()),
        "count": len(truth),
    }
    if row["icc"] is None or row["pcc"] is None:
        flat = [name for name, values in (("labels", truth), ("predictions", guess)) if np.ptp(values) < 1e-9]
        row["reason"] = f"constant {' and '.join(flat)}" if flat else "a single face"
    return row


def over_folds(folds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Scores of a cross-validation from the `occurrence_scores` of its folds.

    Keys: fold_mean_f1 (mean of the folds' macro F1, what most papers print) and pooled_f1 (macro of the F1 from the summed
    counts of each unit); units: name -> pooled F1, None where undefined. The two differ: the pooled one does not reward folds
    in which a rare unit is easy. Units are those of any fold.
    """
    if not folds:
        raise DataError("no folds to sum up; give the scores of at least one.")
    names = list(dict.fromkeys(name for fold in folds for name in fold["units"]))
    sums = {
        key: np.array(
            [sum(fold["units"][name][key] for fold in folds if name in fold["units"]) for name in names], float
        )
        for key in ("tp", "fp", "fn", "tn")
    }
    pooled = f1(Counts(*sums.values()))
    own = [fold["macro_f1"] for fold in folds if fold["macro_f1"] is not None]
    return {
        "folds": len(folds),
        "fold_mean_f1": float(np.mean(own)) if own else None,
        "pooled_f1": _mean(pooled),
        "units": {name: _plain(value) for name, value in zip(names, pooled, strict=True)},
    }


def shared_units(first: Sequence[str], second: Sequence[str]) -> tuple[str, ...]:
    """Units that both name, in the order of the first: what a model can be scored on in another dataset.

    DataError when there is none.
    """
    names = tuple(name for name in first if name in second)
    if not names:
        raise DataError(f"no action unit in common: {', '.join(first)} there, {', '.join(second) or 'none'} here.")
    return names


def labelled_units(intensities: npt.ArrayLike, names: Sequence[str]) -> tuple[str, ...]:
    """Names of the columns of (N, A) that have any label."""
    known = np.isfinite(np.asarray(intensities, dtype=np.float64))
    return tuple(name for name, column in zip(names, known.T, strict=True) if column.any())


def _pair(first: npt.ArrayLike, second: npt.ArrayLike) -> tuple[Array, Array]:
    guess, truth = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if guess.ndim != 2 or guess.shape != truth.shape or not guess.size:
        raise DataError(f"predictions {guess.shape} and labels {truth.shape} must both be a non-empty (N, A).")
    if not np.isfinite(guess).all():
        raise DataError(f"{int((~np.isfinite(guess)).sum())} predictions are not finite.")
    return guess, truth


def _named(first: npt.ArrayLike, second: npt.ArrayLike, units: Sequence[str]) -> tuple[Array, Array]:
    guess, truth = _pair(first, second)
    if guess.shape[1] != len(units) or len(set(units)) < len(units):
        raise DataError(f"{guess.shape[1]} columns and the names {', '.join(units)} do not fit; one name a column.")
    return guess, truth


def _ratio(part: Array, whole: Array) -> Array:
    return np.divide(part, whole, out=np.full(np.broadcast_shapes(part.shape, whole.shape), np.nan), where=whole > 0)


def _mean(values: Array) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None


def _plain(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
