"""`run.precision auto`: bfloat16 where the device is faster in it, float32 elsewhere."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Literal

import torch

Bfloat16 = Literal["faster", "slower", "emulated"]
"""Training in bfloat16 beside float32 on a processor: AMX multiplies tiles of it; AVX-512 BF16 alone multiplies it, too, but
converts more than it saves; others emulate it (`python benchmarks/precision.py`)."""
HALF = ("bf16-mixed", "bf16-true", "16-mixed", "16-true")
"""Precisions with half the bits."""
SLOW = {
    "emulated": "this processor does not compute in half precision but emulates it, which was 8 to 16 times slower",
    "slower": "this processor has no AMX, and half precision was 1.0 to 1.9 times slower than float32",
}
"""What is told where somebody asks for half precision on such a processor."""


def resolve_precision(precision: str, accelerator: str) -> str:
    """The precision of lightning-fabric for `run.precision` and `run.accelerator`; `auto` depends on the machine.

    auto is bf16-mixed on a GPU that has bfloat16, and on a processor with AMX; else 32-true. A line on stderr where half
    precision is asked for on a processor that gains nothing by it.
    """
    device = device_kind(accelerator)
    fast = torch.cuda.is_bf16_supported(including_emulation=False) if device == "cuda" else (
        device == "cpu" and bfloat16_here() == "faster"
    )  # fmt: skip
    if precision == "auto":
        return "bf16-mixed" if fast else "32-true"
    if device == "cpu" and precision in HALF and not fast:
        words = SLOW["slower" if bfloat16_here() == "slower" else "emulated"]
        print(
            f"mien: run.precision {precision}: {words} where it was measured; take --run.precision auto.",
            file=sys.stderr,
        )
    return precision


def device_kind(accelerator: str) -> str:
    """cuda, mps or cpu: what lightning-fabric takes for `run.accelerator`."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "cuda"
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return "mps"
    return "cpu"


@functools.cache
def bfloat16_here(cpuinfo: Path = Path("/proc/cpuinfo")) -> Bfloat16:
    """How this processor trains in bfloat16, by its flags; `emulated` where the system does not tell them (not Linux)."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "emulated"
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "").split()
    if "amx_bf16" in flags:
        return "faster"
    return "slower" if "avx512_bf16" in flags else "emulated"
