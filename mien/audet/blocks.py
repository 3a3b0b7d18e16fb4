"""Block types of a net: their keys, and which shape (C, H, W) comes out for the shapes that go in. No tensors here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from mien.audet.cfg import Wrong, limited

Ref = int | Literal["input"]
"""Number of a block (from 0), a number back (negative; -1 is the block before, or the net's input), or input."""
Activation = Literal["relu", "leaky_relu", "tanh", "sigmoid", "linear", "None"]
Initialization = Literal["None", "kaiming_uniform"]


class Shape(NamedTuple):
    """Of one sample."""

    channels: int
    height: int
    width: int

    def __str__(self) -> str:
        return "x".join(map(str, self))


@dataclass(frozen=True, kw_only=True)
class Convolutional:
    """2-D convolution, then batch normalisation, then the activation; no bias before a normalisation."""

    filters: int = limited(least=1, most=65536)
    kernel_size: int = limited(least=1, most=2048)
    stride: int = limited(1, least=1, most=2048)
    pad: Literal["True", "False"] | int = limited("False", least=0, most=2048)
    """Pixels, or True for (kernel_size - 1) / 2 of an odd kernel."""
    batch_normalise: bool = False
    activation: Activation = "None"
    initialization: Initialization = "None"

    @property
    def padding(self) -> int:
        """Pixels on each side."""
        return self.pad if isinstance(self.pad, int) else (self.kernel_size - 1) // 2 * (self.pad == "True")

    def shape(self, inputs: list[Shape]) -> Shape:
        """Shape of the output."""
        if self.pad == "True" and self.kernel_size % 2 == 0:
            raise Wrong(
                f"pad=True needs an odd kernel_size, not {self.kernel_size}; give the pixels, for example pad=1."
            )
        _refuse_initialization(self.initialization, self.activation)
        return _window(inputs[0], self.filters, self.kernel_size, self.stride, self.padding)


@dataclass(frozen=True, kw_only=True)
class BatchNorm:
    """Batch normalisation."""

    num_features: int = limited(least=1, most=1e6)
    eps: float = limited(1e-5, least=0, most=1)

    def shape(self, inputs: list[Shape]) -> Shape:
        """Shape of the output."""
        if inputs[0].channels != self.num_features:
            raise Wrong(f"num_features is {self.num_features}, but {inputs[0].channels} channels come in.")
        return inputs[0]


@dataclass(frozen=True, kw_only=True)
class Maxpool:
    """Largest value of a window."""

    pool_size: int = limited(least=1, most=2048)
    stride: int = limited(1, least=1, most=2048)

    def shape(self, inputs: list[Shape]) -> Shape:
        """Shape of the output."""
        return _window(inputs[0], inputs[0].channels, self.pool_size, self.stride, 0)


@dataclass(frozen=True, kw_only=True)
class Avgpool(Maxpool):
    """Mean of a window."""


@dataclass(frozen=True, kw_only=True)
class Upsample:
    """Resizing to output_sizes or by scale_factor, corners not aligned."""

    mode: Literal["nearest", "bilinear", "bicubic", "linear", "trilinear"] = "nearest"
    scale_factor: float | None = limited(None, least=1e-3, most=64)
    output_sizes: tuple[int, int] | None = limited(None, least=1, most=4096)

    def shape(self, inputs: list[Shape]) -> Shape:
        """Shape of the output."""
        if self.mode in ("linear", "trilinear"):
            raise Wrong(f"mode={self.mode} is not for pictures; use bilinear.")
        if (self.scale_factor is None) == (self.output_sizes is None):
            raise Wrong("give scale_factor or output_sizes, and None or nothing for the other.")
        channels, height, width = inputs[0]
        if self.output_sizes is not None:
            return Shape(channels, *self.output_sizes)
        scale = self.scale_factor or 1.0
        if int(min(height, width) * scale) < 1:
            raise Wrong(f"scale_factor {scale:g} leaves nothing of {inputs[0]}.")
        return Shape(channels, int(height * scale), int(width * scale))


@dataclass(frozen=True, kw_only=True)
class Connected:
    """Linear layer over the channels, the same at every pixel."""

    output_features: int = limited(least=1, most=65536)
    activation: Activation = "linear"
    use_bias: bool = True
    initialization: Initialization = "None"

    def shape(self, inputs: list[Shape]) -> Shape:
        """Shape of the output."""
        _refuse_initialization(self.initialization, self.activation)
        return inputs[0]._replace(channels=self.output_features)


@dataclass(frozen=True, kw_only=True)
class Softmax:
    """Softmax along a dimension: 1 channels, 2 rows, 3 columns."""

    dim: int = 1

    def shape(self, inputs: list[Shape]) -> Shape:
        """Shape of the output."""
        _dimension(self.dim, "dim")
        return inputs[0]


@dataclass(frozen=True, kw_only=True)
class Route:
    """The output of another block, from which the following blocks go on."""

    branch_at_layer: Ref

    def shape(self, inputs: list[Shape]) -> Shape:
        """Shape of the output."""
        return inputs[0]


@dataclass(frozen=True, kw_only=True)
class CombineConcat:
    """Outputs of several blocks side by side, in the order listed."""

    combine_layers: tuple[Ref, ...]
    dimension: int = 1

    def shape(self, inputs: list[Shape]) -> Shape:
        """Shape of the output."""
        _several(inputs)
        axis = _dimension(self.dimension, "dimension")
        for other in inputs[1:]:
            if any(a != b for k, (a, b) in enumerate(zip(inputs[0], other, strict=True)) if k != axis):
                raise Wrong(f"{_listed(inputs)} cannot stand side by side along dimension {self.dimension}.")
        sizes = list(inputs[0])
        sizes[axis] = sum(shape[axis] for shape in inputs)
        return Shape(*sizes)


@dataclass(frozen=True, kw_only=True)
class CombineMultiply:
    """Product of the outputs of several blocks, entry by entry; a side of 1 goes with any other."""

    combine_layers: tuple[Ref, ...]

    def shape(self, inputs: list[Shape]) -> Shape:
        """Shape of the output."""
        _several(inputs)
        sizes = [set(side) - {1} for side in zip(*inputs, strict=True)]
        if any(len(side) > 1 for side in sizes):
            raise Wrong(f"{_listed(inputs)} cannot be multiplied.")
        return Shape(*(max(side, default=1) for side in sizes))


@dataclass(frozen=True, kw_only=True)
class SelectSubset:
    """Entries start_index to end_index - 1 of another block's output along a dimension."""

    origin_layer: Ref
    dimension: int = 1
    start_index: int = limited(least=0, most=1e6)
    end_index: int = limited(least=1, most=1e6)

    def shape(self, inputs: list[Shape]) -> Shape:
        """Shape of the output."""
        axis = _dimension(self.dimension, "dimension")
        if not self.start_index < self.end_index <= inputs[0][axis]:
            raise Wrong(f"{self.start_index} to {self.end_index} is no part of the {inputs[0][axis]} that come in.")
        sizes = list(inputs[0])
        sizes[axis] = self.end_index - self.start_index
        return Shape(*sizes)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What comes in."""

    def shape(self, inputs: list[Shape]) -> Shape:
        """Shape of the output."""
        return inputs[0]


RESNET_CHANNELS = (64, 64, 64, 64, 256, 512, 1024, 2048, 2048)
"""Of ResNet-50 after its first 1 to 9 children."""


@dataclass(frozen=True, kw_only=True)
class Resnet50:
    """The first children of torchvision's ResNet-50 (conv1, bn1, relu, maxpool, layer1-4, avgpool), some of them frozen."""

    end_at_layer: int = limited(least=1, most=9)
    freeze_first_n_layers: int = limited(0, least=0, most=1000)
    n_out_filters: int = limited(least=1, most=65536)
    weights: str = "imagenet"
    """imagenet (fetched by torchvision), random, or the path of a state dict."""

    def shape(self, inputs: list[Shape]) -> Shape:
        """Shape of the output."""
        _refuse_depth(inputs[0], self.freeze_first_n_layers, self.end_at_layer)
        channels = RESNET_CHANNELS[self.end_at_layer - 1]
        if self.n_out_filters != channels:
            raise Wrong(
                f"n_out_filters is {self.n_out_filters}, but {channels} channels come out at end_at_layer {self.end_at_layer}."
            )
        if self.end_at_layer == 9:
            return Shape(channels, 1, 1)
        halvings = 1 + (self.end_at_layer >= 4) + max(0, self.end_at_layer - 5)
        return Shape(channels, *(math.ceil(side / 2**halvings) for side in inputs[0][1:]))


VGG_CHANNELS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)
"""Convolutions of VGG-16, each followed by a ReLU; 0 is a pooling. 31 layers in all."""


@dataclass(frozen=True, kw_only=True)
class VggFace:
    """The 31 convolutions, ReLUs and poolings of VGG-16 with the weights of VGG-Face, some of them frozen."""

    state_dict_filepath: str = limited()
    """A state dict with names conv1_1 to conv5_3 or torchvision's (vgg_face_dag.pth); or random."""
    freeze_first_n_layers: int = limited(0, least=0, most=1000)

    def shape(self, inputs: list[Shape]) -> Shape:
        """Shape of the output."""
        _refuse_depth(inputs[0], self.freeze_first_n_layers, 31)
        if min(inputs[0][1:]) < 32:
            raise Wrong(f"{inputs[0]} is smaller than 32 pixels.")
        return Shape(512, inputs[0].height // 32, inputs[0].width // 32)


@dataclass(frozen=True, kw_only=True)
class Timm:
    """Last feature map of any timm model (or apvit), averaged to 1x1 unless pool=False. Only as first block of a net."""

    model: str = limited()
    pretrained: bool = False
    """timm's weights, from the network."""
    weights: str = "None"
    """A file, as model.weights of a recipe."""
    pool: bool = True

    def shape(self, inputs: list[Shape]) -> Shape:
        """Shape of the output."""
        from mien.audet.trunks import timm_shape

        if inputs[0].channels != 3 or inputs[0].height != inputs[0].width:
            raise Wrong(f"needs square pictures of 3 channels; {inputs[0]} come in.")
        channels, side = timm_shape(self.model, self.pool, inputs[0].height)
        return Shape(channels, side, side)


@dataclass(frozen=True, kw_only=True)
class Film:
    """Every channel scaled and shifted by a linear function of z1 (FiLM, Perez et al. 2018, arXiv 1709.07871)."""

    condition: int = limited(least=1, most=65536)
    """Leading channels of the net's input, averaged over places, that the scales and shifts are made of: those of z1."""
    activation: Activation = "None"

    def shape(self, inputs: list[Shape]) -> Shape:
        """Shape of the output; inputs are the map and the net's input."""
        if self.condition > inputs[1].channels:
            raise Wrong(f"condition is {self.condition}, but the net's input has {inputs[1].channels} channels.")
        return inputs[0]


@dataclass(frozen=True, kw_only=True)
class Skip:
    """The output of a block of the {Encoder}, behind the channels that come in (U-Net, arXiv 1505.04597). Only in {Decoder}."""

    encoder_layer: int = limited(least=0, most=1e4)
    """Number of the block."""

    def shape(self, inputs: list[Shape]) -> Shape:
        """Shape of the output; inputs are the map and the encoder's."""
        if inputs[0][1:] != inputs[1][1:]:
            raise Wrong(f"{inputs[1]} of encoder block {self.encoder_layer} cannot stand beside {inputs[0]}.")
        return inputs[0]._replace(channels=inputs[0].channels + inputs[1].channels)


AnyBlock = (
    Convolutional | BatchNorm | Maxpool | Avgpool | Upsample | Connected | Softmax | Route | CombineConcat
    | CombineMultiply | SelectSubset | Identity | Resnet50 | VggFace | Timm | Film | Skip
)  # fmt: skip

BLOCKS: dict[str, type[AnyBlock]] = {
    "convolutional": Convolutional,
    "batch_norm": BatchNorm,
    "maxpool": Maxpool,
    "avgpool": Avgpool,
    "upsample": Upsample,
    "connected": Connected,
    "softmax": Softmax,
    "route": Route,
    "combine_concat": CombineConcat,
    "combine_multiply": CombineMultiply,
    "select_subset": SelectSubset,
    "identity": Identity,
    "resnet50": Resnet50,
    "vgg-face": VggFace,
    "timm": Timm,
    "film": Film,
    "skip": Skip,
}
"""Name in brackets -> block."""


def sources(block: AnyBlock, index: int) -> tuple[int, ...]:
    """Blocks that block `index` takes its input from; -1 is the input of the net, -2 - n block n of the {Encoder}."""
    if isinstance(block, Film):
        return (index - 1, -1)
    if isinstance(block, Skip):
        return (index - 1, -2 - block.encoder_layer)
    refs: tuple[Ref, ...] = (-1,)
    if isinstance(block, Route):
        refs = (block.branch_at_layer,)
    elif isinstance(block, SelectSubset):
        refs = (block.origin_layer,)
    elif isinstance(block, CombineConcat | CombineMultiply):
        refs = block.combine_layers
    found = tuple(-1 if ref == "input" else int(ref) if int(ref) >= 0 else index + int(ref) for ref in refs)
    for ref, place in zip(refs, found, strict=True):
        if place >= index:
            kind = "itself" if place == index else "a block further down"
            raise Wrong(
                f"{ref} points from block {index} to {kind}; give 0 to {index - 1}, a negative number or input."
            )
        if place < -1:
            raise Wrong(f"{ref} points before the input of the net; block {index} can go back {index + 1} at most.")
    return found


def _window(shape: Shape, channels: int, kernel: int, stride: int, padding: int) -> Shape:
    sides = [(side + 2 * padding - kernel) // stride + 1 for side in shape[1:]]
    if min(shape[1:]) + 2 * padding < kernel:
        raise Wrong(f"a window of {kernel} pixels does not fit into {shape} with a padding of {padding}.")
    return Shape(channels, *sides)


def _dimension(dimension: int, key: str) -> int:
    """Index into a Shape."""
    if not 1 <= dimension <= 3:
        raise Wrong(f"{key} {dimension} is none of 1 (channels), 2 (rows) and 3 (columns); 0 would mix faces.")
    return dimension - 1


def _several(inputs: list[Shape]) -> None:
    if len(inputs) < 2:
        raise Wrong("combine_layers needs at least two blocks.")


def _listed(inputs: list[Shape]) -> str:
    return " and ".join(map(str, inputs))


def _refuse_initialization(initialization: str, activation: str) -> None:
    if initialization == "kaiming_uniform" and activation not in ("relu", "leaky_relu"):
        raise Wrong(f"initialization=kaiming_uniform is for relu and leaky_relu, not for {activation}.")


def _refuse_depth(shape: Shape, frozen: int, layers: int) -> None:
    if shape.channels != 3:
        raise Wrong(f"needs pictures of 3 channels; {shape} come in.")
    if frozen > layers:
        raise Wrong(f"freeze_first_n_layers is {frozen}, but there are {layers}.")
