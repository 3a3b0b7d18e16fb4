"""timm models as first block of a net."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from mien.config import ModelConfig
from mien.models.backbone import Backbone
from mien.schema import PREPROCESSING


class TimmStem(nn.Module):
    """Last feature map of a timm model, averaged to 1x1 with `pool`; weights are a file, or timm's own with `pretrained`."""

    def __init__(self, model: str, weights: Path | None, size: int, pretrained: bool, pool: bool) -> None:
        super().__init__()
        config = ModelConfig(model, size=size, pretrained=pretrained, weights=weights)
        if pretrained:
            config = with_own_preprocessing(config)
        self.backbone, self.pool = Backbone(config), pool

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, C, 1, 1), or (N, C, h, w) without pooling."""
        final: Tensor = self.backbone(images).features[-1]
        return final.mean((2, 3), keepdim=True) if self.pool else final


@cache
def timm_shape(model: str, pool: bool, size: int) -> tuple[int, int]:
    """Channels and side of what comes out of a timm model for square pictures, read off a net without weights."""
    backbone = Backbone(ModelConfig(model, size=size))
    return backbone.channels[-1], 1 if pool else backbone.sides[-1]


def with_own_preprocessing(config: ModelConfig) -> ModelConfig:
    """The settings under which timm's weights are accepted; the cfg's mean and std are what is really applied."""
    from timm.models import get_pretrained_cfg

    published: Any = get_pretrained_cfg(config.backbone)
    for name, steps in PREPROCESSING.items():
        if published is not None and (steps.mean, steps.std) == (tuple(published.mean), tuple(published.std)):
            return replace(config, preprocessing=cast(Any, name))
    return config
