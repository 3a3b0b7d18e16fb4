"""MSI-Net (Kroner, Senden, Driessens and Goebel 2020, doi 10.1016/j.neunet.2020.05.004): where people look in a picture.

The same net as the published TensorFlow one, layer for layer, so that its weights give its maps: a VGG16 whose last two
pools keep the stride at 8, five parallel branches of growing reach, and three steps up to the size of the picture.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mien.maps import numbers

FRAME = (240, 320)
"""Height and width that the SALICON weights were trained at."""
PADDING = 126.0
MEAN = (103.939, 116.779, 123.68)
"""Subtracted from R, G, B in this order, which is the order of B, G, R; the published weights were trained so."""

ENCODER = (
    ("conv1", (3, 64, 64), 1), ("conv2", (64, 128, 128), 1), ("conv3", (128, 256, 256, 256), 1),
    ("conv4", (256, 512, 512, 512), 1), ("conv5", (512, 512, 512, 512), 2),
)  # fmt: skip
"""Stage, its channels from first to last, dilation. Each is followed by a pool: stride 2 up to conv3, then 1."""
BRANCHES = ((1, 1), (3, 4), (3, 8), (3, 12))
"""Kernel and dilation of the branches aspp/conv1_1 .. conv1_4; conv1_5 sees the mean of the whole picture."""
DECODER = ((256, 128), (128, 64), (64, 32))
"""Channels of decoder/conv1 .. conv3, each after a doubling."""


class MsiNet(nn.Module):
    """RGB pictures 0-255 (B, 3, H, W), sides divisible by 8 -> saliency (B, 1, H, W) in [0, 1]. 24,934,209 parameters."""

    def __init__(self) -> None:
        super().__init__()
        layers: dict[str, nn.Conv2d] = {}
        for stage, widths, dilation in ENCODER:
            for n in range(1, len(widths)):
                layers[f"{stage}/{stage}_{n}"] = _conv(widths[n - 1], widths[n], 3, dilation)
        for n, (kernel, dilation) in enumerate(BRANCHES, start=1):
            layers[f"aspp/conv1_{n}"] = _conv(1280, 256, kernel, dilation)
        layers["aspp/conv1_5"] = _conv(1280, 256, 1)
        layers["aspp/conv2"] = _conv(1280, 256, 1)
        for n, (wide, narrow) in enumerate(DECODER, start=1):
            layers[f"decoder/conv{n}"] = _conv(wide, narrow, 3)
        layers["decoder/conv4"] = _conv(32, 1, 3)
        self.layers = nn.ModuleDict(layers)

    def _relu(self, name: str, x: Tensor) -> Tensor:
        layer: nn.Module = self.layers[name]
        out: Tensor = layer(x)
        return out.relu()

    def forward(self, pixels: Tensor) -> Tensor:
        """Per picture min-max: minus its minimum, over its maximum plus 1e-7."""
        x = pixels - numbers(MEAN, pixels).view(1, 3, 1, 1)
        deep = []
        for stage, widths, _ in ENCODER:
            for n in range(1, len(widths)):
                x = self._relu(f"{stage}/{stage}_{n}", x)
            x = F.max_pool2d(x, 2, 2) if stage <= "conv3" else pool_in_place(x)
            if stage >= "conv3":
                deep.append(x)
        x = torch.cat(deep, 1)
        branches = [self._relu(f"aspp/conv1_{n}", x) for n in range(1, 5)]
        whole = self._relu("aspp/conv1_5", x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])
        x = self._relu("aspp/conv2", torch.cat([*branches, whole], 1))
        for n in range(1, len(DECODER) + 1):
            x = self._relu(f"decoder/conv{n}", doubled(x))
        x = self.layers["decoder/conv4"](x)
        x = x - x.amin((1, 2, 3), keepdim=True)
        return x / (x.amax((1, 2, 3), keepdim=True) + 1e-7)


def _conv(wide: int, narrow: int, kernel: int, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(wide, narrow, kernel, padding=dilation * (kernel // 2), dilation=dilation)


def pool_in_place(x: Tensor) -> Tensor:
    """TensorFlow's 2 x 2 maximum with stride 1 and "same" padding, which pads below and at the right only."""
    return F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-torch.inf), 2, 1)


def doubled(x: Tensor) -> Tensor:
    """TensorFlow 1's bilinear resize to twice the size: place p of the result reads p / 2, the last cell repeated.

    It is neither of PyTorch's two grids: even places are the source cells, odd ones the mean of two neighbours.
    """
    for axis in (2, 3):
        following = torch.cat([x.narrow(axis, 1, x.shape[axis] - 1), x.narrow(axis, -1, 1)], axis)
        x = torch.stack([x, (x + following) / 2], axis + 1).flatten(axis, axis + 1)
    return x


def saliency_map(net: MsiNet, images: Tensor) -> Tensor:
    """Saliency (B, 1, h, w) in [0, 1] of pictures (B, 3, H, W) in [0, 1], at the size at which the net saw them.

    They are scaled to fit 240 x 320, proportions kept, and padded evenly with grey (126), as published. The padding is cut
    off again; the maximum, which is 1, may have been there.
    """
    height, width = images.shape[-2:]
    ratio = min(FRAME[0] / height, FRAME[1] / width)
    inner = (round(height * ratio), round(width * ratio))
    pixels = images * 255
    if ratio < 1:
        pixels = F.interpolate(pixels, size=inner, mode="area")
    elif ratio > 1:
        pixels = F.interpolate(pixels, size=inner, mode="bicubic", align_corners=True)
    top, left = (FRAME[0] - inner[0]) // 2, (FRAME[1] - inner[1]) // 2
    sides = (left, FRAME[1] - inner[1] - left, top, FRAME[0] - inner[0] - top)
    with torch.no_grad():
        maps: Tensor = net(F.pad(pixels.clamp(0, 255), sides, value=PADDING))
    return maps[..., top : top + inner[0], left : left + inner[1]]
