"""Scores on the validation faces after every epoch, and which epoch they choose."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F

from mien import maps
from mien.config import Recipe
from mien.data.labels import voted_labels
from mien.data.loader import Loader
from mien.errors import DataError
from mien.metrics.classification import classification_scores
from mien.schema import scheme_classes
from mien.training.cues import cues_for
from mien.training.guidance import TrainedMap, trained_maps
from mien.training.guides import guides_of
from mien.training.objective import masked
from mien.training.session import Session
from mien.training.steering import with_guide


@torch.no_grad()
def validate(session: Session, recipe: Recipe) -> dict[str, float]:
    """Classification scores, last-layer alignment (cosine) and that of trained attributions (Pearson) on the validation
    faces; the model goes back to its mode.
    """
    model, rows, labels, device = session.evaluated, session.split.valid, session.labels, session.fabric.device
    plain = replace(recipe, cue=replace(recipe.cue, control="none"))  # a control is scored against the real cue
    training = model.training
    model.eval()
    guides, logits, of_labels, aligned = guides_of(plain, model), [], [], defaultdict(list)
    loader = Loader(
        session.store, rows, labels, size=recipe.model.size, batch=256, device=device, workers=recipe.run.workers,
        preprocessing=recipe.model.preprocessing, memory=session.memory,
    )  # fmt: skip
    for number, batch in enumerate(loader):
        batch = masked(recipe, batch, session.masking, float(recipe.mask.evaluate), 0, 0)
        batch = with_guide(recipe, batch, session.masking.mean, 0, 0)
        output, looks = trained_maps(model, guides, batch.images, batch.expressions, batch.guide)
        logits.append(output.logits.float().cpu())
        if output.label_logits is not None:
            of_labels.append(output.label_logits.float().cpu())
        attention = TrainedMap(
            "att_cos", maps.to_input(maps.channel_mean(output.features[-1]), output.theta), plain.cue
        )
        for k, seen in enumerate((attention, *looks)):
            if (number, k) not in session.drawn:
                drawn = cues_for(replace(plain, cue=seen.cue), batch, [seen.maps.shape[-2:]], [None], 0, 0)
                session.drawn[number, k] = drawn[0]
            cue = session.drawn[number, k]
            score = maps.cosine if seen is attention else maps.pearson
            aligned[seen.name].append(score(seen.maps, cue.maps)[cue.valid].cpu())
    model.train(training)
    voted = torch.cat(logits)
    every = torch.cat(of_labels) if of_labels else voted  # of two heads that of the labels answers for the labels
    if not torch.isfinite(every).all():
        raise DataError("the net no longer gives finite numbers; lower --optim.lr or set --optim.clip 1.")
    scores = classification_scores(every.softmax(1).numpy(), labels[rows], scheme_classes(recipe.data.scheme))
    kept = {name: float(scores[name]) for name in ("accuracy", "balanced_accuracy", "macro_f1")}
    majority = voted_labels(session.store, recipe.data.scheme)[rows]
    if of_labels and (majority >= 0).any():
        kept["majority"] = float((voted.argmax(1).numpy() == majority)[majority >= 0].mean())
    kept["loss"] = float(F.cross_entropy(every, torch.from_numpy(labels[rows])))
    for name, parts in aligned.items():
        if len(torch.cat(parts)):
            kept[name] = float(torch.cat(parts).mean())
    return kept


def selecting(recipe: Recipe) -> str:
    """Validation score that is kept beside the chosen epoch."""
    return "accuracy" if recipe.optim.select == "last" else recipe.optim.select


def next_state(state: dict[str, Any], line: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """State after an epoch: which epoch was finished last, which was best so far (the first of equals) and its score."""
    score = line[f"valid_{selecting(recipe)}"]
    if recipe.optim.select != "last" and score <= state["best_score"]:
        return {**state, "epoch": line["epoch"]}
    return {"epoch": line["epoch"], "best_epoch": line["epoch"], "best_score": score}


def out_of_patience(state: dict[str, Any], patience: int) -> bool:
    """Whether the last `patience` epochs brought nothing better; never with 0. It follows from what a checkpoint holds."""
    return bool(patience and state["epoch"] - state["best_epoch"] >= patience)
