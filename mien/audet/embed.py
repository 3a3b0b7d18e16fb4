"""What a trained AUDetNet makes of the faces of a store: embeddings and action units, in one pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mien.audet.nets import AudetNet
from mien.audet.output import AudetOutput
from mien.audet.spec import Cfg
from mien.data.store import Store
from mien.progress import track
from mien.schema import ByteArray, IntArray


class Embedded(NamedTuple):
    """Of N faces, on the CPU."""

    z1: Tensor
    """(N, C1, h, w)."""
    z2: Tensor
    """(N, C2, h, w)."""
    units: Tensor
    """(N, A) probabilities 0-1, or intensities 0-5 where the net regresses."""


def device_of(cfg: Cfg) -> torch.device:
    """Where a run is scored: a GPU where there is one and the cfg does not say cpu."""
    return torch.device("cuda" if torch.cuda.is_available() and cfg.run.accelerator != "cpu" else "cpu")


@torch.no_grad()
def run_net(net: AudetNet, pixels: ByteArray, device: torch.device) -> AudetOutput:
    """Output of a net for RGB pictures (B, H, W, 3) uint8 of any size."""
    images = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))).to(device)
    output: AudetOutput = net(net.from_pixels(images))
    return output


def outputs(
    net: AudetNet, store: Store, rows: IntArray, device: torch.device, batch: int = 64
) -> Iterator[tuple[IntArray, AudetOutput]]:
    """Rows of a store in batches, with the net's output on its device."""
    net.to(device)
    parts = [rows[start : start + batch] for start in range(0, len(rows), batch)]
    for part in track(parts, "faces", len(parts)):
        yield part, run_net(net, store.images(part), device)


def embed(net: AudetNet, store: Store, rows: IntArray, device: torch.device, batch: int = 64) -> Embedded:
    """Embeddings and action units of rows of a store."""
    found = [(output.z1.cpu(), output.z2.cpu(), output.action_units.cpu())
             for _, output in outputs(net, store, rows, device, batch)]  # fmt: skip
    return Embedded(*(torch.cat(part).float() for part in zip(*found, strict=True)))
