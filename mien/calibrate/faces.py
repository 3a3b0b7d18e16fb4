"""Temperature and abstain threshold of a run, from the validation faces of its store."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from mien.errors import DataError, UsageError
from mien.files import write_atomic
from mien.predict.calibration import owner_of
from mien.schema import IntArray

LEAST_LOSS = 0.005
"""By how much a score of the test faces must rise to count as worse."""


def calibrate_faces(
    run: Path, accuracy: float, store: Path | None, out: Path, batch: int, head: str | None = None, views: int = 2
) -> dict[str, Any]:
    """Temperature and threshold from the validation faces of a run's store; its test faces, if any, are only measured.

    The truth is the label, for the votes' head of a run with two the annotators' majority, without ties. Logits are
    the mean over `views` of each face.
    """
    from mien.data.labels import labels_of, voted_labels
    from mien.data.store import open_store
    from mien.evaluation.evaluate import parts_to_score, recipe_on
    from mien.metrics.calibration import abstain_threshold, fit_temperature, scaled
    from mien.training import checkpoint

    model, recipe, env = checkpoint.load_model(run)
    faces = open_store(store or recipe.data.store)
    recipe = recipe_on(faces, recipe, env)
    if faces.fingerprint != env.get("store_fingerprint", faces.fingerprint):
        raise DataError(f"{faces.path} does not hold the faces that {run} was trained on; name their store by --store.")
    if recipe.data.protocol != "strict":
        raise UsageError(
            f"{run} was trained under protocol {recipe.data.protocol}, which keeps no validation faces apart; "
            "train under protocol strict to calibrate."
        )
    if head is not None and recipe.data.targets != "both":
        raise UsageError(f"--head {head} is for a run with two heads (data.targets both); {run} has one.")
    by_votes = recipe.data.targets == "both" and head != "labels"
    model.answer_by(head or "votes")
    labels = labels_of(faces, recipe.data.scheme)
    target = voted_labels(faces, recipe.data.scheme) if by_votes else labels
    parts = parts_to_score(faces, recipe, labels)
    known = {split: parts[split][target[parts[split]] >= 0] for split in ("valid", "test")}
    rows = {split: part for split, part in known.items() if len(part)}
    if "valid" not in rows:
        raise DataError(f"{faces.path}: no validation face has votes with a majority; calibrate by --head labels.")
    logits = {split: logits_of(model, recipe, faces, labels, part, batch, views) for split, part in rows.items()}
    truth = {split: target[part] for split, part in rows.items()}
    temperature = fit_temperature(logits["valid"], truth["valid"])
    threshold, _ = abstain_threshold(scaled(logits["valid"], temperature), truth["valid"], accuracy)
    result: dict[str, Any] = {
        "temperature": temperature,
        "threshold": threshold,
        "accuracy_asked_for": accuracy,
        **({"head": head or "votes"} if recipe.data.targets == "both" else {}),
        "fitted_on": "valid",
        **owner_of(run),
        "checkpoint_epoch": env["checkpoint"].get("epoch"),
        **{split: measured(logits[split], truth[split], temperature, threshold) for split in rows},
    }
    result["worse"] = worse_on_test(result)
    write_atomic(out, json.dumps(result, indent=1))
    print_result(run, result, out)
    return result


def logits_of(
    model: Any, recipe: Any, store: Any, labels: IntArray, rows: IntArray, batch: int, views: int = 1
) -> np.ndarray:
    """(N, K) logits of whole faces of a store, the mean over `views`: photos come without a mask too."""
    import torch

    from mien.data.loader import Loader
    from mien.predict.views import logits_of as seen
    from mien.progress import track
    from mien.training.steering import with_guide

    device = torch.device("cuda" if torch.cuda.is_available() and recipe.run.accelerator != "cpu" else "cpu")
    loader = Loader(
        store, rows, labels, size=recipe.model.size, batch=batch, device=device, workers=recipe.run.workers,
        preprocessing=recipe.model.preprocessing,
    )  # fmt: skip
    found = []
    model.to(device)
    with torch.no_grad():
        for part in track(loader, "calibrate", len(loader)):
            part = with_guide(recipe, part, None, 0, 0)
            found.append(seen(model, part.images, part.guide, views).cpu().numpy())
    return np.concatenate(found)


def measured(logits: np.ndarray, labels: IntArray, temperature: float, threshold: float) -> dict[str, Any]:
    """Calibration of one split before and after, and what abstaining does to it."""
    from mien.metrics.calibration import negative_log_likelihood, scaled
    from mien.metrics.classification import calibration_error

    after = scaled(logits, temperature)
    right, kept = after.argmax(1) == labels, after.max(1) >= threshold
    return {
        "faces": len(labels),
        "accuracy": float(right.mean()),
        "ece_before": calibration_error(scaled(logits, 1.0), labels),
        "ece": calibration_error(after, labels),
        "nll_before": negative_log_likelihood(logits, labels),
        "nll": negative_log_likelihood(logits, labels, temperature),
        "kept": float(kept.mean()),
        "accuracy_kept": float(right[kept].mean()) if kept.any() else None,
    }


def worse_on_test(result: dict[str, Any]) -> list[str]:
    """What the temperature makes worse on test faces, in words; empty for nothing, and where there are none."""
    if "test" not in result:
        return []
    row, names = result["test"], {"ece": "calibration error", "nll": "likelihood"}
    return [
        f"{words} {row[f'{name}_before']:.4f} to {row[name]:.4f}" for name, words in names.items()
        if row[name] - row[f"{name}_before"] > LEAST_LOSS
    ]  # fmt: skip


def print_result(run: Path, result: dict[str, Any], out: Path) -> None:
    """The table that a person wants to see."""
    print(f"{run.name}: temperature {result['temperature']:.3f}, abstain below {result['threshold']:.3f}: {out}")
    print("  split   faces  accuracy  ECE before   after  NLL before   after   kept  accuracy of kept")
    for split in (name for name in ("valid", "test") if name in result):
        row = result[split]
        kept = "-" if row["accuracy_kept"] is None else f"{row['accuracy_kept']:.3f}"
        print(
            f"  {split:<6}{row['faces']:>7}{row['accuracy']:>10.3f}{row['ece_before']:>12.4f}{row['ece']:>8.4f}"
            f"{row['nll_before']:>12.4f}{row['nll']:>8.4f}{row['kept']:>7.2f}{kept:>18}"
        )
    if result["worse"]:
        print(
            f"mien: WARNING: on test faces this temperature is worse than none ({', '.join(result['worse'])}): validation and test "
            f"faces differ; delete {out} to answer at temperature 1.",
            file=sys.stderr,
        )
