"""The small grey net of the guided spatial transformers (Luna-Jimenez et al. 2021, doi 10.3390/app11167217)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from mien.schema import Layers

WIDTH = 10
"""Channels of every convolution."""


class SimpleCnn(nn.Module):
    """Four convolutions 3x3 without padding, max-pooling behind the second and the fourth, one batch norm.

    Grey (B, 1, H, W) -> four layers; 48 px gives 10 x 46x46, 22x22, 20x20, 9x9. With head `flat` these are the published
    43,553 parameters at three classes. Names of parameters are the published ones. Pooling comes before the ReLU, as
    published; the order makes no difference.

    Args:
        channels: of the input; a picture of three equal channels is read by its first.

    """

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, WIDTH, 3)
        self.conv2, self.conv3, self.conv4 = (nn.Conv2d(WIDTH, WIDTH, 3) for _ in range(3))
        self.norm = nn.BatchNorm2d(WIDTH)

    def forward(self, images: Tensor) -> Layers:
        """(B, channels or 3, H, W) -> features of the four convolutions as they are passed on."""
        one = self.conv1(images[:, : self.conv1.in_channels]).relu_()
        two = F.max_pool2d(self.conv2(one), 2).relu_()
        three = self.conv3(two).relu_()
        return Layers((one, two, three, F.max_pool2d(self.norm(self.conv4(three)), 2).relu_()))
