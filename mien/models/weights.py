"""Weights of a backbone from a file, by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mien.errors import DataError
from mien.models.tokens import is_token_net, resized_positions

_WRAPPERS = ("state_dict", "model")


def load_weights(net: nn.Module, path: Path) -> None:
    """Load backbone weights by name from .safetensors or a plain .pth; every tensor of the net must be there.

    Position embeddings of a ViT that was trained at another size are resized to the grid of the net.

    Raises:
        DataError: no such file, not readable without running code, or tensors missing or of another shape.

    """
    state = {name.removeprefix("module."): value for name, value in read_state(path).items()}
    if is_token_net(net):
        state = resized_positions(net, state)
    own = net.state_dict()
    missing = [name for name in own if name not in state]
    wrong = [name for name in own if name in state and own[name].shape != state[name].shape]
    if missing or wrong:
        raise DataError(
            f"weights {path} do not fit: {len(missing)} tensors missing ({', '.join(missing[:2])}), "
            f"{len(wrong)} of another shape ({', '.join(wrong[:2])})."
        )
    net.load_state_dict({name: state[name] for name in own})


def read_state(path: Path) -> dict[str, Tensor]:
    """Named tensors of a file, dug out of the usual wrappers ({"state_dict": ...}); code in the file is never run."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise DataError(f"weights not found: {path}.") from error
    except Exception as error:  # safetensors and torch raise many kinds for a broken file
        raise DataError(f"cannot read weights {path}: {str(error).splitlines()[0]}") from error
    while isinstance(state, Mapping) and any(isinstance(state.get(name), Mapping) for name in _WRAPPERS):
        state = next(state[name] for name in _WRAPPERS if isinstance(state.get(name), Mapping))
    if not isinstance(state, Mapping):
        raise DataError(f"weights {path} hold a {type(state).__name__}; a state dict (name -> tensor) is needed.")
    return {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
