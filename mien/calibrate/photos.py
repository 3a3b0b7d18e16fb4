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
from mien.errors import DataError, UsageError, unknown_name
from mien.files import write_atomic
from mien.metrics.calibration import Floats, abstain_threshold, fit_offsets, lift_to_recall, scaled
from mien.predict.calibration import owner_of
from mien.schema import IntArray, Record

if TYPE_CHECKING:
    from mien.predict.model import FaceModel
    from mien.predict.sources import Picture

LEAST_P = 1e-38
"""Probabilities below it, which float32 can hardly hold, count as it: their logarithm must be finite."""
TOLD = 5
"""Photos that are left out and named; the others are counted."""
LEAST_LOSS = {"accuracy": 0.0, "balanced_accuracy": 0.0, "ece": 0.005}
"""Loss from which a score counts as worse. A calibration error of a few photos is never twice the same."""
MOST_FITS = 100
"""People are left out one by one up to this number of them, in that many groups beyond it."""

NOTHING = "no expression"
MANY = "several faces"


class Judged(NamedTuple):
    """What the model says of the photos that can be used."""

    scores: Floats
    """(N, K) log p under the calibration that the run has."""
    labels: IntArray
    """(N,)."""
    people: IntArray
    """(N,) number of the person; every photo is of somebody else where nobody is named."""
    unnamed: int
    """Photos that name nobody."""
    left_out: dict[str, int]
    """Why photos could not be used -> how many."""


def labelled_photos(
    photos: Path, columns: str | None, labels: str | None, subject_pattern: str | None
) -> Iterator[Record | Skipped]:
    """Photos of a table, or of a folder with a folder for each expression (docs/datasets.md), in order."""
    from mien.datasets import folder, table
    from mien.datasets.names import with_names

    if not photos.exists():
        raise DataError(f"--photos '{photos}' does not exist.")
    if photos.is_dir():
        if columns:
            raise UsageError("--columns is for a table; a folder's folders are named after expressions.")
        return with_names(folder.records(photos, labels=labels), None, subject_pattern)
    return with_names(table.records(photos, columns=columns, labels=labels), None, subject_pattern)


def calibrate_photos(
    run: Path | None, photos: Iterator[Record | Skipped], faces: str, accuracy: float, recall: str | None, out: Path,
    batch: int,
) -> dict[str, Any]:  # fmt: skip
    """Fit offsets and threshold, write `out`, and tell what they are worth on people who took no part in their fit.

    The threshold is chosen on the answers for people left out, too; it is 1 where no confidence reaches `accuracy`. Each
    expression that is shown weighs the same; the temperature stays that of the run (metrics.calibration.fit_offsets).
    """
    from mien.predict.bundled import bundled_run
    from mien.predict.model import load

    model = load(run, faces=faces)
    if model.wrapped is not None:
        raise UsageError(f"{run} is no run of `mien train`: only runs and the bundled model are calibrated.")
    wanted = None if recall is None else wanted_recall(recall, model.classes)
    judged = judge(model, photos, batch)
    check_people(judged, model.classes)
    if wanted is not None and wanted[0] not in judged.labels:
        raise DataError(f"--recall {recall}: no photo that can be used shows {model.classes[wanted[0]]}.")
    fitted = fitted_offsets(judged.scores, judged.labels, wanted)
    held_out = scaled(judged.scores + leave_people_out(judged, wanted), 1.0)
    try:
        threshold, _ = abstain_threshold(held_out, judged.labels, accuracy)
    except DataError:
        threshold = 1.0
    now = model.calibration
    before = np.array(now.offsets or np.zeros(len(model.classes)))
    found = {"before": scaled(judged.scores, 1.0), "held_out": held_out, "fitted": scaled(judged.scores + fitted, 1.0)}
    result: dict[str, Any] = {
        "temperature": now.temperature,
        "offsets": dict(zip(model.classes, (before + now.temperature * fitted).tolist(), strict=True)),
        "threshold": threshold,
        "accuracy_asked_for": accuracy,
        "recall_asked_for": None if wanted is None else {model.classes[wanted[0]]: wanted[1]},
        "fitted_on": "photos",
        **owner_of(bundled_run() if run is None else run),
        "photos": len(judged.labels),
        "people": len(np.unique(judged.people)),
        "photos_without_subject": judged.unnamed,
        "left_out": judged.left_out,
        **{
            name: measured(p, judged.labels, model.classes, now.threshold if name == "before" else threshold)
            for name, p in found.items()
        },
    }
    result["worse"] = worse_on_others(result["before"], result["held_out"])
    write_atomic(out, json.dumps(result, indent=1))
    print_result(model, result, out, run)
    return result


def worse_on_others(before: dict[str, Any], held_out: dict[str, Any]) -> list[str]:
    """What offsets of other people make worse on people left out, in words; empty for nothing."""
    kinds = {"accuracy": "accuracy", "balanced_accuracy": "mean recall", "ece": "calibration error"}
    lost = {name: (before[name] - held_out[name]) * (-1 if name == "ece" else 1) for name in kinds}
    return [
        f"{kinds[name]} {before[name]:.3f} to {held_out[name]:.3f}"
        for name, loss in lost.items()
        if loss > LEAST_LOSS[name]
    ]


def judge(model: FaceModel, photos: Iterator[Record | Skipped], batch: int) -> Judged:
    """Answers for every photo with one face and an expression that the model knows; the others are told and counted."""
    index, left_out = model.index, Counter[str]()
    asked: list[tuple[int, str | int]] = []
    scores, labels, people = [], [], []
    stream = model.stream(opened(photos, index, asked, left_out), batch=batch, display=8)
    for number, (picture, found) in enumerate(stream):
        label, who = asked[number]
        if len(found.faces) == 1:
            scores.append([found.faces[0].probabilities[name] for name in model.classes])
            labels.append(label)
            people.append(who)
        elif found.faces:
            leave_out(left_out, found.source, f"{len(found.faces)} faces", MANY)
        else:
            kind = "no face found" if picture.reason is None else "not readable"
            leave_out(left_out, found.source, found.reason or kind, kind)
    if not scores:
        raise DataError(useless(left_out))
    numbers = {who: k for k, who in enumerate(dict.fromkeys(people))}
    return Judged(
        np.log(np.maximum(scores, LEAST_P)), np.array(labels, dtype=np.int64),
        np.array([numbers[who] for who in people], dtype=np.int64), sum(isinstance(who, int) for who in people), dict(left_out),
    )  # fmt: skip


def opened(
    photos: Iterator[Record | Skipped],
    index: dict[str, int],
    asked: list[tuple[int, str | int]],
    left_out: Counter[str],
) -> Iterator[Picture]:
    """One photo after the other for the model; `asked` gets its class and its person (a number where nobody is named),
    `left_out` why others are not shown.
    """
    from mien.files import name_of
    from mien.predict.sources import decoded
    from mien.progress import track

    for number, photo in enumerate(track(photos, "photos")):
        if isinstance(photo, Skipped):
            leave_out(left_out, photo.id, photo.reason, "row or file of no use")
        elif photo.expression is None:
            leave_out(left_out, photo.id, NOTHING, NOTHING)
        elif photo.expression not in index:
            reason = f"the model has no {photo.expression}"
            leave_out(left_out, photo.id, reason, reason)
        else:
            asked.append((index[photo.expression], number if photo.subject is None else photo.subject))
            yield decoded(photo.image, name_of(photo.image) if isinstance(photo.image, Path) else photo.id)


def leave_out(left_out: Counter[str], name: str, reason: str, kind: str) -> None:
    """Count a photo that cannot be used by its kind, and name the first ones with the reason."""
    left_out[kind] += 1
    if left_out.total() <= TOLD:
        print(f"mien: {name}: {reason}; left out.", file=sys.stderr)
    elif left_out.total() == TOLD + 1:
        print("mien: further photos that cannot be used are counted.", file=sys.stderr)


def useless(left_out: Counter[str]) -> str:
    """Why no photo could be used, and what to do."""
    if not left_out:
        return "--photos names no photo."
    if set(left_out) == {NOTHING}:
        return "no photo has an expression; name the column that holds it by --columns expression=NAME."
    counts = ", ".join(f"{count} {kind}" for kind, count in left_out.most_common())
    return f"no photo could be used ({counts}); each needs one face and an expression that the model knows."


def check_people(judged: Judged, classes: tuple[str, ...]) -> None:
    """DataError unless at least two expressions are there, each shown by at least two people; a warning for photos that
    name nobody.
    """
    shown = np.unique(judged.labels)
    if len(shown) < 2:
        raise DataError(f"all photos that can be used show {classes[shown[0]]}; two expressions are the least.")
    for label in shown:
        if len(np.unique(judged.people[judged.labels == label])) < 2:
            raise DataError(
                f"only one person shows {classes[label]}; somebody else must, or leave that expression out."
            )
    if judged.unnamed:
        print(
            f"mien: {judged.unnamed} of {len(judged.labels)} photos do not say who it is (subject): each counts as another "
            "person, and what is told of people left out is too good where one person is in several.",
            file=sys.stderr,
        )


def wanted_recall(text: str, classes: tuple[str, ...]) -> tuple[int, float]:
    """Class and share of `Happiness=0.9`."""
    name, _, share = text.partition("=")
    if name not in classes:
        raise unknown_name("expression of --recall", name, classes)
    try:
        value = float(share)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise UsageError(f"--recall {text}: write EXPRESSION=SHARE with a share above 0 and up to 1, e.g. {name}=0.9.")
    return classes.index(name), value


def fitted_offsets(scores: Floats, labels: IntArray, wanted: tuple[int, float] | None) -> Floats:
    """(K,) offsets of `fit_offsets`, that of one class raised until the wanted share of its samples is found."""
    offsets = fit_offsets(scores, labels)
    if wanted is not None and wanted[0] in labels:
        offsets[wanted[0]] += lift_to_recall(scores + offsets, labels, *wanted)
    return offsets


def leave_people_out(judged: Judged, wanted: tuple[int, float] | None = None) -> Floats:
    """(N, K) offsets of each photo, fitted on the photos of other people: of all others, or of all other groups."""
    from mien.progress import track

    offsets = np.empty_like(judged.scores)
    groups = judged.people % MOST_FITS
    for group in track(np.unique(groups), "people left out", min(MOST_FITS, len(np.unique(judged.people)))):
        own = groups == group
        offsets[own] = fitted_offsets(judged.scores[~own], judged.labels[~own], wanted)
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


def print_result(model: FaceModel, result: dict[str, Any], out: Path, run: Path | None) -> None:
    """The table that a person wants to see."""
    moved = ", ".join(f"{name} {value:+.2f}" for name, value in result["offsets"].items() if value)
    who = "" if result["photos_without_subject"] else f" of {result['people']} people"
    missing = sum(result["left_out"].values())
    print(
        f"{model.title}: {result['photos']} photos{who}{f', {missing} left out' if missing else ''}; offsets {moved}: {out}"
    )
    print(f"use it: mien predict PHOTOS {'' if run is None else f'--run {run} '}--calibration {out}")
    shown = list(result["before"]["recall"])
    width = max(8, *map(len, shown))
    print(f"  {'recall of':<26}" + "".join(f"{name:>{width + 2}}" for name in shown) + "    mean     ECE    kept")
    for name, words in (("before", "before"), ("held_out", "offsets of other people"), ("fitted", "offsets of all")):
        row = result[name]
        cells = "".join(f"{row['recall'][one]:>{width + 2}.3f}" for one in shown)
        print(f"  {words:<26}{cells}{row['balanced_accuracy']:>8.3f}{row['ece']:>8.3f}{row['kept']:>8.2f}")
    if result["worse"]:
        print(
            f"mien: WARNING: on people left out these offsets are worse than none ({', '.join(result['worse'])}): do not use {out} "
            "for other people; the run's own calibration serves them better, or more photos of more people.",
            file=sys.stderr,
        )
    if result["threshold"] == 1:
        print(
            f"mien: no confidence reaches an accuracy of {result['accuracy_asked_for']} on people left out: every face will "
            f"be marked as unsure; --accuracy {int(result['held_out']['accuracy'] * 100) / 100} can be reached.",
            file=sys.stderr,
        )
