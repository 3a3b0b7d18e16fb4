"""What parts of an embedding know: linear probes on faces that they never saw, each tested against its baseline.

Plain functions of whole-run arrays, one row a face, in the order of the store. A probe is fitted on one part of the faces and
scored on the other; every face is scored once. What it cannot find a linear map may still hide, so a low score is evidence,
no proof.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from mien.errors import DataError
from mien.metrics.action_units import auc, count, f1
from mien.metrics.decisions import holm
from mien.metrics.permuted import unit_areas
from mien.metrics.resampling import cluster_totals, clusters_of, effective_clusters
from mien.schema import IntArray

Array = npt.NDArray[np.float64]
PARTS = 3
"""Parts of the faces (or subjects), each of which is scored once by probes fitted on the others."""


class Factor(NamedTuple):
    """Something that an embedding may know of a face."""

    kind: Literal["units", "classes", "values"]
    """units: (N, A) 1, 0, NaN; classes: (N,) labels; values: (N, V) numbers, NaN unknown."""
    values: npt.NDArray[Any]
    unseen: Literal["subjects", "images"]
    """subjects: probes are scored on people that they never saw; images: on other recordings of known people."""
    recordings: npt.NDArray[Any] | None = None
    """(N,) task or recording of each face, for `images`; None: stretches of each person's faces in order."""


class Probed(NamedTuple):
    """Scores of a probe, and what each scored face adds to them."""

    scores: dict[str, float]
    shares: Array
    """(N,) weight of each face in the score; 0 for faces that were not scored."""
    pulls: Array
    """(N,) how far each face moves the score from its value; their sum is 0."""


def unseen_subjects(subjects: npt.ArrayLike, seed: int, part: int = 0, parts: int = PARTS) -> tuple[IntArray, IntArray]:
    """Rows to fit on and rows to score of one part, whole subjects on each side; DataError with fewer than two.

    The subjects are dealt by the seed into `parts` parts (at most one a subject), each of which is scored once.
    """
    names, index = np.unique(np.asarray(subjects), return_inverse=True)
    if len(names) < 2:
        raise DataError(f"{len(names)} subject cannot be split into known and unseen ones.")
    order = np.random.default_rng(seed).permutation(len(names))
    parts = min(parts, len(names))
    chosen = np.isin(index, order[part % parts :: parts])
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def unseen_recordings(
    labels: npt.ArrayLike, recordings: npt.ArrayLike | None = None, part: int = 0, parts: int = PARTS
) -> tuple[IntArray, IntArray]:
    """Rows to fit on and rows to score of one part, every label on both sides: other tasks, or another stretch of time.

    Neighbouring frames of a video are nearly one picture: dealt to both sides at random, they would let a probe find again
    what it was fitted on. Where a label has two or more `recordings` (N,), whole ones are scored; otherwise its rows are cut in
    their order into `parts` stretches. Labels with one row are in neither. DataError where that leaves fewer than two labels.
    """
    _, index = np.unique(np.asarray(labels), return_inverse=True)
    names = None if recordings is None else np.asarray(recordings)
    fit: list[int] = []
    score: list[int] = []
    for label in range(int(index.max()) + 1 if len(index) else 0):
        rows = np.flatnonzero(index == label)
        blocks = np.arange(len(rows)) * parts // len(rows)  # stretches of equal length
        if names is not None and len(np.unique(names[rows])) > 1:
            blocks = np.unique(names[rows], return_inverse=True)[1]
            blocks = blocks * parts // (blocks.max() + 1)
        held = blocks == np.unique(blocks)[part % len(np.unique(blocks))]
        if not held.all():
            score += rows[held].tolist()
            fit += rows[~held].tolist()
    if len(set(index[fit].tolist())) < 2:
        raise DataError("fewer than two labels have two faces, so unseen images of known labels cannot be probed.")
    return np.sort(fit), np.sort(score)


def probe_classes(
    features: Array, labels: npt.ArrayLike, fit: IntArray, score: IntArray, sampled: bool = False
) -> Probed:
    """Logistic regression of a class label: balanced accuracy on `score` rows, beside what needs no features.

    Scores: score (balanced accuracy, in [0, 1]), baseline (1 / number of classes), accuracy, majority (accuracy of always naming
    the commonest class of the fitting rows). Scored rows of a class that was not fitted are left out. `sampled`: the classes are
    themselves a sample, such as people, so that the spread between them counts too.
    """
    names = np.asarray(labels)
    known = score[np.isin(names[score], names[fit])]
    if len(np.unique(names[fit])) < 2 or not len(known):
        raise DataError("a probe needs two classes to fit and one to score.")
    guess = logistic_probe(features[fit], names[fit]).predict(features[known])
    truth = names[known]
    present, counts = np.unique(names[fit], return_counts=True)
    tested, index, sizes = np.unique(truth, return_inverse=True, return_counts=True)
    right = (guess == truth).astype(np.float64)
    recall = np.bincount(index, weights=right) / sizes
    shares, pulls = np.zeros((2, len(names)))
    shares[known] = 1 / (sizes[index] * len(tested))
    pulls[known] = shares[known] * (right - (recall.mean() if sampled else recall[index]))
    scores = {
        "score": float(recall.mean()),
        "baseline": 1 / len(present),
        "accuracy": float(right.mean()),
        "majority": float((truth == present[counts.argmax()]).mean()),
    }
    return Probed(scores, shares, pulls)


def probe_units(features: Array, active: npt.ArrayLike, fit: IntArray, score: IntArray) -> Probed:
    """Logistic regressions of action units: mean AUC on `score` rows over units with both answers in both parts.

    Scores: score (AUC, chance 0.5), baseline (0.5), f1 (macro F1 of the balanced probes), always_active (macro F1 of answering
    yes to everything), units (how many could be probed). Unlabelled faces are left out unit by unit. It has no pulls: an
    AUC of a few people is too uneven for a t test, and `permuted.unit_areas` tests it.
    """
    truth = np.asarray(active, dtype=np.float64)
    areas, scores, always = [], [], []
    shares = np.zeros(len(truth))
    for column in truth.T:
        rows, held = (part[~np.isnan(column[part])] for part in (fit, score))
        if any(len(np.unique(column[part])) < 2 for part in (rows, held)):
            continue
        probe = logistic_probe(features[rows], column[rows], balanced=True)
        found = probe.probabilities(features[score])[:, 1]
        known = ~np.isnan(column[score])
        label = column[held, None]
        areas.append(auc(found[known, None], label)[0])
        scores.append(f1(count(found[known, None] >= 0.5, label))[0])
        always.append(2 * label.mean() / (1 + label.mean()))
        shares[held] += 1 / len(held)
    if not areas:
        raise DataError("no action unit is active in some and not in other faces of both parts.")
    means = (float(np.mean(values)) for values in (areas, scores, always))
    named = dict(zip(("score", "f1", "always_active"), means, strict=True))
    return Probed(named | {"baseline": 0.5, "units": float(len(areas))}, shares / len(areas), np.zeros(len(truth)))


def probe_values(features: Array, values: npt.ArrayLike, fit: IntArray, score: IntArray) -> Probed:
    """Ridge regression of numbers: R squared on `score` rows, mean over the columns that vary.

    Scores: score (R squared, at most 1), baseline (0: the mean of the fitting rows; worse guesses are negative), columns.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    table = np.asarray(values, dtype=np.float64).reshape(len(features), -1)
    found = []
    shares, pulls = np.zeros((2, len(table)))
    for column in table.T:
        rows, held = (part[np.isfinite(column[part])] for part in (fit, score))
        if len(rows) < 3 or len(held) < 2 or np.ptp(column[held]) < 1e-9 or np.ptp(column[rows]) < 1e-9:
            continue
        probe = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 5, 7))).fit(features[rows], column[rows])
        error = (probe.predict(features[held]) - column[held]) ** 2
        base = (column[held] - column[rows].mean()) ** 2
        found.append(1 - error.sum() / base.sum())
        shares[held] += base / base.sum()
        pulls[held] += (base - error - found[-1] * base) / base.sum()
    if not found:
        raise DataError("no number varies among the faces of both parts.")
    scores = {"score": float(np.mean(found)), "baseline": 0.0, "columns": float(len(found))}
    return Probed(scores, shares / len(found), pulls / len(found))


def probe_matrix(
    parts: Mapping[str, Array],
    factors: Mapping[str, Factor],
    subjects: npt.ArrayLike,
    *,
    splits: int = PARTS,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Probes of every factor from every part of the embedding.

    Args:
        parts: name -> (N, D) features, e.g. z1, z2 and both; parts without columns are left out.
        factors: name -> factor.
        subjects: (N,) labels of people.
        splits: into how many parts faces are dealt, each of which is scored once; the same for every part of the embedding.
        seed: of the dealing.

    Returns:
        factor -> {part: {score, baseline, spread (standard deviation over the splits), p (one-sided, of the score being above its
        baseline, over people), p_corrected (Holm over the whole matrix), people, ...}}, or {"skipped": reason}.

    """
    table: dict[str, dict[str, Any]] = {}
    for name, factor in factors.items():
        try:
            rows = [_split(factor, subjects, seed, k, splits) for k in range(splits)]
            table[name] = {
                part: above_baseline(
                    [_probe(factor, features, *pair) for pair in rows],
                    subjects,
                    unit_areas(features, factor.values, subjects, rows, seed=seed) if factor.kind == "units" else None,
                )
                for part, features in parts.items()
                if features.shape[1]
            }
        except DataError as error:
            table[name] = {"skipped": str(error)}
    found = [row for factor_ in table.values() if "skipped" not in factor_ for row in factor_.values()]
    for row, p in zip(found, holm([row["p"] for row in found]).tolist(), strict=True):
        row["p_corrected"] = p
    return table


def _probe(factor: Factor, features: Array, fit: IntArray, score: IntArray) -> Probed:
    if factor.kind == "classes":
        return probe_classes(features, factor.values, fit, score, sampled=factor.unseen == "images")
    if factor.kind == "units":
        return probe_units(features, factor.values, fit, score)
    return probe_values(features, factor.values, fit, score)


def _split(factor: Factor, subjects: npt.ArrayLike, seed: int, part: int, parts: int) -> tuple[IntArray, IntArray]:
    if factor.unseen == "subjects":
        return unseen_subjects(subjects, seed, part, parts)
    return unseen_recordings(factor.values, factor.recordings, part, parts)


def above_baseline(runs: Sequence[Probed], subjects: npt.ArrayLike, null: Array | None = None) -> dict[str, float]:
    """Means of the scores over the splits, and a one-sided test over people that they are above the baseline.

    By permutation where there is one: `null` (1 + draws,), the statistic of the faces as they are first. Otherwise by a t: the pulls
    of the faces of one person are summed, since pictures of one person are not independent, and people of different splits are told
    apart from their own split's score, which costs each split one of its `effective_clusters`. p is at least 2^-people, what a test
    by signs of so many people can resolve.
    """
    from scipy import stats

    means = {key: float(np.mean([run.scores[key] for run in runs])) for key in runs[0].scores}
    clusters, _ = clusters_of(len(runs[0].pulls), subjects)
    shares, pulls = (
        cluster_totals(np.stack(part, axis=1), clusters) / len(runs)
        for part in zip(*[(run.shares, run.pulls) for run in runs], strict=True)
    )
    apart = (np.count_nonzero(shares, axis=1) <= 1).all()  # each person was scored in one split only
    groups = list(zip(pulls.T, shares.T, strict=True)) if apart else [(pulls.sum(axis=1), shares.sum(axis=1))]
    variance, freedom, people = 0.0, 0.0, int((shares.sum(axis=1) > 0).sum())
    for pull, share in groups:
        effective = effective_clusters(share[share > 0])
        variance += float(np.square(pull).sum()) * effective / (effective - 1)
        freedom += effective - 1
    gain, error = means["score"] - means["baseline"], variance**0.5
    p = float(stats.t.sf(gain / error, freedom)) if error > 1e-12 else 0.0 if gain > 0 else 1.0
    if null is not None:
        p = float((null >= null[0] - 1e-12).mean())
    spread = float(np.std([run.scores["score"] for run in runs]))
    return means | {"spread": spread, "p": max(p, 0.5**people), "people": float(people)}


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
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "The number of unique classes", UserWarning
        )  # people are many, faces of each few
        return probe._replace(model=model.fit((features - probe.mean) / probe.deviation, labels))
