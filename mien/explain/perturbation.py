"""Class activation maps from further passes over changed images: masked by channels, or noisy.

Each function takes the model as a function of (changed images, which of the images each one is), the images, the output
of the plain images, the index of a layer in Output.features, the target class (B,) and a `Sampling`, and returns the raw
map (B, 1, h, w) as it lies on the images. Every image gets the same noise, so that a map
does not depend on the batch that its image came in. At most `Sampling.chunk` changed images are in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mien.errors import UsageError
from mien.explain.gradient import gradients
from mien.maps import min_max, resize, to_input
from mien.schema import Output

Model = Callable[[Tensor, Tensor], Output]

SMOOTH_SAMPLES, SMOOTH_STD = 4, 0.3
"""Of smooth_grad_cam_pp, in units of the normalised image."""
SS_SAMPLES, SS_STD = 35, 2.0
"""Of ss_cam, in units of the mask, which lies in [0, 1]."""
IS_SAMPLES = 10
OCCLUDED = 8
"""Cells along a side, of occlusion."""


class Sampling(NamedTuple):
    """How methods that look at changed images draw them."""

    samples: int | None = None
    """Noisy or scaled pictures for each image and mask; None for the method's published number."""
    seed: int = 0
    """Of the noise."""
    chunk: int = 64
    """Changed images in one pass; it bounds the memory and leaves the maps alone."""


def score_cam(model: Model, images: Tensor, output: Output, index: int, target: Tensor, sampling: Sampling) -> Tensor:
    """Score-CAM (Wang et al. 2020, arXiv 1910.01279) before its ReLU: sum_k w_k F_k.

    w = softmax over channels of the target's logit for the image times mask H_k, H_k = min_max(F_k resized to the image).
    The paper subtracts the logit of a baseline image, the same number for every channel, which the softmax removes. The
    guided-AU code (Belharbi et al. 2024) weights by the target's probability instead, without a softmax over channels.
    """
    return _scored(model, images, _layer(output, index), target, sampling, [(1.0, 0.0)])


def ss_cam(model: Model, images: Tensor, output: Output, index: int, target: Tensor, sampling: Sampling) -> Tensor:
    """SS-CAM (Wang et al. 2020, arXiv 2006.14255) before its ReLU: Score-CAM with the mean logit over noisy masks.

    Masks are H_k + noise, noise ~ N(0, 2^2) a pixel, 35 draws: the variant and the numbers of the guided-AU code. All
    channels see the same draws, so that they differ by their masks alone.
    """
    noise = _noise((_count(sampling, SS_SAMPLES), 1, *images.shape[-2:]), SS_STD, sampling.seed, images)
    return _scored(model, images, _layer(output, index), target, sampling, [(1.0, draw) for draw in noise])


def is_cam(model: Model, images: Tensor, output: Output, index: int, target: Tensor, sampling: Sampling) -> Tensor:
    """IS-CAM (Naidu et al. 2020, arXiv 2010.03023) before its ReLU: Score-CAM with the mean logit from no mask to all of it.

    Masks are (i / N) H_k, i = 1 .. N = 10: points of the straight path that the integral runs along. The guided-AU code and
    torch-cam add the steps up, 0.1, 0.3, 0.6, ... 5.5 times the mask, which leaves the path.
    """
    count = _count(sampling, IS_SAMPLES)
    steps = [(i + 1) / count for i in range(count)]
    return _scored(model, images, _layer(output, index), target, sampling, [(step, 0.0) for step in steps])


def smooth_grad_cam_pp(
    model: Model, images: Tensor, output: Output, index: int, target: Tensor, sampling: Sampling
) -> Tensor:
    """Smooth Grad-CAM++ (Omeiza et al. 2019, arXiv 1908.01224) before its ReLU, 4 noisy images, standard deviation 0.3.

    w_k = sum_xy alpha_k ReLU(mean g_k), alpha_k = mean g_k^2 / (2 mean g_k^2 + mean g_k^3 sum_xy F_k), means over the noisy
    images, F of the plain image; the map is sum_k w_k F_k. With one image without noise this is Grad-CAM++. The paper
    prints mean g_k above the line, which that case contradicts; torch-cam and the guided-AU code take g_k^2 too, but then
    ReLU(g_k) of the last noisy image alone. Powers are of the gradient of the logit, as in that code.
    """
    count = _count(sampling, SMOOTH_SAMPLES)
    noise = _noise((count, *images.shape[1:]), SMOOTH_STD, sampling.seed, images)
    features = output.features[index].detach()
    first, second, third = (torch.zeros_like(features) for _ in range(3))
    for pairs in torch.arange(len(images) * count, device=images.device).split(sampling.chunk):
        rows, draws = pairs // count, pairs % count
        with torch.enable_grad():
            seen = model((images[rows] + noise[draws]).requires_grad_(), rows)
            gradient = gradients(seen.logits.gather(1, target[rows, None]), seen.features[index])
        for power, moment in enumerate((first, second, third), start=1):
            moment.index_add_(0, rows, gradient**power / count)
    known = second > 0
    slope = torch.where(known, third / torch.where(known, second, 1), 0)
    denominator = 2 + slope * features.sum(dim=(2, 3), keepdim=True)
    usable = denominator != 0
    alpha = torch.where(usable, 1 / torch.where(usable, denominator, 1), 0)
    weight = (alpha * first.relu()).sum(dim=(2, 3), keepdim=True)
    return to_input((weight * features).sum(dim=1, keepdim=True), output.theta)


def occlusion(model: Model, images: Tensor, output: Output, index: int, target: Tensor, sampling: Sampling) -> Tensor:
    """Occlusion (Zeiler and Fergus 2014, arXiv 1311.2901): how far the target's logit falls when a cell is hidden.

    The picture is cut into N x N cells, N = 8; each in turn takes the picture's mean colour. The map is (B, 1, N, N), whatever
    the layer. It asks the model for nothing but answers, so it fits graphs and functions too.
    """
    side = min(_count(sampling, OCCLUDED), *images.shape[-2:])
    scores = images.new_zeros(len(images) * side * side)
    rows_of, columns_of = (torch.arange(size, device=images.device) * side // size for size in images.shape[-2:])
    place = (rows_of[:, None] * side + columns_of[None])[None, None]
    plain = output.logits.detach().gather(1, target[:, None])[:, 0]
    fill = images.mean((2, 3), keepdim=True)
    with torch.no_grad():
        for pairs in torch.arange(len(scores), device=images.device).split(sampling.chunk):
            rows, cells = pairs // side**2, pairs % side**2
            hidden = torch.where(place == cells.view(-1, 1, 1, 1), fill[rows], images[rows])
            scores[pairs] = (plain[rows] - model(hidden, rows).logits.gather(1, target[rows, None])[:, 0]).to(scores)
    return scores.view(len(images), 1, side, side)


LAYERLESS = ("occlusion",)
"""Methods that need no layer: they fit a model of which only the answers are known."""
PERTURBATION_MAPS: dict[str, Callable[[Model, Tensor, Output, int, Tensor, Sampling], Tensor]] = {
    "smooth_grad_cam_pp": smooth_grad_cam_pp,
    "score_cam": score_cam,
    "ss_cam": ss_cam,
    "is_cam": is_cam,
    "occlusion": occlusion,
}
"""Name -> map of (model, images, output, index, target, sampling)."""


@torch.no_grad()
def _scored(
    model: Model,
    images: Tensor,
    features: Tensor,
    target: Tensor,
    sampling: Sampling,
    variants: Sequence[tuple[float, Tensor | float]],
) -> Tensor:
    """sum_k w_k F_k, w = softmax over channels of the mean logit; variants (a, d) of a channel's mask H are a H + d."""
    batch, channels = features.shape[:2]
    size = (images.shape[-2], images.shape[-1])
    scores = features.new_zeros(batch * channels)
    for pairs in torch.arange(batch * channels, device=images.device).split(sampling.chunk):
        rows = pairs // channels
        masks, pictures = min_max(resize(features[rows, pairs % channels, None], size)), images[rows]
        for scale, shift in variants:
            logits = model((scale * masks + shift) * pictures, rows).logits
            scores[pairs] += logits.gather(1, target[rows, None])[:, 0] / len(variants)
    weight = scores.view(batch, channels, 1, 1).softmax(dim=1)
    return (weight * features).sum(dim=1, keepdim=True)


def _layer(output: Output, index: int) -> Tensor:
    """(B, C, h, w) as it lies on the images."""
    return to_input(output.features[index], output.theta)


def _noise(shape: Sequence[int], std: float, seed: int, like: Tensor) -> Tensor:
    """Gaussian noise; drawn on the CPU, so that one seed gives one answer on every device."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed)).to(like) * std


def _count(sampling: Sampling, published: int) -> int:
    return published if sampling.samples is None else sampling.samples


def check(sampling: Sampling) -> None:
    """UsageError unless there is at least one sample and one image a chunk."""
    for name, value in (("samples", sampling.samples), ("chunk", sampling.chunk)):
        if value is not None and value < 1:
            raise UsageError(f"{name} is {value}; it must be at least 1.")
