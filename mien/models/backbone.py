"""Any timm model as a list of feature maps that stay on the autograd graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mien.compat import ensure_torchvision
from mien.config import ModelConfig
from mien.errors import DataError, UsageError, unknown_name
from mien.schema import Layers


class Backbone(nn.Module):
    """timm model -> features of layer 1 .. n, shallow to deep, each (B, C, h, w).

    Layers are timm's `forward_intermediates`: for a ResNet the stem and its four stages (layer 5 is the paper's
    "layer 5"), for a ViT its blocks as token grids. The last layer is what the head sees (after the final norm of a ViT),
    so gradients of a logit with respect to it exist for every backbone.
    """

    def __init__(self, config: ModelConfig) -> None:
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
        self.channels, self.sides = self._probe(config.size)

    def forward(self, images: Tensor) -> Layers:
        """(B, 3, H, W) normalised -> Layers."""
        final, layers = self.net.forward_intermediates(images)
        if final.dim() == 3:  # tokens: drop class and register tokens, then back to the grid
            grid = layers[-1].shape[-2:]
            final = final[:, final.shape[1] - grid[0] * grid[1] :].transpose(1, 2).unflatten(2, grid)
        elif final.shape[-2:] != layers[-1].shape[-2:]:  # channels-last nets such as Swin
            final = final.permute(0, 3, 1, 2)
        return Layers((*layers[:-1], final))

    @torch.no_grad()
    def _probe(self, size: int) -> tuple[list[int], list[int]]:
        """Channels and map sides of every layer, read off one forward pass."""
        training = self.net.training
        self.net.eval()
        features = self(torch.zeros(1, 3, size, size)).features
        self.net.train(training)
        return [f.shape[1] for f in features], [f.shape[-1] for f in features]


def _create(config: ModelConfig) -> Any:
    ensure_torchvision()
    import timm
    from timm.models import get_pretrained_cfg

    options: dict[str, Any] = {}
    if config.output_stride is not None:
        options["output_stride"] = config.output_stride
    if config.channels is not None:
        options["channels"] = tuple(config.channels)
    if not timm.is_model(config.backbone):
        raise unknown_name("backbone", config.backbone, timm.list_models())
    default = get_pretrained_cfg(config.backbone)
    if default is not None and default.fixed_input_size:
        options["img_size"] = config.size
    try:
        net = timm.create_model(config.backbone, pretrained=config.pretrained, num_classes=0, global_pool="", **options)
    except (TypeError, NotImplementedError, AssertionError, ValueError) as error:
        raise UsageError(f"backbone '{config.backbone}' does not take {options}: {error}") from error
    if not hasattr(net, "forward_intermediates"):
        raise UsageError(
            f"backbone '{config.backbone}' gives no feature maps (timm's forward_intermediates); choose another."
        )
    return net


def load_weights(net: nn.Module, path: Path) -> None:
    """Load backbone weights by name from .safetensors or a plain .pth; every tensor of the net must be there."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise DataError(f"weights not found: {path}.") from error
    except Exception as error:  # safetensors and torch raise many kinds for a broken file
        raise DataError(f"cannot read weights {path}: {str(error).splitlines()[0]}") from error
    state = {name.removeprefix("module."): value for name, value in state.get("state_dict", state).items()}
    own = net.state_dict()
    missing = [name for name in own if name not in state]
    wrong = [name for name in own if name in state and own[name].shape != state[name].shape]
    if missing or wrong:
        raise DataError(
            f"weights {path} do not fit: {len(missing)} tensors missing ({', '.join(missing[:2])}), "
            f"{len(wrong)} of another shape ({', '.join(wrong[:2])})."
        )
    net.load_state_dict({name: state[name] for name in own})
