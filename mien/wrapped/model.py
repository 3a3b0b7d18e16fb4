"""One object for any expression model: a run, the bundled model, a torch net, an ONNX graph, a function."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from mien.data.framed import framed_as
from mien.data.framing import Framing
from mien.data.store import Store
from mien.data.transforms import normalise, resize_faces
from mien.errors import DataError, UsageError, unknown_name
from mien.explain import DEFAULT_METHODS, LAYERLESS, evidence, explain, fitting, left_as_found
from mien.schema import ByteArray, FloatArray, Output

BATCH = 64
"""Faces at a time, unless said otherwise."""


@dataclass(frozen=True, eq=False, repr=False)
class WrappedModel:
    """An expression model as scores, explanations and audits see it. Made by `mien.wrap` and `mien.audit.sources`."""

    name: str
    classes: tuple[str, ...]
    """Expressions in the order of its answers, under Mien's names where they have one."""
    words: tuple[str, ...]
    """The same as the model's author calls them."""
    size: int
    """Side of the square input in pixels."""
    module: nn.Module
    """(N, 3, S, S) as `prepare` makes them -> Output; its features are () where no layer is known."""
    identity: str
    """sha256 of its weights, or of its file; "" for a function."""
    layer: str | None
    """The layer whose maps are explained, by its name in the net; None where there is none: perturbation methods alone."""
    device: torch.device
    preprocessing: str = "imagenet"
    """Key of schema.PREPROCESSING that `module` takes; what the net itself wants is made of it inside."""
    framing: Framing | None = None
    """How its training faces lie in their pictures, where it is known."""
    temperature: float = 1.0
    """Of its calibration, where it has one."""
    batch: int = BATCH
    kind: str = "module"
    """run, module, onnx or function."""
    notes: tuple[str, ...] = field(default=())
    """What was chosen for it, and what it cannot give, a line each."""

    def __repr__(self) -> str:
        return (
            f"WrappedModel({self.name}: {', '.join(self.classes)}; {self.size} px, layer {self.layer}, {self.device})"
        )

    @property
    def differentiable(self) -> bool:
        """Gradients reach a layer: all explainers can be tried, not only those that look at changed pictures."""
        return self.layer is not None

    def view(self, store: Store) -> Store:
        """The faces of a store as this model wants them: aligned with its training faces where it is known how these lie."""
        return store if self.framing is None else framed_as(store, self.framing)

    def prepare(self, faces: ByteArray) -> Tensor:
        """(N, H, W, 3) uint8 RGB of any size -> (N, 3, S, S) float32 on the model's device, for `forward`."""
        if faces.dtype != np.uint8 or faces.ndim != 4 or faces.shape[3] != 3:
            raise UsageError(
                f"faces have shape {faces.shape} and type {faces.dtype}; expected (N, H, W, 3) uint8, RGB."
            )
        images = torch.from_numpy(np.ascontiguousarray(faces)).permute(0, 3, 1, 2).to(self.device)
        resized, _ = resize_faces(images, torch.zeros(1, 2, device=self.device), self.size)
        return normalise(resized, self.preprocessing)

    def forward(self, images: Tensor) -> Output:
        """What `prepare` made -> Output, with gradients where the model has them. The mode of the net is left alone."""
        output: Output = self.module(images)
        return output

    def batches(self, faces: ByteArray) -> Iterator[Tensor]:
        """`prepare` of `batch` faces at a time."""
        for start in range(0, len(faces), self.batch):
            yield self.prepare(faces[start : start + self.batch])

    @torch.no_grad()
    def logits(self, faces: ByteArray) -> FloatArray:
        """(N, H, W, 3) uint8 -> (N, C) float32, in evaluation mode; log p of models that answer with probabilities."""
        with left_as_found(self.module):
            found = [self.module(images).logits.float().cpu() for images in self.batches(faces)]
        if not found:
            return np.zeros((0, len(self.classes)), dtype=np.float32)
        values = torch.cat(found).numpy()
        if np.isnan(values).any():
            raise DataError(f"{self.name} answers with numbers that are not finite; check its weights and precision.")
        return np.asarray(values, dtype=np.float32)

    def explain(self, faces: ByteArray, method: str = "auto", expression: str | None = None) -> FloatArray:
        """Where the evidence for an expression lies: (N, H, W, 3) uint8 -> (N, h, w) float32, not negative, at the layer's size.

        Args:
            faces: as in `probabilities`.
            method: key of EXPLAINERS (docs/explanations.md); auto takes the first that fits.
            expression: one of `classes` for all faces; the predicted one of each unless given.

        """
        if expression is not None and expression not in self.classes:
            raise unknown_name("expression", expression, self.classes)
        if method == "auto":
            blank = torch.zeros(1, 3, self.size, self.size, device=self.device)
            method = fitting(self.module, blank, (*DEFAULT_METHODS, *LAYERLESS))[0]
        target = None if expression is None else self.classes.index(expression)
        maps = [
            evidence(method, explain(self.module, images, target, (method,))[method]) for images in self.batches(faces)
        ]
        return np.asarray(torch.cat(maps)[:, 0].float().cpu().numpy(), dtype=np.float32)

    def probabilities(self, faces: ByteArray) -> FloatArray:
        """(N, H, W, 3) uint8 -> (N, C) float32, softmax of logits / temperature."""
        values = torch.from_numpy(self.logits(faces)) / self.temperature
        return np.asarray(values.softmax(1).numpy(), dtype=np.float32)


def tell(model: WrappedModel) -> None:
    """Print what was chosen for a model, and what it cannot give, on stderr."""
    for note in model.notes:
        print(f"mien: {model.name}: {note}", file=sys.stderr)
