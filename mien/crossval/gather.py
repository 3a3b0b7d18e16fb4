"""The folds of a cross-validation as one scored run: every face once, scored by the net that never trained on it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mien.config import Recipe
from mien.errors import DataError
from mien.evaluation.evaluate import write_results
from mien.evaluation.scores import score_faces
from mien.files import write_json
from mien.metrics.intervals import normal_interval
from mien.report.runs import Arrays, Run, load_run
from mien.reproduce.run import Cell

OF_A_RUN = ("checkpoint", "scored_in_training", "class_cues", "faithfulness", "votes", "segmentation")
"""Parts of a fold's results.json that do not stand for all folds; the last two come back where every fold has them."""
OWN_FRAME = ("theta",)
"""Columns of faces.npz that lie in the frame of one net: a mean over folds would describe no net, so they stay with the folds."""
SCORES = ("accuracy", "balanced_accuracy", "macro_f1")


def gather(out: Path, recipe: Recipe, cells: Sequence[Cell], failed: Mapping[str, str]) -> dict[str, Any]:
    """Write what `mien report` reads into `out`, from the folds that are done; returns results.json.

    DataError where no fold is done.
    """
    runs = {fold: load_run(cell.folder, cell.folder.name) for fold, cell in enumerate(cells) if cell.done}
    if not runs:
        raise DataError(f"every fold failed: {'; '.join(sorted(set(failed.values())))}.")
    first = next(iter(runs.values()))
    faces, classes = joined_faces(runs), first.classes
    shared = {key: value for key, value in first.results.items() if key not in OF_A_RUN}
    results = {
        **shared,
        "run": out.name,
        **score_faces(faces, classes, shared_methods(list(runs.values())), seed=0),
        "methods": shared_methods(list(runs.values())),
        "weights": hashlib.sha256(" ".join(run.results["weights"] for run in runs.values()).encode()).hexdigest(),
        "folds": {
            **fold_scores(runs, len(faces["label"])),
            "k": len(cells),
            "seed": recipe.data.fold_seed,
            "failed": failed,
        },
    }
    facts = {**first.env, "rows": {"test": len(faces["label"])}, "split": {}}
    write_json(out / "environment.json", facts)
    write_results(out, results, faces, mean_maps(list(runs.values())))
    return results


def shared_methods(runs: Sequence[Run]) -> list[str]:
    """Explainers that every fold was scored with."""
    return [name for name in runs[0].results["methods"] if all(name in run.results["methods"] for run in runs)]


def joined_faces(runs: Mapping[int, Run]) -> Arrays:
    """maps/faces.npz of all folds one after the other, with the fold of each face; what some folds lack is left out.

    So is what only means something for the net of one fold (OWN_FRAME); `mien report` reads it there.
    """
    first = next(iter(runs.values())).faces
    names = [name for name in first if name not in OWN_FRAME and all(name in run.faces for run in runs.values())]
    joined = {name: np.concatenate([run.faces[name] for run in runs.values()]) for name in names}
    return {"fold": np.concatenate([np.full(len(run.faces["label"]), fold) for fold, run in runs.items()]), **joined}


def mean_maps(runs: Sequence[Run]) -> Arrays:
    """maps/class_means.npz over all folds: each fold's mean weighted by its faces of the class (with a cue, for the cue)."""
    names = [name for name in runs[0].means if all(name in run.means for run in runs)]
    means = {}
    for name in names:
        counts = np.array([_counts(run, name == "cue") for run in runs], dtype=np.float64)[..., None, None]
        total = sum(run.means[name] * count for run, count in zip(runs, counts, strict=True))
        means[name] = (total / counts.sum(0).clip(1)).astype(np.float32)
    return means


def _counts(run: Run, with_cue: bool) -> np.ndarray:
    labels = run.faces["label"][run.faces["valid"]] if with_cue else run.faces["label"]
    return np.bincount(labels, minlength=len(run.classes))


def fold_scores(runs: Mapping[int, Run], faces: int) -> dict[str, Any]:
    """Scores of each fold, their mean and standard deviation, and the published interval of the mean accuracy.

    The interval is the normal approximation with n = all faces; the standard deviation over folds (n - 1) is None for
    one fold. `epoch` is the epoch that was chosen.
    """
    each = [
        {
            "fold": fold,
            **{part: run.env["rows"][part] for part in ("train", "valid", "test")},
            **{name: run.results["classification"][name] for name in SCORES},
            "epoch": run.results["checkpoint"]["epoch"],
            "epochs": len(run.log),
        }
        for fold, run in runs.items()
    ]
    mean = {name: float(np.mean([row[name] for row in each])) for name in (*SCORES, "epoch")}
    deviation = {name: float(np.std([row[name] for row in each], ddof=1)) for name in mean} if len(each) > 1 else None
    between = normal_interval(mean["accuracy"], faces)
    return {
        "each": each,
        "mean": mean,
        "deviation": deviation,
        "accuracy_interval": [between.low, between.high],
    }


def print_folds(results: Mapping[str, Any]) -> None:
    """A line a fold, the mean with both intervals, errors on faces without landmarks."""
    folds, scores = results["folds"], results["classification"]
    print(
        f"{results['run']}: {len(folds['each'])} of {folds['k']} folds, {results['faces']} faces, protocol {results['protocol']}"
    )
    heads = ("train", "valid", "test", "epoch", "accuracy", "balanced", "macro-F1")
    print(f"  {'fold':<5}" + "".join(f"{head:>10}" for head in heads))
    for row in folds["each"]:
        counts = "".join(f"{row[name]:>10}" for name in ("train", "valid", "test", "epoch"))
        print(f"  {row['fold']:<5}{counts}" + "".join(f"{row[name]:>10.4f}" for name in SCORES))
    for title, line in (("mean", folds["mean"]), ("sd", folds["deviation"])):
        if line:
            values = "".join(f"{line[name]:>10.4f}" for name in SCORES)
            print(f"  {title:<5}{'':>30}{line['epoch']:>10.1f}{values}")
    low, high = folds["accuracy_interval"]
    print(
        f"accuracy {folds['mean']['accuracy']:.4f} +- {(high - low) / 2:.4f} (mean over folds, normal approximation, as published)"
    )
    print(
        f"pooled {scores['accuracy']:.4f} [{scores['accuracy_interval'][0]:.4f}, {scores['accuracy_interval'][1]:.4f}] (bootstrap)"
    )
    for state, part in results["errors"]["landmarks"].items():
        print(f"landmarks {state}: accuracy {part['accuracy']:.4f} on {part['faces']} faces")
    for pair in results["errors"]["confusions"][:3]:
        print(f"{pair['true']} misclassified as {pair['predicted']}: {pair['faces']} faces ({pair['share']:.0%})")
