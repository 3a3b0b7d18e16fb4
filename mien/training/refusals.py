"""Attributions and sizes that cannot train a net, found by trying them before training starts."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mien.config import Recipe
from mien.data.sampling import training_size
from mien.errors import UsageError
from mien.explain import left_as_found
from mien.losses.alignment import alignment_loss, compared_map
from mien.losses.attribution import target_slope
from mien.models import Classifier
from mien.schema import Cue, Output
from mien.training.guidance import guided_forward
from mien.training.guides import Guide

NOTHING = 1e-5
"""Share of a gradient under which it counts as zero, or as the same everywhere."""


def layers_on_the_path(model: Classifier, size: int) -> list[int]:
    """Indices of the layers whose maps the logits are computed from, so that a gradient exists; the model is left as it was.

    Some nets hand on a copy of a layer (Swin, MambaOut and EVA02 before their last one), and a head of the class token does
    not read the patches behind the last block.
    """
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with left_as_found(model), torch.enable_grad():
        output: Output = model(images, guide=model.blank_guide(images))
        features = [feature if feature.requires_grad else feature.requires_grad_() for feature in output.features]
        slopes = torch.autograd.grad(output.logits.sum(), features, allow_unused=True)
    return [index for index, slope in enumerate(slopes) if slope is not None]


def refuse_off_path(guide: Guide, model: Classifier, recipe: Recipe) -> None:
    """UsageError that names key, layer and remedy where a gradient of the logits does not reach a guided layer."""
    path = layers_on_the_path(model, recipe.model.size)
    for layer in guide.layers:
        if layer in path:
            continue
        number, net = layer + 1, recipe.model.backbone
        reason = "hands on a copy of it, which the logits are not computed from"
        if recipe.model.head == "cls" and layer == len(model.backbone.channels) - 1:
            reason = "answers through the class token, which head cls reads alone"
        others = ", ".join(str(index + 1) for index in path)
        remedy = f"take {guide.section}.layers [{path[-1] + 1}] (any of {others})" if path else "take another backbone"
        raise UsageError(
            f"{guide.section}.layers: attribution {guide.config.attribution} has no gradient at layer {number} of "
            f"{len(model.backbone.channels)}: '{net}' {reason}; {remedy}, or {guide.section}.attribution activation."
        )


def refuse_sizes(recipe: Recipe, model: Classifier) -> None:
    """UsageError where the net cannot take pictures of a side in optim.sizes, found by showing it an empty one."""
    training_size(recipe, 1)
    for side in {int(side) for side, _ in recipe.optim.sizes}:
        images = torch.zeros(1, 3, side, side)
        try:
            with left_as_found(model), torch.no_grad():
                model.eval()(images, guide=model.blank_guide(images))
        except (RuntimeError, AssertionError) as error:
            raise UsageError(
                f"optim.sizes: backbone '{recipe.model.backbone}' with head '{recipe.model.head}' does not take pictures of "
                f"{side} px beside those of model.size {recipe.model.size}."
            ) from error


def refuse_degenerate(guide: Guide, model: Classifier, size: int) -> None:
    """UsageError with the reason where an attribution is nothing, says nothing, or could not train the backbone.

    Found by trying it: two random images in eval mode, at every layer of the guide. The model is left as it was.
    """
    draws = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, size, size, generator=draws)
    labels = torch.zeros(2, dtype=torch.int64)
    config, section = guide.config, guide.section
    with left_as_found(model), torch.enable_grad():
        output = guided_forward(model, [guide], images, labels, model.blank_guide(images))
        for layer, found in zip(guide.layers, output.attributions, strict=True):
            where = f"{section}.attribution {config.attribution} at layer {layer + 1}"
            one, whole = _slopes(output, layer, labels, config.target)
            if whole <= NOTHING * one or one == 0:
                raise UsageError(
                    f"{where}: the gradient of {config.target} is zero. Logits are expected; if the head ends in a softmax, "
                    "its sum is 1 whatever the image."
                )
            seen = compared_map(found, replace(config, channels="mean", fraction=1.0), found.shape[-2:])
            spread = (seen - seen.mean((2, 3), keepdim=True)).abs().amax()
            if config.attribution == "grad" and spread <= NOTHING * seen.abs().amax():
                raise UsageError(
                    f"{where} is the same at every cell, because the head averages over the cells first; it cannot align. "
                    "Use grad_input, or an earlier layer."
                )
            cue = Cue(torch.rand(2, 1, *found.shape[-2:], generator=draws), torch.ones(2, dtype=torch.bool))
            weights = [p for p in model.backbone.parameters() if p.requires_grad]
            if weights and not _reaches(alignment_loss(seen, cue, "pearson"), weights, where):
                raise UsageError(
                    f"{where} sends nothing into the backbone: the head is piecewise linear, so its gradient does not depend "
                    "on the layer. Use grad_input, or an earlier layer."
                )


def _reaches(loss: Tensor, weights: Sequence[Tensor], where: str) -> bool:
    """Whether any of the weights gets a gradient that is not zero."""
    try:
        pulls = torch.autograd.grad(loss, weights, allow_unused=True, retain_graph=True)
    except RuntimeError as error:
        if "is not implemented" not in str(error):
            raise
        raise UsageError(
            f"{where}: {str(error).splitlines()[0]}, so the net above has no second derivative. Use detach, the last layer, "
            "or another backbone."
        ) from error
    return any(pull is not None and bool(pull.any()) for pull in pulls)


def _slopes(output: Output, layer: int, labels: Tensor, target: str) -> tuple[float, float]:
    """Largest absolute gradient of a single logit, and of the target, with respect to a layer."""
    sizes = []
    for name in ("label", target):
        slope = target_slope(output.logits, labels, name)
        (gradient,) = torch.autograd.grad(output.logits, output.features[layer], slope, retain_graph=True)
        sizes.append(float(gradient.abs().amax()))
    return sizes[0], sizes[1]


def refuse_compile(recipe: Recipe, guides: Sequence[Guide], device: torch.device) -> None:
    """UsageError for run.compile where a gradient is taken twice through the backbone, which torch.compile cannot, or where
    there is nothing to compile with: a C++ compiler on a CPU, Triton on a GPU.
    """
    if not recipe.run.compile:
        return
    for guide in guides:
        if guide.by_gradient and guide.early:
            raise UsageError(
                f"run.compile: {guide.section}.attribution takes gradients through the backbone twice, which compiled code "
                f"cannot; guide the last layer ({guide.section}.layers '[-1]'), or leave run.compile off."
            )
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            raise UsageError("run.compile needs the package triton on a GPU; install it, or leave run.compile off.")
    elif not any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++") if name):
        raise UsageError("run.compile needs a C++ compiler (g++); install one, or leave run.compile off.")
