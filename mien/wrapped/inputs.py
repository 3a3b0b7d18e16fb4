"""What a net's pictures go through, as it says itself or as its user says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mien.errors import UsageError, unknown_name
from mien.models.adapt import Inputs, first_line
from mien.schema import PREPROCESSING, Preprocessing

Classes = Sequence[str] | Mapping[int, str] | str | None
Steps = str | Preprocessing | Callable[..., Any] | None
SIZES = (224, 112, 64, 48, 128, 96, 256, 299, 40, 32, 380, 100)
"""Tried in this order where nothing says what size a net takes."""
PROBE = 2
"""Pictures of a trial."""


def inputs_of(net: nn.Module | None, preprocess: Steps, channels: int = 3) -> tuple[Inputs, list[str]]:
    """What the pictures go through, and a line where it was not said; `channels` where there is no net to look at."""
    parts = net.modules() if net is not None else ()
    first = next((part.in_channels for part in parts if isinstance(part, nn.Conv2d)), channels)
    colours = 1 if first == 1 else 3
    if isinstance(preprocess, str):
        if preprocess not in PREPROCESSING:
            raise unknown_name("preprocessing", preprocess, PREPROCESSING)
        return Inputs(PREPROCESSING[preprocess], colours=colours), []
    if isinstance(preprocess, Preprocessing):
        return Inputs(preprocess, colours=colours), []
    if preprocess is not None:
        mean, std = getattr(preprocess, "image_mean", None), getattr(preprocess, "image_std", None)
        if mean is not None and std is not None:
            plain = getattr(preprocess, "do_normalize", True) is not False
            steps = Preprocessing(tuple(mean), tuple(std)) if plain else Preprocessing((0.0,) * 3, (1.0,) * 3)
            scale = getattr(preprocess, "do_rescale", True) is not False
            return Inputs(steps if scale else steps._replace(scale=1.0), colours=colours), []
        if not callable(preprocess):
            raise UsageError(
                f"preprocess is a {type(preprocess).__name__}; give a name, a Preprocessing or a function."
            )
        return Inputs(None, preprocess, taken_by(preprocess), colours), []
    said = getattr(net, "pretrained_cfg", None) or getattr(net, "default_cfg", None) or {}
    if isinstance(said, Mapping) and said.get("mean") is not None and said.get("std") is not None:
        return Inputs(Preprocessing(tuple(said["mean"]), tuple(said["std"])), colours=colours), []
    if colours == 1:
        return Inputs(PREPROCESSING["grey"], colours=1), ["preprocess was not given: grey, (x - 0.5) / 0.5, is taken."]
    return Inputs(PREPROCESSING["imagenet"]), ["preprocess was not given: that of ImageNet's nets is taken."]


def taken_by(own: Callable[..., Any]) -> Any:
    """Whether a user's preprocessing takes tensors or one PIL picture, found by trying."""
    from PIL import Image

    errors = []
    try:
        made = own(torch.rand(PROBE, 3, 64, 64))
        if isinstance(made, Tensor) and made.dim() == 4 and len(made) == PROBE:
            return "tensor"
        errors.append(f"for (2, 3, 64, 64) it returned {shape_of(made)}")
    except Exception as error:  # whatever a function of the user raises for what it does not take
        errors.append(first_line(error))
    try:
        made = torch.as_tensor(own(Image.new("RGB", (64, 64))))
        if made.dim() == 3:
            return "picture"
        errors.append(f"for a PIL picture it returned {shape_of(made)}")
    except Exception as error:
        errors.append(first_line(error))
    raise UsageError(f"preprocess takes neither (B, 3, S, S) in [0, 1] nor a PIL picture: {'; '.join(errors)}.")


def shape_of(value: Any) -> str:
    """Shape of a value, or its type."""
    return str(tuple(value.shape)) if hasattr(value, "shape") else type(value).__name__
