"""Faces of which only the cue's region is shown (published: `train_` and `eval_daug_mask_img_heatmap`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mien.config import MaskConfig, Recipe
from mien.data.store import Store
from mien.data.transforms import normalise
from mien.maps import otsu_region
from mien.schema import Cue, IntArray


class Masking(NamedTuple):
    """What masking needs beside the recipe."""

    colour: Tensor
    """(3,) as the net sees it, for fill black and mean."""
    mean: Tensor | None
    """(1, 1, H, W) dataset-mean cue at the size of the image, for the control `mean`."""


LEAK = "warning: faces are scored behind masks drawn from their true label, so the net sees the label (label_leak)."
OWN_LABEL = ("none", "other_class", "inverted")
"""Controls under which the map of cue `au` still depends on the face's own label."""


def mask_images(images: Tensor, cue: Cue, chosen: Tensor, config: MaskConfig, colour: Tensor) -> Tensor:
    """Chosen images outside the cue's region (Otsu, dilated by a disk) replaced by a colour or a blurred copy.

    Args:
        images: (B, 3, H, W) as the net sees them.
        cue: drawn at (H, W); a face without a valid one stays whole.
        chosen: (B,) bool.
        config: what to fill with.
        colour: (3,) for fill black and mean, in the images' own units.

    """
    side = min(images.shape[-2:])
    region = dilate(otsu_region(cue.maps), round(config.dilation * side))
    whole = ~(chosen & cue.valid).view(-1, 1, 1, 1)
    filled = gaussian_blur(images, config.sigma * side) if config.fill == "blur" else colour.view(1, 3, 1, 1)
    return torch.where(region | whole, images, filled)


def dilate(region: Tensor, radius: int) -> Tensor:
    """(B, 1, h, w) bool -> every pixel within `radius` pixels of the region."""
    if radius == 0:
        return region
    steps = torch.arange(-radius, radius + 1, device=region.device)
    disk = (steps[:, None] ** 2 + steps**2 <= radius**2).float()[None, None]
    return F.conv2d(region.float(), disk, padding=radius) > 0.5


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """(B, C, H, W) blurred by a Gaussian of `sigma` pixels, cut at 3 sigma, mirrored at the border."""
    radius = min(math.ceil(3 * sigma), min(images.shape[-2:]) - 1)
    steps = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-(steps**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).repeat(images.shape[1], 1, 1, 1)
    padded = F.pad(images, (radius,) * 4, mode="reflect")
    rows = F.conv2d(padded, kernel.transpose(2, 3), groups=images.shape[1])
    return F.conv2d(rows, kernel, groups=images.shape[1])


def fill_colour(recipe: Recipe, store: Store, rows: IntArray) -> list[float] | None:
    """Colour outside the region, RGB 0-255: black, or the mean of the pictures of `rows`; None for a recipe without masks."""
    mask = recipe.mask
    if not mask.train and not mask.evaluate:
        return None
    return mean_pixel(store, rows) if mask.fill == "mean" else [0.0, 0.0, 0.0]


def make_masking(
    colour: Sequence[float] | None, mean: Tensor | None, device: torch.device, preprocessing: str = "imagenet"
) -> Masking:
    """Masking with the colour normalised as pictures are; black without a colour."""
    pixel = torch.tensor(colour or (0.0, 0.0, 0.0), device=device).view(1, 3, 1, 1)
    return Masking(normalise(pixel, preprocessing).flatten(), mean)


def mean_pixel(store: Store, rows: IntArray) -> list[float]:
    """Mean colour of the pictures of `rows`, RGB 0-255."""
    total = np.zeros(3)
    for part in np.array_split(rows, max(1, len(rows) // 256)):
        total += store.images(part).mean(axis=(1, 2), dtype=np.float64).sum(axis=0)
    return [float(value) for value in total / len(rows)]


def label_leak(recipe: Recipe) -> bool:
    """Whether masked evaluation shows the net something of the label: the region of cue `au` is drawn from it, that of
    `au_observed` from labelled action units, unless these are predictions (data.action_units).
    """
    labelled = recipe.cue.kind == "au" or (recipe.cue.kind == "au_observed" and recipe.data.action_units is None)
    return recipe.mask.evaluate and labelled and recipe.cue.control in OWN_LABEL
