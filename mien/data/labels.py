"""Which class of a label scheme each face of a store belongs to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mien.data.store import Store
from mien.errors import DataError
from mien.schema import EXPRESSIONS, IntArray, class_index, scheme_classes

POLARITY = "polarity-3"
"""The scheme whose classes a store may name itself, in the attribute `polarity` (AffectNet: from valence)."""


def labels_of(store: Store, scheme: str) -> IntArray:
    """(N,) int64 class index in `scheme` of every row, -1 where unlabelled or left out by the scheme.

    Under polarity-3 the attribute `polarity` of a row, where it has one, wins over its expression.
    """
    index = class_index(scheme)
    labels = np.array([index.get(name, -1) if name is not None else -1 for name in store.expression], dtype=np.int64)
    if scheme == POLARITY:
        classes = scheme_classes(scheme)
        for row, name in own_polarity(store).items():
            if name not in classes:
                raise DataError(
                    f"'{store.ids[row]}' of '{store.path}' has polarity '{name}': none of {', '.join(classes)}."
                )
            labels[row] = classes.index(name)
    return labels


def voted_labels(store: Store, scheme: str) -> IntArray:
    """(N,) int64 class in `scheme` of the expression with the most annotator votes (FER+, Barsoum et al. 2016, arXiv
    1608.01041); -1 without votes, for a tie, and where the scheme leaves that expression out.
    """
    votes = np.nan_to_num(store.votes)
    first = votes.max(axis=1, keepdims=True)
    clear = (first[:, 0] > 0) & ((votes == first).sum(axis=1) == 1)
    index = class_index(scheme)
    classes = np.array([index.get(name, -1) for name in EXPRESSIONS], dtype=np.int64)
    return np.where(clear, classes[votes.argmax(axis=1)], -1)


def own_polarity(store: Store) -> dict[int, str]:
    """Row -> class that the store itself names; empty where polarity follows from expressions."""
    return {row: str(values["polarity"]) for row, values in enumerate(store.attributes) if "polarity" in values}


def published_order(labels: IntArray, rows: Sequence[int] | IntArray) -> IntArray:
    """Rows as Luna-Jimenez et al. 2021 list AffectNet: all Positive, then Neutral, then Negative, else unmoved."""
    place = np.array([("Positive", "Neutral", "Negative").index(name) for name in scheme_classes(POLARITY)])
    chosen = np.asarray(rows, dtype=np.int64)
    return chosen[np.argsort(place[labels[chosen]], kind="stable")]
