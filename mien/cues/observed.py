"""Cues from the action units of the face itself, labelled or predicted, in place of those of its expression's codebook."""

from __future__ import annotations

import torch
from torch import Tensor

from mien.cues.action_units import (
    canvas_maps,
    coverage,
    eye_distance,
    face_ellipses,
    known,
    windowed_coverage,
)
from mien.cues.codebook import Geometry, Units
from mien.maps import min_max, published_resize

FULL = 5.0
"""Intensity that is drawn with strength 1."""


def strengths(action_units: Tensor, units: Units, least: float) -> Tensor:
    """(B, A) intensities 0-5 over schema.ACTION_UNITS -> (B, U) strength in [0, 1] of the units that the codebook draws.

    A fifth of the intensity; 0 for units under `least` and unlabelled (NaN) ones.
    """
    values = action_units[:, units.columns].to(torch.float32)
    return torch.where(values >= least, values / FULL, 0.0).clamp(0, 1)


def draw_observed_face(
    landmarks: Tensor,
    strength: Tensor,
    book: Geometry,
    units: Units,
    image_size: tuple[int, int],
    size: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """Maps (B, 1, h, w) and validity (B,) of a "face" codebook for units of `strength` (B, U): their ellipses, the strongest
    where they overlap. Not valid without a unit, and where a point that one of them needs is unknown.
    """
    clean, usable = known(landmarks, book)
    weight = (strength[:, :, None] * units.contains).amax(1)
    distance = eye_distance(landmarks)
    valid = _known_units(weight > 0, usable) & (distance >= 1) & (distance < torch.inf)
    weight = torch.where(valid[:, None], weight, 0.0).T
    ellipses = face_ellipses(clean, book)
    if landmarks.device.type != "cpu" or ellipses.cx.requires_grad:
        maps = coverage(ellipses, image_size, size, weight)
    else:
        maps = windowed_coverage(ellipses, weight > 0, image_size, size, weight)
    return maps, valid & (maps.flatten(1).amax(1) > 0)


def draw_observed_canvas(
    landmarks: Tensor,
    strength: Tensor,
    book: Geometry,
    units: Units,
    image_size: tuple[int, int],
    size: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """As `draw_observed_face` for a "canvas" codebook; min-max per image makes the strongest unit 1, as published."""
    numbers = units.slots.expand(len(strength), -1, -1)
    merged, usable, touches = canvas_maps(landmarks, numbers, strength, book, image_size)
    used = (strength[:, :, None] * units.contains).amax(1) > 0
    return published_resize(min_max(merged), size), _known_units(used, usable) & (used & touches).any(1)


def _known_units(used: Tensor, usable: Tensor) -> Tensor:
    """(B,) some ellipse is drawn, and the points of all that are drawn are known; (B, E) each."""
    return used.any(1) & (usable | ~used).all(1)
