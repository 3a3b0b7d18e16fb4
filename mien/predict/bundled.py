"""Where the bundled model lies: what is used when no run is named."""

from __future__ import annotations

from pathlib import Path

from mien.errors import DataError

WEIGHTS = Path(__file__).parent.parent / "weights"
"""Holds the run folder `expression`."""
BUNDLED = "bundled"
"""The name of the bundled model."""


def bundled_run() -> Path:
    """Run folder of the bundled model; DataError where this installation has none."""
    folder = WEIGHTS / "expression"
    if not (folder / "config.yaml").is_file():
        raise DataError("this installation has no bundled model; name a run folder of `mien train`.")
    return folder
