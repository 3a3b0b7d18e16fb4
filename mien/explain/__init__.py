"""Where the model looks: raw maps of a model's evidence for a class.

`explain` is the one call most users need. ReLU, min-max and resize are separate named calls (`evidence` here, the others
in `mien.maps`), so that a score never normalises twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from mien.errors import UsageError, unknown_name
from mien.explain.builtin import CAM_FAMILY, SAME_AS, cam, cam_family, flat_grad_input, gap_weight
from mien.explain.gradient import (
    GRADIENT_MAPS,
    grad_cam,
    grad_cam_pp,
    grad_cam_pp_as_coded,
    grad_input,
    gradients,
    hires_cam,
    layer_cam,
    xgrad_cam,
)
from mien.explain.perturbation import (
    LAYERLESS,
    PERTURBATION_MAPS,
    Sampling,
    check,
    is_cam,
    occlusion,
    score_cam,
    smooth_grad_cam_pp,
    ss_cam,
)
from mien.explain.tokens import TOKEN_MAPS, attention, rollout, ts_cam
from mien.maps import to_input
from mien.schema import Output, layer_index

__all__ = [
    "CAM_FAMILY",
    "DEFAULT_METHODS",
    "EXPLAINERS",
    "GRADIENT_MAPS",
    "LAYERLESS",
    "PERTURBATION_MAPS",
    "TOKEN_MAPS",
    "Explainer",
    "Sampling",
    "attention",
    "cam",
    "cam_family",
    "evidence",
    "explain",
    "explain_with_output",
    "fitting",
    "gap_weight",
    "grad_cam",
    "grad_cam_pp",
    "grad_cam_pp_as_coded",
    "grad_input",
    "gradients",
    "hires_cam",
    "is_cam",
    "layer_cam",
    "left_as_found",
    "method_names",
    "occlusion",
    "resolve_target",
    "rollout",
    "score_cam",
    "smooth_grad_cam_pp",
    "ss_cam",
    "ts_cam",
    "xgrad_cam",
]


class Explainer(NamedTuple):
    """One row of EXPLAINERS."""

    kind: Literal["output", "gradient", "perturbation"]
    """What `function` takes. output: (output, target), a map that the model itself returns. gradient: (features, gradient
    of the target's logit). perturbation: (passes, images, output, index, target, sampling), further passes."""
    function: Callable[..., Tensor]
    """-> raw map (B, 1, h, w); UsageError for a model that it does not fit."""


EXPLAINERS: dict[str, Explainer] = {
    "cam": Explainer("output", cam),
    **{name: Explainer("output", function) for name, function in TOKEN_MAPS.items()},
    **{name: Explainer("gradient", function) for name, function in GRADIENT_MAPS.items()},
    **{name: Explainer("perturbation", function) for name, function in PERTURBATION_MAPS.items()},
}
"""Name -> kind and function; `explain` calls each rightly."""

DEFAULT_METHODS = ("cam", "grad_cam", "grad_cam_pp", "layer_cam")
"""What `explain` returns where nothing else is asked for; `mien evaluate` adds TOKEN_MAPS where they fit."""


def explain(
    model: nn.Module,
    images: Tensor,
    target: Tensor | int | None = None,
    methods: Sequence[str] = DEFAULT_METHODS,
    layer: int = -1,
    sampling: Sampling = Sampling(),  # noqa: B008
    guide: Tensor | None = None,
) -> dict[str, Tensor]:
    """Raw maps of `methods` for one class an image, in eval mode; the model is left as it was found.

    One forward pass gives the maps that the model returns itself. A GAP + linear head at the last layer takes the closed
    forms for the gradient maps: nothing more is needed. Otherwise the same forward pass and one backward pass give all
    gradient maps together. Perturbation methods add passes of their own. Modes, `.grad`, `requires_grad` and hooks stay
    untouched, also when an error is raised.

    Args:
        model: images -> Output.
        images: (B, 3, H, W) normalised.
        target: class index for all, (B,) class indices, or None for the predicted class.
        methods: names of EXPLAINERS.
        layer: 1 is the shallowest, -1 the last. Maps that the model itself returns exist at the last layer only.
        sampling: number of samples, seed and chunk of methods that look at changed images.
        guide: what `Batch.guide` holds, for a model with a spatial transformer; changed images keep it.

    Returns:
        Method -> (B, 1, h, w) detached raw map at the resolution of the layer, as it lies on `images`: behind a spatial
        transformer it is brought back (`maps.to_input`).

    """
    return explain_with_output(model, images, target, methods, layer, sampling, guide)[1]


def explain_with_output(
    model: nn.Module,
    images: Tensor,
    target: Tensor | int | None = None,
    methods: Sequence[str] = DEFAULT_METHODS,
    layer: int = -1,
    sampling: Sampling = Sampling(),  # noqa: B008
    guide: Tensor | None = None,
) -> tuple[Output, dict[str, Tensor]]:
    """As `explain`, and the detached Output of the same forward pass."""
    of_kind = _by_kind(methods)
    check(sampling)
    with left_as_found(model), torch.inference_mode(False):
        images = images.detach().clone()
        graph = bool(of_kind["gradient"]) and (layer != -1 or not hasattr(getattr(model, "head", None), "weight"))
        output = _forward(model, images, guide, graph)
        count = len(output.features)
        index = layer_index(layer, count) if count else _no_layer(methods)
        chosen = resolve_target(output, target)
        maps: dict[str, Tensor] = {}
        for name in of_kind["output"]:
            if index != count - 1:
                raise UsageError(f"{name} exists at the last layer only, not at layer {layer}; leave it out.")
            maps[name] = EXPLAINERS[name].function(output, chosen)
        if count and index == count - 1 and len(maps) < len(methods):
            maps |= _closed_forms(model, output, chosen, methods)
        slopes = [name for name in of_kind["gradient"] if name not in maps]
        if slopes:
            traced = output if graph else _forward(model, images, guide, True)
            gradient = gradients(traced.logits.gather(1, chosen[:, None]), traced.features[index])
            features = traced.features[index].detach()
            maps |= {name: EXPLAINERS[name].function(features, gradient) for name in slopes}
        maps = {name: to_input(map_, output.theta) for name, map_ in maps.items()}

        def again(changed: Tensor, rows: Tensor) -> Output:
            return _call(model, changed, None if guide is None else guide[rows])

        for name in of_kind["perturbation"]:
            if name not in maps:
                maps[name] = EXPLAINERS[name].function(again, images, output, index, chosen, sampling)
    return _detached(output), {name: maps[name].detach() for name in methods}


def evidence(name: str, raw: Tensor) -> Tensor:
    """The part of a raw map that speaks for the class, as it is scored and drawn.

    Maps that the model itself returns stay as they are, as published; of gradient and perturbation maps the positive part,
    with which their papers end.
    """
    return raw if EXPLAINERS[name].kind == "output" else raw.relu()


def fitting(
    model: nn.Module, images: Tensor, methods: Sequence[str] = DEFAULT_METHODS, guide: Tensor | None = None
) -> list[str]:
    """Those of `methods` that exist for this model at its last layer, tried on `images`; one image is enough."""
    fit = []
    for name in methods:
        try:
            explain(model, images, 0, (name,), sampling=Sampling(samples=1), guide=guide)
        except UsageError:
            continue
        fit.append(name)
    return fit


def method_names(methods: str) -> list[str]:
    """Names of EXPLAINERS out of a comma list, each once; UsageError for an unknown one."""
    names = list(dict.fromkeys(word.strip() for word in methods.split(",") if word.strip()))
    _by_kind(names)
    return names


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


def _no_layer(methods: Sequence[str]) -> int:
    """0 where these methods need no layer; UsageError, for a model without one, where one does."""
    for name in methods:
        if name not in LAYERLESS:
            raise UsageError(f"{name}: of this model only answers are known, no layer; use {', '.join(LAYERLESS)}.")
    return 0


def _by_kind(methods: Sequence[str]) -> dict[str, list[str]]:
    kinds: dict[str, list[str]] = {"output": [], "gradient": [], "perturbation": []}
    for name in methods:
        if name not in EXPLAINERS:
            raise unknown_name("explainer", name, EXPLAINERS)
        kinds[EXPLAINERS[name].kind].append(name)
    return kinds


def _closed_forms(model: nn.Module, output: Output, target: Tensor, methods: Sequence[str]) -> dict[str, Tensor]:
    """Gradient maps of a GAP + linear head by name; none for another head."""
    weight = gap_weight(model, output)
    if weight is None:
        return {}
    family = cam_family(output, weight, target)
    if "grad_input" in methods:
        family["grad_input"] = flat_grad_input(output, weight, target)
    return {**family, **{name: family[other] for name, other in SAME_AS.items()}}


def _forward(model: nn.Module, images: Tensor, guide: Tensor | None, graph: bool) -> Output:
    # A leaf of our own gives a frozen model a graph too, and the caller's tensor is not touched.
    with torch.set_grad_enabled(graph):
        return _call(model, images.detach().requires_grad_(graph), guide)


def _call(model: nn.Module, images: Tensor, guide: Tensor | None) -> Output:
    output: Output = model(images) if guide is None else model(images, guide=guide)
    return output


def _detached(output: Output) -> Output:
    def bare(value: Any) -> Any:
        return tuple(map(bare, value)) if isinstance(value, tuple) else None if value is None else value.detach()

    return Output(*map(bare, output))
