"""Nets of the shape of VGG and Inception, narrow enough for tests, under timm names: narrow_vgg and narrow_inception."""

import torch
from torch import Tensor, nn

from mien.compat import ensure_torchvision

ensure_torchvision()
from timm.models import VGG, register_model  # noqa: E402


def convolution(channels: int, width: int, side: int, stride: int = 1) -> nn.Sequential:
    layers = (
        nn.Conv2d(channels, width, side, stride, side // 2, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )
    return nn.Sequential(*layers)


class Mixed(nn.Module):
    """Branches of 1x1, 3x3 and pooling, concatenated, as in Inception; optionally at half the resolution."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.one = convolution(channels, width, 1, stride)
        self.three = convolution(channels, width, 3, stride)
        self.pool = nn.Sequential(nn.AvgPool2d(3, stride, 1), convolution(channels, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x), self.pool(x)], 1)


class NarrowInception(nn.Module):
    """Stem and two mixed blocks, with timm's interface."""

    def __init__(self) -> None:
        super().__init__()
        names = {"stem": 8, "mixed_a": 12, "mixed_b": 24}
        self.feature_info = [{"module": name, "num_chs": width} for name, width in names.items()]
        self.stem = convolution(3, 8, 3, 2)
        self.mixed_a, self.mixed_b = Mixed(8, 4, 2), Mixed(12, 8, 2)

    def forward_intermediates(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        layers = []
        for name in ("stem", "mixed_a", "mixed_b"):
            x = getattr(self, name)(x)
            layers.append(x)
        return x, layers


def _take(kwargs: dict) -> dict:
    """Options of a recipe, without what timm adds for weights."""
    return {name: kwargs[name] for name in ("output_stride",) if name in kwargs}


@register_model
def narrow_vgg(pretrained: bool = False, **kwargs) -> VGG:
    widths = [4, "M", 8, "M", 8, 8, "M", 8, 8, "M", 8, 8, "M"]
    return VGG(widths, num_classes=0, global_pool="", mlp_ratio=0.001, **_take(kwargs))


@register_model
def narrow_inception(pretrained: bool = False, **kwargs) -> NarrowInception:
    return NarrowInception(**_take(kwargs))
