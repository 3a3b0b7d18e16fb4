"""Where the model looks: raw maps of a model's evidence for a class.

`explain` is the one call most users need. ReLU, min-max and resize are separate named calls in `mien.maps`, so that a
score never normalises twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mien.errors import UsageError, unknown_name
from mien.explain.builtin import CAM_FAMILY, cam, cam_family, gap_weight
from mien.explain.gradient import GRADIENT_MAPS, grad_cam, grad_cam_pp, grad_cam_pp_as_coded, gradients, layer_cam
from mien.schema import Output

__all__ = [
    "CAM_FAMILY",
    "DEFAULT_METHODS",
    "EXPLAINERS",
    "GRADIENT_MAPS",
    "cam",
    "cam_family",
    "explain",
    "gap_weight",
    "grad_cam",
    "grad_cam_pp",
    "grad_cam_pp_as_coded",
    "gradients",
    "layer_cam",
    "left_as_found",
    "resolve_target",
]

EXPLAINERS: dict[str, Callable[..., Tensor]] = {"cam": cam, **GRADIENT_MAPS}
"""Name -> function. `cam` takes (output, target), the others (features, gradient); `explain` calls each rightly."""

DEFAULT_METHODS = ("cam", "grad_cam", "grad_cam_pp", "layer_cam")


def explain(
    model: nn.Module,
    images: Tensor,
    target: Tensor | int | None = None,
    methods: Sequence[str] = DEFAULT_METHODS,
    layer: int = -1,
) -> dict[str, Tensor]:
    """Raw maps of `methods` for one class an image, in eval mode; the model is left as it was found.

    A GAP + linear head at layer -1 takes the closed forms: one forward pass without a graph. Other layers take one
    forward and one backward pass for all methods together, other heads one forward pass more. Modes, `.grad`,
    `requires_grad` and hooks stay untouched, also when an error is raised.

    Args:
        model: images -> Output.
        images: (B, 3, H, W) normalised.
        target: class index for all, (B,) class indices, or None for the predicted class.
        methods: names of EXPLAINERS.
        layer: which of Output.features; -1 is the last. `cam` exists at the last layer only.

    Returns:
        Method -> (B, 1, h, w) detached raw map at the resolution of the layer.

    """
    for name in methods:
        if name not in EXPLAINERS:
            raise unknown_name("explainer", name, EXPLAINERS)
    slopes = [name for name in methods if name != "cam"]
    with left_as_found(model), torch.inference_mode(False):
        graph = layer != -1
        output = _forward(model, images, graph)
        index, last = _layer_index(output, layer)
        if "cam" in methods and not last:
            raise UsageError(f"cam exists at the last layer only, not at layer {layer}; leave it out or use layer -1.")
        chosen = resolve_target(output, target)
        weight = gap_weight(model, output) if last else None
        if weight is not None:
            family = cam_family(output, weight, chosen)
            return {name: family[name].detach() for name in methods}
        maps = {"cam": cam(output, chosen).detach()} if "cam" in methods else {}
        if slopes:
            output = output if graph else _forward(model, images, True)
            score, features = output.logits.gather(1, chosen[:, None]), output.features[index]
            gradient = gradients(score, features)
            maps |= {name: GRADIENT_MAPS[name](features.detach(), gradient) for name in slopes}
    return {name: maps[name] for name in methods}


def resolve_target(output: Output, target: Tensor | int | None) -> Tensor:
    """Class index of every sample, (B,) int64: as given, or the predicted class; UsageError outside 0..K-1."""
    batch, classes = output.logits.shape
    if target is None:
        return output.logits.argmax(dim=1)
    chosen = torch.as_tensor(target, device=output.logits.device).to(torch.int64, copy=True)
    if chosen.dim() == 0:
        chosen = chosen.expand(batch)
    if tuple(chosen.shape) != (batch,):
        raise UsageError(f"target has shape {tuple(chosen.shape)}; expected ({batch},), one class index an image.")
    if bool(((chosen < 0) | (chosen >= classes)).any()):
        raise UsageError(f"target {chosen.tolist()} is outside 0..{classes - 1}; leave unlabelled images out.")
    return chosen


@contextmanager
def left_as_found(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; each module's own mode is back afterwards, also when an error is raised."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _layer_index(output: Output, layer: int) -> tuple[int, bool]:
    count = len(output.features)
    if not -count <= layer < count:
        raise UsageError(f"layer {layer} does not exist; this model has layers 0..{count - 1}, -1 is the last.")
    return layer % count, layer % count == count - 1


def _forward(model: nn.Module, images: Tensor, graph: bool) -> Output:
    # A leaf of our own gives a frozen model a graph too, and the caller's tensor is not touched.
    with torch.set_grad_enabled(graph):
        output: Output = model(images.detach().clone().requires_grad_(graph))
    return output
