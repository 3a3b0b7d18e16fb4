"""The maps of a layer of any net, on the autograd graph, without touching the net's code.

For the time of a `with` block the layer's output passes through `Grid`: what the net sees afterwards is built from the grid
(B, C, h, w), so that the gradient of an answer with respect to it exists, also of tokens, and a net that changes its
tensors in place does not change the grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

PASSIVE = (nn.Dropout, nn.Dropout2d, nn.Identity, nn.Softmax, nn.Linear)
"""Parts whose output is no feature map although it may look like one: attention of tokens, projections."""
PREFIX = 8
"""Class and register tokens in front of the grid of a transformer, at most."""


class Layout(NamedTuple):
    """How the output of a layer holds its places."""

    kind: str
    """nchw, nhwc, tokens (B, N, C) or tokens_first (N, B, C)."""

    def grid(self, value: Tensor) -> Tensor:
        """(B, C, h, w)."""
        if self.kind == "nchw":
            return value
        if self.kind == "nhwc":
            return value.permute(0, 3, 1, 2)
        tokens = value if self.kind == "tokens" else value.transpose(0, 1)
        side, prefix = square_of(tokens.shape[1])
        return tokens[:, prefix:].transpose(1, 2).unflatten(2, (side, side))

    def back(self, grid: Tensor, value: Tensor) -> Tensor:
        """What the net goes on with: `value` with its places taken from the grid."""
        grid = grid.to(value.dtype)
        if self.kind == "nchw":
            return grid.clone()
        if self.kind == "nhwc":
            return grid.permute(0, 2, 3, 1).clone()
        tokens = value if self.kind == "tokens" else value.transpose(0, 1)
        prefix = square_of(tokens.shape[1])[1]
        whole = torch.cat([tokens[:, :prefix], grid.flatten(2).transpose(1, 2)], 1)
        return whole if self.kind == "tokens" else whole.transpose(0, 1).contiguous()


class Tapped(NamedTuple):
    """The output of a layer in one pass."""

    name: str
    layout: Layout
    grid: Tensor
    """(B, C, h, w), on the graph."""


def square_of(tokens: int) -> tuple[int, int]:
    """(side, prefix) of a square grid behind at most PREFIX tokens; (0, tokens) where there is none."""
    side = int(tokens**0.5)
    return (side, tokens - side * side) if 0 <= tokens - side * side <= PREFIX else (0, tokens)


def layout_of(value: Tensor, batch: int) -> Layout | None:
    """How a value of a pass of `batch` square pictures holds its places; None where it holds none."""
    if not value.is_floating_point():
        return None
    shape = tuple(value.shape)
    if value.dim() == 4 and shape[0] == batch:
        if shape[2] == shape[3]:
            return Layout("nchw")
        return Layout("nhwc") if shape[1] == shape[2] else None
    if value.dim() == 3:
        if shape[0] == batch and square_of(shape[1])[0] > 1:
            return Layout("tokens")
        if shape[1] == batch and square_of(shape[0])[0] > 1:
            return Layout("tokens_first")
    return None


@contextmanager
def changed(module: nn.Module, change: Callable[[Any], Any]) -> Iterator[None]:
    """Inside, what the module returns passes through `change`; afterwards the module is as it was, also after an error."""
    own = module.__dict__.get("forward")
    plain = module.forward
    object.__setattr__(module, "forward", lambda *given, **named: change(plain(*given, **named)))
    try:
        yield
    finally:
        if own is None:
            object.__delattr__(module, "forward")
        else:
            object.__setattr__(module, "forward", own)


@contextmanager
def tapped(net: nn.Module, names: Sequence[str], batch: int) -> Iterator[list[Tapped]]:
    """Inside, every pass of the net appends the outputs of these layers to the list, in the order in which they are done.

    Outputs without places are left out. Of a tuple the first tensor counts.
    """
    found: list[Tapped] = []

    def tap(name: str) -> Callable[[Any], Any]:
        def change(value: Any) -> Any:
            first = value[0] if isinstance(value, tuple | list) and value else value
            layout = layout_of(first, batch) if isinstance(first, Tensor) else None
            if layout is None:
                return value
            grid = layout.grid(first)
            grid = grid.float() if grid.dtype in (torch.float16, torch.bfloat16) else grid
            if torch.is_grad_enabled() and not grid.requires_grad:  # a frozen trunk: what follows needs a leaf
                grid = grid.detach().requires_grad_()
            found.append(Tapped(name, layout, grid))
            whole = layout.back(grid, first)
            if not isinstance(value, tuple | list):
                return whole
            return (whole, *value[1:]) if type(value) is tuple else [whole, *value[1:]]

        return change

    parts = dict(net.named_modules()) if names else {}
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(changed(parts[name], tap(name)))
        yield found


def last_layer(net: nn.Module, call: Callable[[], Tensor], batch: int) -> str | None:
    """Name of the last layer with more than one place that an answer's gradient reaches, beside class and register tokens.

    `call` makes a pass of `batch` pictures and returns the logits (B, K). In a ResNet this is its last stage; in a transformer
    whose head sees the class token alone, the norm in front of the last attention. None for a net without such a layer.
    """
    names = [name for name, part in net.named_modules() if name and not isinstance(part, PASSIVE)]
    with torch.enable_grad(), tapped(net, names, batch) as seen:
        logits = call()
    if not logits.requires_grad:
        return None
    tokens = {name for name, part in net.named_modules() if _may_hold_tokens(part)}
    places = [one for one in seen if one.grid.shape[-1] * one.grid.shape[-2] > 1 and one.grid.requires_grad]
    places = [one for one in places if not one.layout.kind.startswith("tokens") or one.name in tokens]
    if not places:
        return None
    weight = torch.linspace(0.5, 1.5, logits.shape[1], device=logits.device, dtype=logits.dtype)
    gradients = torch.autograd.grad((logits * weight**2).sum(), [one.grid for one in places], allow_unused=True)
    for one, gradient in zip(reversed(places), reversed(gradients), strict=True):
        if gradient is not None and bool((gradient != 0).any()):
            return one.name
    return None


def _may_hold_tokens(part: nn.Module) -> bool:
    """Blocks and norms do; projections such as queries and keys are no feature map."""
    return any(True for _ in part.children()) or "norm" in type(part).__name__.lower()
