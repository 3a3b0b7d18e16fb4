"""Import torchvision where its compiled operators do not match the installed torch, and without torch's compiler.

PyPI's torchvision wheel is built against CUDA torch; beside a CPU build of torch it dies on import with
"operator torchvision::nms does not exist", and timm, torchmetrics and lightning die with it. Declaring the schemas of the
missing operators first lets the import succeed; nothing here uses those operators. Where torchvision is healthy this
module only imports it. torchvision 0.28 and timm also import torch's compiler, torchvision for one question and timm for two
functions of one family of nets. That takes longer than all else that a first photo needs, so it is put off until one of
them is called. Every module that needs torchvision, timm, torchmetrics or lightning_fabric calls
`ensure_torchvision()` before that import.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

_library: Any = None  # a torch.library.Library drops its operators when collected


def ensure_torchvision() -> None:
    """Make `import torchvision` work; a no-op where it already does. Other import errors pass through."""
    global _library
    try:
        _import()
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        _forget("torchvision")
        import torch

        _library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            _library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _import()


def _import() -> None:
    if "torchvision" in sys.modules:
        return
    try:
        with _compiler_later():
            importlib.import_module("torchvision")
    except ImportError:  # it wants more of the compiler than it did
        _forget("torchvision")
        importlib.import_module("torchvision")


def ensure_timm() -> None:
    """`import timm` and torchvision, without torch's compiler."""
    ensure_torchvision()
    if "timm" in sys.modules:
        return
    try:
        with _compiler_later():
            importlib.import_module("timm")
    except ImportError:  # it wants more of the compiler than it did
        _forget("timm")
        importlib.import_module("timm")


def _forget(package: str) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        del sys.modules[name]


@contextmanager
def _compiler_later() -> Iterator[None]:
    """Two functions of torch._dynamo as ones that import it when they are called: what is imported meanwhile may ask for these."""
    import torch

    if "torch._dynamo" in sys.modules:
        yield
        return

    def is_compile_supported(device_type: str) -> bool:
        from torch._dynamo.utils import is_compile_supported as asked

        return bool(asked(device_type))

    def disable(function: Any, recursive: bool = True, *, reason: str | None = None) -> Any:
        return functools.wraps(function)(
            lambda *values, **named: torch._dynamo.disable(function, recursive, reason=reason)(*values, **named)
        )

    # Packages without files: whatever else is asked of them is an ImportError, and the import starts over with the real ones.
    package, utils = ModuleType("torch._dynamo"), ModuleType("torch._dynamo.utils")
    package.__path__ = []
    vars(package).update(disable=disable, utils=utils, __getattr__=_missing)
    vars(utils).update(is_compile_supported=is_compile_supported, __getattr__=_missing)
    stubs = {"torch._dynamo": package, "torch._dynamo.utils": utils}
    sys.modules.update(stubs)
    vars(torch)["_dynamo"] = package
    try:
        yield
    finally:
        for name in stubs:
            sys.modules.pop(name, None)
        vars(torch).pop("_dynamo", None)


def _missing(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    raise ImportError(f"torch._dynamo.{name} is not there yet")
