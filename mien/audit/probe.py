"""A model as the parts of an audit ask it: pictures in, probabilities and maps out."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mien.data.transforms import normalise, resize_faces
from mien.errors import DataError, UsageError
from mien.explain import evidence, explain, explain_with_output, fitting, method_names
from mien.wrapped.model import WrappedModel

USUAL = ("cam", "grad_cam", "ts_cam", "layer_cam")
"""The first of these that fits a model is audited."""
OCCLUSION = "occlusion"
"""For models without a layer (docs/explanations.md)."""


class Probe(NamedTuple):
    """A model and the method that explains it."""

    model: WrappedModel
    method: str
    """Key of EXPLAINERS."""

    def prepared(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1], rounded to bytes -> what the net takes."""
        pixels = (images.clamp(0, 1) * 255).round().to(self.model.device, torch.uint8)
        resized, _ = resize_faces(pixels, torch.zeros(1, 2, device=pixels.device), self.model.size)
        return normalise(resized, self.model.preprocessing)

    @torch.no_grad()
    def probability(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] -> (B, K) probabilities on the pictures' device."""
        logits = self.model.module(self.prepared(images)).logits.float() / self.model.temperature
        return self.shares(logits, images)

    def shares(self, logits: Tensor, images: Tensor) -> Tensor:
        """Logits over the temperature -> probabilities on the pictures' device; DataError where they are no numbers."""
        found = logits.softmax(1)
        if bool(torch.isnan(found).any()):
            raise DataError(
                f"{self.model.name} answers changed pictures with numbers that are not finite; check its weights and precision."
            )
        return found.to(images.device)

    def look(self, images: Tensor, target: Tensor, module: nn.Module | None = None) -> Tensor:
        """Map of the evidence for the target (B, 1, h, w), not negative; `module` in place of the model's own."""
        net = self.model.module if module is None else module
        raw = explain(net, self.prepared(images), target.to(self.model.device), (self.method,))[self.method]
        return evidence(self.method, raw).float().to(images.device)

    def answer(self, images: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Probabilities, and the map of the target where one is asked for; one pass where the method allows."""
        if target is None:
            return self.probability(images), None
        if self.method == OCCLUSION:  # dozens of passes: too many under every corruption
            return self.probability(images), None
        output, raw = explain_with_output(
            self.model.module, self.prepared(images), target.to(self.model.device), (self.method,)
        )
        shares = self.shares(output.logits.float() / self.model.temperature, images)
        return shares, evidence(self.method, raw[self.method]).float().to(images.device)


def probe_of(model: WrappedModel, method: str | None = None) -> Probe:
    """A model with the named method, or the first of USUAL that fits, OCCLUSION where none does."""
    model.module.eval()
    if method == OCCLUSION:
        return Probe(model, OCCLUSION)
    if method is not None:
        (name, *more) = method_names(method) or [""]
        if more or not name:
            raise UsageError(f"--method takes one method, not '{method}'.")
        if model.layer is None:
            raise UsageError(f"{model.name} has no layer, so {name} does not fit; use --method {OCCLUSION}.")
        explain(model.module, torch.zeros(1, 3, model.size, model.size, device=model.device), 0, (name,))
        return Probe(model, name)
    if model.layer is None:
        return Probe(model, OCCLUSION)
    found = fitting(model.module, torch.zeros(1, 3, model.size, model.size, device=model.device), USUAL)
    return Probe(model, found[0] if found else OCCLUSION)
