"""Heads of transformers: class maps of patch tokens (TS-CAM), or the class token alone."""

from __future__ import annotations

from torch import Tensor, nn

from mien.errors import UsageError
from mien.schema import HeadOutput, Layers


class TsCamHead(nn.Module):
    """3x3 convolution of the patch tokens to class maps, then global average pooling (TS-CAM).

    Gao et al. 2021, arXiv 2103.14862: logits_c = mean_xy maps_c. The localisation map of a class is its map times
    `Output.attention`; `mien.explain` has it as ts_cam.
    """

    def __init__(self, channels: int, classes: int, drop: float = 0.0) -> None:
        super().__init__()
        self.drop = nn.Dropout(drop)
        self.classifier = nn.Conv2d(channels, classes, 3, padding=1)
        _initialise(self.classifier)

    def forward(self, layers: Layers, labels: Tensor | None = None) -> HeadOutput:
        """Last layer (B, C, h, w) -> logits (B, K), maps (B, K, h, w) with bias; labels are not needed."""
        maps = self.classifier(self.drop(layers.features[-1]))
        return HeadOutput(maps.mean(dim=(2, 3)), maps)


class ClassTokenHead(nn.Module):
    """Linear layer on the class token (ViT, Dosovitskiy et al. 2021, arXiv 2010.11929); no class maps."""

    def __init__(self, channels: int, classes: int, drop: float = 0.0) -> None:
        super().__init__()
        self.drop = nn.Dropout(drop)
        self.classifier = nn.Linear(channels, classes)
        _initialise(self.classifier)

    def forward(self, layers: Layers, labels: Tensor | None = None) -> HeadOutput:
        """Class token (B, C) -> logits (B, K); labels are not needed."""
        if layers.class_token is None:
            raise UsageError(
                "head 'cls' reads the class token, which a layer alone (attribution integrated) does not hold."
            )
        return HeadOutput(self.classifier(self.drop(layers.class_token)), None)


def _initialise(layer: nn.Conv2d | nn.Linear) -> None:
    nn.init.trunc_normal_(layer.weight, std=0.02)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
