"""Where the action units of faces come from: the finder's own points, or a run of `mien audet train`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from mien.data.au_table import spread_units
from mien.data.framing import FramedFace, Framing
from mien.faces import units as measured
from mien.faces.provider import Face
from mien.schema import ACTION_UNITS, FloatArray

if TYPE_CHECKING:
    import torch

    from mien.audet.photos import UnitReader


class FaceUnits(NamedTuple):
    """Action units of one face."""

    strengths: dict[str, float]
    """Name -> strength in [0, 1]; empty where they are not known."""
    present: dict[str, tuple[str, ...]]
    """Units that are measured as present -> their columns (both sides, one, or the unit itself); only proven ones."""
    looked_for: tuple[str, ...]
    """Units that could have been named."""
    reading: str | None
    """For a person."""


NOT_KNOWN = FaceUnits({}, {}, (), None)


def unnamed(units: FaceUnits) -> FaceUnits:
    """Strengths alone: units of a face beyond the limits of quality are not named, in words or as present."""
    return FaceUnits(units.strengths, {}, (), None)


class UnitSource(Protocol):
    """Reads the action units of a batch of faces."""

    @property
    def names(self) -> tuple[str, ...]:
        """Keys of `FaceUnits.strengths`."""

    @property
    def framing(self) -> Framing | None:
        """How faces must be cut for it; None where it needs no pixels."""

    def read(self, faces: Sequence[Face | None], framed: Sequence[FramedFace]) -> list[FaceUnits]:
        """Units of each face; `framed` are its cuts where the source has a framing."""


@dataclass(frozen=True)
class PointUnits:
    """Units from the points and blendshapes of the face finder (`mien.faces.units`)."""

    neutral: FloatArray | None = None
    """(C,) intensities of the person's neutral face, which are subtracted."""
    framing: None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Every unit, and both sides of those that have some."""
        return measured.strength_names()

    def read(self, faces: Sequence[Face | None], framed: Sequence[FramedFace]) -> list[FaceUnits]:
        """Units of each face; not known where its finder gives no mesh."""
        rows = [k for k, face in enumerate(faces) if face is not None and face.blendshapes is not None]
        found = [NOT_KNOWN] * len(faces)
        for k, intensities in zip(rows, raw_intensities([faces[k] for k in rows]), strict=True):
            level = intensities if self.neutral is None else intensities - self.neutral
            # Cuts were measured on faces whose own neutral is not known: the typical one stands in for it.
            usual = 0 if self.neutral is None else measured.unit_weights().rest
            present = measured.present_units(level + usual)
            looked_for = tuple(unit.name for unit in measured.read_units() if unit.proven)
            text = measured.in_words(present) or None
            found[k] = FaceUnits(measured.named_strengths(level), present, looked_for, text)
        return found


def raw_intensities(faces: Sequence[Face | None]) -> FloatArray:
    """(B, C) intensities of faces with blendshapes, not clipped, over `mien.faces.units.unit_columns`."""
    shapes = [face.blendshapes for face in faces if face is not None and face.blendshapes is not None]
    if not shapes:
        return np.zeros((0, len(measured.unit_columns())), np.float32)
    return measured.unit_intensities(np.stack(shapes))


@dataclass(frozen=True)
class NetUnits:
    """Units from a run of `mien audet train`."""

    reader: UnitReader
    codebook: str
    expressions: Collection[str]
    """That the reading may name."""

    @property
    def names(self) -> tuple[str, ...]:
        """Units of the net."""
        return tuple(self.reader.net.action_units)

    @property
    def framing(self) -> Framing:
        """That the net was trained on."""
        return self.reader.framing

    def read(self, faces: Sequence[Face | None], framed: Sequence[FramedFace]) -> list[FaceUnits]:
        """Units of each face, and what the codebook makes of them."""
        from mien.audet.photos import reading_of, unit_strengths

        found = []
        for row in unit_strengths(self.reader, framed) if framed else ():
            named = dict(zip(self.names, map(float, row), strict=True))
            present: dict[str, tuple[str, ...]] = {
                name: (name,) for name in self.names if named[name] >= self.reader.cut
            }
            text = reading_of(self.reader, row, self.codebook, self.expressions).text or None
            found.append(FaceUnits(named, present, self.names, text))
        return found


def net_units(run: Path, device: torch.device, codebook: str, expressions: Collection[str]) -> NetUnits:
    """Action units by a run of `mien audet train`, on a device."""
    from mien.audet.photos import open_reader

    reader = open_reader(run)
    return NetUnits(reader._replace(net=reader.net.to(device), device=device), codebook, expressions)


def spread(units: Sequence[FaceUnits]) -> FloatArray:
    """(B, A) intensities 0-5 over schema.ACTION_UNITS, NaN unknown, for cues that are drawn from a face's own units."""
    found = np.full((len(units), len(ACTION_UNITS)), np.nan, dtype=np.float32)
    for row, face in enumerate(units):
        kept = [name for name in face.strengths if name in ACTION_UNITS]
        if kept:
            values = np.array([[face.strengths[name] * measured.FULL for name in kept]], dtype=np.float32)
            found[row] = spread_units(kept, values)[0]
    return found
