"""Attributions that can be trained: gradients of a logit as differentiable functions of a forward pass.

With the features F of a layer and g = dS/dF, S a score of the logits (never of probabilities: those sum to 1, and the
gradient of that sum is 0), an attribution is a map for each channel. The privileged attribution loss (Bonnard et al.
2022, arXiv 2203.12905) pulls |g F| towards a heatmap, so the pull itself needs the derivative of g. Two ways give it:

* closed form: a head that is a chain of linear layers and ReLUs has g = W1' (m1 * W2' (m2 * ...)), ordinary products
  that are differentiated once. No second graph; exact in value and in the gradients of all parameters.
* double backward: autograd.grad with create_graph, for every other head and for earlier layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mien.errors import UsageError
from mien.losses.config import GuidanceConfig
from mien.schema import Layers, LinearChain

INTEGRATION_STEPS = 8
"""Points of the midpoint rule for `integrated`."""
HALF_SCALE = 256.0


class Request(NamedTuple):
    """One guidance's wish: an attribution for each of its layers."""

    config: GuidanceConfig
    layers: Sequence[int]
    """Indices into Layers.features."""


def activation(features: Tensor, gradient: Tensor) -> Tensor:
    """F: no gradient at all (Belharbi et al. 2024)."""
    return features


def grad(features: Tensor, gradient: Tensor) -> Tensor:
    """g: how much S would change with each cell of each channel."""
    return gradient


def grad_input(features: Tensor, gradient: Tensor) -> Tensor:
    """First-order share g F of each cell and channel in S; for a linear head they sum to S without its bias."""
    return gradient * features


def grad_cam(features: Tensor, gradient: Tensor) -> Tensor:
    """mean_xy(g_k) F_k; the mean over channels is Grad-CAM (Selvaraju et al. 2017) divided by C, before its ReLU."""
    return gradient.mean(dim=(2, 3), keepdim=True) * features


def layer_cam(features: Tensor, gradient: Tensor) -> Tensor:
    """ReLU(g_k) F_k; the mean over channels is LayerCAM (Jiang et al. 2021) divided by C, before its ReLU."""
    return gradient.relu() * features


ATTRIBUTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "activation": activation,
    "grad": grad,
    "grad_input": grad_input,
    "grad_cam": grad_cam,
    "layer_cam": layer_cam,
    "integrated": grad_input,  # of the gradient averaged along the path from zero
}
"""Name -> attribution (B, C, h, w) of (features, gradient), before `signed` is applied."""


def target_slope(logits: Tensor, labels: Tensor, target: str) -> Tensor:
    """dS/dz of the score S of logits z (B, K), (B, K); labels (B,) are predicted classes for the target `predicted`.

    One line each:
        sum        S = sum_k z_k            1
        label      S = z_y                  onehot(y)
        predicted  S = z_argmax             onehot(argmax), argmax a constant
        margin     S = z_y - mean_k z_k     onehot(y) - 1/K
        logprob    S = log softmax(z)_y     onehot(y) - softmax(z), on the graph
    """
    if target == "sum":
        return torch.ones_like(logits)
    own = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
    if target == "margin":
        return own - 1 / logits.shape[1]
    return own - logits.softmax(1) if target == "logprob" else own


def chain_gradient(chain: LinearChain, features: Tensor, slope: Tensor) -> Tensor:
    """Gradient of sum_k slope_k logit_k with respect to the layer under a LinearChain, (B, C, h, w).

    From the last layer to the first, v = (v * mask) W, where the masks of the ReLUs are constants; a pooled layer gets
    v / (h w) at every cell.
    """
    masks = []
    with torch.no_grad():
        x = features.mean(dim=(2, 3)) if chain.pooled else features.flatten(1)
        for weight, bias in zip(chain.weights[:-1], chain.biases[:-1], strict=True):
            x = F.linear(x, weight, bias).relu_()
            masks.append(x > 0)
    v = slope @ chain.weights[-1]
    for weight, mask in zip(reversed(chain.weights[:-1]), reversed(masks), strict=True):
        v = (v * mask) @ weight
    if chain.pooled:
        return (v / (features.shape[2] * features.shape[3]))[:, :, None, None].expand_as(features)
    return v.view(features.shape)


def chain_of(head: nn.Module, features: Tensor) -> LinearChain | None:
    """What the head's own `chain(features)` says it is above its layer now; None without such a method, or otherwise."""
    chain = getattr(head, "chain", None)
    return chain(features) if callable(chain) else None


def route(request: Request, head: nn.Module, layers: Layers) -> str:
    """How the gradients of a request are found: `no gradient`, `a constant`, `closed form` or `double backward`.

    The closed form holds at the last layer of a LinearChain only.
    """
    if request.config.attribution == "activation":
        return "no gradient"
    if request.config.detach:
        return "a constant"
    last = all(layer == len(layers.features) - 1 for layer in request.layers)
    closed = last and request.config.attribution != "integrated" and chain_of(head, layers.features[-1]) is not None
    return "closed form" if closed else "double backward"


def backward_gradients(logits: Tensor, features: Sequence[Tensor], slope: Tensor, graph: bool) -> list[Tensor]:
    """Gradients of sum_k slope_k logit_k with respect to each of `features`, by autograd; no parameter gets a `.grad`.

    `graph` makes them differentiable. In half precision they are scaled up on the way, because the 1 / (h w) of a pooled
    layer comes near its smallest numbers.
    """
    scale = HALF_SCALE if logits.dtype in (torch.float16, torch.bfloat16) else 1.0
    try:
        found = torch.autograd.grad(
            logits, features, slope.to(logits.dtype) * scale, create_graph=graph, retain_graph=True
        )
    except RuntimeError as error:
        if not any(words in str(error) for words in ("not have been used", "does not require grad")):
            raise
        raise UsageError(
            f"no gradient from the logits to a layer of shape {tuple(features[0].shape)}: {str(error).splitlines()[0]} "
            "Choose a layer on the path to the logits; layers of a frozen backbone need images.requires_grad_()."
        ) from error
    return [_whole(g) / scale for g in found]


def layer_gradients(
    request: Request, head: nn.Module, layers: Layers, logits: Tensor, labels: Tensor, graph: bool
) -> list[Tensor]:
    """Gradient g of every layer of a request, (B, C, h, w) in float32 or better; `graph` makes it differentiable."""
    config, features = request.config, [layers.features[index] for index in request.layers]
    chosen = logits.argmax(1) if config.target == "predicted" else labels
    if config.attribution == "integrated":
        return [_integrated(config, head, features[0], chosen, graph)]
    chain = chain_of(head, features[0]) if route(request, head, layers) == "closed form" else None
    if chain is not None:
        slope = target_slope(_whole(logits), chosen, config.target)
        return [chain_gradient(chain, _whole(f), slope) for f in features]
    return backward_gradients(logits, features, target_slope(logits, chosen, config.target), graph)


def attribute(
    requests: Sequence[Request], labels: Tensor, head: nn.Module, layers: Layers, logits: Tensor, *, graph: bool
) -> tuple[Tensor, ...]:
    """Attributions (B, C, h, w) of all requests and their layers, in order, in float32 or better.

    With requests, labels (B,) int64 and `graph` bound it is what the forward pass of a model takes as `attribute`.
    """
    found: list[Tensor] = []
    with torch.autocast(logits.device.type, enabled=False):
        for request in requests:
            config = request.config
            gradients = layer_gradients(request, head, layers, logits, labels, graph and not config.detach)
            for index, gradient in zip(request.layers, gradients, strict=True):
                g = gradient.detach() if config.detach else gradient
                map_ = ATTRIBUTIONS[config.attribution](_whole(layers.features[index]), g)
                found.append(map_ if config.signed or config.attribution in ("grad_cam", "layer_cam") else map_.abs())
    return tuple(found)


def _integrated(config: GuidanceConfig, head: nn.Module, features: Tensor, chosen: Tensor, graph: bool) -> Tensor:
    """Mean gradient along the straight path from zero to the features, at the layer under the head."""
    with torch.enable_grad():
        steps = (torch.arange(INTEGRATION_STEPS, device=features.device, dtype=torch.float32) + 0.5) / INTEGRATION_STEPS
        path = (steps.to(_whole(features).dtype).view(-1, 1, 1, 1, 1) * _whole(features)).flatten(0, 1)
        path = path if path.requires_grad else path.requires_grad_()
        repeated = chosen.repeat(INTEGRATION_STEPS)
        logits = head(Layers((path,)), repeated).logits
        slope = target_slope(logits, repeated, config.target)
        (gradient,) = backward_gradients(logits, [path], slope, graph)
    return gradient.unflatten(0, (INTEGRATION_STEPS, len(features))).mean(0)


def _whole(tensor: Tensor) -> Tensor:
    """float32 or better."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
