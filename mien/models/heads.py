"""Heads: layers of a backbone -> logits and class activation maps."""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mien import maps
from mien.errors import UsageError
from mien.models.pooling import log_sum_exp, max_pool, peak_pool, wildcat_pool
from mien.models.token_heads import ClassTokenHead, TsCamHead
from mien.schema import HeadOutput, Layers, LinearChain


class GapHead(nn.Module):
    """Global average pooling and a linear layer (CAM, Zhou et al. 2016, arXiv 1512.04150).

    logits_c = sum_k W[c,k] mean_xy F_k + b_c; maps_c(x,y) = sum_k W[c,k] F_k(x,y), raw and without bias.
    """

    def __init__(self, channels: int, classes: int, drop: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, channels))
        self.bias = nn.Parameter(torch.zeros(classes))
        self.drop = nn.Dropout(drop)
        nn.init.xavier_uniform_(self.weight)

    def forward(self, layers: Layers, labels: Tensor | None = None) -> HeadOutput:
        """Last layer (B, C, h, w) -> logits (B, K), maps (B, K, h, w); labels are not needed."""
        features = layers.features[-1]
        logits = F.linear(self.drop(features.mean(dim=(2, 3))), self.weight, self.bias)
        return HeadOutput(logits, torch.einsum("kc,bchw->bkhw", self.weight, features))

    def chain(self, features: Tensor) -> LinearChain | None:
        """One linear layer after pooling, whatever the features; None while dropout changes it."""
        return None if self.training and self.drop.p else LinearChain(True, (self.weight,), (self.bias,))


class _MapHead(nn.Module):
    """A 1x1 convolution with bias makes the class maps; the logits are a pooling of them."""

    def __init__(self, channels: int, classes: int, drop: float = 0.0) -> None:
        super().__init__()
        self.drop = nn.Dropout(drop)
        self.classifier = nn.Conv2d(channels, classes, 1)
        _xavier(self)

    def class_maps(self, layers: Layers) -> Tensor:
        """Last layer (B, C, h, w) -> (B, K, h, w)."""
        scores: Tensor = self.classifier(self.drop(layers.features[-1]))
        return scores


class MaxPoolHead(_MapHead):
    """Class maps and their global maximum, `pooling.max_pool` (Oquab et al. 2015); maps raw."""

    def forward(self, layers: Layers, labels: Tensor | None = None) -> HeadOutput:
        """Last layer (B, C, h, w) -> logits (B, K), maps (B, K, h, w); labels are not needed."""
        scores = self.class_maps(layers)
        return HeadOutput(max_pool(scores), scores)


class LseHead(_MapHead):
    """Class maps and their smooth maximum, `pooling.log_sum_exp` (Pinheiro and Collobert 2015); maps raw.

    Args of `model.head_options`: r > 0, how close to the maximum.
    """

    def __init__(self, channels: int, classes: int, drop: float = 0.0, r: float = 10.0) -> None:
        super().__init__(channels, classes, drop)
        _check("lse", "r", r, 1e-3)
        self.r = r

    def forward(self, layers: Layers, labels: Tensor | None = None) -> HeadOutput:
        """Last layer (B, C, h, w) -> logits (B, K), maps (B, K, h, w); labels are not needed."""
        scores = self.class_maps(layers)
        return HeadOutput(log_sum_exp(scores, self.r), scores)


class WildcatHead(_MapHead):
    """Several maps a class, their mean, and `pooling.wildcat_pool` (Durand et al. 2017).

    Args of `model.head_options`: maps a class; kmax and kmin, shares of the pixels that count as highest and lowest;
    alpha, weight of the lowest. Maps of the output are the mean over the maps of a class, raw. The code behind the numbers
    of Belharbi et al. 2024 computed the term of the lowest pixels and lost it; here it counts.
    """

    def __init__(
        self, channels: int, classes: int, drop: float = 0.0, maps: int = 5, kmax: float = 0.5, kmin: float = 0.1,
        alpha: float = 0.6,
    ) -> None:  # fmt: skip
        _check("wildcat", "maps", maps, 1, whole=True)
        _check("wildcat", "kmax", kmax, 1e-6, 1)
        _check("wildcat", "kmin", kmin, 0, 1)
        _check("wildcat", "alpha", alpha, 0)
        super().__init__(channels, classes * int(maps), drop)
        self.maps, self.kmax, self.kmin, self.alpha = int(maps), kmax, kmin, alpha

    def forward(self, layers: Layers, labels: Tensor | None = None) -> HeadOutput:
        """Last layer (B, C, h, w) -> logits (B, K), maps (B, K, h, w); labels are not needed."""
        scores = self.class_maps(layers).unflatten(1, (-1, self.maps)).mean(2)
        return HeadOutput(wildcat_pool(scores, self.kmax, self.kmin, self.alpha), scores)


class PrmHead(_MapHead):
    """Class maps and the mean of their local maxima, `pooling.peak_pool` (PRM, Zhou et al. 2018); maps raw."""

    def forward(self, layers: Layers, labels: Tensor | None = None) -> HeadOutput:
        """Last layer (B, C, h, w) -> logits (B, K), maps (B, K, h, w); labels are not needed."""
        scores = self.class_maps(layers)
        return HeadOutput(peak_pool(scores), scores)


class AcolHead(nn.Module):
    """Two branches, the second without what the first found (ACoL, Zhang et al. 2018, arXiv 1804.06962).

    Each branch: convolution 3x3, ReLU, convolution 3x3, ReLU, convolution 1x1 to class maps, global average. Branch B
    sees the features with zeros where the min-max normalised map of branch A is at least `threshold`. That map is the
    true class's in training and the predicted class's without labels (label None or -1), so that prediction never needs
    a label. The prediction is branch A; the logits of B are a further branch of the classification loss. Maps are the
    maximum of the min-max maps of A and B, class by class, in [0, 1].

    Args of `model.head_options`: threshold in (0, 1]; width, channels of the convolutions.
    """

    def __init__(
        self, channels: int, classes: int, drop: float = 0.0, threshold: float = 0.1, width: int = 1024
    ) -> None:
        super().__init__()
        _check("acol", "threshold", threshold, 1e-6, 1)
        _check("acol", "width", width, 1, whole=True)
        self.threshold = threshold
        self.branch_a, self.branch_b = (_branch(channels, int(width), classes, drop) for _ in range(2))
        _xavier(self)

    def forward(self, layers: Layers, labels: Tensor | None = None) -> HeadOutput:
        """Last layer (B, C, h, w), labels (B,) int64 -> logits of A (B, K), maps (B, K, h, w), branches (logits of B,)."""
        features = layers.features[-1]
        first: Tensor = self.branch_a(features)
        logits = first.mean(dim=(2, 3))
        predicted = logits.argmax(1)
        chosen = predicted if labels is None else torch.where(labels >= 0, labels, predicted)
        found = _min_max(first)
        seen = found.gather(1, chosen.view(-1, 1, 1, 1).expand_as(found[:, :1]))
        second: Tensor = self.branch_b(features.masked_fill(seen >= self.threshold, 0.0))
        return HeadOutput(logits, torch.maximum(found, _min_max(second)), (second.mean(dim=(2, 3)),))


class MlpHead(nn.Module):
    """Hidden dense layers with ReLU and dropout before the classifier; no maps, so explanations come from gradients.

    Features are averaged over the picture, or with `flatten` max-pooled to 7x7 and flattened as in VGG (Simonyan and
    Zisserman 2015, arXiv 1409.1556): for a VGG-16 of 224 px that is pool5, Flatten, FC 4096, FC 4096. A smaller last layer
    is repeated to 7x7.

    Args of `model.head_options`: hidden1, hidden2, units of the hidden layers (hidden2 0 leaves the second out); flatten.
    """

    def __init__(
        self, channels: int, classes: int, drop: float = 0.0, hidden1: int = 4096, hidden2: int = 4096,
        flatten: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        _check("mlp", "hidden1", hidden1, 1, whole=True)
        _check("mlp", "hidden2", hidden2, 0, whole=True)
        self.drop = drop
        self.pool: nn.Module = nn.AdaptiveMaxPool2d(7) if flatten else nn.AdaptiveAvgPool2d(1)
        widths = [channels * 49 if flatten else channels, int(hidden1), *([int(hidden2)] if hidden2 else [])]
        hidden = [
            layer
            for before, after in itertools.pairwise(widths)
            for layer in (nn.Linear(before, after), nn.ReLU(), nn.Dropout(drop))
        ]
        self.layers = nn.Sequential(*hidden, nn.Linear(widths[-1], classes))
        _xavier(self)

    def forward(self, layers: Layers, labels: Tensor | None = None) -> HeadOutput:
        """Last layer (B, C, h, w) -> logits (B, K), no maps; labels are not needed."""
        features = layers.features[-1]
        h, w = features.shape[2:]
        if isinstance(self.pool, nn.AdaptiveMaxPool2d) and not (h % 7 or w % 7):
            pooled = F.max_pool2d(features, (h // 7, w // 7))  # the same, and ONNX has it
        else:
            pooled = self.pool(features)
        return HeadOutput(self.layers(pooled.flatten(1)), None)

    def chain(self, features: Tensor) -> LinearChain | None:
        """The dense layers; None while dropout changes them, or where pooling to 7x7 does."""
        pooled = isinstance(self.pool, nn.AdaptiveAvgPool2d)
        if (self.training and self.drop) or not (pooled or tuple(features.shape[2:]) == (7, 7)):
            return None
        dense = [layer for layer in self.layers if isinstance(layer, nn.Linear)]
        return LinearChain(pooled, tuple(layer.weight for layer in dense), tuple(layer.bias for layer in dense))


class FlatHead(nn.Module):
    """Dropout of single cells, Flatten, one hidden layer with ReLU, the classifier: the head of the Simple-CNN.

    Luna-Jimenez et al. 2021, doi 10.3390/app11167217. `channels` counts the cells too: C h w. No maps; torch's own initial
    weights, as published. Args of `model.head_options`: hidden, units of the hidden layer.
    """

    def __init__(self, channels: int, classes: int, drop: float = 0.0, hidden: int = 50) -> None:
        super().__init__()
        _check("flat", "hidden", hidden, 1, whole=True)
        self.drop = nn.Dropout(drop)
        self.fc1, self.fc2 = nn.Linear(channels, int(hidden)), nn.Linear(int(hidden), classes)

    def forward(self, layers: Layers, labels: Tensor | None = None) -> HeadOutput:
        """Last layer (B, C, h, w) -> logits (B, K), no maps; labels are not needed."""
        cells = self.drop(layers.features[-1]).flatten(1)
        return HeadOutput(self.fc2(self.fc1(cells).relu()), None)

    def chain(self, features: Tensor) -> LinearChain | None:
        """Both linear layers on the flattened cells; None while dropout changes them."""
        if self.training and self.drop.p:
            return None
        return LinearChain(False, (self.fc1.weight, self.fc2.weight), (self.fc1.bias, self.fc2.bias))


HEADS: dict[str, type[nn.Module]] = {
    "gap": GapHead,
    "max_pool": MaxPoolHead,
    "lse": LseHead,
    "wildcat": WildcatHead,
    "prm": PrmHead,
    "acol": AcolHead,
    "mlp": MlpHead,
    "flat": FlatHead,
    "ts_cam": TsCamHead,
    "cls": ClassTokenHead,
}
"""Name -> head, made as head(channels, classes, drop, **model.head_options), called as head(layers, labels)."""


def _branch(channels: int, width: int, classes: int, drop: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(),
        nn.Dropout(drop),
        nn.Conv2d(width, classes, 1),
    )


def _min_max(scores: Tensor) -> Tensor:
    """Min-max of every class map by itself."""
    return maps.min_max(scores.flatten(0, 1)).view_as(scores)


def _xavier(head: nn.Module) -> None:
    for layer in head.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


def _check(head: str, option: str, value: float, low: float, high: float = math.inf, *, whole: bool = False) -> None:
    if not low <= value <= high or (whole and value != int(value)):
        kind, end = "a whole number" if whole else "a number", "" if high == math.inf else f" and at most {high:g}"
        raise UsageError(
            f"model.head_options: {option} of head '{head}' is {value}; it must be {kind} of at least {low:g}{end}."
        )
