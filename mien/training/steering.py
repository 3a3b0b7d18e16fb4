"""What steers a spatial transformer: the cue, or the landmarks, of every face of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from mien.config import GUIDED_KINDS, Recipe
from mien.cues.config import NEED_BATCH
from mien.data.loader import Memory
from mien.data.transforms import normalise
from mien.schema import Batch
from mien.training.cues import cues_for


def with_guide(recipe: Recipe, batch: Batch, mean: Tensor | None, epoch: int, step: int) -> Batch:
    """The batch with what its spatial transformer wants to see: the recipe's cue, control included, or the landmarks.

    A face without a cue gets `transformer.missing`. `mean` is the mean cue at the size of the image, for that control. Draws
    depend on (seed, epoch, step) only. The batch itself where no guide is wanted, or it came with one out of memory.
    """
    if batch.guide is not None:
        return batch
    if recipe.transformer.kind == "landmarks":
        return batch._replace(guide=batch.landmarks)
    if recipe.transformer.kind not in GUIDED_KINDS:
        return batch
    cue = cues_for(recipe, batch, [batch.images.shape[-2:]], [mean], epoch, step)[0]
    missing = float(recipe.transformer.missing == "white")
    return batch._replace(guide=torch.where(cue.valid[:, None, None, None], cue.maps, missing))


def kept_guides(recipe: Recipe, memory: Memory, mean: Tensor | None) -> Tensor | None:
    """Guides of all pictures in memory, (N, 1, S, S), drawn once; None where none is wanted or it changes with the batch."""
    own = recipe.cue.control in NEED_BATCH or recipe.cue.kind == "au_observed"  # needs more than pictures and points
    changing = own or recipe.augment.changes_faces or recipe.augment.cutmix or recipe.mask.train
    if recipe.transformer.kind not in GUIDED_KINDS or changing:
        return None
    found = []
    for images, landmarks in zip(memory.images.split(256), memory.landmarks.split(256), strict=True):
        pictures = normalise(images, recipe.model.preprocessing)
        unknown = images.new_full((len(images),), -1, dtype=torch.int64)
        units = landmarks.new_full((len(images), 0), torch.nan)
        batch = Batch(pictures, unknown, units, landmarks, unknown, canvas=memory.canvas)
        guide = with_guide(recipe, batch, mean, 0, 0).guide
        assert guide is not None
        found.append(guide)
    return torch.cat(found)
