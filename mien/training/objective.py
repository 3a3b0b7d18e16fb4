"""What a training step minimises beside guidance: classification and further terms; faces masked by the cue."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mien.config import Recipe
from mien.data.masking import Masking, mask_images
from mien.errors import UsageError
from mien.losses.terms import Step, weighted_terms
from mien.models import Classifier
from mien.schema import Batch, Cue, Output, scheme_classes
from mien.training.cues import cues_for


def hard_labels(batch: Batch) -> Tensor:
    """(B,) class index of every face; soft targets count by their largest class."""
    return batch.expressions if batch.expressions.dim() == 1 else batch.expressions.argmax(1)


def classification_term(recipe: Recipe, step: Step) -> Tensor:
    """The recipe's main classification loss with its weight."""
    loss = recipe.loss
    options = (loss.focal_alpha, loss.focal_gamma) if loss.classification == "focal" else ()
    return loss.weight * step.classification(loss.classification, *options)


def try_terms(recipe: Recipe, model: Classifier) -> None:
    """UsageError for a term that this net or scheme cannot have, found by computing all of them for an empty picture."""
    if recipe.model.segmentation != any(entry["name"] == "au_segmentation" for entry in recipe.loss.terms):
        raise UsageError(
            "model.segmentation and the term au_segmentation of loss.terms go together; give both or none."
        )
    if not recipe.loss.terms:
        return
    size = recipe.model.size
    empty = Cue(torch.zeros(1, 1, size, size), torch.ones(1, dtype=torch.bool))
    model.eval()
    with torch.no_grad():
        images = torch.zeros(1, 3, size, size)
        output = model(images, guide=model.blank_guide(images))
        label = torch.zeros(1, dtype=torch.int64)
        weighted_terms(
            recipe.loss.terms, Step(model, output, label, scheme_classes(recipe.data.scheme), 1.0, lambda: empty)
        )
    model.train()


def step_of(
    recipe: Recipe, model: Classifier, output: Output, batch: Batch, class_weight: Tensor | None, mean: Tensor | None,
    epoch: int, step: int,
) -> Step:  # fmt: skip
    """What terms may look at in a training step; `mean` is the mean cue at the size of the image."""
    return Step(
        model, output, batch.expressions, scheme_classes(recipe.data.scheme), recipe.loss.sharpness(epoch),
        lambda: cues_for(recipe, batch, [batch.images.shape[-2:]], [mean], epoch, step)[0],
        class_weight, recipe.optim.label_smoothing, batch.labels, recipe.loss.label_share,
    )  # fmt: skip


def further_terms(recipe: Recipe, step: Step, epoch: int) -> dict[str, Tensor]:
    """Weighted terms of `loss.terms` that count in this epoch."""
    terms = weighted_terms(recipe.loss.terms, step, epoch)
    if step.output.segmentation is not None and "au_segmentation" not in terms:
        terms["au_segmentation"] = 0 * step.segmentation().sum()  # several processes expect a gradient everywhere
    return terms


def masked(recipe: Recipe, batch: Batch, masking: Masking, share: float, epoch: int, step: int) -> Batch:
    """The batch with a share of its faces masked by the recipe's cue; which ones depends on (seed, epoch, step) only."""
    if not share:
        return batch
    cue = cues_for(recipe, batch, [batch.images.shape[-2:]], [masking.mean], epoch, step)[0]
    chosen = np.random.default_rng((recipe.run.seed, epoch, step, 2)).random(len(batch.images)) < share
    here = torch.from_numpy(chosen).to(batch.images.device)
    return batch._replace(images=mask_images(batch.images, cue, here, recipe.mask, masking.colour))
