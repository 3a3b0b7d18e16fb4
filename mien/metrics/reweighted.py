"""Calibration of many resamples at once: every score of `mien.metrics.confidence`, where a sample counts as often as it was drawn.

Bins of equal mass are laid anew in each draw, as they would be on the drawn samples themselves. Samples are sorted once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.metrics.classification import CALIBRATION_BINS
from mien.metrics.confidence import SMALLEST
from mien.metrics.intervals import DRAWS, Interval, score_interval, spread_from
from mien.metrics.resampling import clusters_of, drawn_weights

Floats = npt.NDArray[np.float64]
HELD = 500_000
"""Weights of samples that are worked on at a time."""
RANGES = {"over": (-1.0, 1.0), "brier": (0.0, 2.0), "within": (-np.inf, np.inf), "log_loss": (0.0, np.inf)}
"""Score -> the least and most that it can be; [0, 1] for the others."""


def calibration_intervals(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, groups: npt.ArrayLike | None = None, *, seed: int = 0,
    draws: int = DRAWS, level: float = 0.95,
) -> dict[str, Interval]:  # fmt: skip
    """Every score of `calibration_scores` with its interval, value -+ t x standard error over resampled clusters, cut to its range.

    The resampling and the t are those of `bootstrap_mean`, with the same draws. The value is that of all samples: an ECE is
    biased upwards, and that of a resample even more, which moves the draws and hardly their spread.

    Args:
        probabilities: (N, K), rows summing to 1.
        labels: (N,) class index, all known.
        groups: (N,) e.g. subjects; whole groups are drawn.
        seed: of the draws.
        draws: how many.
        level: of the intervals.

    """
    shares, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    n = len(truth)
    clusters, grouped = clusters_of(n, groups)
    sizes = np.bincount(clusters)
    values = {name: float(found[0]) for name, found in calibration_scores(shares, truth, np.ones((1, n))).items()}
    parts: list[Mapping[str, Floats]] = []
    for weights in drawn_weights(len(sizes), draws, seed) if len(sizes) > 1 else ():
        step = max(1, HELD // n)
        parts += [
            calibration_scores(shares, truth, weights[k : k + step][:, clusters]) for k in range(0, len(weights), step)
        ]
    intervals = {}
    for name, value in values.items():
        drawn = np.concatenate([part[name] for part in parts]) if parts else np.zeros(0)
        spread = spread_from(drawn, value, sizes / n, n, grouped)
        low, high = np.clip(score_interval(spread, level), *RANGES.get(name, (0.0, 1.0))).tolist()
        intervals[name] = Interval(value, low, high, len(sizes), grouped)
    return intervals


def calibration_scores(shares: Floats, labels: npt.NDArray[np.integer], weights: Floats) -> dict[str, Floats]:
    """Scores of d resamples, each (d,).

    ece, adaptive, class_wise (also class_wise 0, 1, ... of each class), over (mean confidence less accuracy), brier,
    reliability, resolution, uncertainty, within, log_loss, aurc: what `confidence` finds on the samples repeated `weights` times.

    Args:
        shares: (N, K) probabilities.
        labels: (N,) class index.
        weights: (d, N) whole numbers of at least 0, a row's sum above 0.

    """
    n, classes = shares.shape
    total = weights.sum(1)
    top, right, said = shares.max(1), shares.argmax(1) == labels, np.eye(classes)[labels]
    size, confidence, hits = equal_mass_sums(top, right, weights)
    found = {"ece": np.abs(confidence - hits).sum(1) / total, "over": weights @ (top - right) / total}
    parts, gaps = np.zeros((3, len(weights))), np.zeros(len(weights))
    for k in range(classes):
        size, confidence, hits = equal_mass_sums(shares[:, k], said[:, k], weights)
        filled, base = size.clip(1), (hits.sum(1) / total)[:, None]
        apart = (confidence - hits) / filled
        gaps += np.abs(apart).sum(1) / (size > 0).sum(1) / classes
        weight = size / total[:, None]
        parts += [
            (weight * apart**2).sum(1), (weight * (hits / filled - base) ** 2).sum(1), base[:, 0] * (1 - base[:, 0]),
        ]  # fmt: skip
        found[f"class_wise {k}"] = equal_width_error(shares[:, k], said[:, k], weights) / total
    reliability, resolution, uncertainty = parts
    score = weights @ np.square(shares - said).sum(1) / total
    log_loss = weights @ -np.log(shares[np.arange(n), labels].clip(SMALLEST)) / total
    return {
        **found, "adaptive": gaps, "class_wise": np.mean([found[f"class_wise {k}"] for k in range(classes)], axis=0),
        "brier": score, "reliability": reliability, "resolution": resolution, "uncertainty": uncertainty,
        "within": score - (reliability - resolution + uncertainty), "log_loss": log_loss, "aurc": aurc(top, ~right, weights),
    }  # fmt: skip


def equal_mass_sums(
    values: Floats, truth: npt.NDArray[Any], weights: Floats, bins: int = CALIBRATION_BINS
) -> tuple[Floats, Floats, Floats]:
    """Samples, sum of values and sum of truths in bins of equal mass, each (d, bins); samples of one value stay together."""
    order = np.argsort(values, kind="stable")
    _, first, group = np.unique(values[order], return_index=True, return_inverse=True)
    drawn = weights[:, order]
    before = (drawn.cumsum(1) - drawn)[:, first][:, group]
    place = np.floor(before * bins / drawn.sum(1, keepdims=True)).astype(np.int64).clip(0, bins - 1)
    flat = (place + bins * np.arange(len(drawn))[:, None]).ravel()

    def sums(columns: Floats) -> Floats:
        return np.asarray(np.bincount(flat, columns.ravel(), len(drawn) * bins).reshape(len(drawn), bins), np.float64)

    return sums(drawn), sums(drawn * values[order]), sums(drawn * truth[order])


def equal_width_error(values: Floats, truth: Floats, weights: Floats, bins: int = CALIBRATION_BINS) -> Floats:
    """(d,) sum over bins of equal width, closed above, of |sum of values - sum of truths|."""
    place = np.clip(np.ceil(values * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.zeros((len(values), bins))
    gaps[np.arange(len(values)), place] = values - truth
    return np.asarray(np.abs(weights @ gaps).sum(1))


def aurc(confidence: Floats, wrong: npt.NDArray[np.bool_], weights: Floats) -> Floats:
    """(d,) area under risk against coverage; samples of one confidence share, so that repeated ones do.

    Of a block of c samples with e errors behind b samples with f errors, sum over j = 1..c of (f + j e / c) / (b + j) is
    e + (f - b e / c) (H(b + c) - H(b)) with the harmonic numbers H.
    """
    order = np.argsort(-confidence, kind="stable")
    _, first = np.unique(-confidence[order], return_index=True)
    drawn = weights[:, order]
    count, errors = (np.add.reduceat(part, first, axis=1) for part in (drawn, drawn * wrong[order]))
    kept, missed = count.cumsum(1), errors.cumsum(1)
    before, found = kept - count, missed - errors
    total = drawn.sum(1)
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, int(total.max()) + 1))])
    steps = harmonic[kept.astype(np.int64)] - harmonic[before.astype(np.int64)]
    area = errors + (found - before * errors / count.clip(1)) * steps
    return np.asarray(area.sum(1) / total)
