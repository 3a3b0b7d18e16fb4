"""Temperature scaling: one number that makes a classifier's probabilities mean what they say.

Guo et al. 2017, "On Calibration of Modern Neural Networks", arXiv 1706.04599: p = softmax(logits / T) with the T that makes
the negative log-likelihood of held-out labels smallest. The predicted class never changes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mien.errors import DataError

Floats = npt.NDArray[np.floating]
RANGE = (0.05, 20.0)
"""Temperatures that are searched."""


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
