"""Terms that part z1 from z2 by swapping: pure functions of what a batch gives.

Which are used, and how much each weighs, says the third block of {General}; 0 leaves a term out.
"""

from __future__ import annotations

import torch
from torch import Tensor


def partners(groups: Tensor, away: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """For each row of a batch a row (B,) of its own group to take a part of the embedding from, at random.

    Args:
        groups: (B,) number of the group, -1 for none.
        away: (B,) rows that are equal here are no partners, -1 excepted; rows of the same face would be none.
        share: probability of a row that has partners to take one's; else it keeps its own.
        generator: on the CPU.

    """
    rows = torch.arange(len(groups))
    allowed = (groups[:, None] == groups) & (groups[:, None] >= 0) & (rows[:, None] != rows)
    allowed &= (away[:, None] != away) | (away[:, None] < 0)
    draw = torch.rand(allowed.shape, generator=generator).masked_fill(~allowed, -1.0)
    takes = torch.rand(len(groups), generator=generator) < share
    best, found = draw.max(1)
    return torch.where(takes & (best >= 0), found, rows)


def weighted_l1(pictures: Tensor, others: Tensor, weights: Tensor) -> Tensor:
    """Mean absolute difference of pictures (B, C, H, W), each pixel weighted by weights (B, 1, H, W) > 0."""
    error = (pictures - others).abs().mean(1, keepdim=True)
    return (error * weights).sum() / weights.sum()


def group_means(groups: Tensor) -> Tensor:
    """(B, B) weights that turn rows of a batch into the means of their groups (B,); a row of zeros for one that does not count.

    Rows of group -1, and groups of one row, do not count; all are zeros where fewer than two groups are left. On the CPU, so
    that a device need not be waited for.
    """
    alike = (groups[:, None] == groups) & (groups[:, None] >= 0)
    sizes = alike.sum(1)
    alike &= (sizes > 1)[:, None]
    means = alike / sizes.clamp_min(1)[:, None]
    return means if float(means.diagonal().sum()) > 1.5 else torch.zeros_like(means)


def within_share(z: Tensor, means: Tensor) -> Tensor:
    """Share of the variance of z (B, D) that lies inside the groups of `group_means` (B, B), 0 to 1; 0 for rows equal in each.

    A share, so that a small embedding is no way out of it. 0 where no group counts.
    """
    counts = means.sum(1, keepdim=True)
    middle = (z * counts).sum(0) / counts.sum().clamp_min(1)
    inside = ((z - means @ z).square() * counts).sum()
    return inside / ((z - middle).square() * counts).sum().clamp_min(1e-8)


def regression_share(found: Tensor, wanted: Tensor) -> Tensor:
    """Squared error of an embedding found again (B, D), as a share of the variance of the one that was wanted over the batch.

    Nothing flows back into `wanted`. 0 where the embedding came back as it was put in; 1 is what a constant gets.
    """
    wanted = wanted.detach()
    return (found - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum().clamp_min(1e-8)
