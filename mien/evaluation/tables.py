"""Tables with a line a face as CSV, from the per-face arrays of a scored run (`maps/faces.npz`)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

Arrays = Mapping[str, np.ndarray]

AFFECT = ("valence", "arousal")
"""Attributes of a store, in [-1, 1], that errors are set beside."""
FACTS = ("expression", "landmarks", *AFFECT)
"""Columns that the store knows of a face, where it does."""


def predictions_csv(faces: Arrays, classes: Sequence[str]) -> str:
    """A line a face, in the order of the store or of the folds."""
    return _csv(faces, classes, range(len(faces["label"])))


def errors_csv(faces: Arrays, classes: Sequence[str]) -> str:
    """The lines of the faces that were misclassified as another class, the most confident first."""
    shares = faces["probabilities"]
    wrong = np.flatnonzero(shares.argmax(1) != faces["label"])
    return _csv(faces, classes, wrong[np.argsort(-shares[wrong].max(1), kind="stable")].tolist())


def _csv(faces: Arrays, classes: Sequence[str], rows: Iterable[int]) -> str:
    facts = [name for name in ("fold", "subject", *FACTS) if name in faces]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["id", "true", "predicted", "confidence", *(f"p_{name}" for name in classes), *facts])
    for row in rows:
        share = faces["probabilities"][row]
        said = int(share.argmax())
        names = [faces["id"][row], classes[int(faces["label"][row])], classes[said]]
        numbers = [f"{value:.6f}" for value in (share[said], *share)]
        writer.writerow([*names, *numbers, *(csv_cell(faces[name][row]) for name in facts)])
    return buffer.getvalue()


def csv_cell(value: Any) -> Any:
    """A cell: yes or no, nothing for an unknown number."""
    if isinstance(value, np.bool_):
        return "yes" if value else "no"
    if isinstance(value, np.floating):
        return f"{value:g}" if np.isfinite(value) else ""
    return value
