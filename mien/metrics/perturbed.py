"""Does a map say what the model uses? Scores from changed pictures: ROAD, drop and increase, sensitivity-n, infidelity, regions.

A probability is images -> (B, K). Images are (B, 3, H, W) as it takes them, maps (B, 1, h, w) are resized to them, targets (B,)
are classes. Every score is (B,), and its direction stands in DIRECTIONS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mien import maps as m
from mien.errors import UsageError
from mien.metrics.faithfulness import importance_rank

Probability = Callable[[Tensor], Tensor]
DIRECTIONS = {
    "deletion": False, "insertion": True, "road": True, "average_drop": False, "increase": True, "coherency": True,
    "adcc": True, "sensitivity_n": True, "infidelity": False, "max_sensitivity": False, "region_rank": True,
    "entropy": False, "gini": True, "flip": True, "shift": True, "turn": True,
}  # fmt: skip
"""Score -> higher is better."""
SHARES = (0.2, 0.4, 0.6, 0.8)
"""Of the pixels that ROAD removes."""
MOST_STEPS, RESIDUAL = 400, 2e-4
"""Conjugate gradients of an imputation end at this residual, as a share of the picture's range."""
_KERNEL = ((1 / 12, 1 / 6, 1 / 12), (1 / 6, 0.0, 1 / 6), (1 / 12, 1 / 6, 1 / 12))


def imputed(images: Tensor, kept: Tensor, residual: float = RESIDUAL) -> Tensor:
    """Linear imputation (Rong et al. 2022, arXiv 2202.00449): a missing pixel is the weighted mean of its eight neighbours.

    kept (B, 1, H, W) 1 known, 0 missing; at least one known pixel an image, else its missing pixels are 0. The equations of
    all images are solved together by conjugate gradients, started from a pyramid of means. The published noise is left to the
    caller.
    """
    missing = 1 - kept
    kernel = images.new_tensor(_KERNEL).view(1, 1, 3, 3).repeat(images.shape[1], 1, 1, 1)

    def around(values: Tensor) -> Tensor:
        return F.conv2d(values, kernel, padding=1, groups=values.shape[1])

    weight = around(torch.ones_like(images[:1]))  # less at the border, whose outer neighbours do not count

    def system(values: Tensor) -> Tensor:
        return missing * (weight * values - around(missing * values))

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).flatten(2).sum(2)[..., None, None]

    limit = residual * (images.amax() - images.amin()).clamp_min(1e-6)
    found = missing * _pyramid(images, kept)
    left = missing * around(kept * images) - system(found)
    way, power = left, dot(left, left)
    for _ in range(MOST_STEPS):
        if left.abs().amax() <= limit:
            break
        turned = system(way)
        below = dot(way, turned)
        step = power / torch.where(below > 0, below, 1)
        found, left = found + step * way, left - step * turned
        after = dot(left, left)
        way = left + after / torch.where(power > 0, power, 1) * way
        power = after
    return kept * images + found


def _pyramid(images: Tensor, kept: Tensor) -> Tensor:
    """Missing pixels as means of what is known near them, from coarse to fine."""
    if min(images.shape[-2:]) < 2:
        return images
    total = F.avg_pool2d(images * kept, 2, ceil_mode=True, count_include_pad=False)
    known = F.avg_pool2d(kept, 2, ceil_mode=True, count_include_pad=False)
    coarse = _pyramid(total / known.clamp_min(1e-6), (known > 0).to(kept))
    wide = F.interpolate(coarse, size=images.shape[-2:], mode="bilinear", align_corners=False)
    return kept * images + (1 - kept) * wide


def road(
    probability: Probability, images: Tensor, maps: Tensor, target: Tensor, *, shares: Sequence[float] = SHARES,
    noise: float = 0.01, seed: int = 0,
) -> dict[str, Tensor]:  # fmt: skip
    """ROAD (Rong et al. 2022) as pytorch-grad-cam combines it: (least first - most first) / 2, and both ends, each (B,).

    The target's probability after removing a share of the pixels by `imputed`, mean over the shares. `road` is positive
    where removing what the map calls important costs more than removing what it does not; a random map has 0. `noise` is the
    standard deviation added to imputed pixels, in units of the images.
    """
    size = (images.shape[-2], images.shape[-1])
    rank = importance_rank(m.resize(maps.float(), size), seed)
    total, grain = size[0] * size[1], torch.Generator().manual_seed(seed)
    found: dict[str, list[Tensor]] = {"road_most": [], "road_least": []}
    for share in shares:
        cut = round(share * total)
        for name, kept in (("road_most", rank >= cut), ("road_least", rank < total - cut)):
            known = kept.to(images)
            picture = imputed(images, known)
            if noise:
                drawn = torch.randn(images.shape[1:], generator=grain).to(images)
                picture = picture + (1 - known) * noise * drawn
            found[name].append(_of(probability(picture), target))
    most, least = (torch.stack(found[name], 1).mean(1) for name in ("road_most", "road_least"))
    return {"road": (least - most) / 2, "road_most": most, "road_least": least}


def drop_and_increase(probability: Probability, images: Tensor, maps: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Average drop and increase in confidence (Chattopadhay et al. 2018, arXiv 1710.11063), each (B,).

    Pictures are multiplied by the map, min-max to [0, 1]: average_drop max(0, p - p') / p in [0, 1], increase 1 where p' > p.
    """
    weight = m.min_max(m.resize(maps.float(), (images.shape[-2], images.shape[-1])))
    before, after = _of(probability(images), target), _of(probability(images * weight), target)
    drop = (before - after).clamp_min(0) / before.clamp_min(1e-12)
    return {"average_drop": drop, "increase": (after > before).float()}


def adcc(drop: Tensor, maps: Tensor, masked_maps: Tensor) -> dict[str, Tensor]:
    """ADCC (Poppi et al. 2021, arXiv 2104.10252): harmonic mean of coherency, 1 - complexity and 1 - average drop, (B,).

    masked_maps: maps of the pictures multiplied by the map. Coherency is their Pearson correlation, from [-1, 1] to [0, 1];
    complexity the mean of the map, min-max to [0, 1]. 0 where any of the three is 0.
    """
    coherency = (m.pearson(maps, masked_maps) + 1) / 2
    complexity = m.min_max(maps.float()).flatten(1).mean(1)
    parts = torch.stack((coherency, 1 - complexity, 1 - drop), 1).clamp_min(0)
    whole = torch.where((parts > 0).all(1), 3 / parts.clamp_min(1e-12).reciprocal().sum(1), 0.0)
    return {"coherency": coherency, "adcc": whole}


class Removals(NamedTuple):
    """What removing random sets of cells costs; the same passes serve every map."""

    cells: Tensor
    """(B, D, g, g) bool: removed."""
    drops: Tensor
    """(B, D) p - p' of the target."""


def removals(
    probability: Probability, images: Tensor, target: Tensor, fill: Tensor, *, grid: int = 8, share: float = 0.2,
    draws: int = 24, seed: int = 0,
) -> Removals:  # fmt: skip
    """Random sets of a `share` of the cells of a grid, removed in favour of `fill` (B, 3, H, W); the same for all images."""
    count = max(1, round(share * grid * grid))
    order = torch.stack(
        [torch.randperm(grid * grid, generator=torch.Generator().manual_seed(seed + k)) for k in range(draws)]
    )
    cells = (
        torch.zeros(draws, grid * grid, dtype=torch.bool).scatter_(1, order[:, :count], True).view(draws, 1, grid, grid)
    )
    cells = cells.to(images.device)
    before = _of(probability(images), target)
    drops = []
    for one in cells:
        area = F.interpolate(one[None].float(), size=images.shape[-2:], mode="nearest")
        drops.append(before - _of(probability(torch.where(area > 0, fill, images)), target))
    return Removals(cells.view(1, draws, grid, grid).expand(len(images), -1, -1, -1), torch.stack(drops, 1))


def sensitivity_n(maps: Tensor, removed: Removals) -> Tensor:
    """Sensitivity-n (Ancona et al. 2018, arXiv 1711.06104): Pearson over sets of removed evidence and lost probability, (B,).

    Evidence of a set is the sum of the map over its cells. One n is one share of `removals`. NaN where either does not vary.
    """
    lost, drops = _evidence(maps, removed), removed.drops
    flat = m.is_flat(lost[:, None, None]) | m.is_flat(drops[:, None, None])
    return m.pearson(lost, drops).masked_fill(flat, torch.nan)


def infidelity(maps: Tensor, removed: Removals) -> Tensor:
    """Infidelity (Yeh et al. 2019, arXiv 1901.09392) of a map with its best scale, over the mean square of the drops, (B,).

    Mean over removals of (b x evidence - drop)^2 with b = sum(evidence x drop) / sum(evidence^2), as captum's `normalize`, then
    divided by mean(drop^2): 0 is perfect, 1 what an all-zero map has. NaN where nothing is lost by any removal.
    """
    lost, drops = _evidence(maps, removed), removed.drops
    return relative_infidelity(lost, drops)


def relative_infidelity(evidence: Tensor, drops: Tensor) -> Tensor:
    """As `infidelity`, of sums (B, D) and drops (B, D)."""
    power = evidence.square().sum(1, keepdim=True)
    scale = (evidence * drops).sum(1, keepdim=True) / torch.where(power > 0, power, 1)
    whole = drops.square().mean(1)
    error = (scale * evidence - drops).square().mean(1)
    return (error / torch.where(whole > 0, whole, 1)).masked_fill(whole == 0, torch.nan)


def max_sensitivity(
    look: Callable[[Tensor], Tensor], images: Tensor, maps: Tensor, *, radius: float, draws: int = 8, seed: int = 0
) -> Tensor:
    """Max-sensitivity (Yeh et al. 2019): largest |map' - map| / |map| over `draws` pictures within `radius` a pixel, (B,).

    look: images -> maps; the noise is uniform in [-radius, radius], as in captum. NaN for an all-zero map.
    """
    length, worst = maps.flatten(1).norm(dim=1), torch.zeros(len(maps), device=maps.device)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(draws):
        shift = (2 * torch.rand(images.shape[1:], generator=generator) - 1).to(images) * radius
        away = (look(images + shift) - maps).flatten(1).norm(dim=1)
        worst = torch.maximum(worst, away / torch.where(length > 0, length, 1))
    return worst.masked_fill(length == 0, torch.nan)


def region_effects(probability: Probability, images: Tensor, regions: Tensor, target: Tensor, fill: Tensor) -> Tensor:
    """(B, R) probability of the target that is lost where a region (B, R, H, W bool) turns into `fill`; NaN for an empty one."""
    before = _of(probability(images), target)
    found = []
    for one in regions.unbind(1):
        changed = probability(torch.where(one[:, None], fill, images))
        found.append((before - _of(changed, target)).masked_fill(~one.flatten(1).any(1), torch.nan))
    return torch.stack(found, 1)


def region_shares(maps: Tensor, regions: Tensor) -> Tensor:
    """(B, R) share of the positive part of maps in regions (B, R, H, W bool), NaN for an empty region or map."""
    positive = m.resize(maps.float().clamp_min(0), (regions.shape[-2], regions.shape[-1]))
    total = positive.flatten(1).sum(1)[:, None]
    inside = (positive * regions).flatten(2).sum(2)
    empty = (total <= 0) | ~regions.flatten(2).any(2)
    return (inside / torch.where(total > 0, total, 1)).masked_fill(empty, torch.nan)


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Spearman over the columns that are known in both (B, R), mean ranks for ties; NaN with fewer than three or no spread."""
    known = first.isfinite() & second.isfinite()
    ranks = [_mean_ranks(side, known) for side in (first, second)]
    count = known.sum(1, keepdim=True).clamp_min(1)
    a, b = (torch.where(known, side - (side * known).sum(1, keepdim=True) / count, 0.0) for side in ranks)
    power = (a.square().sum(1) * b.square().sum(1)).sqrt()
    none = (known.sum(1) < 3) | (power == 0)
    return ((a * b).sum(1) / torch.where(power > 0, power, 1)).masked_fill(none, torch.nan)


def _mean_ranks(values: Tensor, known: Tensor) -> Tensor:
    data = torch.where(known, values, torch.inf)
    below = (data[:, None, :] < data[:, :, None]).sum(2)
    same = ((data[:, None, :] == data[:, :, None]) & known[:, None, :]).sum(2)
    return torch.where(known, below + (same - 1) / 2, 0.0).float()


def entropy(maps: Tensor) -> Tensor:
    """Entropy of |map| as shares, in nats, (B,) (Bhatt et al. 2020, arXiv 2005.00631). Lower is simpler; NaN for an empty map."""
    values = maps.flatten(1).abs().double()
    total = values.sum(1, keepdim=True)
    shares = values / torch.where(total > 0, total, 1)
    found = -torch.xlogy(shares, shares).sum(1)
    return found.masked_fill(total[:, 0] == 0, torch.nan).float()


def gini(maps: Tensor) -> Tensor:
    """Gini index of |map|, (B,) in [0, 1] (Chalasani et al. 2020, arXiv 1810.06583). Higher is sparser; NaN for an empty map."""
    values = maps.flatten(1).abs().double().sort(1).values
    n = values.shape[1]
    place = torch.arange(1, n + 1, device=maps.device)
    total = values.sum(1)
    found = ((2 * place - n - 1) * values).sum(1) / (n * torch.where(total > 0, total, 1))
    return found.masked_fill(total == 0, torch.nan).float()


def localisation(maps: Tensor, region: Tensor, cut: float) -> dict[str, Tensor]:
    """IoU, precision, recall and F1 of {map >= cut x its maximum} against region (B, 1, H, W bool), each (B,) in [0, 1].

    The map is min-max to [0, 1] first. NaN where the region is empty; precision 0 never: the maximum is always inside.
    """
    if not 0 < cut <= 1:
        raise UsageError(f"cut is {cut}; give a share of the maximum above 0, up to 1.")
    size = (region.shape[-2], region.shape[-1])
    said, true = (m.min_max(m.resize(maps.float(), size)) >= cut).flatten(1), region.flatten(1)
    both, empty = (said & true).sum(1).float(), ~true.any(1)
    precision, recall = both / said.sum(1).clamp_min(1), both / true.sum(1).clamp_min(1)
    found = {
        "iou": both / (said | true).sum(1).clamp_min(1),
        "precision": precision,
        "recall": recall,
        "f1": 2 * both / (said.sum(1) + true.sum(1)).clamp_min(1),
    }
    return {name: values.masked_fill(empty, torch.nan) for name, values in found.items()}


def _evidence(maps: Tensor, removed: Removals) -> Tensor:
    cells = m.resize(maps.float(), (removed.cells.shape[-2], removed.cells.shape[-1]))
    return (cells * removed.cells).flatten(2).sum(2)


def _of(probabilities: Tensor, target: Tensor) -> Tensor:
    return probabilities.float().gather(1, target[:, None])[:, 0]
