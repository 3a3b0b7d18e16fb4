"""Batch norms whose statistics are those of the faces of all processes (run.sync_batchnorm)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm


class _Sum(torch.autograd.Function):
    """The sum over processes; so is its gradient, as every process's loss depends on every process's faces."""

    @staticmethod
    def forward(ctx: Any, here: Tensor) -> Tensor:
        total = here.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _Sum.apply(*gradients)


def over_processes(here: Tensor) -> Tensor:
    """Sum of a tensor of any shape over all processes, which must all ask for it; differentiable, twice too."""
    found: Tensor = _Sum.apply(here)
    return found


class SharedBatchNorm(_BatchNorm):
    """A batch norm that several processes compute together in training; else what it was made of.

    torch's own (`nn.SyncBatchNorm`) takes tensors on a GPU alone, so it could not be tested over processes of a CPU. Weights,
    buffers and their names stay those of the norm that it replaces. Gradients of gradients go through it too.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        self._parameters, self._buffers = norm._parameters, norm._buffers
        for name, part in norm.named_children():  # timm's norms have their activation on board
            self.add_module(name, part)
        self.train(norm.training)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any: it was right for the norm that this one replaces."""

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, ...) of this process -> the same, normalised; all processes must have as many."""
        together = self.training and distributed.is_initialized() and distributed.get_world_size() > 1
        images = self._together(images) if together else super().forward(images)
        for part in self.children():
            images = part(images)
        return images

    def _together(self, images: Tensor) -> Tensor:
        processes, over = distributed.get_world_size(), [k for k in range(images.dim()) if k != 1]
        like = (1, -1, *[1] * (images.dim() - 2))
        pixels = images.float()
        mean = over_processes(pixels.mean(over)) / processes
        # In two steps: the mean of squares less the square of the mean would lose digits.
        spread = over_processes((pixels - mean.view(like)).square().mean(over)) / processes
        self._keep(mean.detach(), spread.detach(), pixels.numel() // len(mean) * processes)
        factor = (spread + self.eps).rsqrt()
        shift = -mean * factor
        if self.affine:
            factor, shift = factor * self.weight, shift * self.weight + self.bias
        return (pixels * factor.view(like) + shift.view(like)).to(images.dtype)

    def _keep(self, mean: Tensor, spread: Tensor, count: int) -> None:
        """Move the running statistics towards those of `count` numbers a channel."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(spread * (count / max(count - 1, 1)), share)


def share_norms(model: nn.Module) -> None:
    """Put a SharedBatchNorm in the place of every batch norm of a model, in place."""
    for parent in list(model.modules()):
        for name, part in list(parent.named_children()):
            if isinstance(part, _BatchNorm) and not isinstance(part, SharedBatchNorm):
                setattr(parent, name, SharedBatchNorm(part))
