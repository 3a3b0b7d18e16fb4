"""What speaks for an expression and against its runner-up, by region of the face and by action unit.

Everything is a pure function of tensors of a batch. Maps are (B, 1, h, w), regions (B, R, h, w).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mien import maps as m
from mien.errors import UsageError
from mien.explain import explain
from mien.metrics.faithfulness import FILLS
from mien.schema import Output


def runner_up(probabilities: Tensor, target: Tensor) -> Tensor:
    """Most probable class beside `target` (B,) of probabilities (B, K), (B,)."""
    others = probabilities.scatter(1, target[:, None], -1.0)
    return others.argmax(1)


def class_contrast(
    model: nn.Module, images: Tensor, output: Output, first: Tensor, second: Tensor, guide: Tensor | None = None
) -> Tensor | None:
    """Evidence for the class `first` less that for `second` (B,), on the input picture, (B, 1, h, w).

    The difference of the model's class maps. With global average pooling and a linear head its mean is
    logit_first - logit_second less the difference of the biases. A head without class maps takes the difference of two
    HiResCAMs, whose sum is that of a linear head too; None where no gradient reaches the last layer.
    """
    if output.maps is not None:
        rows = torch.arange(len(first), device=output.maps.device)
        return m.to_input((output.maps[rows, first] - output.maps[rows, second])[:, None], output.theta)
    try:
        one, other = (explain(model, images, k, ("hires_cam",), guide=guide)["hires_cam"] for k in (first, second))
    except UsageError:
        return None
    return one - other


def shares(maps: Tensor, regions: Tensor) -> Tensor:
    """Share of a map's positive part in each region, (B, R); 0 everywhere for a map without any.

    A cell of the map counts for the regions by the shares of its area. Regions that make up the whole add up to 1.
    """
    positive = maps.float().clamp_min(0)
    inside = F.adaptive_avg_pool2d(regions.float(), (maps.shape[-2], maps.shape[-1]))
    total = positive.sum((1, 2, 3)).clamp_min(m.EPS)
    return (positive * inside).sum((2, 3)) / total[:, None]


def densities(contrast: Tensor, units: Tensor) -> Tensor:
    """Mean of a signed map in each unit's region, in units of the mean magnitude of the map, (B, U).

    sum(contrast * unit) / sum(unit) / mean |contrast|; 0 for an empty region and a map that is zero.
    """
    flat, weight = contrast.float().flatten(1), units.float().flatten(2)
    area, scale = weight.sum(2), flat.abs().mean(1, keepdim=True)
    mean = torch.einsum("bp,bup->bu", flat, weight) / area.clamp_min(m.EPS)
    return torch.where((area > m.EPS) & (scale > 0), mean / scale.clamp_min(m.EPS), 0.0)


def masked(images: Tensor, regions: Tensor, fill: str = "blur") -> Tensor:
    """Every image with each region replaced by the fill (a key of FILLS), (B, R, 3, H, W); regions are 0 or 1."""
    mask = F.interpolate(regions.float(), size=images.shape[-2:], mode="nearest")[:, :, None]
    return images[:, None] * (1 - mask) + FILLS[fill](images)[:, None] * mask


def effects(
    probability: Callable[[Tensor, Tensor], Tensor],
    images: Tensor,
    regions: Tensor,
    target: Tensor,
    before: Tensor,
    fill: str = "blur",
    chunk: int = 256,
) -> Tensor:
    """What each region is worth: probability of `target` (B,) as it is, less that with the region blurred, (B, R).

    In [-1, 1]; above 0 the region speaks for the class.

    Args:
        probability: (images, rows of the batch that they come from) -> (N, K).
        images: (B, 3, H, W) normalised.
        regions: (B, R, g, g) 0 or 1.
        target: class of each image.
        before: its probability (B,) for the whole image.
        fill: key of FILLS: `blur`, or `mean` for the mean colour.
        chunk: changed images in one pass.

    """
    count = regions.shape[1]
    rows = torch.arange(len(images), device=images.device)
    source, changed = rows.repeat_interleave(count), masked(images, regions, fill).flatten(0, 1)
    parts = zip(changed.split(chunk), source.split(chunk), strict=True)
    after = torch.cat([probability(part, origin) for part, origin in parts])
    return before[:, None] - after.gather(1, target[source][:, None]).view(-1, count)
