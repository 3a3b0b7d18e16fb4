"""Cues of a batch as a recipe asks for them: at each size, with controls, under CutMix; the mean cue of a store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from mien.config import Recipe
from mien.cues import mean_cue, render_cue
from mien.data.cutmix import mix_cue
from mien.data.loader import read_faces
from mien.data.store import Store
from mien.data.transforms import denormalised, normalise, resize_faces
from mien.schema import Batch, Cue, IntArray

CHUNK = 256
"""Faces whose cues are drawn at once."""


def generator_of(recipe: Recipe, epoch: int, step: int, device: torch.device) -> torch.Generator:
    """Random numbers of one training step; a resumed run draws the same."""
    seed = int(np.random.SeedSequence((recipe.run.seed, epoch, step)).generate_state(1)[0])
    return torch.Generator(device=device).manual_seed(seed)


def cues_for(
    recipe: Recipe, batch: Batch, sizes: Sequence[Sequence[int]], means: Sequence[Tensor | None], epoch: int, step: int
) -> list[Cue]:
    """The recipe's cue at each size (h, w); under CutMix the own cue outside the box, the partner's inside."""
    labels = batch.expressions if batch.mix is None else batch.mix.labels
    cues = []
    for (h, w), mean in zip(sizes, means, strict=True):
        cue = render_cue(
            recipe.cue, batch.landmarks, labels, scheme=recipe.data.scheme,
            image_size=(batch.images.shape[-2], batch.images.shape[-1]), size=(h, w),
            generator=generator_of(recipe, epoch, step, batch.landmarks.device), mean=mean, images=images_for_cue(recipe, batch),
            action_units=batch.action_units, canvas=canvas_of(batch),
        )  # fmt: skip
        cues.append(cue if batch.mix is None else mix_cue(cue, batch.mix))
    return cues


def canvas_of(batch: Batch) -> tuple[int, int] | None:
    """(H, W) on which the cues of a batch are drawn, for `render_cue`."""
    return None if batch.canvas is None else (batch.canvas, batch.canvas)


def images_for_cue(recipe: Recipe, batch: Batch) -> Tensor | None:
    """The pictures of a batch, RGB (B, 3, H, W) in [0, 1], where the recipe's cue is drawn from them."""
    return denormalised(batch.images, recipe.model.preprocessing) if recipe.cue.kind == "saliency" else None


def faces_of(
    recipe: Recipe, store: Store, labels: IntArray, rows: IntArray
) -> Iterator[tuple[Tensor, Tensor, Tensor | None, Tensor]]:
    """Landmarks, labels, pictures and action units of `rows`, CHUNK at a time, in the frame of the net, not augmented.

    Pictures, RGB (B, 3, S, S) in [0, 1] as the net sees them, only where the recipe's cue is drawn from them.
    """
    size, preprocessing = recipe.model.size, recipe.model.preprocessing
    for part in np.split(rows, range(CHUNK, len(rows), CHUNK)):
        pictures = None
        if recipe.cue.kind == "saliency":
            images, points = resize_faces(*read_faces(store, part, size), size)
            pictures = denormalised(normalise(images, preprocessing), preprocessing)
        else:
            points = torch.from_numpy(store.landmarks_of(part))
            points = (points + 0.5) * (size / store.info.size) - 0.5
        yield points, torch.from_numpy(labels[part]), pictures, torch.from_numpy(store.action_units[part])


def mean_of_cue(recipe: Recipe, store: Store, labels: IntArray, rows: IntArray, side: int) -> Tensor:
    """Mean cue (1, 1, side, side) over `rows`, e.g. the training faces, each drawn as the net's batches draw it.

    Under the control `class_mean` the mean of each class, (K, 1, side, side).
    """
    frame, canvas = (recipe.model.size, recipe.model.size), (store.info.size, store.info.size)
    overall, classes = mean_cue(
        recipe.cue, faces_of(recipe, store, labels, rows), scheme=recipe.data.scheme, image_size=frame, size=(side, side),
        canvas=canvas,
    )  # fmt: skip
    return classes if recipe.cue.control == "class_mean" else overall
