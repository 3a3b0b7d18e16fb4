"""What a model says of pictures: frozen dataclasses that become a table, a data frame or a page in a notebook."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mien.faces.quality import UNKNOWN, Quality
from mien.schema import ByteArray, FloatArray

NOTICE = "expression recognition"
"""What every picture that Mien has drawn on says."""


def counted(number: int, name: str) -> str:
    """1 face, 2 faces."""
    return f"{number} {name}{'' if number == 1 else 's'}"


class Region(NamedTuple):
    """What one region of a face contributes to the expression."""

    share: float
    """Of the positive evidence of the explanation's map, in [0, 1]; the regions of a face add up to 1."""
    effect: float | None
    """Probability of the expression with the region seen, less that with it blurred; None where it was not tried."""


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """Where a model saw the evidence for an expression, and what speaks for the runner-up."""

    method: str
    """Key of mien.explain.EXPLAINERS."""
    expression: str
    """That is explained; the predicted one unless another was asked for."""
    runner_up: str
    """The most probable other one."""
    map: FloatArray
    """(h, w) raw evidence for the expression at the resolution of the layer."""
    attention: FloatArray | None
    """(h, w) channel mean of the last layer, of no expression in particular; None for a model without a layer."""
    cue: FloatArray | None
    """(S, S) in [0, 1]: where the expression's action units show; None without one (Neutral, no landmarks)."""
    contrast: FloatArray | None
    """(h, w) evidence for the expression less that for the runner-up; None where no gradient reaches a layer."""
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Map name -> score name -> value against the cue, as in `mien evaluate`; empty without a cue."""
    units: Mapping[str, float] = field(default_factory=dict)
    """Action unit -> mean of the contrast in its region, in units of its mean magnitude over the face: above 0 it speaks
    for the expression, below 0 for the runner-up. Empty without landmarks or contrast."""
    regions: Mapping[str, Region] = field(default_factory=dict)
    """Region of the face -> its part; empty without landmarks."""
    words: str = ""
    """What the map, the regions and the measured action units say, in words."""

    def __repr__(self) -> str:
        return f"Explanation({self.method} of {self.expression} rather than {self.runner_up})"


@dataclass(frozen=True, eq=False, repr=False)
class FacePrediction:
    """One face of one picture. The expression is what the face shows, not what the person feels."""

    face: int
    """Number in its picture from 1, the main one first."""
    box: tuple[float, float, float, float] | None
    """x0, y0, x1, y1 pixels of the picture, not clipped; None where the whole picture was taken as a face."""
    landmarks: FloatArray | None
    """(68, 2) pixels of the picture."""
    landmark_confidence: float | None
    """Of the face provider (docs/faces.md)."""
    probabilities: Mapping[str, float]
    """Expression -> calibrated probability; they add up to 1."""
    expression: str
    """The most probable one, also where the model abstains."""
    confidence: float
    """Its probability."""
    abstained: bool
    """The confidence is below the run's threshold, or the face lies `outside`: do not use the expression."""
    crop: str
    """How the face was cut out: aligned, box or whole (docs/photos.md)."""
    display: ByteArray
    """(D, D, 3) the face as it was cut, in colour."""
    placement: npt.NDArray[np.floating]
    """(2, 3) from pixels of the picture to those of `display`."""
    action_units: Mapping[str, float] = field(default_factory=dict)
    """Action unit -> strength in [0, 1], a fifth of its intensity; AU12_L and AU12_R are the person's own sides. Empty where they
    are not known."""
    present_units: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Units that are measured as present -> which of their columns; only those that are proven on faces with known truth."""
    reading: str | None = None
    """The present units in words; with a net of `mien audet train` also what the codebook makes of them."""
    explanation: Explanation | None = None
    blendshapes: FloatArray | None = None
    """(52,) in [0, 1], where the face provider has them (docs/faces.md)."""
    quality: Quality = UNKNOWN
    """Pose, size, sharpness, light and how much of the face lies in the picture."""
    outside: str = ""
    """What of the quality lies beyond the limits within which accuracy was measured ("yaw 62 over 45"); empty for nothing."""
    track: int | None = None
    """Number of the face's track in a video, from 1; None in pictures."""

    def __repr__(self) -> str:
        return f"FacePrediction({self.face}: {self.expression} {self.confidence:.0%}{self.doubt and f', {self.doubt}'})"

    @property
    def doubt(self) -> str:
        """Why not to use the expression, for a person: "outside: yaw 62 over 45" or "unsure"; empty where it may be used."""
        return f"outside: {self.outside}" if self.outside else "unsure" if self.abstained else ""


@dataclass(frozen=True, eq=False, repr=False)
class PicturePrediction:
    """One picture, or one frame of a video."""

    source: str
    """Path, or `picture N` for what has none."""
    width: int
    height: int
    faces: tuple[FacePrediction, ...]
    reason: str | None = None
    """Why no face was found, also where so small a picture was taken as a face itself; None where one was."""
    frame: int = 0
    """Number in its video from 0."""
    time: float | None = None
    """Seconds from the start of the video; None for a picture."""

    def __repr__(self) -> str:
        return f"PicturePrediction({self.source}: {', '.join(map(repr, self.faces)) or self.reason})"
