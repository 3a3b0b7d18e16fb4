"""A residual net for faces of 32 to 64 px that trains and answers fast on a CPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from mien.errors import UsageError
from mien.schema import Layers

STRIDES = (1, 2, 2)
"""Of the first three stages, behind the stem's 2; every further stage keeps the resolution, so that maps stay 6 x 6 at 48 px."""


class Residual(nn.Module):
    """Two convolutions 3x3 with batch norm and a way around them (He et al. 2016, arXiv 1512.03385, basic block).

    `branches` blocks lie side by side: each sees its own share of the channels alone.
    """

    def __init__(self, before: int, after: int, stride: int, branches: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False, groups=branches)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False, groups=branches)
        self.norm1, self.norm2 = nn.BatchNorm2d(after), nn.BatchNorm2d(after)
        same = before == after and stride == 1
        self.around = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False, groups=branches), nn.BatchNorm2d(after))
        )
        nn.init.zeros_(self.norm2.weight)  # each block begins as its way around

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) -> (B, after, H / stride, W / stride)."""
        inside = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(inside + self.around(x))


class SmallResNet(nn.Module):
    """A 5x5 stem of stride 2 and one residual block a stage; dense convolutions, which a CPU is fastest with.

    Args:
        inputs: channels of the picture: 1 reads the first of three equal ones.
        channels: width of each stage of a branch, at least two; the stem has that of the first.
        branches: such nets side by side, which see the same picture and share nothing; `mien box build --seeds` makes one of
            several that were trained apart. Layers have the channels of all, one branch after the other.

    """

    def __init__(self, inputs: int, channels: Sequence[int] = (32, 96, 192), branches: int = 1) -> None:
        super().__init__()
        if len(channels) < 2 or min(channels) < 1:
            raise UsageError(f"model.channels {list(channels)}: small_resnet needs two or more widths of at least 1.")
        if isinstance(branches, bool) or not isinstance(branches, int) or branches < 1:
            raise UsageError(f"model.backbone_options: branches is a whole number from 1 on, not {branches}.")
        self.inputs = inputs
        channels = [branches * width for width in channels]
        self.stem = nn.Conv2d(inputs, channels[0], 5, 2, 2, bias=False)
        self.norm = nn.BatchNorm2d(channels[0])
        strides = (*STRIDES, *[1] * len(channels))
        before = [channels[0], *channels[:-1]]
        self.stages = nn.ModuleList(
            Residual(a, b, stride, branches) for a, b, stride in zip(before, channels, strides, strict=False)
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Layers:
        """(B, inputs or 3, H, W) -> the stem and the stages."""
        x = F.relu(self.norm(self.stem(images[:, : self.inputs])))
        layers = [x]
        for stage in self.stages:
            x = stage(x)
            layers.append(x)
        return Layers(tuple(layers))
