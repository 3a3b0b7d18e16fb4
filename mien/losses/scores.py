"""Terms on the scores of the classes: their order, their margins, their entropy.

`targets` are class indices (B,) or soft targets (B, K); where a term needs one label, soft targets weigh the answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mien import maps
from mien.errors import UsageError
from mien.losses.barrier import excess, log_barrier
from mien.losses.classification import over_targets, soft_targets

UNPLEASANT_TO_PLEASANT = (
    "Negative", "Sadness", "Disgust", "Anger", "Contempt", "Fear", "Neutral", "Surprise", "Happiness", "Positive",
)  # fmt: skip
"""Order of classes where a recipe names none: by valence, as far as a line can hold it (Russell 1980)."""

MAX_EXPONENT = 50.0
"""Differences of scores are cut here before the exponential, so that no score makes it infinite."""


def default_order(classes: Sequence[str]) -> list[str]:
    """The classes of a scheme from unpleasant to pleasant."""
    return [name for name in UNPLEASANT_TO_PLEASANT if name in classes]


def ordinal_mean(
    logits: Tensor,
    targets: Tensor,
    positions: Sequence[int],
    epsilon: float = 0.0,
    barrier: bool = False,
    t: float = 1.0,
) -> Tensor:
    """The expected class must lie near the label: (m - y)^2 <= epsilon with m = sum_k k p_k (published: `oc_mean`).

    Mean over faces of max(0, (m - y)^2 - epsilon)^2, or of the log barrier. k counts along `positions`. After
    Beckham & Pal 2016 (arXiv 1612.00775) and the mean of mean-variance losses (Pan et al. 2018). Soft targets have
    the expected position y = sum_k k y_k.
    """
    steps = torch.arange(len(positions), device=logits.device, dtype=logits.dtype)
    place = soft_targets(targets, logits)[:, positions] @ steps
    mean = logits.softmax(1)[:, positions] @ steps
    return excess((mean - place).square() - epsilon, barrier, t).mean()


def ordinal_variance(
    logits: Tensor, positions: Sequence[int], epsilon: float = 0.0, barrier: bool = False, t: float = 1.0
) -> Tensor:
    """The prediction must be narrow: sum_k p_k (k - m)^2 <= epsilon with m = sum_k k p_k (published: `oc_var`).

    Mean over faces of max(0, variance - epsilon)^2, or of the log barrier. k counts along `positions`.
    """
    steps = torch.arange(len(positions), device=logits.device, dtype=logits.dtype)
    p = logits.softmax(1)[:, positions]
    variance = (p * (steps - (p @ steps)[:, None]).square()).sum(1)
    return excess(variance - epsilon, barrier, t).mean()


def unimodality(scores: Tensor, targets: Tensor, positions: Sequence[int], t: float = 1.0) -> Tensor:
    """Scores must rise towards the label and fall behind it, along `positions` (published: `oc_unim_inq`).

    Belharbi et al. 2019 (arXiv 1911.10720): s_k < s_{k+1} left of the label, s_{k+1} < s_k right of it; mean of the log
    barrier over faces and the K - 1 differences. `scores` are logits or probabilities (B, K).
    """
    ordered = scores[:, positions]
    drop = ordered[:, :-1] - ordered[:, 1:]  # (B, K - 1)
    count = len(positions)
    at = torch.arange(count, device=scores.device)
    left = at[None, :-1] < at[:, None]  # (label, difference)
    broken = torch.where(left, drop[:, None], -drop[:, None])  # (B, label, difference)
    table = torch.empty_like(scores)
    table[:, positions] = log_barrier(broken, t).mean(2)
    return over_targets(table, targets)


def score_margin(logits: Tensor, targets: Tensor, margin: float = 0.0, t: float = 1.0) -> Tensor:
    """The label's logit must lead every other by `margin` (published: `con_scores`).

    Mean over faces and other classes j of the log barrier of s_j - s_y + margin.
    """
    lead = logits[:, None] - logits[:, :, None]  # (B, label, j): s_j - s_label
    return over_targets(_mean_of_others(log_barrier(lead + margin, t)), targets)


def cost_sensitive(
    scores: Tensor,
    targets: Tensor,
    norm: str = "max",
    confusion: str = "exp",
    top: int | None = None,
    reduce: str = "mean",
) -> Tensor:
    """Classes that come near the label, or overtake it, cost (published: `s_cost_s`).

    d_j = s_j - s_y for j != y. The negative d of a face are divided by their largest / summed / mean absolute value, the
    positive ones by theirs. Then d or exp(d) (d cut at 50), the `top` most costly, mean or sum over j, mean over faces. The divisor
    is a constant of the step: the published code also differentiates it, so the most confused class gets no gradient
    under `max`; its `sum` and `mean` stop with an error.
    """
    count = scores.shape[1]
    if top is not None and top >= count:
        raise UsageError(f"top {top} must be less than the number of classes, {count}.")
    lead = maps.off_diagonal(scores[:, None] - scores[:, :, None])  # (B, label, others)
    lead = torch.where(lead > 0, lead / _scale(lead, norm), lead / _scale(-lead, norm))
    cost = lead.clamp(max=MAX_EXPONENT).exp() if confusion == "exp" else lead
    if top is not None:
        cost = cost.topk(top, dim=2).values
    return over_targets(cost.sum(2) if reduce == "sum" else cost.mean(2), targets)


def _scale(values: Tensor, norm: str) -> Tensor:
    """Largest, summed or mean positive value along the last axis, without gradient; 1 where nothing is positive."""
    positive = values.detach().clamp_min(0)
    if norm == "none":
        return torch.ones_like(positive[..., :1])
    if norm == "max":
        size = positive.amax(-1, keepdim=True)
    else:
        size = positive.sum(-1, keepdim=True)
        if norm == "mean":
            size = size / (positive > 0).sum(-1, keepdim=True).clamp_min(1)
    return torch.where(size > 0, size, torch.ones_like(size))


def _mean_of_others(table: Tensor) -> Tensor:
    """(B, K, K) -> (B, K): mean over the last axis without the diagonal."""
    count = table.shape[1]
    return (table.sum(2) - table.diagonal(dim1=1, dim2=2)) / max(1, count - 1)


def high_entropy(logits: Tensor, kind: str = "max_entropy", alpha: float = 0.5) -> Tensor:
    """Penalty of sure predictions, natural logarithm (published: `high_entropy`, in bits). u is uniform.

    max_entropy: -H(p), in [-log K, 0], the confidence penalty of Pereyra et al. 2017 (arXiv 1701.06548).
    kl_uniform: KL(u || p) >= 0, the direction of label smoothing; the published code computes the constant H(u).
    generalised: [(1-a) G(u) + a G(p) - G((1-a) u + a p)] / (a (1-a)) with G = -H, 0 < a < 1 (Meister et al. 2020, arXiv
    2005.00820); it tends to KL(p || u) for a -> 0 and to KL(u || p) for a -> 1. >= 0.
    """
    count = logits.shape[1]
    log_p = logits.log_softmax(1)
    p = log_p.exp()
    if kind == "kl_uniform":
        return (-log_p.mean(1) - math.log(count)).mean()
    negative = (p * log_p).sum(1)
    if kind == "max_entropy":
        return negative.mean()
    mixed = (1 - alpha) / count + alpha * p
    gap = -(1 - alpha) * math.log(count) + alpha * negative - (mixed * mixed.log()).sum(1)
    return gap.mean() / (alpha * (1 - alpha))
