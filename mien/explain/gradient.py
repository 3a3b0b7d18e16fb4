"""Class activation maps from gradients: any layer, any head that the gradient reaches.

Each function takes the features F (B, C, h, w) of a layer and the gradient g of the target's logit with respect to
them, and returns the raw map (B, 1, h, w). ReLU, min-max and resize are separate named calls (`Tensor.relu`,
`mien.maps`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mien.errors import UsageError


def gradients(score: Tensor, layer: Tensor) -> Tensor:
    """Gradient of a score with respect to a layer, same shape as the layer; parameters get no `.grad`.

    `score` is a scalar or (B,), one target logit a sample (samples do not mix in eval mode: the sum separates them).
    The graph is kept for further calls. UsageError when the score does not depend on the layer, such as the last patch
    tokens of a ViT whose head sees the class token alone, or after a forward pass under `no_grad`.
    """
    try:
        (gradient,) = torch.autograd.grad(score.sum(), layer, retain_graph=True)
    except RuntimeError as error:
        raise UsageError(
            f"no gradient reaches this layer of shape {tuple(layer.shape)}: choose a layer on the path to the logits "
            "(-2 or lower where the head sees a class token alone), with gradients enabled in the forward pass."
        ) from error
    return gradient


def grad_cam(features: Tensor, gradient: Tensor) -> Tensor:
    """Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391) before its ReLU: sum_k mean_xy(g_k) F_k."""
    return _weighted(gradient.mean(dim=(2, 3), keepdim=True), features)


def grad_cam_pp(features: Tensor, gradient: Tensor) -> Tensor:
    """Grad-CAM++ (Chattopadhyay et al. 2018, arXiv 1710.11063, eqs. 7 and 19) before its ReLU.

    w_k = sum_xy alpha_k ReLU(g_k), alpha_k = g_k^2 / (2 g_k^2 + g_k^3 sum_xy F_k), and the map is sum_k w_k F_k. The
    paper scores with Y = exp(S) of the logit S: alpha is then as above in gradients of S, and ReLU(dY/dF) = exp(S)
    ReLU(g). The factor exp(S) is one positive number a sample, which min-max removes, so it is left out. alpha is
    computed as 1 / (2 + g_k sum_xy F_k), the same number without an epsilon that swamps small gradients; where that
    denominator is 0, alpha is 0.
    """
    denominator = 2 + gradient * features.sum(dim=(2, 3), keepdim=True)
    usable = denominator != 0
    alpha = torch.where(usable, 1 / torch.where(usable, denominator, 1), 0)
    return _weighted((alpha * gradient.relu()).sum(dim=(2, 3), keepdim=True), features)


def grad_cam_pp_as_coded(features: Tensor, gradient: Tensor) -> Tensor:
    """Grad-CAM++ with alpha = g_k^2, its denominator lost: sum_k (sum_xy ReLU(g_k)^3) F_k.

    The code behind the published guided-AU numbers (Belharbi et al. 2024) and torch-cam 0.5.0 divide an indexed copy,
    which leaves alpha = g^2. Only for comparison with numbers made that way.
    """
    return _weighted((gradient.relu() ** 3).sum(dim=(2, 3), keepdim=True), features)


def xgrad_cam(features: Tensor, gradient: Tensor) -> Tensor:
    """XGrad-CAM (Fu et al. 2020, arXiv 2008.02312) before its ReLU: sum_k w_k F_k, w_k = sum_xy g_k F_k / sum_xy F_k.

    Where the sum over a channel is 0, its weight is 0.
    """
    total = features.sum(dim=(2, 3), keepdim=True)
    usable = total != 0
    weight = (gradient * features).sum(dim=(2, 3), keepdim=True) / torch.where(usable, total, 1)
    return _weighted(torch.where(usable, weight, 0), features)


def hires_cam(features: Tensor, gradient: Tensor) -> Tensor:
    """HiResCAM (Draelos and Carin 2020, arXiv 2011.08891): sum_k g_k(x,y) F_k(x,y), gradient times activation."""
    return _weighted(gradient, features)


def layer_cam(features: Tensor, gradient: Tensor) -> Tensor:
    """LayerCAM (Jiang et al. 2021, doi 10.1109/TIP.2021.3089943) before its ReLU: sum_k ReLU(g_k(x,y)) F_k(x,y)."""
    return _weighted(gradient.relu(), features)


def grad_input(features: Tensor, gradient: Tensor) -> Tensor:
    """Gradient times input at a layer, the mean over channels of |g_k(x,y) F_k(x,y)|: what the privileged attribution loss
    with channels `mean` pulls towards the landmarks (Bonnard et al. 2022, arXiv 2203.12905). Never negative, so that it
    says how much a place matters, not for or against which class.
    """
    return (gradient * features).abs().mean(dim=1, keepdim=True)


GRADIENT_MAPS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "grad_cam": grad_cam,
    "grad_cam_pp": grad_cam_pp,
    "layer_cam": layer_cam,
    "xgrad_cam": xgrad_cam,
    "hires_cam": hires_cam,
    "grad_input": grad_input,
    "grad_cam_pp_as_coded": grad_cam_pp_as_coded,
}
"""Name -> map of (features, gradient)."""


def _weighted(weights: Tensor, features: Tensor) -> Tensor:
    return (weights * features).sum(dim=1, keepdim=True)
