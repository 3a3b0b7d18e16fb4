"""Optimiser, learning-rate schedule and class weights of a recipe; pure functions of its settings."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from mien.config import OptimConfig
from mien.schema import IntArray


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, or AdamW; no weight decay on biases and norms (one-dimensional parameters).

    Nor on class tokens and position embeddings of a transformer, which are no weights of a product. Parts with a rate of
    their own, `model.transformer` by optim.transformer_lr and what stands behind `model.backbone` by optim.head_lr, have
    groups of their own, whose `scale` multiplies every rate. Without weight decay AdamW is Adam.
    """
    part_scales = {"backbone": 1.0, "transformer": config.transformer_lr}
    scales = list(dict.fromkeys((1.0, config.head_lr, config.transformer_lr)))
    decays = (config.weight_decay, 0.0)
    groups: list[dict[str, Any]] = [
        {"params": [], "weight_decay": decay, "scale": scale} for scale in scales for decay in decays
    ]
    for name, parameter in model.named_parameters():
        free = parameter.dim() <= 1 or name.endswith(("_token", "_embed"))
        scale = part_scales.get(name.split(".")[0], config.head_lr)
        groups[2 * scales.index(scale) + free]["params"].append(parameter)
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0)


@torch.no_grad()
def follow(average: AveragedModel, model: nn.Module) -> None:
    """One step of a moving average of weights and buffers; the first takes them over.

    As `AveragedModel.update_parameters`, whose count of steps lies on the device: it would wait for it in every step. Here it
    lies on the CPU.
    """
    own, theirs = ([*net.parameters(), *net.buffers()] for net in (average.module, model))
    if average.n_averaged == 0:
        for mine, new in zip(own, theirs, strict=True):
            mine.copy_(new)
    else:
        update: Any = average.multi_avg_fn  # of lists of tensors of one type, against what its annotation says
        for kind in dict.fromkeys(tensor.dtype for tensor in own):
            pairs = [(mine, new) for mine, new in zip(own, theirs, strict=True) if mine.dtype == kind]
            update([mine for mine, _ in pairs], [new for _, new in pairs], average.n_averaged)
    average.n_averaged += 1


def lr_factor(config: OptimConfig, epoch: int, step: int, steps: int) -> float:
    """Learning rate as a share of optim.lr at a step (from 0) of an epoch (from 1) with `steps` steps."""
    if config.schedule == "step":
        return config.gamma ** ((epoch - 1) // config.step_size)
    done, all_steps = (epoch - 1) * steps + step, config.epochs * steps
    warm = config.warmup * all_steps
    if done < warm:
        return (done + 1) / (warm + 1)
    return 0.5 * (1 + math.cos(math.pi * (done - warm) / max(1.0, all_steps - warm)))


def set_lr(optimizer: torch.optim.Optimizer, config: OptimConfig, epoch: int, step: int, steps: int) -> None:
    """Set the learning rate of every parameter group for one step."""
    for group in optimizer.param_groups:
        group["lr"] = config.lr * lr_factor(config, epoch, step, steps) * group["scale"]


def class_weights(labels: IntArray, classes: int, kind: str = "weights") -> Tensor:
    """Weights of `data.balance`, (K,): `weights` N / (K n_c), `weights_max` n_max / n_c; an absent class gets 0.

    The weighted mean of the loss divides by the weights of the batch, so a common factor such as n_min K / N, which makes
    them the n_min / n_c of Luna-Jimenez et al. 2021, changes nothing.
    """
    counts = np.bincount(labels[labels >= 0], minlength=classes)
    top = counts.max() if kind == "weights_max" else counts.sum() / classes
    weights = np.divide(top, counts, out=np.zeros(classes), where=counts > 0)
    return torch.from_numpy(weights.astype(np.float32))
