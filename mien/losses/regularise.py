"""Terms on weights, features and attention: sparsity, size, orthogonality."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from mien.errors import UsageError
from mien.losses.barrier import excess, log_barrier
from mien.losses.classification import over_targets
from mien.maps import EPS


def l1(parameters: Iterable[Tensor]) -> Tensor:
    """Sum of the absolute values of all parameters (published: `w_sparsity`); not a mean, so give small weights."""
    return torch.stack([parameter.abs().sum() for parameter in parameters]).sum()


def lowest(
    rows: Tensor,
    norm: str = "l1",
    share: float = 1.0,
    limit: float = 0.0,
    average: bool = False,
    barrier: bool = False,
    t: float = 1.0,
) -> Tensor:
    """The lowest entries of every row must nearly vanish: norm <= limit (published: `sparse_lf`, `_lw`, `_at`).

    Args:
        rows: (N, D), e.g. pooled features, rows of the classifier, attention maps.
        norm: l1, l2 or inf of the `share` of entries that are lowest by absolute value, at least one (the published
            code takes the lowest by sign, the largest negative weights).
        share: in (0, 1].
        limit: norm that is allowed.
        average: divide l1 and l2 by the number of entries.
        barrier: log barrier in place of the squared excess, both averaged over rows. The published square also pushes
            norms below the limit up to it.
        t: sharpness of the barrier.

    """
    count = max(1, int(share * rows.shape[1]))
    small = rows.abs().topk(count, dim=1, largest=False).values
    if norm == "l1":
        size = small.sum(1)
    elif norm == "l2":
        size = (small.square().sum(1) + EPS**2).sqrt() - EPS  # a slope also where all are zero
    else:
        size = small.amax(1)
    if average and norm != "inf":
        size = size / count
    return excess(size - limit, barrier, t).mean()


def orthogonal(weight: Tensor, kind: str = "soft", iterations: int = 5) -> Tensor:
    """Distance of a classifier's weight W (K, D) from orthonormal rows or columns (published: `ortho_lw`), >= 0.

    Bansal et al. 2018 (arXiv 1810.09102): soft |W^T W - I|_F^2; double_soft adds |W W^T - I|_F^2; mutual_coherence the
    largest absolute entry, srip the squared spectral norm (power iteration) of Gram matrix minus I. Of W^T W (D x D) and
    W W^T (K x K) the smaller is used: the larger has eigenvalue 0 as often as they differ in size, which keeps the
    published mutual_coherence and srip at 1 or above whatever W does. soft and double_soft are the same from either, up to
    that constant; double_soft has hence twice the gradient of soft.
    """
    rows, columns = weight.shape
    small = weight if rows <= columns else weight.T
    gap = small @ small.T - torch.eye(len(small), dtype=weight.dtype, device=weight.device)
    if kind in ("soft", "double_soft"):
        square = gap.square().sum()
        extra = columns - len(small)  # zero eigenvalues of W^T W, each at distance 1
        return square + extra if kind == "soft" else 2 * square + extra + rows - len(small)
    return gap.abs().amax() if kind == "mutual_coherence" else spectral_norm(gap, iterations).square()


def spectral_norm(matrix: Tensor, iterations: int = 5) -> Tensor:
    """Largest singular value of a symmetric matrix by power iteration; 0 for a zero matrix.

    The start is its longest column, so the answer needs no random numbers. It is never above the true value.
    """
    with torch.no_grad():
        u = matrix.index_select(1, matrix.square().sum(0).argmax()[None])[:, 0]
        for _ in range(iterations):
            v = F.normalize(matrix.T @ u, dim=0, eps=EPS)
            u = F.normalize(matrix @ v, dim=0, eps=EPS)
    return (u * (matrix @ v)).sum()


def attention_size(
    attention: Tensor, low: float = 0.1, high: float = 0.4, barrier: bool = False, t: float = 1.0
) -> Tensor:
    """Mean m of each map (B, 1, h, w) in [0, 1] must lie in [low, high] (published: `att_sz`).

    Mean over faces of max(0, low - m)^2 + max(0, m - high)^2, or of the two log barriers (published). Where m keeps less than
    1/t^2 from both bounds the slopes of the barriers cancel: up to t = 1 that is everywhere.
    """
    size = attention.flatten(1).mean(1)
    return (excess(low - size, barrier, t) + excess(size - high, barrier, t)).mean()


def attention_entropy(attention: Tensor) -> Tensor:
    """Mean binary entropy of the pixels of maps in [0, 1], natural logarithm, in [0, log 2] (published: `att_ent_sz`).

    Minimised, maps become black and white. The published code takes bits, of maps that need not lie in [0, 1].
    """
    a = attention.clamp(1e-6, 1 - 1e-6)
    return -(a * a.log() + (1 - a) * (-a).log1p()).mean()


def orthogonal_features(
    features: Tensor, targets: Tensor, same: bool = True, different: bool = False, barrier: bool = False, t: float = 1.0
) -> Tensor:
    """Pairs of one class must point the same way, pairs of two classes stand at right angles (published: `free_orth_ft`).

    features (B, D): mean of 1 - cos over pairs of one class, plus mean of |cos| over pairs of two; with `barrier` the log
    barriers of -cos and |cos|. Soft targets weigh a pair by the chance that both have the same class. A face is no pair with
    itself (the published mean counts it, which only dilutes). No such pair in the batch: 0.
    """
    unit = F.normalize(features, dim=1, eps=EPS)
    cosine = unit @ unit.T
    alike = (targets[:, None] == targets if targets.dim() == 1 else targets @ targets.T).to(cosine.dtype)
    pair = 1 - torch.eye(len(features), dtype=cosine.dtype, device=cosine.device)
    total = cosine.sum() * 0
    if same:
        weight = alike * pair
        total = total + (weight * (log_barrier(-cosine, t) if barrier else 1 - cosine)).sum() / weight.sum().clamp_min(
            EPS
        )
    if different:
        weight = (1 - alike) * pair
        apart = log_barrier(cosine.abs(), t) if barrier else cosine.abs()
        total = total + (weight * apart).sum() / weight.sum().clamp_min(EPS)
    return total


def block_features(features: Tensor, targets: Tensor, classes: int, barrier: bool = False, t: float = 1.0) -> Tensor:
    """Every class has its own block of channels; the others must be zero (published: `guid_orth_ft`).

    features (B, D) are split into K equal blocks, the last takes the rest: mean of |f| outside the label's block, or of
    its log barrier.
    """
    width = features.shape[1]
    if width < classes:
        raise UsageError(f"a layer of {width} channels cannot be split into blocks for {classes} classes.")
    block = (torch.arange(width, device=features.device) // (width // classes)).clamp_max(classes - 1)
    outside = block[None] != torch.arange(classes, device=features.device)[:, None]  # (K, D)
    size = log_barrier(features.abs(), t) if barrier else features.abs()
    table = size @ outside.T.to(size.dtype) / outside.sum(1)
    return over_targets(table, targets)
