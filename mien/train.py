"""Training, from recipe to run folder, readable from top to bottom; one loop for every kind of guidance."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mien import checkpoint, maps
from mien.compat import ensure_torchvision
from mien.config import GUIDED_KINDS, Recipe, load_recipe
from mien.data import folds
from mien.data.cutmix import cutmix
from mien.data.folds import Split
from mien.data.framing import framing_of, mean_shape
from mien.data.labels import labels_of, voted_labels
from mien.data.loader import Loader, Memory, load_memory, targets_of
from mien.data.masking import LEAK, Masking, fill_colour, label_leak, make_masking
from mien.data.observed import open_faces
from mien.data.sampling import epoch_rows, taught_classes, training_size
from mien.data.store import Store
from mien.errors import DataError, UsageError
from mien.files import write_atomic
from mien.guidance import (
    Guide,
    Look,
    active,
    cues_for,
    describe,
    guidance_terms,
    guided_forward,
    guides_of,
    kept_guides,
    look,
    mean_of_cue,
    prepare_guides,
    with_guide,
)
from mien.metrics.classification import classification_scores
from mien.models import Alignment, Classifier, create_model
from mien.objective import classification_term, further_terms, hard_labels, masked, step_of, try_terms
from mien.optim import class_weights, make_optimizer, set_lr
from mien.progress import track
from mien.schema import Batch, Cue, FloatArray, IntArray, Output, scheme_classes
from mien.train_notes import drawn_faces, next_command, tell_split

ensure_torchvision()
from lightning_fabric import Fabric  # noqa: E402


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
    print(
        f"{folder}: {'last' if settings.optim.select == 'last' else 'best'} epoch {best['epoch']}, validation {selecting(settings)} "
        f"{best['score']:.4f}. Next: {next_command(settings, folder)}"
    )
    return folder


class Session(NamedTuple):
    """What every epoch needs; made once by `prepare_session`."""

    fabric: Fabric
    store: Store
    split: Split
    labels: IntArray
    """(N,) class index of every row of the store, -1 without."""
    targets: IntArray | FloatArray
    """Labels, or (N, K) soft targets."""
    model: Classifier
    wrapped: nn.Module
    """The model as fabric runs it (device, precision, several processes)."""
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None
    """Moving average of the weights; where it exists it is what is validated and kept."""
    guides: list[Guide]
    masking: Masking
    class_weight: Tensor | None
    """(K,) weights of the classification loss with data.balance weights or weights_max."""
    memory: Memory | None
    """All pictures on the device, with run.in_memory."""
    drawn: dict[tuple[int, int], Cue]
    """Cues of the validation faces, drawn in the first validation: batch, map -> cue."""

    @property
    def evaluated(self) -> Classifier:
        """The weights that are validated and kept."""
        return cast(Classifier, self.average.module) if self.average is not None else self.model


def fit(recipe: Recipe, out: Path) -> dict[str, Any]:
    """Train into `out`, resuming from `last.ckpt` where there is one. Returns epoch and score of the best epoch."""
    session, state = prepare_session(recipe, out)
    fabric = session.fabric
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
            "seconds": round(seconds, 2),
            "images_per_second": round(len(rows) / seconds, 1),
        }
        if fabric.is_global_zero:
            keep(out, session, line, next_state(state, line, recipe))
        state = next_state(state, line, recipe)
        fabric.barrier()
    return {"epoch": state["best_epoch"], "score": state["best_score"]}


def prepare_session(recipe: Recipe, out: Path) -> tuple[Session, dict[str, Any]]:
    """Data, model, optimiser and run folder of a recipe, with the state of `last.ckpt` where there is one."""
    run = recipe.run
    try:
        fabric = Fabric(
            accelerator=run.accelerator, devices=run.devices, strategy=run.strategy, precision=run.precision
        )
    except (ValueError, RuntimeError) as error:
        raise UsageError(f"run: {' '.join(str(error).split())}") from error
    fabric.launch()
    store = open_faces(recipe.data.store, recipe.data.action_units)
    split = split_rows(store, recipe)
    labels = labels_of(store, recipe.data.scheme)
    classes = len(scheme_classes(recipe.data.scheme))
    taught_classes(recipe, 1)

    refuse_seen(recipe, store, split)
    torch.manual_seed(run.seed)
    two_heads = recipe.data.targets == "both"
    model = create_model(recipe.model, classes, recipe.guidance.layers, recipe.transformer, two_heads)
    if isinstance(model.transformer, Alignment):
        model.transformer.mean_shape.copy_(torch.from_numpy(mean_shape(store, split.train)))
    guides = prepare_guides(recipe, model, store, labels, split.train, fabric.device)
    average = None
    if recipe.optim.ema:
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.optim.ema), use_buffers=True)
    try_terms(recipe, model)
    optimizer = make_optimizer(model, recipe.optim)
    colour = fill_colour(recipe, store, split.train)
    if fabric.is_global_zero:
        for guide in guides:
            print(describe(guide, model), flush=True)
        if label_leak(recipe):
            print(LEAK, flush=True)
        start_run(out, recipe, store, split, str(fabric.device), colour)
    fabric.barrier()
    wrapped, optimizer = fabric.setup(model, optimizer)
    if average is not None:
        average.to(fabric.device)
    state = checkpoint.resume(out, model, optimizer, average)  # after the move: the optimiser's state is on its device
    if fabric.is_global_zero:
        checkpoint.trim_log(out, state["epoch"])
    image_mean = None
    guided = recipe.transformer.kind in GUIDED_KINDS
    if recipe.cue.control == "mean" and (recipe.model.segmentation or colour is not None or guided):
        image_mean = mean_of_cue(recipe, store, labels, split.train, recipe.model.size).to(fabric.device)
    masking = make_masking(colour, image_mean, fabric.device, recipe.model.preprocessing)
    wanted = recipe.data.targets
    targets = labels if wanted == "label" else targets_of(store, recipe.data.scheme, wanted)
    weight = None
    if recipe.data.balance in ("weights", "weights_max"):
        weight = class_weights(labels[split.train], classes, recipe.data.balance).to(fabric.device)
    memory = load_memory(store, recipe.model, fabric.device) if run.in_memory else None
    if memory is not None:
        memory = memory._replace(guides=kept_guides(recipe, memory, image_mean))
    return Session(
        fabric, store, split, labels, targets, model, wrapped, optimizer, average, guides, masking, weight, memory, {}
    ), state


def train_epoch(recipe: Recipe, session: Session, epoch: int, rows: IntArray) -> dict[str, float]:
    """One pass over `rows`; mean of every loss term and the training accuracy, over all processes."""
    fabric, run = session.fabric, recipe.run
    # Order, augmentation and dropout depend on (seed, epoch) alone: a resumed run repeats the same numbers.
    torch.manual_seed(int(np.random.SeedSequence((run.seed, epoch)).generate_state(1)[0]))
    loader = Loader(
        session.store, rows[fabric.global_rank :: fabric.world_size], session.targets,
        size=training_size(recipe, epoch),
        batch=recipe.optim.batch, device=fabric.device, augment=recipe.augment, seed=run.seed, epoch=epoch,
        workers=run.workers, drop_last=True, preprocessing=recipe.model.preprocessing, memory=session.memory,
        labels=session.labels if recipe.data.targets == "both" else None,
    )  # fmt: skip
    session.wrapped.train()
    guides = active(session.guides, epoch)
    totals: dict[str, Tensor] = {}
    for step, batch in enumerate(track(loader, f"epoch {epoch}/{recipe.optim.epochs}", len(loader))):
        set_lr(session.optimizer, recipe.optim, epoch, step, len(loader))
        batch = masked(recipe, batch, session.masking, recipe.mask.train, epoch, step)
        batch = cutmix(batch, recipe.augment, len(scheme_classes(recipe.data.scheme)), (run.seed, epoch, step))
        batch = with_guide(recipe, batch, session.masking.mean, epoch, step)
        output = guided_forward(session.wrapped, guides, batch.images, hard_labels(batch), batch.guide)
        terms = loss_terms(recipe, output, batch, session, epoch, step)
        fabric.backward(torch.stack(list(terms.values())).sum())
        if recipe.optim.clip:
            fabric.clip_gradients(session.wrapped, session.optimizer, max_norm=recipe.optim.clip)
        session.optimizer.step()
        session.optimizer.zero_grad()
        if session.average is not None:
            session.average.update_parameters(session.model)
        for name, term in {**terms, "accuracy": batch_accuracy(output, batch)}.items():
            totals[name] = totals.get(name, torch.zeros((), device=fabric.device)) + term.detach() / len(loader)
    return {name: float(fabric.all_reduce(value)) for name, value in totals.items()}


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


def split_rows(store: Store, recipe: Recipe) -> Split:
    """Rows of train, valid and test under the recipe's protocol, unlabelled rows left out; empty parts are data errors.

    Under `strict` a fold's validation part is carved out of its training faces, in whole subjects and duplicate groups;
    under `paper` faces are dealt one by one and the test part selects the epoch; under `complete` every face is in every part.
    """
    data = recipe.data
    strict = data.protocol == "strict"
    labelled = labels_of(store, data.scheme) >= 0
    if data.folds and data.fold is None:
        raise UsageError(f"data.folds is {data.folds} but no data.fold is named; `mien crossval` trains all of them.")
    if data.fold is not None:
        fraction = data.valid_fraction if strict else 0.0
        parts = folds.k_folds(store, data.folds, data.fold_seed, strict, data.scheme, fraction)[data.fold]
    elif data.protocol == "complete":
        every = np.flatnonzero(labelled)
        parts = Split(every, every, every, {"protocol": "complete", "train": len(every)})
    else:
        parts = folds.strict(store, recipe.run.seed, data.valid_fraction) if strict else folds.official(store)
    train_rows, valid_rows, test_rows = (rows[labelled[rows]] for rows in (parts.train, parts.valid, parts.test))
    split = Split(train_rows, valid_rows if strict else test_rows, test_rows, parts.report)
    for name, count in split.sizes().items():
        if count == 0 and not (name == "test" and strict):
            raise DataError(
                f"{store.path}: no labelled faces in '{name}' for scheme {recipe.data.scheme}; see `mien check {store.path}`."
            )
    return split


def refuse_seen(recipe: Recipe, store: Store, split: Split) -> None:
    """UsageError where the run that training starts from was trained on faces that this one is scored on."""
    initial = recipe.model.initial
    if initial is None or not (initial / "environment.json").is_file() or recipe.data.protocol == "complete":
        return
    before, facts = checkpoint.read_run(initial)
    if facts.get("store_fingerprint") != store.fingerprint or (before.data.folds and before.data.fold is None):
        return
    learnt = split_rows(store, replace(before, data=replace(before.data, store=recipe.data.store))).train
    both = np.isin(np.concatenate([split.valid, split.test]), learnt).sum()
    if both:
        raise UsageError(
            f"model.initial {initial} was trained on {both} of the faces that this run is selected or scored on; start from a "
            "run with the same split (data.protocol, data.fold, run.seed), or of other faces."
        )


def start_run(
    out: Path, recipe: Recipe, store: Store, split: Split, device: str, colour: Sequence[float] | None
) -> None:
    """Create or check the run folder and write what the run depends on."""
    checkpoint.open_run(out, recipe)
    facts = checkpoint.environment(
        recipe, store.fingerprint, device,
        {
            "dataset": store.info.dataset, "rows": split.sizes(), "split": split.report | drawn_faces(store, split),
            "framing": framing_of(store, split.train)._asdict(),
            **({} if colour is None else {"mask_colour": colour}),
        },
    )  # fmt: skip
    before = out / "environment.json"
    if before.exists() and json.loads(before.read_text()).get("store_fingerprint") != store.fingerprint:
        raise DataError(f"{out} was trained on other data than {recipe.data.store} holds now; choose another --out.")
    write_atomic(before, json.dumps(facts, indent=1))
    tell_split(recipe, store, split)


def batch_accuracy(output: Output, batch: Batch) -> Tensor:
    """Share of right predictions in a batch; soft targets count by their largest class."""
    return (output.logits.argmax(1) == hard_labels(batch)).float().mean()


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
        output, looks = look(model, guides, batch.images, batch.expressions, batch.guide)
        logits.append(output.logits.float().cpu())
        if output.label_logits is not None:
            of_labels.append(output.label_logits.float().cpu())
        attention = Look("att_cos", maps.to_input(maps.channel_mean(output.features[-1]), output.theta), plain.cue)
        for k, seen in enumerate((attention, *looks)):
            if (number, k) not in session.drawn:
                drawn = cues_for(replace(plain, cue=seen.cue), batch, [seen.maps.shape[-2:]], [None], 0, 0)
                session.drawn[number, k] = drawn[0]
            cue = session.drawn[number, k]
            score = maps.cosine if seen is attention else maps.pearson
            aligned[seen.name].append(score(seen.maps, cue.maps)[cue.valid].cpu())
    model.train(training)
    voted = torch.cat(logits)
    every = torch.cat(of_labels) if of_labels else voted  # two heads: that of the labels answers for the labels
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


def keep(out: Path, session: Session, line: dict[str, Any], state: dict[str, Any]) -> None:
    """Append to the log and TensorBoard, save best and last checkpoints, print one line."""
    if state["best_epoch"] == line["epoch"]:
        weights = {f"model/{name}": tensor for name, tensor in session.evaluated.state_dict().items()}
        meta = {"epoch": state["best_epoch"], "score": state["best_score"]}
        checkpoint.save_tensors(out / "best.ckpt", weights, meta)
    checkpoint.log_line(out, line)
    tensors = {f"model/{name}": tensor for name, tensor in session.model.state_dict().items()}
    tensors |= checkpoint.optimizer_tensors(session.optimizer)
    if session.average is not None:
        tensors |= {f"average/{name}": tensor for name, tensor in session.average.state_dict().items()}
    checkpoint.save_tensors(out / "last.ckpt", tensors, state)
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
