"""Inequality constraints as a loss: the extended log barrier (Kervadec et al. 2022, arXiv 1904.04205)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def log_barrier(z: Tensor, t: float = 1.0) -> Tensor:
    """Penalty for the constraint z <= 0, elementwise; finite and with a gradient for every z, also a broken constraint.

        psi_t(z) = -(1/t) log(-z)                       where z <= -1/t^2
                 = t z - (1/t) log(1/t^2) + 1/t         elsewhere

    Both pieces meet with equal slope. Rising t brings it near the hard constraint: 0 where it holds, slope t where it is
    broken. A constraint that holds with room gives negative values, so this is no distance. At t = 1, psi(-c) = 1 - c for
    every c <= 1.

    Args:
        z: left sides of the constraints, any shape.
        t: sharpness > 0; `LossConfig.sharpness` is its schedule.

    """
    border = -1 / t**2
    # not clamp, whose slope at the border differs between versions of torch
    within = torch.where(z <= border, z, border)
    inside = -torch.log(-within) / t
    outside = t * z + 2 * math.log(t) / t + 1 / t
    return torch.where(z <= border, inside, outside)


def excess(z: Tensor, barrier: bool, t: float = 1.0) -> Tensor:
    """Penalty for z <= 0, elementwise: the squared excess max(0, z)^2, or the log barrier at sharpness t."""
    return log_barrier(z, t) if barrier else z.clamp_min(0).square()
