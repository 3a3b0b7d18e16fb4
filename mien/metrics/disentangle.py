"""What parts of an embedding share and hide: dependency with a permutation test over people, swaps, collapse.

Plain functions of whole-run arrays, one row a face. Probes stand in `mien.metrics.probes`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mien.errors import DataError
from mien.metrics.action_units import auc
from mien.metrics.dependence import cross_correlation, distance_correlation, hsic
from mien.metrics.resampling import person_blocks

MEASURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "distance_correlation": distance_correlation,
    "hsic": hsic,
    "cross_correlation": cross_correlation,
}
"""Dependency measure -> function of (N, D1) and (N, D2); higher is more dependent."""
MIN_PEOPLE = 5
"""From this many people on (120 orders) a permutation test can reach 0.05."""


class Dependence(NamedTuple):
    """A measure of dependency with its permutation test."""

    value: float
    """On the faces that were tested."""
    independent: float | None
    """Mean over the permutations: what independent parts of this size score; None where there was no test."""
    p: float | None
    """Share of permutations, this one counted, that score at least as much; at least 1 / (draws + 1); None with too few people."""
    people: int
    """Blocks that were exchanged: people, or faces where nobody is known."""
    faces_each: int


def dependence_test(
    measure: Callable[[Tensor, Tensor], Tensor],
    first: Tensor,
    second: Tensor,
    groups: npt.ArrayLike | None = None,
    *,
    draws: int = 199,
    seed: int = 0,
    most: int | None = None,
) -> Dependence:
    """A measure of (N, D1) and (N, D2), and its permutation test: whole people of the second are exchanged `draws` times.

    groups (N,) people. Faces of one person are alike in both parts, so exchanging single faces would find a dependency where there is
    none; blocks of equal size (`person_blocks`) are exchangeable if the parts are independent. Without groups rows are exchanged,
    and count as independent. `most` faces at most. With fewer than MIN_PEOPLE blocks there is no test.
    """
    blocks = person_blocks(groups, len(first), most)
    people, each = blocks.shape
    value = float(measure(first[blocks.ravel()], second[blocks.ravel()]))
    if people < MIN_PEOPLE:
        return Dependence(value, None, None, people, each)
    generator = torch.Generator().manual_seed(seed)
    orders = (torch.randperm(people, generator=generator).numpy() for _ in range(draws))
    a = first[blocks.ravel()]
    null = np.array([float(measure(a, second[blocks[order].ravel()])) for order in orders])
    reached = int((null >= value - 1e-12).sum())
    return Dependence(value, float(null.mean()), (1 + reached) / (1 + draws), people, each)


def spread(features: npt.NDArray[np.float64]) -> dict[str, float]:
    """Signs of a collapsed part of an embedding (N, D).

    Keys: dimensions; variance (mean over columns); dead (share of columns whose variance is under 1e-6 of the largest, or
    0); effective_rank: exp of the entropy of the shares of the singular values of the centred features (Roy and Vetterli
    2007), from 1 to D; 0 where nothing varies.
    """
    values = np.asarray(features, dtype=np.float64)
    variance = values.var(axis=0) if values.shape[1] else np.zeros(0)
    if not len(variance) or variance.max() <= 0:
        return {
            "dimensions": values.shape[1],
            "variance": 0.0,
            "dead": float(values.shape[1] > 0),
            "effective_rank": 0.0,
        }
    sizes = np.linalg.svd(values - values.mean(axis=0), compute_uv=False)
    share = sizes[sizes > 0] / sizes.sum()
    return {
        "dimensions": values.shape[1],
        "variance": float(variance.mean()),
        "dead": float((variance < 1e-6 * variance.max()).mean()),
        "effective_rank": float(np.exp(-(share * np.log(share)).sum())),
    }


def psnr(pictures: Tensor, others: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of pictures (B, C, H, W) in [-1, 1], (B,); higher is better, at most 100."""
    error = (pictures - others).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / error.clamp_min(4e-10))


def units_followed(scores: npt.ArrayLike, first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """Whose action units a swapped face shows, in [0, 1]: 1 those of `first`, 0 those of `second`, 0.5 neither's.

    scores (N, A) predictions of the swapped faces; first, second (N, A) occurrence 1, 0, NaN of the two it was made of. AUC
    by unit over the entries where the two differ (which makes it symmetric), then the mean over units; NaN without any.
    """
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    differ = (one != other) & ~np.isnan(one) & ~np.isnan(other)
    areas = auc(scores, np.where(differ, one, np.nan))
    return float(np.nanmean(areas)) if np.isfinite(areas).any() else float("nan")


def identity_followed(predicted: npt.ArrayLike, first: npt.ArrayLike, second: npt.ArrayLike) -> dict[str, float]:
    """Shares of swapped faces (N,) that a probe takes for the subject of z1, and for that of z2; the two must differ."""
    said, one, other = np.asarray(predicted), np.asarray(first), np.asarray(second)
    if (one == other).any():
        raise DataError("a swapped face needs two different subjects.")
    return {"z1": float((said == one).mean()), "z2": float((said == other).mean())}
