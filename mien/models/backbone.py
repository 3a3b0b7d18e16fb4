"""Any timm model, or APViT, as a list of feature maps that stay on the autograd graph."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from mien.compat import ensure_torchvision
from mien.config import ModelConfig
from mien.errors import UsageError, unknown_name
from mien.models.apvit import APViT
from mien.models.apvit_weights import load_apvit
from mien.models.tokens import check_size, is_token_net, plain_attention, spread_gains, token_layers
from mien.models.weights import load_weights
from mien.schema import Layers


class Backbone(nn.Module):
    """timm model or APViT -> features of layer 1 .. n, shallow to deep, each (B, C, h, w).

    Layers are timm's `forward_intermediates`: for a ResNet the stem and its four stages (layer 5 is the paper's
    "layer 5"), for a Swin its stages. The last layer is what the head sees, so gradients of a logit with respect to it
    exist for every backbone. A ViT runs through `token_layers`: its blocks as token grids, all on the path to the logits,
    the last after the final norm. Layers of APViT are the stages of its trunk, the last of which feeds its transformer.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.net = _create(config)
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
        layers = self._probe(config.size)
        self.channels, self.sides = [f.shape[1] for f in layers.features], [f.shape[-1] for f in layers.features]
        self.token_channels = None if layers.class_token is None else layers.class_token.shape[1]
        self.attends = layers.attention is not None

    def forward(self, images: Tensor) -> Layers:
        """(B, 3, H, W) normalised -> Layers."""
        if isinstance(self.net, APViT):
            return cast(Layers, self.net(images))
        if self.is_token_net:
            return token_layers(self.net, images)
        final, layers = self.net.forward_intermediates(images)
        if final.dim() == 3:  # tokens: drop class and register tokens, then back to the grid
            grid = layers[-1].shape[-2:]
            final = final[:, final.shape[1] - grid[0] * grid[1] :].transpose(1, 2).unflatten(2, grid)
        elif final.shape[-2:] != layers[-1].shape[-2:]:  # channels-last nets such as Swin
            final = final.permute(0, 3, 1, 2)
        return Layers((*layers[:-1], final))

    @torch.no_grad()
    def _probe(self, size: int) -> Layers:
        """Layers of one empty picture, to read shapes off."""
        training = self.net.training
        self.net.eval()
        layers: Layers = self(torch.zeros(1, 3, size, size))
        self.net.train(training)
        return layers


OWN_KEYS = ("img_size", "output_stride", "channels", "num_classes", "global_pool", "pretrained", "patch_drop_rate")
"""timm options that model.backbone_options may not hold: keys of their own set them, or they would tear the grid."""


def _create(config: ModelConfig) -> Any:
    """The net that a recipe names, with everything that its keys change at construction."""
    ensure_torchvision()
    import timm

    if config.backbone != "apvit" and not timm.is_model(config.backbone):
        raise unknown_name("backbone", config.backbone, [*timm.list_models(), "apvit"])
    for name in OWN_KEYS:
        if name in config.backbone_options:
            raise UsageError(f"model.backbone_options: {name} is set by other keys of model, or cannot be changed.")
    options: dict[str, Any] = dict(config.backbone_options)
    if config.output_stride is not None:
        options["output_stride"] = config.output_stride
    if config.channels is not None:
        options["channels"] = tuple(config.channels)
    try:
        net = APViT(config.size, **options) if config.backbone == "apvit" else _create_timm(config, options)
    except (TypeError, NotImplementedError, AssertionError, ValueError) as error:
        raise UsageError(f"backbone '{config.backbone}' does not take {options}: {error}") from error
    if config.backbone == "apvit" and config.pretrained:
        raise UsageError("backbone 'apvit' has no weights in timm; give its files as model.weights.")
    return net


def _create_timm(config: ModelConfig, options: dict[str, Any]) -> Any:
    import timm
    from timm.models import get_pretrained_cfg

    default = get_pretrained_cfg(config.backbone)
    if default is not None and default.fixed_input_size:
        options = {**options, "img_size": config.size}
    if "distilled" not in config.backbone:  # that class refuses any pooling but its own
        options = {**options, "global_pool": ""}
    net = timm.create_model(config.backbone, pretrained=config.pretrained, num_classes=0, **options)
    if not hasattr(net, "forward_intermediates"):
        raise UsageError(
            f"backbone '{config.backbone}' gives no feature maps (timm's forward_intermediates); choose another."
        )
    if is_token_net(net):
        check_size(net, config.backbone, config.size)
        plain_attention(net)
    return net
