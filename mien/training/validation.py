"""Scores on the validation faces after every epoch, and which epoch they choose."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from mien.compat import ensure_torchvision
from mien.config import Recipe
from mien.cues import map_resize
from mien.data.labels import voted_labels
from mien.data.loader import Loader
from mien.errors import DataError
from mien.metrics.alignment import class_mean
from mien.metrics.classification import classification_scores
from mien.schema import IntArray, scheme_classes
from mien.training.cues import cues_for
from mien.training.fit import attention_fit, trained_fit
from mien.training.guidance import trained_maps
from mien.training.guides import Guide, guides_of
from mien.training.objective import masked
from mien.training.session import Session
from mien.training.steering import with_guide

ensure_torchvision()
from lightning_fabric import Fabric  # noqa: E402

KEPT_BYTES = 2**28
"""Cues of validation faces that are kept from one epoch to the next; those beyond are drawn again."""


@torch.no_grad()
def validate(session: Session, recipe: Recipe) -> dict[str, float]:
    """Classification scores, ATT-COS of the last layer and Pearson of trained attributions on the validation faces, each as
    `mien evaluate --split valid` gives it for the same weights; the model goes back to its mode.
    """
    model, rows, labels, device = session.evaluated, session.split.valid, session.labels, session.fabric.device
    plain = replace(recipe, cue=replace(recipe.cue, control="none"))  # a control is scored against the real cue
    training = model.training
    model.eval()
    guides, logits, of_labels, aligned = guides_of(plain, model), [], [], defaultdict(list)
    loader = Loader(
        session.store, shared_rows(session.fabric, model, rows), labels, size=recipe.model.size,
        batch=validation_batch(recipe, guides), device=device, preprocessing=recipe.model.preprocessing, memory=session.memory,
        reader=session.reader,
    )  # fmt: skip
    for number, batch in enumerate(loader):
        batch = masked(recipe, batch, session.masking, float(recipe.mask.evaluate), 0, 0)
        batch = with_guide(recipe, batch, session.masking.mean, 0, 0)
        output, looks = trained_maps(model, guides, batch.images, batch.expressions, batch.guide)
        output = tree_map_only(Tensor, Tensor.detach, output)  # or what is kept would keep every batch's graph
        logits.append(output.logits.float().cpu())
        if output.label_logits is not None:
            of_labels.append(output.label_logits.float().cpu())
        size = (batch.images.shape[-2], batch.images.shape[-1])
        for k, (name, config) in enumerate([("att_cos", plain.cue), *((seen.name, seen.cue) for seen in looks)]):
            cue = session.drawn.get((number, k))
            if cue is None:
                cue = cues_for(replace(plain, cue=config), batch, [size], [None], 0, 0)[0]
                if sum(kept.maps.nbytes for kept in session.drawn.values()) < KEPT_BYTES:
                    session.drawn[number, k] = cue
            as_cue = map_resize(config)
            own = trained_fit(looks[k - 1], cue, as_cue) if k else attention_fit(output, -1, cue, as_cue)
            score = own["pearson" if k else "cosine"]
            aligned[name].append(torch.stack([score, cue.valid.to(score.dtype)]).cpu())
    model.train(training)
    return scores_of(session, recipe, logits, of_labels, aligned)


def scores_of(
    session: Session, recipe: Recipe, logits: list[Tensor], of_labels: list[Tensor], aligned: dict[str, list[Tensor]]
) -> dict[str, float]:
    """Scores of all processes from what each found batch by batch: logits, those of a second head, and of each map (2, n) its
    score and whether the face has a cue.
    """
    rows, labels = session.split.valid, session.labels
    fabric = session.fabric
    voted = in_order(fabric, torch.cat(logits), len(rows))
    every = (
        in_order(fabric, torch.cat(of_labels), len(rows)) if of_labels else voted
    )  # of two heads that of the labels answers for the labels
    if not torch.isfinite(every).all():
        raise DataError("the net no longer gives finite numbers; lower --optim.lr or set --optim.clip 1.")
    scores = classification_scores(every.softmax(1).numpy(), labels[rows], scheme_classes(recipe.data.scheme))
    kept = {name: float(scores[name]) for name in ("accuracy", "balanced_accuracy", "macro_f1")}
    majority = voted_labels(session.store, recipe.data.scheme)[rows]
    if of_labels and (majority >= 0).any():
        kept["majority"] = float((voted.argmax(1).numpy() == majority)[majority >= 0].mean())
    kept["loss"] = float(F.cross_entropy(every, torch.from_numpy(labels[rows])))
    for name, parts in aligned.items():
        score, valid = in_order(fabric, torch.cat(parts, 1).T, len(rows)).T.numpy()
        mean = class_mean(score, labels[rows], valid > 0)
        if mean is not None:
            kept[name] = mean
    return kept


def shared_rows(fabric: Fabric, model: nn.Module, rows: IntArray) -> IntArray:
    """Rows that this process scores: every n-th, filled up so that all processes have as many.

    Weights are equal in all processes, batch statistics are not: all take those of the first one, which are kept.
    """
    count, processes = len(rows), fabric.world_size
    if processes == 1:
        return rows
    for buffer in model.buffers():
        torch.distributed.broadcast(buffer, 0)
    return np.concatenate([rows, rows[np.arange(-count % processes) % count]])[fabric.global_rank :: processes]


def in_order(fabric: Fabric, here: Tensor, count: int) -> Tensor:
    """(n, ...) of the rows of `shared_rows` in each process -> (count, ...) of all rows in their order, on the CPU."""
    if fabric.world_size == 1:
        return here
    gathered = cast(Tensor, fabric.all_gather(here.to(fabric.device))).cpu()
    return gathered.transpose(0, 1).flatten(0, 1)[:count]


MOST = 256
"""Validation faces in a batch without gradients."""


def validation_batch(recipe: Recipe, guides: Sequence[Guide]) -> int:
    """Faces of a validation batch: never more than fit. Where maps need gradients, a graph is made as in training."""
    return min(MOST, recipe.optim.batch) if any(guide.by_gradient for guide in guides) else MOST


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
