"""channels_last for a whole net, without the convolutions that torch computes wrongly in it."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW_CHANNELS = 8
"""With fewer input channels than this, the weight gradient of a strided 1x1 convolution is not to be trusted."""


class StridedPointwise(nn.Module):
    """A 1x1 convolution with a stride, computed as the same convolution without a stride on every s-th pixel.

    On CPUs, torch 2.13 writes the weight gradient of the strided one out of bounds in channels_last (2 to 7 input
    channels, any stride above 1): it crashes, hangs, or is wrong without a word. Stride 1 and 3x3 kernels are right.
    Weights keep their names: a checkpoint of the net fits with and without this replacement.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self.stride, self.padding, self.groups = cast(tuple[int, int], conv.stride), conv.padding, conv.groups

    def forward(self, values: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', ceil(H / s), ceil(W / s)); zero padding as the convolution had it."""
        if not isinstance(self.padding, str) and any(self.padding):
            rows, columns = self.padding
            values = F.pad(values, (columns, columns, rows, rows))
        return F.conv2d(values[..., :: self.stride[0], :: self.stride[1]], self.weight, self.bias, groups=self.groups)


def to_channels_last(net: nn.Module) -> None:
    """Put a net's weights into channels_last, in place, its unsafe convolutions replaced (StridedPointwise)."""
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if is_unsafe(child):
                setattr(module, name, StridedPointwise(cast(nn.Conv2d, child)))
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def is_unsafe(module: nn.Module) -> bool:
    """Whether a module is a convolution whose weight gradient is wrong in channels_last."""
    if not isinstance(module, nn.Conv2d) or module.padding_mode != "zeros":
        return False
    return module.kernel_size == (1, 1) and max(module.stride) > 1 and module.in_channels < FEW_CHANNELS
