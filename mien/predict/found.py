"""What is known of a picture on its way through `mien.predict.model`: faces that were found, and what the nets say of each."""

from __future__ import annotations

from typing import NamedTuple

from mien.data.framing import FramedFace
from mien.faces.provider import Face
from mien.faces.quality import Quality
from mien.predict.results import Explanation
from mien.predict.sources import Picture
from mien.predict.units import FaceUnits


class Found(NamedTuple):
    """One picture and its faces, cut for the nets."""

    picture: Picture
    """Without its image, unless it is wanted."""
    faces: list[Face | None]
    framed: list[FramedFace]
    for_units: list[FramedFace]
    """As a net of action units wants them; empty without one."""
    qualities: list[Quality]
    reason: str | None = None
    """Why there is no face in a picture that could be read, or none that was found."""


class Seen(NamedTuple):
    """What the nets say of one face."""

    probabilities: list[float]
    units: FaceUnits
    explanation: Explanation | None


def pixels(picture: Picture) -> int:
    """Pixels that a picture holds in memory."""
    return 0 if picture.image is None else picture.size[0] * picture.size[1]
