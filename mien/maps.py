"""The only place where a map changes scale, and the similarities between maps.

Losses and metrics call the same functions, so what is trained is what is measured. Maps are (B, 1, h, w) unless said
otherwise; scores are (B,). Similarities are computed in float32 whatever the input, and are finite for every input.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-8


def channel_mean(features: Tensor) -> Tensor:
    """Layer attention T = (1/C) sum_c F_c (Belharbi et al. 2024, eq. 3). (B, C, h, w) -> (B, 1, h, w)."""
    return features.mean(dim=1, keepdim=True)


def min_max(maps: Tensor) -> Tensor:
    """Per-sample min-max to [0, 1]; a constant map becomes all zero."""
    flat = maps.flatten(1)
    low, high = flat.amin(1), flat.amax(1)
    shape = (-1,) + (1,) * (maps.dim() - 1)
    spread = (high - low).view(shape)
    return (maps - low.view(shape)) / torch.where(spread > 0, spread, torch.ones_like(spread))


def shift_to_zero(maps: Tensor) -> Tensor:
    """Subtract the per-sample minimum where it is negative (the paper's rule for attention of transformers)."""
    low = maps.flatten(1).amin(1).clamp(max=0).view((-1,) + (1,) * (maps.dim() - 1))
    return maps - low


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize to (h, w), antialiased, corners not aligned; values stay inside each map's own range."""
    if tuple(maps.shape[-2:]) == size:
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False, antialias=True)


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """Cosine similarity over pixels, (B,) in [-1, 1]; 0 when either map is all zero. Higher is more alike.

    Offset-sensitive: a constant map scores about 0.47 against AU maps, so always report floors beside it.
    """
    a, b = first.float().flatten(1), second.float().flatten(1)
    norms = a.norm(dim=1).clamp_min(EPS) * b.norm(dim=1).clamp_min(EPS)
    return (a * b).sum(1) / norms


def pearson(first: Tensor, second: Tensor) -> Tensor:
    """Pearson correlation over pixels, (B,) in [-1, 1]; 0 when either map is constant. Free of offset and scale."""
    a, b = first.float().flatten(1), second.float().flatten(1)
    return cosine(a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True))


def energy_in_mask(maps: Tensor, cue: Tensor, threshold: float = 0.5) -> Tensor:
    """Share of a non-negative map's mass where cue >= threshold, (B,) in [0, 1]; 0 for an all-zero map.

    Energy-based pointing game (Wang et al. 2020, Score-CAM). Negative values count as zero. Higher is better.
    """
    positive = maps.float().clamp_min(0).flatten(1)
    inside = (cue.flatten(1) >= threshold).to(positive.dtype)
    return (positive * inside).sum(1) / positive.sum(1).clamp_min(EPS)
