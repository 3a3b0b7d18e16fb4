"""Is a map about this model? Deletion, insertion and similarity to random nets for a few faces of a split."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mien.cues import controls
from mien.evaluation.collect import Collected, FaceScores, fill
from mien.evaluation.plan import Plan
from mien.evaluation.scores import face_facts
from mien.explain import evidence, explain_with_output
from mien.metrics.alignment import class_mean, summarise
from mien.metrics.faithfulness import PARTS, TWINS, deletion_insertion, map_similarity, randomised
from mien.metrics.resampling import people
from mien.progress import track
from mien.schema import Batch, FloatArray, IntArray, Output, scheme_classes
from mien.training.fit import attention


class Faithful(NamedTuple):
    """Scores of FAITHFULNESS on a few faces."""

    scores: FaceScores
    """Of `randomised_...` the mean over the random nets where the similarity is defined; NaN where it is for none."""
    twins: FaceScores
    """Map -> `randomised_...` -> (TWINS, N) similarity to the map of each random net, NaN where undefined."""


@torch.no_grad()
def collect_faithfulness(plan: Plan, rows: IntArray, steps: int) -> Faithful:
    """Scores of FAITHFULNESS of the last layer's attention and of every method on `rows`, baselines of the first two.

    Maps are of the true class. Similarities to the maps of TWINS randomised models are those of `map_similarity`.
    """
    scores: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    # One noise picture for all faces at the size of a coarse layer: a score does not depend on the batch.
    noise = torch.rand((1, 1, 7, 7), generator=torch.Generator().manual_seed(plan.seed)).to(plan.device)

    def probability(guide: Tensor | None, images: Tensor) -> Tensor:
        output: Output = plan.model(images, guide=guide)
        return output.logits.float().softmax(1)

    loader, every, done = plan.loader(rows), [], 0
    for part in map(plan.shown, track(loader, "faithfulness", len(loader))):
        place = np.arange(done, done + len(part.images))
        done += len(place)
        own = looks(plan, plan.model, part)
        every.append({name: map_.cpu() for name, map_ in own.items()})
        plain = part.images.new_ones((len(part.images), 1, *part.images.shape[-2:]))
        baselines = {"baseline:random": noise.expand(len(plain), -1, -1, -1), "baseline:centre": controls.centre(plain)}
        for name, map_ in {**own, **baselines}.items():
            seen = partial(probability, part.guide)
            curves = deletion_insertion(seen, part.images, map_, part.expressions, steps=steps)
            fill(scores[name], place, len(rows), curves)
    twins: FaceScores = {name: {} for name in every[0]}
    for which in PARTS:
        alike = [similarities(plan, rows, every, which, plan.seed + number) for number in range(TWINS)]
        for name in twins:
            values = np.stack([one[name] for one in alike])
            twins[name][f"randomised_{which}"] = values
            count = np.isfinite(values).sum(0)
            mean = np.where(count > 0, np.nansum(values, axis=0) / count.clip(1), np.nan)
            scores[name][f"randomised_{which}"] = mean.astype(np.float32)
    return Faithful(dict(scores), twins)


def looks(plan: Plan, model: nn.Module, part: Batch) -> dict[str, Tensor]:
    """Attention of the last layer and the map of every method for the true class, as they are scored."""
    output, raw = explain_with_output(model, part.images, part.expressions, plan.methods, -1, plan.sampling, part.guide)
    shown = {f"layer-{len(output.features)}": attention(output, -1)}
    return {**shown, **{name: evidence(name, map_) for name, map_ in raw.items()}}


def similarities(
    plan: Plan, rows: IntArray, own: list[dict[str, Tensor]], which: str, seed: int
) -> dict[str, FloatArray]:
    """Map -> (N,) similarity of the net's maps, `own` batch by batch, to those of one random twin."""
    twin = randomised(plan.model, which, seed)
    found: dict[str, list[Tensor]] = defaultdict(list)
    for part, maps_ in zip(map(plan.shown, plan.loader(rows)), own, strict=True):
        for name, map_ in looks(plan, twin, part).items():
            found[name].append(map_similarity(maps_[name], map_.cpu()))
    return {name: torch.cat(values).numpy() for name, values in found.items()}


def faithfulness_of(plan: Plan, collected: Collected, faces: int, steps: int) -> tuple[FaceScores, dict[str, Any]]:
    """Per-face scores, NaN for faces that were not scored, and their summary.

    Faces without a similarity to a random net, whose map or the net's own is flat, are left out of its mean and counted.
    """
    chosen = np.sort(np.random.default_rng(plan.seed).permutation(len(plan.rows))[:faces])
    found = collect_faithfulness(plan, plan.rows[chosen], steps)
    labels, classes = plan.labels[plan.rows[chosen]], scheme_classes(plan.recipe.data.scheme)
    predicted = collected.probabilities[chosen].argmax(1)
    persons = people(face_facts(plan.store, plan.rows[chosen])["subject"])
    summary: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, kinds in found.scores.items():
        for kind, values in kinds.items():
            defined = np.isfinite(values) | (kind not in found.twins.get(name, {}))
            scores = summarise({kind: values}, labels, predicted, defined, classes, persons, seed=plan.seed)["scores"]
            summary[name][kind] = {**scores[kind], **over_twins(found.twins.get(name, {}).get(kind), labels)}

    def spread(values: FloatArray) -> FloatArray:
        wide = np.full(len(plan.rows), np.nan, dtype=np.float32)
        wide[chosen] = values
        return wide

    per_face = {name: {kind: spread(values) for kind, values in kinds.items()} for name, kinds in found.scores.items()}
    return per_face, {"faces": len(chosen), "steps": steps, "twins": TWINS, "scores": dict(summary)}


def over_twins(values: FloatArray | None, labels: IntArray) -> dict[str, Any]:
    """Of similarities (TWINS, N): class mean for each random net, their standard deviation, faces without any similarity."""
    if values is None:
        return {}
    means = [class_mean(row, labels, np.isfinite(row)) for row in values]
    known = [mean for mean in means if mean is not None]
    return {
        "each": means,
        "deviation": float(np.std(known, ddof=1)) if len(known) > 1 else None,
        "undefined": int((~np.isfinite(values).any(axis=0)).sum()),
    }
