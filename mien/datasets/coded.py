"""Twins among the frames of coded videos: one person in one video, and equal codes of the action units."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from mien.data.arrow import Skipped
from mien.schema import FloatArray, Record

RECORDINGS = ("task", "trial", "video")
"""Attributes that tell the videos of a person apart."""


def with_twins(items: Iterable[Record | Skipped]) -> Iterator[Record | Skipped]:
    """The frames of videos with their groups of twins, where person and codes are known; groups that are there stay.

    Frames of one `same_person` group share the person, the day and the camera; pose and light are those of the moment.
    """
    for item in items:
        if isinstance(item, Record) and item.same_person is None and item.same_actions is None:
            recording = [str(item.attributes[name]) for name in RECORDINGS if name in item.attributes]
            person = None if item.subject is None else " ".join([item.subject, *recording])
            item = item._replace(same_person=person, same_actions=codes_of(item.action_units))
        yield item


def codes_of(units: FloatArray | None) -> str | None:
    """All codes (A,) in one word, `.` for a unit that is unknown: equal for equal codes of the same units. None without any."""
    if units is None or not np.isfinite(units).any():
        return None
    return "".join("." if np.isnan(value) else f"{value:g}" if value in range(6) else f"({value:g})" for value in units)
