"""Classification losses of logits (B, K) against class indices (B,) or soft targets (B, K)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mien.losses.shared import shared_total


def soft_targets(targets: Tensor, logits: Tensor, smoothing: float = 0.0) -> Tensor:
    """(B, K) target distribution in the logits' type: one-hot of class indices, or soft targets; `smoothing` is spread."""
    classes = logits.shape[1]
    soft = (F.one_hot(targets, classes) if targets.dim() == 1 else targets).to(logits.dtype)
    return soft * (1 - smoothing) + smoothing / classes


def over_targets(table: Tensor, targets: Tensor) -> Tensor:
    """Mean over the batch of a table (B, K) that holds, for every face, the loss if class k were its label.

    Class indices choose their column; soft targets weigh the columns.
    """
    return (table * soft_targets(targets, table)).sum(1).mean()


def cross_entropy(logits: Tensor, targets: Tensor, weight: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy as torch weighs it: with class indices a mean weighted by the label's class weight."""
    if weight is None or targets.dim() > 1:
        return F.cross_entropy(logits, targets, weight=weight, label_smoothing=smoothing)
    total = F.cross_entropy(logits, targets, weight=weight, label_smoothing=smoothing, reduction="sum")
    return total / shared_total(weight[targets])


def focal(
    logits: Tensor,
    targets: Tensor,
    weight: Tensor | None = None,
    smoothing: float = 0.0,
    alpha: float = 1.0,
    gamma: float = 2.0,
) -> Tensor:
    """Focal loss (Lin et al. 2017, arXiv 1708.02002): mean of -alpha sum_c y_c w_c (1 - p_c)^gamma log p_c, >= 0.

    At alpha 1 and gamma 0 it is the cross-entropy, with the same weighting. Without class weights it is the published code
    (Belharbi et al. 2024) for class indices. With them that code has the weight in the probability too, p_y^w_y, and divides by
    the number of faces: mean of alpha w_y (1 - p_y^w_y)^gamma (-log p_y).
    """
    log_p = logits.log_softmax(1)
    easy = (1 - log_p.exp()).clamp_min(1e-8) ** gamma  # at p = 1 a power below 1 has no finite slope
    soft = soft_targets(targets, logits, smoothing)
    if weight is None:
        return -alpha * (soft * easy * log_p).sum(1).mean()
    total = shared_total(weight[targets]) if targets.dim() == 1 else len(targets)
    return -alpha * (soft * weight * easy * log_p).sum() / total


def squared(logits: Tensor, targets: Tensor, weight: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
    """Mean over faces and classes of (p_c - y_c)^2, in [0, 2/K]; the Brier score divided by K (published: `mse`)."""
    return _error(torch.square, logits, targets, weight, smoothing)


def absolute(logits: Tensor, targets: Tensor, weight: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
    """Mean over faces and classes of |p_c - y_c|, in [0, 2/K] (published: `mae`); robust to wrong labels."""
    return _error(torch.abs, logits, targets, weight, smoothing)


def _error(
    power: Callable[[Tensor], Tensor], logits: Tensor, targets: Tensor, weight: Tensor | None, smoothing: float
) -> Tensor:
    """Mean error of the probabilities; with class weights each face counts as its label does."""
    error = power(logits.softmax(1) - soft_targets(targets, logits, smoothing)).mean(1)
    if weight is None:
        return error.mean()
    face = soft_targets(targets, logits) @ weight.to(logits.dtype)
    return (face * error).sum() / shared_total(face, 1e-8)


CLASSIFICATION: dict[str, Callable[..., Tensor]] = {
    "cross_entropy": cross_entropy,
    "focal": focal,
    "squared": squared,
    "absolute": absolute,
}
"""Key of `loss.classification` -> function(logits, targets, weight, smoothing); `focal` also takes alpha and gamma."""
