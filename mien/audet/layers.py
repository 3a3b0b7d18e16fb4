"""The modules of block types."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mien.audet import blocks
from mien.audet.blocks import Shape
from mien.audet.trunks import TimmStem
from mien.compat import ensure_torchvision
from mien.errors import DataError
from mien.models.weights import read_state, tell_surplus

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "leaky_relu": lambda: nn.LeakyReLU(inplace=True),
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "linear": nn.Identity,
    "None": nn.Identity,
}
SLOPE = 0.01  # of leaky_relu, torch's default


def make_layer(block: blocks.AnyBlock, inputs: list[Shape], plain: bool = False) -> nn.Module:
    """Module of a block for inputs of those shapes; `plain` leaves published weights out (they come from a run, or are not needed)."""
    return LAYERS[type(block)](block, inputs, plain)


class PerPixel(nn.Linear):
    """Linear layer over the channels, the same at every pixel; (N, C) is taken as well."""

    def forward(self, values: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, out, H, W)."""
        if values.dim() == 2:
            return super().forward(values)
        if values.shape[2:] == (1, 1):
            return super().forward(values.flatten(1))[..., None, None]
        return F.conv2d(values, self.weight[..., None, None], self.bias)


class Upsampled(nn.Module):
    """Resizing, corners not aligned."""

    def __init__(self, block: blocks.Upsample) -> None:
        super().__init__()
        self.mode, self.scale, self.size = block.mode, block.scale_factor, block.output_sizes

    def forward(self, values: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, H, W)."""
        align = None if self.mode == "nearest" else False
        return F.interpolate(values, self.size, self.scale, self.mode, align)


class Concatenated(nn.Module):
    """Inputs side by side."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.dimension = dimension

    def forward(self, *values: Tensor) -> Tensor:
        """Several (N, C, H, W) -> one."""
        return torch.cat(values, self.dimension)


class Multiplied(nn.Module):
    """Product of the inputs, entry by entry."""

    def forward(self, *values: Tensor) -> Tensor:
        """Several (N, C, H, W) -> one."""
        product = values[0]
        for value in values[1:]:
            product = product * value
        return product


class Filmed(nn.Module):
    """Channels scaled and shifted by a linear function of the leading `condition` channels of the net's input, then activated."""

    def __init__(self, block: blocks.Film, channels: int) -> None:
        super().__init__()
        self.condition = block.condition
        self.linear = nn.Linear(block.condition, 2 * channels)
        nn.init.zeros_(
            self.linear.weight
        )  # passes everything on at first: random scales are noise that z1 would learn to still
        nn.init.zeros_(self.linear.bias)
        self.activation = ACTIVATIONS[block.activation]()

    def forward(self, values: Tensor, given: Tensor) -> Tensor:
        """(N, C, H, W) and the net's input (N, D, h, w) -> (N, C, H, W): activation(values * (1 + scale) + shift)."""
        scale, shift = self.linear(given[:, : self.condition].mean((2, 3)))[..., None, None].chunk(2, 1)
        return cast(Tensor, self.activation(values * (1 + scale) + shift))


class Selected(nn.Module):
    """A range of one dimension."""

    def __init__(self, block: blocks.SelectSubset) -> None:
        super().__init__()
        self.dimension, self.start, self.length = (
            block.dimension,
            block.start_index,
            block.end_index - block.start_index,
        )

    def forward(self, values: Tensor) -> Tensor:
        """(N, C, H, W) -> a part of it."""
        return values.narrow(self.dimension, self.start, self.length)


class Stem(nn.Sequential):
    """Layers of a published net, the first `frozen` of which neither learn nor update their batch statistics."""

    def __init__(self, layers: list[nn.Module], frozen: int) -> None:
        super().__init__(*layers)
        self.frozen = frozen
        for layer in layers[:frozen]:
            layer.requires_grad_(False)

    def train(self, mode: bool = True) -> Stem:
        """Training mode, but for the frozen layers."""
        super().train(mode)
        for layer in list(self)[: self.frozen]:
            layer.eval()
        return self


def _convolution(block: blocks.Convolutional, inputs: list[Shape], plain: bool) -> nn.Module:
    bias = not block.batch_normalise
    conv = nn.Conv2d(inputs[0].channels, block.filters, block.kernel_size, block.stride, block.padding, bias=bias)
    _initialise(conv.weight, block.initialization, block.activation)
    norm = [nn.BatchNorm2d(block.filters, eps=1e-4)] if block.batch_normalise else []
    return nn.Sequential(conv, *norm, ACTIVATIONS[block.activation]())


def _connected(block: blocks.Connected, inputs: list[Shape], plain: bool) -> nn.Module:
    linear = PerPixel(inputs[0].channels, block.output_features, bias=block.use_bias)
    _initialise(linear.weight, block.initialization, block.activation)
    return nn.Sequential(linear, ACTIVATIONS[block.activation]())


def _initialise(weight: Tensor, initialization: str, activation: str) -> None:
    if initialization == "kaiming_uniform":
        slope = SLOPE if activation == "leaky_relu" else 0.0
        nn.init.kaiming_uniform_(weight, a=slope, nonlinearity=activation)  # type: ignore[arg-type]


def _resnet50(block: blocks.Resnet50, inputs: list[Shape], plain: bool) -> nn.Module:
    ensure_torchvision()
    from torchvision.models import ResNet50_Weights, resnet50

    published = block.weights == "imagenet" and not plain
    try:
        net = resnet50(weights=ResNet50_Weights.IMAGENET1K_V1 if published else None)
    except OSError as error:
        raise DataError(
            "[resnet50] weights of torchvision cannot be fetched (no network?); bring resnet50-0676ba61.pth from another "
            "machine and give weights=FILE, or weights=random."
        ) from error
    if block.weights not in ("imagenet", "random") and not plain:
        _load(net, read_state(Path(block.weights)), block.weights, optional=("fc.", "num_batches_tracked"))
    return Stem(list(net.children())[: block.end_at_layer], block.freeze_first_n_layers)


def _timm(block: blocks.Timm, inputs: list[Shape], plain: bool) -> nn.Module:
    weights = None if plain or block.weights == "None" else Path(block.weights)
    return TimmStem(block.model, weights, inputs[0].height, block.pretrained and not plain, block.pool)


def _vgg_face(block: blocks.VggFace, inputs: list[Shape], plain: bool) -> nn.Module:
    layers: list[nn.Module] = []
    names: dict[str, str] = {}
    stage, number, channels = 1, 0, 3
    for width in blocks.VGG_CHANNELS:
        if width:
            number += 1
            names[f"conv{stage}_{number}"] = names[f"features.{len(layers)}"] = str(len(layers))
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        else:
            stage, number = stage + 1, 0
            layers.append(nn.MaxPool2d(2, 2))
    stem = Stem(layers, block.freeze_first_n_layers)
    if block.state_dict_filepath != "random" and not plain:
        state = {}
        for name, value in read_state(Path(block.state_dict_filepath)).items():
            layer, _, kind = name.rpartition(".")
            state[f"{names.get(layer, layer)}.{kind}"] = value
        _load(stem, state, block.state_dict_filepath)
    return stem


def _load(net: nn.Module, state: dict[str, Tensor], path: str, optional: tuple[str, ...] = ()) -> None:
    """Load by name; DataError where a tensor of the net is missing or of another shape, but for optional ones."""
    own = net.state_dict()
    wrong = [name for name, value in own.items() if name not in state or state[name].shape != value.shape]
    wrong = [name for name in wrong if not any(part in name for part in optional)]
    if wrong:
        raise DataError(
            f"weights {path} do not fit: {len(wrong)} tensors missing or of another shape ({wrong[0]}, ...)."
        )
    fitting = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    net.load_state_dict(fitting, strict=False)
    tell_surplus(Path(path), state, own)


LAYERS: dict[type, Callable[[Any, list[Shape], bool], nn.Module]] = {
    blocks.Convolutional: _convolution,
    blocks.BatchNorm: lambda block, inputs, plain: nn.BatchNorm2d(block.num_features, eps=block.eps),
    blocks.Maxpool: lambda block, inputs, plain: nn.MaxPool2d(block.pool_size, block.stride),
    blocks.Avgpool: lambda block, inputs, plain: nn.AvgPool2d(block.pool_size, block.stride),
    blocks.Upsample: lambda block, inputs, plain: Upsampled(block),
    blocks.Connected: _connected,
    blocks.Softmax: lambda block, inputs, plain: nn.Softmax(block.dim),
    blocks.Route: lambda block, inputs, plain: nn.Identity(),
    blocks.CombineConcat: lambda block, inputs, plain: Concatenated(block.dimension),
    blocks.CombineMultiply: lambda block, inputs, plain: Multiplied(),
    blocks.SelectSubset: lambda block, inputs, plain: Selected(block),
    blocks.Identity: lambda block, inputs, plain: nn.Identity(),
    blocks.Resnet50: _resnet50,
    blocks.VggFace: _vgg_face,
    blocks.Timm: _timm,
    blocks.Film: lambda block, inputs, plain: Filmed(block, inputs[0].channels),
    blocks.Skip: lambda block, inputs, plain: Concatenated(1),
}
"""Block -> module."""
