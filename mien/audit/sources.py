"""Whatever names a model, as one object that scores and audits ask: a run, the bundled model, a file, a net, a function."""

from __future__ import annotations

from typing import Any

import torch

from mien.data.framing import Framing
from mien.errors import UsageError
from mien.predict.calibration import read_calibration
from mien.predict.model import FaceModel
from mien.predict.opening import opened
from mien.schema import scheme_classes
from mien.training import checkpoint
from mien.wrapped.model import WrappedModel


def face_model(source: Any, *, classes: Any = None, device: str = "auto") -> WrappedModel:
    """The same object for whatever names a model.

    Args:
        source: what `mien.load` returned, or what `mien.predict.opening.opened` takes.
        classes: of what needs them: ONNX files of others, nets, functions.
        device: of runs; nets stay where they are.

    """
    if isinstance(source, FaceModel):
        return _loaded(source)
    found = opened(source, classes=classes, device=device)
    if found.wrapped is not None:
        return found.wrapped
    assert found.folder is not None
    temperature = read_calibration(found.folder, found.classes).apply(found.net).temperature
    return _of_classifier(found.name, found.net, found.recipe, found.framing, found.device, temperature)


def _loaded(model: FaceModel) -> WrappedModel:
    if model.wrapped is not None:
        return model.wrapped
    return _of_classifier(
        model.name, model.net, model.recipe, model.framing, model.device, model.calibration.temperature
    )


def _of_classifier(
    name: str, net: Any, recipe: Any, framing: Framing, device: torch.device, temperature: float
) -> WrappedModel:
    if net.transformer is not None and recipe.transformer.kind != "image":
        raise UsageError(
            f"{name}: its spatial transformer is guided by each face's landmarks, so it does not take faces alone; "
            "use `mien evaluate`."
        )
    if recipe.mask.evaluate:
        raise UsageError(
            f"{name}: its faces are masked by their cue when it answers (mask.evaluate); use `mien evaluate`."
        )
    classes = scheme_classes(recipe.data.scheme)
    return WrappedModel(
        name, classes, classes, recipe.model.size, net, checkpoint.weights_hash(net), "last layer", device, recipe.model.preprocessing,
        framing, temperature, kind="run",
    )  # fmt: skip
