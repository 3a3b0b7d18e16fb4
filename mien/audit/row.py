"""The row of a leaderboard file from the answers of an audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from mien.audit.table import Part
from mien.config import CueConfig
from mien.cues.identity import drawn_numbers
from mien.data.framed import FramedStore
from mien.data.store import Store
from mien.metrics.classification import classification_scores
from mien.metrics.resampling import people
from mien.report.rows import row_of_results
from mien.schema import FloatArray, IntArray
from mien.wrapped.classes import scheme_of
from mien.wrapped.model import WrappedModel

PROTOCOL = "audit"
"""Rows of an audit stand apart from those of `mien compare`: it may have drawn some of the faces."""


def audit_row(
    model: WrappedModel, store: Store, rows: IntArray, labels: IntArray, probabilities: FloatArray, split: str,
    faithful: Mapping[str, float | None] | None = None, seed: int = 0,
) -> dict[str, str]:  # fmt: skip
    """A checked row for `report.rows.add_row`.

    Args:
        model: what was audited.
        store: as the model sees it (`WrappedModel.view`).
        rows: (N,) rows of the store that were scored.
        labels: (N,) index into `model.classes` of each.
        probabilities: (N, K) of each, rows summing to 1.
        split: which part of the store they are of.
        faithful: deletion and insertion, where they were measured.
        seed: of the bootstrap.

    """
    subjects = [name or "" for name in store.subject[rows]]
    source = store.store if isinstance(store, FramedStore) else store
    own = classification_scores(probabilities, labels, model.classes, people(subjects), seed=seed)
    results = {
        "run": model.name, "weights": model.identity or model.name, "store": store.info.dataset,
        "source_fingerprint": source.fingerprint, "split": split, "protocol": PROTOCOL, "faces": len(rows),
        "date": datetime.now(UTC).date().isoformat(), "classification": own,
        "alignment": {"layer-1": {"cosine": {"class_mean": None}}},
        "excess": {"layer-1": {"scores": {"cosine": {"class_mean": None}}}},
        "cue": {"kind": "au", "drawn": drawn_numbers(CueConfig(), scheme_of(model.classes)), "action_units": None},
        "faithfulness": {"scores": {"layer-1": {name: {"class_mean": value} for name, value in (faithful or {}).items()}}},
    }  # fmt: skip
    return row_of_results(results, {"id": store.ids[rows], "subject": subjects})


def faithful_of(parts: Sequence[Part]) -> dict[str, float | None]:
    """Deletion and insertion of the audited map, where the audit measured them."""
    tables = [table for part in parts if part.key == "explanation" for table in part.tables if table.key == "scores"]
    return {line.name: line.value for table in tables for line in table.rows if line.name in ("deletion", "insertion")}
