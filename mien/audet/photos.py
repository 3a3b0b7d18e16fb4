"""Action units of faces in photos, with the framing that an AUDetNet was trained on."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from mien.audet.embed import device_of, run_net
from mien.audet.nets import AudetNet
from mien.audet.run import load_audet, read_run
from mien.cues.reading import Reading, read_units
from mien.data.au_table import spread_units
from mien.data.framing import FramedFace, Framing, read_framing
from mien.schema import FloatArray

FULL = 5.0
"""Intensity of strength 1."""


class UnitReader(NamedTuple):
    """A net that names the action units of framed faces."""

    net: AudetNet
    framing: Framing
    device: torch.device

    @property
    def cut(self) -> float:
        """Strength from which a unit is present."""
        return self.net.threshold / FULL if self.net.regresses else 0.5


def open_reader(run: Path) -> UnitReader:
    """Reader of a run folder of `mien audet train`."""
    cfg, facts = read_run(run)
    device = device_of(cfg)
    framing = read_framing(facts, str(run / "environment.json")) or Framing(
        cfg.data.image_size, 3, "unknown", False, None
    )
    net = load_audet(run).to(device)
    return UnitReader(net, framing, device)


def unit_strengths(reader: UnitReader, faces: Sequence[FramedFace]) -> FloatArray:
    """(B, U) strength in [0, 1] of the net's units: probability, or a fifth of the intensity where it regresses."""
    found = (
        run_net(reader.net, np.stack([face.pixels for face in faces]), reader.device).action_units.float().cpu().numpy()
    )
    return np.clip(found / FULL if reader.net.regresses else found, 0, 1).astype(np.float32)


def intensities(reader: UnitReader, strength: FloatArray) -> FloatArray:
    """(B, A) intensities 0-5 over schema.ACTION_UNITS, NaN for units that the net does not know."""
    return spread_units(reader.net.action_units, strength * FULL)


def reading_of(reader: UnitReader, strength: FloatArray, codebook: str, expressions: Collection[str]) -> Reading:
    """What the codebook makes of one face's (U,) strengths, among some expressions."""
    named = dict(zip(reader.net.action_units, map(float, strength), strict=True))
    return read_units(named, reader.cut, codebook, expressions)
