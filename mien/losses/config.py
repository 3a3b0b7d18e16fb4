"""Settings of guidance. Imports no torch, so that recipes and `--help` stay light."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mien.cues.config import CUE_KINDS, cue_kinds
from mien.errors import UsageError, unknown_name

COSINES = ("cosine", "pearson", "standardised_cosine")
"""Similarities that the log barrier takes."""
PER_CHANNEL = ("grad", "grad_input", "integrated")
"""Attributions whose channels each have a sign of their own that may be dropped."""


@dataclass(frozen=True)
class GuidanceConfig:
    """Alignment of an attribution with the cue: weight * mean over layers of (1 - similarity)."""

    weight: float = 0.0
    """lambda of Belharbi et al. 2024, eq. 1; 0 trains without guidance."""
    layers: list[int] = field(default_factory=lambda: [-1])
    """Layers counted from 1 (shallow); -1 is the last."""
    cue: str | None = None
    """Kind of cue, for example landmarks; None takes cue.kind. All other settings of the cue are shared."""
    attribution: Literal["activation", "grad", "grad_input", "grad_cam", "layer_cam", "integrated"] = "activation"
    """What is pulled: activation (Belharbi et al. 2024), or an attribution by gradients: grad_input is PAL."""
    target: Literal["label", "sum", "margin", "predicted", "logprob"] = "label"
    """What the gradient is of: the label's logit, the sum of all, label - mean, the largest, or log p of the label."""
    signed: bool = False
    """Keep the sign of grad, grad_input and integrated in each channel, instead of the absolute value."""
    detach: bool = False
    """Ablation: the gradient is taken as a constant; cheaper, and the head's half of the pull is lost."""
    channels: Literal["mean", "all_joint", "all_per_channel", "first_half", "second_half", "fraction", "random"] = (
        "mean"
    )
    """Which channels are compared: their mean, each, or the mean of some of them."""
    fraction: float = 1.0
    """Share of channels: of fraction, the first q C; of random, the chance of each, drawn for a face and step."""
    similarity: Literal["cosine", "pearson", "standardised_cosine", "paper", "l1", "l2", "kl"] = "cosine"
    """cosine (published), pearson (free of offset), standardised_cosine, paper (PAL, divided by N); l1, l2, kl."""
    barrier: bool = False
    """Extended log barrier of similarity >= 0 in place of 1 - similarity; its sharpness is loss.barrier_start and so on."""
    scale: Literal["to_attention", "to_cue"] = "to_attention"
    """to_attention: the cue is drawn at the layer's size; to_cue: the attention is resized to the input's size."""
    normalise: Literal["none", "softmax"] = "none"
    """softmax over the cells of the attention before it is compared."""
    start_epoch: int = 1
    """First epoch (from 1) with guidance."""
    end_epoch: int | None = None
    """Last epoch with guidance; None for all."""
    warmup_epochs: int = 0
    """Epochs over which the weight rises linearly, from start_epoch on."""

    def weight_at(self, epoch: int) -> float:
        """Weight in an epoch (from 1): 0 outside start_epoch..end_epoch, rising over warmup_epochs."""
        if not self.start_epoch <= epoch <= (self.end_epoch or epoch):
            return 0.0
        return self.weight * min(1.0, (epoch - self.start_epoch + 1) / (self.warmup_epochs + 1))


def check_guidance(config: GuidanceConfig, section: str, where: str) -> None:
    """UsageError that names file and key for settings that contradict each other or would do nothing."""
    gradient = config.attribution != "activation"
    refused = {
        "layers": (not config.layers, "is empty; name at least one layer, for example [-1]"),
        "fraction": (not 0 < config.fraction <= 1, f"is {config.fraction}; it must be above 0 and at most 1"),
        "end_epoch": (
            (config.end_epoch or config.start_epoch) < config.start_epoch,
            f"is {config.end_epoch}, before start_epoch {config.start_epoch}",
        ),
        "target": (
            config.target != "label" and not gradient,
            "is of a gradient; attribution activation has none, choose grad_input or leave it out",
        ),
        "signed": (
            config.signed and config.attribution not in PER_CHANNEL,
            f"is for {', '.join(PER_CHANNEL)}; {config.attribution} keeps its sign anyway",
        ),
        "detach": (
            config.detach and config.attribution in ("activation", "grad"),
            f"leaves nothing to train with attribution {config.attribution}; choose grad_input",
        ),
        "barrier": (
            config.barrier and config.similarity not in COSINES,
            f"is for similarities {', '.join(COSINES)}, not {config.similarity}",
        ),
        "normalise": (
            config.normalise == "softmax" and config.similarity == "kl",
            "softmax is part of similarity kl already; leave it at none",
        ),
    }
    for key, (wrong, reason) in refused.items():
        if wrong:
            raise UsageError(f"{where}: {section}.{key} {reason}.")
    if config.fraction != 1 and config.channels not in ("fraction", "random"):
        raise UsageError(
            f"{where}: {section}.fraction is for channels fraction and random, not {config.channels}; leave it at 1."
        )
    if config.cue is not None and config.cue not in CUE_KINDS and config.cue not in cue_kinds():
        raise UsageError(f"{where}: {section}.cue: {unknown_name('cue', config.cue, cue_kinds())}")


def refuse_never(part: str, weight: float, start_epoch: int, epochs: int) -> None:
    """UsageError where a part of the loss has a weight but begins after the last epoch: it would change nothing."""
    if weight and start_epoch > epochs:
        raise UsageError(
            f"{part}.start_epoch is {start_epoch}, but training ends after optim.epochs {epochs}: it would never count; set its "
            "weight to 0."
        )
