"""Heads: layers of a backbone -> logits and class activation maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mien.models.token_heads import ClassTokenHead, TsCamHead
from mien.schema import HeadOutput, Layers, LinearChain


class GapHead(nn.Module):
    """Global average pooling and a linear layer (CAM, Zhou et al. 2016, arXiv 1512.04150).

    logits_c = sum_k W[c,k] mean_xy F_k + b_c; maps_c(x,y) = sum_k W[c,k] F_k(x,y), raw and without bias.
    """

    def __init__(self, channels: int, classes: int, drop: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, channels))
        self.bias = nn.Parameter(torch.zeros(classes))
        self.drop = nn.Dropout(drop)
        nn.init.xavier_uniform_(self.weight)

    def forward(self, layers: Layers, labels: Tensor | None = None) -> HeadOutput:
        """Last layer (B, C, h, w) -> logits (B, K), maps (B, K, h, w); labels are not needed."""
        features = layers.features[-1]
        logits = F.linear(self.drop(features.mean(dim=(2, 3))), self.weight, self.bias)
        return HeadOutput(logits, torch.einsum("kc,bchw->bkhw", self.weight, features))

    def chain(self, features: Tensor) -> LinearChain | None:
        """One linear layer after pooling, whatever the features; None while dropout changes it."""
        return None if self.training and self.drop.p else LinearChain(True, (self.weight,), (self.bias,))


HEADS: dict[str, type[nn.Module]] = {"gap": GapHead, "ts_cam": TsCamHead, "cls": ClassTokenHead}
"""Name -> head, made as head(channels, classes, drop, **model.head_options), called as head(layers, labels)."""
