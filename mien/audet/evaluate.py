"""Scores of a trained AUDetNet on the whole of a split, into its run folder. Behind `mien audet evaluate`."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mien.audet.data import labels_of
from mien.audet.embed import device_of, outputs
from mien.audet.faces import au_loss, au_targets
from mien.audet.run import load_audet, read_run
from mien.audet.spec import Cfg
from mien.data.au_scale import with_intensity
from mien.data.store import Store, open_store
from mien.errors import DataError, UsageError
from mien.files import write_atomic
from mien.metrics.action_units import intensity_scores, labelled_units, occurrence, occurrence_scores, shared_units
from mien.schema import ACTION_UNITS, FloatArray, IntArray
from mien.training import checkpoint


def evaluate_audet(run: Path, data: Path | None = None, split: str = "test") -> dict[str, Any]:
    """Score every labelled face of a split and write results.json (`-valid` for that split) and predictions.csv.

    Another store than that of the training is scored on the units that it has labels of, into results-NAME.json.

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
    store, net = open_store(data or Path(facts["store"])), load_audet(run)
    own = store.fingerprint == facts["store_fingerprint"]
    rows, names = scored(store, cfg, split, own)
    columns = [net.action_units.index(name) for name in names]
    parts = [(output.logits.float().cpu()[:, columns], output.action_units.float().cpu().numpy()[:, columns])
             for _, output in outputs(net, store, rows, device_of(cfg), cfg.training.batch_size)]  # fmt: skip
    scores = np.concatenate([part for _, part in parts])
    truth = store.action_units[rows][:, [ACTION_UNITS.index(name) for name in names]]
    threshold = cfg.data.occurrence_threshold
    targets = au_targets(torch.from_numpy(truth), net.regresses, threshold)
    groups = np.array([str(name) for name in store.subject[rows]]) if all(store.subject[rows]) else None
    found: dict[str, Any] = {
        **checkpoint.versions(),
        "store": store.info.dataset,
        "store_fingerprint": store.fingerprint,
        "same_data_as_training": own,
        "split": split,
        "subjects_shared_with_train": bool(cfg.data.shared_subjects),
        "faces": len(rows),
        "action_units": list(names),
        "not_scored": [name for name in net.action_units if name not in names],
        "au_loss": float(au_loss(torch.cat([part for part, _ in parts]), targets, cfg.cross_entropy)),
        "occurrence_threshold": threshold,
        "occurrence": occurrence_scores(
            scores, occurrence(truth, threshold), names, cut=threshold if net.regresses else 0.5, groups=groups
        ),
    }
    coded = with_intensity(store.info.notes.get("au_scale"), names)
    if net.regresses and coded:
        columns = [names.index(name) for name in coded]
        found["intensity"] = intensity_scores(scores[:, columns], truth[:, columns], tuple(coded))
    suffix = ("" if own else f"-{store.path.resolve().name}") + ("" if split == "test" else f"-{split}")
    write_predictions(run / f"predictions{suffix}.csv", [str(store.ids[row]) for row in rows], names, scores, truth)
    write_atomic(run / f"results{suffix}.json", json.dumps(found, indent=1, allow_nan=False))
    print(table(found))
    return found


def scored(store: Store, cfg: Cfg, split: str, own: bool) -> tuple[IntArray, tuple[str, ...]]:
    """Rows and units to score: of the store of the training its split under the cfg and all units; of another store its own
    split, and the units that it has labels of, matched by name. DataError where nothing is left.
    """
    names = cfg.data.action_units
    if own:
        rows: IntArray = getattr(labels_of(store, cfg), split)
    else:
        names = shared_units(names, labelled_units(store.action_units, ACTION_UNITS))
        known = np.isfinite(store.action_units[:, [ACTION_UNITS.index(name) for name in names]])
        rows = np.array([row for row in np.flatnonzero(store.split == split) if known[row].any()], dtype=np.int64)
    if len(rows) == 0:
        raise DataError(f"{store.path}: no labelled face in split '{split}'; give another --split or --data.")
    return rows, names


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
        own = (intensity or {"units": {}})["units"].get(name, {"icc": None, "mae": None})
        cells += [own["icc"], own["mae"]] if intensity else []
        lines.append(f"{name:<6}" + "".join(f"{_shown(cell):>8}" for cell in cells))
    cells = [None, occurrence["macro_f1"], occurrence["macro_auc"]]
    cells += [intensity["mean_icc"], intensity["mean_mae"]] if intensity else []
    low, high = occurrence["macro_f1_interval"]
    lines.append(f"{'mean':<6}" + "".join(f"{_shown(cell):>8}" for cell in cells))
    return "\n".join(
        [
            *lines,
            f"macro F1 {_shown(occurrence['macro_f1'])}, 95 % interval over {occurrence['clusters']} "
            f"{'subjects' if occurrence['grouped'] else 'faces'} {_shown(low)} to {_shown(high)}",
        ]
    )


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
