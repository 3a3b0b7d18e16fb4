"""Settings of a cue. Imports no torch, so that recipes and `--help` stay light."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from mien import plugins
from mien.errors import UsageError, unknown_name

CUE_KINDS = {
    "au": "The ellipses of the label's action units; none for Neutral.",
    "au_generic": "All action units of the codebook, the same for every label.",
    "au_observed": "The action units that the face itself shows, each times a fifth of its intensity.",
    "landmarks": "One Gaussian a point, integrated over the cells.",
    "landmark_mask": "Brows, eyes, nose and mouth, filled, and the jaw line.",
    "landmark_soft": "The same in two levels.",
    "landmark_dilation": "The same without the jaw line, wider.",
    "saliency": "Where the picture draws the eye; needs no landmarks.",
}
"""Kind of cue -> what it draws."""
CONTROL_KINDS = ("none", "uniform", "centre", "mean", "class_mean", "shuffled", "same_class", "other_class", "inverted")
NEED_MEANS = ("mean", "class_mean")
"""Controls that are made of the mean cue of the training faces."""
NEED_BATCH = ("shuffled", "same_class")
"""Controls that take the cue of another face of the batch."""
CODEBOOKS = ("corrected", "paper")
SALIENCIES = ("spectral_residual",)
WEIGHT_SUFFIXES = (".safetensors", ".npz", ".pb")
LANDMARK_GROUPS = {"jaw": (0, 17), "brows": (17, 27), "nose": (27, 36), "eyes": (36, 48), "mouth": (48, 68)}
"""Group name -> first and last + 1 of its iBUG-68 points."""
FACE_REGIONS = ("forehead", "brows", "eyes", "nose", "cheeks", "mouth", "chin", "elsewhere")
"""Regions of a picture of a face (cues.regions); each place belongs to one."""


def cue_kinds() -> list[str]:
    """Every kind of cue that may be named: CUE_KINDS, and what plugins add (entry points `mien.cues`)."""
    return plugins.names("mien.cues", CUE_KINDS)


def _unknown(key: str, what: str, name: str, valid: Iterable[str]) -> UsageError:
    return UsageError(f"{key}: {unknown_name(what, name, valid)}")


@dataclass(frozen=True)
class CueConfig:
    """Where the evidence should be, and which control replaces it.

    Raises UsageError for an unknown name or a value out of range.
    """

    kind: str = "au"
    """au, au_generic, au_observed: units of the label, all, of the face; landmarks, landmark_mask, _soft, _dilation; saliency."""
    codebook: str = "corrected"
    """`corrected`, `paper` (Belharbi et al. 2024 with all its quirks) or the path of an own JSON file."""
    sigma: float = 0.06
    """Landmark heatmap: standard deviation as a fraction of the distance of the outer eye corners (points 36-45)."""
    merge: Literal["max", "sum"] = "max"
    """Landmark heatmap: pixel-wise maximum or sum over the points."""
    jaw: bool | Literal["published"] | None = None
    """Draw the jaw line (points 0-16) too; unless said, landmark_mask and landmark_soft do. `published`: 3 pixels of the picture."""
    control: str = "none"
    """`none`, or what replaces the cue: uniform, centre, mean, class_mean, shuffled, same_class, other_class, inverted."""
    groups: dict[str, float] = field(default_factory=dict)
    """Landmark kinds: factor of jaw, brows, nose, eyes or mouth, 1 where not named, 0 leaves out."""
    dilation: Literal["centred", "published"] = "centred"
    """landmark_dilation: wider by 1/48 of the side all around, or as published, by 2/48 to the right and down."""
    saliency: str = "spectral_residual"
    """saliency: `spectral_residual` (no weights), or a file with weights of MSI-Net (.safetensors, .npz or .pb)."""
    least: float = 1.0
    """au_observed: intensity (0-5) from which an action unit is drawn; its strength is a fifth of the intensity."""

    def __post_init__(self) -> None:
        if self.kind not in CUE_KINDS and self.kind not in cue_kinds():
            raise _unknown("cue.kind", "cue", self.kind, cue_kinds())
        if self.control not in CONTROL_KINDS:
            raise _unknown("cue.control", "control", self.control, CONTROL_KINDS)
        if self.merge not in ("max", "sum"):
            raise _unknown("cue.merge", "merge", self.merge, ("max", "sum"))
        if self.codebook not in CODEBOOKS and not self.codebook.endswith(".json"):
            error = _unknown("cue.codebook", "codebook", self.codebook, CODEBOOKS)
            raise UsageError(f"{error} Or give the path of an own .json file.")
        for name, weight in self.groups.items():
            if name not in LANDMARK_GROUPS:
                raise _unknown("cue.groups", "landmark group", name, LANDMARK_GROUPS)
            if not 0 <= weight < float("inf"):
                raise UsageError(f"cue.groups: {name} is {weight}; it must be 0 or more.")
        if "jaw" in self.groups and not self.draws_jaw:
            raise UsageError("cue.groups: jaw has a factor, but the jaw line is not drawn; set cue.jaw to true.")
        drawn = [name for name in LANDMARK_GROUPS if self.draws_jaw or name != "jaw"]
        if not any(self.groups.get(name, 1) for name in drawn):
            raise UsageError("cue.groups: every factor is 0, so nothing is drawn.")
        if self.dilation not in ("centred", "published"):
            raise _unknown("cue.dilation", "dilation", self.dilation, ("centred", "published"))
        if self.saliency not in SALIENCIES and not self.saliency.endswith(WEIGHT_SUFFIXES):
            error = _unknown("cue.saliency", "saliency", self.saliency, SALIENCIES)
            raise UsageError(f"{error} Or give a file with weights of MSI-Net ({', '.join(WEIGHT_SUFFIXES)}).")
        if not 0 < self.sigma < 10:
            raise UsageError(f"cue.sigma is {self.sigma}, out of range; give a share of the eye distance such as 0.06.")
        if not 0 < self.least <= 5:
            raise UsageError(
                f"cue.least is {self.least}, out of range; give an intensity above 0 and up to 5, such as 1."
            )
        if self.control == "other_class" and self.kind != "au":
            raise UsageError(
                f"cue.control: control 'other_class' needs cue 'au': the cue '{self.kind}' is the same for every class."
            )

    @property
    def draws_jaw(self) -> bool:
        """Whether the jaw line is part of the cue."""
        return self.kind in ("landmark_mask", "landmark_soft") if self.jaw is None else bool(self.jaw)
