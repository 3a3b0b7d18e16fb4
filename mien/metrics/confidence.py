"""Does a confidence mean what it says? Calibration in bins of equal mass, Brier score, risk against coverage.

probabilities (N, K) rows summing to 1, labels (N,) class index, all known. Nothing is fitted here.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mien.errors import DataError
from mien.metrics.classification import CALIBRATION_BINS

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
SMALLEST = 1e-12
"""What a probability of 0 counts as in a logarithm."""


class Bins(NamedTuple):
    """What `equal_mass` finds in each bin."""

    confidence: Floats
    share: Floats
    size: npt.NDArray[np.int64]

    @property
    def error(self) -> float:
        """Mean |confidence - share| over the samples, in [0, 1]."""
        return float((np.abs(self.confidence - self.share) * self.size).sum() / max(1, self.size.sum()))


def equal_mass(confidence: npt.ArrayLike, right: npt.ArrayLike, bins: int = CALIBRATION_BINS) -> Bins:
    """Mean confidence and share that is right in `bins` bins with the same number of samples, from the least confident on.

    confidence (N,) in [0, 1], right (N,) 0 or 1. Samples of one confidence stay in one bin, so there may be fewer bins;
    the order of the samples does not matter (Nixon et al. 2019, arXiv 1904.01685).
    """
    top, hit = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=np.float64)
    if top.ndim != 1 or top.shape != hit.shape or not len(top):
        raise DataError(f"confidences {top.shape} and answers {hit.shape} must both be a non-empty (N,).")
    place = _places(top, bins)
    count = np.bincount(place)
    return Bins(np.bincount(place, top) / count, np.bincount(place, hit) / count, count)


def _places(confidence: Floats, bins: int) -> Labels:
    """(N,) bin of equal mass of each sample, from 0 on without a gap."""
    order = np.argsort(confidence, kind="stable")
    values, first = np.unique(confidence[order], return_index=True)
    place = np.empty(len(confidence), dtype=np.int64)
    place[order] = (first[np.searchsorted(values, confidence[order])] * bins) // len(confidence)
    return np.asarray(np.unique(place, return_inverse=True)[1], dtype=np.int64)


def calibrated_error(
    probabilities: npt.ArrayLike, bins: int = CALIBRATION_BINS, *, seed: int = 0, draws: int = 200
) -> float:
    """What `equal_mass_error` comes to on so many samples for a model whose confidences are exactly right: its bias.

    The mean over draws in which every sample is right with the probability that its confidence says.
    """
    top = np.asarray(probabilities, dtype=np.float64).max(1)
    place, rng = _places(top, bins), np.random.default_rng(seed)
    flat = place + (place.max() + 1) * np.arange(draws)[:, None]
    gaps = top - (rng.random((draws, len(top))) < top)
    return float(np.abs(np.bincount(flat.ravel(), gaps.ravel())).sum() / (draws * len(top)))


def equal_mass_error(probabilities: npt.ArrayLike, labels: npt.ArrayLike, bins: int = CALIBRATION_BINS) -> float:
    """Expected calibration error of the predicted class in bins of equal mass, in [0, 1]. Lower is better."""
    shares, truth = _checked(probabilities, labels)
    return equal_mass(shares.max(1), shares.argmax(1) == truth, bins).error


def adaptive_error(probabilities: npt.ArrayLike, labels: npt.ArrayLike, bins: int = CALIBRATION_BINS) -> float:
    """Adaptive calibration error (Nixon et al. 2019): mean over all classes and bins of equal mass of |p - share|.

    Every class's probability is judged on every sample, so that a wrong second choice counts too. Lower is better.
    """
    shares, truth = _checked(probabilities, labels)
    found = [equal_mass(shares[:, k], truth == k, bins) for k in range(shares.shape[1])]
    return float(np.mean([np.abs(one.confidence - one.share).mean() for one in found]))


def class_wise_error(probabilities: npt.ArrayLike, labels: npt.ArrayLike, bins: int = CALIBRATION_BINS) -> Floats:
    """(K,) calibration error of each class's probability in bins of equal width (Kull et al. 2019, arXiv 1910.12656).

    Their mean over classes is the class-wise ECE. Bins are closed above. Lower is better.
    """
    shares, truth = _checked(probabilities, labels)
    errors = []
    for k in range(shares.shape[1]):
        place = np.clip(np.ceil(shares[:, k] * bins).astype(int) - 1, 0, bins - 1)
        gaps = np.bincount(place, weights=shares[:, k] - (truth == k), minlength=bins)
        errors.append(np.abs(gaps).sum() / len(truth))
    return np.array(errors)


class Brier(NamedTuple):
    """Brier score, and the parts that add up to it: reliability - resolution + uncertainty + within."""

    score: float
    """Mean over samples of the squared distance of the probabilities from the label, in [0, 2]. Lower is better."""
    reliability: float
    """How far the bins' mean probabilities lie from their shares. Lower is better."""
    resolution: float
    """How far the shares of the bins differ from the share of all. Higher is better."""
    uncertainty: float
    """What naming the frequencies of the classes scores: of these faces, not of the model."""
    within: float
    """What binning leaves out (Stephenson et al. 2008): spread and covariance inside the bins. Of either sign."""


def brier(probabilities: npt.ArrayLike, labels: npt.ArrayLike, bins: int = CALIBRATION_BINS) -> Brier:
    """Brier score of several classes with its decomposition (Murphy 1973), summed over the classes.

    Bins of equal mass of each class's probability. The parts add up exactly, since what lies within bins is given too.
    """
    shares, truth = _checked(probabilities, labels)
    said = np.eye(shares.shape[1])[truth]
    parts = np.zeros(3)
    for k in range(shares.shape[1]):
        found, base = equal_mass(shares[:, k], said[:, k], bins), said[:, k].mean()
        weight = found.size / len(truth)
        parts += [
            (weight * (found.confidence - found.share) ** 2).sum(),
            (weight * (found.share - base) ** 2).sum(),
            base * (1 - base),
        ]
    score = float(np.square(shares - said).sum(1).mean())
    reliability, resolution, uncertainty = map(float, parts)
    return Brier(score, reliability, resolution, uncertainty, score - (reliability - resolution + uncertainty))


def mean_log_loss(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Mean -log p(label), natural logarithm; a probability of 0 counts as 1e-12. Lower is better."""
    shares, truth = _checked(probabilities, labels)
    return float(-np.log(shares[np.arange(len(truth)), truth].clip(SMALLEST)).mean())


class Coverage(NamedTuple):
    """Share of wrong answers when only the most confident samples are answered."""

    coverage: Floats
    """(M,) share of samples answered, rising to 1; samples of one confidence are answered together."""
    risk: Floats
    """(M,) share of them that is wrong."""
    threshold: Floats
    """(M,) least confidence that is answered."""
    area: float
    """AURC: mean risk over the coverages 1/N .. 1 (Geifman et al. 2019, arXiv 1805.08206). Lower is better."""
    best: float
    """AURC of an order that knows every error, with as many errors: what the area is read beside."""
    chance: float
    """AURC of a random order: the share of errors."""


def risk_coverage(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> Coverage:
    """Risk against coverage by the top probability. Ties share: the mean over all of their orders."""
    shares, truth = _checked(probabilities, labels)
    top, wrong = shares.max(1), (shares.argmax(1) != truth).astype(np.float64)
    values, place = np.unique(-top, return_inverse=True)
    count = np.bincount(place)
    errors, n, total = np.bincount(place, wrong), np.arange(1, len(top) + 1), len(top)
    kept, found = count.cumsum(), errors.cumsum()
    step = np.searchsorted(kept, n)  # which block of ties the n-th sample lies in
    before = np.concatenate([[0], kept])[step]
    expected = np.concatenate([[0.0], found])[step] + errors[step] * (n - before) / count[step]
    misses = int(wrong.sum())
    best = float((np.maximum(0, n - (total - misses)) / n).mean())
    return Coverage(kept / total, found / kept, -values, float((expected / n).mean()), best, misses / total)


def _checked(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[Floats, Labels]:
    shares, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if shares.ndim != 2 or truth.shape != shares.shape[:1] or not len(truth):
        raise DataError(f"probabilities {shares.shape} and labels {truth.shape} do not fit; expected (N, K) and (N,).")
    if truth.min() < 0 or truth.max() >= shares.shape[1]:
        raise DataError(f"labels must lie in 0..{shares.shape[1] - 1}; leave unlabelled samples out.")
    return shares, truth.astype(np.int64)
