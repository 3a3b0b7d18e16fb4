"""Where a face acts: boxes around brows, eyes, nose, mouth and chin, placed by the corners of the eyes alone.

Corners of the eyes hardly move with any action, so that the boxes tell nothing of the actions inside them.
"""

from __future__ import annotations

import torch
from torch import Tensor

CORNERS = (36, 39, 42, 45)
"""iBUG-68 points: outer and inner corner of the eye on the left of the picture, inner and outer of the other."""
BOXES = ((-1.05, 1.05, -0.8, 0.4), (-0.85, 0.85, 0.4, 2.1))
"""Left, right, top and bottom of brows with eyes, and of nose, mouth and chin: in distances of the eye centres, from the middle
between these, along the line of the eyes and down from it."""
USUAL = ((0.30, 0.42), (0.40, 0.42), (0.60, 0.42), (0.70, 0.42))
"""CORNERS in shares of the side, where nothing is known of a face and the net has not seen any."""


def corners_of(landmarks: Tensor, size: int) -> Tensor:
    """Landmarks (B, 68, 2) in pixels of pictures of `size` -> corners of the eyes (B, 4, 2) in shares of the side; NaN stays."""
    return (
        landmarks[:, CORNERS[0] : CORNERS[-1] + 1 : 3] + 0.5
    ) / size  # a slice: a list of places would be copied to the device


def inactive(corners: Tensor, size: int) -> Tensor:
    """1 outside the boxes where a face acts and 0 inside, (B, 1, size, size).

    corners: (B, 4, 2) x, y of the corners of the eyes (`CORNERS`) in shares of the side, all known.
    """
    eyes = corners.unflatten(1, (2, 2)).mean(2)  # (B, 2, 2) centres
    middle, along = eyes.mean(1), eyes[:, 1] - eyes[:, 0]
    length = along.square().sum(1, keepdim=True).clamp_min(1e-8)
    across = torch.stack([-along[:, 1], along[:, 0]], 1)
    steps = (torch.arange(size, device=corners.device, dtype=corners.dtype) + 0.5) / size
    places = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1)[None] - middle[:, None, None]
    x, y = ((places * (axis / length)[:, None, None]).sum(-1) for axis in (along, across))
    inside = torch.zeros_like(x, dtype=torch.bool)
    for left, right, top, bottom in BOXES:
        inside |= (x >= left) & (x <= right) & (y >= top) & (y <= bottom)
    return (~inside)[:, None].to(corners.dtype)
