"""Parts of adversarial training: the gradient penalty of a critic and the reversal of a gradient."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor


def mixed(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """Share * first + (1 - share) * second, one share (N,) in [0, 1] a sample; a leaf that wants its gradient."""
    weight = share.view(-1, *[1] * (first.dim() - 1)).to(first.dtype)
    return (weight * first + (1 - weight) * second).detach().requires_grad_()


def gradient_penalty(scores: Tensor, inputs: Tensor) -> Tensor:
    """Two-sided penalty mean((|d score / d input|_2 - 1)^2) of WGAN-GP (Gulrajani et al. 2017, arXiv 1704.00028).

    The norm is taken over everything of a sample: channels and pixels. (AUDetNet's code takes it over the channels of every
    pixel, which is the same only where a map has one pixel.)

    Args:
        scores: (N,) of the critic, on the graph of `inputs`.
        inputs: (N, ...), as from `mixed`.

    """
    (slope,) = torch.autograd.grad(scores.sum(), inputs, create_graph=True)
    square = slope.float().flatten(1).square().sum(1)
    norm = torch.where(
        square > 0, torch.where(square > 0, square, 1.0).sqrt(), 0.0
    )  # finite slope for a constant critic
    return (norm - 1).square().mean()


class _Reverse(torch.autograd.Function):
    """Identity whose gradient is multiplied by -weight."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, weight: float) -> Tensor:
        """The value, unchanged."""
        ctx.weight = weight
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        """The gradient, reversed."""
        return -ctx.weight * slopes[0], None


def reverse_gradient(value: Tensor, weight: float) -> Tensor:
    """The value itself; its gradient comes back times -weight (Ganin and Lempitsky 2015, arXiv 1409.7495).

    A classifier behind it learns as usual, while what lies before it unlearns what the classifier uses.
    """
    return cast(Tensor, _Reverse.apply(value, weight))
