"""Models without gradients: ONNX graphs and functions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mien.errors import DataError, UsageError
from mien.files import file_sha256
from mien.models.adapt import (
    FLOOR,
    BlackBox,
    Inputs,
    are_shares,
    choice_note,
    first_line,
    fitting_answers,
    logits_of,
    pictures_of,
)
from mien.schema import ByteArray, FloatArray, Preprocessing
from mien.wrapped.classes import expressions_of, kept_names, kept_of, read_classes
from mien.wrapped.inputs import PROBE, SIZES, Classes, Steps, inputs_of
from mien.wrapped.model import WrappedModel

KINDS = {"tensor(uint8)": np.uint8, "tensor(float16)": np.float16, "tensor(double)": np.float64}
"""Of what a graph takes, where it is not float32."""


def from_function(
    function: Callable[[ByteArray], FloatArray], classes: Classes, size: int | None, name: str | None
) -> WrappedModel:
    """A function from (N, S, S, 3) uint8 faces to (N, K) probabilities."""
    words = read_classes(classes)
    side = size or SIZES[0]
    notes = [] if size else [f"size was not given: the function gets faces of {side} px."]
    names = expressions_of(words)
    keep, told = kept_of(words, names)
    notes += told
    box = BlackBox(function, len(words), keep)
    faces = np.random.default_rng(0).integers(0, 256, (PROBE, side, side, 3), dtype=np.uint8)
    found = box.shares(faces)
    if not torch.isfinite(found).all():
        raise DataError("the function answers with numbers that are not finite.")
    if not are_shares(found):
        sums = ", ".join(f"{value:.3g}" for value in found.sum(1).tolist())
        raise UsageError(
            f"the function's answers for two faces add up to {sums}; expected probabilities: none negative, a face's adding up to "
            "1. Pass logits through a softmax."
        )
    notes.append("a function has no layer: only `occlusion` can explain it, and it has no hash of weights.")
    title = name or str(getattr(function, "__name__", "function"))
    return WrappedModel(
        title, *kept_names(names, words, keep), side, box, "", None, torch.device("cpu"), kind="function", notes=tuple(notes)
    )  # fmt: skip


def from_onnx(file: Path, classes: Classes, preprocess: Steps, size: int | None, name: str | None) -> WrappedModel:
    """An ONNX file, run by onnxruntime on the CPU; DataError where there is none."""
    if not file.is_file():
        raise DataError(f"no model at '{file}': give a run folder, an ONNX file or FILE.py:FUNCTION.")
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError("ONNX files need the extra `export`: pip install 'mien[export]'.") from error
    try:
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has kinds of its own
        raise DataError(f"{file} is no ONNX graph that can be run: {first_line(error)}.") from error
    kept = session.get_modelmeta().custom_metadata_map
    words = read_classes(classes if classes is not None else _classes_of_meta(kept))
    put = _only_input(file, session.get_inputs())
    last = _channels_last(put)
    spatial = put.shape[1:3] if last else put.shape[2:4]
    side = size or next((one for one in spatial if isinstance(one, int)), SIZES[0])
    notes = [] if size else [f"faces are {side} px{' as the graph says' if isinstance(spatial[0], int) else ''}."]
    more: list[str] = []
    raw, channels = put.type == "tensor(uint8)", put.shape[3 if last else 1]
    if raw:
        inputs = Inputs(Preprocessing((0.0,) * 3, (1.0,) * 3), colours=1 if channels == 1 else 3)
        notes += ["it takes bytes, so preprocess is left out."] if preprocess is not None else []
    else:
        inputs, more = inputs_of(None, preprocess, channels)
    notes += more
    several: dict[str, Tensor] = {}

    def run(fed: FloatArray) -> Tensor:
        values = session.run(None, {put.name: fed.astype(KINDS.get(put.type, np.float32))})
        found = {one.name: value for one, value in zip(session.get_outputs(), values, strict=True)}
        several.update(fitting_answers(found, len(words)))
        return logits_of(found, len(words))

    def answers(pixels: Tensor) -> Tensor:
        moved = pixels.permute(0, 2, 3, 1) if last else pixels
        fed = ((moved * 255).round().clamp(0, 255) if raw else moved).detach().cpu().numpy()
        if not isinstance(put.shape[0], int):
            return run(fed)
        rest = -len(fed) % put.shape[0]  # a graph of one batch size: the last batch is filled up
        whole = np.concatenate([fed, np.repeat(fed[-1:], rest, 0)])
        return torch.cat([run(part) for part in np.split(whole, len(whole) // put.shape[0])])[: len(fed)]

    names = expressions_of(words)
    keep, more = kept_of(words, names)
    notes += more
    module = Graph(answers, inputs, len(words), keep)
    try:
        module.soft = _probe_answers_of(module, side)
    except (UsageError, DataError):
        raise
    except Exception as error:
        raise UsageError(f"{file} does not take faces of {side} px ({first_line(error)}); give size=....") from error
    notes += choice_note(several, len(words))
    notes.append("an ONNX graph has no gradients: only `occlusion` can explain it.")
    return WrappedModel(
        name or file.stem, *kept_names(names, words, keep), side, module, file_sha256(file), None, torch.device("cpu"), kind="onnx",
        notes=tuple(notes),
    )  # fmt: skip


def _only_input(file: Path, inputs: Sequence[Any]) -> Any:
    """What a graph of pictures takes; UsageError for a graph of anything else."""
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        taken = ", ".join(f"{one.name} {one.shape}" for one in inputs)
        raise UsageError(f"{file} takes {taken}; expected pictures alone, (N, 3, S, S) or (N, S, S, 3).")
    return inputs[0]


def _channels_last(put: Any) -> bool:
    """Whether colours stand last in what a graph takes, as TensorFlow has them."""
    return put.shape[3] in (1, 3) and put.shape[1] not in (1, 3)


class Graph(BlackBox):
    """An ONNX graph: pixels as it wants them -> logits, or probabilities where `soft`."""

    def __init__(self, answers: Callable[[Tensor], Tensor], inputs: Inputs, classes: int, keep: Sequence[int]) -> None:
        super().__init__(lambda faces: np.zeros(0, np.float32), classes, keep)
        self.answers, self.inputs, self.soft = answers, inputs, False

    def forward(self, images: Tensor, labels: Any = None, attribute: Any = None, guide: Any = None) -> Any:
        """(B, 3, S, S) as `normalise` makes them for weights of ImageNet -> Output."""
        with torch.no_grad():
            found = self.answers(self.inputs(pictures_of(images.float()))).float()
        return self.output((found.clamp_min(FLOOR).log() if self.soft else found).to(images.device))


def _probe_answers_of(module: Graph, side: int) -> bool:
    images = torch.rand(PROBE, 3, side, side, generator=torch.Generator().manual_seed(0))
    kept, module.keep = module.keep, []  # of all classes the probabilities sum to 1
    found = module(images).logits
    module.keep = kept
    if not torch.isfinite(found).all():
        raise DataError("the graph answers with numbers that are not finite; check its weights and precision.")
    return are_shares(found)


def _classes_of_meta(kept: Mapping[str, str]) -> Classes:
    """Class names in the metadata of a graph: those of `mien export`, or a JSON list under `classes`."""
    for key in ("classes", "class_names", "names"):
        if key in kept:
            try:
                found = json.loads(kept[key])
            except ValueError:
                found = [word.strip() for word in kept[key].split(",")]
            if isinstance(found, list | dict) and len(found) > 1:
                return found
    return None
