"""Scores of a model end to end, finder included, on labelled pictures: `mien box score`."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mien.box.hard import banded, hard_faces
from mien.data.arrow import Skipped
from mien.datasets import DATASETS
from mien.errors import DataError, UsageError
from mien.faces.quality import UNKNOWN, Quality
from mien.files import name_of, write_atomic
from mien.metrics.classification import calibration_error
from mien.metrics.intervals import bootstrap_mean
from mien.predict.model import FaceModel, load
from mien.predict.sources import Picture, decoded
from mien.schema import FloatArray, IntArray, Record

COVERAGES = (1.0, 0.8, 0.6, 0.4)
"""Shares of the most confident answers whose accuracy is told (risk and coverage; Geifman and El-Yaniv 2017)."""


class Answers(NamedTuple):
    """What a model says of labelled pictures; a picture without a face that was found has a row of zeros."""

    probabilities: FloatArray
    """(N, K) of the main face."""
    crops: list[str]
    """How the face was cut: fitted, box, whole; "" without one."""
    labels: IntArray
    """(N,) class of the label, -1 without."""
    majority: IntArray
    """(N,) class with most annotators' votes, -1 for a tie and without votes."""
    people: list[str]
    groups: list[dict[str, str | float]]
    """What groups each picture (its attributes)."""
    qualities: list[Quality]
    """Of each face, NaN without one."""


def score(
    dataset: str,
    root: Path,
    *,
    run: Path | None = None,
    calibration: str | None = None,
    split: str = "test",
    columns: str | None = None,
    labels: str | None = None,
    views: int = 2,
    faces: str = "mediapipe",
    out: Path | None = None,
) -> dict[str, Any]:
    """Find the faces of labelled pictures, name their expressions, and print how often that is right."""
    if dataset not in ("fer2013", "table", "folder"):
        raise UsageError(f"mien box score reads fer2013, table or folder, not '{dataset}'.")
    options = {name: value for name, value in (("columns", columns), ("labels", labels)) if value is not None}
    if options and dataset != "table":
        raise UsageError("--columns and --labels are for a table.")
    records = (
        record
        for record in DATASETS[dataset].records(root, **options)
        if isinstance(record, Skipped) or record.split == split or dataset != "fer2013"
    )
    model = load(run, views=views, calibration=calibration, faces=faces)
    answers = answer(model, records)
    result = {
        "model": model.title,
        "calibration": calibration or "default",
        "views": views,
        "pictures": len(answers.crops),
    }
    result["crops"] = dict(Counter(crop or "no face" for crop in answers.crops))
    for name, truth in (("labels", answers.labels), ("majority of the annotators", answers.majority)):
        if (truth >= 0).any():
            result[name] = scores(answers, truth, model.classes)
    for key in sorted({key for group in answers.groups for key in group}):
        result[f"by {key}"] = by_group(answers, key)
    if out is not None:
        write_atomic(out, json.dumps(result, indent=1))
    print_scores(result)
    return result


def answer(model: FaceModel, records: Iterable[Record | Skipped]) -> Answers:
    """The main face of every picture, and what is known of it; pictures without a label the model knows are left out."""
    index, kept, left_out = model.index, [], Counter[str]()

    def pictures() -> Iterator[Picture]:
        for record in records:
            if isinstance(record, Skipped):
                left_out[record.reason] += 1
            elif record.expression in index:
                kept.append(record._replace(image=b""))
                yield decoded(record.image, name_of(record.image) if isinstance(record.image, Path) else record.id)

    rows, crops, qualities = [], [], []
    for _, found in model.stream(pictures(), display=8):
        face = found.faces[0] if found.faces else None
        rows.append([0.0 if face is None else face.probabilities[name] for name in model.classes])
        crops.append("" if face is None else face.crop)
        qualities.append(UNKNOWN if face is None else face.quality)
    for reason, count in left_out.most_common():
        print(f"mien: {count} of all pictures left out: {reason}.", file=sys.stderr)
    if not rows:
        raise DataError("no picture with an expression that the model knows.")
    return Answers(
        np.array(rows, dtype=np.float32), crops,
        np.array([index[str(record.expression)] for record in kept], dtype=np.int64),
        np.array([majority(record, index) for record in kept], dtype=np.int64),
        [record.id if record.subject is None else record.subject for record in kept],
        [{k: v for k, v in record.attributes.items() if k not in ("usage", "ferplus")} for record in kept],
        qualities,
    )  # fmt: skip


def majority(record: Record, index: dict[str, int]) -> int:
    """Class of the expression with most votes, as data.labels.voted_labels; -1 for a tie, without votes, or outside."""
    from mien.schema import EXPRESSIONS

    if record.votes is None:
        return -1
    first = np.flatnonzero(record.votes == record.votes.max())
    return index.get(EXPRESSIONS[first[0]], -1) if len(first) == 1 else -1


def scores(answers: Answers, truth: IntArray, classes: tuple[str, ...]) -> dict[str, Any]:
    """Accuracy, balanced accuracy, recall and hard faces with intervals over people, calibration error, risk and coverage."""
    known = truth >= 0
    p, labels = answers.probabilities[known], truth[known]
    people = list(compress(answers.people, known))
    hard = hard_faces(list(compress(answers.qualities, known)), list(compress(answers.crops, known)))
    found = p.max(1) > 0
    right = (p.argmax(1) == labels) & found
    recall = {}
    for k in np.unique(labels):
        own = np.flatnonzero(labels == k)
        recall[classes[k]] = [len(own), *interval(right[own], [people[i] for i in own])]
    order = np.argsort(-p.max(1), kind="stable")
    return {
        "faces": len(labels),
        "accuracy": interval(right, people),
        "balanced_accuracy": float(np.mean([row[1] for row in recall.values()])),
        "recall": recall,
        "calibration_error": calibration_error(p[found], labels[found]),
        "accuracy_of_most_confident": {
            f"{share:g}": float(right[order[: round(share * len(order))]].mean()) for share in COVERAGES
        },
        "hard": {
            row: [int(own.sum()), *interval(right[own], list(compress(people, own)))] for row, own in hard.items()
        },
    }


def interval(right: np.ndarray, people: list[str]) -> list[float]:
    """Share of right answers with the two ends of its interval over people."""
    found = bootstrap_mean(right.astype(float), people)
    return [found[0], found[1], found[2]]


def by_group(answers: Answers, key: str) -> dict[str, Any]:
    """Accuracy by the labels for each value of an attribute, ages by tens: pictures, mean and interval over people."""
    named: dict[str, list[int]] = {}
    for i, word in enumerate(banded(answers.groups, key)):
        if word is not None:
            named.setdefault(word, []).append(i)
    right = (answers.probabilities.argmax(1) == answers.labels) & (answers.probabilities.max(1) > 0)
    return {
        value: [len(rows), *interval(right[rows], [answers.people[i] for i in rows])]
        for value, rows in sorted(named.items())
    }


def print_scores(result: dict[str, Any]) -> None:
    """The numbers for a person."""
    pictures = f"{result['pictures']} pictures, {result['crops']}"
    print(f"{result['model']}, calibration {result['calibration']}, {result['views']} views: {pictures}")
    for name in ("labels", "majority of the annotators"):
        if name not in result:
            continue
        part = result[name]
        mean, low, high = part["accuracy"]
        print(
            f"{name}, {part['faces']} faces: accuracy {mean:.3f} [{low:.3f}, {high:.3f}], balanced {part['balanced_accuracy']:.3f}, "
            f"calibration error {part['calibration_error']:.3f}"
        )
        for label, (count, share, bottom, top) in part["recall"].items():
            print(f"  {label:<10}{count:>6}  recall {share:.3f} [{bottom:.3f}, {top:.3f}]")
        curve = ", ".join(f"{share}: {value:.3f}" for share, value in part["accuracy_of_most_confident"].items())
        print(f"  accuracy of the most confident share {curve}")
        for row, (count, share, bottom, top) in part["hard"].items():
            print(f"  {row:<42}{count:>6}  accuracy {share:.3f} [{bottom:.3f}, {top:.3f}]")
    for name in (name for name in result if name.startswith("by ")):
        for value, (count, share, bottom, top) in result[name].items():
            print(f"  {name[3:]} {value:<20}{count:>6}  accuracy {share:.3f} [{bottom:.3f}, {top:.3f}]")
