"""A pretended accelerator: its tensors hold CPU memory, but torch sees another device, so that mixed devices show on any machine.

Every tensor that meets one of another device in an operation, every generator of the wrong device, every wait for the device
(`.item()`, `bool(tensor)`, `nonzero`, a copy to the host) and every copy to it is written down with the line that caused it.
"""

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "pretended"


class Backend(_DummyBackendModule):
    """What torch asks a kind of device for; it is there inside `pretended` alone, so that other tests do not meet it."""

    there = False

    def is_available(self) -> bool:
        return Backend.there

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


_setup_privateuseone_for_python_backend(NAME, Backend())
DEVICE = torch.device(NAME, 0)
WAITS = {
    "_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_linalg_check_errors", "_unique2", "unique_dim",
    "unique_consecutive", "bincount", "repeat_interleave", "histc",
}  # fmt: skip
"""Operations of which the host needs a number before it can go on."""
FAR_SEEDS: set[int] = set()
"""Seeds of generators on DEVICE: an operation sees the generator under it, which knows its seed alone."""
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index")
EVENTS: list[tuple[str, str, str]] = []
"""(mixed | generator | wait | copy, operation, line) of what happened since `begin`."""


class Far(torch.Tensor):
    """A tensor that says it lies on DEVICE."""

    @staticmethod
    def __new__(cls, near: torch.Tensor, requires_grad: bool = False) -> "Far":
        made = torch.Tensor._make_wrapper_subclass(
            cls, near.shape, strides=near.stride(), storage_offset=near.storage_offset(), dtype=near.dtype, device=DEVICE,
            requires_grad=requires_grad,
        )  # fmt: skip
        made.near = near
        return made

    def __init__(self, near: torch.Tensor, requires_grad: bool = False) -> None:
        pass

    def __repr__(self) -> str:
        return f"Far({self.near})"

    def tolist(self) -> Any:
        note("wait", "tolist")
        return self.near.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


class Draws(torch.Generator):
    """A generator that knows which device it was made for."""

    def __new__(cls, device: Any = "cpu") -> "Draws":
        made = super().__new__(cls, "cpu")
        made.claimed = torch.device(device)
        return made

    def manual_seed(self, seed: int) -> "Draws":
        if self.claimed.type == NAME:
            FAR_SEEDS.add(int(seed))
        super().manual_seed(seed)
        return self

    @property
    def device(self) -> torch.device:
        return self.claimed


class Pretended(TorchDispatchMode):
    """Operations without a tensor of DEVICE too: `torch.zeros(device=...)` and copies to it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


def note(kind: str, operation: str) -> None:
    """Write down an event with the last line of the package that led to it."""
    frames = [f for f in traceback.extract_stack() if "/mien/" in f.filename and "/tests/" not in f.filename]
    EVENTS.append(
        (kind, operation, f"{frames[-1].filename}:{frames[-1].lineno} {frames[-1].line}" if frames else "backward")
    )


def near(value: Any) -> Any:
    return value.near if isinstance(value, Far) else value


def compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operation as the CPU computes it; what it would have been on a device is noted."""
    name, flat = func._schema.name.split("::")[1], tree_flatten((args, kwargs))[0]
    far = [t for t in flat if isinstance(t, Far)]
    local = [t for t in flat if isinstance(t, torch.Tensor) and not isinstance(t, Far)]
    asked = kwargs.get("device")
    there = torch.device(asked).type == NAME if asked is not None else bool(far)
    plain = {**kwargs, **({"device": torch.device("cpu")} if asked is not None else {})}
    draws = next((value for value in flat if isinstance(value, torch._C.Generator)), None)
    if draws is not None and (draws.initial_seed() in FAR_SEEDS) != there:
        note("generator", name)
    if name == "copy_":
        target, source = args[0], args[1]
        if isinstance(target, Far) != isinstance(source, Far):
            note("copy" if isinstance(target, Far) else "wait", name)
        near(target).copy_(near(source))
        return target
    if name in ("_to_copy", "_pin_memory"):
        if isinstance(args[0], Far) != there:
            note("copy" if there else "wait", name)
        out = func(*tree_map(near, args), **plain)
        return Far(out) if there else out
    if far and asked is None:
        if name in INDEXING and isinstance(args[0], Far):
            if local:
                note("copy", name)
        elif any(t.dim() for t in local):
            note("mixed", name)
    if far and (name in WAITS or (name in INDEXING and any(_is_mask(t) for t in args[1]))):
        note("wait", name)
    out = func(*tree_map(near, args), **tree_map(near, plain))
    return _as_given(func, args, kwargs, out, far) if there or far else out


def _is_mask(index: Any) -> bool:
    return isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8)


def _as_given(func: Any, args: Any, kwargs: Any, out: Any, far: list[Far]) -> Any:
    """Results as tensors of DEVICE; what an operation changes in place is handed back itself."""
    schema = func._schema
    written = [k for k, a in enumerate(schema.arguments) if a.alias_info is not None and a.alias_info.is_write]
    returned = schema.returns
    if written and returned and returned[0].alias_info is not None and returned[0].alias_info.is_write:
        same = [args[k] if k < len(args) else kwargs.get(schema.arguments[k].name) for k in written]
        return same[0] if len(returned) == 1 else tuple(same)
    known = {id(t.near): t for t in far}

    def wrapped(value: Any) -> Any:
        plain = isinstance(value, torch.Tensor) and not isinstance(value, Far)
        return known.get(id(value)) or Far(value) if plain else value

    return tree_map(wrapped, out)


def move(module: torch.nn.Module) -> None:
    """Put a module's weights and buffers onto DEVICE, in place."""
    for part in module.modules():
        for name, weight in list(part._parameters.items()):
            if weight is not None and not isinstance(weight, Far):
                part._parameters[name] = torch.nn.Parameter(Far(weight.detach()), weight.requires_grad)
        for name, buffer in list(part._buffers.items()):
            if buffer is not None and not isinstance(buffer, Far):
                part._buffers[name] = Far(buffer)


@contextmanager
def pretended() -> Iterator[None]:
    """Inside the block operations on DEVICE work and are watched."""
    kind = torch.Generator
    Backend.there = True
    torch.Generator = Draws  # type: ignore[misc,assignment]
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(device=...) is made on the CPU, then copied
    try:
        with Pretended():
            yield
    finally:
        Backend.there = False
        torch._C._set_only_lift_cpu_tensors(False)
        torch.Generator = kind  # type: ignore[misc]


def counted() -> Counter[str]:
    """Number of events of each kind since the last call, which forgets them."""
    found = Counter(kind for kind, _, _ in EVENTS)
    EVENTS.clear()
    return found
