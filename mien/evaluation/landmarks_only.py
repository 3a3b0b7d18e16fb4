"""The baseline that sees no pixel: expressions from the landmarks alone."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from mien.data.store import Store
from mien.schema import FloatArray, IntArray

FEWEST = 50
"""Training faces with landmarks, and twice as many as there are classes, below which the baseline says nothing."""


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
        kind: lda (linear discriminant analysis with Ledoit-Wolf shrinkage) or mlp (128 and 64 hidden units, early stopping).
        seed: of the MLP.

    Returns:
        (len(rows), K) probabilities; faces without landmarks get the class shares of training. None with fewer than FEWEST
        training faces with landmarks, with one class, or where no scored face has landmarks.

    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.neural_network import MLPClassifier

    points = store.landmarks
    whole = np.asarray(np.isfinite(points).all(axis=(1, 2)))
    fit, known = train[whole[train] & (labels[train] >= 0)], whole[rows]
    if len(fit) < max(FEWEST, 2 * classes) or len(np.unique(labels[fit])) < 2 or not known.any():
        return None
    mean = mean_shape(points[fit])
    scale = points[fit].std()
    model = (
        LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
        if kind == "lda"
        else MLPClassifier((128, 64), early_stopping=True, random_state=seed)
    )
    seen = shapes(points[fit], mean)
    centre, spread = seen.mean(0), seen.std(0).clip(1e-6 * scale)
    model.fit((seen - centre) / spread, labels[fit])
    shares = np.bincount(labels[fit], minlength=classes) / len(fit)
    said = np.tile(shares.astype(np.float32), (len(rows), 1))
    answer = np.zeros((int(known.sum()), classes), np.float32)
    answer[:, model.classes_] = model.predict_proba((shapes(points[rows[known]], mean) - centre) / spread)
    said[known] = answer
    return said


def mean_shape(points: FloatArray, rounds: int = 3) -> npt.NDArray[np.complex128]:
    """(68,) mean of shapes laid onto each other (generalised Procrustes analysis, Gower 1975), as x + i y, norm 1."""
    free = _free(points)
    mean = free[0]
    for _ in range(rounds):
        mean = _turned(free, mean).mean(0)
        mean /= np.linalg.norm(mean)
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
