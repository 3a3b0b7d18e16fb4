"""What `mien train` tells of its data, and which command comes after it."""

from __future__ import annotations

from pathlib import Path

from mien.checkpoint import read_run
from mien.config import Recipe


def next_command(recipe: Recipe, run: Path) -> str:
    """The `mien evaluate` that works for this run: not every store has test faces that it was not trained on."""
    if recipe.data.protocol == "complete":
        return f"mien evaluate {run} --store OTHER"
    tested = read_run(run)[1].get("rows", {}).get("test", 1)
    return f"mien evaluate {run}" if tested else f"mien evaluate {run} --split valid (the store has no test faces)"
