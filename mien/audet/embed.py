"""What a trained AUDetNet makes of the faces of a store: embeddings and action units, in one pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mien.audet.nets import AudetNet
from mien.audet.output import AudetOutput
from mien.audet.regions import corners_of
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
    skips: Tensor
    """(N, D) what the decoder takes of a face beside z1 and z2, as means over 4 x 4 parts of each map; D is 0 without."""


POOLED = 4
"""Side of what a probe sees of a skipped map."""


def device_of(cfg: Cfg) -> torch.device:
    """Where a run is scored: a GPU where there is one and the cfg does not say cpu."""
    return torch.device("cuda" if torch.cuda.is_available() and cfg.run.accelerator != "cpu" else "cpu")


@torch.no_grad()
def run_net(
    net: AudetNet, pixels: ByteArray, device: torch.device, corners: Tensor | None = None, decode: bool = True
) -> AudetOutput:
    """Output of a net for RGB pictures (B, H, W, 3) uint8 of any size; corners (B, 4, 2) of the eyes as in `regions`, NaN unknown."""
    images = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))).to(device)
    where = None if corners is None else corners.to(device)
    output: AudetOutput = net(net.from_pixels(images, where), decode)
    return output


def eye_corners(store: Store, rows: IntArray) -> Tensor:
    """(B, 4, 2) corners of the eyes of rows of a store in shares of the side, NaN unknown."""
    return corners_of(torch.from_numpy(store.landmarks_of(rows)), store.info.size)


def real_pictures(store: Store, rows: IntArray, size: int) -> Tensor:
    """(B, 3, size, size) RGB in [-1, 1] of rows of a store."""
    pixels = torch.from_numpy(store.images(rows)).permute(0, 3, 1, 2).float()
    return F.interpolate(pixels, size=[size, size], mode="bilinear", antialias=True) / 127.5 - 1


@torch.no_grad()
def decode_rows(net: AudetNet, store: Store, of_z1: IntArray, of_z2: IntArray, device: torch.device) -> Tensor:
    """Pictures (B, 3, size, size) in [-1, 1] on the CPU: z1 of some rows of a store with z2 and skips of others, row by row."""
    first, second = (
        run_net(net, store.images(rows), device, eye_corners(store, rows), decode=False) for rows in (of_z1, of_z2)
    )
    return net.decode(first.z1, second.z2, second.skips).float().cpu()


@torch.no_grad()
def read_again(net: AudetNet, pictures: Tensor, corners: Tensor, device: torch.device) -> AudetOutput:
    """What a net makes of decoded pictures (B, 3, H, W) in [-1, 1] of any size; corners of the eyes as in `regions`."""
    sized = pictures.to(device)
    if list(sized.shape[2:]) != [net.size, net.size]:
        sized = F.interpolate(sized, size=[net.size, net.size], mode="bilinear", antialias=True)
    images = net.standardise((sized * 0.5 + 0.5).clamp(0, 1), corners.to(device))
    output: AudetOutput = net(images, decode=False)
    return output


def pooled(skips: Sequence[Tensor], faces: int) -> Tensor:
    """Skipped maps as (B, D): means over POOLED x POOLED parts of each, on the CPU."""
    parts = [F.adaptive_avg_pool2d(part.float(), POOLED).flatten(1).cpu() for part in skips]
    return torch.cat(parts, 1) if parts else torch.zeros(faces, 0)


def outputs(
    net: AudetNet, store: Store, rows: IntArray, device: torch.device, batch: int = 64
) -> Iterator[tuple[IntArray, AudetOutput]]:
    """Rows of a store in batches, with the net's output on its device."""
    net.to(device)
    parts = [rows[start : start + batch] for start in range(0, len(rows), batch)]
    for part in track(parts, "faces", len(parts)):
        yield part, run_net(net, store.images(part), device, eye_corners(store, part))


def embed(net: AudetNet, store: Store, rows: IntArray, device: torch.device, batch: int = 64) -> Embedded:
    """Embeddings and action units of rows of a store."""
    found = [(output.z1.cpu(), output.z2.cpu(), output.action_units.cpu(), pooled(output.skips, len(part)))
             for part, output in outputs(net, store, rows, device, batch)]  # fmt: skip
    return Embedded(*(torch.cat(part).float() for part in zip(*found, strict=True)))
