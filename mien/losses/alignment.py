"""Guidance: layer attention is pulled towards the cue (Belharbi et al. 2024, arXiv 2402.00281, eq. 1-3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mien import maps
from mien.schema import Cue, layer_index

SIMILARITIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"cosine": maps.cosine, "pearson": maps.pearson}


def alignment_loss(attention: Tensor, cue: Cue, similarity: str = "cosine") -> Tensor:
    """Mean over valid faces of 1 - similarity(attention, cue); 0 with gradient when no face is valid.

    Args:
        attention: (B, 1, h, w), e.g. `maps.channel_mean` of a layer.
        cue: maps (B, 1, h, w) at the same resolution.
        similarity: key of SIMILARITIES.

    Invalid rows (Neutral, landmarks unknown) have weight zero; nothing waits for the device.

    """
    loss = 1 - SIMILARITIES[similarity](attention, cue.maps)
    weight = cue.valid.to(loss.dtype)
    return (loss * weight).sum() / weight.sum().clamp_min(1)


def resolve_layers(layers: Sequence[int], count: int) -> list[int]:
    """Layer numbers of a recipe (1 = shallowest, -1 = last) as indices into Output.features."""
    return [layer_index(layer, count, "guidance.layers") for layer in layers]


def guidance_loss(features: Sequence[Tensor], cues: Sequence[Cue], similarity: str) -> Tensor:
    """Arithmetic mean over layers of the alignment of their channel mean with the cue of the same resolution."""
    losses = [alignment_loss(maps.channel_mean(f), cue, similarity) for f, cue in zip(features, cues, strict=True)]
    return torch.stack(losses).mean()
