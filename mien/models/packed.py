"""Weights in about a byte each, as the bundled nets are shipped."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def pack(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights in about a byte each, for shipping: matrices and kernels as int8, one float32 scale an output channel, in
    `scale/NAME`; other floats as float16. The largest weight of a channel is 127 steps, so that none is off by more than
    half a step, 1/254 of it.
    """
    packed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            packed[name] = tensor
        elif tensor.dim() < 2:
            packed[name] = tensor.half()
        else:
            most = tensor.float().abs().flatten(1).amax(1).clamp(min=1e-12)
            scale = (most / 127).view(-1, *[1] * (tensor.dim() - 1))
            packed[name], packed[f"scale/{name}"] = (tensor / scale).round().to(torch.int8), scale
    return packed


def unpack(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `pack` was given, to its precision; tensors that it did not make are left as they are."""
    plain = {name: tensor for name, tensor in tensors.items() if not name.startswith("scale/")}
    return {
        name: plain[name] * tensors[f"scale/{name}"] if f"scale/{name}" in tensors else plain[name] for name in plain
    }
