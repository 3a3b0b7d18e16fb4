"""What makes two stores the same: a digest of their ids, pixels and labels in row order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from mien.data.arrow import TWINS

DECIDING = ("polarity", "fold")
"""Attributes that say what a face's label under polarity-3 is, and in which fold it lies."""


def fingerprint(batches: Iterable[Any]) -> str:
    """sha256 over ids, pixel digests and labels in row order, and where a row has them the attributes that are labels or splits
    (DECIDING) and the groups of TWINS; other attributes and the hash are left out.
    """
    texts, numbers = ("id", "digest", "split", "subject", "expression"), ("votes", "action_units", "landmarks", "pose")
    hashes = {name: hashlib.sha256() for name in (*texts, *numbers)}
    deciding, found = hashlib.sha256(), False
    twins, grouped = hashlib.sha256(), False
    for batch in batches:
        for pair in zip(*(twin_column(batch, name) for name in TWINS), strict=True):
            grouped = grouped or pair != (None, None)
            twins.update(f"{json.dumps(pair)}\n".encode())
        for value in map(json.loads, batch.column("attributes").to_pylist()):
            own = {name: value[name] for name in DECIDING if name in value}
            found = found or bool(own)
            deciding.update(f"{json.dumps(own, sort_keys=True)}\n".encode())
        for name in texts:
            for value in batch.column(name).to_pylist():
                hashes[name].update(f"{json.dumps(value)}\n".encode())
        for name in numbers:
            values = batch.column(name).flatten().to_numpy(zero_copy_only=False).astype("<f4")
            hashes[name].update(values.tobytes())
    parts = [*hashes.values(), *([deciding] if found else []), *([twins] if grouped else [])]
    return hashlib.sha256(b"".join(value.digest() for value in parts)).hexdigest()


def twin_column(batch: Any, name: str) -> list[str | None]:
    """A column of TWINS, None throughout where the part has none."""
    return list(batch.column(name).to_pylist()) if name in batch.schema.names else [None] * batch.num_rows
