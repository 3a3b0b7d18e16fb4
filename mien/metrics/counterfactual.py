"""How near a changed face comes to what it should have become: error by region of the picture, and action units read in it.

Plain functions of whole batches; the truth is the picture that the change should have made. `mien.audet.counterfactual` calls them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from mien.errors import DataError
from mien.metrics.intervals import DRAWS, Interval, score_interval, spread_of
from mien.metrics.resampling import cluster_totals, clusters_of

SIGMA, RADIUS = 1.5, 5
"""Of the window of SSIM, as published."""
RANGE = 2.0
"""Of pictures in [-1, 1]."""


def region_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of maps (B, H, W) over the pixels of each face's mask (B, H, W) bool, (B,); NaN where a mask is empty."""
    inside = mask.to(values.dtype)
    return (values * inside).flatten(1).sum(1) / inside.flatten(1).sum(1)  # 0 / 0 is NaN


def region_psnr(pictures: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB inside a mask (B, H, W) bool of pictures (B, C, H, W) in [-1, 1], (B,); at most 100."""
    error = region_mean((pictures - truth).square().mean(1), mask)
    return 10 * torch.log10(RANGE**2 / error.clamp_min(RANGE**2 * 1e-10))


def ssim_map(pictures: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity at every pixel, (B, H, W) in [-1, 1], higher is better, mean over the channels.

    Wang et al. 2004 (doi 10.1109/TIP.2003.819861): Gaussian windows of 11 x 11 pixels with sigma 1.5, K 0.01 and 0.03; borders are
    mirrored. Pictures (B, C, H, W) in [-1, 1], sides of at least 6.
    """
    steps = torch.arange(-RADIUS, RADIUS + 1, dtype=pictures.dtype, device=pictures.device)
    window = torch.exp(-0.5 * (steps / SIGMA) ** 2)
    window = window / window.sum()
    channels = pictures.shape[1]

    def blurred(values: Tensor) -> Tensor:
        row = window.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
        padded = F.pad(values, [RADIUS] * 4, mode="reflect")
        return F.conv2d(F.conv2d(padded, row, groups=channels), row.transpose(2, 3), groups=channels)

    mean, other = blurred(pictures), blurred(truth)
    variance, others = blurred(pictures**2) - mean**2, blurred(truth**2) - other**2
    shared = blurred(pictures * truth) - mean * other
    c1, c2 = (0.01 * RANGE) ** 2, (0.03 * RANGE) ** 2
    found = (2 * mean * other + c1) * (2 * shared + c2) / ((mean**2 + other**2 + c1) * (variance + others + c2))
    return found.mean(1)


def correlation_interval(
    read: npt.ArrayLike, truth: npt.ArrayLike, groups: npt.ArrayLike | None = None, *, seed: int = 0, draws: int = DRAWS
) -> Interval:
    """Mean over units of the Pearson correlation of what was read with the truth, with an interval over people.

    read, truth (N, A) finite; units that do not vary in one of them are left out. groups (N,) people, as in `bootstrap_mean`.
    DataError where no unit varies.
    """
    x, y = (np.asarray(values, dtype=np.float64) for values in (read, truth))
    vary = (np.ptp(x, axis=0) > 1e-9) & (np.ptp(y, axis=0) > 1e-9)
    if not vary.any():
        raise DataError("no action unit varies in what was read and in the truth.")
    x, y = ((values - values.mean(0))[:, vary] for values in (x, y))
    n, units = x.shape
    clusters, grouped = clusters_of(n, groups)
    totals = cluster_totals(np.concatenate([np.ones((n, 1)), x, y, x * x, y * y, x * y], axis=1), clusters)

    def mean_correlation(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        count, (sx, sy, sxx, syy, sxy) = sums[:, :1], np.split(sums[:, 1:], np.arange(1, 5) * units, axis=1)
        spread = np.sqrt(np.maximum((sxx - sx**2 / count) * (syy - sy**2 / count), 0))
        with np.errstate(invalid="ignore", divide="ignore"):
            each = np.where(spread > 1e-9, (sxy - sx * sy / count) / spread, np.nan)
        there = np.isfinite(each)
        return np.asarray(np.where(there, each, 0).sum(1) / np.maximum(there.sum(1), 1))

    spread = spread_of(totals, mean_correlation, totals[:, 0] / n, n, grouped, seed=seed, draws=draws)
    return Interval(spread.value, *score_interval(spread), len(totals), grouped)


INNER, HEAD = (-1.05, 1.05, -0.8, 2.1), (-1.6, 1.6, -2.0, 2.4)
"""Left, right, top and bottom of the inner face (brows to chin), and of the head with hair and ears: in distances of the eye centres,
from the middle between them."""
FLAT = 1e-3
"""Least spread of a texture that is brought to 1."""


def face_texture(
    pictures: Tensor, eyes: Tensor, box: tuple[float, float, float, float] = INNER, side: int = 24
) -> Tensor:
    """What a face looks like in a box, (B, C side side): cut out by the eyes alone, brightness and contrast removed.

    pictures (B, C, H, W); eyes (B, 2, 2) x, y centres in shares of the side, left of the picture first. Each cut has mean 0 and
    variance 1 over pixels and channels, so that tints stay. Expressions do not move the cut.
    """
    across = eyes[:, 1] - eyes[:, 0]
    down = torch.stack([-across[:, 1], across[:, 0]], 1)
    steps = (torch.arange(side, dtype=pictures.dtype, device=pictures.device) + 0.5) / side
    x, y = (low + (high - low) * steps for low, high in (box[:2], box[2:]))
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    places = (
        eyes.mean(1)[:, None, None] + columns[..., None] * across[:, None, None] + rows[..., None] * down[:, None, None]
    )
    cut = F.grid_sample(pictures, 2 * places - 1, padding_mode="border", align_corners=False).flatten(1)
    return (cut - cut.mean(1, keepdim=True)) / cut.std(1, keepdim=True).clamp_min(FLAT)
