"""What parts of an embedding know: linear probes beside their baselines, dependency with a permutation test, swaps, collapse.

Plain functions of whole-run arrays, one row a face. A probe is fitted on one part of the faces and scored on the other; what
it cannot find a linear map may still hide, so a low score is evidence, no proof.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mien.errors import DataError
from mien.metrics.action_units import auc, count, f1
from mien.metrics.dependence import cross_correlation, distance_correlation, hsic
from mien.schema import IntArray

Array = npt.NDArray[np.float64]

MEASURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "distance_correlation": distance_correlation,
    "hsic": hsic,
    "cross_correlation": cross_correlation,
}
"""Dependency measure -> function of (N, D1) and (N, D2); higher is more dependent."""
TEST_SHARE = 0.3
"""Share of the faces (or subjects) that a probe is scored on."""


class Factor(NamedTuple):
    """Something that an embedding may know of a face."""

    kind: Literal["units", "classes", "values"]
    """units: (N, A) 1, 0, NaN; classes: (N,) labels; values: (N, V) numbers, NaN unknown."""
    values: npt.NDArray[Any]
    unseen: Literal["subjects", "images"]
    """subjects: probes are scored on people that they never saw; images: on new pictures of known people."""


class Dependence(NamedTuple):
    """A measure of dependency with its permutation test."""

    value: float
    independent: float
    """Mean over the permutations: what independent parts of this size score."""
    p: float
    """Share of permutations, this one counted, that score at least as much; at least 1 / (draws + 1)."""


def unseen_subjects(subjects: npt.ArrayLike, seed: int, share: float = TEST_SHARE) -> tuple[IntArray, IntArray]:
    """Rows to fit on and rows to score, whole subjects on each side; DataError with fewer than two."""
    names, index = np.unique(np.asarray(subjects), return_inverse=True)
    if len(names) < 2:
        raise DataError(f"{len(names)} subject cannot be split into known and unseen ones.")
    order = np.random.default_rng(seed).permutation(len(names))
    chosen = np.isin(index, order[: min(len(names) - 1, max(1, round(share * len(names))))])
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def unseen_images(labels: npt.ArrayLike, seed: int, share: float = TEST_SHARE) -> tuple[IntArray, IntArray]:
    """Rows to fit on and rows to score, every label on both sides; rows of a label with one row are in neither.

    DataError where that leaves fewer than two labels.
    """
    _, index = np.unique(np.asarray(labels), return_inverse=True)
    rng = np.random.default_rng(seed)
    fit: list[int] = []
    score: list[int] = []
    for label in range(int(index.max()) + 1 if len(index) else 0):
        rows = rng.permutation(np.flatnonzero(index == label))
        if len(rows) > 1:
            held = min(len(rows) - 1, max(1, round(share * len(rows))))
            score += rows[:held].tolist()
            fit += rows[held:].tolist()
    if len(set(index[fit].tolist())) < 2:
        raise DataError("fewer than two labels have two faces, so unseen images of known labels cannot be probed.")
    return np.sort(fit), np.sort(score)


def probe_classes(features: Array, labels: npt.ArrayLike, fit: IntArray, score: IntArray) -> dict[str, float]:
    """Logistic regression of a class label: balanced accuracy on `score` rows, beside what needs no features.

    Keys: score (balanced accuracy, in [0, 1]), baseline (1 / number of classes), accuracy, majority (accuracy of always naming the
    commonest class of the fitting rows). Scored rows of a class that was not fitted are left out.
    """
    names = np.asarray(labels)
    known = score[np.isin(names[score], names[fit])]
    if len(np.unique(names[fit])) < 2 or not len(known):
        raise DataError("a probe needs two classes to fit and one to score.")
    guess = logistic_probe(features[fit], names[fit]).predict(features[known])
    truth = names[known]
    present, counts = np.unique(names[fit], return_counts=True)
    return {
        "score": float(np.mean([(guess[truth == name] == name).mean() for name in np.unique(truth)])),
        "baseline": 1 / len(present),
        "accuracy": float((guess == truth).mean()),
        "majority": float((truth == present[counts.argmax()]).mean()),
    }


def probe_units(features: Array, active: npt.ArrayLike, fit: IntArray, score: IntArray) -> dict[str, float]:
    """Logistic regressions of action units: mean AUC on `score` rows over units with both answers in both parts.

    Keys: score (AUC, chance 0.5), baseline (0.5), f1 (macro F1 of the balanced probes), always_active (macro F1 of answering yes
    to everything), units (how many could be probed). Unlabelled faces are left out unit by unit.
    """
    truth = np.asarray(active, dtype=np.float64)
    areas, scores, always = [], [], []
    for column in truth.T:
        rows, held = (part[~np.isnan(column[part])] for part in (fit, score))
        if any(len(np.unique(column[part])) < 2 for part in (rows, held)):
            continue
        probe = logistic_probe(features[rows], column[rows], balanced=True)
        found = probe.probabilities(features[held])[:, [1]]
        label = column[held, None]
        areas.append(auc(found, label)[0])
        scores.append(f1(count(found >= 0.5, label))[0])
        always.append(2 * label.mean() / (1 + label.mean()))
    if not areas:
        raise DataError("no action unit is active in some and not in other faces of both parts.")
    means = (float(np.mean(values)) for values in (areas, scores, always))
    return dict(zip(("score", "f1", "always_active"), means, strict=True)) | {
        "baseline": 0.5,
        "units": float(len(areas)),
    }


def probe_values(features: Array, values: npt.ArrayLike, fit: IntArray, score: IntArray) -> dict[str, float]:
    """Ridge regression of numbers: R squared on `score` rows, mean over the columns that vary.

    Keys: score (R squared, at most 1), baseline (0: the mean of the fitting rows; worse guesses are negative), columns.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    table = np.asarray(values, dtype=np.float64).reshape(len(features), -1)
    found = []
    for column in table.T:
        rows, held = (part[np.isfinite(column[part])] for part in (fit, score))
        if len(rows) < 3 or len(held) < 2 or np.ptp(column[held]) < 1e-9 or np.ptp(column[rows]) < 1e-9:
            continue
        probe = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 5, 7))).fit(features[rows], column[rows])
        error = ((probe.predict(features[held]) - column[held]) ** 2).sum()
        found.append(1 - error / ((column[held] - column[rows].mean()) ** 2).sum())
    if not found:
        raise DataError("no number varies among the faces of both parts.")
    return {"score": float(np.mean(found)), "baseline": 0.0, "columns": float(len(found))}


def probe_matrix(
    parts: Mapping[str, Array],
    factors: Mapping[str, Factor],
    subjects: npt.ArrayLike,
    *,
    splits: int = 3,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Probes of every factor from every part of the embedding.

    Args:
        parts: name -> (N, D) features, e.g. z1, z2 and both; parts without columns are left out.
        factors: name -> factor.
        subjects: (N,) labels of people.
        splits: how many random splits are averaged; the same ones for every part.
        seed: of the splits.

    Returns:
        factor -> {part: {score, baseline, spread (standard deviation over the splits), ...}}, or {"skipped": reason}.

    """
    probes = {"units": probe_units, "classes": probe_classes, "values": probe_values}
    table: dict[str, dict[str, Any]] = {}
    for name, factor in factors.items():
        try:
            cut = (unseen_subjects, subjects) if factor.unseen == "subjects" else (unseen_images, factor.values)
            rows = [cut[0](cut[1], seed + k) for k in range(splits)]
            table[name] = {
                part: _summed([probes[factor.kind](features, factor.values, *pair) for pair in rows])
                for part, features in parts.items()
                if features.shape[1]
            }
        except DataError as error:
            table[name] = {"skipped": str(error)}
    return table


def _summed(runs: list[dict[str, float]]) -> dict[str, float]:
    means = {key: float(np.mean([run[key] for run in runs])) for key in runs[0]}
    return means | {"spread": float(np.std([run["score"] for run in runs]))}


class Probe(NamedTuple):
    """A logistic regression (scikit-learn) on features scaled to variance 1 over the faces that it was fitted on."""

    mean: Array
    deviation: Array
    model: Any

    def predict(self, features: Array) -> npt.NDArray[Any]:
        """(N,) labels."""
        return np.asarray(self.model.predict((features - self.mean) / self.deviation))

    def probabilities(self, features: Array) -> Array:
        """(N, K) in the order of the sorted labels."""
        return np.asarray(self.model.predict_proba((features - self.mean) / self.deviation))


def logistic_probe(features: Array, labels: npt.NDArray[Any], balanced: bool = False) -> Probe:
    """Fit a probe; `balanced` weighs rare labels up. Constant columns say nothing."""
    from sklearn.linear_model import LogisticRegression

    deviation = features.std(axis=0)
    probe = Probe(features.mean(axis=0), np.where(deviation > 0, deviation, 1.0), None)
    model = LogisticRegression(max_iter=500, class_weight="balanced" if balanced else None)
    return probe._replace(model=model.fit((features - probe.mean) / probe.deviation, labels))


def dependence_test(
    measure: Callable[[Tensor, Tensor], Tensor], first: Tensor, second: Tensor, *, draws: int = 199, seed: int = 0
) -> Dependence:
    """A measure of (N, D1) and (N, D2), and its permutation test: rows of the second are shuffled `draws` times.

    Rows count as exchangeable; neighbouring frames of a video are not, so draw faces far apart.
    """
    generator = torch.Generator().manual_seed(seed)
    value = float(measure(first, second))
    orders = (torch.randperm(len(second), generator=generator) for _ in range(draws))
    null = np.array([float(measure(first, second[order])) for order in orders])
    reached = int((null >= value - 1e-12).sum())
    return Dependence(value, float(null.mean()), (1 + reached) / (1 + draws))


def spread(features: Array) -> dict[str, float]:
    """Signs of a collapsed part of an embedding (N, D).

    Keys: dimensions; variance (mean over columns); dead (share of columns whose variance is under 1e-6 of the largest, or
    0); effective_rank: exp of the entropy of the shares of the singular values of the centred features (Roy and Vetterli
    2007), from 1 to D; 0 where nothing varies.
    """
    values = np.asarray(features, dtype=np.float64)
    variance = values.var(axis=0) if values.shape[1] else np.zeros(0)
    if not len(variance) or variance.max() <= 0:
        return {
            "dimensions": values.shape[1],
            "variance": 0.0,
            "dead": float(values.shape[1] > 0),
            "effective_rank": 0.0,
        }
    sizes = np.linalg.svd(values - values.mean(axis=0), compute_uv=False)
    share = sizes[sizes > 0] / sizes.sum()
    return {
        "dimensions": values.shape[1],
        "variance": float(variance.mean()),
        "dead": float((variance < 1e-6 * variance.max()).mean()),
        "effective_rank": float(np.exp(-(share * np.log(share)).sum())),
    }


def psnr(pictures: Tensor, others: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of pictures (B, C, H, W) in [-1, 1], (B,); higher is better, at most 100."""
    error = (pictures - others).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / error.clamp_min(4e-10))


def units_followed(scores: npt.ArrayLike, first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """Whose action units a swapped face shows, in [0, 1]: 1 those of `first`, 0 those of `second`, 0.5 neither's.

    scores (N, A) predictions of the swapped faces; first, second (N, A) occurrence 1, 0, NaN of the two it was made of. AUC
    by unit over the entries where the two differ (which makes it symmetric), then the mean over units; NaN without any.
    """
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    differ = (one != other) & ~np.isnan(one) & ~np.isnan(other)
    areas = auc(scores, np.where(differ, one, np.nan))
    return float(np.nanmean(areas)) if np.isfinite(areas).any() else float("nan")


def identity_followed(predicted: npt.ArrayLike, first: npt.ArrayLike, second: npt.ArrayLike) -> dict[str, float]:
    """Shares of swapped faces (N,) that a probe takes for the subject of z1, and for that of z2; the two must differ."""
    said, one, other = np.asarray(predicted), np.asarray(first), np.asarray(second)
    if (one == other).any():
        raise DataError("a swapped face needs two different subjects.")
    return {"z1": float((said == one).mean()), "z2": float((said == other).mean())}
