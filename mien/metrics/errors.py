"""Where a classifier goes wrong: which classes it mixes up, on which faces, and what several of them get wrong together.

labels and predicted (N,) are class indices; every label is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.errors import DataError

Labels = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


def confusions(predicted: Labels, labels: Labels, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Pairs of classes that are mixed up, the most frequent first: true, predicted, faces, share of the true class."""
    found = []
    for k, name in enumerate(classes):
        answers = np.bincount(predicted[labels == k], minlength=len(classes))
        found += [
            {"true": name, "predicted": classes[other], "faces": int(count), "share": float(count / answers.sum())}
            for other, count in enumerate(answers)
            if count and other != k
        ]
    return sorted(found, key=lambda pair: -pair["faces"])


def by_group(right: Flags, groups: npt.NDArray[Any]) -> dict[str, dict[str, float | int]]:
    """Value of `groups` (N,) -> faces, errors and accuracy of the faces with that value, in sorted order."""
    if right.shape != groups.shape:
        raise DataError(f"right {right.shape} and groups {groups.shape} must both be (N,).")
    return {
        str(name): {
            "faces": int((groups == name).sum()),
            "errors": int((~right[groups == name]).sum()),
            "accuracy": float(right[groups == name].mean()),
        }
        for name in np.unique(groups)
    }


def affect_matrices(
    values: npt.ArrayLike, predicted: Labels, labels: Labels, classes: int
) -> dict[str, list[list[Any]]]:
    """Mean, standard deviation (over n, not n - 1) and count of a value in each cell of the confusion matrix.

    values (N,) are valence or arousal, NaN unknown and left out. Rows are true classes, columns predictions; a cell
    without faces is None (Luna-Jimenez et al. 2021, doi 10.3390/app11167217, section on errors).
    """
    data = np.asarray(values, dtype=np.float64)
    if data.shape != labels.shape or predicted.shape != labels.shape:
        raise DataError(
            f"values {data.shape}, predictions {predicted.shape} and labels {labels.shape} must all be (N,)."
        )
    known = np.isfinite(data)
    cell, data = (labels * classes + predicted)[known], data[known]
    count = np.bincount(cell, minlength=classes**2)
    some = np.maximum(count, 1)
    mean = np.bincount(cell, data, classes**2) / some
    std = np.sqrt(np.bincount(cell, (data - mean[cell]) ** 2, classes**2) / some)

    def rows(numbers: npt.NDArray[Any], known: Flags) -> list[list[Any]]:
        plain = [value.item() if seen else None for value, seen in zip(numbers, known, strict=True)]
        return [plain[k * classes : (k + 1) * classes] for k in range(classes)]

    every = np.ones(classes**2, dtype=bool)
    return {"mean": rows(mean, count > 0), "std": rows(std, count > 0), "count": rows(count, every)}


def common_errors(predicted: npt.NDArray[np.int64], labels: Labels) -> tuple[Flags, Flags]:
    """Faces that every model gets wrong (N,), and those of them that all take for the same class (N,).

    predicted (M, N): a row a model, on the same faces.
    """
    if predicted.ndim != 2 or predicted.shape[1:] != labels.shape or not len(predicted):
        raise DataError(f"predictions {predicted.shape} and labels {labels.shape} must be (M, N) and (N,).")
    wrong = (predicted != labels).all(axis=0)
    return wrong, wrong & (predicted == predicted[0]).all(axis=0)
