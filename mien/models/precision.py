"""`run.precision auto`: bfloat16 where the device computes in it, float32 elsewhere."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import torch

BFLOAT16_FLAGS = ("amx_bf16", "avx512_bf16")
"""Processor flags of Linux: products of bfloat16 numbers in hardware. AVX2 and plain AVX-512 emulate them."""
HALF = ("bf16-mixed", "bf16-true", "16-mixed", "16-true")
"""Precisions whose matrix products an ordinary processor emulates."""
SLOW = (
    "mien: run.precision {precision}: this processor does not compute in half precision but emulates it, which was 8 to 16 "
    "times slower where it was measured; take --run.precision auto."
)


def resolve_precision(precision: str, accelerator: str) -> str:
    """The precision of lightning-fabric for `run.precision` and `run.accelerator`; `auto` depends on the machine.

    auto is bf16-mixed on a GPU that has bfloat16, and on a processor with AMX or AVX-512 BF16; else 32-true. A line on
    stderr where half precision is asked for on a processor that emulates it.
    """
    device = device_kind(accelerator)
    fast = torch.cuda.is_bf16_supported(including_emulation=False) if device == "cuda" else (
        device == "cpu" and computes_bfloat16()
    )  # fmt: skip
    if precision == "auto":
        return "bf16-mixed" if fast else "32-true"
    if device == "cpu" and precision in HALF and not fast:
        print(SLOW.format(precision=precision), file=sys.stderr)
    return precision


def device_kind(accelerator: str) -> str:
    """cuda, mps or cpu: what lightning-fabric takes for `run.accelerator`."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "cuda"
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return "mps"
    return "cpu"


@functools.cache
def computes_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor multiplies bfloat16 numbers in hardware; False where the system does not tell (not Linux)."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "").split()
    return any(flag in flags for flag in BFLOAT16_FLAGS)
