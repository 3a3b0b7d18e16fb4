"""A graph as a file that gives what PyTorch gives, or no file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mien import maps
from mien.errors import DataError
from mien.export.formats import WRITERS, Written, other_formats, quietly, reason_of

BATCHES = (1, 32)
"""Batch sizes at which a written file is checked; the graph is traced at another."""
TOLERANCE = 1e-4
"""Largest difference from PyTorch, as a share of the largest value of the output."""
LEAST_PEAK = 0.01
"""Outputs that stay below this are measured against it: relative to noise around zero, any rounding is large."""
DRAWN = 4
"""Synthetic faces that the check draws; the others of a batch are these, shifted."""


@torch.no_grad()
def write_checked(graph: Written, inputs: Tensor, file: Path, kind: str, meta: dict[str, Any], title: str) -> float:
    """Write a graph and compare the file with PyTorch at BATCHES; the largest difference.

    `inputs` are as many as the largest batch. DataError where it cannot be written, or differs by more than TOLERANCE.
    """
    _, write, read = WRITERS[kind]
    try:
        with quietly():
            write(graph, inputs[:2], file, meta)
    except Exception as error:  # whatever a converter raises: its kinds change from version to version
        raise DataError(f"{title} cannot be written as {kind}: {reason_of(error)}.{other_formats(kind)}") from error
    worst = largest_difference(graph, read(file), inputs)
    if max(worst.values()) > TOLERANCE:
        name = max(worst, key=lambda key: worst[key])
        raise DataError(
            f"{title} as {kind} differs from PyTorch by {worst[name]:.1e} of the largest {name} (allowed: {TOLERANCE:g}); "
            f"nothing was kept.{other_formats(kind)}"
        )
    return max(worst.values())


def drawn_faces(size: int) -> Tensor:
    """(B, 3, size, size) uint8 RGB: synthetic faces, and shifted ones, as many as the largest batch of the check."""
    from mien.synthetic.sample import faces

    drawn = [record.image for record in faces(DRAWN, size=max(size, 32), seed=1)]
    pixels = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2)  # type: ignore[arg-type]
    few = maps.resize(pixels.float(), (size, size)).round().to(torch.uint8)
    return torch.cat([few.roll(step, dims=-1) for step in range(max(BATCHES) // DRAWN)]).contiguous()


def largest_difference(graph: Written, call: Callable[[Tensor], dict[str, Tensor]], inputs: Tensor) -> dict[str, float]:
    """Output name -> largest difference from PyTorch over BATCHES, as a share of its largest value there.

    Infinite where a name or a shape differs, or a value is no number.
    """
    worst: dict[str, float] = {}
    for batch in BATCHES:
        wanted, found = graph(inputs[:batch]), call(inputs[:batch])
        for name, value in wanted.items():
            other = found.get(name)
            if other is None or other.shape != value.shape:
                share = float("inf")
            else:
                share = float((other - value).abs().max() / value.abs().max().clamp_min(LEAST_PEAK))
            worst[name] = max(worst.get(name, 0.0), share if np.isfinite(share) else float("inf"))
    return worst
