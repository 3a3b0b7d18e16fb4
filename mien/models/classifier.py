"""Classifier = backbone + head."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn

from mien.config import ModelConfig
from mien.errors import UsageError, unknown_name
from mien.models.backbone import Backbone
from mien.models.heads import HEADS
from mien.schema import HeadOutput, Layers, Output


class Classifier(nn.Module):
    """Images -> Output; nothing is kept on the module."""

    def __init__(self, backbone: Backbone, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Output:
        """(B, 3, H, W) normalised images -> Output. `labels` (B,) are for heads that train with them, never needed."""
        layers: Layers = self.backbone(images)
        out: HeadOutput = self.head(layers, labels)
        return Output(out.logits, layers.features, out.maps, out.branches, layers.attention, layers.token_attention)


def create_model(config: ModelConfig, classes: int) -> Classifier:
    """Assemble the model that a recipe names; UsageError for an unknown backbone, head or head option."""
    if config.head not in HEADS:
        raise unknown_name("head", config.head, HEADS)
    kind = HEADS[config.head]
    known = list(inspect.signature(kind).parameters)[3:]
    for name in config.head_options:
        if name not in known:
            if not known:
                raise UsageError(f"model.head_options: head '{config.head}' takes none, got '{name}'.")
            raise unknown_name(f"option of head '{config.head}'", name, known)
    backbone = Backbone(config)
    model = Classifier(backbone, kind(backbone.channels[-1], classes, config.drop, **config.head_options))
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model
