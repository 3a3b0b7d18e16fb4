"""Set-up of a training: data, model, optimiser and run folder of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mien.compat import ensure_torchvision
from mien.config import GUIDED_KINDS, Recipe, check_recipe
from mien.cues.config import NEED_MEANS
from mien.data import folds
from mien.data.folds import Split
from mien.data.framing import framing_of, mean_shape
from mien.data.labels import labels_of
from mien.data.loader import Memory, Reader, load_memory, targets_of
from mien.data.masking import LEAK, Masking, fill_colour, label_leak, make_masking
from mien.data.observed import open_faces
from mien.data.sampling import taught_classes
from mien.data.store import Store
from mien.errors import DataError, UsageError
from mien.files import read_json, write_json
from mien.models import Alignment, Classifier, create_model
from mien.models.precision import resolve_precision
from mien.schema import Cue, FloatArray, IntArray, scheme_classes
from mien.training import checkpoint
from mien.training.coverage import Coverage, coverage_facts, coverage_lines, coverage_of
from mien.training.cues import mean_of_cue
from mien.training.devices import machine_facts, open_fabric
from mien.training.guides import Guide, describe, guides_of
from mien.training.notes import synthetic_faces, tell_batch, tell_split
from mien.training.objective import try_terms
from mien.training.optim import class_weights, make_optimizer
from mien.training.refusals import refuse_compile, refuse_degenerate, refuse_off_path, refuse_sizes
from mien.training.shared_norms import share_norms
from mien.training.steering import kept_guides
from mien.training.teachers import ask_teachers, taught
from mien.training.unused import leave_out_unused

ensure_torchvision()
from lightning_fabric import Fabric  # noqa: E402


class Session(NamedTuple):
    """What every epoch needs; made once by `prepare_session`."""

    fabric: Fabric
    store: Store
    split: Split
    labels: IntArray
    """(N,) class index of every row of the store, -1 without."""
    targets: IntArray | FloatArray
    """Labels, or (N, K) soft targets."""
    label_targets: IntArray | FloatArray | None
    """The same of a second head."""
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
    coverage: dict[str, Coverage]
    """Part of the recipe that needs a cue -> how many training faces have it."""
    reader: Reader
    """Reads the store in every epoch and validation, with loader processes that live as long."""
    idle: list[Tensor]
    """Weights that no logits depend on but a term may use: several processes give them a gradient of zero."""

    @property
    def evaluated(self) -> Classifier:
        """The weights that are validated and kept."""
        return cast(Classifier, self.average.module) if self.average is not None else self.model


def prepare_session(recipe: Recipe, out: Path) -> tuple[Session, dict[str, Any]]:
    """Data, model, optimiser and run folder of a recipe, with the state of `last.ckpt` where there is one."""
    check_recipe(recipe, "recipe")
    run = recipe.run
    precision = resolve_precision(run.precision, run.accelerator)
    fabric = open_fabric(run, precision, run.num_nodes)
    store = open_faces(recipe.data.store, recipe.data.action_units)
    split = split_rows(store, recipe)
    labels = labels_of(store, recipe.data.scheme)
    classes = len(scheme_classes(recipe.data.scheme))
    taught_classes(recipe, 1)

    refuse_leaks(recipe, store, split)
    tell_batch(recipe, len(split.train))
    targets, label_targets = targets_for(recipe, store, labels, split.train, fabric, out)
    coverage = coverage_of(recipe, store, targets, split.train)
    torch.manual_seed(run.seed)
    model = create_model(
        recipe.model, classes, recipe.guidance.layers, recipe.transformer, recipe.data.targets == "both"
    )
    if isinstance(model.transformer, Alignment):
        model.transformer.mean_shape.copy_(torch.from_numpy(mean_shape(store, split.train)))
    guides = prepare_guides(recipe, model, store, labels, split.train, fabric.device)
    average = None
    if recipe.optim.ema:
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.optim.ema), use_buffers=True)
    try_terms(recipe, model)
    refuse_sizes(recipe, model)
    refuse_compile(recipe, guides, fabric.device)
    idle = leave_out_unused(model, recipe.model.size)
    optimizer = make_optimizer(model, recipe.optim)
    colour = fill_colour(recipe, store, split.train)
    if fabric.is_global_zero:
        tell_guidance(recipe, model, guides, coverage)
        extra = {**machine_facts(fabric, precision), **({} if colour is None else {"mask_colour": colour})}
        start_run(out, recipe, store, split, str(fabric.device), extra | coverage_facts(coverage))
    fabric.barrier()
    wrapped, optimizer = fabric.setup(prepared(model, recipe), optimizer)
    if average is not None:
        average.to(fabric.device)
        average.n_averaged = average.n_averaged.cpu()  # `optim.follow` counts there
    state = resumed(out, recipe, fabric, model, optimizer, average)  # after the move: its state is on the device
    image_mean = mean_in_place(recipe, store, labels, split.train, colour is not None, fabric.device)
    masking = make_masking(colour, image_mean, fabric.device, recipe.model.preprocessing)
    weight = None
    if recipe.data.balance in ("weights", "weights_max"):
        weight = class_weights(labels[split.train], classes, recipe.data.balance).to(fabric.device)
    memory = load_memory(store, recipe.model, fabric.device) if run.in_memory else None
    if memory is not None:
        memory = memory._replace(guides=kept_guides(recipe, memory, image_mean))
    return Session(
        fabric, store, split, labels, targets, label_targets, model, wrapped, optimizer, average, guides, masking, weight, memory, {},
        coverage, Reader(store, fabric.device, run.workers, keep=True), idle,
    ), state  # fmt: skip


def targets_for(
    recipe: Recipe, store: Store, labels: IntArray, rows: IntArray, fabric: Fabric, out: Path
) -> tuple[IntArray | FloatArray, IntArray | FloatArray | None]:
    """Targets of the first and of the second head, those of the training faces `rows` mixed with what teachers say."""
    data = recipe.data
    first = labels if data.targets == "label" else targets_of(store, data.scheme, data.targets)
    second = labels if data.targets == "both" else None
    if not data.teachers:
        return first, second
    if fabric.is_global_zero and (out / "config.yaml").exists():
        checkpoint.open_run(out, recipe)  # refused before teachers are asked, whose answers lie in that folder
    votes, of_labels = ask_teachers(recipe, store, rows, fabric.device, out, fabric.is_global_zero)
    said = of_labels if data.targets == "label" else votes
    mixed = taught(first, rows, said, data.teacher_share)
    return mixed, None if second is None else taught(second, rows, of_labels, data.teacher_share)


def prepared(model: Classifier, recipe: Recipe) -> Classifier:
    """The model with shared batch norms and a compiled backbone, where the section `run` asks for them; in place."""
    if recipe.run.sync_batchnorm:
        share_norms(model)
    if recipe.run.compile:
        model.backbone.compile()
    return model


def tell_guidance(recipe: Recipe, model: Classifier, guides: list[Guide], coverage: dict[str, Coverage]) -> None:
    """Print what guides the net, how many faces have a cue, and whether masks tell the label."""
    lines = [*(describe(guide, model) for guide in guides), *coverage_lines(coverage)]
    for line in [*lines, *([LEAK] if label_leak(recipe) else [])]:
        print(line, flush=True)


def resumed(
    out: Path,
    recipe: Recipe,
    fabric: Fabric,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: AveragedModel | None,
) -> dict[str, Any]:
    """State of `last.ckpt`, which is loaded, with the log cut to it; that of a run which begins where there is none."""
    state = checkpoint.resume(out, recipe, model, optimizer, average)
    if fabric.is_global_zero:
        checkpoint.trim_log(out, state["epoch"])
    scaler = state.pop("scaler")
    if scaler:
        fabric.strategy.precision.load_state_dict(scaler)
    return state


def mean_in_place(
    recipe: Recipe, store: Store, labels: IntArray, rows: IntArray, masked: bool, device: torch.device
) -> Tensor | None:
    """Mean cue (1, 1, S, S) where the control `mean` stands for a mask, a segmentation or what steers a transformer.

    UsageError for the control `class_mean` there: it would name the class to the net.
    """
    if not (recipe.model.segmentation or masked or recipe.transformer.kind in GUIDED_KINDS):
        return None
    if recipe.cue.control == "class_mean":
        raise UsageError(
            "cue.control class_mean is for guidance: as a mask or a guide it would name the class to the net."
        )
    if recipe.cue.control != "mean":
        return None
    return mean_of_cue(recipe, store, labels, rows, recipe.model.size).to(device)


def prepare_guides(
    recipe: Recipe, model: Classifier, store: Store, labels: IntArray, rows: IntArray, device: torch.device
) -> list[Guide]:
    """Guides of a training: degenerate settings are refused, the mean cue over `rows` is there where a control asks."""
    guides = guides_of(recipe, model)
    for k, guide in enumerate(guides):
        if guide.by_gradient:
            refuse_off_path(guide, model, recipe)
            refuse_degenerate(guide, model, recipe.model.size)
        if guide.cue.control in NEED_MEANS:
            to_cue = guide.config.scale == "to_cue"
            sides = [recipe.model.size if to_cue else model.backbone.sides[layer] for layer in guide.layers]
            own = replace(recipe, cue=guide.cue)
            means = [mean_of_cue(own, store, labels, rows, side).to(device) for side in sides]
            guides[k] = guide._replace(means=list(means))
    return guides


def split_rows(store: Store, recipe: Recipe) -> Split:
    """Rows of train, valid and test under the recipe's protocol, unlabelled rows left out; empty parts are data errors.

    Under `strict` a fold's validation part is carved out of its training faces, in whole subjects and duplicate groups;
    under `paper` faces are dealt one by one and the test part selects the epoch; under `complete` every face is in every part.
    """
    data = recipe.data
    strict, near = data.protocol == "strict", data.near_duplicates == "drop"
    labelled = labels_of(store, data.scheme) >= 0
    if data.folds and data.fold is None:
        raise UsageError(f"data.folds is {data.folds} but no data.fold is named; `mien crossval` trains all of them.")
    if data.fold is not None:
        fraction = data.valid_fraction if strict else 0.0
        parts = folds.k_folds(store, data.folds, data.fold_seed, strict, data.scheme, fraction, near)[data.fold]
    elif data.protocol == "complete":
        every = np.flatnonzero(labelled)
        parts = Split(every, every, every, {"protocol": "complete", "train": len(every)})
    else:
        parts = folds.strict(store, recipe.run.seed, data.valid_fraction, near) if strict else folds.official(store)
    train_rows, valid_rows, test_rows = (rows[labelled[rows]] for rows in (parts.train, parts.valid, parts.test))
    split = Split(train_rows, valid_rows if strict else test_rows, test_rows, parts.report)
    for name, count in split.sizes().items():
        if count == 0 and not (name == "test" and strict):
            raise DataError(
                f"{store.path}: no labelled faces in '{name}' for scheme {recipe.data.scheme}; see `mien check {store.path}`."
            )
    return split


def refuse_leaks(recipe: Recipe, store: Store, split: Split) -> None:
    """UsageError where the run that training starts from, or a teacher, was trained on faces that this one is scored on."""
    named = [("model.initial", recipe.model.initial), *(("data.teachers", run) for run in recipe.data.teachers)]
    for key, run in named:
        if run is None or not (run / "environment.json").is_file() or recipe.data.protocol == "complete":
            continue
        before, facts = checkpoint.read_run(run)
        if facts.get("store_fingerprint") != store.fingerprint or (before.data.folds and before.data.fold is None):
            continue
        learnt = split_rows(store, replace(before, data=replace(before.data, store=recipe.data.store))).train
        both = np.isin(np.concatenate([split.valid, split.test]), learnt).sum()
        if both:
            raise UsageError(
                f"{key} {run} was trained on {both} of the faces that this run is selected or scored on; take a run with "
                "the same split (data.protocol, data.fold, run.seed), or of other faces."
            )


def start_run(out: Path, recipe: Recipe, store: Store, split: Split, device: str, extra: Mapping[str, Any]) -> None:
    """Create or check the run folder and write what the run depends on; `extra` has at least its precision."""
    checkpoint.open_run(out, recipe)
    facts = checkpoint.environment(
        recipe, store.fingerprint, device,
        {
            "dataset": store.info.dataset, "rows": split.sizes(), "split": split.report | synthetic_faces(store, split),
            "framing": framing_of(store, split.train)._asdict(),
            **extra,
        },
    )  # fmt: skip
    file = out / "environment.json"
    before = read_json(file, "choose another --out") if file.exists() else facts
    if before.get("store_fingerprint") != store.fingerprint:
        raise DataError(f"{out} was trained on other data than {recipe.data.store} holds now; choose another --out.")
    if before.get("precision", facts["precision"]) != facts["precision"]:
        print(
            f"run.precision {recipe.run.precision} is {facts['precision']} here; the run began in {before['precision']}"
        )
    write_json(file, facts)
    tell_split(recipe, store, split)
