"""Whatever names a model, as one object: a run, the bundled model, a file, a net, a function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mien.audit.model import WrappedModel
from mien.audit.wrap import from_code, wrap
from mien.data.framing import Framing
from mien.errors import UsageError
from mien.predict.bundled import BUNDLED, bundled_run
from mien.predict.calibration import read_calibration
from mien.predict.device import device_named
from mien.predict.photos import framing_of_run
from mien.schema import scheme_classes
from mien.training import checkpoint
from mien.training.hub import fetched


def face_model(source: Any, *, classes: Any = None, device: str = "auto") -> WrappedModel:
    """The same object for whatever names a model.

    Args:
        source: a WrappedModel, what `mien.load` returned, a run folder of `mien train`, `bundled` (or None) for the bundled model,
            an ONNX file, `FILE.py:FUNCTION` whose call returns a wrapped model, or what `mien.wrap` takes.
        classes: of what needs them: ONNX files of others, nets, functions.
        device: of runs; nets stay where they are.

    """
    if isinstance(source, WrappedModel):
        return source
    if source is None or (isinstance(source, str | Path) and str(source) == "bundled"):
        return _run(None, device)
    if isinstance(source, str | Path):
        text = str(source)
        if ".py:" in text:
            return from_code(text)
        if Path(source).is_dir():
            return _run(Path(source), device)
        return wrap(source, classes)
    if hasattr(source, "recipe") and hasattr(source, "net") and hasattr(source, "calibration"):  # mien.load
        return _loaded(source)
    return wrap(source, classes)


def _run(folder: Path | None, device: str) -> WrappedModel:
    """A run folder, its calibration applied."""
    path = bundled_run() if folder is None else fetched(folder)
    net, recipe, facts = checkpoint.load_model(path)
    place = device_named(device)
    calibration = read_calibration(path, scheme_classes(recipe.data.scheme)).apply(net.to(place))
    name = BUNDLED if folder is None else path.resolve().name
    return _of_classifier(name, net, recipe, framing_of_run(facts, recipe), place, calibration.temperature)


def _loaded(model: Any) -> WrappedModel:
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
