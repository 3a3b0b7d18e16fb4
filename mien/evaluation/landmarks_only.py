"""The baseline that sees no pixel: expressions from the landmarks alone. It reads the landmarks of a store a block at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from mien.data.store import BLOCK, Store
from mien.metrics.discriminant import fitted
from mien.schema import FloatArray, IntArray

FEWEST = 50
"""Training faces with landmarks, and twice as many as there are classes, below which the baseline says nothing."""

Standardised = Callable[[], Iterator[tuple[npt.NDArray[np.float64], IntArray]]]
"""Coordinates (b, 136) and classes (b,) of the training faces, a block after the other."""
Blocks = Callable[[], Iterator[FloatArray]]
"""Landmarks (b, 68, 2), a block of faces after the other, all known."""


def landmarks_only(
    store: Store,
    train: IntArray,
    rows: IntArray,
    labels: IntArray,
    classes: int,
    kind: Literal["lda", "mlp"] = "lda",
    seed: int = 0,
) -> FloatArray | None:
    """What the shape of the face says of its expression: a classifier of 68 points, fitted on the training faces.

    The points are freed of place, size and turn (`shapes`). A model that is guided by landmarks, or aligned by them, has to beat
    this to show that it reads the picture.

    Args:
        store: with landmarks.
        train: rows to fit on; none of them may be in `rows`.
        rows: rows to answer.
        labels: (len(store),) class of each row, -1 unknown.
        classes: K.
        kind: lda (linear discriminant analysis with Ledoit-Wolf shrinkage, `mien.metrics.discriminant`) or mlp (128 and 64 hidden
            units, early stopping), which holds the points of all training faces in memory.
        seed: of the MLP.

    Returns:
        (len(rows), K) probabilities; faces without landmarks get the class shares of training. None with fewer than FEWEST
        training faces with landmarks, with one class, or where no scored face has landmarks.

    """
    fit = train[labels[train] >= 0]
    fit, known = fit[store.known_points(fit).all(axis=1)], store.known_points(rows).all(axis=1)
    if len(fit) < max(FEWEST, 2 * classes) or len(np.unique(labels[fit])) < 2 or not known.any():
        return None
    shape = _fit_shape(store, fit, labels[fit], fitted if kind == "lda" else partial(_mlp, seed=seed))
    shares = np.bincount(labels[fit], minlength=classes) / len(fit)
    said = np.tile(shares.astype(np.float32), (len(rows), 1))
    there = np.flatnonzero(known)
    for start in range(0, len(there), BLOCK):
        own = there[start : start + BLOCK]
        answer = np.zeros((len(own), classes), np.float32)
        answer[:, shape.model.classes] = shape.model.probabilities(shape.seen(store.landmarks_of(rows[own])))
        said[own] = answer
    return said


class Model(Protocol):
    """A classifier of shapes."""

    @property
    def classes(self) -> IntArray:
        """(k,) those that it knows."""
        ...

    def probabilities(self, samples: npt.NDArray[np.float64], /) -> npt.NDArray[np.float64]:
        """(n, k) of samples (n, 136)."""
        ...


class _Mlp(NamedTuple):
    classes: IntArray
    probabilities: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]


def _mlp(blocks: Standardised, seed: int) -> _Mlp:
    from sklearn.neural_network import MLPClassifier

    samples, labels = (np.concatenate(parts) for parts in zip(*blocks(), strict=True))
    model = MLPClassifier((128, 64), early_stopping=True, random_state=seed)
    model.fit(samples.astype(np.float32), labels)
    return _Mlp(model.classes_, lambda seen: model.predict_proba(seen.astype(np.float32)))


class _Shape(NamedTuple):
    """What is learnt of the training faces."""

    mean: npt.NDArray[np.complex128]
    centre: npt.NDArray[np.float64]
    spread: npt.NDArray[np.float64]
    model: Model

    def seen(self, points: FloatArray) -> npt.NDArray[np.float64]:
        """(N, 136) standardised coordinates of (N, 68, 2) points."""
        return (shapes(points, self.mean) - self.centre) / self.spread


def _fit_shape(store: Store, fit: IntArray, labels: IntArray, learn: Callable[[Standardised], Model]) -> _Shape:
    def blocks() -> Iterator[FloatArray]:
        return (store.landmarks_of(fit[start : start + BLOCK]) for start in range(0, len(fit), BLOCK))

    mean = mean_shape(blocks)
    total, squares, values, pixels = np.zeros(136), np.zeros(136), 0.0, 0.0
    for points in blocks():
        coordinates, own = shapes(points, mean).astype(np.float64), points.astype(np.float64)
        total, squares = total + coordinates.sum(0), squares + np.square(coordinates).sum(0)
        values, pixels = values + own.sum(), pixels + np.square(own).sum()
    count, numbers = len(fit), len(fit) * 136
    scale = max(0.0, pixels / numbers - (values / numbers) ** 2) ** 0.5
    centre = total / count
    spread = np.sqrt((squares / count - np.square(centre)).clip(0)).clip(1e-6 * scale)

    def standardised() -> Iterator[tuple[npt.NDArray[np.float64], IntArray]]:
        for start, points in zip(range(0, count, BLOCK), blocks(), strict=True):
            yield (shapes(points, mean) - centre) / spread, labels[start : start + BLOCK]

    return _Shape(mean, centre, spread, learn(standardised))


def mean_shape(blocks: Blocks, rounds: int = 3) -> npt.NDArray[np.complex128]:
    """(68,) mean of shapes laid onto each other (generalised Procrustes analysis, Gower 1975), as x + i y, norm 1."""
    mean = _free(next(blocks()))[0]
    for _ in range(rounds):
        total = np.zeros(len(mean), dtype=np.complex128)
        for points in blocks():
            total += _turned(_free(points), mean).sum(0)
        mean = total / np.linalg.norm(total)
    return mean


def shapes(points: FloatArray, mean: npt.NDArray[np.complex128]) -> FloatArray:
    """(N, 136) coordinates of (N, 68, 2) points without place and size, turned onto the mean shape."""
    turned = _turned(_free(points), mean)
    return np.hstack([turned.real, turned.imag]).astype(np.float32)


def _free(points: FloatArray) -> npt.NDArray[np.complex128]:
    """Centred shapes of norm 1 as x + i y."""
    flat = points[..., 0].astype(np.float64) + 1j * points[..., 1]
    flat -= flat.mean(1, keepdims=True)
    return np.asarray(flat / np.linalg.norm(flat, axis=1, keepdims=True).clip(1e-12))


def _turned(free: npt.NDArray[np.complex128], mean: npt.NDArray[np.complex128]) -> npt.NDArray[np.complex128]:
    """The least-squares turn of each shape onto the mean: the phase of their inner product."""
    inner = free @ mean.conj()
    return np.asarray(free * (inner.conj() / np.abs(inner).clip(1e-12))[:, None])
