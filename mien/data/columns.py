"""Columns of a store that lies in parts: names as objects, and which part a row is in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.schema import IntArray


def shared_names(columns: Sequence[Any]) -> npt.NDArray[np.object_]:
    """(N,) str or None of Arrow columns, one a part, in which few names stand for many rows: each is kept once."""
    kept: dict[str | None, str | None] = {}
    found = [kept.setdefault(word, word) for column in columns for word in column.to_pylist()]
    return np.array([*found, None], dtype=object)[:-1]  # None keeps it an array of objects


def by_part(starts: IntArray, rows: IntArray) -> Iterator[tuple[int, IntArray, IntArray]]:
    """Part, rows of it from 0 on, and their places in `rows` (n,), of every part that some of them lie in.

    starts (parts + 1,) first row of each part, and the number of all rows.
    """
    parts = np.searchsorted(starts, rows, side="right") - 1
    order = np.argsort(parts, kind="stable")
    for places in np.split(order, np.flatnonzero(np.diff(parts[order])) + 1) if len(rows) else ():
        part = int(parts[places[0]])
        yield part, rows[places] - int(starts[part]), places
