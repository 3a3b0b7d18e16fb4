"""Maps that a score is held against: the mean cue of each class, kept with the run, and the cues of other faces and classes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mien import __version__, maps
from mien.config import Recipe
from mien.cues import MeanCue, controls, render_cue
from mien.cues.codebook import choice
from mien.data.store import Store
from mien.errors import DataError
from mien.files import file_sha256, read_npz, write_npz
from mien.metrics.alignment import Resize, class_mean_maps, class_weighted_maps
from mien.schema import Cue, IntArray, scheme_classes
from mien.training.cues import faces_of

Faces = tuple[Tensor, Tensor, Tensor | None, Tensor]
"""Landmarks, labels, pictures and action units, as `faces_of` gives them."""
MOST = 2000
"""Training faces a class, at most, whose cues are averaged."""


class ClassCues(NamedTuple):
    """Mean cue of each class over training faces, drawn at the size of a layer."""

    means: Tensor
    """(K, 1, h, w); zero for a class without a cue."""
    faces: Tensor
    """(K,) int64: faces with a cue behind each."""
    overall: Tensor
    """(1, 1, h, w) mean over the classes, each weighted by its training faces with a cue."""

    def resized(self, size: tuple[int, int], device: torch.device, resize: Resize = maps.resize) -> ClassCues:
        """The same at the size of a cue that they are scored against; `resize` as of attention (`mien.cues.map_resize`)."""
        means, overall = (resize(one.to(device), size) for one in (self.means, self.overall))
        return ClassCues(means, self.faces.to(device), overall)

    def of(self, labels: Tensor) -> Tensor:
        """(B, 1, h, w) for class indices (B,): `class_mean_maps`."""
        return class_mean_maps(*self, labels)

    def weighted(self, probabilities: Tensor) -> Tensor:
        """(B, 1, h, w) for probabilities (B, K): `class_weighted_maps`."""
        return class_weighted_maps(*self, probabilities)


def class_cues(
    recipe: Recipe, store: Store, labels: IntArray, rows: IntArray, side: int, device: torch.device
) -> ClassCues:
    """Class-mean cues over at most MOST of `rows` a class, drawn at (side, side) in the frame of the net; on the CPU.

    `labels` (N,) class index of every row of the store. Without any face with a cue all maps are zero.
    """
    classes = len(scheme_classes(recipe.data.scheme))
    chosen, total = at_most(labels, rows, MOST), MeanCue(classes)
    for part in faces_of(recipe, store, labels, chosen):
        total.update(draw(recipe, part, (side, side), device, store.info.size), part[1])
    faces = total.count[:classes].long()
    means = total.per_class().expand(-1, -1, side, side).clone()
    asked = np.bincount(labels[chosen], minlength=classes).clip(1)
    weight = torch.from_numpy(np.bincount(labels[rows], minlength=classes) / asked) * faces
    overall = torch.einsum("k,kchw->chw", (weight / weight.sum().clamp_min(1)).float(), means)[None]
    return ClassCues(means, faces, overall)


def at_most(labels: IntArray, rows: IntArray, most: int) -> IntArray:
    """`rows` in their order, thinned to at most `most` a class by an even draw, which is always the same."""
    order = np.random.default_rng(0).permutation(len(rows))
    place = np.empty(len(rows), dtype=np.int64)
    for label in np.unique(labels[rows]):
        own = order[labels[rows][order] == label]
        place[own] = np.arange(len(own))
    return rows[place < most]


def draw(recipe: Recipe, faces: Faces, size: tuple[int, int], device: torch.device, canvas: int) -> Cue:
    """The recipe's cue, without its control, of faces in the frame of the net as `faces_of` gives them.

    `canvas` is the side of the stored pictures.
    """
    points, labels, pictures, units = faces
    frame = (recipe.model.size, recipe.model.size)
    return render_cue(
        replace(recipe.cue, control="none"), points.to(device), labels.to(device), scheme=recipe.data.scheme,
        image_size=frame, size=size, images=None if pictures is None else pictures.to(device),
        action_units=units.to(device), canvas=(canvas, canvas),
    )  # fmt: skip


def kept_class_cues(
    file: Path | None,
    recipe: Recipe,
    store: Store,
    labels: IntArray,
    rows: IntArray,
    side: int,
    device: torch.device,
) -> ClassCues:
    """`class_cues` out of `file`, where it holds those of the same faces and cue; else drawn, and written there."""
    key = key_of(recipe, store, labels, rows, side)
    if file is not None and file.is_file():
        try:
            kept = read_npz(file, "it is drawn again")
            if str(kept["key"]) == key:
                return ClassCues(*(torch.from_numpy(kept[name]) for name in ClassCues._fields))
        except (DataError, KeyError, TypeError):
            pass
    found = class_cues(recipe, store, labels, rows, side, device)
    if file is not None:
        write_npz(file, {"key": np.array(key), **{name: one.numpy() for name, one in found._asdict().items()}})
    return found


def key_of(recipe: Recipe, store: Store, labels: IntArray, rows: IntArray, side: int) -> str:
    """Everything that class-mean cues follow from, as one short text."""
    cue = replace(recipe.cue, control="none")
    files = [Path(name) for name in (cue.codebook, cue.saliency)]
    facts = [
        __version__, asdict(cue), [file_sha256(file) for file in files if file.is_file()], recipe.data.scheme,
        recipe.model.size, recipe.model.preprocessing, store.fingerprint, store.info.size, side, MOST,
        hashlib.sha256(rows.tobytes() + labels[rows].tobytes()).hexdigest(),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


class Others(NamedTuple):
    """Whose cue stands in the place of each face's own; the same whatever the batch."""

    face: IntArray
    """(N,) row of the store of another face of the same class, -1 where there is none."""
    label: Tensor | None
    """(N,) another class with a cue; None for a cue that knows no class."""


def others_of(recipe: Recipe, store: Store, labels: IntArray, rows: IntArray, seed: int) -> Others:
    """A random partner for each of `rows` among them, and another class; `labels` (N,) of every row of the store."""
    located = np.asarray(store.known_points(rows).any(axis=1))
    if recipe.cue.kind == "saliency":  # drawn from the picture alone
        located = np.ones(len(rows), dtype=bool)
    face = np.full(len(store), -1, dtype=np.int64)
    face[rows] = same_class_partners(labels[rows], located, rows, seed)
    label = None
    if recipe.cue.kind == "au":
        drawn = choice(recipe.cue.codebook, recipe.data.scheme, False, torch.device("cpu")).drawn[:-1]
        label = controls.other_labels(torch.from_numpy(labels), drawn, torch.Generator().manual_seed(seed))
    return Others(face, label)


def same_class_partners(labels: IntArray, usable: np.ndarray, rows: IntArray, seed: int) -> IntArray:
    """(n,) for each face the row of another usable one of its class: a random cycle through each class; -1 where there is none.

    labels (n,) classes, usable (n,) bool, rows (n,) what is returned for a partner.
    """
    partner = np.full(len(labels), -1, dtype=np.int64)
    order = np.random.default_rng(seed).permutation(len(labels))
    for label in np.unique(labels[usable]):
        own = order[usable[order] & (labels[order] == label)]
        if len(own) > 1:
            partner[own] = rows[np.roll(own, -1)]
    return partner


def partner_cue(
    recipe: Recipe, store: Store, labels: IntArray, partners: IntArray, size: tuple[int, int], device: torch.device
) -> Cue:
    """Cues (B, 1, h, w) of the rows `partners`; not valid where a row is -1 or has none."""
    there = np.flatnonzero(partners >= 0)
    count = len(partners)
    found, valid = torch.zeros(count, 1, *size, device=device), torch.zeros(count, dtype=torch.bool, device=device)
    done = 0
    for part in faces_of(recipe, store, labels, partners[there]) if len(there) else ():
        cue = draw(recipe, part, size, device, store.info.size)
        place = torch.from_numpy(there[done : done + len(cue.valid)]).to(device)
        found[place], valid[place] = cue.maps, cue.valid
        done += len(cue.valid)
    return Cue(found, valid)
