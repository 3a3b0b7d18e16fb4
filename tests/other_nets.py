"""Nets that Mien never saw, in the forms that circulate: what `mien.wrap` has to take in."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mien.compat import ensure_torchvision

WORDS = ("angry", "disgusted", "fear", "happy", "neutral", "sad", "surprised")


class Small(nn.Module):
    """Two convolutions with activations in place; `answer` says what is returned."""

    def __init__(self, answer: str = "logits", classes: int = 7, size: int | None = None, channels: int = 3) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(channels, 8, 3, 2, 1), nn.Conv2d(8, 12, 3, 2, 1)
        self.act, self.fc, self.answer, self.size = nn.ReLU(inplace=True), nn.Linear(12, classes), answer, size

    def forward(self, x: Tensor) -> Any:
        if self.size is not None and x.shape[-1] != self.size:
            raise ValueError(f"input must be {self.size} x {self.size}")
        maps = F.relu(self.second(self.act(self.first(x))), inplace=True)
        pooled = maps.mean((2, 3))
        if self.answer == "dropout":
            pooled = F.dropout(pooled, 0.5, training=True)
        logits = self.fc(pooled)
        return {
            "logits": logits,
            "dropout": logits,
            "tuple": (pooled, logits, [maps]),
            "dict": {"features": pooled, "logits": logits},
            "softmax": logits.softmax(1),
        }[self.answer]


class Flat(nn.Module):
    """No convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 16), nn.ReLU(), nn.Linear(16, 7))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


def resnet() -> nn.Module:
    """timm's ResNet-18 with random weights."""
    ensure_torchvision()
    import timm

    torch.manual_seed(0)
    return timm.create_model("resnet18", pretrained=False, num_classes=7)


def vit() -> nn.Module:
    """torchvision's vision transformer, small, with random weights."""
    ensure_torchvision()
    from torchvision.models import VisionTransformer

    torch.manual_seed(0)
    net = VisionTransformer(32, 8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=7)
    nn.init.normal_(net.heads.head.weight)  # torchvision starts it at zero: no gradient would reach a layer
    return net


def bright(faces: np.ndarray) -> np.ndarray:
    """A function: the brighter the upper half, the more Anger; the others share the rest."""
    up = faces[:, : faces.shape[1] // 2].mean((1, 2, 3)) / 255
    return np.concatenate([up[:, None], np.repeat((1 - up)[:, None] / 6, 6, 1)], 1).astype(np.float32)


def faces(count: int = 5, side: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
