"""Synthetic faces that `mien synthesize` wrote, read back: to prepare the same faces at another size or aligned."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mien.data.arrow import Skipped
from mien.data.store import Store, open_store
from mien.errors import DataError
from mien.schema import FloatArray, Record


def records(root: Path) -> Iterator[Record | Skipped]:
    """Faces of the store `root` in its order, everything that is known about them kept.

    Pixels are those of the store, RGB; faces that the first store skipped are skipped again, with their reasons.
    DataError when `root` is no finished store, or one of another dataset.
    """
    store = open_synthetic(root)
    for i in range(len(store)):
        yield record_of(store, i)
    yield from store.skipped


def record_of(store: Store, i: int) -> Record:
    """Face `i` of a store with all that is known about it; pixels RGB."""
    return Record(
        id=str(store.ids[i]),
        image=store.image(i),
        split=str(store.split[i]),
        subject=store.subject[i],
        expression=store.expression[i],
        votes=_known(store.votes[i]),
        action_units=_known(store.action_units[i]),
        landmarks=_known(store.landmarks[i]),
        visible=store.visible[i],
        pose=_known(store.pose[i]),
        attributes=store.attributes[i],
        same_person=store.same_person[i],
        same_actions=store.same_actions[i],
    )


def notes(root: Path) -> dict[str, str]:
    """Licence, seed, subjects and classes of the first store, and its fingerprint."""
    store = open_synthetic(root)
    kept = {name: text for name, text in store.info.notes.items() if name in ("licence", "seed", "subjects", "classes")}
    return {**kept, "source": store.fingerprint}


def open_synthetic(root: Path) -> Store:
    """A store of `mien synthesize`; DataError for another."""
    store = open_store(Path(root))
    if store.info.dataset != "synthetic":
        raise DataError(
            f"'{root}' is a store of '{store.info.dataset}', not of synthetic faces; make one with `mien synthesize`."
        )
    return store


def _known(values: FloatArray) -> FloatArray | None:
    """None where nothing is known."""
    return values if bool(np.isfinite(values).any()) else None
