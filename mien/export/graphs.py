"""What is written: modules from pixels or blendshapes to named outputs, each a forward pass alone."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from mien import maps
from mien.data.transforms import luma, normalise
from mien.explain import GRADIENT_MAPS, rollout
from mien.export.formats import Written
from mien.faces import units as measured
from mien.faces.blendshapes import BLENDSHAPES
from mien.losses.attribution import chain_gradient, chain_of
from mien.predict.fusion import Fusion
from mien.schema import Output

if TYPE_CHECKING:
    from mien.audet.nets import AudetNet
    from mien.models import Classifier

CHAIN_MAPS = ("grad_cam", "grad_cam_pp", "layer_cam")
"""Gradient maps that a head of linear layers gives without back-propagation."""

OUTPUTS = {
    "logits": "B x K, with the offsets of the calibration",
    "probabilities": "B x K, softmax of logits / temperature",
    "attention": "B x 1 x h x w, mean over the channels of the last layer",
    "token_attention": "B x 1 x h x w, attention that the net itself computes (docs/explanations.md, attention)",
    "rollout": "B x 1 x h x w, attention rolled out over the blocks",
    "segmentation": "B x 1 x h x w, logits of the cue's region",
    "cam": "B x K x h x w, class activation map of every class",
    "ts_cam": "B x K x h x w, token attention times the class map of every class",
    "grad_cam": "B x K x h x w, of every class, before its ReLU",
    "grad_cam_pp": "B x K x h x w, of every class, before its ReLU",
    "layer_cam": "B x K x h x w, of every class, before its ReLU",
}
"""Name of an output -> what it is. A graph has those that its model gives by a forward pass alone; maps are raw."""


class Graph(Written):
    """Pixels -> named outputs, of a model in evaluation mode.

    Args:
        model: of a run.
        preprocessing: key of schema.PREPROCESSING.
        grey: make the picture grey first, as the store of the run was.
        temperature: logits are divided by it before the softmax (Guo et al. 2017, arXiv 1706.04599).

    """

    input_name = "pixels"

    def __init__(self, model: Classifier, preprocessing: str, grey: bool, temperature: float) -> None:
        super().__init__()
        self.model, self.preprocessing, self.grey, self.temperature = model, preprocessing, grey, temperature
        self.dtype = torch.float32

    def halved(self) -> Graph:
        """The same with its net in half precision."""
        found = Graph(deepcopy(self.model).half(), self.preprocessing, self.grey, self.temperature).eval()
        found.dtype = torch.float16
        return found

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """(B, 3, S, S) uint8 RGB -> those of OUTPUTS that the model gives, in that order."""
        if self.grey:
            pixels = luma(pixels).expand(-1, 3, -1, -1)
        output: Output = self.model(normalise(pixels, self.preprocessing).to(self.dtype))
        logits = output.logits.float()
        found = {"logits": logits, "probabilities": (logits / self.temperature).softmax(1)}
        found |= {name: maps.to_input(map_, output.theta) for name, map_ in forward_maps(self.model, output).items()}
        return {name: found[name].float().contiguous() for name in OUTPUTS if name in found}


def forward_maps(model: nn.Module, output: Output) -> dict[str, Tensor]:
    """Every map that needs no backward pass, raw, (B, 1, h, w), or (B, K, h, w) where it is of a class.

    A head that is a chain of linear layers gives its gradients in closed form; then the gradient maps are here for every
    class. They equal `mien.explain` of that class.
    """
    found = {"attention": maps.channel_mean(output.features[-1])}
    if output.segmentation is not None:
        found["segmentation"] = output.segmentation
    if output.attention is not None:
        found["token_attention"] = output.attention
    if output.token_attention:
        found["rollout"] = rollout(output, output.logits.argmax(1))
    if output.maps is not None:
        found["cam"] = output.maps
    if output.maps is not None and output.attention is not None:
        found["ts_cam"] = output.attention * output.maps
    return found | chain_maps(getattr(model, "head", None), output)


def chain_maps(head: nn.Module | None, output: Output) -> dict[str, Tensor]:
    """CHAIN_MAPS of every class, (B, K, h, w) each; none for a head that is no chain of linear layers."""
    features, classes = output.features[-1], output.logits.shape[1]
    chain = None if head is None else chain_of(head, features)
    if chain is None:
        return {}
    own = torch.eye(classes, dtype=features.dtype, device=features.device)
    slopes = own.expand(features.shape[0], -1, -1).flatten(0, 1)
    every = features.unsqueeze(1).expand(-1, classes, -1, -1, -1).flatten(0, 1)
    gradient = chain_gradient(chain, every, slopes)
    return {name: GRADIENT_MAPS[name](every, gradient).unflatten(0, (-1, classes)).squeeze(2) for name in CHAIN_MAPS}


class UnitGraph(Written):
    """Blendshapes -> intensities of action units as `mien.faces.units` has them, and what a run's fusion adds to its logits."""

    input_name = "blendshapes"

    def __init__(self, fusion: Fusion | None) -> None:
        super().__init__()
        weights, units = measured.unit_weights(), measured.read_units()
        columns = measured.unit_columns()
        self.fusion = fusion
        self.matrix, self.bias = (torch.from_numpy(part.copy()) for part in (weights.matrix, weights.bias))
        gains, own = np.zeros((len(BLENDSHAPES), len(columns))), np.zeros(len(columns), dtype=bool)
        cuts = np.full(len(columns), np.inf)
        for unit in units:
            for column, names in zip(unit.columns, unit.blendshapes, strict=True):
                at = columns.index(column)
                cuts[at] = unit.cut if unit.proven else np.inf
                own[at] = unit.source == "blendshapes"
                gains[[BLENDSHAPES.index(name) for name in names], at] = unit.gain / len(names)
        self.gains, self.own, self.cuts = torch.from_numpy(gains), torch.from_numpy(own), torch.from_numpy(cuts)

    def forward(self, blendshapes: Tensor) -> dict[str, Tensor]:
        """(B, 52) float32 in [0, 1] -> intensities (B, C), present (B, C) 0 or 1, and added (B, K) where there is a fusion."""
        shapes = blendshapes.double()
        logits = shapes.clamp_min(measured.SMALLEST).log() - (1 - shapes).clamp_min(measured.SMALLEST).log()
        fitted = logits @ self.matrix + self.bias
        found = torch.where(self.own, shapes @ self.gains, fitted)
        outputs = {"intensities": found.float(), "present": (found >= self.cuts).float()}
        return outputs if self.fusion is None else {**outputs, "added": self.fusion.added(blendshapes)}


class NetUnitGraph(Written):
    """Pixels -> strengths of action units, of a net of `mien audet train`."""

    input_name = "pixels"

    def __init__(self, net: AudetNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """(B, 3, S, S) uint8 RGB -> strengths (B, U) in [0, 1]: probabilities, or a fifth of the intensity."""
        found = self.net(self.net.standardise(pixels.float() / 255), decode=False).action_units
        return {"strengths": (found / measured.FULL if self.net.regresses else found).clamp(0, 1)}
