"""`mien audet predict`: action units of every face of a store, as a file that cues can be drawn from."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mien.audet.embed import device_of, outputs
from mien.audet.run import load_audet, read_run
from mien.data.au_table import write_unit_table
from mien.data.store import open_store
from mien.schema import FloatArray

FULL = 5.0
"""Intensity of a unit that is present with probability 1."""


def predict_audet(run: Path, data: Path, out: Path, batch: int = 64) -> FloatArray:
    """Predict the action units of every face of a store and write them as `id,AU1,...`, intensities 0-5.

    A net of occurrence has no intensities: its probabilities are written times 5, so that half a chance is 2.5.

    Returns:
        (N, A) of what was written, one column a unit of the run.

    """
    cfg, _ = read_run(run)
    net, store = load_audet(run), open_store(data)
    rows = np.arange(len(store))
    scale = 1.0 if net.regresses else FULL
    parts = [
        output.action_units.float().cpu().numpy() for _, output in outputs(net, store, rows, device_of(cfg), batch)
    ]
    values: FloatArray = np.clip(np.concatenate(parts) * scale, 0, FULL).astype(np.float32)
    write_unit_table(out, [str(name) for name in store.ids], net.action_units, values)
    what = "intensities" if net.regresses else "probabilities x 5"
    print(f"{out}: {len(values)} faces, {what} of {', '.join(net.action_units)}")
    return values
