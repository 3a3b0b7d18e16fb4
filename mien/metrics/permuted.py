"""Does an embedding know action units of people it never saw? A permutation test of the whole cross-validation.

The parts of a cross-validation share training faces, so a test that exchanges people inside each part, with the probes as they are,
rejects too often. Here the labels of whole people are given to others before anything is fitted, and every part is fitted anew.
That takes thousands of probes, so the statistic is that of probes with a closed form.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mien.metrics.action_units import auc
from mien.metrics.resampling import person_blocks
from mien.schema import IntArray

Array = npt.NDArray[np.float64]
DRAWS = 999
"""Permutations: p can be .001, which stays below .05 when it is corrected for a matrix of fifty probes."""
RIDGE = 1.0
"""On a kernel whose diagonal is 1 on average."""
COLUMNS = 2400
"""Columns of labels that are fitted at once."""


def unit_areas(
    features: Array,
    active: npt.ArrayLike,
    people: npt.ArrayLike | None,
    parts: Sequence[tuple[IntArray, IntArray]],
    *,
    seed: int = 0,
    draws: int = DRAWS,
) -> Array:
    """(1 + draws,) cross-validated AUC of action units: with the faces' own labels, then with labels of whole other people.

    Args:
        features: (N, D).
        active: (N, A) 1, 0, NaN.
        people: (N,) labels of people; blocks of equal size (`person_blocks`) are exchanged. None: faces are.
        parts: rows to fit on and rows to score of each part of the cross-validation; whole people on each side.
        seed: of the permutations.
        draws: permutations.

    The statistic is the mean over parts and units of the AUC of ridge regressions of the labels, unknown labels counting as the mean
    of the fitting faces; 0.5 where no unit has both answers. It is large where the logistic probes find something.

    """
    labels = np.asarray(active, dtype=np.float64)
    blocks = person_blocks(people, len(labels))
    own = blocks.ravel()
    taken = [(np.intersect1d(fit, own), np.intersect1d(score, own)) for fit, score in parts]
    smoothers = [_smoother(features, fit, score) for fit, score in taken if len(fit) and len(score)]
    rng = np.random.default_rng(seed)
    orders = [np.arange(len(blocks)), *(rng.permutation(len(blocks)) for _ in range(draws))]
    step, found = max(1, COLUMNS // labels.shape[1]), []
    for start in range(0, len(orders), step):
        moved = np.full((len(labels), len(orders[start : start + step]), labels.shape[1]), np.nan)
        for k, order in enumerate(orders[start : start + step]):
            moved[own, k] = labels[blocks[order].ravel()]
        columns = moved.reshape(len(labels), -1)
        areas = np.array([_areas(columns, *smoother) for smoother in smoothers]).reshape(
            len(smoothers), -1, labels.shape[1]
        )
        known = np.isfinite(areas)
        total = np.where(known, areas, 0).sum((0, 2))
        count = known.sum((0, 2))
        found.append(np.where(count > 0, total / np.maximum(count, 1), 0.5))
    return np.concatenate(found)


def _smoother(features: Array, fit: IntArray, score: IntArray) -> tuple[Array, IntArray, IntArray]:
    """Matrix from centred labels of the fitting rows to guesses for the scored ones, and both rows."""
    spread = features[fit].std(axis=0)
    scaled = (features - features[fit].mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    kernel = scaled[fit] @ scaled[fit].T
    size = float(np.trace(kernel)) / len(fit) or 1.0
    weights = np.linalg.solve(kernel / size + RIDGE * np.eye(len(fit)), np.eye(len(fit)))
    return scaled[score] @ scaled[fit].T / size @ weights, fit, score


def _areas(columns: Array, smoother: Array, fit: IntArray, score: IntArray) -> Array:
    """(C,) AUC of each column of labels (N, C); NaN where the fitting or the scored rows have one answer only."""
    labels = columns[fit]
    known = ~np.isnan(labels)
    means = np.where(known, labels, 0).sum(0) / np.maximum(known.sum(0), 1)
    guesses = smoother @ np.where(known, labels - means, 0.0)
    return np.where((means > 0) & (means < 1), auc(guesses, columns[score]), np.nan)
