"""Scores of a trained run on faces it never saw: classification, calibration, and alignment beside its baselines."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from mien.config import GUIDED_KINDS, Recipe
from mien.cues.identity import drawn_numbers
from mien.data.framed import FramedStore, framed_as
from mien.data.framing import read_framing
from mien.data.labels import labels_of, voted_labels
from mien.data.masking import Masking, label_leak, make_masking
from mien.data.observed import open_faces
from mien.data.store import Store
from mien.errors import DataError, UsageError
from mien.evaluation.baselines import BASELINES, MISMATCHED
from mien.evaluation.collect import Collected, collect, guided_scores
from mien.evaluation.faithful import faithfulness_of
from mien.evaluation.landmarks_only import landmarks_only
from mien.evaluation.plan import Plan
from mien.evaluation.published import run_of_weights
from mien.evaluation.reference import MOST, kept_class_cues, others_of
from mien.evaluation.scores import LANDMARKS_ONLY, face_facts, score_faces
from mien.evaluation.seen import scored_in_training
from mien.evaluation.shown import print_classes, print_results
from mien.evaluation.tables import errors_csv, predictions_csv
from mien.explain import DEFAULT_METHODS, EXPLAINERS, TOKEN_MAPS, Sampling, explain, fitting, method_names
from mien.files import write_atomic, write_json, write_npz
from mien.metrics.faithfulness import STEPS
from mien.models import Classifier
from mien.schema import FloatArray, IntArray, scheme_classes
from mien.training import checkpoint
from mien.training.cues import mean_of_cue
from mien.training.session import split_rows

__all__ = ["MISMATCHED", "BASELINES", "evaluate"]

Arrays = dict[str, np.ndarray]


def evaluate(
    run: Path,
    *,
    split: Literal["test", "valid", "train"] = "test",
    store: Path | None = None,
    weights: Path | None = None,
    out: Path | None = None,
    methods: str | None = None,
    samples: int | None = None,
    per_class: bool = False,
    faithfulness: bool = False,
    faithfulness_faces: int = 500,
    faithfulness_steps: int = STEPS,
    seed: int = 0,
    batch: int = 128,
    cluster: str | None = None,
) -> dict[str, Any]:
    """Score a run on one split and write results.json, maps/class_means.npz and maps/faces.npz into its folder.

    Scores on another split have it in their names (results-valid.json), those on other faces than the training's the name of
    their store (results-on-NAME.json): the run's own stay as they are.

    Args:
        run: run folder of `mien train`; with --weights a recipe.
        split: which part of the store; test unless said otherwise.
        store: another store than the recipe's, for example a moved or a foreign one. Faces of a foreign one that have landmarks
            are aligned with the run's training faces first, as those of a photo. Where it has no training faces, the baseline
            of the mean cue is that of the scored faces themselves.
        weights: published weights (.pt, .pth, .safetensors) of the recipe's net, to be scored without training.
        out: run folder to make of --weights; runs/NAME of the file unless said otherwise.
        methods: explainers to score, separated by commas (docs/explanations.md); by default those of cam, grad_cam,
            grad_cam_pp, layer_cam, attention, ts_cam, rollout that fit the model, and grad_input with a cue of landmarks.
        samples: noisy or scaled pictures of methods that draw some, such as ss_cam; by default their published number.
        per_class: print a table by class too, right and wrong predictions apart.
        faithfulness: add deletion, insertion and randomised models; many passes for each face, so it is slow.
        faithfulness_faces: how many faces that is done on, drawn evenly from the split.
        faithfulness_steps: in how many steps pixels are deleted and inserted.
        seed: of the random controls, the noise, the drawing of faces and the bootstrap.
        batch: faces at a time.
        cluster: Ray cluster whose workers score a batch each: HOST:PORT, or auto for that of RAY_ADDRESS or one of this machine's
            cores (docs/scale.md).

    """
    if min(faithfulness_faces, faithfulness_steps, batch) < 1:
        raise UsageError("--faithfulness-faces, --faithfulness-steps and --batch must be at least 1.")
    run = _run_of(run, weights, out)
    model, trained, env = checkpoint.load_model(run)
    recipe = trained
    if store is not None:
        recipe = replace(recipe, data=replace(recipe.data, store=store, action_units=None))
    faces = open_faces(recipe.data.store, recipe.data.action_units)
    recipe = recipe_on(faces, recipe, env)
    faces = in_framing(faces, env)
    if recipe.data.protocol == "complete" and split != "train" and faces.fingerprint == env.get("store_fingerprint"):
        raise UsageError(
            f"{run} was trained on every face of this store (protocol complete); score it on another --store."
        )
    suffix = names_end(run, split, faces, env)
    labels = labels_of(faces, recipe.data.scheme)
    rows, reference = rows_to_score(faces, recipe, split, labels)
    seen = scored_in_training(trained, env, faces, rows, reference)
    gpu = torch.cuda.is_available() and recipe.run.accelerator != "cpu" and cluster is None
    device = torch.device("cuda" if gpu else "cpu")
    names = choose_methods(methods, model, recipe)
    own = run if faces.fingerprint == env.get("store_fingerprint") else None  # keeps what is of its own store
    plan = Plan(
        model.to(device), recipe, faces, rows, labels,
        kept_class_cues(
            own and own / "maps" / "class_cues.npz", recipe, faces, labels, reference, model.backbone.sides[-1], device
        ),
        reference, others_of(recipe, faces, labels, rows, seed), device, names, Sampling(samples, seed),
        masking_of(recipe, env, faces, labels, reference, device), seed, batch,
    )  # fmt: skip
    collected = _collected(plan, own, cluster)
    scored = face_arrays(plan, collected)
    results = {**results_of(run.name, split, plan, scored, env), "scored_in_training": seen}
    if faithfulness:
        extra, results["faithfulness"] = faithfulness_of(plan, collected, faithfulness_faces, faithfulness_steps)
        scored |= {f"{name}/{kind}": values for name, kinds in extra.items() for kind, values in kinds.items()}
    write_results(run, results, scored, collected.class_maps, suffix)
    print_results(results)
    if per_class:
        print_classes(results)
    print(f"written to {run / f'results{suffix}.json'}")
    return results


def _collected(plan: Plan, own: Path | None, cluster: str | None) -> Collected:
    """`collect`, with the scores of the attributions that the run was trained with."""
    collected = collect(plan, cluster)
    trained_scores, valid_own = guided_scores(plan, own)
    collected.scores.update(trained_scores)
    collected.valid_own.update(valid_own)
    return collected


def _run_of(run: Path, weights: Path | None, out: Path | None) -> Path:
    if weights is None and out is not None:
        raise UsageError("--out goes with --weights; scores of a run are written into its folder.")
    return run if weights is None else run_of_weights(run, weights, out)


def in_framing(faces: Store, env: dict[str, Any]) -> Store:
    """Faces of another store than that of the training as the run's own lie in their pictures, and a line that says so."""
    framing = read_framing(env, "environment.json")
    if faces.fingerprint == env.get("store_fingerprint", faces.fingerprint) or framing is None:
        return faces
    framed = framed_as(faces, framing)
    if isinstance(framed, FramedStore):
        known = framed.placed()
        print(
            f"mien: {known} of {len(faces)} faces of {faces.path} are aligned with the run's training faces, as mien predict does; "
            f"{len(faces) - known} without landmarks are their whole picture.",
            file=sys.stderr,
        )
    return framed


def masking_of(
    recipe: Recipe, env: dict[str, Any], faces: Store, labels: IntArray, rows: IntArray, device: torch.device
) -> Masking:
    """What masks and guides of scored faces need; the mean cue of the training faces only where the control asks for it."""
    mean = None
    if recipe.cue.control == "mean" and (recipe.mask.evaluate or recipe.transformer.kind in GUIDED_KINDS):
        mean = mean_of_cue(
            replace(recipe, cue=replace(recipe.cue, control="none")), faces, labels, rows, recipe.model.size
        ).to(device)
    return make_masking(env.get("mask_colour"), mean, device, recipe.model.preprocessing)


def names_end(run: Path, split: str, faces: Store, env: dict[str, Any]) -> str:
    """How the names of the files end; DataError where the scores of another store in a folder of the same name would be lost."""
    if faces.fingerprint == env.get("store_fingerprint", faces.fingerprint):
        return checkpoint.results_suffix(split)
    suffix = checkpoint.results_suffix(split, faces.path)
    file = run / f"results{suffix}.json"
    if file.is_file() and f'"{faces.fingerprint}"' not in file.read_text():
        raise DataError(
            f"{file} holds scores on other faces than {faces.path} holds now; rename the store's folder, or delete the file."
        )
    return suffix


def recipe_on(faces: Store, recipe: Recipe, env: dict[str, Any]) -> Recipe:
    """The recipe with this store in the place of its own; the folds of its own faces say nothing about other ones."""
    data = replace(recipe.data, store=faces.path)
    if faces.fingerprint != env.get("store_fingerprint", faces.fingerprint):
        data = replace(data, folds=0, fold=None)
    return replace(recipe, data=data)


def choose_methods(methods: str | None, model: Classifier, recipe: Recipe) -> tuple[str, ...]:
    """Methods as named, refused before anything is scored where one does not fit; or the default ones that fit."""
    image = torch.zeros(1, 3, recipe.model.size, recipe.model.size)
    guide = model.blank_guide(image)
    if methods is not None:
        names = method_names(methods)
        explain(model, image, 0, [name for name in names if EXPLAINERS[name].kind != "perturbation"], guide=guide)
        return tuple(names)
    usual = (*DEFAULT_METHODS, *TOKEN_MAPS)
    if recipe.cue.kind == "landmarks":  # the attribution of PAL, for nets that were trained without it too
        usual = (*usual, "grad_input")
    if recipe.data.protocol == "paper":
        usual = (*usual, "grad_cam_pp_as_coded")
    names = fitting(model, image, usual, guide)
    left = [name for name in DEFAULT_METHODS if name not in names]
    if left:
        print(f"mien: not for this model, left out: {', '.join(left)}.", file=sys.stderr)
    return tuple(names)


def face_arrays(plan: Plan, collected: Collected) -> Arrays:
    """One row a face: what the store knows of it, what the model said, every score and the small maps."""
    per_face = {f"{name}/{kind}": v for name, kinds in collected.scores.items() for kind, v in kinds.items()}
    voted = voted_labels(plan.store, plan.recipe.data.scheme)[plan.rows]
    shape = shape_answers(plan)
    return {
        **face_facts(plan.store, plan.rows),
        "label": plan.labels[plan.rows],
        **({"voted": voted} if (voted >= 0).any() else {}),
        "probabilities": collected.probabilities,
        **({} if collected.voted_probabilities is None else {"voted_probabilities": collected.voted_probabilities}),
        **({} if shape is None else {LANDMARKS_ONLY: shape}),
        "valid": collected.valid,
        "valid_predicted": collected.valid_predicted,
        **{f"valid:{name}": values for name, values in collected.valid_own.items()},
        **({} if collected.theta is None else {"theta": collected.theta}),
        **per_face,
        **{f"map:{name}": values for name, values in collected.face_maps.items()},
    }


def shape_answers(plan: Plan) -> FloatArray | None:
    """What landmarks alone say of the scored faces; None without training faces apart from them."""
    fit = plan.reference_rows
    if np.isin(fit, plan.rows).any():
        return None
    count = len(scheme_classes(plan.recipe.data.scheme))
    return landmarks_only(plan.store, fit, plan.rows, plan.labels, count)


def results_of(run: str, split: str, plan: Plan, faces: Arrays, env: dict[str, Any]) -> dict[str, Any]:
    """Everything of results.json but faithfulness."""
    recipe, classes = plan.recipe, scheme_classes(plan.recipe.data.scheme)
    return {
        "run_version": checkpoint.RUN_VERSION,
        "run": run,
        "split": split,
        "protocol": recipe.data.protocol,
        "store": plan.store.info.dataset,
        "store_fingerprint": plan.store.fingerprint,
        "source_fingerprint": plan.store.store.fingerprint
        if isinstance(plan.store, FramedStore)
        else plan.store.fingerprint,
        **({"framing": plan.store.framing._asdict()} if isinstance(plan.store, FramedStore) else {}),
        "synthetic_source": plan.store.info.notes.get("synthetic_source"),
        "classes": list(classes),
        "guidance": {
            "weight": recipe.guidance.weight,
            "layers": recipe.guidance.layers,
            "similarity": recipe.guidance.similarity,
            "attribution": recipe.guidance.attribution,
        },
        "cue": {
            "kind": recipe.cue.kind,
            "codebook": recipe.cue.codebook,
            "control": recipe.cue.control,
            **drawn_cue(plan),
        },
        "checkpoint": env["checkpoint"],
        "date": datetime.now(UTC).date().isoformat(),
        "parameters": sum(part.numel() for part in plan.model.parameters()),
        "weights": checkpoint.weights_hash(plan.model),
        "methods": list(plan.methods),
        "samples": plan.sampling.samples,
        "label_leak": label_leak(recipe),
        "class_cues": {
            "faces": dict(zip(classes, plan.reference.faces.tolist(), strict=True)),
            "most": MOST,
            "side": plan.reference.means.shape[-1],
        },
        **score_faces(faces, classes, plan.methods, plan.seed),
    }


def drawn_cue(plan: Plan) -> dict[str, Any]:
    """What tells whether two runs were scored against the same cue: what is drawn, and from which action units."""
    recipe, units = plan.recipe, plan.store.action_units[plan.rows]
    observed = recipe.cue.kind == "au_observed"
    return {
        "drawn": drawn_numbers(recipe.cue, recipe.data.scheme),
        "action_units": hashlib.sha256(np.nan_to_num(units, nan=-1).tobytes()).hexdigest() if observed else None,
    }


def rows_to_score(store: Store, recipe: Recipe, split: str, labels: IntArray) -> tuple[IntArray, IntArray]:
    """Rows of a split, and the rows whose mean cue is a baseline: the training faces, or the same in a store without any.

    DataError, which names what can be scored instead, where the split has no labelled faces.
    """
    parts = parts_to_score(store, recipe, labels)
    if len(parts[split]) == 0:
        others = [f"`--split {name}` ({len(rows)} faces)" for name, rows in parts.items() if len(rows)]
        instead = (
            f"score {' or '.join(others)}, or every face once by `mien crossval RECIPE`"
            if others
            else "see `mien check`"
        )
        raise DataError(f"{store.path} has no labelled faces in split '{split}'; {instead}.")
    return parts[split], parts["train"] if splits_by_recipe(store, recipe) else parts[split]


def parts_to_score(store: Store, recipe: Recipe, labels: IntArray) -> dict[str, IntArray]:
    """Rows of valid, test and train: as they were for the training, or as the store has them where it trains nothing."""
    if splits_by_recipe(store, recipe):
        parts = split_rows(store, recipe)
        return {"valid": parts.valid, "test": parts.test, "train": parts.train}
    return {name: np.flatnonzero((store.split == name) & (labels >= 0)) for name in ("valid", "test", "train")}


def splits_by_recipe(store: Store, recipe: Recipe) -> bool:
    """Whether the protocol of the recipe deals the faces."""
    return bool(recipe.data.folds or (recipe.data.protocol != "complete" and (store.split == "train").any()))


def write_results(run: Path, results: dict[str, Any], faces: Arrays, class_maps: Arrays, suffix: str = "") -> None:
    """results.json (all numbers), predictions.csv and errors.csv, maps/class_means.npz (K, H, W) and maps/faces.npz (a row a face)."""
    (run / "maps").mkdir(exist_ok=True)
    write_npz(run / "maps" / f"class_means{suffix}.npz", class_maps)
    write_npz(run / "maps" / f"faces{suffix}.npz", faces)
    write_atomic(run / f"predictions{suffix}.csv", predictions_csv(faces, results["classes"]))
    write_atomic(run / f"errors{suffix}.csv", errors_csv(faces, results["classes"]))
    write_json(run / f"results{suffix}.json", results)
