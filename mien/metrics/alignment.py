"""Does the model look where the cue says? Per-sample scores between maps and cues, and their honest summary.

The similarities are those of `mien.maps`, which the losses use too. A sample whose map holds NaN scores NaN here;
`summarise` counts it and takes 0, as the published evaluation does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from mien import maps as m
from mien.errors import DataError
from mien.metrics.faithfulness import FAITHFULNESS
from mien.metrics.intervals import bootstrap_class_mean

MASK_THRESHOLD = 0.5
"""A pixel belongs to the cue's region where the cue is at least this."""


def pointing(maps: Tensor, cue: Tensor, threshold: float = MASK_THRESHOLD) -> Tensor:
    """Pointing game (Zhang et al. 2018, arXiv 1608.00507): does the map's peak lie where cue >= threshold? (B,) 0..1.

    Ties share: the score is the share of maximal pixels that lie inside, what breaking ties at random gives on average;
    a constant map hence scores the region's share of the area. "Maximal" allows for rounding (a millionth). No margin
    around the region. 0 where the region is empty. Higher is better.
    """
    flat = maps.float().flatten(1)
    top = flat.amax(1, keepdim=True)
    peak = (flat >= top - 1e-6 * top.abs()).float()
    inside = (cue.flatten(1) >= threshold).float()
    return (peak * inside).sum(1) / peak.sum(1)  # a NaN map has no peak: 0 / 0 = NaN


SCORES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": m.cosine,
    "pearson": m.pearson,
    "energy": m.energy_in_mask,
    "pointing": pointing,
}
"""Name -> score of (maps, cue) of one size, (B,)."""

HIGHER_IS_BETTER = {**dict.fromkeys((*SCORES, "specificity_gap", "dice", "iou"), True), **FAITHFULNESS}


Resize = Callable[[Tensor, tuple[int, int]], Tensor]
"""(maps, (h, w)) -> maps of that size."""


def alignment_scores(maps: Tensor, cue: Tensor, resize: Resize = m.resize) -> dict[str, Tensor]:
    """All SCORES of prepared maps (B, 1, h, w), values >= 0, against cues (B, 1, H, W); maps are resized to the cue.

    Prepare with a named call: `min_max` for CAMs, `shift_to_zero` for attention. Controls (uniform, centre prior, mean
    cue) go through this same function in place of `maps`, which gives the baselines. `resize` is how the cue was resized where
    it was an aim of training (`mien.cues.map_resize`).
    """
    if maps.shape[:2] != cue.shape[:2] or cue.dim() != 4:
        raise DataError(f"maps {tuple(maps.shape)} and cues {tuple(cue.shape)} do not fit; expected (B, 1, h, w) each.")
    resized = resize(maps.float(), (cue.shape[-2], cue.shape[-1]))
    return {name: score(resized, cue) for name, score in SCORES.items()}


def attention_scores(features: Tensor, cue: Tensor, resize: Resize = m.resize) -> dict[str, Tensor]:
    """All SCORES of a layer's attention: channel mean, resized to the cue, its minimum shifted to zero where negative."""
    resized = resize(m.channel_mean(features).float(), (cue.shape[-2], cue.shape[-1]))
    return alignment_scores(m.shift_to_zero(resized), cue)


def cam_scores(maps: Tensor, cue: Tensor) -> dict[str, Tensor]:
    """All SCORES of a raw class activation map: min-max at its own resolution, then resized to the cue."""
    return alignment_scores(m.min_max(maps), cue)


def att_cos(features: Tensor, cue: Tensor) -> Tensor:
    """ATT-COS of a layer (Belharbi et al. 2024): features (B, C, h, w), cue (B, 1, H, W) -> (B,) in [0, 1].

    As published up to the resize: `attention_scores(features, cue, maps.published_resize)` is the published number, which
    `mien evaluate` takes with codebook `paper`; here corners are not aligned.
    """
    return attention_scores(features, cue)["cosine"]


def cam_cos(maps: Tensor, cue: Tensor) -> Tensor:
    """CAM-COS (Belharbi et al. 2024): raw CAM of the true class (B, 1, h, w), cue (B, 1, H, W) -> (B,) in [0, 1].

    Min-max at low resolution, bilinear resize with corners not aligned, cosine, as published.
    """
    return cam_scores(maps, cue)["cosine"]


def specificity_gap(
    maps: Tensor, class_cues: Tensor, labels: Tensor, score: Callable[[Tensor, Tensor], Tensor] = m.pearson
) -> Tensor:
    """Score against the own class's cue minus the mean score against the other classes' cues, (B,). Higher is better.

    maps (B, 1, h, w) prepared, class_cues (B, K, H, W) the same face's cue for every class (`per_class_maps`), labels
    (B,) in 0..K-1. All-zero cues (Neutral) are no rivals; a sample whose own cue is zero, or without rivals, is NaN. 0
    means that any expression's cue fits as well.
    """
    batch, classes = class_cues.shape[:2]
    if len(maps) != batch or tuple(labels.shape) != (batch,):
        raise DataError(f"{len(maps)} maps, labels {tuple(labels.shape)} and class cues of {batch} faces do not fit.")
    resized = m.resize(maps.float(), (class_cues.shape[-2], class_cues.shape[-1]))
    pairs = resized.repeat_interleave(classes, 0), class_cues.flatten(0, 1).unsqueeze(1)
    scores = score(*pairs).view(batch, classes)
    drawn = class_cues.flatten(2).amax(2) > 0
    own = nn.functional.one_hot(labels, classes).bool()
    rivals = drawn & ~own
    others = (scores * rivals).sum(1) / rivals.sum(1)  # no rival: 0 / 0 = NaN
    return (scores[own] - others).masked_fill(~drawn[own], float("nan"))


def above_baseline(score: float, baseline: float) -> float:
    """(score - baseline) / (1 - baseline): 1 perfect, 0 at the baseline, negative below. Baseline < 1. Higher is better."""
    if baseline >= 1:
        raise DataError(f"baseline {baseline} leaves no room for a score; it must be below 1.")
    return (score - baseline) / (1 - baseline)


def summarise(
    per_sample: Mapping[str, npt.ArrayLike],
    labels: npt.ArrayLike,
    predicted: npt.ArrayLike,
    valid: npt.ArrayLike,
    classes: Sequence[str],
    *,
    seed: int = 0,
    draws: int = 2000,
) -> dict[str, Any]:
    """Aggregate per-sample scores (name -> (N,)) into a dict that `json.dumps` takes.

    labels, predicted (N,) class indices, label -1 = unlabelled; valid (N,) bool of the cues (Neutral and faces without
    landmarks are False). Result: counts (total, scored, not_valid, per class, correct, wrong) and, for every score,
    class_mean (unweighted over classes with scored samples: the published number) with its 95 % bootstrap interval,
    sample_mean, per_class, correct and wrong (sample means by the prediction), undefined (NaN, taken as 0),
    higher_is_better where known. A number with no sample behind it is None.
    """
    truth, guess = np.asarray(labels), np.asarray(predicted)
    scored = np.asarray(valid, dtype=bool) & (truth >= 0)
    for name, values in {"predicted": guess, "valid": np.asarray(valid), **per_sample}.items():
        if np.shape(values) != truth.shape or truth.ndim != 1:
            raise DataError(f"'{name}' has shape {np.shape(values)}, labels {truth.shape}; expected (N,) for both.")
    if (truth >= len(classes)).any():
        raise DataError(f"label {truth.max()} is outside -1..{len(classes) - 1}.")
    truth, right = truth[scored], (guess == truth)[scored]
    counts = {
        "total": len(scored),
        "scored": int(scored.sum()),
        "not_valid": int((~scored).sum()),
        "correct": int(right.sum()),
        "wrong": int((~right).sum()),
        "per_class": {name: int((truth == k).sum()) for k, name in enumerate(classes)},
    }
    result: dict[str, Any] = {"counts": counts, "scores": {}}
    for name, values in per_sample.items():
        result["scores"][name] = _summary(
            name, np.asarray(values, dtype=np.float64)[scored], truth, right, classes, seed, draws
        )
    return result


def by_class(
    per_sample: Mapping[str, npt.ArrayLike],
    labels: npt.ArrayLike,
    predicted: npt.ArrayLike,
    valid: npt.ArrayLike,
    classes: Sequence[str],
) -> dict[str, dict[str, Any]]:
    """Class -> how often it is recognised, what else it is misclassified as, and one score a map, right and wrong apart.

    per_sample map -> (N,) cosines; labels, predicted (N,) class indices, labels known; valid (N,) bool of the cues.
    Result: faces, recall, taken_for (the most frequent wrong answer), taken_for_share (of all faces of the class), and
    cosine: map -> {"all", "right", "wrong"} means over faces with a cue. Numbers with nothing behind them are None.
    """
    truth, guess, known = np.asarray(labels), np.asarray(predicted), np.asarray(valid, dtype=bool)
    rows: dict[str, dict[str, Any]] = {}
    for k, name in enumerate(classes):
        own, right = truth == k, guess == k
        answers = np.bincount(guess[own & ~right], minlength=len(classes))
        sides = {"all": own & known, "right": own & known & right, "wrong": own & known & ~right}
        rows[name] = {
            "faces": int(own.sum()),
            "recall": _mean(right[own].astype(np.float64)),
            "taken_for": classes[int(answers.argmax())] if answers.any() else None,
            "taken_for_share": float(answers.max() / own.sum()) if answers.any() else None,
            "cosine": {
                map_: {side: _mean(np.nan_to_num(np.asarray(values)[chosen])) for side, chosen in sides.items()}
                for map_, values in per_sample.items()
            },
        }
    return rows


def _summary(
    name: str,
    values: npt.NDArray[np.float64],
    truth: npt.NDArray[Any],
    right: npt.NDArray[np.bool_],
    classes: Sequence[str],
    seed: int,
    draws: int,
) -> dict[str, Any]:
    undefined = ~np.isfinite(values)
    values = np.where(undefined, 0, values)
    interval = bootstrap_class_mean(values, truth, seed=seed, draws=draws) if len(values) else None
    return {
        "class_mean": interval.value if interval else None,
        "interval": [interval.low, interval.high] if interval else None,
        "sample_mean": _mean(values),
        "per_class": {label: _mean(values[truth == k]) for k, label in enumerate(classes)},
        "correct": _mean(values[right]),
        "wrong": _mean(values[~right]),
        "undefined": int(undefined.sum()),
        "higher_is_better": HIGHER_IS_BETTER.get(name),
    }


def _mean(values: npt.NDArray[np.float64]) -> float | None:
    return float(values.mean()) if len(values) else None
