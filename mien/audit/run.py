"""Verb `mien audit`: is a model right, for whom, when does it break, does its explanation tell the truth; one page."""

from __future__ import annotations

import hashlib
import inspect
import json
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mien import __version__
from mien.audit.faithful import faithful
from mien.audit.follow import follow, responses
from mien.audit.groups import groups
from mien.audit.page import html, text_csv, text_json
from mien.audit.probe import Probe, probe_of
from mien.audit.right import right
from mien.audit.robustness import broken, robustness
from mien.audit.row import audit_row, faithful_of
from mien.audit.sample import Sample, sample_of
from mien.audit.sources import face_model
from mien.audit.sure import sure
from mien.audit.table import Part, as_json, from_json
from mien.audit.truth import quality, truth
from mien.audit.verdict import verdict
from mien.data.store import Store, open_store
from mien.errors import DataError, UsageError, unknown_name
from mien.files import read_json, write_atomic
from mien.report.rows import add_row
from mien.schema import FloatArray, IntArray
from mien.wrapped.classes import class_table, labels_for
from mien.wrapped.model import WrappedModel

PARTS = ("right", "sure", "explanation", "groups", "corruptions", "follow")
"""In the order in which they are done; groups compare the quality of explanations."""
ORDER = ("right", "sure", "groups", "corruptions", "explanation", "follow")
"""On the page."""
SHARES = {"explanation": 0.45, "corruptions": 0.7, "follow": 1.0}
"""Of the time that is left when a part begins."""
OVER = "The time was over"
LEAST = 12


@dataclass(frozen=True)
class Task:
    """What is audited, on which faces, and until when."""

    probe: Probe
    sample: Sample
    store: Store
    probabilities: FloatArray
    explained: int
    corrupted: int
    seed: int
    deadline: float
    baseline: WrappedModel | None = None
    shuffled: WrappedModel | None = None
    kept: dict[str, FloatArray] = field(default_factory=dict)
    """Quality of the explanation of each face, once it is known."""

    def late(self, share: float) -> Callable[[], bool]:
        """Says whether this share of the time that is left now is over."""
        end = time.monotonic() + share * max(0.0, self.deadline - time.monotonic())
        return lambda: time.monotonic() > end


def audit(
    model: str = "bundled",
    *,
    store: Path,
    split: Literal["test", "valid", "train", "all"] = "test",
    parts: str = ",".join(ORDER),
    minutes: float | None = None,
    out: Path | None = None,
    method: str | None = None,
    baseline: str | None = None,
    random_labels: str | None = None,
    faces: int = 1000,
    explained: int = 96,
    corrupted: int = 200,
    row: Path | None = None,
    classes: str | None = None,
    seed: int = 0,
    device: str = "auto",
) -> dict[str, Any]:
    """Audit any expression model on the faces of a store: one page, a JSON and a CSV. Finished parts are kept and not done again.

    Args:
        model: run folder, `bundled`, an ONNX file, or FILE.py:FUNCTION whose call returns a wrapped model (docs/compare.md).
        store: prepared store with labelled faces, best of people that the model never saw.
        split: faces of this part of the store.
        parts: which questions, separated by commas: right, sure, groups, corruptions, explanation, follow.
        minutes: stop beginning new work after this time; what was done is shown, the same command goes on.
        out: folder of the audit; audits/MODEL-STORE unless said otherwise.
        method: explainer (docs/explanations.md), or `occlusion`, which fits every model; the first that fits unless said.
        baseline: another model, for the relative mCE of corruptions.
        random_labels: the same recipe trained on random labels, for the sanity check of its maps.
        faces: at most so many, drawn evenly.
        explained: how many of them are explained; many passes for each.
        corrupted: how many of them are corrupted; 75 passes for each.
        row: leaderboard file to which the audit adds one checked row (docs/compare.md); `mien report --rows` shows it.
        classes: names of the classes of an ONNX file that does not bring them, separated by commas, in the order of the answers.
        seed: of the drawing, of noise and of the bootstrap.
        device: where the model runs.

    """
    start = time.monotonic()
    chosen = parts_of(parts)
    if min(faces, explained, corrupted) < 1 or (minutes is not None and minutes <= 0):
        raise UsageError("--faces, --explained, --corrupted and --minutes must be above 0.")
    wrapped = face_model(model, classes=classes, device=device)
    other = None if baseline is None else face_model(baseline, device=device)
    view = wrapped.view(open_store(store))
    print(class_table(wrapped.words, wrapped.classes, view), file=sys.stderr)
    labels = labels_for(view, wrapped.classes)
    rows = rows_of(view, labels, split, faces, seed)
    probe = probe_of(wrapped, method)
    pictures = np.concatenate(
        [wrapped.probabilities(view.images(part)) for part in np.array_split(rows, -(-len(rows) // 256))]
    )
    deadline = start + 60 * minutes if minutes is not None else float("inf")
    labelled = None if random_labels is None else face_model(random_labels, device=device)
    sample = sample_of(view, rows, labels, wrapped.classes)
    task = Task(probe, sample, view, pictures, explained, corrupted, seed, deadline, other, labelled)
    folder = out or Path("audits") / f"{wrapped.name}-{Path(store).resolve().name}"
    done = do_parts(task, chosen, folder)
    given = {
        "store": store, "split": split, "parts": parts, "out": folder, "method": method, "baseline": baseline,
        "random_labels": random_labels, "faces": faces, "explained": explained, "corrupted": corrupted,
        "classes": classes, "seed": seed,
    }  # fmt: skip
    facts = facts_of(task, command_of(model if isinstance(model, str | Path) else wrapped.name, given), split)
    write(folder, done, facts)
    for sentence in verdict(done):
        print(f"- {sentence}")
    if row is not None:
        made = audit_row(wrapped, view, rows, labels[rows], pictures, split, faithful_of(done), seed)
        print(f"{row}: row of {wrapped.name} {add_row(row, made)}")
    print(f"written to {folder / 'audit.html'} ({time.monotonic() - start:.0f} s)")
    return {**facts, "verdict": verdict(done), "parts": [as_json(part) for part in done]}


def parts_of(text: str) -> tuple[str, ...]:
    """Names of PARTS in the order in which they are done; UsageError for an unknown one."""
    names = [word.strip() for word in text.split(",") if word.strip()]
    for name in names:
        if name not in PARTS:
            raise unknown_name("part", name, PARTS)
    if not names:
        raise UsageError(f"--parts names none; give some of {', '.join(PARTS)}.")
    return tuple(name for name in PARTS if name in names)


def rows_of(store: Store, labels: IntArray, split: str, most: int, seed: int) -> IntArray:
    """At most `most` labelled rows of a split, drawn evenly; DataError where there are too few to say anything."""
    there = (labels >= 0) & ((store.split == split) | (split == "all"))
    rows = np.flatnonzero(there)
    if len(rows) < LEAST:
        counts = {name: int(((labels >= 0) & (store.split == name)).sum()) for name in np.unique(store.split)}
        others = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise DataError(
            f"{store.path} has {len(rows)} faces with a label of this model in split '{split}' ({others}); an audit needs {LEAST}. "
            f"{'Use' if split == 'all' else 'Use --split all, or'} another --store."
        )
    chosen = np.random.default_rng(seed).permutation(len(rows))[:most]
    return np.asarray(rows[np.sort(chosen)], dtype=np.int64)


def do_parts(task: Task, names: tuple[str, ...], folder: Path) -> list[Part]:
    """The parts in the order of the page; finished ones are read from the folder where they fit."""
    found: dict[str, Part] = {}
    for name in names:
        key, file = key_of(task, name), folder / "parts" / f"{name}.json"
        kept = read_part(file, key, task)
        if kept is None:
            print(f"mien: audit: {name}", file=sys.stderr)
            start = time.monotonic()
            part = DO[name](task)
            kept = part._replace(seconds=round(time.monotonic() - start, 1))
            whole = not any(text.startswith(OVER) for text in kept.cannot)
            if whole and task.probe.model.identity:  # a function has no hash: it may be another one next time
                extra = {"quality": clean(task.kept["quality"])} if name == "explanation" else {}
                write_atomic(_made(file), json.dumps({"key": key, "part": as_json(kept), **extra}))
        found[name] = kept
    return [found[name] for name in ORDER if name in found]


def clean(values: FloatArray) -> list[float | None]:
    """Numbers for JSON."""
    return [float(value) if np.isfinite(value) else None for value in values]


def read_part(file: Path, key: str, task: Task) -> Part | None:
    """A part that was done with the same model, faces and settings; None otherwise."""
    if not file.is_file():
        return None
    try:
        kept = read_json(file, "")
        if kept["key"] != key:
            return None
        if "quality" in kept:
            task.kept["quality"] = np.array([np.nan if v is None else v for v in kept["quality"]], np.float32)
        return from_json(kept["part"])
    except (DataError, ValueError, LookupError, TypeError, AttributeError):  # damaged: done again
        return None


def key_of(task: Task, name: str) -> str:
    """Everything that a part follows from, as one short text."""
    other = task.baseline.identity or task.baseline.name if task.baseline is not None and name == "corruptions" else ""
    shuffled = task.shuffled.identity if task.shuffled is not None and name == "explanation" else ""
    explained = clean(task.kept["quality"]) if name == "groups" and "quality" in task.kept else []
    facts = [
        __version__, name, task.probe.model.identity, task.probe.method, task.probe.model.temperature, task.store.fingerprint,
        hashlib.sha256(task.sample.rows.tobytes() + task.probabilities.tobytes()).hexdigest(), task.seed,
        task.explained, task.corrupted, other, explained, shuffled,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def explanation_part(task: Task) -> Part:
    """Some faces, each class as often as it occurs."""
    n = min(task.explained, task.sample.faces)
    chosen = np.random.default_rng(task.seed).permutation(task.sample.faces)[:n]
    sample = task.sample.part(chosen)
    beside = None if task.shuffled is None else Probe(task.shuffled, task.probe.method)
    found = faithful(
        task.probe, sample, task.store.images(sample.rows), task.seed, task.late(SHARES["explanation"]), beside
    )
    spread = np.full(task.sample.faces, np.nan, np.float32)
    spread[chosen] = quality(found, n)
    task.kept["quality"] = spread
    part = truth(sample, found, task.probe.method, task.seed)
    done = len(next(iter(found.scores["own"].values()))) if found.scores else 0
    short = (f"{OVER} after {done} of {n} faces.",) if 0 < done < n else ()
    return part._replace(cannot=(*short, *part.cannot))


def corruptions_part(task: Task) -> Part:
    """Some faces under every corruption, maps of a quarter of them."""
    chosen = np.random.default_rng(task.seed + 1).permutation(task.sample.faces)[: task.corrupted]
    sample, late = task.sample.part(chosen), task.late(SHARES["corruptions"])
    pictures = task.store.images(sample.rows)
    mapped = 0 if task.probe.model.layer is None else max(1, len(chosen) // 4)
    found = broken(sample, pictures, task.probe.answer, mapped, task.seed, late)
    if task.baseline is None:
        return robustness(sample, found, seed=task.seed)
    if task.baseline.classes != task.probe.model.classes:
        part = robustness(sample, found, seed=task.seed)
        return part._replace(cannot=(*part.cannot, f"{task.baseline.name} has other classes: no relative mCE."))
    beside = broken(sample, pictures, Probe(task.baseline, task.probe.method).answer, 0, task.seed, late)
    return robustness(sample, found, beside, task.seed, task.baseline.name)


def follow_part(task: Task) -> Part:
    """Rendered faces."""
    classes = task.probe.model.classes
    return follow(responses(task.probe, classes, late=task.late(SHARES["follow"])), classes, task.seed)


DO: dict[str, Callable[[Task], Part]] = {
    "right": lambda task: right(task.sample, task.probabilities, task.seed),
    "sure": lambda task: sure(task.sample, task.probabilities, task.seed),
    "groups": lambda task: groups(task.sample, task.probabilities, task.kept.get("quality"), task.seed),
    "explanation": explanation_part,
    "corruptions": corruptions_part,
    "follow": follow_part,
}
"""Name -> what answers the question."""


def command_of(model: str | Path, given: Mapping[str, Any]) -> str:
    """The command that makes this audit again; options at their default are left out."""
    usual, words = inspect.signature(audit).parameters, ["mien", "audit", str(model)]
    for name, value in given.items():
        if value is not None and value != usual[name].default:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(words)


def facts_of(task: Task, command: str, split: str) -> dict[str, Any]:
    """What stands at the top and the end of the page."""
    model, sample = task.probe.model, task.sample
    banners = [note[0].upper() + note[1:] for note in model.notes]
    if split in ("train", "all") and model.kind == "run":
        banners.append(
            "Some of these faces may be those that the model was trained on; the numbers then say little about new faces."
        )
    people = 0 if sample.people is None else len(np.unique(sample.people))
    return {
        "title": model.name, "faces": sample.faces, "people": people, "store": task.store.info.dataset, "split": split,
        "date": datetime.now(UTC).date().isoformat(), "banners": banners, "classes": list(model.classes),
        "method": task.probe.method, "identity": model.identity or "without a hash (a function)",
        "fingerprint": task.store.fingerprint, "command": command,
    }  # fmt: skip


def write(folder: Path, parts: list[Part], facts: dict[str, Any]) -> None:
    """audit.html, audit.json and audit.csv."""
    for name, content in (
        ("audit.html", html(parts, facts)), ("audit.json", text_json(parts, facts)), ("audit.csv", text_csv(parts)),
    ):  # fmt: skip
        write_atomic(_made(folder / name), content)


def _made(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    return file
