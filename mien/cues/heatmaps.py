"""Gaussian landmark heatmaps, integrated exactly over the cells of the map."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mien.cues.action_units import LEFT_EYE, RIGHT_EYE, eye_distance
from mien.cues.config import LANDMARK_GROUPS, CueConfig
from mien.maps import numbers


def cell_integral(centre: Tensor, sigma: Tensor, length: int, cells: int) -> Tensor:
    """Integral of a 1-D normal density over each of `cells` equal cells of [-0.5, length - 0.5].

    centre (...) and sigma (...) in pixels -> (..., cells); with z = (x - centre) / (sigma sqrt 2) at the cell's two
    edges, the integral is (erf(z1) - erf(z0)) / 2.
    """
    edges = torch.arange(cells + 1, device=centre.device, dtype=centre.dtype) * (length / cells) - 0.5
    z = (edges - centre[..., None]) / (sigma[..., None] * math.sqrt(2))
    return 0.5 * torch.erf(z).diff(dim=-1)


def gaussians(
    points: Tensor,
    sigma: Tensor,
    image_size: tuple[int, int],
    size: tuple[int, int],
    merge: str = "max",
    weights: Tensor | None = None,
) -> Tensor:
    """One isotropic Gaussian per point, merged by pixel-wise `max` or `sum`, divided by its own maximum, (B, 1, h, w).

    points (B, L, 2) xy pixels and finite, sigma (B,) pixels, weights (L,) factors of the points or None for 1. Points
    outside the canvas contribute their tails. Both merges are scaled alike (peak 1, no offset removed), so zero keeps
    meaning "far from every point". All zero if nothing reaches the canvas.
    """
    spread = sigma[:, None].expand(points.shape[:2])
    across = cell_integral(points[..., 0], spread, image_size[1], size[1])
    down = cell_integral(points[..., 1], spread, image_size[0], size[0])
    if weights is not None:
        down = down * weights[:, None]
    if merge == "sum":
        maps = torch.einsum("bly,blx->byx", down, across)
    else:
        maps = down.new_zeros(len(points), *size)
        for i in range(points.shape[1]):
            maps = torch.maximum(maps, down[:, i, :, None] * across[:, i, None, :])
    peak = maps.amax((1, 2), keepdim=True)
    return (maps / torch.where(peak > 0, peak, 1.0))[:, None].clamp(0, 1)


def point_weights(config: CueConfig) -> list[float]:
    """Factor of each of the 68 points: 0 for a jaw that is not drawn, else that of its group."""
    factors = {name: config.groups.get(name, 1.0) for name in LANDMARK_GROUPS}
    if not config.draws_jaw:
        factors["jaw"] = 0.0
    return [factors[name] for name, (first, end) in LANDMARK_GROUPS.items() for _ in range(first, end)]


def draw_landmarks(
    landmarks: Tensor,
    sigma: float,
    merge: str,
    weights: list[float],
    image_size: tuple[int, int],
    size: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """Landmark heatmap (B, 1, h, w) and validity (B,); `sigma` is a fraction of the outer-eye-corner distance.

    Points of weight 0 are not drawn and need not be known. Invalid where a point that is drawn is unknown, the eyes
    coincide, or no point that is drawn lies on the canvas.
    """
    finite = landmarks.isfinite().all(-1)
    clean = torch.where(finite[..., None], landmarks, 0.0)
    drawn = tuple(k for k, weight in enumerate(weights) if weight)
    index = numbers(drawn, landmarks, torch.int64)
    points = clean.index_select(1, index)
    distance = eye_distance(clean)
    factors = numbers(tuple(weights[k] for k in drawn), points)
    maps = gaussians(points, sigma * distance.clamp_min(1), image_size, size, merge, factors)
    x, y = points.unbind(-1)
    inside = ((x >= -0.5) & (x <= image_size[1] - 0.5) & (y >= -0.5) & (y <= image_size[0] - 0.5)).any(1)
    eyes = finite[:, LEFT_EYE] & finite[:, RIGHT_EYE]
    return maps, finite.index_select(1, index).all(1) & eyes & (distance >= 1) & inside
