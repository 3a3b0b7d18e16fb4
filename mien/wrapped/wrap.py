"""`mien.wrap`: a torch net, an ONNX graph or a function becomes a model that Mien scores, explains and compares."""

from __future__ import annotations

import hashlib
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mien.data.framing import Framing, framing_of, kept_framing, read_framing
from mien.data.store import open_store
from mien.errors import DataError, MienError, UsageError, unknown_name
from mien.explain import left_as_found
from mien.models.adapt import Adapted, are_shares, choice_note, first_line, fitting_answers
from mien.models.taps import last_layer
from mien.schema import ByteArray, FloatArray
from mien.wrapped.boxes import from_function, from_onnx
from mien.wrapped.classes import expressions_of, kept_names, kept_of, read_classes
from mien.wrapped.inputs import PROBE, SIZES, Classes, Steps, inputs_of
from mien.wrapped.model import WrappedModel, tell

WEIGHTS = (".pt", ".pth", ".bin", ".safetensors", ".ckpt", ".h5", ".pkl", ".tflite")
"""Suffixes of what is no graph by itself."""


def wrap(
    net: nn.Module | Path | str | Callable[[ByteArray], FloatArray],
    classes: Classes = None,
    *,
    layer: str | None = "auto",
    preprocess: Steps = None,
    size: int | None = None,
    name: str | None = None,
    framing: Framing | Path | str | None = None,
) -> WrappedModel:
    """Any expression model, for `mien.load`, `mien.evaluate_model`, `mien.compare`, the audit and the explainers.

    The net is called in evaluation mode and left as it was found: device, precision, mode. What was chosen for it, and what it
    cannot give, is printed on stderr, a line each, and kept in `notes`.

    Args:
        net: torch module (timm, torchvision, an image classifier of Hugging Face, code of a paper: answers in a tuple, a dict or an
            object with logits are found), an ONNX file, or a function from (N, S, S, 3) uint8 faces to (N, K) probabilities.
        classes: names in the order of the answers, number -> name, or a published order: fer2013, rafdb, affectnet, ferplus. Nets
            of Hugging Face and graphs of `mien export` bring theirs.
        layer: whose maps are explained: its name in the net (`net.named_modules()`), None for none, or auto: the last that has
            more than one place which the gradient reaches. Nothing to an ONNX file or a function.
        preprocess: key of schema.PREPROCESSING, a `Preprocessing`, an image processor of Hugging Face, or a function from
            (B, 3, S, S) RGB in [0, 1] (or from one PIL picture) to what the net takes. By default what timm's configuration says,
            else imagenet. A function gets faces of its own `size` already.
        size: side of the faces in pixels; by default what the net says, else the first of a few usual ones that it takes.
        name: in tables; that of the class or file unless given.
        framing: how its training faces lie in their pictures: a prepared store or run folder whose faces lie so, or a `Framing`.
            Faces of photos and stores are then aligned with them; else those of a store are taken as they are, and of a photo the
            square around the box of a face.

    """
    known = framing_named(framing)
    if size is not None and (not isinstance(size, Integral) or isinstance(size, bool) or size < 1):
        raise UsageError(f"size is {size!r}; give the side of the square faces in pixels, a whole number above 0.")
    if isinstance(net, str | Path):
        refuse_other_files(Path(net))
        model = from_onnx(Path(net), classes, preprocess, size, name)
    elif isinstance(net, nn.Module):
        model = _from_module(net, classes, layer, preprocess, size, name)
    elif isinstance(net, type):
        raise UsageError(f"{net.__name__} is a class; give one of its objects, with its weights loaded.")
    elif isinstance(net, Mapping):
        raise UsageError(
            "a mapping of weights is no model; load it into its net (net.load_state_dict) and give the net."
        )
    elif callable(net):
        model = from_function(net, classes, size, name)
    else:
        raise UsageError(f"{type(net).__name__} is no model: give a torch module, an ONNX file or a function.")
    model = replace(model, framing=known)
    tell(model)
    return model


def refuse_other_files(file: Path) -> None:
    """UsageError for code without its function, and for weights without their net."""
    kind = file.suffix.lower()
    if kind == ".py":
        raise UsageError(f"{file} is code: name the function of it that returns a wrapped model, {file}:FUNCTION.")
    if kind in WEIGHTS and file.is_file():
        raise UsageError(
            f"{file} holds weights without their net: load them in a function that returns mien.wrap(net, ...), and give "
            "FILE.py:FUNCTION."
        )


def framing_named(framing: Framing | Path | str | None) -> Framing | None:
    """The framing that is meant; DataError where a store or run folder has none, UsageError for anything else."""
    if framing is None:
        return None
    if isinstance(framing, Framing):
        try:
            return read_framing({"framing": framing._asdict()}, "framing")
        except DataError:
            raise UsageError(
                f"{framing} cannot be: a size from 8 on, channels 1 or 3, points None or five (x, y) in pixels."
            ) from None
    if not isinstance(framing, str | Path):
        raise UsageError(f"framing is a {type(framing).__name__}; give a prepared store, a run folder or a Framing.")
    place = Path(framing)
    if (place / "environment.json").is_file():
        return kept_framing(place / "environment.json")
    store = open_store(place)
    found = framing_of(store, np.arange(len(store)))
    if found.points is None:
        raise DataError(f"{place} has no landmarks, so nothing can be aligned with its faces; leave framing out.")
    return found


def _from_module(
    net: nn.Module, classes: Classes, layer: str | None, preprocess: Steps, size: int | None, name: str | None
) -> WrappedModel:
    if any(part.is_meta for part in net.parameters()):
        raise UsageError("the net has no weights yet (device meta); load them first.")
    words = read_classes(classes if classes is not None else _own_classes(net))
    names = expressions_of(words)
    notes: list[str] = []
    keep, told = kept_of(words, names)
    inputs, more = inputs_of(net, preprocess)
    notes += [*told, *more]
    first = next((part for part in net.parameters() if part.is_floating_point()), torch.zeros(1))
    adapted = Adapted(net, len(words), inputs, None, keep=keep, head=_last_weights(net))
    side = _fitting_size(adapted, size or _own_size(net), first.device, notes, size is not None)
    images = torch.rand(PROBE, 3, side, side, generator=torch.Generator().manual_seed(0)).to(first.device)
    answers_probabilities = _probe_answers(adapted, images, notes)
    adapted.probabilities = answers_probabilities
    adapted.layer = _layer(adapted, layer, images, notes)
    return WrappedModel(
        name or type(net).__name__, *kept_names(names, words, keep), side, adapted, _identity(net), adapted.layer, first.device,
        notes=tuple(notes),
    )  # fmt: skip


def _layer(adapted: Adapted, layer: str | None, images: Tensor, notes: list[str]) -> str | None:
    """The named layer, tried; or the one that `auto` finds."""
    if layer is None:
        return None
    if layer != "auto" and layer not in dict(adapted.net.named_modules()):
        raise unknown_name("layer", layer, [one for one, _ in adapted.net.named_modules() if one])
    with left_as_found(adapted), torch.enable_grad():
        if layer != "auto":
            adapted.layer = layer
            if not adapted(images.clone().requires_grad_()).features:
                raise UsageError(f"layer {layer} returns no map (B, C, h, w) or tokens (B, N, C); name another.")
            return layer
        try:
            found = last_layer(adapted.net, lambda: adapted(images.clone().requires_grad_()).logits, len(images))
        except RuntimeError as error:
            notes.append(f"gradients cannot be taken ({first_line(error)}); only `occlusion` can explain it.")
            return None
    if found is None:
        notes.append(
            "no layer has places that a gradient reaches (no convolution or tokens); only `occlusion` can explain it."
        )
    else:
        notes.append(f"maps are those of layer {found}.")
    return found


def _fitting_size(adapted: Adapted, wanted: int | None, device: torch.device, notes: list[str], said: bool) -> int:
    """Side of pictures that the net takes: the one wanted, or the first of SIZES; UsageError with its own words where none fits."""
    reason = ""
    for side in (wanted,) if wanted else SIZES:
        try:
            with left_as_found(adapted), torch.no_grad():
                adapted(torch.zeros(PROBE, 3, side, side, device=device))
        except UsageError:
            raise
        except Exception as error:  # whatever a net of others raises for a size that it does not take
            reason = reason or f"{side} px: {first_line(error)}"
            continue
        if not said:
            notes.append(
                f"faces are {side} px{' as the net says' if wanted else ', the first usual size that it takes'}."
            )
        return side
    raise UsageError(
        f"the net does not take such pictures ({reason}); give size=... and preprocess=... as it was trained."
    )


def _probe_answers(adapted: Adapted, images: Tensor, notes: list[str]) -> bool:
    """True where the net answers with probabilities; a note where two passes of the same pictures differ."""
    kept, adapted.keep = adapted.keep, []  # of all classes the probabilities sum to 1
    with left_as_found(adapted), torch.no_grad():
        one, two = adapted(images).logits, adapted(images).logits
    adapted.keep = kept
    if not torch.isfinite(one).all():
        raise DataError("the net answers with numbers that are not finite; check its weights and precision.")
    notes += _choices(adapted, images)
    if not torch.allclose(one, two, rtol=1e-3, atol=1e-5):
        notes.append(
            "its answers differ from pass to pass (dropout that evaluation mode does not switch off?): all scores carry that noise."
        )
    soft = are_shares(one)
    if soft:
        notes.append("its answers are probabilities (softmax inside); logits are their logarithm.")
    elif bool((one >= 0).all()) and bool((one <= 1).all()) and bool(one.any()):
        notes.append(
            "its answers lie in [0, 1] but do not add up to one number (a sigmoid a class?): they are taken for logits, so its "
            "confidence says little; pass them through a softmax of your own where that is wrong."
        )
    return soft


def _choices(adapted: Adapted, images: Tensor) -> list[str]:
    """A line where several outputs of the net could be the answer."""
    with left_as_found(adapted), torch.no_grad():
        found = fitting_answers(adapted.ask(images)[0], adapted.classes)
    return choice_note(found, adapted.classes)


def _own_classes(net: nn.Module) -> Classes:
    """Names that a net of Hugging Face or of a well-behaved author carries; None for others."""
    config = getattr(net, "config", None)
    named = getattr(config, "id2label", None)
    if isinstance(named, Mapping) and not all(str(word).startswith("LABEL_") for word in named.values()):
        return named
    for own in ("classes", "class_names", "idx_to_class"):
        found = getattr(net, own, None)
        if isinstance(found, Mapping | list | tuple) and len(found) > 1:
            return found
    return None


def _own_size(net: nn.Module) -> int | None:
    said = getattr(net, "pretrained_cfg", None) or getattr(net, "default_cfg", None) or {}
    found: Any = said.get("input_size") if isinstance(said, Mapping) else None
    if found is not None:
        return int(found[-1])
    for owner in (net, getattr(net, "config", None)):
        found = getattr(owner, "image_size", None)
        found = found[-1] if isinstance(found, tuple | list) and found else found
        if isinstance(found, int):
            return found
    return None


def _last_weights(net: nn.Module) -> str | None:
    """Name of the last part with weights of its own, as it was registered."""
    names = [name for name, part in net.named_modules() if name and any(True for _ in part.parameters(recurse=False))]
    return names[-1] if names else None


def _identity(net: nn.Module) -> str:
    """sha256 over the names of its parts and its weights."""
    from mien.training.checkpoint import weights_hash

    kinds = ",".join(type(part).__name__ for part in net.modules())
    return hashlib.sha256(f"{kinds} {weights_hash(net)}".encode()).hexdigest()


def from_code(text: str) -> WrappedModel:
    """`FILE.py:FUNCTION`: the wrapped model that a function of the user returns. The file is run: name only code of your own."""
    import importlib.util

    place, _, function = text.rpartition(":")
    file = Path(place)
    if not file.is_file():
        raise DataError(f"no file '{file}' for {text}.")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise UsageError(f"{text}: {file.name} is no Python file.")
    code = importlib.util.module_from_spec(spec)
    known = sys.modules.get(file.stem)
    sys.modules[file.stem] = code  # dataclasses look their module up
    sys.path.insert(0, str(file.resolve().parent))  # as `python FILE.py` has it
    try:
        spec.loader.exec_module(code)
        if not callable(getattr(code, function, None)):
            raise UsageError(f"{text}: {file.name} has no function '{function}'.")
        made = getattr(code, function)()
    except MienError:
        raise
    except Exception as error:  # whatever code of the user raises
        lines = [
            one.lineno
            for one in traceback.extract_tb(error.__traceback__)
            if Path(one.filename).resolve() == file.resolve()
        ]
        where = f" in line {lines[-1]}" if lines else ""
        raise UsageError(f"{text} fails{where}: {type(error).__name__}: {first_line(error)}.") from error
    finally:
        sys.path.remove(str(file.resolve().parent))
        if known is not None:
            sys.modules[file.stem] = known
    if not isinstance(made, WrappedModel):
        raise UsageError(f"{text} returned a {type(made).__name__}; it must return what mien.wrap gives.")
    return made
