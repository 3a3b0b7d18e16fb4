"""Devices and processes that a training runs on."""

from __future__ import annotations

import os
from typing import Any, Protocol, cast

from mien.compat import ensure_torchvision
from mien.errors import UsageError
from mien.models.precision import device_kind
from mien.progress import follow_parent

ensure_torchvision()
from lightning_fabric import Fabric  # noqa: E402

FEW_WORKERS = 16
"""So many loader processes are taken on every machine: shipped recipes ask for 8."""


class Machine(Protocol):
    """The section `run` of a recipe, or the run options of a cfg."""

    @property
    def accelerator(self) -> str:
        """auto, cpu, gpu, cuda or mps."""
        ...

    @property
    def devices(self) -> int:
        """Processes."""
        ...

    @property
    def strategy(self) -> str:
        """auto, ddp or fsdp."""
        ...

    @property
    def workers(self) -> int:
        """Loader processes."""
        ...


def open_fabric(run: Machine, precision: str) -> Fabric:
    """Devices as a recipe asks for them, launched; UsageError for what this machine does not have.

    Further processes of one training end with the first one, however that ends.
    """
    cores = os.cpu_count() or 1
    if device_kind(run.accelerator) == "cpu" and run.devices > cores:
        raise UsageError(f"run.devices is {run.devices}, but this machine has {cores} cores; lower it.")
    if run.workers > max(cores, FEW_WORKERS):
        raise UsageError(f"run.workers is {run.workers}, but this machine has {cores} cores; lower it.")
    if os.environ.get("LOCAL_RANK", "0") != "0":
        follow_parent()
    try:
        fabric = Fabric(
            accelerator=run.accelerator, devices=run.devices, strategy=run.strategy, precision=cast(Any, precision)
        )
    except (ValueError, RuntimeError, TypeError, ImportError) as error:
        raise UsageError(f"run: {' '.join(str(error).split())}") from error
    fabric.launch()
    return fabric
