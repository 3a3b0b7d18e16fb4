"""Is it the same cue? Numbers that follow from what a configuration draws, not from how its keys are spelt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mien.cues.config import CueConfig
from mien.cues.render import render_cue
from mien.schema import ACTION_UNITS, scheme_classes

FRAME, SIDE, FACES, NUMBERS = 96, 24, 64, 16
"""Side of the probes and of their maps, how many probes, and how many numbers stand for all their maps."""
PICTURES = 4
"""Probes of a cue that is drawn from the picture: saliency nets are slow."""
TOLERANCE = 1e-5
"""Processors round differently; another cue moves the numbers by far more."""


def drawn_numbers(config: CueConfig, scheme: str) -> list[float]:
    """What a cue (without its control) draws on fixed probes, as NUMBERS random projections of all their maps together.

    Two configurations that draw the same have the same numbers to TOLERANCE, whatever their keys: the codebook or the saliency
    net is what the file holds, and a key that the kind does not use changes nothing. Probes: schematic faces turned, moved and
    scaled, every class of the scheme, action units of every intensity, pictures of noise.
    """
    count = PICTURES if config.kind == "saliency" else FACES
    rng = np.random.default_rng(0)
    points = _faces(rng)[:count]
    units = torch.from_numpy(rng.uniform(0, 5, (FACES, len(ACTION_UNITS))).astype(np.float32))[:count]
    pictures = torch.from_numpy(rng.random((FACES, 3, FRAME, FRAME), dtype=np.float32)[:count])
    labels = torch.arange(count) % len(scheme_classes(scheme))
    cue = render_cue(
        replace(config, control="none"), points, labels, scheme=scheme, image_size=(FRAME, FRAME), size=(SIDE, SIDE),
        images=pictures if config.kind == "saliency" else None, action_units=units,
    )  # fmt: skip
    drawn = cue.maps.double().flatten().numpy()
    projections = np.random.default_rng(1).standard_normal((NUMBERS, len(drawn)))
    return [round(float(value), 7) for value in projections @ drawn / np.sqrt(len(drawn))]


def same_drawn(first: Sequence[float] | None, second: Sequence[float] | None) -> bool:
    """Whether two results of `drawn_numbers` are those of one cue; unknown ones (None) equal each other only."""
    if first is None or second is None:
        return first is second
    return len(first) == len(second) and bool(np.allclose(first, second, rtol=0, atol=TOLERANCE))


def _faces(rng: np.random.Generator) -> Tensor:
    """(FACES, 68, 2) pixels of schematic faces in a frame of FRAME: turned by up to 20 degrees, moved and scaled, points a bit off."""
    t = np.linspace(0, np.pi, 17)
    jaw = np.stack([0.5 - 0.33 * np.cos(t), 0.45 + 0.42 * np.sin(t)], 1)
    brow = np.stack([np.linspace(0.22, 0.44, 5), 0.37 - 0.03 * np.sin(np.linspace(0, np.pi, 5))], 1)
    bridge = np.stack([np.full(4, 0.5), np.linspace(0.44, 0.59, 4)], 1)
    wings = np.stack([np.linspace(0.43, 0.57, 5), 0.63 + 0.015 * np.sin(np.linspace(0, np.pi, 5))], 1)

    def ring(x: float, y: float, wide: float, high: float, points: int) -> np.ndarray:
        angle = np.pi - 2 * np.pi * np.arange(points) / points
        return np.stack([x + wide * np.cos(angle), y - high * np.sin(angle)], 1)

    eyes = [ring(x, 0.45, 0.065, 0.025, 6) for x in (0.32, 0.68)]
    mirrored = np.stack([1 - brow[::-1, 0], brow[::-1, 1]], 1)
    mouth = [ring(0.5, 0.74, 0.125, 0.045, 12), ring(0.5, 0.74, 0.1, 0.02, 8)]
    face = np.concatenate([jaw, brow, mirrored, bridge, wings, *eyes, *mouth]) - 0.5
    angle, size = np.deg2rad(rng.uniform(-20, 20, FACES)), rng.uniform(0.7, 1.0, FACES)
    turn = size[:, None, None] * np.stack(
        [np.stack([np.cos(angle), -np.sin(angle)], 1), np.stack([np.sin(angle), np.cos(angle)], 1)], 1
    )
    moved = face @ turn.transpose(0, 2, 1) + rng.uniform(-0.05, 0.05, (FACES, 1, 2))
    noisy = moved + rng.normal(0, 0.004, moved.shape)
    return torch.from_numpy(((noisy + 0.5) * FRAME - 0.5).astype(np.float32))
