"""Several views of one face, whose logits are averaged: what a net says of a face should not depend on which way it faces."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mien.errors import UsageError
from mien.faces.landmarks import FLIP
from mien.schema import Output

VIEWS = (1, 2, 4)
"""The face itself; with its mirror image; both also a little closer. The first is what is explained."""
CLOSER = 1.1
"""By how much the third and fourth view are enlarged about the centre."""


def check_views(views: int) -> None:
    """UsageError for a number that is none of VIEWS."""
    if views not in VIEWS:
        raise UsageError(
            f"views {views}: take 1 (the face), 2 (and its mirror image) or 4 (both, also a little closer)."
        )


def mirrored_guide(guide: Tensor | None, width: int) -> Tensor | None:
    """What steers the spatial transformer of a mirrored picture: the guide image, or the landmarks, mirrored."""
    if guide is None or guide.dim() == 4:
        return None if guide is None else guide.flip(-1)
    points = guide[:, list(FLIP)]
    return torch.stack([width - 1 - points[..., 0], points[..., 1]], -1)


def closer(images: Tensor) -> Tensor:
    """(B, C, S, S) enlarged by CLOSER about its centre, at the same size."""
    matrix = images.new_tensor([[1 / CLOSER, 0, 0], [0, 1 / CLOSER, 0]]).expand(len(images), -1, -1)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


@torch.no_grad()
def logits_of(model: Any, images: Tensor, guide: Tensor | None = None, views: int = 1) -> Tensor:
    """(B, K) float32 logits, the mean over the views. A model that takes a guide is not shown closer views: its guide would
    have to be drawn anew.
    """
    shown = [(images, guide)]
    if views > 1:
        shown.append((images.flip(-1), mirrored_guide(guide, images.shape[-1])))
    if views > 2 and guide is None:
        shown += [(closer(one), None) for one, _ in shown]
    outputs: list[Output] = [model(one) if guide is None else model(one, guide=guide) for one, guide in shown]
    logits = [output.logits.float() for output in outputs]
    return logits[0] if len(logits) == 1 else torch.stack(logits).mean(0)
