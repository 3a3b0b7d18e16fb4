"""Weights of a backbone: timm's published ones, or a file under the names that publishers use."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mien.config import ModelConfig
from mien.errors import DataError, UsageError
from mien.files import weights_file
from mien.models.packed import unpack
from mien.models.tokens import is_token_net, resized_positions
from mien.schema import PREPROCESSING

_WRAPPERS = ("state_dict", "model", "net", "encoder", "backbone")
_VGG_NAME = re.compile(r"\bconv_?([1-5]_[1-4])(?:\.0)?\.")


def load_weights(net: nn.Module, path: Path) -> None:
    """Load backbone weights by name from .safetensors, the .ckpt of a run, or a plain state dict .pth.

    timm's own names, torchvision's (the same for ResNets and VGGs) and VGGFace's conv1_1 .. conv5_3 are understood, under
    any common prefix (module., backbone., ...). Tensors that the net does not have, such as a classifier, are left out and
    told. Every tensor of the net must be there in its shape; only counters of batch norm (num_batches_tracked) may be
    missing, as in old files. Position embeddings of a ViT that was trained at another size are resized to its grid.

    Raises:
        DataError: no such file, not readable without running code, or tensors missing or of another shape.

    """
    own = net.state_dict()
    given = _vgg_names(read_state(path), net)
    state = _without_prefix(given, own)
    if is_token_net(net):
        state = resized_positions(net, state)
    state = {name: value for name, value in own.items() if name.endswith("num_batches_tracked")} | state
    missing = [name for name in own if name not in state]
    wrong = [name for name in own if name in state and state[name].shape != own[name].shape]
    _refuse(path, missing, wrong)
    net.load_state_dict({name: state[name] for name in own})
    tell_surplus(path, given, own)


_PUBLISHED_PLACES = {
    **dict.fromkeys(("conv1", "conv2", "conv3", "conv4", "norm"), "backbone.net"),
    **dict.fromkeys(("localization", "fc_loc"), "transformer"),
    **dict.fromkeys(("fc1", "fc2"), "head"),
}
"""First part of a published name of Simple-CNN or spatial transformer -> where it stands in a Classifier."""


SHIPPED = {"demo": Path(__file__).parent.parent / "weights" / "demo" / "best.ckpt"}
"""Name that `model.initial` may have -> a net that comes with the package: the unguided one that `mien demo` starts from."""


def load_initial(model: nn.Module, path: Path, head: str) -> None:
    """Start a whole model from another run, or from a published state dict of the guided spatial transformers.

    Args:
        model: Classifier.
        path: a name of SHIPPED, run folder (its best.ckpt), .ckpt, .safetensors, .pt or .pth; names as Mien's, or conv1 ..
            conv4, norm, fc1, fc2, localization, fc_loc as published.
        head: keep, or new for the head as it was drawn.

    Raises:
        DataError: not readable, another architecture, or another number of classes under `keep`.

    """
    path = SHIPPED.get(str(path), path)
    own = model.state_dict()
    given = _own_names(read_state(weights_file(path) if path.is_dir() else path))
    state = _without_prefix(given, own)
    wanted = [name for name in own if head == "keep" or not name.startswith("head.")]
    missing = [name for name in wanted if name not in state]
    wrong = [name for name in wanted if name in state and state[name].shape != own[name].shape]
    if not missing and wrong and all(name.startswith("head.") for name in wrong):
        raise DataError(
            f"{path}: its head has other classes or cells ({wrong[0]}: {tuple(state[wrong[0]].shape)} there, "
            f"{tuple(own[wrong[0]].shape)} here); set model.initial_head new."
        )
    _refuse(path, missing, wrong)
    tell_surplus(path, given, own)
    model.load_state_dict({**own, **{name: state[name] for name in wanted}})


def tell_surplus(path: Path, given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """A line on stderr where a file holds tensors that the net has no place for: often they belong to another net.

    The state of an optimiser and a moving average, beside the weights in a run's last.ckpt, are not meant.
    """
    prefix = _prefix(given, own)
    names = [name.removeprefix(prefix) for name in given if not name.startswith(("optimizer/", "average/"))]
    names = [name for name in names if name not in own]
    if names:
        some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        print(
            f"mien: weights {path}: {len(names)} tensors have no place in the net and were left out ({some}).",
            file=sys.stderr,
        )


def _own_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published names of Simple-CNN and spatial transformer as Mien's; other names as they are."""

    def own(name: str) -> str:
        bare = name.removeprefix("module.")
        place = _PUBLISHED_PLACES.get(bare.split(".")[0])
        return name if place is None else f"{place}.{bare}"

    return {own(name): value for name, value in state.items()}


def _refuse(path: Path, missing: list[str], wrong: list[str]) -> None:
    if missing or wrong:
        raise DataError(
            f"weights {path} do not fit: {len(missing)} tensors missing ({', '.join(missing[:2])}), "
            f"{len(wrong)} of another shape ({', '.join(wrong[:2])})."
        )


def read_state(path: Path) -> dict[str, Tensor]:
    """Named tensors of a file, unpacked, dug out of the usual wrappers ({"state_dict": ...}); code in the file is never run."""
    try:
        if path.suffix in (".safetensors", ".ckpt"):
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise DataError(f"weights not found: {path}.") from error
    except Exception as error:  # safetensors and torch raise many kinds for a broken file
        raise DataError(
            f"cannot read weights {path}: {(str(error).splitlines() or [type(error).__name__])[0]}"
        ) from error
    while isinstance(state, Mapping) and any(isinstance(state.get(name), Mapping) for name in _WRAPPERS):
        state = next(state[name] for name in _WRAPPERS if isinstance(state.get(name), Mapping))
    if not isinstance(state, Mapping):
        raise DataError(f"weights {path} hold a {type(state).__name__}; a state dict (name -> tensor) is needed.")
    return unpack({str(name): value for name, value in state.items() if isinstance(value, Tensor)})


def _without_prefix(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the prefix that fits most names of the net, without that prefix."""
    best = _prefix(state, own)
    return {name.removeprefix(best): value for name, value in state.items() if name.startswith(best)}


def _prefix(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """What stands before the names of the net in a file, such as "module."."""
    first = next(iter(own))
    prefixes = {name.removesuffix(first) for name in state if name.endswith(first)} | {""}
    return max(sorted(prefixes), key=lambda prefix: sum(prefix + name in state for name in own))


def _vgg_names(state: Mapping[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """VGGFace's conv3_2 as the place of that convolution in a VGG's `features`; other names as they are."""
    from timm.models import VGG

    if not isinstance(net, VGG):
        return dict(state)
    places: dict[str, int] = {}
    block, number = 1, 0
    for k, layer in enumerate(net.features):
        if isinstance(layer, nn.Conv2d):
            number += 1
            places[f"{block}_{number}"] = k
        elif isinstance(layer, nn.MaxPool2d):
            block, number = block + 1, 0

    def renamed(found: re.Match[str]) -> str:
        return f"features.{places[found[1]]}." if found[1] in places else found[0]

    return {_VGG_NAME.sub(renamed, name): value for name, value in state.items()}


def refuse_other_preprocessing(config: ModelConfig, published: Any) -> None:
    """UsageError where timm's weights were trained on inputs that model.preprocessing does not make."""
    if not config.pretrained or published is None:
        return
    for name, steps in PREPROCESSING.items():
        fits = steps.scale == 255 and (steps.mean, steps.std) == (tuple(published.mean), tuple(published.std))
        if fits and name != config.preprocessing and not steps.grey:
            raise UsageError(
                f"timm's weights of '{config.backbone}' expect model.preprocessing {name}, not {config.preprocessing}."
            )


def not_fetched(config: ModelConfig, published: Any) -> DataError:
    """What to do where timm's weights cannot be fetched: the file to bring from elsewhere."""
    source = getattr(published, "hf_hub_id", None) or getattr(published, "url", None)
    file = f"model.safetensors of {source} (Hugging Face hub)" if source else "a state dict of this net"
    return DataError(
        f"timm's weights of '{config.backbone}' cannot be fetched (no network?): bring {file} from another machine and "
        "give it as --model.weights FILE with --model.pretrained false."
    )
