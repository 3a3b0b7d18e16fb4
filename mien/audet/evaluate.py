"""Scores of a trained AUDetNet on the whole of a split, into its run folder. Behind `mien audet evaluate`."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mien import checkpoint
from mien.audet.data import labels_of
from mien.audet.embed import device_of, outputs
from mien.audet.faces import au_loss
from mien.audet.run import load_audet, read_run
from mien.data.store import open_store
from mien.errors import DataError, UsageError
from mien.files import write_atomic
from mien.metrics.action_units import intensity_scores, occurrence, occurrence_scores
from mien.schema import FloatArray, IntArray


def evaluate_audet(run: Path, data: Path | None = None, split: str = "test") -> dict[str, Any]:
    """Score every labelled face of a split and write results.json (`-valid` for that split) and predictions.csv.

    Occurrence: probability at least 0.5 against intensity at least the threshold of the cfg. A net that regresses is scored
    both on intensities and, at the same threshold on both sides, on occurrence.

    Args:
        run: run folder of `mien audet train`.
        data: prepared store; that of the training when not given.
        split: test or valid.

    Raises:
        DataError: no labelled face in the split. UsageError: another split.

    """
    if split not in ("valid", "test"):
        raise UsageError(f"--split {split}: evaluate takes valid or test.")
    cfg, facts = read_run(run)
    store = open_store(data or Path(facts["store"]))
    labels = labels_of(store, cfg)
    rows: IntArray = getattr(labels, split)
    if len(rows) == 0:
        raise DataError(f"{store.path}: no labelled face in split '{split}'; give another --split or --data.")
    net = load_audet(run)
    parts = [(output.logits.float().cpu(), output.action_units.float().cpu().numpy())
             for _, output in outputs(net, store, rows, device_of(cfg), cfg.training.batch_size)]  # fmt: skip
    scores = np.concatenate([part for _, part in parts])
    truth, names = labels.units[rows], cfg.data.action_units
    cut = cfg.data.occurrence_threshold if net.regresses else 0.5
    groups = np.array([str(name) for name in store.subject[rows]]) if all(store.subject[rows]) else None
    found: dict[str, Any] = {
        **checkpoint.versions(),
        "store": store.info.dataset,
        "store_fingerprint": store.fingerprint,
        "same_data_as_training": store.fingerprint == facts["store_fingerprint"],
        "split": split,
        "subjects_shared_with_train": bool(cfg.data.shared_subjects),
        "faces": len(rows),
        "au_loss": float(au_loss(torch.cat([part for part, _ in parts]), labels.targets[rows], cfg.cross_entropy)),
        "occurrence_threshold": cfg.data.occurrence_threshold,
        "occurrence": occurrence_scores(scores, occurrence(truth, cfg.data.occurrence_threshold), names, cut=cut, groups=groups),
    }  # fmt: skip
    if net.regresses:
        found["intensity"] = intensity_scores(scores, truth, names)
    suffix = "" if split == "test" else f"-{split}"
    write_predictions(run / f"predictions{suffix}.csv", [str(store.ids[row]) for row in rows], names, scores, truth)
    write_atomic(run / f"results{suffix}.json", json.dumps(found, indent=1, allow_nan=False))
    print(table(found))
    return found


def write_predictions(
    path: Path, ids: list[str], names: tuple[str, ...], scores: FloatArray, truth: FloatArray
) -> None:
    """One line a face: id, then for every unit the prediction and the label (empty where unlabelled)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", *(column for name in names for column in (name, f"{name}_label"))])
    for name, guess, label in zip(ids, scores, truth, strict=True):
        cells = [
            cell for a, b in zip(guess, label, strict=True) for cell in (f"{a:.4f}", "" if np.isnan(b) else f"{b:g}")
        ]
        writer.writerow([name, *cells])
    write_atomic(path, text.getvalue())


def table(found: dict[str, Any]) -> str:
    """What `mien audet evaluate` prints: every unit, then the means."""
    occurrence, intensity = found["occurrence"], found.get("intensity")
    lines = [f"{found['faces']} faces of {found['store']}, split {found['split']}; AU loss {found['au_loss']:.4f}"]
    lines.append(f"{'unit':<6}{'active':>8}{'F1':>8}{'AUC':>8}" + (f"{'ICC':>8}{'MAE':>8}" if intensity else ""))
    for name, row in occurrence["units"].items():
        cells = [row["prevalence"], row["f1"], row["auc"]]
        cells += [intensity["units"][name]["icc"], intensity["units"][name]["mae"]] if intensity else []
        lines.append(f"{name:<6}" + "".join(f"{_shown(cell):>8}" for cell in cells))
    cells = [None, occurrence["macro_f1"], occurrence["macro_auc"]]
    cells += [intensity["mean_icc"], intensity["mean_mae"]] if intensity else []
    low, high = occurrence["macro_f1_interval"]
    lines.append(f"{'mean':<6}" + "".join(f"{_shown(cell):>8}" for cell in cells))
    return "\n".join(
        [*lines, f"macro F1 {_shown(occurrence['macro_f1'])}, 95 % interval {_shown(low)} to {_shown(high)}"]
    )


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
