"""Classifier = backbone + head."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from mien.config import ModelConfig, TransformerConfig
from mien.errors import UsageError, unknown_name
from mien.models.backbone import Backbone
from mien.models.heads import HEADS
from mien.models.memory_format import to_channels_last
from mien.models.transformer import Alignment, GuideChannel, SpatialTransformer, create_transformer
from mien.models.weights import load_initial
from mien.schema import HeadOutput, Layers, Output

Attribute = Callable[[nn.Module, Layers, Tensor], tuple[Tensor, ...]]
"""(head, layers, logits) -> Output.attributions."""


class Classifier(nn.Module):
    """Images -> Output; nothing is kept on the module.

    `spatial_drop` is the probability that a channel of the last layer is hidden from the head, in training; the features
    of the output are whole. `segmentation` makes region logits of the last layer. `transformer` places the picture first.
    `label_head` makes the logits of the dataset's labels, where `head` learns votes.
    `offsets` (K,), where somebody sets them, are added to the logits; they are no weights and not saved with those.
    """

    offsets: Tensor | None

    def __init__(
        self, backbone: Backbone, head: nn.Module, spatial_drop: float = 0.0, segmentation: nn.Module | None = None,
        transformer: SpatialTransformer | GuideChannel | Alignment | None = None, label_head: nn.Module | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.transformer = transformer
        self.backbone = backbone
        self.spatial_drop = nn.Dropout2d(spatial_drop)
        self.head = head
        self.segmentation = segmentation
        self.label_head = label_head
        self.register_buffer("offsets", None, persistent=False)

    def forward(
        self, images: Tensor, labels: Tensor | None = None, attribute: Attribute | None = None,
        guide: Tensor | None = None,
    ) -> Output:  # fmt: skip
        """(B, 3, H, W) normalised images -> Output. `labels` (B,) are for heads that train with them, never needed.

        `attribute(head, layers, logits)` runs inside the forward pass, where wrappers for mixed precision or
        several processes have not yet replaced any tensor; `mien.losses.attribution` makes one. `guide` is what
        `Batch.guide` holds; a model without a transformer takes none.
        """
        theta = None
        if self.transformer is not None:
            images, theta = self.transformer(images, guide)
        layers: Layers = self.backbone(images)
        if attribute is not None and not layers.features[-1].requires_grad:
            layers.features[-1].requires_grad_()  # frozen backbone: gradients of the head need a leaf
        seen = layers._replace(features=(*layers.features[:-1], self.spatial_drop(layers.features[-1])))
        out: HeadOutput = self.head(seen, labels)
        attributions = () if attribute is None else attribute(self.head, seen, out.logits)
        region = self.segmentation(layers.features[-1]) if self.segmentation is not None else None
        logits = out.logits if self.offsets is None else out.logits + self.offsets
        return Output(
            logits, layers.features, out.maps, out.branches, layers.attention, layers.token_attention,
            segmentation=region, attributions=attributions, theta=theta,
            label_logits=None if self.label_head is None else self.label_head(seen, labels).logits,
        )  # fmt: skip

    def answer_by(self, head: str) -> None:
        """Keep one of two heads, `votes` or `labels`, whose logits and maps are those of the output from now on; the other
        goes. A model with one head stays as it is.
        """
        if self.label_head is not None and head == "labels":
            self.head = self.label_head
        self.label_head = None

    def blank_guide(self, images: Tensor) -> Tensor | None:
        """A guide for a trial of the model: of faces about which nothing is known; None where it takes none."""
        return None if self.transformer is None else self.transformer.blank(images)


def create_model(
    config: ModelConfig,
    classes: int,
    guided: Sequence[int] = (-1,),
    transformer: TransformerConfig = TransformerConfig(),  # noqa: B008
    two_heads: bool = False,
) -> Classifier:
    """Assemble the model that a recipe names; UsageError for an unknown backbone, head or head option.

    `guided` are the recipe's guidance.layers, which model.self_attention changes. With `two_heads` another head of the same
    kind makes `Output.label_logits`.
    """
    if config.head not in HEADS:
        raise unknown_name("head", config.head, HEADS)
    kind = HEADS[config.head]
    known = list(inspect.signature(kind).parameters)[3:]
    for name in config.head_options:
        if name not in known:
            if not known:
                raise UsageError(f"model.head_options: head '{config.head}' takes none, got '{name}'.")
            raise unknown_name(f"option of head '{config.head}'", name, known)
    if config.segmentation and transformer.kind not in ("none", "channel"):
        raise UsageError(
            "model.segmentation names pixels of the input picture, which transformer.kind moves; drop one."
        )
    backbone = Backbone(config, guided, extra=int(transformer.kind == "channel"))
    inputs = _head_channels(config, backbone)
    head = kind(inputs, classes, config.drop, **config.head_options)
    second = kind(inputs, classes, config.drop, **config.head_options) if two_heads else None
    segmentation = nn.Conv2d(backbone.channels[-1], 1, 3, padding=1) if config.segmentation else None
    placing = create_transformer(transformer, backbone.colours, config.size, config.preprocessing)
    model = Classifier(backbone, head, config.spatial_drop, segmentation, placing, second)
    if config.initial is not None:
        load_initial(model, config.initial, config.initial_head)
    to_channels_last(model)
    return model


def _head_channels(config: ModelConfig, backbone: Backbone) -> int:
    """Channels that the head reads, those of the last layer (`flat`: of all its cells) or of the class token.

    Raises UsageError where head and backbone do not fit.
    """
    if config.backbone == "apvit" and config.head != "cls":
        raise UsageError(
            f"backbone 'apvit' answers through its class token, not through '{config.head}'; use model.head cls."
        )
    if config.head == "cls" and config.spatial_drop:
        raise UsageError(
            "model.spatial_drop hides channels of the last layer, which head 'cls' does not read; use model.drop."
        )
    if config.head == "cls" and backbone.token_channels is not None:
        return backbone.token_channels
    if config.head == "cls" or (config.head == "ts_cam" and not backbone.attends):
        raise UsageError(
            f"head '{config.head}' needs a transformer with a class token, such as deit_small_patch16_224; "
            f"'{config.backbone}' has none."
        )
    return backbone.channels[-1] * (backbone.sides[-1] ** 2 if config.head == "flat" else 1)
