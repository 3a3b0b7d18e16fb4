"""Weights that training never reaches: several processes would wait for their gradients."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mien.explain import left_as_found
from mien.models import Classifier
from mien.schema import Output


def leave_out_unused(model: Classifier, size: int) -> list[Tensor]:
    """Weights that no part of an Output depends on get no gradient from now on (`requires_grad` False), in place.

    Such are the last norm and the last convolution of nets whose head is replaced (ConvNeXt, MobileNetV3 and V4, GhostNet,
    EdgeNeXt, PoolFormer). Without that, training over several processes stops at the second step. Found once, by a trial on
    two random pictures; the model is left as it was.

    Returns the weights that the logits and the segmentation do not depend on, but another part of the Output does, which only
    some terms look at.
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with left_as_found(model), torch.enable_grad():
        output: Output = model(images, torch.zeros(2, dtype=torch.int64), guide=model.blank_guide(images))
        answers = (output.logits, output.branches, output.label_logits, output.segmentation)
        anything, always = _reached(output, weights), _reached(answers, weights)
    for weight, used in zip(weights, anything, strict=True):
        weight.requires_grad_(used)
    return [weight for weight, used, seen in zip(weights, always, anything, strict=True) if seen and not used]


def _reached(parts: object, weights: list[nn.Parameter]) -> list[bool]:
    """Which of the weights the tensors in `parts` depend on."""
    found = [leaf for leaf in tree_leaves(parts) if isinstance(leaf, Tensor) and leaf.requires_grad]
    if not found or not weights:
        return [False] * len(weights)
    total = torch.stack([leaf.float().sum() for leaf in found]).sum()
    return [g is not None for g in torch.autograd.grad(total, weights, allow_unused=True, retain_graph=True)]
