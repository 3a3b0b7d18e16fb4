"""The numbers of the report: a value with its interval for each recipe, and paired differences between two recipes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from mien.metrics.classification import CALIBRATION_BINS
from mien.metrics.intervals import Comparison, bootstrap_mean, mcnemar, paired_bootstrap, paired_seeds
from mien.report.runs import Group, Run, same_cue

DRAWS = 1000
MIN_SUBJECTS = 10
"""From this many people on, paired tests resample people instead of pictures."""


class Number(NamedTuple):
    """A value with its 95 % interval, where it has one."""

    value: float | None
    low: float | None = None
    high: float | None = None


class Difference(NamedTuple):
    """One line of the paired tests: second recipe minus baseline."""

    title: str
    faces: Comparison
    """Paired bootstrap over the faces (or people) that both scored."""
    seeds: Comparison | None
    """Paired t over seeds, where both recipes were trained with two or more common seeds."""
    mcnemar: list[float]
    """Exact McNemar p of each pair of runs; for accuracy only."""


class Paired(NamedTuple):
    """A recipe against the baseline."""

    base: Group
    other: Group
    pairs: list[tuple[Run, Run]]
    same_seed: bool
    faces: int
    people: int
    """How many people were resampled; 0 when pictures were."""
    differences: dict[str, Difference]
    """By short name: accuracy, balanced, att_cos, att_pearson, att_energy, cam_cos."""


def classification(group: Group, seed: int) -> dict[str, Number]:
    """Accuracy, balanced accuracy, macro-F1 and ECE of a recipe."""
    names = ("accuracy", "balanced_accuracy", "macro_f1", "calibration_error")
    values = {name: [float(run.results["classification"][name]) for run in group.runs] for name in names}
    if len(group.runs) > 1:
        return {name: over_seeds(entries) for name, entries in values.items()}
    scores = group.first.results["classification"]
    f1, ece = f1_and_ece_intervals(group.first, seed)
    intervals = [scores["accuracy_interval"], scores["balanced_accuracy_interval"], f1, ece]
    return {name: Number(values[name][0], *between) for name, between in zip(names, intervals, strict=True)}


def alignment(group: Group, map_: str, kind: str) -> Number:
    """Class mean of one score of one map; an empty Number where the recipe has no such map."""
    entries = [run.results["alignment"].get(map_, {}).get(kind) for run in group.runs]
    known = [entry for entry in entries if entry and entry["class_mean"] is not None]
    if not known:
        return Number(None)
    if len(known) == 1:
        return Number(known[0]["class_mean"], *known[0]["interval"])
    return over_seeds([entry["class_mean"] for entry in known])


def over_seeds(values: Sequence[float]) -> Number:
    """Mean over runs with its Student t interval."""
    mean = paired_seeds(np.zeros(len(values)), values)
    return Number(mean.difference, mean.low, mean.high)


def mean_of(values: Sequence[float | None]) -> float | None:
    """Mean of the known values, None without any."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def f1_and_ece_intervals(run: Run, seed: int, draws: int = DRAWS) -> tuple[tuple[float, float], tuple[float, float]]:
    """95 % percentile bootstrap intervals of macro-F1 and of the calibration error over faces.

    Resampling can only add gaps between confidence and accuracy, so the ECE's interval is biased upwards; its lower end is
    moved to the value itself where that lies below.
    """
    labels, shares = run.faces["label"], run.faces["probabilities"].astype(np.float64)
    classes, predicted, top = shares.shape[1], shares.argmax(1), shares.max(1)
    bins = np.clip(np.ceil(top * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    gap = top - (predicted == labels)
    rng = np.random.default_rng(seed)
    f1, ece = np.empty(draws), np.empty(draws)
    for k in range(draws):
        rows = rng.integers(len(labels), size=len(labels))
        true = np.bincount(labels[rows], minlength=classes)
        said = np.bincount(predicted[rows], minlength=classes)
        hit = np.bincount(labels[rows][predicted[rows] == labels[rows]], minlength=classes)
        present = true > 0
        f1[k] = (2 * hit[present] / (true + said)[present]).mean()
        ece[k] = np.abs(np.bincount(bins[rows], weights=gap[rows], minlength=CALIBRATION_BINS)).sum() / len(rows)
    low_f1, high_f1 = np.quantile(f1, [0.025, 0.975])
    low_ece, high_ece = np.quantile(ece, [0.025, 0.975])
    value = float(run.results["classification"]["calibration_error"])
    return (float(low_f1), float(high_f1)), (min(float(low_ece), value), max(float(high_ece), value))


def right_and_wrong(group: Group, map_: str, seed: int) -> list[tuple[Number, int]]:
    """Mean cosine of a map over rightly and over wrongly predicted faces, with the number of predictions behind it.

    Runs of one recipe are pooled; the interval resamples faces, so a face seen by several runs counts as one.
    """
    values = np.concatenate([np.nan_to_num(run.faces[f"{map_}/cosine"]) for run in group.runs])
    ids = np.concatenate([run.faces["id"] for run in group.runs])
    valid = np.concatenate([run.faces["valid"] for run in group.runs])
    right = np.concatenate([run.right for run in group.runs])
    result = []
    for chosen in (valid & right, valid & ~right):
        count = int(chosen.sum())
        mean = bootstrap_mean(values[chosen], ids[chosen], seed=seed) if count else None
        result.append((Number(*mean) if mean else Number(None), count))
    return result


def compare(base: Group, other: Group, seed: int) -> Paired:
    """Second recipe minus baseline on the faces that all their paired runs scored."""
    pairs, same_seed = pair_runs(base, other)
    ids = pairs[0][0].faces["id"]
    for run in (run for pair in pairs for run in pair):
        ids = ids[np.isin(ids, run.faces["id"])]
    rows = {id(run): _rows(run, ids) for pair in pairs for run in pair}
    anchor = pairs[0][0]
    labels, valid = anchor.faces["label"][rows[id(anchor)]], anchor.faces["valid"][rows[id(anchor)]]
    people = _people(anchor, rows[id(anchor)])

    def difference(title: str, score: Callable[[Run], np.ndarray], weight: np.ndarray) -> Difference:
        use = weight > 0
        sides = [
            np.mean([score(pair[k])[rows[id(pair[k])]] for pair in pairs], axis=0)[use] * weight[use] for k in (0, 1)
        ]
        test = paired_bootstrap(sides[0], sides[1], people[use] if people is not None else None, seed=seed)
        seeds = None
        if len(pairs) > 1 and same_seed:
            means = [[(score(pair[k])[rows[id(pair[k])]] * weight)[use].mean() for pair in pairs] for k in (0, 1)]
            seeds = paired_seeds(means[0], means[1])
        return Difference(title, test, seeds, [])

    even, balanced = np.ones(len(labels)), class_weights(labels, np.ones(len(labels), dtype=bool))
    found = {
        "accuracy": difference("accuracy", lambda run: run.right.astype(float), even)._replace(
            mcnemar=[mcnemar(a.right[rows[id(a)]], b.right[rows[id(b)]]) for a, b in pairs]
        ),
        "balanced": difference("balanced accuracy", lambda run: run.right.astype(float), balanced),
    }
    if same_cue(base.first, other.first) and valid.any():
        aligned = class_weights(labels, valid)
        for name, title, key in (
            ("att_cos", "ATT-COS, last layer", lambda run: f"{run.last_layer}/cosine"),
            ("att_pearson", "Pearson, last layer", lambda run: f"{run.last_layer}/pearson"),
            ("att_energy", "energy in the cue, last layer", lambda run: f"{run.last_layer}/energy"),
            ("cam_cos", "CAM-COS", lambda run: f"{run.class_map}/cosine"),
        ):
            if all(key(group.first) in group.first.faces for group in (base, other)):
                found[name] = difference(title, _score(key), aligned)
    count = len(np.unique(people)) if people is not None else 0
    return Paired(base, other, pairs, same_seed, len(ids), count, found)


def beyond(group: Group, map_: str, kind: str, seed: int) -> Comparison | None:
    """The last layer's score minus that of a baseline or control on the same faces, as a mean over classes.

    Averaged over the seeds of the recipe, on the faces that all of them scored; None without such scores.
    """
    runs = [run for run in group.runs if f"{map_}/{kind}" in run.faces]
    if not runs:
        return None
    ids = runs[0].faces["id"]
    for run in runs:
        ids = ids[np.isin(ids, run.faces["id"])]
    rows = [_rows(run, ids) for run in runs]
    valid = runs[0].faces["valid"][rows[0]]
    if not valid.any():
        return None
    weight = class_weights(runs[0].faces["label"][rows[0]], valid)[valid]
    sides = [
        np.mean([_score(key)(run)[row][valid] for run, row in zip(runs, rows, strict=True)], axis=0) * weight
        for key in (lambda _: f"{map_}/{kind}", lambda run: f"{run.last_layer}/{kind}")
    ]
    people = _people(runs[0], rows[0])
    return paired_bootstrap(sides[0], sides[1], people[valid] if people is not None else None, seed=seed)


def _score(key: Callable[[Run], str]) -> Callable[[Run], np.ndarray]:
    return lambda run: np.nan_to_num(run.faces[key(run)]).astype(float)


def class_weights(labels: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Weights with which a mean over faces becomes the mean over classes of class means; 0 where not valid."""
    counts = np.bincount(labels[valid], minlength=int(labels.max()) + 1)
    present = (counts > 0).sum()
    weight = np.divide(counts.sum(), present * counts, out=np.zeros(len(counts)), where=counts > 0)
    return np.where(valid, weight[labels], 0)


def pair_runs(base: Group, other: Group) -> tuple[list[tuple[Run, Run]], bool]:
    """Runs of equal seed side by side; where no seed is common, the first run of each."""
    seeds = {run.recipe.run.seed: run for run in reversed(base.runs)}
    pairs = [(seeds[run.recipe.run.seed], run) for run in other.runs if run.recipe.run.seed in seeds]
    return (pairs, True) if pairs else ([(base.first, other.first)], False)


def _rows(run: Run, ids: np.ndarray) -> np.ndarray:
    place = {name: k for k, name in enumerate(run.faces["id"])}
    return np.array([place[name] for name in ids], dtype=np.int64)


def _people(run: Run, rows: np.ndarray) -> np.ndarray | None:
    subjects = run.faces.get("subject")
    if subjects is None or (subjects[rows] == "").any() or len(np.unique(subjects[rows])) < MIN_SUBJECTS:
        return None
    return np.asarray(subjects[rows])
