"""Weights of APViT under the names of the published files: its trunk, its transformer, or all of it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from mien.errors import DataError
from mien.models.apvit import APViT
from mien.models.weights import read_state

PUBLISHED = {
    "trunk": "backbone_ir50_ms1m_epoch120.pth",
    "transformer": "vit_small_p16_224-15ec54c9.pth",
}
"""Part -> file that Xue et al. start from: IR-50 of face.evoLVe, and the first ViT-Small of timm."""

MARKS = {
    "whole": "extractor.input_layer.0.weight",
    "trunk": "input_layer.0.weight",
    "transformer": "blocks.0.attn.qkv.weight",
}
"""Layout of a file -> a name that only files of that layout hold; the more telling first."""


def load_apvit(net: APViT, path: Path) -> None:
    """Load what a file holds, told by its names; a folder must hold both PUBLISHED files.

    * trunk: `input_layer.*`, `body.0.*` .. `body.20.*` of an IR-50; its fourth stage and output layer are left out.
    * transformer: `cls_token`, `pos_embed`, `blocks.*`, `norm.*` of a ViT; patch embedding and head are left out, positions
      are resized to the grid of the net. The 1x1 convolution stays as initialised: no published file has it.
    * whole: a trained APViT as its authors save it.

    Raises:
        DataError: no such file, not readable without running code, another layout, tensors missing or of another shape.

    """
    for file in [path / name for name in PUBLISHED.values()] if path.is_dir() else [path]:
        if not file.exists():
            raise DataError(
                f"weights not found: {file}. APViT starts from {' (face.evoLVe) and '.join(PUBLISHED.values())} (timm's "
                "release v0.1-weights) in one folder, or from one file."
            )
        _load_file(net, file)


def trunk_names(state: Mapping[str, Tensor], units: list[int]) -> dict[str, Tensor]:
    """Flat names of an IR net (body.<unit>) as stages (extractor.body.<stage>.<unit>); units: how many a stage."""
    places = [f"{stage}.{unit}" for stage, count in enumerate(units) for unit in range(count)]
    renamed = {}
    for name, value in state.items():
        if name.startswith("body."):
            number, rest = name.removeprefix("body.").split(".", 1)
            if int(number) < len(places):
                renamed[f"extractor.body.{places[int(number)]}.{rest}"] = value
        elif name.startswith("input_layer."):
            renamed[f"extractor.{name}"] = value
    return renamed


def transformer_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of a ViT as those of APViT's transformer; `pos_embed` (1, 1 + N, C) is cut into class token and patches."""
    renamed = {
        f"vit.{name}": value for name, value in state.items() if name.startswith(("blocks.", "norm.", "cls_token"))
    }
    if "pos_embed" in state:
        renamed["vit.cls_pos_embed"] = state["pos_embed"][:, :1]
        renamed["vit.patch_pos_embed"] = state["pos_embed"][:, 1:]
    return renamed


def resized(position: Tensor, patches: int) -> Tensor:
    """Position embeddings (1, N, C) of a square grid at `patches`, bilinear as its authors do it; else unchanged."""
    side = round(position.shape[1] ** 0.5)
    new = round(patches**0.5)
    if position.shape[1] == patches or side * side != position.shape[1]:
        return position
    grid = position.transpose(1, 2).unflatten(2, (side, side))
    return F.interpolate(grid, size=(new, new), mode="bilinear").flatten(2).transpose(1, 2)


def _load_file(net: APViT, path: Path) -> None:
    state = read_state(path)
    layout, prefix = _layout(state, path)
    total = len(state) + any(
        name.endswith("pos_embed") for name in state if layout == "transformer"
    )  # becomes two tensors
    state = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    if layout == "trunk":
        state = trunk_names(state, [len(stage) for stage in net.extractor.body])  # type: ignore[arg-type]
    elif layout == "transformer":
        state = transformer_names(state)
    if "vit.patch_pos_embed" in state:
        state["vit.patch_pos_embed"] = resized(state["vit.patch_pos_embed"], net.vit.patch_pos_embed.shape[1])
    part = {"whole": ("extractor.", "vit."), "trunk": ("extractor.",), "transformer": ("vit.",)}[layout]
    left = ("num_batches_tracked", *(["projs.0.weight", "projs.0.bias"] if layout == "transformer" else []))
    own = {name: value for name, value in net.state_dict().items() if name.startswith(part)}
    missing = [name for name in own if name not in state and not name.endswith(left)]
    wrong = [name for name in own if name in state and own[name].shape != state[name].shape]
    if missing or wrong:
        raise DataError(
            f"weights {path} do not fit APViT: {len(missing)} tensors missing ({', '.join(missing[:2])}), {len(wrong)} of "
            f"another shape ({', '.join(wrong[:2])}). Published files fit the full size: leave model.backbone_options out."
        )
    fitting = {name: state[name] for name in own if name in state}
    net.load_state_dict(fitting, strict=False)
    if len(fitting) < total:
        print(
            f"mien: weights {path}: {total - len(fitting)} of {total} tensors have no place in APViT and were left out.",
            file=sys.stderr,
        )


def _layout(state: Mapping[str, Tensor], path: Path) -> tuple[str, str]:
    """Layout of a file, and the prefix that all of its names share, such as "module."."""
    for layout, mark in MARKS.items():
        for name in state:
            if name.endswith(mark):
                return layout, name.removesuffix(mark)
    raise DataError(
        f"weights {path} are of no layout that APViT knows: neither {PUBLISHED['trunk']} nor {PUBLISHED['transformer']} "
        "nor a trained APViT."
    )
