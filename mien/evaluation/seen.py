"""Pictures that are scored although the net was trained on them."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from mien.config import Recipe
from mien.data.observed import open_faces
from mien.data.store import Store
from mien.errors import DataError
from mien.schema import IntArray
from mien.training.session import split_rows


def scored_in_training(
    trained: Recipe, env: dict[str, Any], faces: Store, rows: IntArray, reference: IntArray
) -> int | None:
    """How many of the scored pictures are, pixel by pixel, training faces of the run; None where its store is gone.

    On another store than that of the training any of them is told on stderr, and so is that nothing could be checked.

    Args:
        trained: recipe of the run, with its own store.
        env: its environment.json.
        faces: store that is scored.
        rows: its scored faces.
        reference: its training faces where it is the run's own store.

    """
    if faces.fingerprint == env.get("store_fingerprint", faces.fingerprint):
        return int(np.isin(faces.digest[rows], faces.digest[reference]).sum())
    own = store_of_training(trained, env)
    if own is None:
        print(
            f"mien: '{trained.data.store}' no longer holds the faces of the training; whether scored pictures are among them "
            "could not be checked.",
            file=sys.stderr,
        )
        return None
    seen = int(np.isin(faces.digest[rows], own.digest[split_rows(own, trained).train]).sum())
    if seen:
        print(
            f"mien: {seen} of the {len(rows)} scored pictures are training faces of this run; the scores say too much of new "
            "faces.",
            file=sys.stderr,
        )
    return seen


def store_of_training(trained: Recipe, env: dict[str, Any]) -> Store | None:
    """The store that a run was trained on; None where it is gone or holds other faces now."""
    try:
        store = open_faces(trained.data.store, trained.data.action_units)
    except DataError:
        return None
    return store if store.fingerprint == env.get("store_fingerprint") else None
