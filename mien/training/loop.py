"""Training, from recipe to run folder, readable from top to bottom; one loop for every kind of guidance."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mien.config import Recipe, load_recipe
from mien.data.cutmix import cutmix
from mien.data.loader import Loader
from mien.data.sampling import epoch_rows, taught_classes, training_size
from mien.errors import DataError
from mien.files import alone, first_process, read_json
from mien.progress import track
from mien.schema import Batch, IntArray, Output, scheme_classes
from mien.training import checkpoint
from mien.training.coverage import coverage_columns
from mien.training.devices import memory_line, together
from mien.training.guidance import guidance_terms, guided_forward
from mien.training.guides import active
from mien.training.notes import next_command
from mien.training.objective import classification_term, further_terms, hard_labels, masked, step_of
from mien.training.optim import follow, set_lr
from mien.training.session import Session, prepare_session
from mien.training.steering import with_guide
from mien.training.validation import next_state, out_of_patience, selecting, validate


def train(recipe: Path, *, out: Path | None = None, overrides: Sequence[str] = ()) -> Path:
    """Train a recipe into a run folder; the same command resumes a run that was stopped.

    Args:
        recipe: YAML file; any of its keys can be overridden, e.g. --guidance.weight 4 --run.seed 1.
        out: run folder (default runs/<recipe>-seed<seed>).
        overrides: --section.key value pairs.

    """
    settings = load_recipe(recipe, overrides)
    folder = out or Path("runs") / f"{recipe.stem}-seed{settings.run.seed}"
    best = fit(settings, folder)
    if not first_process():
        return folder
    print(
        f"{folder}: {'last' if settings.optim.select == 'last' else 'best'} epoch {best['epoch']}, validation {selecting(settings)} "
        f"{best['score']:.4f}. Next: {next_command(settings, folder)}"
    )
    return folder


def fit(recipe: Recipe, out: Path) -> dict[str, Any]:
    """Train into `out`, resuming from `last.ckpt` where there is one. Returns epoch and score of the best epoch.

    DataError where another process trains into the same folder, and where one of several of this training ends.
    """
    with alone(out), together():
        return _fit(recipe, out)


def _fit(recipe: Recipe, out: Path) -> dict[str, Any]:
    session, state = prepare_session(recipe, out)
    fabric = session.fabric
    if fabric.is_global_zero and (told := memory_line(fabric.device)):
        print(told, flush=True)
    for epoch in range(state["epoch"] + 1, recipe.optim.epochs + 1):
        if out_of_patience(state, recipe.optim.patience):
            break
        began = time.perf_counter()
        rows = epoch_rows(
            session.split.train, session.labels, balance=recipe.data.balance, seed=recipe.run.seed, epoch=epoch,
            classes=taught_classes(recipe, epoch), processes=fabric.world_size,
        )  # fmt: skip
        totals = train_epoch(recipe, session, epoch, rows)
        seconds = time.perf_counter() - began
        loss = sum(value for name, value in totals.items() if name != "accuracy")
        if not math.isfinite(loss):  # told before a net of NaN is scored
            raise DataError(f"{out}: the loss became {loss} in epoch {epoch}; lower --optim.lr or set --optim.clip 1.")
        scores = validate(session, recipe)
        scores = fabric.broadcast(scores)  # batch statistics differ between processes; all must stop at the same epoch
        line = {
            "epoch": epoch,
            "lr": session.optimizer.param_groups[0]["lr"],
            **{f"train_{name}": value for name, value in totals.items()},
            **{f"valid_{name}": value for name, value in scores.items()},
            **coverage_columns(session.coverage),
            "seconds": round(seconds, 2),
            "images_per_second": round(len(rows) / seconds, 1),
        }
        if fabric.is_global_zero:
            keep(out, session, line, next_state(state, line, recipe), recipe)
        state = next_state(state, line, recipe)
        fabric.barrier()
    return {"epoch": state["best_epoch"], "score": state["best_score"]}


def train_epoch(recipe: Recipe, session: Session, epoch: int, rows: IntArray) -> dict[str, float]:
    """One pass over `rows`; mean of every loss term and the training accuracy, over all processes."""
    fabric, run = session.fabric, recipe.run
    # Order, augmentation and dropout depend on (seed, epoch) alone: a resumed run repeats the same numbers.
    torch.manual_seed(own_seed(run.seed, epoch, fabric.global_rank))
    loader = Loader(
        session.store, rows[fabric.global_rank :: fabric.world_size], session.targets,
        size=training_size(recipe, epoch),
        batch=recipe.optim.batch, device=fabric.device, augment=recipe.augment, seed=run.seed, epoch=epoch,
        workers=run.workers, drop_last=True, preprocessing=recipe.model.preprocessing, memory=session.memory,
        labels=session.label_targets, reader=session.reader,
    )  # fmt: skip
    session.wrapped.train()
    guides = active(session.guides, epoch)
    totals: dict[str, Tensor] = {}
    for step, batch in enumerate(track(loader, f"epoch {epoch}/{recipe.optim.epochs}", len(loader))):
        set_lr(session.optimizer, recipe.optim, epoch, step, len(loader))
        number = step * fabric.world_size + fabric.global_rank  # each process draws controls and masks of its own
        batch = prepare_batch(recipe, session, batch, epoch, number)
        output = guided_forward(session.wrapped, guides, batch.images, hard_labels(batch), batch.guide)
        terms = loss_terms(recipe, output, batch, session, epoch, number)
        loss = torch.stack(list(terms.values())).sum()
        if fabric.world_size > 1 and session.idle:
            loss = loss + 0 * torch.stack([weight.sum() for weight in session.idle]).sum()
        fabric.backward(loss)
        if recipe.optim.clip:
            fabric.clip_gradients(session.wrapped, session.optimizer, max_norm=recipe.optim.clip)
        session.optimizer.step()
        session.optimizer.zero_grad()
        if session.average is not None:
            follow(session.average, session.model)
        for name, term in {**terms, "accuracy": batch_accuracy(output, batch)}.items():
            totals[name] = totals.get(name, torch.zeros((), device=fabric.device)) + term.detach() / len(loader)
    return {name: float(fabric.all_reduce(value)) for name, value in totals.items()}


def own_seed(seed: int, epoch: int, rank: int) -> int:
    """Seed of what a process draws in an epoch, dropout for example: another in each, though all began with equal weights."""
    return int(np.random.SeedSequence((seed, epoch, *([rank] if rank else []))).generate_state(1)[0])


def prepare_batch(recipe: Recipe, session: Session, batch: Batch, epoch: int, step: int) -> Batch:
    """The batch as the net gets it: faces masked by their cue, mixed, and with what steers a spatial transformer."""
    batch = masked(recipe, batch, session.masking, recipe.mask.train, epoch, step)
    batch = cutmix(batch, recipe.augment, len(scheme_classes(recipe.data.scheme)), (recipe.run.seed, epoch, step))
    return with_guide(recipe, batch, session.masking.mean, epoch, step)


def loss_terms(
    recipe: Recipe, output: Output, batch: Batch, session: Session, epoch: int, step: int
) -> dict[str, Tensor]:
    """Weighted terms of the loss: classification, guidance while it is switched on, and the recipe's further terms."""
    seen = step_of(recipe, session.model, output, batch, session.class_weight, session.masking.mean, epoch, step)
    return {
        "classification": classification_term(recipe, seen),
        **guidance_terms(recipe, active(session.guides, epoch), output, batch, epoch, step),
        **further_terms(recipe, seen, epoch),
    }


def batch_accuracy(output: Output, batch: Batch) -> Tensor:
    """Share of right predictions in a batch; soft targets count by their largest class."""
    return (output.logits.argmax(1) == hard_labels(batch)).float().mean()


def keep(out: Path, session: Session, line: dict[str, Any], state: dict[str, Any], recipe: Recipe) -> None:
    """Append to the log and TensorBoard, save best and last checkpoints, print one line."""
    bound = checkpoint.bound_to(recipe, read_json(out / "environment.json", "train again"))
    if state["best_epoch"] == line["epoch"]:
        weights = {f"model/{name}": tensor for name, tensor in session.evaluated.state_dict().items()}
        meta = {"epoch": state["best_epoch"], "score": state["best_score"]}
        checkpoint.save_tensors(out / "best.ckpt", weights, meta | bound)
    checkpoint.log_line(out, line)
    tensors = {f"model/{name}": tensor for name, tensor in session.model.state_dict().items()}
    tensors |= checkpoint.optimizer_tensors(session.optimizer)
    if session.average is not None:
        tensors |= {f"average/{name}": tensor for name, tensor in session.average.state_dict().items()}
    scaler = session.fabric.strategy.precision.state_dict()
    checkpoint.save_tensors(out / "last.ckpt", tensors, {**state, "scaler": scaler, **bound})
    shown = [
        "train_classification",
        "train_guidance",
        "train_second",
        "train_accuracy",
        "valid_accuracy",
        "valid_majority",
        "valid_att_cos",
    ]
    values = "  ".join(f"{name} {line[name]:.3f}" for name in shown if name in line)
    print(f"{out.name} epoch {line['epoch']:>3}  {values}  {line['seconds']:.0f} s", flush=True)
