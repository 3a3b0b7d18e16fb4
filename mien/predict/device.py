"""The device that a person names."""

from __future__ import annotations

import torch

from mien.errors import UsageError


def device_named(name: str) -> torch.device:
    """Device that is there; UsageError for another."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        there = "auto, cpu or cuda" if torch.cuda.is_available() else "auto or cpu"
        raise UsageError(f"device '{name}' cannot be used here; take {there}.") from error
    return device
