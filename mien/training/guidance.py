"""The guided step: a forward pass with the attributions that are pulled, and the loss of each guide."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mien import maps
from mien.config import Recipe
from mien.cues import CueConfig, map_resize
from mien.losses.alignment import compared_map, guidance_loss
from mien.losses.attribution import Request, attribute
from mien.schema import Batch, Output
from mien.training.cues import cues_for, generator_of
from mien.training.guides import CHOSEN_CHANNELS, Guide


def guided_forward(
    model: nn.Module,
    guides: Sequence[Guide],
    images: Tensor,
    labels: Tensor,
    steering: Tensor | None = None,
    *,
    graph: bool = True,
) -> Output:
    """Forward pass with the attributions that the guides need, differentiable with `graph`.

    Without `graph` it is an evaluation: the head is not told the labels, the attributions are. `steering` is the
    batch's `guide` for a spatial transformer.
    """
    told = labels if graph else None
    wanted = [guide for guide in guides if guide.by_gradient]
    placed = {} if steering is None else {"guide": steering}
    if not wanted:
        return cast(Output, model(images, told, **placed))
    requests = [Request(guide.config, guide.layers) for guide in wanted]
    # Fused attention kernels have no second derivative; gradients of inner blocks need the plain one.
    plain = graph and any(guide.early for guide in wanted)
    with sdpa_kernel(SDPBackend.MATH) if plain else nullcontext():
        return cast(Output, model(images, told, partial(attribute, requests, labels, graph=graph), **placed))


def attributions_of(guides: Sequence[Guide], output: Output) -> list[list[Tensor]]:
    """For every guide one attribution (B, C, h, w) a layer, as it lies on the input picture.

    `output` comes from `guided_forward` with the same guides.
    """
    computed = iter(output.attributions)
    return [
        [
            maps.to_input(next(computed) if guide.by_gradient else output.features[layer], output.theta)
            for layer in guide.layers
        ]
        for guide in guides
    ]


def guidance_terms(
    recipe: Recipe, guides: Sequence[Guide], output: Output, batch: Batch, epoch: int, step: int
) -> dict[str, Tensor]:
    """Section -> weighted loss of each active guide; random draws depend on (seed, epoch, step) only."""
    terms = {}
    for guide, found in zip(guides, attributions_of(guides, output), strict=True):
        to_cue = guide.config.scale == "to_cue"
        sizes = [batch.images.shape[-2:] if to_cue else a.shape[-2:] for a in found]
        cues = cues_for(replace(recipe, cue=guide.cue), batch, sizes, guide.means, epoch, step)
        draws = generator_of(recipe, epoch, step, batch.images.device)
        loss = guidance_loss(found, cues, guide.config, recipe.loss.sharpness(epoch), draws, map_resize(guide.cue))
        terms[guide.section] = guide.config.weight_at(epoch) * loss
    return terms


class TrainedMap(NamedTuple):
    """Where a model looks by an attribution that it was trained with."""

    name: str
    maps: Tensor
    """(B, 1, h, w), values as compared in training."""
    cue: CueConfig
    """What it was pulled towards, without control."""


def trained_maps(
    model: nn.Module, guides: Sequence[Guide], images: Tensor, labels: Tensor, steering: Tensor | None = None
) -> tuple[Output, list[TrainedMap]]:
    """Output, and the trained attributions of the label's logit at the deepest guided layer; no graph is kept.

    `guided:grad_input` (of the section second: `second:grad_input`) is over the constrained channels. Where only some
    were constrained, `guided:grad_input-all` is over all: evidence may have moved into the free ones.
    """
    asked = []
    for guide in guides:
        if guide.has_own_score:
            channels: Any = guide.config.channels if guide.config.channels in CHOSEN_CHANNELS else "mean"
            config = replace(guide.config, target="label", channels=channels, normalise="none", detach=False)
            asked.append(guide._replace(config=config, layers=[max(guide.layers)]))
    with torch.set_grad_enabled(any(guide.by_gradient for guide in asked)):
        output = guided_forward(model, asked, images, labels, steering, graph=False)
    looks = []
    for guide, (found,) in zip(asked, attributions_of(asked, output), strict=True):
        name = f"{'guided' if guide.section == 'guidance' else guide.section}:{guide.config.attribution}"
        plain, size = replace(guide.cue, control="none"), found.shape[-2:]
        looks.append(TrainedMap(name, compared_map(found.detach(), guide.config, size), plain))
        if guide.config.channels != "mean":
            whole = replace(guide.config, channels="mean", fraction=1.0)
            looks.append(TrainedMap(f"{name}-all", compared_map(found.detach(), whole, size), plain))
    return output, looks
