"""A cfg without mistakes, as data: typed options and wired nets, no tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from mien.audet.blocks import AnyBlock, Shape, Skip
from mien.audet.cfg import Place
from mien.audet.options import (
    CRITIC_KINDS,
    DataOptions,
    LossOptions,
    NetOptions,
    RunOptions,
    TrainingOptions,
)


class Wired(NamedTuple):
    """A block in its net."""

    name: str
    block: AnyBlock
    sources: tuple[int, ...]
    """Blocks whose output comes in; -1 is the net's input."""
    inputs: list[Shape]
    output: Shape
    place: Place


class NetSpec(NamedTuple):
    """A net that can be built."""

    name: str
    options: NetOptions
    input: Shape
    blocks: list[Wired]
    place: Place

    @property
    def output(self) -> Shape:
        """Of the last block."""
        return self.blocks[-1].output


def skipped_blocks(decoder: NetSpec | None) -> tuple[int, ...]:
    """Blocks of the {Encoder} that a decoder takes by [skip], in order."""
    blocks = decoder.blocks if decoder is not None else []
    return tuple(sorted({wired.block.encoder_layer for wired in blocks if isinstance(wired.block, Skip)}))


@dataclass(frozen=True)
class Cfg:
    """Everything that a cfg says."""

    training: TrainingOptions
    data: DataOptions
    loss: LossOptions
    run: RunOptions
    nets: dict[str, NetSpec]
    """Those that are there, under the names of their sections."""
    text: str
    """The cfg itself, overrides included, comments left out."""
    warnings: tuple[str, ...] = ()

    @property
    def z1_channels(self) -> int:
        """Leading channels of the embedding, which the AU predictor sees."""
        return self.nets["AUPredictor"].options.channels

    @property
    def z2_channels(self) -> int:
        """The other channels; 0 without a split."""
        return self.nets["Encoder"].output.channels - self.z1_channels

    @property
    def splits(self) -> bool:
        """Whether a dependency between z1 and z2 is trained away."""
        return self.z2_channels > 0 and self.loss.discriminator_loss_lambda > 0

    @property
    def uses_regions(self) -> bool:
        """Whether training asks where a face acts."""
        return self.nets["Encoder"].input.channels > 3 or self.loss.region_weight != 1

    @property
    def uses_critic(self) -> bool:
        """Whether the {Discriminator} is trained."""
        return self.splits and self.loss.dependency in CRITIC_KINDS

    @property
    def cross_entropy(self) -> bool:
        """Whether the AU loss is BCEWithLogits; else MSE."""
        named = self.loss.au_regression_loss_function
        return named == "BCEWithLogits" or (named == "None" and not self.data.regress_au_intensities)
