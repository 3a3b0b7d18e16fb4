"""One batched pass over a split: what `mien evaluate` notes down of every face."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mien import maps
from mien.cues import map_resize
from mien.data.cluster import ordered_map
from mien.evaluation.baselines import Scores, baseline_scores, cue_of, mismatched_scores, trained_baselines
from mien.evaluation.plan import Plan
from mien.evaluation.reference import ClassCues, kept_class_cues
from mien.explain import cam, evidence, explain_with_output
from mien.metrics.alignment import cam_scores
from mien.metrics.segmentation import predicted_region, region_scores
from mien.models import Classifier
from mien.progress import track
from mien.schema import Batch, Cue, FloatArray, IntArray, Output, scheme_classes
from mien.training.cues import cues_for
from mien.training.fit import attention, attention_fit, trained_fit
from mien.training.guidance import trained_maps
from mien.training.guides import guides_of

PREDICTED = "cam@predicted"
"""CAM of the predicted class against the cue of the predicted class: what a user sees, who knows no label."""
SEGMENTATION = "segmentation:"
"""Begins the names of scored regions, which are reported apart from the maps."""

FaceScores = dict[str, dict[str, FloatArray]]
"""Map name -> score name -> (N,)."""


class Collected(NamedTuple):
    """Everything of one pass over the split, one row a face."""

    probabilities: FloatArray
    """Of two heads those of the labels'."""
    voted_probabilities: FloatArray | None
    """(N, K) of the votes' head, where there are two; None with one."""
    valid: npt.NDArray[np.bool_]
    """The true class has a cue on this face."""
    valid_predicted: npt.NDArray[np.bool_]
    """So have both the true and the predicted class."""
    scores: FaceScores
    valid_own: dict[str, npt.NDArray[np.bool_]]
    """Trained attribution -> (N,) faces that have its own cue."""
    class_maps: dict[str, FloatArray]
    """Map name -> (K, H, W) mean over the faces of each class."""
    face_maps: dict[str, np.ndarray]
    """Map name -> (N, h, w) float16 in [0, 1] at the resolution of the last layer; for pictures in a report."""
    theta: FloatArray | None
    """(N, 2, 3) where a spatial transformer looked; None without one."""


class Noted(NamedTuple):
    """What is noted down of one batch; arrays, so that it travels between processes."""

    faces: dict[str, np.ndarray]
    """Name -> (B, ...): probabilities, valid, both; voted and theta where there are some."""
    scores: FaceScores
    looks: dict[str, np.ndarray]
    """Map name -> (B, h, w) float16."""
    sums: dict[str, Tensor]
    """Map name -> (K, H, W) sum over the faces of each class."""


@torch.no_grad()
def note(plan: Plan, part: Batch) -> Noted:
    """One batch, as `Plan.shown` gives it: one forward pass, and one backward pass more where gradient methods have no closed form."""
    output, raw = explain_with_output(
        plan.model, part.images, part.expressions, plan.methods, -1, plan.sampling, part.guide
    )
    cue, said = (cue_of(plan, part._replace(expressions=k)) for k in (part.expressions, output.logits.argmax(1)))
    faces = {**answers_of(output), "valid": cue.valid, "both": cue.valid & said.valid}
    looks = {"attention": maps.min_max(attention(output, -1))}
    if plan.main is not None:
        looks[plan.main] = maps.min_max(raw[plan.main])
    size = (cue.maps.shape[-2], cue.maps.shape[-1])
    full = {"cue": cue.maps, **{name: maps.resize(map_, size) for name, map_ in looks.items()}}
    classes = member(part, len(scheme_classes(plan.recipe.data.scheme)))
    return Noted(
        {name: values.cpu().numpy() for name, values in faces.items()},
        {
            name: {kind: values.cpu().numpy() for kind, values in kinds.items()}
            for name, kinds in batch_scores(plan, part, output, raw, cue, said).items()
        },
        {name: map_[:, 0].half().cpu().numpy() for name, map_ in looks.items()},
        {name: torch.einsum("bk,bhw->khw", classes, map_[:, 0]).cpu() for name, map_ in full.items()},
    )


def answers_of(output: Output) -> dict[str, Tensor]:
    """Probabilities of each head, (B, K), and where a spatial transformer looked, (B, 2, 3)."""
    found = {"probabilities": output.logits.float().softmax(1)}
    if output.label_logits is not None:
        found = {"voted": found["probabilities"], "probabilities": output.label_logits.float().softmax(1)}
    return found if output.theta is None else {**found, "theta": output.theta.float()}


def note_rows(plan: Plan, rows: IntArray) -> Noted:
    """One batch by the rows of its faces; in a worker of a cluster."""
    (part,) = plan.loader(rows)
    return note(plan, plan.shown(part))


def noted(plan: Plan, rows: IntArray, cluster: str | None) -> Iterator[Noted]:
    """Every batch of some rows, in order."""
    if cluster is None:
        yield from (note(plan, plan.shown(part)) for part in plan.loader(rows))
        return
    alone = plan._replace(recipe=replace(plan.recipe, run=replace(plan.recipe.run, workers=0)))
    batches = [rows[start : start + plan.batch] for start in range(0, len(rows), plan.batch)]
    yield from ordered_map(partial(note_rows, alone), batches, chunk=1, cluster=cluster)


def collect(plan: Plan, cluster: str | None = None) -> Collected:
    """Probabilities, scores of every layer's attention and of every method, uninformative and mismatched-cue baselines, in one pass.

    The workers of a `cluster` (`mien.data.cluster`) take a batch each.
    """
    rows, labels = plan.rows, plan.labels
    # A store that is sorted by class would shuffle the cues of masks and guides inside one class: they need mixed batches.
    order = np.random.default_rng(plan.seed).permutation(len(rows))
    faces: dict[str, np.ndarray] = {}
    looks: dict[str, np.ndarray] = {}
    scores: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    sums: dict[str, Tensor] = {}
    done, count = 0, len(rows)
    for part in track(noted(plan, rows[order], cluster), "evaluate", -(-count // plan.batch)):
        place = order[done : done + len(part.faces["valid"])]
        done += len(place)
        fill(faces, place, count, part.faces)
        fill(looks, place, count, part.looks)
        for name, kinds in part.scores.items():
            fill(scores[name], place, count, kinds)
        for name, total in part.sums.items():
            sums[name] = sums[name] + total if name in sums else total

    def counted(name: str) -> Tensor:  # a face without a cue has an empty map, which would dim the mean
        seen = labels[rows][faces["valid"]] if name == "cue" else labels[rows]
        classes = len(scheme_classes(plan.recipe.data.scheme))
        return torch.from_numpy(np.bincount(seen, minlength=classes)).clamp_min(1).view(-1, 1, 1)

    return Collected(
        faces["probabilities"],
        faces.get("voted"),
        faces["valid"],
        faces["both"],
        dict(scores),
        {},
        {name: (total / counted(name)).numpy().astype(np.float32) for name, total in sums.items()},
        looks,
        faces.get("theta"),
    )


def batch_scores(plan: Plan, batch: Batch, output: Output, raw: dict[str, Tensor], cue: Cue, said: Cue) -> Scores:
    """Attention of every layer, every method, baselines, ceiling, mismatched cues; `said` is the cue of the predicted class."""
    count, answers, as_cue = len(output.features), output.logits.argmax(1), map_resize(plan.recipe.cue)
    scores = {f"layer-{k + 1}": attention_fit(output, k, cue, as_cue) for k in range(count)}
    for name, map_ in raw.items():
        scores[name] = cam_scores(evidence(name, map_), cue.maps)
    if "cam" in raw:
        scores[PREDICTED] = cam_scores(maps.to_input(cam(output, answers), output.theta), said.maps)
    scores |= baseline_scores(plan, batch, output, cue, said)
    scores |= mismatched_scores(plan, batch, attention(output, -1), answers, cue)
    return scores | segmentation_scores(plan, output, cue)


def segmentation_scores(plan: Plan, output: Output, cue: Cue) -> Scores:
    """Dice and IoU of the segmentation head and of regions that never saw the face; nothing without a head."""
    if output.segmentation is None:
        return {}
    true = maps.otsu_region(cue.maps)
    size = (true.shape[-2], true.shape[-1])
    reference = plan.reference.resized(size, true.device, map_resize(plan.recipe.cue))
    regions = {
        "net": predicted_region(output.segmentation, size),
        "baseline:uniform": torch.ones_like(true),
        "baseline:mean": maps.otsu_region(reference.overall).expand_as(true),
        "baseline:class_mean_predicted": maps.otsu_region(reference.of(output.logits.argmax(1))),
    }
    return {SEGMENTATION + name: region_scores(region, true) for name, region in regions.items()}


def member(batch: Batch, classes: int) -> Tensor:
    """(B, K) one-hot class membership of a batch."""
    return torch.nn.functional.one_hot(batch.expressions, classes).float()


def fill(
    kept: dict[str, np.ndarray], place: IntArray, count: int, values: Mapping[str, Tensor] | Mapping[str, np.ndarray]
) -> None:
    """Write values (B, ...) of the faces at `place` into arrays (count, ...), which the first batch makes.

    Small arrays that stay from batch to batch would lie between large ones that go, and no large one fits into the holes
    again: scoring 3,000 faces of 48 px took 280 MiB more than 300, for 3 MiB of numbers.
    """
    for name, value in values.items():
        part = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
        if name not in kept:
            kept[name] = np.zeros((count, *part.shape[1:]), part.dtype)
        kept[name][place] = part


def guided_scores(plan: Plan, run: Path | None = None) -> tuple[FaceScores, dict[str, npt.NDArray[np.bool_]]]:
    """Scores of the attributions that a run was trained with, each against its own cue, where the layers' do not tell.

    Also name -> (N,) bool: faces that have this cue.

    Beside each stand its own class-mean baseline, of the true class where the attribution is that of its logit, of the
    predicted class for an activation, and its ceiling. Class-mean cues are kept in the folder `run`, where one is given.
    """
    assert isinstance(plan.model, Classifier)
    guides = [guide for guide in guides_of(plan.recipe, plan.model) if guide.has_own_score]
    scores: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    references: dict[str, ClassCues] = {}
    valid: dict[str, np.ndarray] = {}
    loader, done, count = plan.loader(plan.rows), 0, len(plan.rows)
    for part in map(plan.shown, track(loader, "attributions", len(loader)) if guides else ()):
        place = np.arange(done, done + len(part.images))
        done += len(place)
        size = (part.images.shape[-2], part.images.shape[-1])
        output, looks = trained_maps(plan.model, guides, part.images, part.expressions, part.guide)
        for seen in looks:
            own, as_cue = replace(plan.recipe, cue=seen.cue), map_resize(seen.cue)
            h, w = seen.maps.shape[-2:]
            small, cue = cues_for(own, part, [(h, w), size], [None, None], 0, 0)
            if seen.name not in references:
                file = None if run is None else run / "maps" / f"class_cues-{seen.name.partition(':')[0]}.npz"
                references[seen.name] = kept_class_cues(
                    file, own, plan.store, plan.labels, plan.reference_rows, h, plan.device
                )
            fill(valid, place, count, {seen.name: cue.valid})
            fill(scores[seen.name], place, count, trained_fit(seen, cue, as_cue))
            labels = (
                output.logits.argmax(1) if seen.name.partition(":")[2].startswith("activation") else part.expressions
            )
            for name, values in trained_baselines(references[seen.name], small, seen.name, labels, cue, as_cue).items():
                fill(scores[name], place, count, values)
    return dict(scores), valid
