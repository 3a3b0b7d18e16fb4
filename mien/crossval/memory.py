"""How many trainings fit side by side on this machine."""

from __future__ import annotations

from pathlib import Path

from mien.config import Recipe
from mien.progress import default_workers

PROCESS = 2**30
"""Bytes of a process before the first batch: libraries, the store's labels, weights and optimiser of a small net."""
BYTES_A_PIXEL = 4096
"""Activations and their gradients for each input pixel of a batch: that of a ResNet-50, more than smaller nets need."""


def workers_that_fit(recipe: Recipe) -> int:
    """One a core as far as free memory goes, by a rough upper estimate; one where a GPU trains."""
    import torch

    on_cpu = recipe.run.accelerator == "cpu" or (
        recipe.run.accelerator == "auto" and not torch.accelerator.is_available()
    )
    if not on_cpu:
        return 1
    each = PROCESS + BYTES_A_PIXEL * recipe.optim.batch * recipe.model.size**2
    return max(1, min(default_workers(), free_memory() // each))


def free_memory() -> int:
    """Bytes that this process may still take: of the machine, and of its control group where that has a limit."""
    free = [2**62]
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free.append(int(lines["MemAvailable"].split()[0]) * 1024)
    except (OSError, KeyError, ValueError):  # not Linux: cores alone decide
        pass
    try:
        group = Path("/sys/fs/cgroup")
        limit, used = ((group / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        free.append(int(limit) - int(used))
    except (OSError, ValueError):  # no control group, or "max": no limit
        pass
    return max(0, min(free))
