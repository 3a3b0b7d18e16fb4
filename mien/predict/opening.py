"""Whatever names a model, opened: a run, the bundled model, an ONNX file, a net or function of others. The one way in."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mien.config import DataConfig, ModelConfig, Recipe
from mien.data.framing import Framing
from mien.errors import DataError, UsageError
from mien.faces.pictures import BOX_MARGIN
from mien.predict.bundled import BUNDLED, bundled_run
from mien.predict.device import device_named
from mien.predict.photos import framing_of_run
from mien.schema import scheme_classes
from mien.training import checkpoint
from mien.training.hub import fetched
from mien.wrapped.classes import scheme_of
from mien.wrapped.model import WrappedModel
from mien.wrapped.wrap import from_code, wrap

FILES = (".onnx", ".py")
"""Suffixes of what is a file also where there is none of that name."""


class Opened(NamedTuple):
    """A model on its device, and what is known of it."""

    name: str
    net: Any
    """(B, 3, S, S) normalised pictures -> Output, its logits in the order of `classes`."""
    classes: tuple[str, ...]
    recipe: Recipe
    """Of a run; of a wrapped model one that holds its size, preprocessing and label scheme, all else as usual."""
    facts: dict[str, Any]
    """environment.json and the metadata of the checkpoint; empty for a wrapped model."""
    framing: Framing
    device: torch.device
    folder: Path | None
    """Run folder; None for a wrapped model."""
    wrapped: WrappedModel | None
    """What `mien.wrap` made; None for a run."""

    @property
    def has_layer(self) -> bool:
        """Whether it has maps of a layer, and so an attention."""
        return self.wrapped is None or self.wrapped.layer is not None


def opened(source: Any, *, classes: Any = None, device: str = "auto") -> Opened:
    """The model that is meant.

    Args:
        source: None or `bundled` for the bundled model, a run folder of `mien train` or its address hf://, an ONNX file,
            `FILE.py:FUNCTION` whose call returns a wrapped model, a WrappedModel, or what `mien.wrap` takes.
        classes: of what needs them: ONNX files of others, nets, functions.
        device: of runs; nets stay where they are.

    Raises:
        UsageError: it is no model. DataError: there is none, or it is damaged.

    """
    if isinstance(source, WrappedModel):
        return _of_wrapped(source)
    if source is None or (isinstance(source, str | Path) and str(source) == BUNDLED):
        return _of_run(bundled_run(), BUNDLED, device)
    if not isinstance(source, str | Path):
        return _of_wrapped(wrap(source, classes))
    if ".py:" in str(source):
        return _of_wrapped(from_code(str(source)))
    if Path(source).is_file() or (Path(source).suffix.lower() in FILES and not Path(source).is_dir()):
        return _of_wrapped(wrap(source, classes))
    folder = fetched(source)
    if not folder.exists():
        raise DataError(f"no model at '{source}': give a run folder, an ONNX file or FILE.py:FUNCTION.")
    return _of_run(folder, folder.resolve().name, device)


def _of_run(folder: Path, name: str, device: str) -> Opened:
    net, recipe, facts = checkpoint.load_model(folder)
    place = device_named(device)
    classes = scheme_classes(recipe.data.scheme)
    return Opened(
        name, net.to(place), classes, recipe, facts, framing_of_run(facts, recipe), place, folder, None
    )  # fmt: skip


def _of_wrapped(model: WrappedModel) -> Opened:
    model.module.eval()
    recipe = Recipe(
        data=DataConfig(scheme=scheme_of(model.classes)),
        model=ModelConfig(size=model.size, preprocessing=model.preprocessing),  # type: ignore[arg-type]
    )
    framing = model.framing or Framing(model.size, 3, "unknown", False, None)
    return Opened(model.name, model.module, model.classes, recipe, {}, framing, model.device, None, model)


def refuse_of_runs(
    found: Opened,
    device: str = "auto",
    calibration: str | None = None,
    precision: str = "32-true",
    runtime: str = "auto",
) -> None:
    """UsageError for an option that only runs have."""
    if found.wrapped is None:
        return
    given = {
        f"calibration {calibration} belongs to a run": calibration is not None,
        f"precision {precision} is for runs": precision != "32-true",
        f"runtime {runtime} is for runs": runtime not in ("auto", "torch"),
    }
    for reason, holds in given.items():
        if holds:
            raise UsageError(f"{reason}, and {found.name} is a model of others: leave it out.")
    if device != "auto" and device_named(device) != found.device:
        raise UsageError(
            f"{found.name} stays on {found.device}: leave the device out, or move the net where it is made."
        )


def tell_photos(name: str, wrapped: WrappedModel | None, finds_faces: bool) -> None:
    """Print on stderr what is taken for a wrapped model in photos, a line each; nothing for a run."""
    if wrapped is None:
        return
    if finds_faces and wrapped.framing is None:
        print(
            f"mien: {name}: how its training faces lie in their pictures is not known: the square of {1 + 2 * BOX_MARGIN:.1f} "
            "times the box of a face is taken; say mien.wrap(..., framing=...).",
            file=sys.stderr,
        )
    print(
        f"mien: {name}: nothing of the bundled model is applied to it: one view of each face unless --views says more, no "
        "calibration, no limits of pose or size, so it never abstains.",
        file=sys.stderr,
    )
