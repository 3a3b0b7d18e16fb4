"""Class activation maps that the head itself defines, without back-propagation.

For global average pooling and a linear layer, S_c = sum_k W[c,k] mean_xy(F_k) + b_c, the gradient of a logit is the
constant g_k = W[c,k] / (h w) at every pixel. All gradient CAMs then have a closed form in the features and the weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mien.errors import UsageError
from mien.schema import Output

CAM_FAMILY = ("cam", "grad_cam", "grad_cam_pp", "layer_cam", "grad_cam_pp_as_coded")
SAME_AS = {"xgrad_cam": "grad_cam", "hires_cam": "grad_cam", "smooth_grad_cam_pp": "grad_cam_pp"}
"""Methods that a constant gradient makes equal to one of CAM_FAMILY: no weight by place, and noise changes nothing."""


def cam(output: Output, target: Tensor) -> Tensor:
    """CAM (Zhou et al. 2016, arXiv 1512.04150) of one class a sample, raw: row `target` of `Output.maps`.

    target (B,) int64 -> (B, 1, h, w); for a GAP + linear head this is sum_k W[c,k] F_k (no bias, no ReLU).
    """
    if output.maps is None:
        raise UsageError("cam: this model has no class activation maps; use grad_cam, grad_cam_pp or layer_cam.")
    return output.maps[torch.arange(len(target), device=output.maps.device), target].unsqueeze(1)


def cam_family(output: Output, weight: Tensor, target: Tensor) -> dict[str, Tensor]:
    """CAM, Grad-CAM, Grad-CAM++ and LayerCAM of a GAP + linear head in one batched product.

    weight (K, C), target (B,) int64 -> name -> raw map (B, 1, h, w). F = features[-1], n = h w, W = weight[target]:

        cam                   sum_k W_k F_k
        grad_cam              sum_k W_k F_k / n
        grad_cam_pp           sum_k ReLU(W_k) / (2 + W_k mean_xy(F_k)) F_k      (0 where that denominator is 0)
        layer_cam             sum_k ReLU(W_k) F_k / n
        grad_cam_pp_as_coded  sum_k ReLU(W_k)^3 / n^2 F_k

    They equal `mien.explain.gradient` on the same layer. Differentiable in features and weight.
    """
    features = output.features[-1]
    batch, _, height, width = features.shape
    row = weight[target]
    denominator = 2 + row * features.mean(dim=(2, 3))
    usable = denominator != 0
    alpha = torch.where(usable, 1 / torch.where(usable, denominator, 1), 0)
    n = height * width
    up = row.relu()
    rows = torch.stack((row, row / n, alpha * up, up / n, up**3 / n**2), dim=1)
    maps = torch.bmm(rows, features.flatten(2)).view(batch, len(CAM_FAMILY), 1, height, width)
    return dict(zip(CAM_FAMILY, maps.unbind(1), strict=True))


def flat_grad_input(output: Output, weight: Tensor, target: Tensor) -> Tensor:
    """Grad*Input of a GAP + linear head, (B, 1, h, w): mean_k |W_k F_k| / n, W = weight[target]; apart from the family
    because it is no sum of the features where they can be negative.
    """
    features = output.features[-1]
    batch, channels, height, width = features.shape
    row = weight[target].abs() / (channels * height * width)
    return torch.bmm(row[:, None], features.abs().flatten(2)).view(batch, 1, height, width)


def gap_weight(model: nn.Module, output: Output) -> Tensor | None:
    """Weight (K, C) of the model's head where the closed forms hold for this output, else None.

    They hold when logits = mean_xy(features[-1]) W^T + b (+ the model's offsets); that is checked on the numbers, not on a class name.
    """
    head = getattr(model, "head", None)
    weight = getattr(head, "weight", None)
    offsets = getattr(model, "offsets", None)
    features, logits = output.features[-1], output.logits if offsets is None else output.logits - offsets
    if not isinstance(weight, Tensor) or tuple(weight.shape) != (logits.shape[1], features.shape[1]):
        return None
    bias = getattr(head, "bias", None)
    rebuilt = nn.functional.linear(features.mean(dim=(2, 3)), weight, bias)
    scale = logits.detach().abs().amax().clamp_min(1)
    return weight if bool(((rebuilt - logits).detach().abs() <= 1e-3 * scale).all()) else None
