"""Distillation (Hinton et al. 2015, arXiv 1503.02531): a net learns from what other runs say of its training faces."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mien.config import Recipe
from mien.data.loader import Loader
from mien.data.store import Store
from mien.errors import DataError, UsageError
from mien.files import write_npz
from mien.models import Classifier
from mien.progress import track
from mien.schema import FloatArray, IntArray
from mien.training import checkpoint

FILE = "teachers.npz"
"""In the run folder: what the teachers said, so that a training that goes on need not ask them again."""
BATCH = 256


class Said(NamedTuple):
    """What teachers say of the training faces."""

    votes: FloatArray
    """(n, K) probabilities of their first heads."""
    labels: FloatArray
    """(n, K) of their heads for labels; of a teacher with one head the same as `votes`."""


def taught(targets: IntArray | FloatArray, rows: IntArray, said: FloatArray, share: float) -> FloatArray:
    """(N, K) targets of which `rows` are (1 - share) y + share q; other rows stay as they are.

    The cross-entropy against them is (1 - share) H(y, p) + share H(q, p): the published loss at temperature 1, for every face.

    Args:
        targets: (N,) class indices y, -1 without, or (N, K) distributions.
        rows: (n,) of the faces that the teachers saw.
        said: (n, K) distributions q of the teachers.
        share: of the teachers, in [0, 1].

    """
    own = targets if targets.ndim == 2 else np.eye(said.shape[1], dtype=np.float32)[np.clip(targets, 0, None)]
    mixed = own.astype(np.float32)
    mixed[rows] = (1 - share) * own[rows] + share * said
    return mixed


def ask_teachers(recipe: Recipe, store: Store, rows: IntArray, device: torch.device, out: Path, write: bool) -> Said:
    """What the mean of `data.teachers` says of the training faces, as they lie in the store and mirrored.

    It is kept in the run folder by the process that writes, and read from there where it is the same teachers' and faces'.

    Raises:
        UsageError: a teacher of another scheme, or one that is steered by a guide. DataError: one that is no run.

    """
    loaded = [checkpoint.load_model(run)[:2] for run in recipe.data.teachers]
    for run, (_, own) in zip(recipe.data.teachers, loaded, strict=True):
        refuse_teacher(run, own, recipe)
    marks = [checkpoint.weights_hash(model) for model, _ in loaded]
    before = kept(out / FILE, marks, store.ids[rows])
    if before is not None:
        return Said(*before)
    votes, labels = torch.stack([
        torch.stack(answers(model.to(device), own, store, rows, run.name))
        for run, (model, own) in zip(recipe.data.teachers, loaded, strict=True)
    ]).mean(0).numpy()  # fmt: skip
    if write:
        facts = {"teachers": np.array(marks), "ids": store.ids[rows].astype(str)}
        write_npz(out / FILE, {"votes": votes, "labels": labels, **facts})
    return Said(votes, labels)


def refuse_teacher(run: Path, own: Recipe, recipe: Recipe) -> None:
    """UsageError for a teacher that cannot say anything of these faces."""
    if own.data.scheme != recipe.data.scheme:
        raise UsageError(
            f"data.teachers: {run} knows the classes of {own.data.scheme}, and this training has data.scheme "
            f"{recipe.data.scheme}; take teachers of the same scheme."
        )
    if own.transformer.kind not in ("none", "image"):
        raise UsageError(
            f"data.teachers: {run} is steered by a guide (transformer.kind {own.transformer.kind}), which a teacher is not "
            "given; take one that sees the picture alone."
        )


def kept(file: Path, marks: list[str], ids: np.ndarray) -> tuple[FloatArray, FloatArray] | None:
    """What the same teachers said of the same faces; None where the file is not there, or of others.

    DataError for one that is damaged.
    """
    if not file.is_file():
        return None
    try:
        with np.load(file) as found:
            same = list(found["teachers"]) == marks and list(found["ids"]) == [str(name) for name in ids]
            return (found["votes"], found["labels"]) if same else None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{file} is damaged ({error}); delete it, and the teachers are asked again.") from error


@torch.no_grad()
def answers(model: Classifier, own: Recipe, store: Store, rows: IntArray, name: str) -> tuple[Tensor, Tensor]:
    """(n, K) probabilities of both heads of one teacher on the processor, the mean of each face and its mirror image."""
    device = next(model.parameters()).device
    none = np.zeros(len(store), dtype=np.int64)
    loader = Loader(
        store, rows, none, size=own.model.size, batch=BATCH, device=device, workers=own.run.workers,
        preprocessing=own.model.preprocessing,
    )  # fmt: skip
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    for batch in track(loader, f"teacher {name}", len(loader)):
        outputs = [model(images) for images in (batch.images, batch.images.flip(-1))]
        for part, heads in zip(found, zip(*[(o.logits, o.label_logits) for o in outputs], strict=True), strict=True):
            logits = [o.logits for o in outputs] if heads[0] is None else heads
            part.append(torch.stack([one.float().softmax(1) for one in logits]).mean(0))
    return torch.cat(found[0]).cpu(), torch.cat(found[1]).cpu()
