"""What the points of a face add to the answer of a net: blendshapes -> a number for each expression, added to its logits.

Late fusion: the net looks at pixels, a small second net at the 52 blendshapes of the face provider, and logits add up, as
log-probabilities of independent witnesses do (Kittler et al. 1998, "On Combining Classifiers"). A face without blendshapes
gets zeros, so that the first net answers alone. So does a face of less than LEAST_WIDTH: people who judged faces of 48 px
did not see the smiles that show in a portrait, and each is answered as it was judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mien.errors import DataError
from mien.faces.provider import Face
from mien.files import file_sha256, weights_file
from mien.schema import FloatArray
from mien.training.checkpoint import load_tensors, save_tensors

LEAST_WIDTH = 120.0
"""Pixels between the sides of the face's box."""
FILE = "fusion.ckpt"
"""In the run folder of the net that it belongs to."""


class Fusion(NamedTuple):
    """W2 relu(W1 b + c1) + c2 of blendshapes b."""

    weight1: Tensor
    """(H, 52)."""
    bias1: Tensor
    """(H,)."""
    weight2: Tensor
    """(K, H)."""
    bias2: Tensor
    """(K,)."""

    def added(self, blendshapes: Tensor) -> Tensor:
        """(B, 52) coefficients, NaN where unknown -> (B, K) numbers for the logits; zeros where one is unknown."""
        known = torch.isfinite(blendshapes).all(1, keepdim=True)
        hidden = (blendshapes.nan_to_num() @ self.weight1.T + self.bias1).relu()
        return (hidden @ self.weight2.T + self.bias2) * known


def added_by(fusion: Fusion | None, faces: Sequence[Face | None]) -> Tensor | None:
    """(B, K) what the blendshapes of some faces add to the logits; None without a fusion."""
    large = [face is not None and face.box[2] - face.box[0] >= LEAST_WIDTH for face in faces]
    rows = stacked([face.blendshapes if face and one else None for face, one in zip(faces, large, strict=True)])
    return None if fusion is None else fusion.added(rows)


def stacked(rows: Sequence[FloatArray | None]) -> Tensor:
    """(B, 52) blendshapes of some faces, NaN where there are none."""
    empty = np.full(52, np.nan, dtype=np.float32)
    return torch.from_numpy(np.stack([empty if row is None else row for row in rows]))


def read_fusion(run: Path, classes: Sequence[str]) -> Fusion | None:
    """The fusion of a run folder; None where it has none. DataError where it belongs to other weights or is damaged."""
    file = run / FILE
    if not file.is_file():
        return None
    tensors, meta = load_tensors(file)
    if meta.get("checkpoint_sha256") != file_sha256(weights_file(run)) or meta.get("classes") != list(classes):
        raise DataError(f"{file} belongs to other weights than those of {run}; delete it, or fit it again.")
    try:
        return Fusion(*(tensors[name].float() for name in Fusion._fields))
    except KeyError as error:
        raise DataError(f"{file} is damaged ({error} is missing); delete it, or fit it again.") from None


def write_fusion(run: Path, fusion: Fusion, classes: Sequence[str]) -> None:
    """Keep a fusion beside the weights that it was fitted to."""
    meta = {"classes": list(classes), "checkpoint_sha256": file_sha256(weights_file(run))}
    save_tensors(run / FILE, fusion._asdict(), meta)
