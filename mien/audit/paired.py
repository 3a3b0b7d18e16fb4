"""What two models differ in on the same faces beyond recognition: probabilities, classes, excess of alignment, faithfulness."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from mien.cues.identity import drawn_numbers, same_drawn
from mien.metrics.decisions import deviation_of, seeds_needed
from mien.report.family import POINTS
from mien.report.numbers import Difference, Paired, Sides, compare, right, score_of, sides_of
from mien.report.runs import Group, Run, same_cue

LEAST_CLASS = 2
"""Faces of a class from which its recall is compared."""
KINDS = {"deletion": "deletion, last layer (lower is better)", "insertion": "insertion, last layer (higher is better)"}
ROBUST = "robust"
"""Key of the per-face share of right answers under corruptions, where it was measured."""


def brier(run: Run) -> np.ndarray:
    """(N,) sum over classes of (p - 1 for the label, p for the others)^2, from 0 to 2; lower is better (Brier 1950)."""
    shares = np.asarray(run.faces["probabilities"], dtype=np.float64)
    return np.asarray(((shares - np.eye(shares.shape[1])[run.faces["label"]]) ** 2).sum(1))


def over_class_mean(run: Run) -> np.ndarray:
    """(N,) cosine of the last layer's attention minus that of the mean cue of the predicted class."""
    own, blind = (run.faces[f"{name}/cosine"] for name in (run.last_layer, "baseline:class_mean_predicted"))
    return np.asarray(np.nan_to_num(own) - np.nan_to_num(blind), dtype=np.float64)


def same_cue_by_name(first: Run, second: Run) -> bool:
    """As `same_cue`, also where one model has a class more: a cue of a label is that of its expression, whatever else is known."""
    schemes = {run.recipe.data.scheme for run in (first, second)}
    if len(schemes) == 1:
        return same_cue(first, second)
    if schemes != {"basic-7", "basic-8"} or "au_observed" in {run.recipe.cue.kind for run in (first, second)}:
        return False
    drawn = [drawn_numbers(replace(run.recipe.cue, control="none"), "basic-7") for run in (first, second)]
    return same_drawn(*drawn)


def compare_models(base: Group, other: Group, seed: int) -> Paired:
    """As the report's `compare`, with a row for the Brier score, each class, the excess, and what else both measured."""
    found, sides = compare(base, other, seed, same_cue_by_name), sides_of(base, other, seed)
    every = np.ones(len(sides.shared.labels), dtype=bool)
    rows = {"brier": sides.difference("Brier score (lower is better)", brier, False, every)}
    for k, name in enumerate(sides.runs[0].classes):
        own = sides.shared.labels == k
        if own.sum() >= LEAST_CLASS:
            rows[f"recall:{name}"] = sides.difference(f"recall of {name}", right, False, own)
    layered = all(run.layers for run in sides.runs)
    valid = sides.runs[0].faces["valid"][sides.shared.rows[0]]
    if layered and valid.any() and same_cue_by_name(base.first, other.first):
        title = "excess of ATT-COS over the class-mean cue"
        rows["excess"] = sides.difference(title, over_class_mean, True, valid)
    if layered:
        for kind, title in KINDS.items():
            rows |= measured(sides, kind, title, lambda run, kind=kind: f"{run.last_layer}/{kind}")  # type: ignore[misc]
    rows |= measured(sides, ROBUST, "accuracy under corruptions", lambda run: ROBUST)
    return found._replace(differences={**found.differences, **rows})


def measured(sides: Sides, name: str, title: str, key: Callable[[Run], str]) -> dict[str, Difference]:
    """The row of a score that not every face has, over the faces that have it in all runs; {} where there is none."""
    if not all(key(run) in run.faces for run in sides.runs):
        return {}
    known = np.isfinite(sides.shared.stack(sides.runs, lambda run: run.faces[key(run)])).all(axis=0)
    return {name: sides.difference(title, score_of(key), False, known)} if known.sum() > 1 else {}


def seeds_words(test: Paired) -> str:
    """How many more seeds it takes to rule out a loss of the margin, or what one net each cannot say."""
    accuracy = test.differences["accuracy"]
    if accuracy.seeds is None:
        return (
            f"{test.other.name}: one net each, or no common seeds: seed variance is in no interval. Train at least 3 seeds "
            "of each recipe under the same numbers."
        )
    answers = [float(np.mean(right(second)) - np.mean(right(first))) for first, second in test.pairs]
    needed, have = seeds_needed(deviation_of(answers)), len(test.pairs)
    if needed is None:
        return f"{test.other.name}: needs more than 1000 seeds to rule out a loss of {POINTS} where nothing is lost."
    if needed <= have:
        return f"{test.other.name}: {have} seeds are enough to rule out a loss of {POINTS} where nothing is lost."
    return f"{test.other.name}: needs {needed - have} more seeds to rule out a loss of {POINTS} where nothing is lost."
