"""Any net, graph or function as a model of Mien: normalised pictures -> Output."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mien.errors import UsageError
from mien.models.taps import Tapped, tapped
from mien.schema import PREPROCESSING, ByteArray, FloatArray, Output, Preprocessing

FLOOR = 1e-12
"""Below it a probability counts as this, where a net answers with probabilities."""
MISSING = -1e4
"""Logit of a class that a model does not have."""


def first_line(error: Exception) -> str:
    """The first line of what an error says."""
    return (str(error).splitlines() or [type(error).__name__])[0][:160].rstrip(".")


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
        answer, seen = self.ask(images)
        logits = logits_of(answer, self.classes).float()
        if self.probabilities:
            logits = logits.clamp_min(FLOOR).log()
        logits = logits[:, self.keep] if self.keep else logits
        return Output(logits.to(images.device), tuple(one.grid for one in seen[-1:]), None)

    def ask(self, images: Tensor) -> tuple[Any, list[Tapped]]:
        """(B, 3, S, S) -> what the net itself returns, and the maps of its layer."""
        pixels = self.inputs(pictures_of(images.float()))
        first = next((part for part in self.net.parameters() if part.is_floating_point()), None)
        if first is not None:
            pixels = pixels.to(first.device, first.dtype)
        if torch.is_grad_enabled() and not pixels.requires_grad and pixels.is_floating_point():
            pixels = pixels.requires_grad_()  # a frozen net behind a user's own preprocessing
        with plain_attention(), tapped(self.net, () if self.layer is None else (self.layer,), len(images)) as seen:
            return self.net(pixels), seen

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
        found = self.shares(pixels.permute(0, 2, 3, 1).cpu().numpy())
        return self.output(found.clamp_min(FLOOR).log().to(images.device))

    def shares(self, faces: ByteArray) -> Tensor:
        """(N, S, S, 3) uint8 -> (N, K) float32 as the function gives them; UsageError where it fails or gives anything else."""
        try:
            found = self.function(faces)
            values = (
                found.detach().cpu() if isinstance(found, Tensor) else torch.from_numpy(np.asarray(found, np.float32))
            )
        except Exception as error:  # whatever a function of the user raises
            raise UsageError(f"the function fails on {faces.shape} uint8 faces: {first_line(error)}.") from error
        if tuple(values.shape) != (len(faces), self.classes):
            raise UsageError(
                f"the function returned shape {tuple(values.shape)}; expected ({len(faces)}, {self.classes}), a probability a class."
            )
        return values.float()

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


def are_shares(answers: Tensor) -> bool:
    """Whether answers (B, K) are probabilities or per cent: none is negative, and every row adds up to 1, or to 100."""
    sums = answers.sum(1)
    return bool((answers >= 0).all()) and any(
        bool(torch.allclose(sums, sums.new_tensor(w), rtol=1e-3)) for w in (1.0, 100.0)
    )


def logits_of(answer: Any, classes: int | None) -> Tensor:
    """(B, K) logits in what a net returns: the first of `fitting_answers`.

    UsageError, which says what was returned, where nothing fits.
    """
    found = fitting_answers(answer, classes)
    if not found:
        shapes = ", ".join(str(tuple(one.shape)) for one in _tensors(answer).values()) or type(answer).__name__
        wanted = "(B, K) logits" if classes is None else f"(B, {classes}) logits, one a class"
        raise UsageError(f"the net returns {shapes}; expected {wanted} (in a tuple or dict, too): check `classes`.")
    return next(iter(found.values()))


def fitting_answers(answer: Any, classes: int | None) -> dict[str, Tensor]:
    """Where it stands in an answer -> tensor (B, K), the likeliest first: those called logits, then those named after an answer.

    A net returns a tensor, a tuple, a mapping, a dataclass or any object that holds tensors, also nested. `classes` is K where
    it is known.
    """
    found = {name: one for name, one in _tensors(answer).items() if one.dim() == 2 and classes in (None, one.shape[1])}
    return {name: found[name] for name in sorted(found, key=_likely)}


def choice_note(found: Mapping[str, Tensor], classes: int) -> list[str]:
    """A line where several of `fitting_answers` could be the answer, and none is called logits."""
    names = list(found)
    if len(names) < 2 or "logit" in names[0].lower():
        return []
    return [f"it returns several ({', '.join(names)}) of {classes} numbers; {names[0]} is taken for the answer."]


def _likely(name: str) -> int:
    """Rank of an output by its name: 0 logits, 1 an answer, 2 anything else."""
    words = (("logit",), ("expr", "emotion", "pred", "prob", "score", "class", "cls", "out"))
    return next((rank for rank, own in enumerate(words) if any(word in name.lower() for word in own)), len(words))


def _tensors(answer: Any, name: str = "", depth: int = 4) -> dict[str, Tensor]:
    """Place -> tensor of everything in an answer, in its order."""
    if isinstance(answer, np.ndarray):
        answer = torch.from_numpy(answer)
    if isinstance(answer, Tensor):
        single = answer.dim() > 2 and answer.shape[1:].numel() == max(answer.shape[1:])
        return {name: answer.flatten(1) if single else answer}
    if answer is None or isinstance(answer, str | int | float | bool) or depth == 0:
        return {}
    if isinstance(answer, tuple | list):
        fields = getattr(answer, "_fields", range(1, len(answer) + 1))
        items = dict(zip(fields, answer, strict=True))
    elif isinstance(answer, Mapping) or hasattr(answer, "items"):
        items = dict(answer.items())
    else:
        items = {key: value for key, value in getattr(answer, "__dict__", {}).items() if not key.startswith("_")}
    return {
        place: one for key, value in items.items()
        for place, one in _tensors(value, f"{name}.{key}" if name else str(key), depth - 1).items()
    }  # fmt: skip


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
