"""Class offsets from labelled photos of one's own: where the border between expressions lies there, scored on people left out."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mien.data.arrow import Skipped
from mien.errors import DataError, UsageError
from mien.files import write_atomic
from mien.metrics.calibration import Floats, abstain_threshold, fit_offsets, scaled
from mien.schema import IntArray, Record, class_index

if TYPE_CHECKING:
    from mien.predict.model import FaceModel
    from mien.predict.sources import Picture

LEAST_P = 1e-12
"""Probabilities below it count as it: their logarithm must be finite."""
TOLD = 5
"""Photos that are left out and named; the others are counted."""


class Judged(NamedTuple):
    """What the model says of the photos that can be used."""

    scores: Floats
    """(N, K) log p under the calibration that the run has."""
    labels: IntArray
    """(N,)."""
    people: IntArray
    """(N,) number of the person; every photo is of somebody else where nobody is named."""
    left_out: dict[str, int]
    """Why photos could not be used -> how many."""


def labelled_photos(
    photos: Path, columns: str | None, labels: str | None, subject_pattern: str | None
) -> Iterator[Record | Skipped]:
    """Photos of a table, or of a folder with a folder for each expression (docs/datasets.md), in order."""
    from mien.data import folder, table

    if not photos.exists():
        raise DataError(f"--photos '{photos}' does not exist.")
    if photos.is_dir():
        if columns or labels:
            raise UsageError("--columns and --labels are for a table; a folder's folders are named after expressions.")
        return folder.records(photos, subject_pattern=subject_pattern)
    if subject_pattern:
        raise UsageError("--subject-pattern is for a folder; a table names people in its column subject.")
    return table.records(photos, columns=columns, labels=labels)


def calibrate_photos(
    run: Path | None, photos: Iterator[Record | Skipped], faces: str, accuracy: float, out: Path, batch: int
) -> dict[str, Any]:
    """Fit offsets and threshold, write `out`, and tell what they are worth on people who took no part in their fit.

    The threshold is chosen on the answers for people left out, too. Each expression that is shown weighs the same; the
    temperature stays that of the run (metrics.calibration.fit_offsets).
    """
    from mien.predict.model import load

    model = load(run, faces=faces)
    judged = judge(model, photos, batch)
    check_people(judged, model.classes)
    fitted = fit_offsets(judged.scores, judged.labels)
    held_out = scaled(judged.scores + leave_person_out(judged, fitted), 1.0)
    threshold, _ = abstain_threshold(held_out, judged.labels, accuracy)
    temperature = model.calibration.temperature
    before = np.array(model.calibration.offsets or np.zeros(len(model.classes)))
    found = {"before": scaled(judged.scores, 1.0), "held_out": held_out, "fitted": scaled(judged.scores + fitted, 1.0)}
    result: dict[str, Any] = {
        "temperature": temperature,
        "offsets": dict(zip(model.classes, (before + temperature * fitted).tolist(), strict=True)),
        "threshold": threshold,
        "accuracy_asked_for": accuracy,
        "fitted_on": "photos",
        "checkpoint_epoch": model.facts["checkpoint"].get("epoch"),
        "photos": len(judged.labels),
        "people": len(np.unique(judged.people)),
        "left_out": judged.left_out,
        **{name: measured(p, judged.labels, model.classes, threshold) for name, p in found.items()},
    }
    write_atomic(out, json.dumps(result, indent=1))
    print_result(model, result, out)
    return result


def judge(model: FaceModel, photos: Iterator[Record | Skipped], batch: int) -> Judged:
    """Answers for every photo with one face and an expression that the model knows; the others are told and counted."""
    index, left_out = class_index(model.recipe.data.scheme), Counter[str]()
    asked: list[tuple[int, str]] = []
    scores, labels, people = [], [], []
    stream = model.stream(opened(photos, index, asked, left_out), batch=batch, display=8)
    for number, (_, found) in enumerate(stream):
        label, who = asked[number]
        if len(found.faces) == 1:
            scores.append([found.faces[0].probabilities[name] for name in model.classes])
            labels.append(label)
            people.append(who)
        elif found.faces:
            leave_out(left_out, found.source, f"{len(found.faces)} faces")
        else:
            leave_out(left_out, found.source, found.reason or "no face found")
    if not scores:
        raise DataError("no photo could be used: each needs one face and an expression that the model knows.")
    numbers = np.unique(people, return_inverse=True)[1]
    return Judged(
        np.log(np.maximum(scores, LEAST_P)), np.array(labels, dtype=np.int64), numbers.astype(np.int64), dict(left_out)
    )


def opened(
    photos: Iterator[Record | Skipped], index: dict[str, int], asked: list[tuple[int, str]], left_out: Counter[str]
) -> Iterator[Picture]:
    """One photo after the other for the model; `asked` gets its class and its person, `left_out` why others are not shown."""
    from mien.predict.sources import decoded, name_of
    from mien.progress import track

    for number, photo in enumerate(track(photos, "photos")):
        if isinstance(photo, Skipped):
            leave_out(left_out, photo.id, photo.reason)
        elif photo.expression is None:
            leave_out(left_out, photo.id, "no expression")
        elif photo.expression not in index:
            leave_out(left_out, photo.id, f"the model has no {photo.expression}")
        else:
            asked.append((index[photo.expression], f"photo {number}" if photo.subject is None else photo.subject))
            yield decoded(photo.image, name_of(photo.image) if isinstance(photo.image, Path) else photo.id)


def leave_out(left_out: Counter[str], name: str, reason: str) -> None:
    """Count a photo that cannot be used, and name the first ones."""
    left_out[reason] += 1
    if left_out.total() <= TOLD:
        print(f"mien: {name}: {reason}; left out.", file=sys.stderr)
    elif left_out.total() == TOLD + 1:
        print("mien: further photos that cannot be used are counted.", file=sys.stderr)


def check_people(judged: Judged, classes: tuple[str, ...]) -> None:
    """DataError unless at least two expressions are there, each shown by at least two people."""
    shown = np.unique(judged.labels)
    if len(shown) < 2:
        raise DataError(f"all photos that can be used show {classes[shown[0]]}; two expressions are the least.")
    for label in shown:
        if len(np.unique(judged.people[judged.labels == label])) < 2:
            raise DataError(
                f"only one person shows {classes[label]}; somebody else must, or leave that expression out."
            )


def leave_person_out(judged: Judged, start: Floats) -> Floats:
    """(N, K) offsets of each photo, fitted on the photos of all other people."""
    offsets = np.empty_like(judged.scores)
    for person in np.unique(judged.people):
        own = judged.people == person
        offsets[own] = fit_offsets(judged.scores[~own], judged.labels[~own], start)
    return offsets


def measured(
    probabilities: Floats, labels: IntArray, classes: tuple[str, ...], threshold: float
) -> dict[str, float | dict[str, float] | None]:
    """Scores of one set of answers; recall of the expressions that are shown."""
    from mien.metrics.classification import calibration_error

    right, kept = probabilities.argmax(1) == labels, probabilities.max(1) >= threshold
    recall = {classes[label]: float(right[labels == label].mean()) for label in np.unique(labels)}
    return {
        "accuracy": float(right.mean()),
        "balanced_accuracy": float(np.mean(list(recall.values()))),
        "recall": recall,
        "ece": calibration_error(probabilities, labels),
        "kept": float(kept.mean()),
        "accuracy_kept": float(right[kept].mean()) if kept.any() else None,
    }


def print_result(model: FaceModel, result: dict[str, Any], out: Path) -> None:
    """The table that a person wants to see."""
    moved = ", ".join(f"{name} {value:+.2f}" for name, value in result["offsets"].items() if value)
    print(f"{model.name}: {result['photos']} photos of {result['people']} people; offsets {moved}: {out}")
    print(f"use it: mien predict --calibration {out}; unsure below {result['threshold']:.3f}")
    shown = list(result["before"]["recall"])
    width = max(8, *map(len, shown))
    print(f"  {'recall of':<26}" + "".join(f"{name:>{width + 2}}" for name in shown) + "    mean     ECE    kept")
    for name, words in (("before", "before"), ("held_out", "offsets of other people"), ("fitted", "own offsets")):
        row = result[name]
        cells = "".join(f"{row['recall'][one]:>{width + 2}.3f}" for one in shown)
        print(f"  {words:<26}{cells}{row['balanced_accuracy']:>8.3f}{row['ece']:>8.3f}{row['kept']:>8.2f}")
