"""Ten lines in plain words, each with its number; no overall grade."""

from __future__ import annotations

from collections.abc import Sequence

from mien.audit.table import Part, unsigned_zero

LINES = 10
FIRST = {"right": 2, "sure": 1, "groups": 1, "corruptions": 2, "explanation": 2, "follow": 2}
"""Sentences that each part has in the ten; what parts do not use, others may."""


def verdict(parts: Sequence[Part]) -> list[str]:
    """At most LINES sentences of the parts that were done, in their order, none that has no number behind it."""
    room = {part.key: min(len(part.verdict), FIRST.get(part.key, 1)) for part in parts}
    left = LINES - sum(room.values())
    for part in parts:
        more = min(left, len(part.verdict) - room[part.key])
        room[part.key] += max(0, more)
        left -= max(0, more)
    return [unsigned_zero(sentence) for part in parts for sentence in part.verdict[: room[part.key]]]
