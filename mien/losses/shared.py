"""Means over the faces of all processes: what 1 x 32 faces give, 2 x 16 give too."""

from __future__ import annotations

from torch import Tensor, distributed


def shared_total(weights: Tensor, least: float = 0.0) -> Tensor:
    """What a sum over the faces of this process is divided by, so that the mean over processes is the mean over all faces.

    `weights` (any shape) count the faces here. Several processes average their gradients, so it is the mean over processes of
    the sums of `weights`; where the whole sum is below `least`, that stands for it. Every process must call it equally often.
    """
    total, processes = weights.sum(), 1
    if distributed.is_available() and distributed.is_initialized():
        processes = distributed.get_world_size()
    if processes > 1:
        total = total.detach().clone()
        distributed.all_reduce(total)
    return total.clamp_min(least) / processes
