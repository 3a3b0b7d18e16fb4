"""Any net, graph or function as a model of Mien: normalised pictures -> Output."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from mien.errors import UsageError
from mien.models.taps import tapped
from mien.schema import PREPROCESSING, ByteArray, FloatArray, Output, Preprocessing

FLOOR = 1e-12
"""Below it a probability counts as this, where a net answers with probabilities."""
MISSING = -1e4
"""Logit of a class that a model does not have."""


class Inputs(NamedTuple):
    """What a net's pictures go through, from RGB in [0, 1] at its size."""

    steps: Preprocessing | None
    """Per-channel numbers; None where `own` does it."""
    own: Callable[..., Any] | None = None
    """Of the user."""
    takes: Literal["tensor", "picture"] = "tensor"
    """What `own` takes: (B, 3, S, S) in [0, 1], or one PIL picture."""
    colours: int = 3
    """1: the net takes grey pictures of one channel."""

    def __call__(self, pictures: Tensor) -> Tensor:
        """(B, 3, S, S) RGB in [0, 1] -> what the net takes; gradients pass, but for a PIL picture."""
        if self.steps is not None:
            return self._normalised(pictures, self.steps)
        assert self.own is not None
        if self.takes == "tensor":
            made: Tensor = self.own(pictures)
            return made
        from PIL import Image

        whole = (pictures.detach().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        images = [Image.fromarray(one) for one in whole]
        made = torch.stack([torch.as_tensor(self.own(image)) for image in images])
        return made.to(pictures.device)

    def _normalised(self, pictures: Tensor, steps: Preprocessing) -> Tensor:
        if steps.grey or self.colours == 1:
            luma = pictures.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
            pictures = (pictures * luma).sum(1, keepdim=True)
        elif steps.bgr:
            pictures = pictures.flip(1)
        count = pictures.shape[1]
        mean, std = (pictures.new_tensor(values[:count]).view(1, count, 1, 1) for values in (steps.mean, steps.std))
        made = (pictures * (255 / steps.scale) - mean) / std
        return made.expand(-1, self.colours, -1, -1)


def pictures_of(images: Tensor) -> Tensor:
    """(B, 3, H, W) as `normalise` makes them for weights of ImageNet -> RGB in [0, 1], not cut, so that gradients pass."""
    steps = PREPROCESSING["imagenet"]
    mean, std = (images.new_tensor(values).view(1, 3, 1, 1) for values in (steps.mean, steps.std))
    return images * std + mean


class Adapted(nn.Module):
    """A torch net as a model of Mien. Pictures come normalised as for weights of ImageNet, whatever the net itself takes.

    Features of the Output are the maps of `layer` alone; () without one. Logits are float32 in the order of the net, those of
    `keep` alone: the others are no expressions.
    """

    def __init__(
        self, net: nn.Module, classes: int, inputs: Inputs, layer: str | None, *, keep: Sequence[int] = (),
        probabilities: bool = False, head: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.net = net
        self.classes, self.inputs, self.layer, self.keep = classes, inputs, layer, list(keep)
        self.probabilities, self.head_name = probabilities, head

    def forward(
        self, images: Tensor, labels: Tensor | None = None, attribute: Any = None, guide: Tensor | None = None
    ) -> Output:
        """(B, 3, S, S) -> Output. `labels`, `attribute` and `guide` are nothing to a net of others."""
        pixels = self.inputs(pictures_of(images.float()))
        first = next((part for part in self.net.parameters() if part.is_floating_point()), None)
        if first is not None:
            pixels = pixels.to(first.device, first.dtype)
        if torch.is_grad_enabled() and not pixels.requires_grad and pixels.is_floating_point():
            pixels = pixels.requires_grad_()  # a frozen net behind a user's own preprocessing
        with plain_attention(), tapped(self.net, () if self.layer is None else (self.layer,), len(images)) as seen:
            answer = self.net(pixels)
        logits = logits_of(answer, self.classes).float()
        if self.probabilities:
            logits = logits.clamp_min(FLOOR).log()
        logits = logits[:, self.keep] if self.keep else logits
        return Output(logits.to(images.device), tuple(one.grid for one in seen[-1:]), None)

    def get_submodule(self, target: str) -> nn.Module:
        """As torch's; `head` is the last part of the net that has weights."""
        return super().get_submodule(f"net.{self.head_name}" if target == "head" and self.head_name else target)

    def blank_guide(self, images: Tensor) -> Tensor | None:
        """None: nothing steers it."""
        return None


class BlackBox(nn.Module):
    """A function from faces to probabilities as a model of Mien: no layer, no gradient. `keep` as in Adapted."""

    def __init__(self, function: Callable[[ByteArray], FloatArray], classes: int, keep: Sequence[int] = ()) -> None:
        super().__init__()
        self.function, self.classes, self.keep = function, classes, list(keep)

    def forward(
        self, images: Tensor, labels: Tensor | None = None, attribute: Any = None, guide: Tensor | None = None
    ) -> Output:
        """(B, 3, S, S) as `normalise` makes them for weights of ImageNet -> Output with log p as logits."""
        pixels = (pictures_of(images.detach().float()).clamp(0, 1) * 255).round().to(torch.uint8)
        found = torch.as_tensor(self.function(pixels.permute(0, 2, 3, 1).cpu().numpy())).float()
        if tuple(found.shape) != (len(images), self.classes):
            raise UsageError(
                f"the function returned shape {tuple(found.shape)}; expected ({len(images)}, {self.classes}), a probability a class."
            )
        return self.output(found.clamp_min(FLOOR).log().to(images.device))

    def output(self, logits: Tensor) -> Output:
        """Logits of every class -> Output with those that are kept."""
        return Output(logits[:, self.keep] if self.keep else logits, (), None)

    def blank_guide(self, images: Tensor) -> Tensor | None:
        """None: nothing steers it."""
        return None


@contextmanager
def plain_attention() -> Iterator[None]:
    """Inside, torch's encoder layers call their parts one by one: the fused path that they take in evaluation has none."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def logits_of(answer: Any, classes: int | None) -> Tensor:
    """(B, K) logits in what a net returns: a tensor, an Output, a mapping or object with logits, the first fitting of a tuple.

    `classes` is K where it is known. UsageError, which says what was returned, where nothing fits.
    """
    found = [one for one in _tensors(answer) if one.dim() == 2 and (classes is None or one.shape[1] == classes)]
    if not found:
        shapes = ", ".join(str(tuple(one.shape)) for one in _tensors(answer)) or type(answer).__name__
        wanted = "(B, K) logits" if classes is None else f"(B, {classes}) logits, one a class"
        raise UsageError(f"the net returns {shapes}; expected {wanted} (in a tuple or dict, too): check `classes`.")
    return found[0]


def _tensors(answer: Any) -> list[Tensor]:
    """Tensors of an answer, those called logits first."""
    if isinstance(answer, Tensor):
        return [answer.flatten(1) if answer.dim() > 2 and answer.shape[2:].numel() == 1 else answer]
    if isinstance(answer, dict) or hasattr(answer, "items"):
        items = sorted(answer.items(), key=lambda item: "logit" not in str(item[0]).lower())
        return [one for _, value in items for one in _tensors(value)]
    if hasattr(answer, "logits"):
        return [*_tensors(answer.logits)]
    if isinstance(answer, tuple | list):
        return [one for value in answer for one in _tensors(value)]
    return []


class InScheme(nn.Module):
    """A model whose logits stand in the order of a label scheme: its own, divided by the temperature, where it has the
    class, else so low that p is 0.
    """

    def __init__(
        self, model: nn.Module, classes: Sequence[str], scheme: Sequence[str], temperature: float = 1.0
    ) -> None:
        super().__init__()
        self.model, self.temperature = model, temperature
        self.places = [scheme.index(name) for name in classes]
        self.count = len(scheme)

    def forward(
        self, images: Tensor, labels: Tensor | None = None, attribute: Any = None, guide: Tensor | None = None
    ) -> Output:
        """As the model, its logits (B, K) in the order of the scheme; maps of its head too."""
        output: Output = self.model(images)
        logits = output.logits.new_full((len(images), self.count), MISSING)
        logits[:, self.places] = output.logits / self.temperature
        if output.maps is None:
            return output._replace(logits=logits)
        maps = output.maps.new_zeros((len(images), self.count, *output.maps.shape[2:]))
        maps[:, self.places] = output.maps
        return output._replace(logits=logits, maps=maps)

    def get_submodule(self, target: str) -> nn.Module:
        """As torch's; `head` is that of the model."""
        return self.model.get_submodule(target) if target == "head" else super().get_submodule(target)

    def blank_guide(self, images: Tensor) -> Tensor | None:
        """None: nothing steers it."""
        return None
