"""The only place where a map changes scale, and the similarities between maps.

Losses and metrics call the same functions, so what is trained is what is measured. Maps are (B, 1, h, w) unless said
otherwise; scores are (B,). Similarities are computed in float32 (float64 stays) and are finite for every finite input.
They flatten all axes but the first, so (B, C, h, w) against (B, C, h, w) compares all channels at once.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-8
EPS_FLAT = 1e-6
"""A map whose values differ from their mean by less than this share of its peak is constant up to rounding."""


def numbers(values: tuple[float, ...], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Constants (N,) where `like` lies, of its type unless said; copied to an accelerator once, not in every step."""
    kind = like.dtype if dtype is None else dtype
    return torch.tensor(values, dtype=kind) if like.device.type == "cpu" else _kept_numbers(values, like.device, kind)


@cache
def _kept_numbers(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # what is kept must be of use to gradients later
        return torch.tensor(values, dtype=dtype, device=device)


def off_diagonal(matrix: Tensor) -> Tensor:
    """(..., n, n) -> (..., n, n - 1): each row without its place on the diagonal. A mask would wait for the device to count."""
    n = matrix.shape[-1]
    return matrix.flatten(-2)[..., 1:].unflatten(-1, (n - 1, n + 1))[..., :-1].reshape(*matrix.shape[:-1], n - 1)


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


def published_resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """The resize of the code of Belharbi et al. 2024: bilinear, aligned corners, antialiased, clamped to each map's own range.

    With both switches torch takes pixel i of n from (i + 1/2) (N - 1) / (n - 1), so that maps stretch to the right and down:
    by a seventh of the side from 224 to 7 cells. Up again with the same call undoes it: cues of codebook `paper` and attention
    that is scored against them must both take this one.
    """
    if tuple(maps.shape[-2:]) == size:
        return maps
    low, high = maps.amin((1, 2, 3), keepdim=True), maps.amax((1, 2, 3), keepdim=True)
    resized = F.interpolate(maps, size=size, mode="bilinear", align_corners=True, antialias=True)
    return torch.minimum(torch.maximum(resized, low), high)


def to_input(maps: Tensor, theta: Tensor | None) -> Tensor:
    """Maps of a net behind a spatial transformer, as they lie on the input picture, (B, C, h, w); as they are without one.

    theta (B, 2, 3) as in `Output`, taken as a constant. What the net did not see is zero. A theta that squeezes the picture
    onto a line or a point has no inverse; its pseudo-inverse stands in, so that the result is always finite.
    """
    if theta is None:
        return maps
    whole = theta.detach().to(torch.promote_types(maps.dtype, torch.float32))
    turn, shift = whole[:, :, :2], whole[:, :, 2:]
    (a, b), (c, d) = turn[:, 0].unbind(1), turn[:, 1].unbind(1)
    determinant, power = a * d - b * c, turn.square().sum((1, 2))
    regular = (determinant.abs() > EPS_FLAT * power)[:, None, None]
    adjugate = torch.stack((d, -b, -c, a), dim=1).view(-1, 2, 2)
    inverse = adjugate / torch.where(regular, determinant[:, None, None], 1)
    rank_one = turn.transpose(1, 2) / power.clamp_min(EPS)[:, None, None]
    back = torch.where(regular, inverse, rank_one)
    grid = F.affine_grid(torch.cat((back, -back @ shift), dim=2), list(maps.shape), align_corners=False)
    seen = (grid.abs() <= 1 + EPS_FLAT).all(3)[:, None]
    whole_maps = maps.to(whole.dtype)
    found = F.grid_sample(whole_maps, grid.clamp(-2, 2), padding_mode="border", align_corners=False)
    return (found * seen).to(maps.dtype)


def spatial_softmax(maps: Tensor) -> Tensor:
    """exp(map) / sum over its cells of exp(map), of every (h, w) map on its own; the largest value is subtracted first."""
    return rows(maps, -2).softmax(-1).reshape(maps.shape)


def peak_one(maps: Tensor) -> Tensor:
    """Divide by the largest absolute value of each sample, taken as a constant; an all-zero map stays zero.

    Attributions can be as small as 1e-6. Similarities do not see a scale, but their epsilons and half precision would.
    """
    return _peak_one(rows(maps)).reshape(maps.shape)


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """Cosine similarity over pixels, (B,) in [-1, 1]; 0 when either map is all zero. Higher is more alike.

    Offset-sensitive: a constant map scores about 0.47 against AU maps, so always report baselines beside it.
    """
    return _cosine(_peak_one(rows(first)), _peak_one(rows(second)))


def pearson(first: Tensor, second: Tensor) -> Tensor:
    """Pearson correlation over pixels, (B,) in [-1, 1]; 0 when either map is constant. Free of offset and scale."""
    return _cosine(_centred(rows(first)), _centred(rows(second)))


def standardised_cosine(first: Tensor, second: Tensor) -> Tensor:
    """Cosine of the standardised first map with the second as it is (`std_cosine` of Belharbi et al. 2024), (B,).

    Equals pearson * |M - mean M| / |M| of the second map M, so it cannot reach 1. 0 when the first map is constant.
    """
    return _cosine(_centred(rows(first)), _peak_one(rows(second)))


def paper(first: Tensor, second: Tensor) -> Tensor:
    """(1/N) sum over pixels of ((m - mean m) / std m) * h: the privileged attribution loss, negated and divided by N.

    With population statistics it equals std(h) * pearson (Bonnard et al. 2022, arXiv 2203.12905), (B,). Peaked cues count
    more. 0 when either map is constant.
    """
    target = rows(second)
    return pearson(first, second) * (target - target.mean(1, keepdim=True)).square().mean(1).clamp_min(EPS).sqrt()


def l1(first: Tensor, second: Tensor) -> Tensor:
    """Mean absolute difference over pixels, (B,). Lower is more alike; sees offset and scale."""
    return (rows(first) - rows(second)).abs().mean(1)


def l2(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared difference over pixels, (B,). Lower is more alike; sees offset and scale."""
    return (rows(first) - rows(second)).square().mean(1)


def kl(first: Tensor, second: Tensor) -> Tensor:
    """Mean over pixels of KL((M, 1 - M) || (T, 1 - T)) with T the spatial softmax of the first map, (B,). Lower is better.

    The published form (Belharbi et al. 2024) takes each pixel as a coin, though T sums to 1 over the map and M does not.
    """
    log_share = rows(first, -2).log_softmax(-1).flatten(1)
    rest = torch.log1p(-log_share.exp().clamp(max=1 - EPS_FLAT))
    target = rows(second).clamp(0, 1)
    entropy = torch.xlogy(target, target) + torch.xlogy(1 - target, 1 - target)
    return (entropy - target * log_share - (1 - target) * rest).mean(1)


def rows(maps: Tensor, start: int = 1) -> Tensor:
    """Flatten from axis `start` on, in float32 or better: half precision would lose small maps."""
    return maps.flatten(start).to(torch.promote_types(maps.dtype, torch.float32))


def is_flat(maps: Tensor) -> Tensor:
    """(B,) bool: the map is constant up to rounding (all zero among them), so that nothing correlates with it."""
    return ~_centred(rows(maps)).any(1)


def _peak_one(flat: Tensor) -> Tensor:
    peak = flat.detach().abs().amax(1, keepdim=True)
    return flat / torch.where(peak > 0, peak, torch.ones_like(peak))


def _centred(flat: Tensor) -> Tensor:
    """Mean removed. What is left of a constant map is rounding, which becomes zero."""
    scaled = _peak_one(flat)
    centred = scaled - scaled.mean(1, keepdim=True)
    constant = centred.detach().abs().amax(1, keepdim=True) <= EPS_FLAT
    return torch.where(constant, torch.zeros_like(centred), centred)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    squares = a.square().sum(1) * b.square().sum(1)
    zero = squares == 0
    return torch.where(zero, 0, (a * b).sum(1) * torch.where(zero, 1, squares).rsqrt())


def energy_in_mask(maps: Tensor, cue: Tensor, threshold: float = 0.5) -> Tensor:
    """Share of a non-negative map's mass where cue >= threshold, (B,) in [0, 1]; 0 for an all-zero map.

    Energy-based pointing game (Wang et al. 2020, Score-CAM). Negative values count as zero. The share does not depend on how
    much mass there is: a map of 1e-30 scores what the same map of 1 does. Higher is better.
    """
    positive = _peak_one(rows(maps).clamp_min(0))
    inside = (cue.flatten(1) >= threshold).to(positive.dtype)
    total = positive.sum(1)
    return (positive * inside).sum(1) / torch.where(total > 0, total, 1)


def otsu_threshold(maps: Tensor) -> Tensor:
    """Otsu's threshold (1979) of each map in its own units, (B, 1, 1, 1): largest between-class variance of 256 levels.

    The levels divide each map's own range, so the answer follows scale and offset. A constant map has no two classes: its
    threshold is 0. Equal to OpenCV's for 8-bit pictures that use their whole range.
    """
    flat = maps.detach().float().flatten(1)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    spread = torch.where(high > low, high - low, torch.ones_like(low))
    level = ((flat - low) / spread * 255 + 0.5).long()
    exact = torch.float32 if flat.device.type == "mps" else torch.float64
    count = torch.zeros(len(flat), 256, dtype=exact, device=flat.device)
    count.scatter_add_(1, level, torch.ones_like(flat, dtype=exact))
    values = torch.arange(256, dtype=exact, device=flat.device)
    below = count.cumsum(1) / flat.shape[1]
    moment = (count * values).cumsum(1) / flat.shape[1]
    between = (moment[:, -1:] * below - moment).square() / (below * (1 - below)).clamp_min(1e-12)
    cut = between.argmax(1, keepdim=True)  # levels up to the cut are background
    threshold = torch.where(high > low, low + (cut + 0.5) / 255 * spread, torch.zeros_like(low))
    return threshold.view(-1, 1, 1, 1).to(maps.dtype)


def otsu_region(maps: Tensor) -> Tensor:
    """(B, 1, h, w) bool: above `otsu_threshold`; all of a constant positive map, nothing of an empty one."""
    return maps > otsu_threshold(maps)
