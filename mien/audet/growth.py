"""Warnings of an adversarial training that goes astray: the embedding or the dependency grows where it should not."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mien.errors import DataError
from mien.training.checkpoint import read_log

MOST = 10.0
"""Times its value after the first epoch from which a number is told as growing."""
FLOOR = {"train_z1_variance": 10.0, "train_dependency": 1.0}
"""Number of a log line -> value under which it is never told, however small it began."""
WORDS = {
    "train_z1_variance": "the variance of z1",
    "train_dependency": "the dependency between z1 and z2",
}


def growing(lines: list[dict[str, Any]]) -> list[str]:
    """Numbers of FLOOR that are, in the last of the log's lines, MOST times what they were in the first, and above FLOOR."""
    found = []
    for name, least in FLOOR.items():
        values = [line[name] for line in lines if name in line]
        if len(values) > 1 and values[-1] > max(least, MOST * abs(values[0])):
            found.append(name)
    return found


def tell_growth(run: Path) -> None:
    """A line on stderr for each number of a run's log that has begun to grow in its last epoch."""
    try:
        lines = read_log(run / "log.jsonl")
    except DataError as error:
        print(f"mien: {error} Whether a number grows is not told.", file=sys.stderr)
        return
    before = growing(lines[:-1])
    for name in (name for name in growing(lines) if name not in before):
        first, last = (next(line[name] for line in order if name in line) for order in (lines, reversed(lines)))
        print(
            f"mien: {WORDS[name]} has grown from {first:.3g} to {last:.3g}: the dependency drives the embedding, and the action "
            "units out of it; lower loss.discriminator_loss_lambda, or take loss.dependency distance_correlation.",
            file=sys.stderr,
        )
