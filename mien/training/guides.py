"""Which guides a recipe has: what is pulled towards which cue, at which layers of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mien.config import GuidanceConfig, Recipe
from mien.cues import CueConfig
from mien.errors import UsageError
from mien.losses.alignment import resolve_layers
from mien.losses.attribution import Request, route
from mien.models import Classifier
from mien.schema import Layers


class Guide(NamedTuple):
    """One guidance of a recipe, resolved for a model."""

    section: str
    """`guidance` or `second`."""
    config: GuidanceConfig
    cue: CueConfig
    layers: list[int]
    """Indices into Output.features."""
    early: bool
    """Has a layer before the last."""
    means: list[Tensor | None]
    """Dataset-mean cue of each layer, for the control `mean`."""

    @property
    def by_gradient(self) -> bool:
        """The attribution needs a gradient of the logits."""
        return self.config.attribution != "activation"

    @property
    def has_own_score(self) -> bool:
        """Its map or its cue is not that of the layers' attention, which is scored anyway."""
        return self.by_gradient or self.config.channels in CHOSEN_CHANNELS or self.config.cue is not None


CHOSEN_CHANNELS = ("first_half", "second_half", "fraction")
"""Channels that stay the same for the whole run, so that a score can tell them from the others."""


def guides_of(recipe: Recipe, model: Classifier) -> list[Guide]:
    """The guidances of a recipe with a weight, layers resolved; UsageError for a layer that cannot be guided."""
    guides, count = [], len(model.backbone.channels)
    for section, config in recipe.guidances().items():
        if not config.weight:
            continue
        layers = resolve_layers(config.layers, count, section)
        early = any(layer != count - 1 for layer in layers)
        for layer in layers:
            if model.backbone.sides[layer] == 1:
                raise UsageError(
                    f"{section}.layers: layer {layer + 1} is a single cell at model.size {recipe.model.size}, which "
                    "aligns with everything; choose a shallower layer, a larger model.size or model.output_stride 16."
                )
        if config.attribution == "integrated" and early:
            raise UsageError(f"{section}.attribution integrated runs the head again and exists at the last layer only.")
        cue = replace(recipe.cue, kind=config.cue) if config.cue else recipe.cue
        guides.append(Guide(section, config, cue, layers, early, [None] * len(layers)))
    return guides


def active(guides: Sequence[Guide], epoch: int) -> list[Guide]:
    """Those that have a weight in this epoch."""
    return [guide for guide in guides if guide.config.weight_at(epoch)]


def describe(guide: Guide, model: Classifier) -> str:
    """One line for the log: what is pulled where, and how its gradient is found."""
    count = len(model.backbone.channels)
    layers = ", ".join(str(layer + 1) for layer in guide.layers)
    line = (
        f"{guide.section}: {guide.config.attribution} at layer {layers} of {count}, "
        f"{guide.config.similarity} with cue {guide.cue.kind}"
    )
    if not guide.by_gradient:
        return line
    sizes = zip(model.backbone.channels, model.backbone.sides, strict=True)
    shapes = Layers(tuple(torch.empty(1, channels, side, side, device="meta") for channels, side in sizes))
    way = route(Request(guide.config, guide.layers), model.head, shapes)
    line += f"; gradient of {guide.config.target} by {way}"
    if guide.early and any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.backbone.modules()):
        line += "; batch norms above the layer mix the faces of a batch into it"
    return line
