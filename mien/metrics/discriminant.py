"""Linear discriminant analysis with Ledoit-Wolf shrinkage, fitted on samples that come in blocks: memory does not grow with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mien.schema import IntArray

Array = npt.NDArray[np.float64]
Blocks = Callable[[], Iterator[tuple[Array, IntArray]]]
"""Samples (b, p) and their classes (b,), a block after the other; the same ones at every call."""


class LinearDiscriminant(NamedTuple):
    """Discriminants x w + b of each class that occurs."""

    classes: IntArray
    """(k,) sorted."""
    weights: Array
    """(p, k)."""
    offsets: Array
    """(k,)."""

    def probabilities(self, samples: Array) -> Array:
        """(n, k) shares of the classes, summing to 1, of samples (n, p)."""
        score = samples @ self.weights + self.offsets
        raised = np.exp(score - score.max(axis=1, keepdims=True))
        return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def fitted(blocks: Blocks) -> LinearDiscriminant:
    """What scikit-learn's LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto") finds, in two passes over the blocks.

    The covariance is the mean over the classes, weighted by their samples, of each class's own, shrunk after Ledoit and Wolf
    (2004) in units of its standard deviations.
    """
    count, total, squares = _moments(blocks)
    classes = np.array(sorted(count), dtype=np.int64)
    share = np.array([count[k] for k in classes]) / sum(count.values())
    means = np.stack([total[k] / count[k] for k in classes])
    spread = np.stack([np.sqrt((squares[k] / count[k] - np.square(total[k] / count[k])).clip(0)) for k in classes])
    spread[spread <= 1e-12] = 1.0  # a constant
    products, fourth = _products(blocks, classes, means, spread)
    covariance = np.zeros(products.shape[1:])
    for k in range(len(classes)):
        own = shrunk(products[k], fourth[k], count[int(classes[k])])
        covariance += share[k] * spread[k][:, None] * own * spread[k][None, :]
    weights = np.linalg.lstsq(covariance, means.T, rcond=None)[0]
    offsets = np.log(share) - 0.5 * (means * weights.T).sum(axis=1)
    return LinearDiscriminant(classes, np.asarray(weights, dtype=np.float64), offsets)


def _moments(blocks: Blocks) -> tuple[dict[int, int], dict[int, Array], dict[int, Array]]:
    """Class -> samples, their sum and the sum of their squares."""
    count, total, squares = dict[int, int](), dict[int, Array](), dict[int, Array]()
    for samples, labels in blocks():
        for k in np.unique(labels).tolist():
            own = samples[labels == k]
            count[k] = count.get(k, 0) + len(own)
            total[k] = total.get(k, 0.0) + own.sum(axis=0)
            squares[k] = squares.get(k, 0.0) + np.square(own).sum(axis=0)
    return count, total, squares


def _products(blocks: Blocks, classes: IntArray, means: Array, spread: Array) -> tuple[Array, Array]:
    """Of samples standardised within their class: sum of outer products (k, p, p), sum of fourth powers of their norms (k,)."""
    wide = means.shape[1]
    products, fourth = np.zeros((len(classes), wide, wide)), np.zeros(len(classes))
    for samples, labels in blocks():
        for k, name in enumerate(classes.tolist()):
            own = (samples[labels == name] - means[k]) / spread[k]
            products[k] += own.T @ own
            fourth[k] += np.square(np.square(own).sum(axis=1)).sum()
    return products, fourth


def shrunk(products: Array, fourth: float, count: int) -> Array:
    """(p, p) covariance shrunk towards a multiple of the identity (Ledoit and Wolf 2004, doi 10.1016/S0047-259X(03)00096-4).

    products (p, p) sum of the outer products of `count` centred samples, fourth the sum of the fourth powers of their norms.
    """
    wide, found = len(products), products / count
    level = float(np.trace(found)) / wide
    size = float(np.square(found).sum())
    noise = max(0.0, (fourth / count - size) / (wide * count))
    distance = (size - wide * level**2) / wide
    noise = min(noise, distance)
    weight = noise / distance if noise > 0 else 0.0
    return np.asarray((1 - weight) * found + weight * level * np.eye(wide))
