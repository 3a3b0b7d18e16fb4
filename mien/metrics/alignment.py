"""Does the model look where the cue says? Per-sample scores between maps and cues, and their honest summary.

The similarities are those of `mien.maps`, which the losses use too. A sample whose map holds NaN scores NaN here;
`summarise` counts it and takes 0, as the published evaluation does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mien import maps as m
from mien.errors import DataError
from mien.metrics.faithfulness import FAITHFULNESS
from mien.metrics.intervals import bootstrap_class_mean
from mien.plugins import called, usable

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

HIGHER_IS_BETTER = {**dict.fromkeys((*SCORES, "dice", "iou"), True), **FAITHFULNESS}


class AddedScore(NamedTuple):
    """A score of another package: the object of an entry point `mien.metrics` (CONTRIBUTING.md)."""

    score: Callable[[Tensor, Tensor], Tensor]
    """(maps, cue) of one size, (B, 1, h, w) each -> (B,)."""
    higher_is_better: bool


def added_scores() -> dict[str, AddedScore]:
    """Scores that plugins add; one that cannot be loaded is told once, and left out."""
    return usable("mien.metrics", HIGHER_IS_BETTER, AddedScore)


def score_names() -> tuple[str, ...]:
    """Names of SCORES and of what plugins add."""
    return (*SCORES, *added_scores())


def _added(maps: Tensor, cue: Tensor) -> dict[str, Tensor]:
    found = {}
    for name, one in added_scores().items():
        values = called(f"score '{name}'", one.score, maps, cue)
        if not isinstance(values, Tensor) or values.shape != maps.shape[:1]:
            raise DataError(f"score '{name}' gave no ({len(maps)},) numbers; it is a plugin: tell its authors.")
        found[name] = values.float()
    return found


Resize = Callable[[Tensor, tuple[int, int]], Tensor]
"""(maps, (h, w)) -> maps of that size."""


def alignment_scores(maps: Tensor, cue: Tensor, resize: Resize = m.resize) -> dict[str, Tensor]:
    """All SCORES, and those of plugins, of maps (B, 1, h, w) >= 0 against cues (B, 1, H, W); maps are resized to the cue.

    Prepare with a named call: `min_max` for CAMs, `shift_to_zero` for attention. Controls (uniform, centre prior, mean
    cue) go through this same function in place of `maps`, which gives the baselines. `resize` is how the cue was resized where
    it was an aim of training (`mien.cues.map_resize`).
    """
    if maps.shape[:2] != cue.shape[:2] or cue.dim() != 4:
        raise DataError(f"maps {tuple(maps.shape)} and cues {tuple(cue.shape)} do not fit; expected (B, 1, h, w) each.")
    resized = resize(maps.float(), (cue.shape[-2], cue.shape[-1]))
    own = {name: score(resized, cue).clamp(-1, 1) for name, score in SCORES.items()}  # rounding goes a hair beyond
    return own | _added(resized, cue)


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


def class_mean_maps(means: Tensor, faces: Tensor, overall: Tensor, labels: Tensor) -> Tensor:
    """The strongest map that never saw the face: the mean cue of its class, (B, 1, h, w).

    means (K, 1, h, w) mean cue of each class over training faces, faces (K,) how many stand behind each, overall (1, 1, h, w)
    mean cue over all of them, labels (B,) true or predicted class. A class without a cue (Neutral) takes the overall mean.
    """
    return torch.where((faces > 0)[labels].view(-1, 1, 1, 1), means[labels], overall)


def class_weighted_maps(means: Tensor, faces: Tensor, overall: Tensor, probabilities: Tensor) -> Tensor:
    """Mean of the class-mean cues weighted by probabilities (B, K), over the classes that have one, (B, 1, h, w).

    Arguments as in `class_mean_maps`. The overall mean where these classes have no probability at all.
    """
    weight = probabilities * (faces > 0)
    total = weight.sum(1, keepdim=True)
    mixed = torch.einsum("bk,kchw->bchw", weight / torch.where(total > 0, total, 1), means)
    return torch.where((total > 0).view(-1, 1, 1, 1), mixed, overall)


def excess(scores: npt.ArrayLike, baseline: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """What a map scores beyond the class-mean baseline on the same face, (N,): the part that follows this face.

    Per-face scores (N,) of one kind; a NaN counts as 0 on either side, as in `summarise`. 0 at the baseline, negative below.
    """
    return np.nan_to_num(np.asarray(scores, dtype=np.float64)) - np.nan_to_num(np.asarray(baseline, dtype=np.float64))


def class_mean(values: npt.ArrayLike, labels: npt.ArrayLike, valid: npt.ArrayLike) -> float | None:
    """Unweighted mean over the classes of the mean over their valid faces, as `summarise` prints it; NaN counts as 0.

    values (N,) scores, labels (N,) class index, valid (N,) bool. None without a valid face.
    """
    chosen = np.asarray(valid, dtype=bool)
    scores, truth = np.nan_to_num(np.asarray(values, dtype=np.float64))[chosen], np.asarray(labels)[chosen]
    return float(np.mean([scores[truth == k].mean() for k in np.unique(truth)])) if len(truth) else None


def summarise(
    per_sample: Mapping[str, npt.ArrayLike],
    labels: npt.ArrayLike,
    predicted: npt.ArrayLike,
    valid: npt.ArrayLike,
    classes: Sequence[str],
    groups: npt.ArrayLike | None = None,
    *,
    seed: int = 0,
    draws: int = 2000,
) -> dict[str, Any]:
    """Aggregate per-sample scores (name -> (N,)) into a dict that `json.dumps` takes.

    labels, predicted (N,) class indices, label -1 = unlabelled; valid (N,) bool of the cues (Neutral and faces without
    landmarks are False). Result: counts (total, scored, not_valid, per class, correct, wrong) and, for every score,
    class_mean (unweighted over classes with scored samples: the published number) with its 95 % interval over whole groups
    (N,), such as subjects, or over samples, clusters (how many were resampled) and grouped (True for groups), sample_mean,
    per_class, correct and wrong (sample means by the prediction), undefined (NaN, taken as 0),
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
    people = None if groups is None else np.asarray(groups)[scored]
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
            name, np.asarray(values, dtype=np.float64)[scored], truth, right, classes, people, seed, draws
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
    people: npt.NDArray[Any] | None,
    seed: int,
    draws: int,
) -> dict[str, Any]:
    undefined = ~np.isfinite(values)
    values = np.where(undefined, 0, values)
    interval = bootstrap_class_mean(values, truth, people, seed=seed, draws=draws) if len(values) else None
    return {
        "class_mean": interval.value if interval else None,
        "interval": [interval.low, interval.high] if interval and np.isfinite(interval.low) else None,
        "clusters": interval.clusters if interval else 0,
        "grouped": bool(interval and interval.grouped),
        "sample_mean": _mean(values),
        "per_class": {label: _mean(values[truth == k]) for k, label in enumerate(classes)},
        "correct": _mean(values[right]),
        "wrong": _mean(values[~right]),
        "undefined": int(undefined.sum()),
        "higher_is_better": _direction(name),
    }


def _direction(name: str) -> bool | None:
    if name in HIGHER_IS_BETTER:
        return HIGHER_IS_BETTER[name]
    found = added_scores().get(name)
    return None if found is None else found.higher_is_better


def _mean(values: npt.NDArray[np.float64]) -> float | None:
    return float(values.mean()) if len(values) else None
