"""What `mien train` tells of its data, and which command comes after it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from mien.config import Recipe
from mien.data.duplicates import same_picture_groups
from mien.data.folds import Split
from mien.data.labels import labels_of
from mien.data.store import Store
from mien.datasets.aligned import SYNTHETIC
from mien.schema import scheme_classes
from mien.training.checkpoint import read_run


def tell_split(recipe: Recipe, store: Store, split: Split) -> None:
    """One line each, where there is something to tell: classes without training faces and few validation faces (stderr), faces
    that were left out.
    """
    classes = scheme_classes(recipe.data.scheme)
    counts = np.bincount(labels_of(store, recipe.data.scheme)[split.train], minlength=len(classes))
    missing = [name for name, count in zip(classes, counts, strict=True) if count == 0]
    if missing:
        print(f"mien: no training face is labelled {', '.join(missing)}: the net cannot learn it.", file=sys.stderr)
    if recipe.optim.select != "last":
        tell_few(len(split.valid), "raise data.valid_fraction, or keep the last epoch with optim.select last")
    train, valid = (split.report.get(f"dropped_from_{part}", 0) for part in ("train", "valid"))
    if train or valid:
        same = split.report.get("identical_dropped_from_train", 0)
        print(
            f"left out as identical or near-duplicate pictures of the test or validation part: {train} training faces ({same} "
            f"identical), {valid} validation faces. Pictures: mien check {store.path} --sheet sheet.png; where they show different "
            "people, give subjects, or keep them with --data.near_duplicates report",
            flush=True,
        )
    if recipe.data.near_duplicates == "report":
        held = np.concatenate([split.valid, split.test])
        groups = same_picture_groups(store)
        alike = int(np.isin(groups[split.train], groups[held]).sum())
        print(f"near-duplicates kept: {alike} training faces have a copy in the test or validation part", flush=True)


FEW = 50
"""Validation faces under which their number is told: one face then moves accuracy by 2 points or more."""


def tell_few(faces: int, remedy: str) -> None:
    """A line on stderr where a handful of validation faces choose the epoch, so that the choice is little more than chance."""
    if faces < FEW:
        who = "1 validation face chooses" if faces == 1 else f"{faces} validation faces choose"
        print(
            f"mien: {who} the epoch, and one face is {100 / faces:.0f} % of what chooses; {remedy}.",
            file=sys.stderr,
        )


def tell_batch(recipe: Recipe, faces: int) -> None:
    """One line on stderr where a batch is larger than the training faces: each epoch is then one step with all of them."""
    if recipe.optim.batch > faces:
        print(
            f"mien: optim.batch is {recipe.optim.batch}, but there are {faces} training faces: an epoch is one step with all.",
            file=sys.stderr,
        )


def synthetic_faces(store: Store, split: Split) -> dict[str, Any]:
    """For environment.json: how many faces of each part `mien prepare aligned --synthetic` brought, and of which store; {} of none."""
    source = store.info.notes.get("synthetic_source")
    if source is None:
        return {}
    parts = {"train": split.train, "valid": split.valid, "test": split.test}
    counts = {name: sum(str(face).startswith(SYNTHETIC) for face in store.ids[rows]) for name, rows in parts.items()}
    return {"synthetic": {"source": source, **counts}}


def next_command(recipe: Recipe, run: Path) -> str:
    """The `mien evaluate` that works for this run: not every store has test faces that it was not trained on."""
    if recipe.data.protocol == "complete":
        return f"mien evaluate {run} --store OTHER"
    tested = read_run(run)[1].get("rows", {}).get("test", 1)
    return f"mien evaluate {run}" if tested else f"mien evaluate {run} --split valid (the store has no test faces)"
