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


def within_share(z: Tensor, groups: Tensor) -> Tensor:
    """Share of the variance of z (B, D) that lies inside groups (B,), 0 to 1; 0 for rows equal in each group.

    A share, so that a small embedding is no way out of it. Rows of group -1, and groups of one row, do not count; 0 where fewer
    than two groups are left.
    """
    z, (inverse, counts) = (
        z[groups >= 0],
        torch.unique(groups[groups >= 0], return_inverse=True, return_counts=True)[1:],
    )
    several = counts[inverse] > 1
    z, (inverse, counts) = z[several], torch.unique(inverse[several], return_inverse=True, return_counts=True)[1:]
    if len(counts) < 2:
        return z.sum() * 0
    means = z.new_zeros(len(counts), z.shape[1]).index_add(0, inverse, z) / counts[:, None]
    inside = (z - means[inverse]).square().sum()
    return inside / (z - z.mean(0)).square().sum().clamp_min(1e-8)


def regression_share(found: Tensor, wanted: Tensor) -> Tensor:
    """Squared error of an embedding found again (B, D), as a share of the variance of the one that was wanted over the batch.

    Nothing flows back into `wanted`. 0 where the embedding came back as it was put in; 1 is what a constant gets.
    """
    wanted = wanted.detach()
    return (found - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum().clamp_min(1e-8)
