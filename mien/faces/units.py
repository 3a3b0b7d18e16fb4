"""Action units of a face from the Face Landmarker's blendshapes: named, left and right apart, 0 to 5, and whether each is proven.

`units.json` maps units to blendshapes and gives the reasons, `unit_weights.npz` is a linear regressor from all blendshapes to
intensities, fitted on synthetic faces (`tools/units.py`). Which of the two a unit is taken from, from which intensity it counts as
present, and whether it may be named in words was decided by measuring: docs/photo-units.md has the table. Sides are the person's
own.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mien.faces.blendshapes import BLENDSHAPES
from mien.schema import FloatArray

FULL = 5.0
"""Highest intensity."""
SMALLEST = 1e-7
"""Blendshapes are cut here before their logit is taken."""
SIDES = {"L": "left", "R": "right"}
"""Ending of a column -> side of the person, in words."""

Matrix = npt.NDArray[np.float64]


class Unit(NamedTuple):
    """One action unit of units.json."""

    name: str
    sides: bool
    """Whether left and right are told apart."""
    blendshapes: tuple[tuple[str, ...], ...]
    """Of each column: their mean is taken."""
    source: str
    """regressor or blendshapes: where its intensity comes from."""
    gain: float
    """Intensity at blendshape 1, where they are the source."""
    cut: float
    """Intensity from which a side counts as present."""
    proven: bool
    """Whether it may be named in words."""
    regions: tuple[str, ...]
    """Regions of the face (mien.cues.config.FACE_REGIONS) where it shows."""
    why: str
    """Why it is read from these, and is or is not proven."""

    @property
    def columns(self) -> tuple[str, ...]:
        """AU12_L and AU12_R, or the unit itself where sides are not told apart."""
        return tuple(f"{self.name}_{side}" for side in SIDES) if self.sides else (self.name,)


@cache
def read_units() -> tuple[Unit, ...]:
    """All units of units.json, in FACS order."""
    kept = json.loads(files("mien.faces").joinpath("units.json").read_text(encoding="utf-8"))["units"]
    return tuple(
        Unit(
            name, one["sides"], tuple(map(tuple, one["blendshapes"])), one["from"], one["gain"], one["cut"], one["proven"],
            tuple(one["regions"]), one["why"],
        )
        for name, one in kept.items()
    )  # fmt: skip


@cache
def unit_columns() -> tuple[str, ...]:
    """Columns of `unit_intensities`: every unit, or both of its sides."""
    return tuple(column for unit in read_units() for column in unit.columns)


class Weights(NamedTuple):
    """The regressor: intensities are linear in the logits of the blendshapes."""

    matrix: Matrix
    """(52, C) over BLENDSHAPES and `unit_columns`."""
    bias: Matrix
    """(C,)."""
    rest: Matrix
    """(C,) intensities of a typical neutral face, the median of portraits."""


@cache
def unit_weights() -> Weights:
    """The regressor that ships with the package, read once per process."""
    with files("mien.faces").joinpath("unit_weights.npz").open("rb") as stream:
        kept = dict(np.load(stream, allow_pickle=False))
    return Weights(*(kept[name].astype(np.float64) for name in Weights._fields))


def logits(blendshapes: FloatArray) -> Matrix:
    """log(p / (1 - p)) of blendshapes in [0, 1], cut at SMALLEST from both ends.

    It keeps what a blendshape near 0 still tells: on portraits even those that never rise above 0.001 put smiles in order.
    """
    kept = np.clip(np.asarray(blendshapes, dtype=np.float64), SMALLEST, 1 - SMALLEST)
    return np.asarray(np.log(kept / (1 - kept)))


def unit_intensities(blendshapes: FloatArray) -> FloatArray:
    """Intensities over `unit_columns` before they are clipped to 0-5: (B, 52) -> (B, C) float32.

    A unit's own source in units.json gives it. What lies under 0 matters where a neutral face is subtracted.
    """
    weights, columns = unit_weights(), unit_columns()
    found = logits(blendshapes) @ weights.matrix + weights.bias
    for unit in read_units():
        if unit.source == "blendshapes":
            for column, names in zip(unit.columns, unit.blendshapes, strict=True):
                shapes = blendshapes[:, [BLENDSHAPES.index(name) for name in names]]
                found[:, columns.index(column)] = unit.gain * shapes.mean(1)
    return found.astype(np.float32)


def named_strengths(intensities: FloatArray) -> dict[str, float]:
    """Strengths in [0, 1] by name from one face's (C,) intensities: each unit, and AU12_L, AU12_R where it has sides.

    The unit itself is the mean of its sides. A strength is a fifth of the intensity, clipped.
    """
    level = np.clip(intensities / FULL, 0, 1)
    columns, found = unit_columns(), dict[str, float]()
    for unit in read_units():
        values = [float(level[columns.index(column)]) for column in unit.columns]
        found[unit.name] = sum(values) / len(values)
        if unit.sides:
            found |= dict(zip(unit.columns, values, strict=True))
    return found


def strength_names() -> tuple[str, ...]:
    """Keys of `named_strengths`, in order."""
    return tuple(named_strengths(np.zeros(len(unit_columns()), np.float32)))


def present_units(intensities: FloatArray, proven: bool = True) -> dict[str, tuple[str, ...]]:
    """Units that are measured as present in one face's (C,) intensities -> their columns that are; unproven ones left out."""
    columns, found = unit_columns(), dict[str, tuple[str, ...]]()
    for unit in read_units():
        there = tuple(column for column in unit.columns if intensities[columns.index(column)] >= unit.cut)
        if there and (unit.proven or not proven):
            found[unit.name] = there
    return found


def in_words(present: Mapping[str, Sequence[str]]) -> str:
    """Present units for a person: "AU12 both sides, AU14 left, AU25"; sides are the person's own."""
    told = []
    for name, columns in present.items():
        sides = [SIDES[column[-1]] for column in columns if column != name]
        told.append(f"{name} both sides" if len(sides) == 2 else " ".join([name, *sides]))
    return ", ".join(told)


def shown_in(regions: Collection[str]) -> tuple[str, ...]:
    """Units that show in any of some regions of the face."""
    return tuple(unit.name for unit in read_units() if set(unit.regions) & set(regions))
