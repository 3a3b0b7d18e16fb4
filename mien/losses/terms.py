"""Further terms of the loss by name: what each takes from one training step and from its options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mien import maps
from mien.errors import DataError, UsageError
from mien.losses import regularise, scores
from mien.losses.classification import CLASSIFICATION
from mien.losses.options import added_term, options_of
from mien.losses.shared import shared_total
from mien.plugins import called
from mien.schema import Cue, Output, class_positions, layer_index


class Step(NamedTuple):
    """What a term may look at in one training step."""

    model: nn.Module
    output: Output
    targets: Tensor
    """(B,) class indices or (B, K) soft targets."""
    classes: Sequence[str]
    """Class names in logit order."""
    t: float
    """Sharpness of log barriers in this epoch."""
    cue: Callable[[], Cue]
    """Draws the cue at the size of the image, for the term that needs it."""
    class_weight: Tensor | None = None
    """(K,) weights of classification losses."""
    smoothing: float = 0.0
    """Label smoothing of classification losses."""
    labels: Tensor | None = None
    """(B,) or (B, K) labels for the second head, where `targets` are votes."""
    label_share: float = 0.0
    """Share of the second head in classification losses."""

    @property
    def logits(self) -> Tensor:
        """(B, K) float32, whatever the precision of the run."""
        return self.output.logits.float()

    def classification(self, name: str, *options: float) -> Tensor:
        """A loss of CLASSIFICATION, summed over the branches of the head; of two heads the mean weighted by `label_share`."""
        every = (self.logits, *(logits.float() for logits in self.output.branches))
        loss = CLASSIFICATION[name]
        first = torch.stack([loss(s, self.targets, self.class_weight, self.smoothing, *options) for s in every]).sum()
        if self.output.label_logits is None or self.labels is None:
            return first
        second = loss(self.output.label_logits.float(), self.labels, self.class_weight, self.smoothing, *options)
        return torch.lerp(first, second, self.label_share)

    def scores(self, on: str) -> Tensor:
        """(B, K) logits or probabilities."""
        return self.logits.softmax(1) if on == "probabilities" else self.logits

    def positions(self, order: Sequence[str] | None) -> list[int]:
        """Class indices along an order of class names (default: `scores.default_order`)."""
        return class_positions(scores.default_order(self.classes) if order is None else order, self.classes, "order")

    def layer(self, number: int) -> Tensor:
        """(B, C, h, w) features of a layer (from 1; -1 the last)."""
        return self.output.features[layer_index(number, len(self.output.features), "layer")].float()

    def pooled(self, number: int) -> Tensor:
        """(B, C) features of a layer, averaged over its map."""
        return self.layer(number).mean(dim=(2, 3))

    def over_layers(self, layers: Sequence[int], loss: Callable[[Tensor], Tensor]) -> Tensor:
        """Mean of a loss of pooled features over layers."""
        return torch.stack([loss(self.pooled(number)) for number in layers]).mean()

    def attention(self, number: int) -> Tensor:
        """(B, 1, h, w) in [0, 1] by min-max: the net's own attention, or the channel mean of a layer where it has none."""
        own = self.output.attention
        return maps.min_max(maps.channel_mean(self.layer(number)) if own is None else own.float())

    def classifier(self) -> Tensor:
        """(K, D) weight of the last layer of the head; UsageError for a head without one or with two."""
        weights = [weight for weight in self.parameters("head") if weight.dim() >= 2]
        if not weights or self.output.branches:
            raise UsageError("it needs a head with one classifier; use another model.head.")
        return weights[-1].flatten(1).float()

    def parameters(self, of: str) -> list[Tensor]:
        """Parameters of the head or of the whole net."""
        part = self.model.head if of == "head" else self.model
        assert isinstance(part, nn.Module)
        return list(part.parameters())

    def segmentation(self) -> Tensor:
        """(B, 1, h, w) logits of the segmentation head; UsageError without one."""
        if self.output.segmentation is None:
            raise UsageError("it needs the segmentation head; set model.segmentation true.")
        return self.output.segmentation.float()


def segmentation_loss(logits: Tensor, cue: Cue) -> Tensor:
    """Binary cross-entropy of logits (B, 1, h, w), resized to the cue, against `maps.otsu_region` of its maps.

    Mean over pixels and valid faces; 0 with gradient without any.
    """
    resized = maps.resize(logits, (cue.maps.shape[-2], cue.maps.shape[-1]))
    region = maps.otsu_region(cue.maps).to(resized.dtype)
    loss = F.binary_cross_entropy_with_logits(resized, region, reduction="none").flatten(1).mean(1)
    weight = cue.valid.to(loss.dtype)
    return (loss * weight).sum() / shared_total(weight, 1.0)


def _lowest(rows: Tensor, o: Any, t: float) -> Tensor:
    return regularise.lowest(rows, o.norm, o.share, o.limit, o.average, o.barrier, t)


TERMS: dict[str, Callable[[Step, Any], Tensor]] = {
    "cross_entropy": lambda s, o: s.classification("cross_entropy"),
    "focal": lambda s, o: s.classification("focal", o.alpha, o.gamma),
    "squared": lambda s, o: s.classification("squared"),
    "absolute": lambda s, o: s.classification("absolute"),
    "ordinal_mean": lambda s, o: scores.ordinal_mean(
        s.logits, s.targets, s.positions(o.order), o.epsilon, o.barrier, s.t
    ),
    "ordinal_variance": lambda s, o: scores.ordinal_variance(s.logits, s.positions(o.order), o.epsilon, o.barrier, s.t),
    "unimodality": lambda s, o: scores.unimodality(s.scores(o.on), s.targets, s.positions(o.order), s.t),
    "score_margin": lambda s, o: scores.score_margin(s.logits, s.targets, o.margin, s.t),
    "cost_sensitive": lambda s, o: scores.cost_sensitive(
        s.scores(o.on), s.targets, o.norm, o.confusion, o.top, o.reduce
    ),
    "high_entropy": lambda s, o: scores.high_entropy(s.logits, o.kind, o.alpha),
    "weight_sparsity": lambda s, o: regularise.l1(s.parameters(o.of)),
    "orthogonal_weights": lambda s, o: regularise.orthogonal(s.classifier(), o.kind, o.iterations),
    "sparse_weights": lambda s, o: _lowest(s.classifier(), o, s.t),
    "sparse_features": lambda s, o: _lowest(s.pooled(o.layer), o, s.t),
    "sparse_attention": lambda s, o: _lowest(s.attention(o.layer).flatten(1), o, s.t),
    "attention_size": lambda s, o: regularise.attention_size(s.attention(o.layer), o.low, o.high, o.barrier, s.t),
    "attention_entropy": lambda s, o: regularise.attention_entropy(s.attention(o.layer)),
    "orthogonal_features": lambda s, o: s.over_layers(
        o.layers, lambda f: regularise.orthogonal_features(f, s.targets, o.same, o.different, o.barrier, s.t)
    ),
    "block_features": lambda s, o: s.over_layers(
        o.layers, lambda f: regularise.block_features(f, s.targets, len(s.classes), o.barrier, s.t)
    ),
    "au_segmentation": lambda s, o: segmentation_loss(s.segmentation(), s.cue()),
}
"""Name in `loss.terms` -> function(step, options); `mien.losses.options.TERM_OPTIONS` has the options."""


def value_of(name: str, step: Step, options: Any) -> Tensor:
    """A term of one step, Mien's own or a plugin's; DataError for a plugin that fails or gives no scalar."""
    if name in TERMS:
        return TERMS[name](step, options)
    found = added_term(name)
    assert found is not None, f"{name} was checked when the recipe was read"
    value = called(f"term '{name}'", found.loss, step, options)
    if not isinstance(value, Tensor) or value.dim():
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise DataError(
            f"term '{name}' gave {shape}; a term of the loss is a scalar tensor. It is a plugin: tell its authors."
        )
    return value


def weighted_terms(entries: Sequence[dict[str, Any]], step: Step, epoch: int | None = None) -> dict[str, Tensor]:
    """Weighted value of every term of a recipe that counts in `epoch` (all without one); equal names add up.

    Raises:
        UsageError: a term that this net or label scheme cannot have.

    """
    total: dict[str, Tensor] = {}
    for entry in entries:
        name, options = entry["name"], options_of(entry)
        if epoch is None or options.active(epoch):
            try:
                value = options.weight * value_of(name, step, options)
            except UsageError as error:
                raise UsageError(f"loss.terms: {name}: {error}") from error
            total[name] = total.get(name, 0) + value
    return total
