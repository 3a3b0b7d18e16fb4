"""Which training faces have the cue that a recipe guides with: counted before training, told, and refused where none has."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from mien.config import GUIDED_KINDS, Recipe
from mien.cues import CueConfig, has_cue
from mien.data.store import Store
from mien.errors import DataError
from mien.losses.options import options_of
from mien.schema import FloatArray, IntArray
from mien.training.cues import faces_of

LANDMARKS = "landmarks"
"""Stands for the cue where a spatial transformer takes the landmarks themselves."""
REMEDY = {
    LANDMARKS: "no face has landmarks; prepare the store with a landmark provider (docs/faces.md)",
    "au": "the classes of these faces have no action units in the codebook; take cue.kind au_generic or landmarks",
    "au_observed": "no face has an action unit of cue.least or more; give data.action_units (`mien audet predict`)",
    "saliency": "the pictures have no contrast",
}
"""Why no face has a cue, and what helps."""


@dataclass(frozen=True)
class Coverage:
    """How many training faces have the cue of one part of a recipe; plain data, kept as JSON in a run folder."""

    cue: str
    """Kind of cue."""
    faces: int
    """Training faces."""
    with_cue: int
    without_landmarks: int
    """Faces of which no landmark is known."""


def cue_uses(recipe: Recipe) -> dict[str, CueConfig]:
    """Part of a recipe that needs a cue on the training faces -> that cue.

    Keys: guidance, second, transformer, mask, au_segmentation. The cue of transformer.kind landmarks counts landmarks alone.
    """
    uses = {
        section: replace(recipe.cue, kind=guidance.cue) if guidance.cue else recipe.cue
        for section, guidance in recipe.guidances().items()
        if guidance.weight
    }
    if recipe.transformer.kind in (*GUIDED_KINDS, LANDMARKS):
        uses["transformer"] = recipe.cue
    if recipe.mask.train or recipe.mask.evaluate:
        uses["mask"] = recipe.cue
    if any(entry["name"] == "au_segmentation" and options_of(entry).weight for entry in recipe.loss.terms):
        uses["au_segmentation"] = recipe.cue
    return uses


def coverage_of(recipe: Recipe, store: Store, targets: IntArray | FloatArray, rows: IntArray) -> dict[str, Coverage]:
    """Part of the recipe -> how many of the training faces `rows` have its cue; {} for a training without cues.

    `targets` (N,) or (N, K) are those of the training: cue `au` is that of the largest class.

    Raises:
        DataError: no face has one, so that nothing would be guided; it names the part, the cause and what helps.

    """
    labels = (targets.argmax(axis=1) if targets.ndim == 2 else targets).astype(np.int64)
    known = store.known_points(rows).any(axis=1)
    counted: dict[str, int] = {}
    found = {}
    for part, cue in cue_uses(recipe).items():
        only_points = part == "transformer" and recipe.transformer.kind == LANDMARKS
        kind = LANDMARKS if only_points else cue.kind
        if only_points:
            number = int(known.sum())
        else:
            number = counted[kind] if kind in counted else _count(replace(recipe, cue=cue), store, labels, rows)
            counted[kind] = number
        found[part] = Coverage(kind, len(rows), number, int((~known).sum()))
        if number == 0:
            raise DataError(
                f"{store.path}: none of the {len(rows)} training faces has the cue '{kind}' that {_wanted_by(part)}, so nothing "
                f"would be guided: {_reason(kind, bool(known.any()))}."
            )
    return found


def coverage_lines(coverage: dict[str, Coverage]) -> list[str]:
    """One line a part: how many training faces have a cue."""
    return [f"{part}: {coverage_sentence(one)}" for part, one in coverage.items()]


def coverage_sentence(one: Coverage) -> str:
    """N of M training faces have a cue, and how many have no landmarks."""
    lost = f"; {one.without_landmarks} have no landmarks" if one.without_landmarks and one.cue != "saliency" else ""
    return f"{one.with_cue} of {one.faces} training faces have a cue ({one.cue}){lost}"


def coverage_facts(coverage: dict[str, Coverage]) -> dict[str, Any]:
    """For environment.json."""
    return {"cues": {part: asdict(one) for part, one in coverage.items()}} if coverage else {}


def coverage_columns(coverage: dict[str, Coverage]) -> dict[str, int]:
    """For every line of the log."""
    return {f"cue_faces_{part}": one.with_cue for part, one in coverage.items()}


def _count(recipe: Recipe, store: Store, labels: IntArray, rows: IntArray) -> int:
    """Faces of `rows` with the recipe's cue."""
    side, canvas = recipe.model.size, (store.info.size, store.info.size)
    number = 0
    for points, classes, pictures, units in faces_of(recipe, store, labels, rows):
        valid = has_cue(
            recipe.cue, points, classes, scheme=recipe.data.scheme, image_size=(side, side), images=pictures,
            action_units=units, canvas=canvas,
        )  # fmt: skip
        number += int(valid.sum())
    return number


def _wanted_by(part: str) -> str:
    return {
        "transformer": "transformer.kind needs",
        "mask": "mask.train and mask.evaluate need",
        "au_segmentation": "the term au_segmentation needs",
    }.get(part, f"{part}.weight asks for")


def _reason(kind: str, located: bool) -> str:
    if kind == "saliency":
        return REMEDY["saliency"]
    if not located:
        return REMEDY[LANDMARKS]
    return REMEDY.get(kind, "the landmarks that it needs are unknown, or lie outside the pictures")
