"""Any timm model, APViT or the Simple-CNN, as a list of feature maps that stay on the autograd graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from mien.compat import ensure_timm
from mien.config import ModelConfig
from mien.errors import UsageError, unknown_name
from mien.models.apvit import APViT
from mien.models.apvit_weights import load_apvit
from mien.models.attend import AttentionDropout, SelfAttention, adl_places, insert_behind, self_attention
from mien.models.simple_cnn import SimpleCnn
from mien.models.small_resnet import SmallResNet
from mien.models.tokens import check_size, is_token_net, plain_attention, spread_gains, token_layers
from mien.models.weights import load_weights, not_fetched, refuse_other_preprocessing
from mien.schema import Layers

UNBUILDABLE = (
    TypeError, NotImplementedError, AssertionError, ValueError, RuntimeError, LookupError, AttributeError, ArithmeticError,
)  # fmt: skip
"""What a net raises whose settings do not fit, for example two widths for four stages."""


class Backbone(nn.Module):
    """timm model or APViT -> features of layer 1 .. n, shallow to deep, each (B, C, h, w).

    Layers are timm's `forward_intermediates`: for a ResNet the stem and its four stages (layer 5 is the paper's
    "layer 5"), for a VGG its five blocks of convolutions after their last ReLU and before their pooling (layer 5 of VGG-16
    is relu5_3), for a Swin its stages. The last layer is what the head sees, so gradients of a logit with respect to it
    exist for every backbone. A ViT runs through `token_layers`: its blocks as token grids, all on the path to the logits,
    the last after the final norm. Layers of APViT are the stages of its trunk, the last of which feeds its transformer.

    Args:
        config: which net, with which weights, changed how.
        attended: layers (1 = shallowest, -1 = last) that `model.self_attention` multiplies by their own channel mean.
        extra: channels of the input behind those of the picture.

    """

    def __init__(self, config: ModelConfig, attended: Sequence[int] = (-1,), extra: int = 0) -> None:
        super().__init__()
        self.net = _create(config, extra)
        self.colours, self.extra = (1 if isinstance(self.net, SimpleCnn) else 3), extra
        self.is_token_net = is_token_net(self.net)
        if not config.stem_pool:
            if not isinstance(getattr(self.net, "maxpool", None), nn.Module):
                raise UsageError(
                    f"model.stem_pool: false needs a ResNet stem; '{config.backbone}' has no max-pooling to drop."
                )
            self.net.maxpool = nn.Identity()
        if config.weights is not None:
            load = load_apvit if isinstance(self.net, APViT) else load_weights
            load(self.net, config.weights)
        elif not config.pretrained:
            spread_gains(getattr(self.net, "norm", None))
        self.attend_last = False
        layers = self._probe(config)
        self.channels, self.sides = [f.shape[1] for f in layers.features], [f.shape[-1] for f in layers.features]
        self.token_channels = None if layers.class_token is None else layers.class_token.shape[1]
        self.attends = layers.attention is not None
        if config.adl or config.self_attention:
            self._insert(config, attended)
            self._probe(config)  # a net that hands on no feature maps is told now

    def forward(self, images: Tensor) -> Layers:
        """(B, 3 + extra, H, W) normalised -> Layers."""
        if isinstance(self.net, APViT | SimpleCnn | SmallResNet):
            return cast(Layers, self.net(images))
        if self.is_token_net:
            return token_layers(self.net, images)
        final, layers = self.net.forward_intermediates(images)
        if final.dim() == 3:  # tokens: drop class and register tokens, then back to the grid
            grid = layers[-1].shape[-2:]
            final = final[:, final.shape[1] - grid[0] * grid[1] :].transpose(1, 2).unflatten(2, grid)
        elif final.shape[-2:] != layers[-1].shape[-2:]:  # channels-last nets such as Swin
            final = final.permute(0, 3, 1, 2)
        if self.attend_last:
            final = self_attention(final)
        return Layers((*layers[:-1], final))

    def _insert(self, config: ModelConfig, attended: Sequence[int]) -> None:
        """ADL and self-attention, behind modules that already have their weights."""
        key = "model.adl" if config.adl else "model.self_attention"
        if self.is_token_net or isinstance(self.net, APViT):
            raise UsageError(f"{key} needs a CNN; '{config.backbone}' passes tokens on.")
        if isinstance(self.net, SimpleCnn | SmallResNet):
            raise UsageError(f"{key} needs a CNN of timm; '{config.backbone}' is not one.")
        count = len(self.channels)
        stages = [(str(stage["module"]), int(stage["num_chs"])) for stage in self.net.feature_info][:count]
        if config.adl:
            insert_behind(self.net, adl_places(self.net, stages), AttentionDropout(config.adl), "model.adl")
        if config.self_attention:
            for layer in attended:
                if not 1 <= abs(layer) <= count:
                    raise UsageError(f"guidance.layers: {layer} is not a layer of this backbone; it has 1 to {count}.")
            chosen = {layer - 1 if layer > 0 else count + layer for layer in attended}
            self.attend_last = count - 1 in chosen
            inner = [stages[k] for k in chosen if k < count - 1]
            insert_behind(self.net, inner, SelfAttention(), "model.self_attention")

    @torch.no_grad()
    def _probe(self, config: ModelConfig) -> Layers:
        """Layers of one empty picture, to read shapes off."""
        training = self.net.training
        self.net.eval()
        try:
            layers: Layers = self(torch.zeros(1, self.colours + self.extra, config.size, config.size))
        except UNBUILDABLE as error:
            reason = str(error).splitlines()[0] if str(error) else "no reason given"
            widths = "" if config.channels is None else f" with model.channels {config.channels}"
            raise UsageError(
                f"backbone '{config.backbone}'{widths} does not take pictures of model.size {config.size} ({reason})."
            ) from error
        self.net.train(training)
        return layers


OWN_NETS = ("apvit", "simple_cnn", "small_resnet")
"""Backbones that are not timm's."""
OWN_KEYS = ("img_size", "output_stride", "channels", "num_classes", "global_pool", "pretrained", "patch_drop_rate")
"""timm options that model.backbone_options may not hold: keys of their own set them, or they would tear the grid."""


def _create(config: ModelConfig, extra: int) -> Any:
    """The net that a recipe names, with everything that its keys change at construction."""
    ensure_timm()
    import timm

    own = config.backbone in OWN_NETS
    if not own and not timm.is_model(config.backbone):
        raise unknown_name("backbone", config.backbone, [*timm.list_models(), *OWN_NETS])
    for name in OWN_KEYS:
        if name in config.backbone_options:
            raise UsageError(f"model.backbone_options: {name} is set by other keys of model, or cannot be changed.")
    options: dict[str, Any] = dict(config.backbone_options)
    if config.output_stride is not None:
        options["output_stride"] = config.output_stride
    if config.channels is not None:
        options["channels"] = tuple(config.channels)
    if extra and config.backbone == "apvit":
        raise UsageError("transformer.kind channel needs a net with room for a channel; backbone 'apvit' has none.")
    if extra and not own:
        options["in_chans"] = 3 + extra
    try:
        net = _create_own(config, options, extra) if own else _create_timm(config, options)
    except UNBUILDABLE as error:
        raise UsageError(_refusal(config, options, error)) from error
    if own and config.pretrained:
        raise UsageError(f"backbone '{config.backbone}' has no weights in timm; give its files as model.weights.")
    return net


def _create_own(config: ModelConfig, options: dict[str, Any], extra: int) -> nn.Module:
    if config.backbone == "apvit":
        return APViT(config.size, **options)
    if config.backbone == "small_resnet":
        return SmallResNet((1 if config.preprocessing == "grey" else 3) + extra, **options)
    if config.preprocessing != "grey":
        raise UsageError(
            f"backbone 'simple_cnn' reads grey pictures; set model.preprocessing grey, not {config.preprocessing}."
        )
    return SimpleCnn(1 + extra, **options)


def _create_timm(config: ModelConfig, options: dict[str, Any]) -> Any:
    import timm
    from timm.models import VGG, get_pretrained_cfg

    published = get_pretrained_cfg(config.backbone)
    if published is not None and published.fixed_input_size:
        options = {**options, "img_size": config.size}
    if "distilled" not in config.backbone:  # that class refuses any pooling but its own
        options = {**options, "global_pool": ""}
    refuse_other_preprocessing(config, published)
    try:
        net = timm.create_model(config.backbone, pretrained=config.pretrained, num_classes=0, **options)
    except OSError as error:
        raise not_fetched(config, published) from error
    if not hasattr(net, "forward_intermediates"):
        raise UsageError(
            f"backbone '{config.backbone}' gives no feature maps (timm's forward_intermediates); choose another."
        )
    if isinstance(net, VGG):  # the convolutions end at relu5_3; the last pooling and 120 M weights of the classifier go
        net.prune_intermediate_layers(list(range(5)))
    if is_token_net(net):
        check_size(net, config.backbone, config.size)
        plain_attention(net)
    return net


def _refusal(config: ModelConfig, options: dict[str, Any], error: Exception) -> str:
    """One line for a net that timm cannot build so."""
    if config.output_stride is not None and ("output_stride" in str(error) or not str(error)):
        return f"backbone '{config.backbone}' does not take model.output_stride {config.output_stride}; leave it out."
    reason = str(error).splitlines()[0] if str(error) else "timm gives no reason"
    return f"backbone '{config.backbone}' does not take {options or 'these settings'}: {reason}"
