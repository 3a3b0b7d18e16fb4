"""Training faces of AUDetNet: random changes of a whole batch on its device, noise, and what the AU loss compares."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mien.maps import numbers

GREY = (0.299, 0.587, 0.114)  # luma of ITU-R BT.601


def first_alike(alike: Tensor) -> Tensor:
    """(B,) for each row of a batch the first that is equal to it in alike (B,)."""
    return (alike[:, None] == alike).int().argmax(1)


def drawn(kinds: int, count: int, first: Tensor | None, generator: torch.Generator, device: torch.device) -> Tensor:
    """Random numbers (kinds, count) in [0, 1); a row has those of the row that first (count,) names, on the same device."""
    draws = torch.rand(kinds, count, generator=generator, device=generator.device).to(device)
    return draws if first is None else draws[:, first]


def changed(
    images: Tensor, flip: float, colour: float, generator: torch.Generator, first: Tensor | None = None
) -> Tensor:
    """Faces (B, 3, H, W) in [0, 1], each flipped with probability `flip`, each recoloured with probability `colour`.

    Channels behind the third are flipped with the others and not recoloured. Where first (B,) is given (`first_alike`), rows that
    share one are recoloured alike, and the whole batch is flipped or none of it, so that twins stay twins.

    Recoloured: brightness, contrast (around the mean grey of the face), then saturation, times U(0.5, 1.5), U(0.5, 1.5),
    U(0, 1.5), clamped to [0, 1] after each. The ranges are AUDetNet's, whose order is random.
    """
    draws = drawn(5, len(images), first, generator, images.device)[..., None, None, None]
    turns = draws[0] if first is None else draws[0, :1]
    images = torch.where(turns < flip, images.flip(3), images)
    if not colour:
        return images
    images, maps = images[:, :3], images[:, 3:]
    brightness, contrast, saturation = 0.5 + draws[1], 0.5 + draws[2], 1.5 * draws[3]
    recoloured = (images * brightness).clamp(0, 1)
    mean = _grey(recoloured).mean((2, 3), keepdim=True)
    recoloured = torch.lerp(mean, recoloured, contrast).clamp(0, 1)
    recoloured = torch.lerp(_grey(recoloured), recoloured, saturation).clamp(0, 1)
    return torch.cat([torch.where(draws[4] < colour, recoloured, images), maps], 1)


def moved(images: Tensor, reach: float, generator: torch.Generator, first: Tensor | None = None) -> Tensor:
    """Faces (B, C, H, W), each turned by up to `reach` radians, scaled by 1 - reach to 1 + reach and shifted by up to that share
    of the side both ways, all evenly drawn, rows that share one in first (B,) alike; bilinear, borders repeated. What a finder that
    places faces differently does.
    """
    if not reach:
        return images
    draws = drawn(4, len(images), first, generator, images.device)
    turn, scale, across, down = reach * (2 * draws - 1)
    cos, sin = (1 + scale) * torch.cos(turn), (1 + scale) * torch.sin(turn)
    matrix = torch.stack([cos, -sin, 2 * across, sin, cos, 2 * down], 1).view(-1, 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _grey(images: Tensor) -> Tensor:
    weights = numbers(GREY, images).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True)


def noisy(images: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Faces in [0, 1] with Gaussian noise of a deviation U(0, noise) of their own each, clamped to [0, 1]."""
    if not noise:
        return images
    device = generator.device
    deviation = noise * torch.rand(len(images), 1, 1, 1, generator=generator, device=device)
    values = torch.randn(images.shape, generator=generator, device=device) * deviation
    return (images + values.to(images.device)).clamp(0, 1)


def au_targets(units: Tensor, regresses: bool, threshold: float) -> Tensor:
    """Intensities 0-5 (B, A) -> what the loss compares: intensity / 5, or 1 where it reaches the threshold; NaN stays."""
    if regresses:
        return units / 5
    return torch.where(units.isnan(), units, (units >= threshold).to(units.dtype))


def au_loss(logits: Tensor, targets: Tensor, cross_entropy: bool) -> Tensor:
    """Mean over all known labels of BCE with logits or of the squared error; 0 where none is known. (B, A) each."""
    known = ~targets.isnan()
    filled = torch.where(known, targets, 0.0)
    compare = F.binary_cross_entropy_with_logits if cross_entropy else F.mse_loss
    each = compare(logits, filled, reduction="none")
    return torch.where(known, each, 0.0).sum() / known.sum().clamp_min(1)
