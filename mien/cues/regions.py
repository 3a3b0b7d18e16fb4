"""Where single action units and plain regions of a face lie: what maps are added up over."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from mien.cues.codebook import load_codebook
from mien.cues.config import FACE_REGIONS, CueConfig
from mien.cues.masks import FAR, chords, hull_edges
from mien.schema import ACTION_UNITS, OUTER_EYE_CORNERS

POINTS = {
    "brows": range(17, 27),
    "eyes": range(36, 48),
    "nose": range(27, 36),
    "cheeks": (*range(6), *range(11, 17)),
    "mouth": range(48, 68),
    "chin": range(6, 11),
}
"""Region -> its landmarks. Forehead and the middle of the cheeks have none; see `anchors`."""
FOREHEAD = 0.45
"""Height of the forehead's anchors above the brows, in outer-eye-corner distances."""
GRID = 56
"""Rows and columns that regions are drawn on."""


def anchors(landmarks: Tensor) -> tuple[Tensor, Tensor]:
    """Points that stand for the regions, (B, P, 2), and the region of each, (P,) index into FACE_REGIONS.

    Landmarks as in POINTS; the brows raised by FOREHEAD at a right angle to the eye line, away from the chin; and on each cheek the
    points one and two thirds of the way from the lower lids to the mouth corner.
    """
    left, right = (landmarks[:, k] for k in OUTER_EYE_CORNERS)
    across = right - left
    up = torch.stack((across[:, 1], -across[:, 0]), 1)
    up = torch.where(((left - landmarks[:, 8]) * up).sum(1, keepdim=True) < 0, -up, up)
    brows = landmarks[:, 17:27]
    parts, names = [brows + FOREHEAD * up[:, None]], ["forehead"] * brows.shape[1]
    for name, points in POINTS.items():
        parts.append(landmarks[:, list(points)])
        names += [name] * len(points)
    for lid, corner in ((40, 48), (41, 48), (46, 54), (47, 54)):
        for share in (1 / 3, 2 / 3):
            parts.append(torch.lerp(landmarks[:, lid], landmarks[:, corner], share)[:, None])
            names.append("cheeks")
    return torch.cat(parts, 1), torch.tensor([FACE_REGIONS.index(name) for name in names], device=landmarks.device)


def face_regions(landmarks: Tensor, image_size: tuple[int, int], grid: int = GRID) -> tuple[Tensor, Tensor]:
    """Which region each place of a picture belongs to, (B, R, grid, grid) 0 or 1 with one 1 a place, and validity (B,).

    A place inside the convex hull of jaw and raised brows has the region of its nearest anchor; one outside is
    "elsewhere". Not valid where a landmark is unknown.

    Args:
        landmarks: (B, 68, 2) pixels of the picture, NaN unknown.
        image_size: (H, W) of the picture.
        grid: places along each side.

    """
    valid = landmarks.isfinite().flatten(1).all(1)
    points, owner = anchors(landmarks.float().nan_to_num(0.0, FAR, -FAR).clamp(-FAR, FAR))
    ys, xs = ((torch.arange(grid, device=points.device) + 0.5) * (side / grid) - 0.5 for side in image_size)
    places = torch.stack(torch.meshgrid(ys, xs, indexing="ij")[::-1], -1).view(1, -1, 2)
    nearest = owner[torch.cdist(places.expand(len(points), -1, -1), points).argmin(2)].view(-1, grid, grid)
    rim = torch.cat((landmarks.float().nan_to_num(0.0, FAR, -FAR)[:, :17], points[:, :10]), 1).clamp(-FAR, FAR)
    left, right = chords(*hull_edges(rim), ys, 0.0)
    inside = (xs >= left[..., None]) & (xs <= right[..., None])
    region = torch.where(inside, nearest, FACE_REGIONS.index("elsewhere"))
    return torch.nn.functional.one_hot(region, len(FACE_REGIONS)).permute(0, 3, 1, 2).float(), valid


def unit_names(codebook: str) -> tuple[str, ...]:
    """Action units that a codebook draws and `schema.ACTION_UNITS` names, in the order of the latter."""
    drawn = load_codebook(codebook).action_units
    return tuple(name for name in ACTION_UNITS if name in drawn)


def unit_maps(
    codebook: str, landmarks: Tensor, image_size: tuple[int, int], size: tuple[int, int],
    canvas: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Region of every action unit of `unit_names`, (B, U, h, w) in [0, 1], and validity (B, U): its points are known.

    Drawn as the cue of a face that shows this unit alone, at full intensity; `canvas` as in `render_cue`.
    """
    from mien.cues.render import render_cue

    names = unit_names(codebook)
    alone = torch.full((len(names), len(ACTION_UNITS)), torch.nan, device=landmarks.device)
    for row, name in enumerate(names):
        alone[row, ACTION_UNITS.index(name)] = 5.0
    config = replace(CueConfig(), kind="au_observed", codebook=codebook, control="none")
    count = len(landmarks)
    faces = landmarks.repeat_interleave(len(names), 0)
    labels = torch.full((len(faces),), -1, device=landmarks.device)
    cue = render_cue(
        config, faces, labels, image_size=image_size, size=size, action_units=alone.repeat(count, 1), canvas=canvas
    )  # fmt: skip
    return cue.maps.view(count, len(names), *size), cue.valid.view(count, len(names))
