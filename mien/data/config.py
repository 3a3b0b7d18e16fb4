"""Settings of the data: which faces, changed and masked how. Imports no torch, so that recipes and `--help` stay light."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mien.errors import UsageError


@dataclass(frozen=True)
class DataConfig:
    """Which faces, with which labels, split how."""

    store: Path = Path("stores/synthetic")
    """Prepared store (`mien prepare`, `mien synthesize`)."""
    action_units: Path | None = None
    """File `id,AU1,...` (`mien audet predict`) whose intensities replace the store's, for the cue au_observed; None for those."""
    scheme: str = "basic-7"
    """Label scheme: basic-7, basic-8 or polarity-3."""
    protocol: Literal["strict", "paper", "complete"] = "strict"
    """What selects the epoch: strict: a validation split out of train; paper: the test split; complete: all faces, which train."""
    valid_fraction: float = 0.1
    """Share of train that becomes the validation split where the store has none."""
    near_duplicates: Literal["drop", "report", "keep"] = "drop"
    """Training faces that are near-duplicates of test or validation faces: left out; kept, but counted; or not looked for."""
    folds: int = 0
    """Cross-validation: into how many folds all faces of the scheme are dealt, official splits pooled; 0: the store's own splits."""
    fold: int | None = None
    """The fold that is the test part, from 0; `mien crossval` takes each in turn."""
    fold_seed: int = 2020
    """Seed by which faces are dealt into folds; 2020 is the published one."""
    targets: Literal["label", "votes", "mixed", "both"] = "label"
    """The label, annotator votes (soft) where the store has them, mixed: 0.6 label + 0.4 votes, or both: a head for each."""
    teachers: list[Path] = field(default_factory=list)
    """Runs of the same scheme whose mean answer is mixed into the targets of the training faces (distillation); [] for none."""
    teacher_share: float = 0.5
    """Share of the teachers' answer in a target, above 0."""
    balance: Literal["none", "weights", "weights_max", "sampler", "sampler_min"] = "none"
    """Class imbalance: nothing; class weights N/(K n_c) or n_max/n_c; classes equally often, or each as often as the rarest."""
    curriculum: list[list[str]] = field(default_factory=list)
    """Groups of class names: training begins with the first and adds the next every curriculum_epochs; [] for all at once."""
    curriculum_epochs: int = 1
    """Epochs between two groups of the curriculum."""

    def __post_init__(self) -> None:
        if self.folds < 0 or self.folds == 1:
            raise UsageError(f"data.folds is {self.folds}; it must be 0 (the store's own splits) or at least 2.")
        if self.fold is not None and not 0 <= self.fold < self.folds:
            folds = f"0 to {self.folds - 1}" if self.folds else "left out without data.folds"
            raise UsageError(f"data.fold is {self.fold}; it must be {folds}.")
        if self.teacher_share != 0.5 and not self.teachers:
            raise UsageError("data.teacher_share is the share of data.teachers, and none is named; leave it at 0.5.")
        if self.folds and self.protocol == "complete":
            raise UsageError(
                "data.protocol complete trains on every face and leaves no fold to score; give one of both."
            )


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of a training face; landmarks move with the pixels."""

    flip: float = 0.5
    """Probability of a horizontal flip (left and right landmarks swap their indices)."""
    rotation: float = 10.0
    """Largest rotation either way, degrees."""
    translate: float = 0.06
    """Largest shift as a fraction of the image side."""
    scale: float = 0.1
    """Largest relative change of size either way."""
    jitter: float = 0.3
    """Largest relative change of brightness and contrast; half of it for saturation."""
    grayscale: float = 0.0
    """Probability of dropping the colour."""
    erase: float = 0.0
    """Probability of random erasing (area 2-20 %, pixels only; cues stay)."""
    cutmix: float = 0.0
    """Probability that a batch is mixed by CutMix: one box taken from another face, labels and cues by its area."""
    cutmix_alpha: float = 1.0
    """CutMix: lambda ~ Beta(alpha, alpha), the share of the picture that stays; 1 is uniform."""

    @property
    def changes_faces(self) -> bool:
        """Whether single faces are changed at all, CutMix aside."""
        keys = ("flip", "rotation", "translate", "scale", "jitter", "grayscale", "erase")
        return any(getattr(self, key) for key in keys)


@dataclass(frozen=True)
class MaskConfig:
    """Faces of which only the cue's region (Otsu) is shown."""

    train: float = 0.0
    """Probability that a training face is masked."""
    evaluate: bool = False
    """Mask every face that is scored, too. With cue `au` this tells the net the label: `label_leak` in results.json."""
    fill: Literal["black", "mean", "blur"] = "black"
    """What stands outside the region: black, the mean colour of the training faces, or a blurred copy."""
    sigma: float = 0.125
    """Standard deviation of the blur as a share of the image side."""
    dilation: float = 0.0
    """Radius of a disk by which the region grows, as a share of the image side."""

    def __post_init__(self) -> None:
        if not 0 < self.sigma <= 0.3:
            raise UsageError(f"mask.sigma is {self.sigma}; it must lie above 0 and be at most 0.3.")
