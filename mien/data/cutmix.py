"""CutMix: a box of each face is replaced by the same box of another face of the batch (Yun et al. 2019, arXiv 1905.04899)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mien.config import AugmentConfig
from mien.schema import Batch, Cue, Mix


def cutmix(batch: Batch, config: AugmentConfig, classes: int, seed: Sequence[int]) -> Batch:
    """The batch with one box mixed in with probability `augment.cutmix`, else as it is; depends on `seed` only.

    Images are mixed, expressions become soft (B, K): share * own + (1 - share) * partner's, where share is the part of the
    picture that the box leaves.
    """
    rng = np.random.default_rng((*seed, 1))  # another stream than the random controls of the same step
    if rng.random() >= config.cutmix:
        return batch
    height, width = batch.images.shape[-2:]
    box = draw_box(rng, height, width, config.cutmix_alpha)
    partner = torch.from_numpy(rng.permutation(len(batch.images))).to(batch.images.device)
    return mix_batch(batch, box, partner, classes)


def draw_box(rng: np.random.Generator, height: int, width: int, alpha: float) -> tuple[int, int, int, int]:
    """Box y0, y1, x0, x1 of the picture's shape: area 1 - lambda, lambda ~ Beta(alpha, alpha), centre uniform, clipped."""
    side = math.sqrt(1 - rng.beta(alpha, alpha))
    half_height, half_width = int(height * side) // 2, int(width * side) // 2
    y, x = int(rng.integers(height)), int(rng.integers(width))
    rows = max(0, y - half_height), min(height, y + half_height)
    return (*rows, max(0, x - half_width), min(width, x + half_width))


def mix_batch(batch: Batch, box: tuple[int, int, int, int], partner: Tensor, classes: int) -> Batch:
    """The batch with the box of each picture taken from its partner, soft labels to match, and `mix` set."""
    targets = batch.expressions
    soft = F.one_hot(targets.clamp_min(0), classes).float() if targets.dim() == 1 else targets
    mix = Mix(
        box,
        (batch.images.shape[-2], batch.images.shape[-1]),
        partner,
        targets if targets.dim() == 1 else targets.argmax(1),
    )
    y0, y1, x0, x1 = box
    images = batch.images.clone()
    images[:, :, y0:y1, x0:x1] = batch.images[partner, :, y0:y1, x0:x1]
    soft = mix.share * soft + (1 - mix.share) * soft[partner]
    labels = batch.labels
    if labels is not None:
        labels = F.one_hot(labels.clamp_min(0), classes).float() if labels.dim() == 1 else labels
        labels = mix.share * labels + (1 - mix.share) * labels[partner]
    return batch._replace(images=images, expressions=soft, mix=mix, labels=labels)


def mix_cue(cue: Cue, mix: Mix) -> Cue:
    """The own cue outside the box and the partner's inside; a cell that the box cuts gets both by area.

    maps (B, 1, h, w) at any resolution, drawn for the faces before mixing. Valid where every face of which something is
    left in the picture had a cue, and something of a cue is left too.
    """
    inside = _cover(cue.maps, mix)
    maps = (1 - inside) * cue.maps + inside * cue.maps[mix.partner]
    own, other = mix.share > 0, mix.share < 1
    valid = (cue.valid | (not own)) & (cue.valid[mix.partner] | (not other)) & (maps.flatten(1).amax(1) > 0)
    return Cue(torch.where(valid[:, None, None, None], maps, 0.0), valid)


def _cover(maps: Tensor, mix: Mix) -> Tensor:
    """(h, w) share of each cell that lies inside the box."""
    rows, columns = (
        _overlap(start, end, length, cells, maps)
        for start, end, length, cells in zip(mix.box[::2], mix.box[1::2], mix.size, maps.shape[-2:], strict=True)
    )
    return rows[:, None] * columns[None, :]


def _overlap(start: int, end: int, length: int, cells: int, like: Tensor) -> Tensor:
    """(cells,) share of each of `cells` equal parts of [0, length] that [start, end] covers."""
    edges = torch.arange(cells + 1, device=like.device, dtype=like.dtype) * (length / cells)
    return (edges[1:].clamp(max=end) - edges[:-1].clamp(min=start)).clamp_min(0) * (cells / length)
