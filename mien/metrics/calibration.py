"""Calibration after training: probabilities that mean what they say, on faces like those of the run or on one's own photos.

Temperature scaling, Guo et al. 2017, "On Calibration of Modern Neural Networks", arXiv 1706.04599: p = softmax(logits / T)
with the T that makes the negative log-likelihood of held-out labels smallest. The predicted class never changes.

Class offsets, the bias of vector scaling (ibid.): p = softmax((logits + b) / T). They move the border between classes, where
other photos, or other people's idea of a label, lie on the other side of it than those of the training.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mien.errors import DataError

Floats = npt.NDArray[np.floating]
RANGE = (0.05, 20.0)
"""Temperatures that are searched, and that a calibration file may hold."""


def scaled(logits: Floats, temperature: float) -> npt.NDArray[np.float64]:
    """softmax(logits / temperature) over the last axis."""
    values = np.asarray(logits, dtype=np.float64) / temperature
    values = np.exp(values - values.max(-1, keepdims=True))
    return np.asarray(values / values.sum(-1, keepdims=True))


def negative_log_likelihood(logits: Floats, labels: npt.NDArray[np.int64], temperature: float = 1.0) -> float:
    """Mean over samples of -log p(label), natural logarithm. Lower is better."""
    values = np.asarray(logits, dtype=np.float64) / temperature
    values = values - values.max(1, keepdims=True)
    log_p = values - np.log(np.exp(values).sum(1, keepdims=True))
    return float(-log_p[np.arange(len(labels)), labels].mean())


def fit_temperature(logits: Floats, labels: npt.NDArray[np.int64]) -> float:
    """The temperature in RANGE with the smallest negative log-likelihood, to a relative 1e-5.

    The likelihood is convex in 1 / T. Classes that are told apart without an error have no best T above 0, labels without
    any relation to the logits none below infinity: the end of RANGE is returned.

    Args:
        logits: (N, K), finite.
        labels: (N,) class index of each.

    """
    from scipy.optimize import minimize_scalar

    if len(logits) == 0 or len(logits) != len(labels) or not np.isfinite(logits).all():
        raise DataError(f"logits {np.shape(logits)} and labels {np.shape(labels)} do not fit, or are not finite.")
    low, high = (float(np.log(1 / value)) for value in RANGE[::-1])
    best = minimize_scalar(
        lambda x: negative_log_likelihood(logits, labels, float(np.exp(-x))),
        bounds=(low, high), method="bounded", options={"xatol": 1e-6},
    )  # fmt: skip
    return float(np.exp(-best.x))


def abstain_threshold(probabilities: Floats, labels: npt.NDArray[np.int64], accuracy: float) -> tuple[float, float]:
    """Lowest top probability t from which on predictions reach an accuracy, and the share of samples that is kept.

    Kept are the samples with top probability >= t; t is 0 where all of them reach it. DataError where no t does.
    """
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    order = np.argsort(-confidence, kind="stable")
    kept = np.arange(1, len(order) + 1)
    reached = right[order].cumsum() / kept >= accuracy
    last = np.append(np.diff(confidence[order]) != 0, True)  # samples of one confidence are kept together
    fits = np.flatnonzero(reached & last)
    if len(fits) == 0:
        raise DataError(
            f"no threshold reaches an accuracy of {accuracy} on these faces; ask for less than {accuracy}, or train on."
        )
    count = int(fits[-1]) + 1
    return (0.0 if count == len(order) else float(confidence[order][count - 1])), count / len(order)


def fit_offsets(scores: Floats, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """(K,) numbers to add to the scores of each class, from samples that may show only some of the classes.

    Among the classes that the samples show, the offsets make the mean -log p(label | one of these classes) smallest, where
    each class weighs the same however many samples it has: then the mean p of each of them is 1 / their number. All of
    them are moved by one number more, so that the mean probability of the classes that the samples do *not* show stays what
    it was; those keep offset 0. Where all K are shown, the offsets add up to 0.

    Args:
        scores: (N, K) logits divided by the temperature, or log p, finite.
        labels: (N,) class index of each; DataError where fewer than two classes are there.

    """
    from scipy.optimize import minimize

    values = np.asarray(scores, dtype=np.float64)
    if len(values) == 0 or len(values) != len(labels) or not np.isfinite(values).all():
        raise DataError(f"scores {values.shape} and labels {np.shape(labels)} do not fit, or are not finite.")
    shown, place, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(shown) < 2:
        raise DataError("offsets between expressions need samples of at least two of them.")
    weight = 1 / (len(shown) * counts[place])
    inside, wanted = values[:, shown], np.eye(len(shown))[place]

    def loss(free: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        moved = inside + np.append(0.0, free)
        p = scaled(moved, 1.0)
        nll = np.log(np.exp(moved - moved.max(1, keepdims=True)).sum(1)) + moved.max(1) - moved[wanted == 1]
        return float(weight @ nll), (weight @ (p - wanted))[1:]

    # From zero: where scores are so far apart that the loss is flat, the least change is taken.
    first = np.zeros(len(shown) - 1)
    best = np.append(0.0, minimize(loss, first, jac=True, method="BFGS", options={"gtol": 1e-7}).x)
    offsets = np.zeros(values.shape[1])
    offsets[shown] = best + _common_shift(values, shown, best, weight)
    return offsets


def lift_to_recall(scores: Floats, labels: npt.NDArray[np.int64], label: int, recall: float) -> float:
    """The smallest number to add to the scores of one class so that it wins in at least this share of its own samples.

    0 where it does already. The number lies in the middle between the last sample that must be won and the next one, at most
    0.1 beyond the former. DataError without a sample of the class.

    Args:
        scores: (N, K) as in `fit_offsets`, its offsets added.
        labels: (N,) class index of each.
        label: the class.
        recall: share in (0, 1].

    """
    own = np.asarray(scores, dtype=np.float64)[labels == label]
    if not len(own):
        raise DataError("a recall needs samples of its class.")
    missing = np.sort(np.delete(own, label, axis=1).max(1) - own[:, label])
    last = int(np.ceil(recall * len(missing) - 1e-9)) - 1
    further = missing[last + 1] if last + 1 < len(missing) else np.inf
    if missing[last] < 0:
        return 0.0
    return float(missing[last] + min(further - missing[last], 0.2) / 2)


def _common_shift(
    scores: npt.NDArray[np.float64], shown: npt.NDArray[np.int64], offsets: npt.NDArray[np.float64],
    weight: npt.NDArray[np.float64],
) -> float:  # fmt: skip
    """What all offsets of the classes that are shown need more, so that the others keep their mean probability."""
    from scipy.optimize import brentq
    from scipy.special import expit, logsumexp

    rest = np.setdiff1d(np.arange(scores.shape[1]), shown)
    if len(rest) == 0:
        return -float(offsets.mean())
    odds = logsumexp(scores[:, rest], axis=1)
    before = weight @ expit(odds - logsumexp(scores[:, shown], axis=1))
    after = logsumexp(scores[:, shown] + offsets, axis=1)
    limit = float(np.abs(offsets).max()) + 1  # moving all of them by that much overshoots on every sample
    return float(brentq(lambda shift: weight @ expit(odds - after - shift) - before, -limit, limit, xtol=1e-9))
