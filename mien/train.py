"""Training, from recipe to run folder, readable from top to bottom; one loop for every kind of guidance."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mien import checkpoint, maps
from mien.compat import ensure_torchvision
from mien.config import OptimConfig, Recipe, load_recipe
from mien.cues import mean_cue, render_cue
from mien.data import folds
from mien.data.framing import framing_of
from mien.data.loader import Loader, epoch_rows, labels_of, targets_of
from mien.data.store import Store, open_store
from mien.errors import DataError
from mien.losses.alignment import guidance_loss, resolve_layers
from mien.metrics.classification import classification_scores
from mien.models import create_model
from mien.progress import track
from mien.schema import Batch, Cue, Output, scheme_classes

ensure_torchvision()
from lightning_fabric import Fabric  # noqa: E402


class Split(NamedTuple):
    """Row numbers of the store, only rows with a label of the scheme."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray


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
    print(f"{folder}: best epoch {best['epoch']}, validation {settings.optim.select} {best['score']:.4f}. Next: mien evaluate {folder}")
    return folder


def fit(recipe: Recipe, out: Path) -> dict[str, Any]:
    """Train into `out`, resuming from `last.ckpt` where there is one. Returns epoch and score of the best epoch."""
    run = recipe.run
    fabric = Fabric(accelerator=run.accelerator, devices=run.devices, strategy=run.strategy, precision=run.precision)  # type: ignore[arg-type]
    fabric.launch()
    store = open_store(recipe.data.store)
    split = split_rows(store, recipe)
    labels = labels_of(store, recipe.data.scheme)
    targets = targets_of(store, recipe.data.scheme) if recipe.data.targets == "votes" else labels

    torch.manual_seed(run.seed)
    model = create_model(recipe.model, len(scheme_classes(recipe.data.scheme)))
    layers = resolve_layers(recipe.guidance.layers, len(model.backbone.channels))
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.optim.ema), use_buffers=True) if recipe.optim.ema else None
    optimizer = make_optimizer(model, recipe.optim)
    if fabric.is_global_zero:
        start_run(out, recipe, store, split, str(fabric.device))
    fabric.barrier()
    state = resume(out, model, optimizer, average)
    wrapped, optimizer = fabric.setup(model, optimizer)
    if average is not None:
        average.to(fabric.device)
    class_weight = class_weights(labels[split.train], len(scheme_classes(recipe.data.scheme))).to(fabric.device)
    means: list[Tensor | None] = [None for _ in layers]
    if recipe.guidance.weight and recipe.cue.control == "mean":
        means = [mean_of_cue(recipe, store, labels, split.train, model.backbone.sides[layer]).to(fabric.device) for layer in layers]

    for epoch in range(state["epoch"] + 1, recipe.optim.epochs + 1):
        if recipe.optim.patience and epoch - 1 - state["best_epoch"] >= recipe.optim.patience and epoch > 1:
            break
        began = time.perf_counter()
        # Order, augmentation and dropout depend on (seed, epoch) alone: a resumed run repeats the same numbers.
        torch.manual_seed(int(np.random.SeedSequence((run.seed, epoch)).generate_state(1)[0]))
        rows = epoch_rows(split.train, labels, balance=recipe.data.balance == "sampler", seed=run.seed, epoch=epoch)
        loader = Loader(
            store, rows[fabric.global_rank :: fabric.world_size], targets, size=recipe.model.size, batch=recipe.optim.batch,
            device=fabric.device, augment=recipe.augment, seed=run.seed, epoch=epoch, workers=run.workers, drop_last=True,
        )  # fmt: skip
        wrapped.train()
        totals: dict[str, Tensor] = {}
        for step, batch in enumerate(track(loader, f"epoch {epoch}/{recipe.optim.epochs}", len(loader))):
            set_lr(optimizer, recipe.optim, epoch, step, len(loader))
            output = wrapped(batch.images)
            terms = loss_terms(recipe, output, batch, layers, means, epoch, step, class_weight)
            total = torch.stack(list(terms.values())).sum()
            fabric.backward(total)
            if recipe.optim.clip:
                fabric.clip_gradients(wrapped, optimizer, max_norm=recipe.optim.clip)
            optimizer.step()
            optimizer.zero_grad()
            if average is not None:
                average.update_parameters(model)
            for name, term in {**terms, "accuracy": batch_accuracy(output, batch)}.items():
                totals[name] = totals.get(name, torch.zeros((), device=fabric.device)) + term.detach() / len(loader)
        loss = float(fabric.all_reduce(torch.stack([totals[name] for name in terms]).sum()))  # before a net of NaN is scored
        if not math.isfinite(loss):
            raise DataError(f"{out}: the loss became {loss} in epoch {epoch}; lower --optim.lr or set --optim.clip 1.")
        seconds = time.perf_counter() - began
        scores = validate(average.module if average is not None else model, recipe, store, split.valid, labels, fabric.device)
        line = {
            "epoch": epoch,
            "lr": optimizer.param_groups[0]["lr"],
            **{f"train_{name}": float(fabric.all_reduce(value)) for name, value in totals.items()},
            **{f"valid_{name}": value for name, value in scores.items()},
            "seconds": round(seconds, 2),
            "images_per_second": round(len(rows) / seconds, 1),
        }
        if fabric.is_global_zero:
            state = keep(out, recipe, model, average, optimizer, line, state)
        fabric.barrier()
    return {"epoch": state["best_epoch"], "score": state["best_score"]}


def loss_terms(
    recipe: Recipe, output: Output, batch: Batch, layers: Sequence[int], means: Sequence[Tensor | None], epoch: int, step: int,
    class_weight: Tensor,
) -> dict[str, Tensor]:  # fmt: skip
    """Weighted terms of the loss: cross-entropy, and guidance while it is switched on."""
    terms = {
        "classification": F.cross_entropy(
            output.logits.float(), batch.expressions, weight=class_weight if recipe.data.balance == "weights" else None,
            label_smoothing=recipe.optim.label_smoothing,
        )  # fmt: skip
    }
    guidance = recipe.guidance
    if guidance.weight and guidance.start_epoch <= epoch <= (guidance.end_epoch or epoch):
        features = [output.features[layer] for layer in layers]
        cues = cues_for(recipe, batch, [f.shape[-2:] for f in features], means, epoch, step)
        terms["guidance"] = guidance.weight * guidance_loss(features, cues, guidance.similarity)
    return terms


def cues_for(
    recipe: Recipe, batch: Batch, sizes: Sequence[Sequence[int]], means: Sequence[Tensor | None], epoch: int, step: int
) -> list[Cue]:
    """The recipe's cue at each layer's resolution; random controls depend on (seed, epoch, step) only."""
    labels = batch.expressions if batch.expressions.dim() == 1 else batch.expressions.argmax(1)
    cues = []
    for (h, w), mean in zip(sizes, means, strict=True):
        generator = torch.Generator(device=batch.landmarks.device)
        generator.manual_seed(int(np.random.SeedSequence((recipe.run.seed, epoch, step)).generate_state(1)[0]))
        cues.append(
            render_cue(
                recipe.cue, batch.landmarks, labels, scheme=recipe.data.scheme, image_size=(batch.images.shape[-2], batch.images.shape[-1]),
                size=(h, w), generator=generator, mean=mean,
            )  # fmt: skip
        )
    return cues


def mean_of_cue(recipe: Recipe, store: Store, labels: np.ndarray, rows: np.ndarray, side: int) -> Tensor:
    """Dataset-mean cue (1, 1, side, side) over `rows`, e.g. the training faces: the strongest map that never saw the face."""
    landmarks = torch.from_numpy(store.landmarks[rows].astype(np.float32))
    batches = zip(landmarks.split(256), torch.from_numpy(labels[rows]).split(256), strict=True)
    frame = (store.info.size, store.info.size)
    return mean_cue(recipe.cue, batches, scheme=recipe.data.scheme, image_size=frame, size=(side, side))[0]


def split_rows(store: Store, recipe: Recipe) -> Split:
    """Rows of train, valid and test under the recipe's protocol, unlabelled rows left out; empty parts are data errors."""
    labelled = labels_of(store, recipe.data.scheme) >= 0
    if recipe.data.protocol == "strict":
        parts = folds.strict(store, seed=recipe.run.seed, fraction=recipe.data.valid_fraction)
        split = Split(*(rows[labelled[rows]] for rows in (parts.train, parts.valid, parts.test)))
    else:
        parts = folds.official(store)
        test = parts.test[labelled[parts.test]]
        split = Split(parts.train[labelled[parts.train]], test, test)
    for name, rows in split._asdict().items():
        if len(rows) == 0 and not (name == "test" and recipe.data.protocol == "strict"):
            raise DataError(f"{store.path}: no labelled faces in '{name}' for scheme {recipe.data.scheme}; see `mien check {store.path}`.")
    return split


def start_run(out: Path, recipe: Recipe, store: Store, split: Split, device: str) -> None:
    """Create or check the run folder and write what the run depends on."""
    checkpoint.open_run(out, recipe)
    sizes = {name: len(rows) for name, rows in split._asdict().items()}
    facts = checkpoint.environment(
        recipe, store.fingerprint, device,
        {"dataset": store.info.dataset, "rows": sizes, "framing": framing_of(store, split.train)._asdict()},
    )  # fmt: skip
    before = out / "environment.json"
    if before.exists() and json.loads(before.read_text()).get("store_fingerprint") != store.fingerprint:
        raise DataError(f"{out} was trained on other data than {recipe.data.store} holds now; choose another --out.")
    checkpoint.write_atomic(before, json.dumps(facts, indent=1))


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, or AdamW; no weight decay on biases and norms (one-dimensional parameters)."""
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in model.parameters() if p.dim() <= 1], "weight_decay": 0.0},
    ]
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0)


def lr_factor(config: OptimConfig, epoch: int, step: int, steps: int) -> float:
    """Learning rate as a share of optim.lr at a step (from 0) of an epoch (from 1) with `steps` steps."""
    if config.schedule == "step":
        return config.gamma ** ((epoch - 1) // config.step_size)
    done, all_steps = (epoch - 1) * steps + step, config.epochs * steps
    warm = config.warmup * all_steps
    if done < warm:
        return (done + 1) / (warm + 1)
    return 0.5 * (1 + math.cos(math.pi * (done - warm) / max(1.0, all_steps - warm)))


def set_lr(optimizer: torch.optim.Optimizer, config: OptimConfig, epoch: int, step: int, steps: int) -> None:
    """Set the learning rate of every parameter group for one step."""
    for group in optimizer.param_groups:
        group["lr"] = config.lr * lr_factor(config, epoch, step, steps)


def class_weights(labels: np.ndarray, classes: int) -> Tensor:
    """Weights N / (K n_c), (K,); an absent class gets 0."""
    counts = np.bincount(labels[labels >= 0], minlength=classes)
    weights = np.divide(counts.sum(), classes * counts, out=np.zeros(classes), where=counts > 0)
    return torch.from_numpy(weights.astype(np.float32))


def batch_accuracy(output: Output, batch: Batch) -> Tensor:
    """Share of right predictions in a batch; soft targets count by their largest class."""
    labels = batch.expressions if batch.expressions.dim() == 1 else batch.expressions.argmax(1)
    return (output.logits.argmax(1) == labels).float().mean()


@torch.no_grad()
def validate(model: nn.Module, recipe: Recipe, store: Store, rows: np.ndarray, labels: np.ndarray, device: torch.device) -> dict[str, float]:
    """Classification scores and last-layer alignment on `rows`; the model goes back to its mode."""
    training = model.training
    model.eval()
    logits, alignment, valid = [], [], []
    loader = Loader(store, rows, labels, size=recipe.model.size, batch=256, device=device, workers=recipe.run.workers)
    for batch in loader:
        output: Output = model(batch.images)
        logits.append(output.logits.float().cpu())
        attention = maps.channel_mean(output.features[-1])
        cue = cues_for(recipe, batch, [attention.shape[-2:]], [None], 0, 0)[0] if recipe.cue.control == "none" else None
        if cue is not None:
            alignment.append(maps.cosine(attention, cue.maps).cpu())
            valid.append(cue.valid.cpu())
    model.train(training)
    every = torch.cat(logits)
    if not torch.isfinite(every).all():
        raise DataError("the net no longer gives finite numbers; lower --optim.lr or set --optim.clip 1.")
    scores = classification_scores(every.softmax(1).numpy(), labels[rows], scheme_classes(recipe.data.scheme))
    kept = {name: float(scores[name]) for name in ("accuracy", "balanced_accuracy", "macro_f1")}
    kept["loss"] = float(F.cross_entropy(every, torch.from_numpy(labels[rows])))
    if alignment and torch.cat(valid).any():
        kept["att_cos"] = float(torch.cat(alignment)[torch.cat(valid)].mean())
    return kept


def resume(out: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: AveragedModel | None) -> dict[str, Any]:
    """Load `last.ckpt` where there is one; the state says which epoch was finished last and which was best."""
    path = out / "last.ckpt"
    if not path.exists():
        return {"epoch": 0, "best_epoch": 0, "best_score": -1.0}
    tensors, meta = checkpoint.load_tensors(path)
    if meta.get("run_version") != checkpoint.RUN_VERSION:
        raise DataError(f"{path} was written by another version of mien; choose another --out.")
    model.load_state_dict(_part(tensors, "model/"))
    checkpoint.restore_optimizer(optimizer, tensors)
    if average is not None:
        average.load_state_dict(_part(tensors, "average/"))
    log = out / "log.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    checkpoint.write_atomic(log, "".join(f"{line}\n" for line in lines[: meta["epoch"]]))
    return {key: meta[key] for key in ("epoch", "best_epoch", "best_score")}


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def keep(
    out: Path, recipe: Recipe, model: nn.Module, average: AveragedModel | None, optimizer: torch.optim.Optimizer,
    line: dict[str, Any], state: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Append to the log and TensorBoard, save best and last checkpoints, print one line; returns the new state."""
    from torch.utils.tensorboard.writer import SummaryWriter

    score = line[f"valid_{recipe.optim.select}"]
    better = score > state["best_score"]
    state = {
        "epoch": line["epoch"],
        "best_epoch": line["epoch"] if better else state["best_epoch"],
        "best_score": score if better else state["best_score"],
    }
    evaluated = average.module if average is not None else model
    if better:
        weights = {f"model/{name}": tensor for name, tensor in evaluated.state_dict().items()}
        checkpoint.save_tensors(out / "best.ckpt", weights, {"epoch": line["epoch"], "score": score})
    with open(out / "log.jsonl", "a") as log:
        log.write(json.dumps(line) + "\n")
    with SummaryWriter(str(out / "tensorboard"), purge_step=line["epoch"]) as board:
        for name, value in line.items():
            board.add_scalar(name, value, line["epoch"])
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= checkpoint.optimizer_tensors(optimizer)
    if average is not None:
        tensors |= {f"average/{name}": tensor for name, tensor in average.state_dict().items()}
    checkpoint.save_tensors(out / "last.ckpt", tensors, state)
    shown = {k: v for k, v in line.items() if k in ("train_classification", "train_guidance", "train_accuracy", "valid_accuracy", "valid_att_cos")}
    print(f"epoch {line['epoch']:>3}  " + "  ".join(f"{k} {v:.3f}" for k, v in shown.items()) + f"  {line['seconds']:.0f} s", flush=True)
    return state
