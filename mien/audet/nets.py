"""AUDetNet: a cfg as modules."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from mien.audet.layers import make_layer
from mien.audet.output import AudetOutput
from mien.audet.spec import Cfg, NetSpec
from mien.data.transforms import torchvision_functions


class Net(nn.Module):
    """Blocks in their order, each fed with the outputs that it names; the last one's output is the net's.

    `plain`: without published weights, because those of a run follow.
    """

    def __init__(self, spec: NetSpec, plain: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(make_layer(wired.block, wired.inputs, plain) for wired in spec.blocks)
        self.sources = [wired.sources for wired in spec.blocks]
        self.last_use = {source: index for index, wired in enumerate(spec.blocks) for source in wired.sources}

    def forward(self, values: Tensor) -> Tensor:
        """(N, C, H, W) -> output of the last block."""
        kept = {-1: values}
        for index, (block, sources) in enumerate(zip(self.blocks, self.sources, strict=True)):
            kept[index] = block(*(kept[source] for source in sources))
            for source in sources:  # free what nobody reads any more
                if self.last_use[source] == index:
                    kept.pop(source, None)
        return kept[len(self.blocks) - 1]


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
        self.z1_channels, self.z2_channels = cfg.z1_channels, cfg.z2_channels
        self.action_units, self.regresses = cfg.data.action_units, cfg.data.regress_au_intensities
        self.threshold, self.size = cfg.data.occurrence_threshold, cfg.data.image_size
        self.cross_entropy = cfg.cross_entropy
        self.mean, self.std = cfg.data.mean, cfg.data.std

    def forward(self, images: Tensor, decode: bool = True) -> AudetOutput:
        """(B, 3, size, size) as from `from_pixels` or `standardise` -> AudetOutput; without `decode` no reconstruction."""
        z = self.encode(images)
        z1, z2 = z[:, : self.z1_channels], z[:, self.z1_channels :]
        logits = self.predict(z1)
        picture = self.decoder(z) if decode and self.decoder is not None else None
        return AudetOutput(z1, z2, logits, self.scores(logits), picture)

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, size, size) -> embedding (B, z1_channels + z2_channels, h, w)."""
        return cast(Tensor, self.encoder(images))

    def predict(self, z1: Tensor) -> Tensor:
        """z1 -> (B, A) logits."""
        return cast(Tensor, self.predictor(z1)).flatten(1)

    def scores(self, logits: Tensor) -> Tensor:
        """(B, A) logits -> probabilities 0-1, or intensities 0-5 where the cfg regresses."""
        shares = logits.sigmoid() if self.cross_entropy else logits.clamp(0, 1)
        return 5 * shares if self.regresses else shares

    def decode(self, z1: Tensor, z2: Tensor) -> Tensor:
        """Pictures (B, 3, size, size) in [-1, 1] of any z1 with any z2."""
        if self.decoder is None:
            raise ValueError("this net has no decoder")
        return cast(Tensor, self.decoder(torch.cat([z1, z2], 1)))

    def standardise(self, images: Tensor) -> Tensor:
        """(B, 3, size, size) RGB in [0, 1] -> what the encoder takes, by the cfg's mean and std."""
        scale = 255.0 if max(self.mean) > 1 else 1.0
        mean, std = (torch.tensor(v, device=images.device).view(1, 3, 1, 1) for v in (self.mean, self.std))
        return ((images * scale - mean) / std).contiguous(memory_format=torch.channels_last)

    def from_pixels(self, pixels: Tensor) -> Tensor:
        """(B, 3, h, w) uint8 RGB of any size -> what the encoder takes."""
        resized = torchvision_functions().resize(pixels, [self.size, self.size], antialias=True)
        return self.standardise(resized.float() / 255)
