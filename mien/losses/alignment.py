"""Guidance: a map of the model is pulled towards the cue (Belharbi et al. 2024, arXiv 2402.00281, eq. 1-3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mien import maps
from mien.losses.barrier import log_barrier
from mien.losses.config import GuidanceConfig
from mien.losses.shared import shared_total
from mien.schema import Cue, layer_index

SIMILARITIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": maps.cosine,
    "pearson": maps.pearson,
    "standardised_cosine": maps.standardised_cosine,
    "paper": maps.paper,
    "l1": maps.l1,
    "l2": maps.l2,
    "kl": maps.kl,
}
"""Name -> score of (map, cue), (B,). DISTANCES are better when lower, the others when higher."""

Resize = Callable[[Tensor, tuple[int, int]], Tensor]
"""(maps, (h, w)) -> maps of that size."""

DISTANCES = ("l1", "l2", "kl")


def half(channels: int) -> int:
    """Channels of the first half: C // 2, at least 1."""
    return max(channels // 2, 1)


def mean(features: Tensor, fraction: float, generator: torch.Generator | None) -> Tensor:
    """(1/C) sum_c a_c."""
    return maps.channel_mean(features)


def first_half(features: Tensor, fraction: float, generator: torch.Generator | None) -> Tensor:
    """Mean of the first C // 2 channels; the others stay free."""
    return maps.channel_mean(features[:, : half(features.shape[1])])


def second_half(features: Tensor, fraction: float, generator: torch.Generator | None) -> Tensor:
    """Mean of the last C - C // 2 channels."""
    return maps.channel_mean(features[:, features.shape[1] // 2 :])


def first_fraction(features: Tensor, fraction: float, generator: torch.Generator | None) -> Tensor:
    """Mean of the first int(q C) channels, at least one (`avg_fixed_q`)."""
    return maps.channel_mean(features[:, : max(int(fraction * features.shape[1]), 1)])


def random(features: Tensor, fraction: float, generator: torch.Generator | None) -> Tensor:
    """Mean of channels drawn with chance p, anew for every face and step (`random_avg`); zero where none is drawn."""
    draws = torch.rand(features.shape[:2], generator=generator, device=features.device)
    chosen = (draws < fraction).to(features.dtype)[:, :, None, None]
    return (features * chosen).sum(1, keepdim=True) / chosen.sum(1, keepdim=True).clamp_min(1)


def every(features: Tensor, fraction: float, generator: torch.Generator | None) -> Tensor:
    """All channels, side by side."""
    return features


CHANNELS: dict[str, Callable[[Tensor, float, torch.Generator | None], Tensor]] = {
    "mean": mean,
    "all_joint": every,
    "all_per_channel": every,
    "first_half": first_half,
    "second_half": second_half,
    "fraction": first_fraction,
    "random": random,
}
"""Name -> maps to compare, (B, 1, h, w) or (B, C, h, w), of (attribution, fraction, generator)."""


def alignment_loss(
    attention: Tensor, cue: Cue, similarity: str = "cosine", *, per_channel: bool = False, t: float | None = None
) -> Tensor:
    """Mean over valid faces of 1 - similarity(attention, cue), or of the distance; 0 with gradient when no face is valid.

    Args:
        attention: (B, 1, h, w), e.g. `maps.channel_mean` of a layer, or (B, C, h, w): all channels are compared with the
            cue at once, with statistics over channels and cells together.
        cue: maps (B, 1, h, w) at the same resolution.
        similarity: key of SIMILARITIES.
        per_channel: compare each channel with the cue by itself, then take the mean over channels.
        t: sharpness of the extended log barrier of similarity >= 0, which then takes the place of 1 - similarity.

    Invalid rows (Neutral, landmarks unknown) have weight zero; nothing waits for the device.

    """
    faces, channels = attention.shape[:2]
    target = cue.maps.expand_as(attention)
    if per_channel:
        attention, target = attention.flatten(0, 1)[:, None], target.flatten(0, 1)[:, None]
    score = SIMILARITIES[similarity](attention, target)
    if per_channel:
        score = score.view(faces, channels).mean(1)
    loss = score if similarity in DISTANCES else 1 - score
    if t is not None:
        loss = log_barrier(-score, t)
    weight = cue.valid.to(loss.dtype)
    return (loss * weight).sum() / shared_total(weight, 1.0)


def resolve_layers(layers: Sequence[int], count: int, section: str = "guidance") -> list[int]:
    """Layer numbers of a recipe (1 = shallowest, -1 = last) as indices into Output.features."""
    return [layer_index(layer, count, f"{section}.layers") for layer in layers]


def compared_map(
    attribution: Tensor, config: GuidanceConfig, size: Sequence[int], generator: torch.Generator | None = None,
    resize: Resize = maps.resize,
) -> Tensor:  # fmt: skip
    """What is compared with a cue of `size` (h, w): channels chosen, resized, normalised; (B, 1 or C, h, w).

    Gradients are as small as 1 / (h w C), so attributions by gradients are divided by their largest value (a constant),
    which puts them into [-1, 1]; activations stay as they are. `resize` is that of the cue (`mien.cues.map_resize`).
    """
    chosen = CHANNELS[config.channels](attribution, config.fraction, generator)
    if config.attribution != "activation":
        chosen = maps.peak_one(chosen)
    chosen = resize(chosen, (size[0], size[1]))
    return maps.spatial_softmax(chosen) if config.normalise == "softmax" else chosen


def guidance_loss(
    attributions: Sequence[Tensor], cues: Sequence[Cue], config: GuidanceConfig, t: float = 1.0,
    generator: torch.Generator | None = None, resize: Resize = maps.resize,
) -> Tensor:  # fmt: skip
    """Arithmetic mean over layers of the alignment of their attribution (B, C, h, w) with the cue, without the weight.

    `t` is the sharpness of the barrier, `generator` draws the channels of `random`, `resize` is that of the cue.
    """
    losses = [
        alignment_loss(
            compared_map(a, config, cue.maps.shape[-2:], generator, resize), cue, config.similarity,
            per_channel=config.channels == "all_per_channel", t=t if config.barrier else None,
        )
        for a, cue in zip(attributions, cues, strict=True)
    ]  # fmt: skip
    return torch.stack(losses).mean()
