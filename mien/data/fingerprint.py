"""What makes two stores the same: a digest of their ids, pixels and labels in row order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from mien.data.arrow import TWINS
from mien.data.part_columns import numbers, texts

TEXTS, NUMBERS = ("id", "digest", "split", "subject", "expression"), ("votes", "action_units", "landmarks", "pose")
DECIDING = ("polarity", "fold")
"""Attributes that say what a face's label under polarity-3 is, and in which fold it lies."""


def fingerprint(batches: Iterable[Any]) -> str:
    """sha256 over ids, pixel digests and labels in row order, and where a row has them the attributes that are labels or splits
    (DECIDING) and the groups of TWINS; other attributes and the hash are left out.
    """
    hashes = {name: hashlib.sha256() for name in (*TEXTS, *NUMBERS)}
    deciding, found = hashlib.sha256(), False
    twins, grouped = hashlib.sha256(), False
    for batch in batches:
        pairs = list(zip(*(twin_column(batch, name) for name in TWINS), strict=True))
        grouped = grouped or any(pair != (None, None) for pair in pairs)
        twins.update(_lines(json.dumps(pair) if pair != (None, None) else "[null, null]" for pair in pairs))
        own = [_own(text or "{}") for text in texts(batch.column("attributes"))]
        found = found or any(text != "{}" for text in own)
        deciding.update(_lines(own))
        for name in TEXTS:
            values = texts(batch.column(name))
            hashes[name].update(_lines("null" if value is None else _quoted(value) for value in values))
        for name in NUMBERS:
            hashes[name].update(numbers(batch.column(name)).astype("<f4", copy=False).data)
    parts = [*hashes.values(), *([deciding] if found else []), *([twins] if grouped else [])]
    return hashlib.sha256(b"".join(value.digest() for value in parts)).hexdigest()


_quoted = json.encoder.encode_basestring_ascii
"""A text as `json.dumps` writes it, without the way there."""


def _lines(words: Iterable[str]) -> bytes:
    """Each text with the end of a line."""
    return "".join([f"{text}\n" for text in words]).encode()


def _own(attributes: str) -> str:
    """Of a face's attributes (JSON) those of DECIDING, as JSON."""
    if not any(name in attributes for name in DECIDING):
        return "{}"
    value = json.loads(attributes)
    return json.dumps({name: value[name] for name in DECIDING if name in value}, sort_keys=True)


def twin_column(batch: Any, name: str) -> list[str | None]:
    """A column of TWINS, None throughout where the part has none."""
    return texts(batch.column(name)) if name in batch.schema.names else [None] * batch.num_rows
