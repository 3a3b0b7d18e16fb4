"""How much one part of an embedding tells of another, from samples alone; shared by losses and reports.

Inputs are (N, D1) and (N, D2), one row a face, at least 4 rows. All functions are differentiable, and finite for constant
columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mien.maps import EPS, off_diagonal


def cross_correlation(z1: Tensor, z2: Tensor) -> Tensor:
    """XCov: mean over all pairs of columns (i of z1, j of z2) of their squared Pearson correlation, 0 to 1; lower is better.

    A constant column correlates with nothing (0). Published by AUDetNet as its measure of disentangling; after the
    cross-covariance penalty of Cheung et al. 2014 (arXiv 1412.6583), here free of scale. Independent samples of N rows
    give 1 / (N - 1) on average.
    """
    return (_standardised(z1).T @ _standardised(z2) / len(z1)).square().mean()


def distance_correlation(z1: Tensor, z2: Tensor, unbiased: bool = True) -> Tensor:
    """Squared distance correlation (Szekely et al. 2007, doi 10.1214/009053607000000505); lower is better.

    0 in the population exactly where z1 and z2 are independent, 1 where one is a rotation and rescaling of the other.
    `unbiased` (Szekely and Rizzo 2013, doi 10.1016/j.jmva.2013.02.012) has mean 0 for independent samples of any dimension
    and can be slightly negative; without it, 512 columns in a batch of 16 score about 1 whatever they hold.
    """
    a, b = (_centred(_distances(z), unbiased) for z in (z1, z2))
    return _cosine(a, b)


def hsic(z1: Tensor, z2: Tensor, unbiased: bool = True, bandwidths: tuple[float, float] | None = None) -> Tensor:
    """Hilbert-Schmidt independence criterion with Gaussian kernels exp(-d^2 / 2 s^2); lower is better.

    Gretton et al. 2005 (doi 10.1007/11564089_7); `unbiased`: Song et al. 2012 (JMLR 13, 1393-1434), which can be slightly
    negative. Each bandwidth s is the median distance of its side (no gradient flows through it) unless given.
    """
    kernels = []
    for z, bandwidth in zip((z1, z2), bandwidths or (None, None), strict=True):
        distances = _distances(z)
        apart = off_diagonal(distances.detach())
        scale = apart.median() if bandwidth is None else torch.as_tensor(bandwidth, dtype=z.dtype, device=z.device)
        kernels.append(torch.exp(-distances.square() / (2 * scale.square().clamp_min(EPS))))
    a, b = (_centred(kernel, unbiased) for kernel in kernels)
    n = len(z1)
    return (a * b).sum() / (n * (n - 3) if unbiased else n * n)


def _standardised(z: Tensor) -> Tensor:
    """Columns with mean 0 and variance 1 (over N); constant columns become 0."""
    centred = z - z.mean(0)
    variance = centred.square().mean(0)
    return torch.where(variance > EPS**2, centred / variance.clamp_min(EPS**2).sqrt(), 0.0)


def _distances(z: Tensor) -> Tensor:
    """(N, N) Euclidean distances with a slope of 0 where two rows are equal."""
    squares = z.square().sum(1)
    square = (squares[:, None] + squares[None] - 2 * z @ z.T).clamp_min(0.0)
    apart = square > EPS**2
    return torch.where(apart, torch.where(apart, square, 1.0).sqrt(), 0.0)


def _centred(matrix: Tensor, unbiased: bool) -> Tensor:
    """Rows and columns sum to 0; unbiased: U-centred, without the diagonal (Szekely and Rizzo 2014, arXiv 1310.2926)."""
    n = len(matrix)
    if not unbiased:
        return matrix - matrix.mean(0) - matrix.mean(1, keepdim=True) + matrix.mean()
    off = matrix - torch.diag(torch.diagonal(matrix))
    rows = off.sum(1, keepdim=True) / (n - 2)
    centred = off - rows - rows.T + off.sum() / ((n - 1) * (n - 2))
    return centred - torch.diag(torch.diagonal(centred))


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> / (|a| |b|), 0 where one of them is 0."""
    norms = (a.square().sum() * b.square().sum()).clamp_min(EPS**2).sqrt()
    return (a * b).sum() / norms
