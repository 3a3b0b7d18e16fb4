"""Any timm model as a list of feature maps that stay on the autograd graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mien.compat import ensure_torchvision
from mien.config import ModelConfig
from mien.errors import UsageError, unknown_name
from mien.models.attend import AttentionDropout, SelfAttention, adl_places, insert_behind, self_attention
from mien.models.weights import load_weights, not_fetched, refuse_other_preprocessing
from mien.schema import Layers


class Backbone(nn.Module):
    """timm model -> features of layer 1 .. n, shallow to deep, each (B, C, h, w).

    Layers are timm's `forward_intermediates`: for a ResNet the stem and its four stages (layer 5 is the paper's
    "layer 5"), for a VGG its five blocks of convolutions after their last ReLU and before their pooling (layer 5 of VGG-16
    is relu5_3), for a ViT its blocks as token grids. The last layer is what the head sees (after the final norm of a ViT),
    so gradients of a logit with respect to it exist for every backbone.

    Args:
        config: which net, with which weights, changed how.
        attended: layers (1 = shallowest, -1 = last) that `model.self_attention` multiplies by their own channel mean.

    """

    def __init__(self, config: ModelConfig, attended: Sequence[int] = (-1,)) -> None:
        super().__init__()
        self.net = _create(config)
        if not config.stem_pool:
            if not isinstance(getattr(self.net, "maxpool", None), nn.Module):
                raise UsageError(
                    f"model.stem_pool: false needs a ResNet stem; '{config.backbone}' has no max-pooling to drop."
                )
            self.net.maxpool = nn.Identity()
        if config.weights is not None:
            load_weights(self.net, config.weights)
        self.attend_last = False
        self.channels, self.sides = self._probe(config)
        if config.adl or config.self_attention:
            self._insert(config, attended)
            self._probe(config)  # a net that hands on no feature maps is told now

    def forward(self, images: Tensor) -> Layers:
        """(B, 3, H, W) normalised -> Layers."""
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
    def _probe(self, config: ModelConfig) -> tuple[list[int], list[int]]:
        """Channels and map sides of every layer, read off one forward pass."""
        training = self.net.training
        self.net.eval()
        try:
            features = self(torch.zeros(1, 3, config.size, config.size)).features
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0] if str(error) else "no reason given"
            raise UsageError(
                f"backbone '{config.backbone}' does not take pictures of model.size {config.size} ({reason})."
            ) from error
        self.net.train(training)
        return [f.shape[1] for f in features], [f.shape[-1] for f in features]


def _create(config: ModelConfig) -> Any:
    ensure_torchvision()
    import timm
    from timm.models import VGG, get_pretrained_cfg

    options: dict[str, Any] = {}
    if config.output_stride is not None:
        options["output_stride"] = config.output_stride
    if config.channels is not None:
        options["channels"] = tuple(config.channels)
    if not timm.is_model(config.backbone):
        raise unknown_name("backbone", config.backbone, timm.list_models())
    published = get_pretrained_cfg(config.backbone)
    if published is not None and published.fixed_input_size:
        options["img_size"] = config.size
    refuse_other_preprocessing(config, published)
    try:
        net = timm.create_model(config.backbone, pretrained=config.pretrained, num_classes=0, global_pool="", **options)
    except OSError as error:
        raise not_fetched(config, published) from error
    except (TypeError, NotImplementedError, AssertionError, ValueError, RuntimeError) as error:
        raise UsageError(_refusal(config, options, error)) from error
    if not hasattr(net, "forward_intermediates"):
        raise UsageError(
            f"backbone '{config.backbone}' gives no feature maps (timm's forward_intermediates); choose another."
        )
    if isinstance(net, VGG):  # the convolutions end at relu5_3; the last pooling and 120 M weights of the classifier go
        net.prune_intermediate_layers(list(range(5)))
    return net


def _refusal(config: ModelConfig, options: dict[str, Any], error: Exception) -> str:
    """One line for a net that timm cannot build so."""
    if config.output_stride is not None and ("output_stride" in str(error) or not str(error)):
        return f"backbone '{config.backbone}' does not take model.output_stride {config.output_stride}; leave it out."
    reason = str(error).splitlines()[0] if str(error) else "timm gives no reason"
    return f"backbone '{config.backbone}' does not take {options or 'these settings'}: {reason}"
