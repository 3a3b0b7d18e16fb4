"""Right? Accuracy beside what needs no picture, confusion with intervals, and errors where the annotators disagree."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from mien.audit.sample import Sample
from mien.audit.table import Drawing, Line, Part, Row, Table, numbers, percent, row
from mien.metrics.classification import confusion_matrix
from mien.metrics.intervals import Interval, bootstrap_class_mean, bootstrap_mean
from mien.schema import FloatArray, IntArray

TITLE = "Is it right?"
LEVELS = (0.5, 0.7, 0.9)
"""Share of the votes for the label between faces that annotators disagree on, mostly agree on, agree on."""
UNSURE = 0.5
"""Annotators disagree on a face where at most this share of them gave it its label."""


def right(sample: Sample, probabilities: FloatArray, seed: int = 0) -> Part:
    """Accuracy, balanced accuracy and recall beside the majority class, landmarks alone and the annotators; confusion."""
    predicted = probabilities.argmax(1)
    hit = (predicted == sample.labels).astype(np.float64)
    tables, cannot = [overall(sample, hit, seed)], []
    tables += [by_class(sample, predicted, hit, seed), confusions(sample, predicted, seed)]
    if np.isfinite(sample.votes).any():
        tables += [vote_levels(sample, hit, seed)]
    else:
        cannot.append("The faces carry no votes of several annotators: how many errors are label noise is unknown.")
    if not np.isfinite(sample.landmarks).all((1, 2)).any():
        cannot.append("No face has landmarks: what landmarks alone tell is unknown.")
    if sample.people is None:
        cannot.append("Nobody is named: faces are taken for independent, and intervals may be too narrow.")
    missing = [name for k, name in enumerate(sample.classes) if not (sample.labels == k).any()]
    if missing:
        cannot.append(f"No faces of {', '.join(missing)}: nothing is said of them.")
    return Part("right", TITLE, tuple(tables), (matrix(sample, predicted),), sentences(tables, sample), tuple(cannot))


def overall(sample: Sample, hit: npt.NDArray[np.float64], seed: int) -> Table:
    """Accuracy and balanced accuracy, and what answers without the net score on the same faces."""
    n, counts = len(hit), np.bincount(sample.labels, minlength=len(sample.classes))
    top, present = counts.max() / n, int((counts > 0).sum())
    named = sample.classes[int(counts.argmax())]
    rows = [
        row("accuracy", bootstrap_mean(hit, sample.people, seed=seed), n, "higher", top),
        row("balanced accuracy", bootstrap_class_mean(hit, sample.labels, sample.people, seed=seed), n, "higher", 1 / present),
        row(f"majority class ({named}), accuracy", top, n, note="what naming it for every face scores"),
    ]  # fmt: skip
    points = sample.shape_says
    if points is not None:
        known = points >= 0
        answers = (points[known] == sample.labels[known]).astype(np.float64)
        people = None if sample.people is None else sample.people[known]
        fitted = "other faces" if people is None else "other people"
        rows.append(row("landmarks alone, accuracy", bootstrap_mean(answers, people, seed=seed), len(answers),
                        note=f"linear discriminant analysis of the shape, fitted on {fitted}"))  # fmt: skip
        rows.append(row("landmarks alone, balanced accuracy",
                        bootstrap_class_mean(answers, sample.labels[known], people, seed=seed), len(answers)))  # fmt: skip
    agree = agreement(sample)
    known = np.isfinite(agree)
    if known.any():
        people = None if sample.people is None else sample.people[known]
        rows.append(row("one annotator, accuracy", bootstrap_mean(agree[known], people, seed=seed), int(known.sum()),
                        note="mean share of the votes for the label: what one of those who voted would score"))  # fmt: skip
    return Table("overall", "Accuracy", tuple(rows), "naming the most frequent class", unit="share")


def by_class(sample: Sample, predicted: IntArray, hit: npt.NDArray[np.float64], seed: int) -> Table:
    """Recall of every class, beside the share of all faces that are called so: the recall of an answer by chance."""
    rows = []
    for k, name in enumerate(sample.classes):
        own = sample.labels == k
        if own.any():
            people = None if sample.people is None else sample.people[own]
            found = bootstrap_mean(hit[own], people, seed=seed)
            rows.append(row(name, found, int(own.sum()), "higher", (predicted == k).mean()))
    note = "Chance: the share of all faces that the model gives this class; a recall of that size owes nothing to the face."
    return Table(
        "recall", "Recall of each class", tuple(rows), "the share of all faces given this class", note, "share"
    )


def confusions(sample: Sample, predicted: IntArray, seed: int) -> Table:
    """Share of each class that is misclassified as another, the largest first, with intervals over people."""
    rows = []
    for k, name in enumerate(sample.classes):
        own = sample.labels == k
        people = None if sample.people is None else sample.people[own]
        for other in np.unique(predicted[own]):
            if other != k:
                said = (predicted[own] == other).astype(np.float64)
                found = bootstrap_mean(said, people, seed=seed)
                rows.append(row(f"{name} misclassified as {sample.classes[other]}", found, int(own.sum()), "lower",
                                note=f"{int(said.sum())} faces"))  # fmt: skip
    rows.sort(key=lambda one: -(one.value or 0))
    return Table("confusions", "Mistakes, the most frequent first", tuple(rows[:15]), unit="share of the class",
                 note="At most 15 are listed; all counts stand in the matrix.")  # fmt: skip


def matrix(sample: Sample, predicted: IntArray) -> Drawing:
    """Counts: a row a true class, a column an answer."""
    counts = confusion_matrix(predicted, sample.labels, len(sample.classes))
    places = tuple(float(k) for k in range(len(sample.classes)))
    lines = tuple(Line(name, places, numbers(counts[k])) for k, name in enumerate(sample.classes))
    return Drawing("matrix", "Confusion matrix", lines, "predicted", "true", sample.classes,
                   "Faces of each class (rows) by the answer (columns); the shade is the share of the row.")  # fmt: skip


def agreement(sample: Sample) -> npt.NDArray[np.float64]:
    """(N,) share of the annotators' votes for the label of each face, NaN without votes."""
    return np.asarray(sample.votes[np.arange(sample.faces), sample.labels], dtype=np.float64)


def vote_levels(sample: Sample, hit: npt.NDArray[np.float64], seed: int) -> Table:
    """Accuracy where annotators agree more or less, and the share of all errors on faces that they disagree on."""
    share, rows = agreement(sample), []
    edges = (-0.01, *LEVELS, 1.0)
    for low, high in pairwise(edges):
        own = (share > low) & (share <= high)
        if own.any():
            people = None if sample.people is None else sample.people[own]
            name = f"{percent(max(low, 0))} to {percent(high)} of the votes for the label"
            rows.append(
                row(name, bootstrap_mean(hit[own], people, seed=seed), int(own.sum()), "higher", share[own].mean())
            )
    wrong = np.isfinite(share) & (hit == 0)
    if wrong.any():
        unsure = (share <= UNSURE).astype(np.float64)
        people = None if sample.people is None else sample.people[wrong]
        found = bootstrap_mean(unsure[wrong], people, seed=seed)
        rows.append(row("errors on faces that annotators disagree on", found, int(wrong.sum()),
                        baseline=unsure[np.isfinite(share)].mean(), note="baseline: share of all faces that are so"))  # fmt: skip
    return Table("votes", "Where annotators agree", tuple(rows), "what one annotator scores there", unit="share",
                 note="A face is disagreed on where at most half of the annotators gave it its label.")  # fmt: skip


def sentences(tables: list[Table], sample: Sample) -> tuple[str, ...]:
    """For the verdict."""
    rows = {one.name: one for one in tables[0].rows}
    whole, balanced = rows["accuracy"], rows["balanced accuracy"]
    first = f"It names {percent(whole.value)} of {sample.faces} faces as they are labelled{between(whole)}; "
    first += f"naming the most frequent class for all of them scores {percent(whole.baseline)}."
    points = rows.get("landmarks alone, balanced accuracy")
    second = f"Averaged over classes it is right on {percent(balanced.value)}"
    second += f", landmarks without the picture on {percent(points.value)}." if points else "."
    if len(tables[1].rows) < 2:  # then the mean over classes is the accuracy, and no class is found least often
        return (first,)
    worst = min(tables[1].rows, key=lambda one: one.value if one.value is not None else 2.0)
    return first, second, f"It finds {worst.name} least often: {percent(worst.value)} of {worst.n} faces."


def between(one: Row | Interval) -> str:
    """(58 % to 64 %), or nothing where there is no interval."""
    if one.low is None or one.high is None or not np.isfinite([one.low, one.high]).all():
        return ""
    return f" ({percent(one.low)} to {percent(one.high)})"
