"""`evaluate_model`: the numbers of `mien evaluate` for any model, in a folder that `mien compare` and `mien report` read."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml

from mien.audit.sources import face_model
from mien.config import CueConfig, DataConfig, GuidanceConfig, ModelConfig, Recipe, RunConfig, as_dict
from mien.cues import controls, map_resize
from mien.data.masking import make_masking
from mien.data.store import Store, open_store
from mien.errors import DataError, UsageError
from mien.evaluation.baselines import cue_of
from mien.evaluation.collect import Collected, answers_of, collect, fill
from mien.evaluation.evaluate import face_arrays, results_of, write_results
from mien.evaluation.faithful import faithfulness_of
from mien.evaluation.plan import Plan
from mien.evaluation.reference import class_cues, others_of
from mien.evaluation.shown import print_classes, print_results
from mien.explain import (
    DEFAULT_METHODS,
    LAYERLESS,
    Sampling,
    evidence,
    explain_with_output,
    fitting,
    left_as_found,
    method_names,
)
from mien.files import write_atomic
from mien.metrics.alignment import alignment_scores, cam_scores
from mien.metrics.faithfulness import STEPS
from mien.models.adapt import InScheme
from mien.progress import track
from mien.schema import IntArray, scheme_classes
from mien.training.checkpoint import results_suffix, versions
from mien.wrapped.classes import class_table, labels_for, scheme_of
from mien.wrapped.model import BATCH, WrappedModel

FOREIGN = "not trained by mien"
"""Stands for the store of the training of a model whose training nobody here knows."""
Split = Literal["test", "valid", "train", "all"]


def evaluate_model(
    model: Any,
    faces: Store | Path | str,
    *,
    out: Path | str | None = None,
    split: Split = "test",
    cue: CueConfig | None = None,
    methods: str | None = None,
    classes: Any = None,
    faithfulness: bool = False,
    faithfulness_faces: int = 200,
    faithfulness_steps: int = STEPS,
    per_class: bool = False,
    seed: int = 0,
    batch: int = BATCH,
) -> dict[str, Any]:
    """Score any expression model on the faces of a store, as `mien evaluate` scores a run: the same numbers, the same names.

    Classes are matched by name, and the table of them is printed. Faces of a class that the model lacks are left out and counted.
    A model without a layer gets no attention scores, and `occlusion` as its only explainer.

    Args:
        model: whatever `mien.audit.sources.face_model` takes: what `mien.wrap` gave, a net, an ONNX file, a run folder, `bundled`.
        faces: a prepared store, or its folder.
        out: folder for results and per-face arrays, which `mien compare` and `mien report` read; None writes nothing.
        split: test, valid, train or all faces of the store.
        cue: what alignment is measured with; action units of the label unless given. Nothing where no face has landmarks.
        methods: explainers, separated by commas; by default those of cam, grad_cam, grad_cam_pp, layer_cam that fit.
        classes: of a net, graph or function that was not wrapped yet.
        faithfulness: add deletion, insertion and randomised nets.
        faithfulness_faces: on how many faces, drawn evenly.
        faithfulness_steps: in how many steps.
        per_class: print the table by class, too.
        seed: of draws, noise and bootstrap.
        batch: faces at a time.

    Returns:
        As results.json of `mien evaluate`.

    """
    if min(faithfulness_faces, faithfulness_steps, batch) < 1:
        raise UsageError("faithfulness_faces, faithfulness_steps and batch must be at least 1.")
    taken = face_model(model, classes=classes)
    store = taken.view(faces if isinstance(faces, Store) else open_store(Path(faces)))
    print(f"{taken.name}: classes matched by name")
    print(class_table(taken.words, taken.classes, store))
    plan = plan_of(taken, store, split, cue, methods, seed, batch)
    with left_as_found(taken.module):
        collected = collect(plan) if taken.layer is not None else collect_answers(plan)
        scored = face_arrays(plan, collected)
        env = environment_of(taken)
        results = {**results_of(taken.name, split, plan, scored, env), "weights": taken.identity or taken.name}
        results["scored_in_training"] = None
        if faithfulness and taken.layer is not None:
            extra, results["faithfulness"] = faithfulness_of(plan, collected, faithfulness_faces, faithfulness_steps)
            scored |= {f"{name}/{kind}": values for name, kinds in extra.items() for kind, values in kinds.items()}
        elif faithfulness:
            print(f"{taken.name}: no layer, so no attention whose faithfulness could be measured.")
    print_results(results)
    if per_class:
        print_classes(results)
    if out is not None:
        write_scored(Path(out), plan.recipe, env, results, scored, collected, split, store)
    return results


def plan_of(
    model: WrappedModel, store: Store, split: Split, cue: CueConfig | None, methods: str | None, seed: int, batch: int
) -> Plan:
    """What is scored, and with what; DataError where the split has no face of the model's classes."""
    scheme = scheme_of(model.classes)
    names = scheme_classes(scheme)
    own = labels_for(store, model.classes)
    places = np.array([names.index(name) for name in model.classes])
    labels: IntArray = np.where(own >= 0, places[own], -1)
    rows = np.flatnonzero((labels >= 0) & ((store.split == split) | (split == "all")))
    if not len(rows):
        counts = {part: int(((store.split == part) & (labels >= 0)).sum()) for part in ("test", "valid", "train")}
        there = ", ".join(f"{part}: {count}" for part, count in counts.items())
        raise DataError(
            f"{store.path} has no face of the model's classes in split '{split}' ({there}); choose another split, or 'all'."
        )
    train = np.flatnonzero((store.split == "train") & (labels >= 0))
    reference = train if len(train) else rows
    stem, number = name_and_seed(model.name)
    recipe = Recipe(
        data=DataConfig(store=store.path, scheme=scheme),
        model=ModelConfig(backbone=stem, size=model.size, preprocessing=model.preprocessing),  # type: ignore[arg-type]
        cue=cue or CueConfig(), guidance=GuidanceConfig(weight=0.0), run=RunConfig(seed=number),
    )  # fmt: skip
    module = InScheme(model.module, model.classes, names, model.temperature)
    side = 7
    if model.layer is not None:
        with left_as_found(module), torch.no_grad():
            side = module(model.prepare(store.images(rows[:1]))).features[-1].shape[-1]
    return Plan(
        module, recipe, store, rows, labels, class_cues(recipe, store, labels, reference, side, model.device), reference,
        others_of(recipe, store, labels, rows, seed), model.device, chosen_methods(model, module, methods), Sampling(None, seed),
        make_masking(None, None, model.device, model.preprocessing), seed, batch,
    )  # fmt: skip


def chosen_methods(model: WrappedModel, module: torch.nn.Module, methods: str | None) -> tuple[str, ...]:
    """Explainers by name, tried; or the usual ones that fit; `occlusion` for a model without a layer."""
    image = torch.zeros(1, 3, model.size, model.size, device=model.device)
    if methods is not None:
        names = tuple(method_names(methods))
        explain_with_output(module, image, 0, names, sampling=Sampling(samples=1))
        return names
    return tuple(fitting(module, image, DEFAULT_METHODS)) if model.layer is not None else LAYERLESS


@torch.no_grad()
def collect_answers(plan: Plan) -> Collected:
    """As `collect` for a model of which only answers are known: probabilities, its explainers, and maps that never saw the face."""
    scores: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    facts: dict[str, np.ndarray] = {}
    loader, done, count = plan.loader(plan.rows), 0, len(plan.rows)
    for part in track(loader, "evaluate", len(loader)):
        place = np.arange(done, done + len(part.images))
        done += len(place)
        output, raw = explain_with_output(plan.model, part.images, part.expressions, plan.methods, -1, plan.sampling)
        cue, said = (cue_of(plan, part._replace(expressions=k)) for k in (part.expressions, output.logits.argmax(1)))
        fill(facts, place, count, {**answers_of(output), "valid": cue.valid, "both": cue.valid & said.valid})
        size = (cue.maps.shape[-2], cue.maps.shape[-1])
        reference = plan.reference.resized(size, cue.maps.device, map_resize(plan.recipe.cue))
        blind = {
            "uniform": controls.uniform(cue.maps), "centre": controls.centre(cue.maps),
            "mean": reference.overall.expand_as(cue.maps), "class_mean": reference.of(part.expressions),
        }  # fmt: skip
        for name, map_ in raw.items():
            fill(scores[name], place, count, cam_scores(evidence(name, map_), cue.maps))
        for name, map_ in blind.items():
            fill(scores[f"baseline:{name}"], place, count, alignment_scores(map_, cue.maps))
    return Collected(
        facts["probabilities"], None, facts["valid"], facts["both"], dict(scores), {}, {}, {}, None,
    )  # fmt: skip


def name_and_seed(name: str) -> tuple[str, int]:
    """`dan-seed2` -> (`dan`, 2): nets whose names differ in the seed alone are runs of one recipe; seed 0 without one."""
    found = re.fullmatch(r"(.+?)[-_. ]?(?:seed|s)[-_]?(\d+)", name)
    return (found[1], int(found[2])) if found else (name, 0)


def environment_of(model: WrappedModel) -> dict[str, Any]:
    """What stands in environment.json beside the scores of a model."""
    return {
        **versions(), "store_fingerprint": FOREIGN, "dataset": FOREIGN, "classes": list(model.classes),
        "checkpoint": {"wrapped": model.kind, "identity": model.identity, "layer": model.layer, "notes": list(model.notes)},
    }  # fmt: skip


def write_scored(
    out: Path, recipe: Recipe, env: dict[str, Any], results: dict[str, Any], scored: dict[str, np.ndarray],
    collected: Collected, split: str, store: Store,
) -> None:  # fmt: skip
    """A folder like that of a run that was scored on another store; it holds no weights. UsageError in the place of a real run."""
    from json import dumps

    if (out / "best.ckpt").is_file():
        raise UsageError(
            f"{out} is the folder of a trained run; choose another one for the scores of {results['run']}."
        )
    (out / "maps").mkdir(parents=True, exist_ok=True)
    kept = replace(recipe, data=replace(recipe.data, store=Path(FOREIGN)))
    write_atomic(out / "config.yaml", yaml.safe_dump(as_dict(kept), sort_keys=False))
    write_atomic(out / "environment.json", dumps(env, indent=1))
    suffix = results_suffix(split, store.path)
    write_results(out, results, scored, collected.class_maps, suffix)
    print(f"written to {out / f'results{suffix}.json'}")
