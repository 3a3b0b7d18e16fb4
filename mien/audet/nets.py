"""AUDetNet: a cfg as modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from mien.audet.layers import make_layer
from mien.audet.output import AudetOutput
from mien.audet.regions import USUAL, inactive
from mien.audet.spec import Cfg, NetSpec, skipped_blocks
from mien.data.transforms import torchvision_functions
from mien.maps import numbers

COLOURS = 3
"""Channels of a picture; an encoder of one more takes the mask of where a face acts."""


class Net(nn.Module):
    """Blocks in their order, each fed with the outputs that it names; the last one's output is the net's.

    `plain`: without published weights, because those of a run follow.
    """

    def __init__(self, spec: NetSpec, plain: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(make_layer(wired.block, wired.inputs, plain) for wired in spec.blocks)
        self.sources = [wired.sources for wired in spec.blocks]
        self.last_use = {source: index for index, wired in enumerate(spec.blocks) for source in wired.sources}

    def forward(self, values: Tensor, outside: Mapping[int, Tensor] = {}) -> Tensor:
        """(N, C, H, W) -> output of the last block; `outside` holds what [skip] takes, by number of the encoder's block."""
        return self.through(values, (), outside)[0]

    def through(
        self, values: Tensor, wanted: Sequence[int], outside: Mapping[int, Tensor] = {}
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """As `forward`, with the outputs of the blocks `wanted`."""
        kept = {-1: values, **{-2 - number: value for number, value in outside.items()}}
        stay = {*wanted, len(self.blocks) - 1}
        for index, (block, sources) in enumerate(zip(self.blocks, self.sources, strict=True)):
            kept[index] = block(*(kept[source] for source in sources))
            for source in sources:  # free what nobody reads any more
                if self.last_use[source] == index and source not in stay:
                    kept.pop(source, None)
        return kept[len(self.blocks) - 1], tuple(kept[index] for index in wanted)


class Critic(nn.Module):
    """A net whose last map, averaged, is one score a sample."""

    def __init__(self, spec: NetSpec) -> None:
        super().__init__()
        self.net = Net(spec)

    def forward(self, values: Tensor) -> Tensor:
        """(N, C, H, W) -> (N,)."""
        return cast(Tensor, self.net(values)).flatten(1).mean(1)


class AudetNet(nn.Module):
    """Encoder, AU predictor and decoder: images -> AudetOutput; nothing is kept on the module.

    z1, the first `z1_channels` channels of the embedding, alone predicts the action units; the decoder sees z1 and z2.
    """

    def __init__(self, cfg: Cfg, plain: bool = False) -> None:
        super().__init__()
        self.encoder = Net(cfg.nets["Encoder"], plain)
        self.predictor = Net(cfg.nets["AUPredictor"], plain)
        self.decoder = Net(cfg.nets["Decoder"], plain) if "Decoder" in cfg.nets else None
        self.skipped = skipped_blocks(cfg.nets.get("Decoder"))
        self.masked = cfg.nets["Encoder"].input.channels > COLOURS
        self.corners: Tensor
        self.register_buffer("corners", torch.tensor(USUAL), persistent=self.masked)
        self.z1_channels, self.z2_channels = cfg.z1_channels, cfg.z2_channels
        self.action_units, self.regresses = cfg.data.action_units, cfg.data.regress_au_intensities
        self.threshold, self.size = cfg.data.occurrence_threshold, cfg.data.image_size
        self.cross_entropy = cfg.cross_entropy
        self.mean, self.std = cfg.data.mean, cfg.data.std

    def forward(
        self, images: Tensor, decode: bool = True, of_z1: Tensor | None = None, of_z2: Tensor | None = None
    ) -> AudetOutput:
        """(B, 3, size, size) as from `from_pixels` or `standardise` -> AudetOutput; without `decode` no reconstruction.

        With `of_z1` and `of_z2`, (B,) rows, picture i is decoded from the z1 and the z2 of those, not from its own.
        """
        z, skips = self.encoder.through(self._with_mask(images), self.skipped)
        z1, z2 = z[:, : self.z1_channels], z[:, self.z1_channels :]
        logits = self.predict(z1)
        picture = None
        if decode and self.decoder is not None:
            if of_z1 is not None or of_z2 is not None:
                ours = z1 if of_z1 is None else z1[of_z1]
                theirs, *skipped = (z2, *skips) if of_z2 is None else [part[of_z2] for part in (z2, *skips)]
                picture = self.decode(ours, theirs, skipped)
            else:  # z itself, not its parts put together again, whose gradients would be summed in another order
                picture = self.decoder(z, dict(zip(self.skipped, skips, strict=True)))
        return AudetOutput(z1, z2, logits, self.scores(logits), picture, skips)

    def _with_mask(self, images: Tensor) -> Tensor:
        """The pictures with the mask that the encoder wants, at the usual place where they have none."""
        if not self.masked or images.shape[1] > COLOURS:
            return images
        mask = inactive(self.corners[None], images.shape[-1]).to(images.dtype)
        return torch.cat([images, mask.expand(len(images), -1, -1, -1)], 1)

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, size, size) -> embedding (B, z1_channels + z2_channels, h, w)."""
        return cast(Tensor, self.encoder(self._with_mask(images)))

    def predict(self, z1: Tensor) -> Tensor:
        """z1 -> (B, A) logits."""
        return cast(Tensor, self.predictor(z1)).flatten(1)

    def scores(self, logits: Tensor) -> Tensor:
        """(B, A) logits -> probabilities 0-1, or intensities 0-5 where the cfg regresses."""
        shares = logits.sigmoid() if self.cross_entropy else logits.clamp(0, 1)
        return 5 * shares if self.regresses else shares

    def decode(self, z1: Tensor, z2: Tensor, skips: Sequence[Tensor] = ()) -> Tensor:
        """Pictures (B, 3, size, size) in [-1, 1] of any z1 with any z2, and the skips of z2's faces where the decoder has [skip]."""
        if self.decoder is None:
            raise ValueError("this net has no decoder")
        if len(skips) != len(self.skipped):
            raise ValueError(f"the decoder takes {len(self.skipped)} skips, not {len(skips)}")
        z = torch.cat([z1, z2], 1)
        return cast(Tensor, self.decoder(z, dict(zip(self.skipped, skips, strict=True))))

    def known_corners(self, corners: Tensor) -> Tensor:
        """Corners of the eyes (B, 4, 2) in shares of the side, with the mean of the training faces where they are unknown (NaN)."""
        return torch.where(corners.flatten(1).isfinite().all(1)[:, None, None], corners, self.corners)

    def standardise(self, images: Tensor, corners: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(B, 3, size, size) RGB in [0, 1] -> what the encoder takes, by the cfg's mean and std.

        For an encoder that masks where a face acts, corners (B, 4, 2) of the eyes in shares of the side, or the mask
        (B, 1, size, size) itself (`mien.audet.regions`); without either the mask stands where the training faces had it.
        """
        scale = 255.0 if max(self.mean) > 1 else 1.0
        mean, std = (numbers(tuple(v), images, torch.float32).view(1, 3, 1, 1) for v in (self.mean, self.std))
        normal = (images * scale - mean) / std
        if self.masked and mask is None and corners is not None:
            mask = inactive(self.known_corners(corners), images.shape[-1])
        if self.masked and mask is not None:
            normal = torch.cat([normal, mask], 1)
        return normal.contiguous(memory_format=torch.channels_last)

    def from_pixels(self, pixels: Tensor, corners: Tensor | None = None) -> Tensor:
        """(B, 3, h, w) uint8 RGB of any size -> what the encoder takes; corners as of `standardise`."""
        resized = torchvision_functions().resize(pixels, [self.size, self.size], antialias=True)
        return self.standardise(resized.float() / 255, corners)
