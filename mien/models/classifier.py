"""Classifier = backbone + head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mien.config import ModelConfig
from mien.errors import unknown_name
from mien.models.backbone import Backbone
from mien.models.heads import HEADS, GapHead
from mien.schema import Output


class Classifier(nn.Module):
    """Images -> Output(logits, features, maps); nothing is kept on the module."""

    def __init__(self, backbone: Backbone, head: GapHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor) -> Output:
        """(B, 3, H, W) normalised images -> Output."""
        features = self.backbone(images)
        logits, maps = self.head(features[-1])
        return Output(logits, features, maps)


def create_model(config: ModelConfig, classes: int) -> Classifier:
    """Assemble the model that a recipe names; UsageError for an unknown backbone or head."""
    if config.head not in HEADS:
        raise unknown_name("head", config.head, HEADS)
    backbone = Backbone(config)
    model = Classifier(backbone, HEADS[config.head](backbone.channels[-1], classes, config.drop))
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model
