"""How well expressions are recognised: plain functions of whole-run arrays.

probabilities (N, K) rows summing to 1, labels (N,) class index in logit order, -1 = unlabelled (left out, counted).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.errors import DataError
from mien.metrics.intervals import (
    DRAWS,
    Interval,
    Spread,
    bootstrap_class_mean,
    bootstrap_mean,
    score_interval,
    spread_of,
)
from mien.metrics.resampling import class_totals, clusters_of

HIGHER_IS_BETTER = {
    "accuracy": True,
    "balanced_accuracy": True,
    "macro_f1": True,
    "calibration_error": False,
    "recall": True,
    "precision": True,
    "f1": True,
}
CALIBRATION_BINS = 15

Labels = npt.NDArray[np.int64]


def accuracy(predicted: Labels, labels: Labels) -> float:
    """Share of samples predicted rightly, in [0, 1]. Higher is better."""
    _same_length(predicted, labels)
    return float((predicted == labels).mean())


def balanced_accuracy(predicted: Labels, labels: Labels) -> float:
    """Mean recall over the classes present in `labels`, in [0, 1]; absent classes are left out. Higher is better."""
    _same_length(predicted, labels)
    return float(np.mean([(predicted[labels == k] == k).mean() for k in np.unique(labels)]))


def macro_f1(predicted: Labels, labels: Labels) -> float:
    """Mean F1 over the classes present in `labels`, in [0, 1]. Higher is better.

    A class that is absent but predicted costs the recall of the true classes; it gets no F1 of its own.
    """
    from sklearn.metrics import f1_score

    _same_length(predicted, labels)
    return float(f1_score(labels, predicted, labels=np.unique(labels), average="macro", zero_division=0))


def confusion_matrix(predicted: Labels, labels: Labels, classes: int) -> Labels:
    """(K, K) counts: rows are true classes, columns predictions."""
    from sklearn.metrics import confusion_matrix as counts

    _same_length(predicted, labels)
    return np.asarray(counts(labels, predicted, labels=range(classes)), dtype=np.int64)


def calibration_error(probabilities: npt.ArrayLike, labels: Labels, bins: int = CALIBRATION_BINS) -> float:
    """Expected calibration error (Guo et al. 2017, arXiv 1706.04599): mean |confidence - accuracy| over equal-width
    bins of the top probability, weighted by their share of samples; [0, 1], lower is better. Bins are closed above.

    Probabilities are taken as they are; rounding beyond 1 is cut. DataError for rows that are none, such as logits.
    """
    shares, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    _refuse_no_probabilities(shares)
    top, right = shares.max(1).clip(0, 1), shares.argmax(1) == truth
    place = np.clip(np.ceil(top * bins).astype(int) - 1, 0, bins - 1)
    return float(np.abs(np.bincount(place, weights=top - right, minlength=bins)).sum() / len(truth))


def per_class(predicted: Labels, labels: Labels, classes: Sequence[str]) -> dict[str, dict[str, float | int | None]]:
    """Class name -> recall, precision, f1 in [0, 1] and count; None where undefined.

    recall and f1 are None for a class without samples, precision for a class that is never predicted.
    """
    from sklearn.metrics import precision_recall_fscore_support

    _same_length(predicted, labels)
    precision, recall, f1, count = precision_recall_fscore_support(
        labels, predicted, labels=range(len(classes)), zero_division=0
    )
    return {
        name: {
            "recall": float(recall[k]) if count[k] else None,
            "precision": float(precision[k]) if (predicted == k).any() else None,
            "f1": float(f1[k]) if count[k] else None,
            "count": int(count[k]),
        }
        for k, name in enumerate(classes)
    }


def f1_and_ece_intervals(
    probabilities: npt.ArrayLike,
    labels: Labels,
    groups: npt.ArrayLike | None = None,
    *,
    seed: int = 0,
    draws: int = DRAWS,
) -> tuple[Interval, Interval]:
    """95 % intervals of macro-F1 and of the calibration error, of their `f1_and_ece_spreads`."""
    first, second = f1_and_ece_spreads(probabilities, labels, groups, seed=seed, draws=draws)
    ends = (score_interval(spread, share=True) for spread in (first, second))
    f1, ece = (Interval(s.value, *e, s.clusters, s.grouped) for s, e in zip((first, second), ends, strict=True))
    return f1, ece


def f1_and_ece_spreads(
    probabilities: npt.ArrayLike,
    labels: Labels,
    groups: npt.ArrayLike | None = None,
    *,
    seed: int = 0,
    draws: int = DRAWS,
) -> tuple[Spread, Spread]:
    """Spread of macro-F1 and of the calibration error, computed again in draws of whole groups (or of samples).

    Resampling adds gaps between confidence and accuracy, so the draws of the ECE lie too high; only their spread is used. The
    ECE itself is biased upwards where bins hold few samples.
    """
    shares = np.asarray(probabilities, dtype=np.float64)
    n, classes = shares.shape
    predicted, top = shares.argmax(1), shares.max(1)
    bins = np.clip(np.ceil(top * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    clusters, grouped = clusters_of(n, groups)
    one, right = np.ones(n), (predicted == labels).astype(np.float64)
    faces = np.bincount(clusters).astype(np.float64)
    parts = [
        class_totals(part, index, classes, clusters)
        for part, index in ((right, labels), (one, labels), (one, predicted))
    ]
    gaps = class_totals(top - right, bins, CALIBRATION_BINS, clusters)

    def f1(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        hit, true, said = np.split(sums, 3, axis=1)
        score = np.divide(2 * hit, true + said, out=np.zeros_like(hit), where=true > 0)
        return np.asarray(score.sum(1) / (true > 0).sum(1).clip(1))

    def ece(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(np.abs(sums[:, :-1]).sum(1) / sums[:, -1])

    found = []
    for columns, statistic in (
        (np.hstack(parts), f1),
        (np.hstack([gaps, faces[:, None]]), ece),
    ):
        found.append(spread_of(columns, statistic, faces / n, n, grouped, seed=seed, draws=draws))
    return found[0], found[1]


def classification_scores(
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    classes: Sequence[str],
    groups: npt.ArrayLike | None = None,
    *,
    seed: int = 0,
    draws: int = DRAWS,
) -> dict[str, Any]:
    """Every classification score of a run as a dict that `json.dumps` takes.

    groups (N,) are subjects, which are resampled whole; without them samples are. Keys: count, unlabelled, absent (names),
    accuracy, balanced_accuracy, macro_f1, calibration_error, each with its 95 % interval [low, high] (`accuracy_interval`,
    ...); clusters (how many people or samples were resampled) and grouped (True for people); confusion (rows true); per_class,
    with recall_interval. DataError for wrong shapes, labels outside -1..K-1, rows that are no probabilities, no labelled sample.
    """
    shares, truth, unlabelled = _checked(probabilities, labels, classes)
    people = None if groups is None else np.asarray(groups)[np.asarray(labels) >= 0]
    predicted = shares.argmax(axis=1).astype(np.int64)
    right = (predicted == truth).astype(np.float64)
    plain = bootstrap_mean(right, people, seed=seed, draws=draws)
    balanced = bootstrap_class_mean(right, truth, people, seed=seed, draws=draws)
    f1, ece = f1_and_ece_intervals(shares, truth, people, seed=seed, draws=draws)
    table: dict[str, dict[str, Any]] = {name: dict(row) for name, row in per_class(predicted, truth, classes).items()}
    for k, row in enumerate(table.values()):
        own = truth == k
        between = (
            bootstrap_mean(right[own], None if people is None else people[own], seed=seed, draws=draws)
            if own.any()
            else None
        )
        row["recall_interval"] = [between.low, between.high] if between else None
    return {
        "count": len(truth),
        "unlabelled": unlabelled,
        "absent": [name for k, name in enumerate(classes) if not (truth == k).any()],
        "clusters": plain.clusters,
        "grouped": plain.grouped,
        "accuracy": accuracy(predicted, truth),
        "accuracy_interval": [plain.low, plain.high],
        "balanced_accuracy": balanced_accuracy(predicted, truth),
        "balanced_accuracy_interval": [balanced.low, balanced.high],
        "macro_f1": macro_f1(predicted, truth),
        "macro_f1_interval": [f1.low, f1.high],
        "calibration_error": calibration_error(shares, truth),
        "calibration_error_interval": [ece.low, ece.high],
        "confusion": confusion_matrix(predicted, truth, len(classes)).tolist(),
        "per_class": table,
    }


def _checked(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, classes: Sequence[str]
) -> tuple[npt.NDArray[np.float64], Labels, int]:
    shares, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if shares.ndim != 2 or shares.shape[1] != len(classes) or truth.shape != shares.shape[:1]:
        raise DataError(
            f"probabilities {shares.shape} and labels {truth.shape} do not fit; "
            f"expected (N, {len(classes)}) and (N,) for classes {', '.join(classes)}."
        )
    if not np.issubdtype(truth.dtype, np.integer):
        raise DataError(f"labels are {truth.dtype}; expected integer class indices, -1 for unlabelled.")
    wrong = np.flatnonzero((truth < -1) | (truth >= len(classes)))
    if len(wrong):
        raise DataError(f"label {truth[wrong[0]]} in row {wrong[0]} is outside -1..{len(classes) - 1}.")
    _refuse_no_probabilities(shares)
    known = truth >= 0
    if not known.any():
        raise DataError("no labelled sample; nothing to score.")
    return shares[known], truth[known].astype(np.int64), int((~known).sum())


def _refuse_no_probabilities(shares: npt.NDArray[np.float64]) -> None:
    valid = np.isfinite(shares).all(axis=1) & (shares >= 0).all(axis=1) & (np.abs(shares.sum(axis=1) - 1) < 1e-3)
    if not valid.all():
        raise DataError(
            f"row {int(np.argmin(valid))} holds no probabilities (finite, >= 0, sum 1); apply softmax first."
        )


def _same_length(predicted: Labels, labels: Labels) -> None:
    if predicted.shape != labels.shape or labels.ndim != 1 or len(labels) == 0:
        raise DataError(f"predictions {predicted.shape} and labels {labels.shape} must both be a non-empty (N,).")
