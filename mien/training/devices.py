"""Devices and processes that a training runs on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, cast

import torch

from mien.compat import ensure_torchvision
from mien.errors import DataError, UsageError
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
        """`auto` or `ddp`."""
        ...

    @property
    def workers(self) -> int:
        """Loader processes."""
        ...


def started_by() -> tuple[str, int, int] | None:
    """(program, processes on each machine, machines) where torchrun or SLURM's srun started this process, else None."""
    here = os.environ
    if "TORCHELASTIC_RUN_ID" in here:
        each = int(here.get("LOCAL_WORLD_SIZE", "1"))
        return "torchrun", each, int(here.get("WORLD_SIZE", "1")) // each
    if "SLURM_NTASKS" in here and here.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        machines = int(here.get("SLURM_NNODES", "1"))
        return "SLURM", int(here["SLURM_NTASKS"]) // machines, machines
    return None


def refuse_other_number(devices: int, machines: int) -> None:
    """UsageError where torchrun or SLURM started another number of processes than a recipe asks for.

    They would wait for each other for ever, or each train for itself into the same folder.
    """
    found = started_by()
    if found is not None and found[1:] != (devices, machines):
        program, each, nodes = found
        raise UsageError(
            f"{program} started {each} processes on each of {nodes} machines, but run.devices is {devices} and run.num_nodes "
            f"{machines}; give --run.devices {each} --run.num_nodes {nodes}, or start as many."
        )
    if found is None and machines > 1 and "MASTER_ADDR" not in os.environ:
        raise UsageError(
            f"run.num_nodes is {machines}; start the training on each machine with torchrun or SLURM's srun."
        )


def open_fabric(run: Machine, precision: str, machines: int = 1) -> Fabric:
    """Devices as a recipe asks for them, launched; UsageError for what this machine does not have.

    Further processes of one training end with the first one, however that ends.
    """
    refuse_other_number(run.devices, machines)
    cores = os.cpu_count() or 1
    if device_kind(run.accelerator) == "cpu" and run.devices > cores:
        raise UsageError(f"run.devices is {run.devices}, but this machine has {cores} cores; lower it.")
    if run.workers > max(cores, FEW_WORKERS):
        raise UsageError(f"run.workers is {run.workers}, but this machine has {cores} cores; lower it.")
    if os.environ.get("LOCAL_RANK", "0") != "0":
        follow_parent()
    try:
        fabric = Fabric(
            accelerator=run.accelerator, devices=run.devices, num_nodes=machines, strategy=run.strategy,
            precision=cast(Any, precision),
        )  # fmt: skip
    except (ValueError, RuntimeError, TypeError, ImportError) as error:
        raise UsageError(f"run: {' '.join(str(error).split())}") from error
    fabric.launch()
    return fabric


LOST = ("gloo", "nccl", "c10d", "tcpstore", "connection closed", "connection reset", "broken pipe")
"""Words of the errors of PyTorch's backends when a process at the other end is gone."""


@contextmanager
def together() -> Iterator[None]:
    """DataError, one line, where another process of this training ended while this one waited for it."""
    try:
        yield
    except RuntimeError as error:
        told = str(error).lower()
        shared = torch.distributed.is_available() and torch.distributed.is_initialized()
        if not shared or not (isinstance(error, torch.distributed.DistError) or any(word in told for word in LOST)):
            raise
        raise DataError(
            "another process of this training ended, its own message says why; what was finished is kept, the same command "
            "resumes."
        ) from error


GIB = 2**30


def memory_line(
    device: torch.device, status: Path = Path("/proc/self/status"), system: Path = Path("/proc/meminfo")
) -> str:
    """What a training holds before its first step and what is left of the device's memory; "" where that is not known."""
    if device.type == "cuda":
        free, whole = torch.cuda.mem_get_info(device)
        reserved = torch.cuda.memory_reserved(device)
        return f"memory: {reserved / GIB:.1f} GiB reserved, {free / GIB:.1f} of {whole / GIB:.1f} GiB left on {device}"
    try:
        found = ((status, "VmRSS"), (system, "MemAvailable"), (system, "MemTotal"))
        held, left, total = (_kilobytes(file, key) * 1024 / GIB for file, key in found)
    except (OSError, ValueError):  # not Linux
        return ""
    return f"memory: {held:.1f} GiB in use, {left:.1f} of {total:.1f} GiB left on this machine"


def _kilobytes(file: Path, key: str) -> int:
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1])
    raise ValueError(key)


def machine_facts(fabric: Fabric, precision: str) -> dict[str, Any]:
    """What environment.json says of the computation: precision, processes, and where float32 products are rounded (TF32).

    TF32 rounds the factors to 10 bits on GPUs. The settings are PyTorch's, which Mien leaves alone.
    """
    on_gpu = fabric.device.type == "cuda"
    return {
        "precision": precision,
        "processes": fabric.world_size,
        "tf32": {
            "matrix_products": on_gpu and torch.get_float32_matmul_precision() != "highest",
            "convolutions": on_gpu and bool(torch.backends.cudnn.allow_tf32),
        },
    }
