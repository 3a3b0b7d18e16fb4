"""What an AUDetNet hands back."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class AudetOutput(NamedTuple):
    """Everything that `AudetNet(images)` returns; nothing is kept on the module."""

    z1: Tensor
    """(B, C1, h, w) the first C1 channels of the embedding, which the AU predictor sees; h = w = 1 in the published nets."""
    z2: Tensor
    """(B, C2, h, w) the other channels: subject, pose, light. C2 is 0 in nets without a split."""
    logits: Tensor
    """(B, A) what the AU predictor puts out, one column for each name in `AudetNet.action_units`."""
    action_units: Tensor
    """(B, A) probability 0-1 that the unit is active, or its intensity 0-5 where `AudetNet.regresses`."""
    reconstruction: Tensor | None
    """(B, 3, H, W) RGB in [-1, 1]; None in nets without a decoder."""
    skips: tuple[Tensor, ...] = ()
    """What the decoder takes from the encoder by [skip] beside z1 and z2, (B, C, h, w) each; they belong to z2."""
