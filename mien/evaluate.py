"""Scores of a trained run on faces it never saw: classification, calibration, and alignment beside floors and controls."""

from __future__ import annotations

import io
import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mien import checkpoint, maps
from mien.config import Recipe
from mien.cues import render_cue
from mien.data.loader import Loader, labels_of
from mien.data.store import Store, open_store
from mien.errors import DataError
from mien.explain import DEFAULT_METHODS, cam_family, gap_weight
from mien.guidance import cues_for, guides_of, look, mean_of_cue
from mien.metrics.alignment import alignment_scores, attention_scores, cam_scores, summarise
from mien.metrics.classification import classification_scores
from mien.models import Classifier
from mien.progress import track
from mien.schema import Batch, Cue, FloatArray, IntArray, Output, scheme_classes
from mien.train import split_rows

FLOORS = ("uniform", "centre", "mean")
"""Maps that never saw the face: what a score is worth begins here."""
CONTROLS = ("other_class", "shuffled", "inverted")
"""Wrong cues for the model's own attention: a high score here means that the right cue explains nothing."""


class Collected(NamedTuple):
    """Everything of one pass over the split, one row a face."""

    probabilities: FloatArray
    valid: npt.NDArray[np.bool_]
    scores: dict[str, dict[str, FloatArray]]
    """Map name -> score name -> (N,)."""
    class_maps: dict[str, FloatArray]
    """Map name -> (K, H, W) mean over the faces of each class."""
    face_maps: dict[str, np.ndarray]
    """Map name -> (N, h, w) float16 in [0, 1] at the resolution of the last layer; for pictures in a report."""


def evaluate(
    run: Path,
    *,
    split: Literal["test", "valid", "train"] = "test",
    store: Path | None = None,
    seed: int = 0,
    batch: int = 128,
) -> dict[str, Any]:
    """Score a run on one split and write results.json, maps/class_means.npz and maps/faces.npz into its folder.

    Args:
        run: run folder of `mien train`.
        split: which part of the store; test unless said otherwise.
        store: another store than the recipe's, for example a moved or a foreign one. Where it has no training faces,
            the floor of the mean cue is that of the scored faces themselves.
        seed: of the random controls and the bootstrap.
        batch: faces at a time.

    """
    model, recipe, env = checkpoint.load_model(run)
    if store is not None:
        recipe = replace(recipe, data=replace(recipe.data, store=store))
    faces = open_store(recipe.data.store)
    labels = labels_of(faces, recipe.data.scheme)
    rows, reference = rows_to_score(faces, recipe, split, labels)
    device = torch.device("cuda" if torch.cuda.is_available() and recipe.run.accelerator != "cpu" else "cpu")
    mean = mean_of_cue(recipe, faces, labels, reference, recipe.model.size)
    collected = collect(model.to(device), recipe, faces, rows, labels, mean.to(device), device, seed, batch)
    collected.scores.update(guided_scores(model, recipe, faces, rows, labels, device, batch))

    classes = scheme_classes(recipe.data.scheme)
    predicted = collected.probabilities.argmax(1)
    alignment = {
        name: summarise(scores, labels[rows], predicted, collected.valid, classes, seed=seed)["scores"]
        for name, scores in collected.scores.items()
    }
    results = {
        "run_version": checkpoint.RUN_VERSION,
        "run": run.name,
        "split": split,
        "protocol": recipe.data.protocol,
        "store": faces.info.dataset,
        "store_fingerprint": faces.fingerprint,
        "classes": list(classes),
        "faces": len(rows),
        "faces_with_cue": int(collected.valid.sum()),
        "guidance": {
            "weight": recipe.guidance.weight,
            "layers": recipe.guidance.layers,
            "similarity": recipe.guidance.similarity,
            "attribution": recipe.guidance.attribution,
        },
        "cue": {"kind": recipe.cue.kind, "codebook": recipe.cue.codebook, "control": recipe.cue.control},
        "checkpoint": env["checkpoint"],
        "classification": classification_scores(collected.probabilities, labels[rows], classes),
        "alignment": alignment,
    }
    write_results(run, results, collected, faces, rows, labels)
    print_results(results)
    return results


def rows_to_score(store: Store, recipe: Recipe, split: str, labels: IntArray) -> tuple[IntArray, IntArray]:
    """Rows of a split, and the rows whose mean cue is a floor: the training faces, or the same in a store without any."""
    if (store.split == "train").any():
        parts = split_rows(store, recipe)
        rows, reference = getattr(parts, split), parts.train
    else:
        rows = reference = np.flatnonzero((store.split == split) & (labels >= 0))
    if len(rows) == 0:
        raise DataError(f"{store.path} has no labelled faces in split '{split}'; see `mien check {store.path}`.")
    return rows, reference


@torch.no_grad()
def collect(
    model: torch.nn.Module, recipe: Recipe, store: Store, rows: IntArray, labels: IntArray, mean: Tensor,
    device: torch.device, seed: int, batch: int,
) -> Collected:  # fmt: skip
    """One batched pass: probabilities, scores of every layer's attention and of four CAMs, floors and controls."""
    classes = len(scheme_classes(recipe.data.scheme))
    probabilities, valid = [], []
    scores: dict[str, dict[str, list[Tensor]]] = defaultdict(lambda: defaultdict(list))
    sums: dict[str, Tensor] = {}
    small: dict[str, list[Tensor]] = defaultdict(list)
    generator = torch.Generator(device=device).manual_seed(seed)
    # A store that is sorted by class would shuffle cues inside one class: the control needs mixed batches.
    order = np.random.default_rng(seed).permutation(len(rows))
    loader = Loader(
        store, rows[order], labels, size=recipe.model.size, batch=batch, device=device, workers=recipe.run.workers,
        preprocessing=recipe.model.preprocessing,
    )  # fmt: skip
    for part in track(loader, "evaluate", len(loader)):
        output: Output = model(part.images)
        probabilities.append(output.logits.float().softmax(1).cpu())
        size = (part.images.shape[-2], part.images.shape[-1])
        cue = cue_of(recipe, part, size, "none", mean, generator)
        valid.append(cue.valid.cpu())
        raw = raw_maps(model, output, part)
        for name, values in batch_scores(recipe, part, output, raw, cue, mean, generator).items():
            add(scores[name], values)
        looks = {"attention": maps.min_max(maps.channel_mean(output.features[-1])), "cam": maps.min_max(raw["cam"])}
        for name, map_ in looks.items():
            small[name].append(map_[:, 0].half().cpu())
        for name, map_ in {"cue": cue.maps, **{name: maps.resize(map_, size) for name, map_ in looks.items()}}.items():
            sums[name] = sums.get(name, 0) + torch.einsum("bk,bhw->khw", member(part, classes), map_[:, 0])
    back = np.argsort(order)
    known = torch.cat(valid).numpy()[back]

    def joined(parts: list[Tensor]) -> np.ndarray:
        return np.asarray(torch.cat(parts).numpy()[back])

    def counted(name: str) -> Tensor:  # a face without a cue has an empty map, which would dim the mean
        seen = labels[rows][known] if name == "cue" else labels[rows]
        return torch.from_numpy(np.bincount(seen, minlength=classes)).clamp_min(1).view(-1, 1, 1)

    return Collected(
        joined(probabilities),
        known,
        {name: {kind: joined(values) for kind, values in kinds.items()} for name, kinds in scores.items()},
        {name: (total.cpu() / counted(name)).numpy().astype(np.float32) for name, total in sums.items()},
        {name: joined(parts) for name, parts in small.items()},
    )


def raw_maps(model: torch.nn.Module, output: Output, batch: Batch) -> dict[str, Tensor]:
    """Raw map of the true class by every one of DEFAULT_METHODS."""
    weight = gap_weight(model, output)
    assert weight is not None
    family = cam_family(output, weight, batch.expressions)
    return {name: family[name] for name in DEFAULT_METHODS}


def batch_scores(
    recipe: Recipe, batch: Batch, output: Output, raw: dict[str, Tensor], cue: Cue, mean: Tensor,
    generator: torch.Generator,
) -> dict[str, dict[str, Tensor]]:  # fmt: skip
    """Map name -> score name -> (B,): attention of every layer, class maps, floors and controls."""
    scores = {
        f"layer-{number}": attention_scores(feature, cue.maps) for number, feature in enumerate(output.features, 1)
    }
    for name, map_ in raw.items():
        scores[name] = cam_scores(map_ if name == "cam" else map_.relu(), cue.maps)
    size = (cue.maps.shape[-2], cue.maps.shape[-1])
    for name in FLOORS:
        floor = cue_of(recipe, batch, size, name, mean, generator)
        scores[f"floor:{name}"] = alignment_scores(floor.maps, cue.maps)
    for name in CONTROLS:
        if name != "other_class" or recipe.cue.kind == "au":
            wrong = cue_of(recipe, batch, size, name, mean, generator)
            scores[f"control:{name}"] = attention_scores(output.features[-1], wrong.maps)
    return scores


def guided_scores(
    model: torch.nn.Module, recipe: Recipe, store: Store, rows: IntArray, labels: IntArray, device: torch.device,
    batch: int,
) -> dict[str, dict[str, FloatArray]]:  # fmt: skip
    """Scores of the attributions by gradients that a run was trained with, each against its own cue; else nothing."""
    assert isinstance(model, Classifier)
    guides = [guide for guide in guides_of(recipe, model) if guide.by_gradient]
    scores: dict[str, dict[str, list[Tensor]]] = defaultdict(lambda: defaultdict(list))
    loader = Loader(store, rows, labels, size=recipe.model.size, batch=batch, device=device, workers=recipe.run.workers)
    for part in track(loader, "attributions", len(loader)) if guides else ():
        size = (part.images.shape[-2], part.images.shape[-1])
        for seen in look(model, guides, part.images, part.expressions)[1]:
            cue = cues_for(replace(recipe, cue=seen.cue), part, [size], [None], 0, 0)[0]
            add(scores[seen.name], alignment_scores(maps.shift_to_zero(seen.maps), cue.maps))
    return {name: {kind: torch.cat(v).numpy() for kind, v in kinds.items()} for name, kinds in scores.items()}


def member(batch: Batch, classes: int) -> Tensor:
    """(B, K) one-hot class membership of a batch."""
    return torch.nn.functional.one_hot(batch.expressions, classes).float()


def add(store: dict[str, list[Tensor]], scores: dict[str, Tensor]) -> None:
    """Append one batch of per-face scores."""
    for name, values in scores.items():
        store[name].append(values.cpu())


def cue_of(
    recipe: Recipe, batch: Batch, size: tuple[int, int], control: str, mean: Tensor, generator: torch.Generator
) -> Cue:
    """The run's cue (or a control in its place) at `size` for the true labels of a batch."""
    return render_cue(
        replace(recipe.cue, control=control), batch.landmarks, batch.expressions, scheme=recipe.data.scheme,
        image_size=(batch.images.shape[-2], batch.images.shape[-1]), size=size, generator=generator, mean=mean,
    )  # fmt: skip


def write_results(
    run: Path, results: dict[str, Any], collected: Collected, store: Store, rows: IntArray, labels: IntArray
) -> None:
    """results.json (all numbers), maps/class_means.npz (K, H, W) and maps/faces.npz (one row a face)."""
    (run / "maps").mkdir(exist_ok=True)
    split = results["split"]
    suffix = "" if split == "test" else f"-{split}"
    per_face = {f"{name}/{kind}": values for name, kinds in collected.scores.items() for kind, values in kinds.items()}
    _save_npz(run / "maps" / f"class_means{suffix}.npz", collected.class_maps)
    _save_npz(
        run / "maps" / f"faces{suffix}.npz",
        {
            "row": rows,
            "id": store.ids[rows].astype(str),
            "subject": np.array([name or "" for name in store.subject[rows]], dtype=str),
            "label": labels[rows],
            "probabilities": collected.probabilities,
            "valid": collected.valid,
            **per_face,
            **{f"map:{name}": values for name, values in collected.face_maps.items()},
        },
    )
    checkpoint.write_atomic(run / f"results{suffix}.json", json.dumps(results, indent=1))


def _save_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    checkpoint.write_atomic(path, buffer.getvalue())


def print_results(results: dict[str, Any]) -> None:
    """The two tables that a person wants to see first."""
    scores = results["classification"]
    print(
        f"{results['run']} on {results['split']} ({results['faces']} faces, protocol {results['protocol']}): "
        f"accuracy {scores['accuracy']:.4f}, balanced {scores['balanced_accuracy']:.4f}, macro-F1 {scores['macro_f1']:.4f}, "
        f"ECE {scores['calibration_error']:.4f}"
    )
    print(
        f"alignment with the {results['cue']['kind']} cue over {results['faces_with_cue']} faces (class mean; higher is better)"
    )
    print(f"  {'map':<22}{'cosine':>8}{'pearson':>9}{'energy':>8}{'pointing':>10}")
    for name, kinds in results["alignment"].items():
        cells = [kinds[kind]["class_mean"] for kind in ("cosine", "pearson", "energy", "pointing")]
        shown = [f"{value:.3f}" if value is not None else "-" for value in cells]
        print(f"  {name:<22}{shown[0]:>8}{shown[1]:>9}{shown[2]:>8}{shown[3]:>10}")
