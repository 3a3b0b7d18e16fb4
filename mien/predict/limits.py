"""Within which quality of a face the expression may be relied on: measured limits, in limits.json."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from mien.faces.quality import Quality


class Limit(NamedTuple):
    """Values between which accuracy was measured to hold; None: every measured value did."""

    least: float | None
    most: float | None
    """Of an angle, in either direction."""


ANGLES = ("yaw", "pitch", "roll")


@cache
def read_limits() -> dict[str, Limit]:
    """Field of Quality -> its limit."""
    kept = json.loads(files("mien.predict").joinpath("limits.json").read_text(encoding="utf-8"))["limits"]
    return {name: Limit(*pair) for name, pair in kept.items()}


def outside(quality: Quality) -> str:
    """What of a face lies beyond its limit: "yaw 62 over 45, size 9 under 12"; empty for none. Unknown values do not."""
    told = []
    for name, (least, most) in read_limits().items():
        value = getattr(quality, name)
        value = abs(value) if name in ANGLES else value
        if least is not None and value < least:
            told.append(f"{name} {apart(value, least, 'under')}")
        if most is not None and value > most:
            told.append(f"{name} {apart(value, most, 'over')}")
    return ", ".join(told)


def apart(value: float, bound: float, word: str) -> str:
    """A value and its bound with as few digits, from two on, as tell them apart: "62 over 45", "16.9 over 16.6"."""
    for digits in range(2, 7):
        if f"{value:.{digits}g}" != f"{bound:.{digits}g}":
            break
    return f"{value:.{digits}g} {word} {bound:.{digits}g}"
