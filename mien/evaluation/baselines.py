"""Scores that a map's own score is read beside, for one batch: maps that never saw the face, the ceiling, mismatched cues."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from mien import maps
from mien.cues import controls, map_resize
from mien.evaluation.plan import Plan
from mien.evaluation.reference import ClassCues, partner_cue
from mien.metrics.alignment import Resize, alignment_scores
from mien.schema import Batch, Cue, Output
from mien.training.cues import cues_for

BASELINES = ("uniform", "centre", "mean", "class_mean", "class_mean_predicted", "class_weighted")
"""Maps that never saw the face: what a score is worth begins here."""
MISMATCHED = ("same_class", "other_class", "inverted")
"""Wrong cues for the model's own attention: a high score here means that the right cue explains nothing."""
BESIDE = ("perfect", "class_mean")
"""What stands beside the attention against a wrong cue: the face's own cue, and the blind mean cue of the predicted class."""
CEILING = "ceiling"
"""The face's own cue at the size of the layer: what a perfect map of that layer scores."""
AT_PREDICTED = "baseline:class_mean@predicted"
"""Mean cue of the predicted class against the cue of the predicted class: the baseline of `cam@predicted`."""

Scores = dict[str, dict[str, Tensor]]
"""Map name -> score name -> (B,)."""


def cue_of(plan: Plan, batch: Batch, size: tuple[int, int] | None = None) -> Cue:
    """The run's cue, without its control, for the expressions of a batch; at the size of the images unless said."""
    plain = replace(plan.recipe, cue=replace(plan.recipe.cue, control="none"))
    return cues_for(plain, batch, [size or batch.images.shape[-2:]], [None], 0, 0)[0]


def baseline_scores(plan: Plan, batch: Batch, output: Output, cue: Cue, said: Cue) -> Scores:
    """BASELINES and the ceiling against the cue of the true class, AT_PREDICTED against `said`, that of the predicted one."""
    as_cue = map_resize(plan.recipe.cue)
    reference = plan.reference.resized((cue.maps.shape[-2], cue.maps.shape[-1]), cue.maps.device, as_cue)
    answers, layer = output.logits.argmax(1), output.features[-1].shape[-2:]
    predicted = reference.of(answers)
    blind = {
        "uniform": controls.uniform(cue.maps),
        "centre": controls.centre(cue.maps),
        "mean": reference.overall.expand_as(cue.maps),
        "class_mean": reference.of(batch.expressions),
        "class_mean_predicted": predicted,
        "class_weighted": reference.weighted(output.logits.float().softmax(1)),
    }
    return {
        **{f"baseline:{name}": alignment_scores(map_, cue.maps) for name, map_ in blind.items()},
        CEILING: alignment_scores(cue_of(plan, batch, (layer[0], layer[1])).maps, cue.maps, as_cue),
        AT_PREDICTED: alignment_scores(predicted, said.maps),
    }


def mismatched_scores(plan: Plan, batch: Batch, attention: Tensor, answers: Tensor, cue: Cue) -> Scores:
    """MISMATCHED rows of the attention (B, 1, h, w), and BESIDE each what other maps score there; NaN without a wrong cue."""
    size, as_cue = (cue.maps.shape[-2], cue.maps.shape[-1]), map_resize(plan.recipe.cue)
    blind = plan.reference.resized(size, cue.maps.device, as_cue).of(answers)
    own = {"": maps.shift_to_zero(attention), ":perfect": cue.maps, ":class_mean": blind}
    scores = {}
    for name, wrong in wrong_cues(plan, batch, cue).items():
        for end, map_ in own.items():
            found = alignment_scores(map_, wrong.maps, as_cue)
            scores[f"mismatched:{name}{end}"] = {
                kind: values.masked_fill(~wrong.valid, torch.nan) for kind, values in found.items()
            }
    return scores


def wrong_cues(plan: Plan, batch: Batch, cue: Cue) -> dict[str, Cue]:
    """Cue of another face of the same class, of another class on the same face, and one minus the cue."""
    rows, size = batch.rows.cpu().numpy(), (cue.maps.shape[-2], cue.maps.shape[-1])
    partners = plan.others.face[rows]
    wrong = {"same_class": partner_cue(plan.recipe, plan.store, plan.labels, partners, size, plan.device)}
    if plan.others.label is not None:
        label = plan.others.label[batch.rows.cpu()].to(plan.device)
        other = cue_of(plan, batch._replace(expressions=label))
        wrong["other_class"] = Cue(other.maps, other.valid & (label != batch.expressions))
    wrong["inverted"] = Cue(controls.inverted(cue.maps), cue.valid)
    return wrong


def trained_baselines(
    reference: ClassCues, own: Cue, name: str, labels: Tensor, cue: Cue, as_cue: Resize = maps.resize
) -> Scores:
    """Class-mean baseline and ceiling of a trained attribution that has a cue of its own, under its name.

    `own` is that cue at the size of the attribution, `cue` at the size of the images; labels (B,) true or predicted;
    `as_cue` is the resize of that cue.
    """
    size = (cue.maps.shape[-2], cue.maps.shape[-1])
    return {
        f"baseline:class_mean:{name}": alignment_scores(
            reference.resized(size, cue.maps.device, as_cue).of(labels), cue.maps
        ),
        f"{CEILING}:{name}": alignment_scores(own.maps, cue.maps, as_cue),
    }
