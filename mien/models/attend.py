"""Modules that change features by their own channel mean, put behind named modules of a timm net."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mien.errors import UsageError

ADL_THRESHOLD = 0.1
"""Share of the highest attention from which ADL drops, as in Belharbi et al. 2024."""


def attention_dropout(features: Tensor, drop: Tensor, threshold: float = ADL_THRESHOLD) -> Tensor:
    """ADL (Choe and Shim 2019, arXiv 1908.10028): hide the most attended place, or stress it.

    With A = channel mean: F * [A < threshold max_xy A] where `drop` is True, else F * sigmoid(A).

    Args:
        features: (B, C, h, w).
        drop: () bool, one draw for the whole batch as in the paper.
        threshold: share of the maximum of A.

    """
    attention = features.mean(dim=1, keepdim=True)
    kept = (attention < threshold * attention.amax(dim=(2, 3), keepdim=True)).to(features.dtype)
    return features * torch.where(drop, kept, attention.sigmoid())


def self_attention(features: Tensor) -> Tensor:
    """Features times their own channel mean, (B, C, h, w); the channel mean becomes its own square."""
    return features * features.mean(dim=1, keepdim=True)


class AttentionDropout(nn.Module):
    """`attention_dropout` with probability `rate`, in training only; the draw is torch's current generator."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> the same shape."""
        if not self.training:
            return features
        return attention_dropout(features, torch.rand((), device=features.device) < self.rate)


class SelfAttention(nn.Module):
    """`self_attention` as a module."""

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> the same shape."""
        return self_attention(features)


class FeatureMaps(nn.Module):
    """Refuses what is not (B, channels, h, w), on behalf of a recipe key; adds nothing else."""

    def __init__(self, channels: int, key: str) -> None:
        super().__init__()
        self.channels, self.key = channels, key

    def forward(self, features: Tensor) -> Tensor:
        """(B, channels, h, w), unchanged."""
        if not isinstance(features, Tensor) or features.dim() != 4 or features.shape[1] != self.channels:
            raise UsageError(
                f"{self.key} needs a CNN whose stages hand on feature maps; choose another model.backbone."
            )
        return features


def insert_behind(net: nn.Module, places: Sequence[tuple[str, int]], module: nn.Module, key: str) -> None:
    """Put `module` (without parameters) behind the named modules of `net`.

    A named module becomes a sequence of itself, as `block`, and the new one, so that whatever calls it gets the changed
    features. Weights that were loaded before stay where they are.

    Args:
        net: timm net.
        places: (name of a module, channels of its output).
        module: (B, C, h, w) -> (B, C, h, w).
        key: recipe key that wants it, for the error of a net without feature maps.

    """
    for name, channels in places:
        parts = OrderedDict(block=net.get_submodule(name), check=FeatureMaps(channels, key), attend=module)
        net.set_submodule(name, nn.Sequential(parts))


def adl_places(net: nn.Module, stages: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """Where ADL goes: in a ResNet behind the first block of the third stage, the first and the last of the fourth.

    (As in Belharbi et al. 2024.) Any other net gets it behind its last two stages; `stages` are (name, channels) of all.
    """
    from timm.models import ResNet

    if not isinstance(net, ResNet):
        return list(stages[-2:])
    third, fourth = stages[-2], stages[-1]
    last = len(net.get_submodule(fourth[0])) - 1
    blocks = [(f"{third[0]}.0", third[1]), (f"{fourth[0]}.0", fourth[1]), (f"{fourth[0]}.{last}", fourth[1])]
    return list(dict.fromkeys(blocks))
