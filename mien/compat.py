"""Import torchvision where its compiled operators do not match the installed torch.

PyPI's torchvision wheel is built against CUDA torch; beside a CPU build of torch it dies on import with
"operator torchvision::nms does not exist", and timm, torchmetrics and lightning die with it. Declaring the schemas of the
missing operators first lets the import succeed; nothing here uses those operators. Where torchvision is healthy this
module only imports it. Every module that needs torchvision, timm, torchmetrics or lightning_fabric calls
`ensure_torchvision()` before that import.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

_library: Any = None  # a torch.library.Library drops its operators when collected


def ensure_torchvision() -> None:
    """Make `import torchvision` work; a no-op where it already does. Other import errors pass through."""
    global _library
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        import torch

        _library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            _library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        importlib.import_module("torchvision")
