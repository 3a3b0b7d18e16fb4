"""From class maps to logits: pure functions, (B, K, h, w) -> (B, K), finite for every finite map."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def max_pool(maps: Tensor) -> Tensor:
    """Global maximum (Oquab et al. 2015, doi 10.1109/CVPR.2015.7298668): s_c = max_xy M_c."""
    return maps.amax(dim=(2, 3))


def log_sum_exp(maps: Tensor, r: float) -> Tensor:
    """Smooth maximum (Pinheiro and Collobert 2015, arXiv 1411.6228): s_c = 1/r log(1/n sum_xy exp(r M_c)).

    Between the mean (r -> 0) and the maximum (r -> infinity); computed in float32 without overflow.
    """
    flat = maps.float().flatten(2)
    return (torch.logsumexp(r * flat, dim=2) - math.log(flat.shape[2])) / r


def wildcat_pool(maps: Tensor, kmax: float, kmin: float, alpha: float) -> Tensor:
    """WILDCAT (Durand et al. 2017, doi 10.1109/CVPR.2017.631): s_c = (top_c + alpha low_c) / 2.

    top_c is the mean of the highest max(1, round(kmax n)) of the n = h w pixels of M_c, low_c that of the lowest
    max(1, round(kmin n)). Without the second part (kmin or alpha 0), s_c = top_c.
    """
    flat = maps.flatten(2)
    pixels = int(flat.shape[2])  # under torch.jit.trace a shape is a tensor
    top = flat.topk(max(1, round(kmax * pixels)), dim=2).values.mean(2)
    if not kmin or not alpha:
        return top
    low = flat.topk(max(1, round(kmin * pixels)), dim=2, largest=False).values.mean(2)
    return (top + alpha * low) / 2


def peak_pool(maps: Tensor) -> Tensor:
    """Mean of 3x3 maxima, an approximation of peak stimulation (PRM, Zhou et al. 2018, arXiv 1804.00880).

    s_c = mean of max-pooling 3x3 with stride 1 and no padding. The paper averages over the local maxima themselves; here
    a peak counts once for every window that it wins. A side below three pixels is pooled whole.
    """
    window = (min(3, maps.shape[2]), min(3, maps.shape[3]))
    return F.max_pool2d(maps, window, stride=1).mean(dim=(2, 3))
