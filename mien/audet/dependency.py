"""Estimators of the dependency between z1 and z2, by name: three that train a critic, three in closed form.

A critic scores pairs. Real pairs (z1 and z2 of one face) are samples of the joint distribution, shuffled pairs (z2 of
another face) samples of the product of the marginals. What an estimator calls dependency is 0 where z1 and z2 are
independent; the encoder makes it small.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mien.losses.adversarial import gradient_penalty, mixed
from mien.metrics.dependence import cross_correlation, distance_correlation, hsic

Score = Callable[[Tensor], Tensor]
"""A critic: (N, C1 + C2, h, w) -> (N,)."""


class Estimate(NamedTuple):
    """What a critic says of a batch."""

    loss: Tensor
    """What the critic minimises."""
    dependency: Tensor
    """Its estimate of the dependency: what it measures, and what the encoder minimises."""


def wasserstein(real: Tensor, shuffled: Tensor) -> Estimate:
    """Wasserstein-1 distance of joint and marginals, from below, by a 1-Lipschitz critic that is high on shuffled pairs.

    Published by AUDetNet under the name of mutual information, which it is not. Scores (B,) each.
    """
    gap = shuffled.mean() - real.mean()
    return Estimate(-gap, gap)


def logistic(real: Tensor, shuffled: Tensor) -> Estimate:
    """Mutual information in nats by the density-ratio trick: the log-odds of a classifier of real against shuffled pairs.

    At its optimum the score is log p(z1, z2) / p(z1) p(z2), whose mean over real pairs is the mutual information
    (Sugiyama et al. 2012, doi 10.1017/CBO9781139035613). Scores (B,) each.
    """
    return Estimate(F.softplus(-real).mean() + F.softplus(shuffled).mean(), real.mean())


def infonce(scores: Tensor) -> Estimate:
    """Lower bound of the mutual information in nats, at most log B (van den Oord et al. 2018, arXiv 1807.03748).

    Scores (B, B) of every z1 (row) with every z2 (column).
    """
    bound = (torch.diagonal(scores) - torch.logsumexp(scores, 1)).mean() + math.log(len(scores))
    return Estimate(-bound, bound)


def shuffled_order(pairing: str, count: int, generator: torch.Generator, subjects: Tensor | None = None) -> Tensor:
    """(B,) whose z2 each face gets in a shuffled pair; never its own.

    Args:
        pairing: `derangement` random; `roll` the next face of the batch (published); `other_subject` random, of another
            subject wherever no subject holds more than half of the batch.
        count: B, at least 2.
        generator: of the randomness, on the CPU.
        subjects: (B,) int64 number of each face's subject, for other_subject.

    """
    if pairing == "roll":
        return torch.arange(count).roll(-1)
    order = torch.randperm(count, generator=generator)
    step = 1
    if pairing == "other_subject" and subjects is not None:
        _, number, sizes = torch.unique(subjects.cpu(), return_inverse=True, return_counts=True)
        number = torch.randperm(len(sizes), generator=generator)[number]
        order = order[torch.argsort(number[order], stable=True)]  # subjects side by side, random otherwise
        step = min(int(sizes.max()), count - 1)  # no block of one subject reaches that far
    partner = torch.empty(count, dtype=torch.int64)
    partner[order] = order.roll(-step)
    return partner


def pair_scores(critic: Score, z: Tensor, z1_channels: int, order: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (B,) of real and of shuffled pairs, in one pass."""
    scores = critic(torch.cat([z, _swapped(z, z1_channels, order)]))
    return scores[: len(z)], scores[len(z) :]


def all_scores(critic: Score, z: Tensor, z1_channels: int) -> Tensor:
    """Scores (B, B) of every z1 with every z2, in one pass."""
    count = len(z)
    first = z[:, :z1_channels].repeat_interleave(count, 0)
    second = z[:, z1_channels:].repeat(count, 1, 1, 1)
    return critic(torch.cat([first, second], 1)).view(count, count)


def critic_estimate(
    kind: str, critic: Score, z: Tensor, z1_channels: int, order: Tensor, share: Tensor, penalty: float,
    slopes: Score | None = None,
) -> Estimate:  # fmt: skip
    """Loss of the critic on embeddings (no gradient flows into them), the gradient penalty of `wgan` included.

    `share` (B,) in [0, 1] places the points where the penalty looks between shuffled and real pairs; `slopes` is the critic
    as the penalty may call it, where the wrapper around it forbids torch.autograd.grad.
    """
    z = z.detach()
    if kind == "infonce":
        return infonce(all_scores(critic, z, z1_channels))
    if kind == "logistic":
        return logistic(*pair_scores(critic, z, z1_channels, order))
    swapped = _swapped(z, z1_channels, order)
    between = mixed(swapped, z, share)
    scores = critic(torch.cat([z, swapped]))
    estimate = wasserstein(scores[: len(z)], scores[len(z) :])
    slope = gradient_penalty((slopes or critic)(between), between)
    return Estimate(estimate.loss + penalty * slope, estimate.dependency)


def dependency(
    kind: str, critic: Score | None, z: Tensor, z1_channels: int, order: Tensor, through_shuffled: bool
) -> Tensor:
    """The term that the encoder minimises.

    With a critic, the gradient flows through real pairs only (published), or through shuffled ones too. infonce and the
    closed forms see all pairs at once.
    """
    if kind in CLOSED_FORMS:
        return CLOSED_FORMS[kind](z[:, :z1_channels].flatten(1).float(), z[:, z1_channels:].flatten(1).float())
    assert critic is not None
    if kind == "infonce":
        return infonce(all_scores(critic, z, z1_channels)).dependency
    real, shuffled = pair_scores(critic, z, z1_channels, order)
    if not through_shuffled:
        shuffled = shuffled.detach()
    return CRITICS[kind](real, shuffled).dependency


def _swapped(z: Tensor, z1_channels: int, order: Tensor) -> Tensor:
    return torch.cat([z[:, :z1_channels], z[order, z1_channels:]], 1)


CRITICS: dict[str, Callable[[Tensor, Tensor], Estimate]] = {"wgan": wasserstein, "logistic": logistic}
"""Estimators whose critic scores real and shuffled pairs; infonce scores all."""
CLOSED_FORMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "hsic": hsic,
    "distance_correlation": distance_correlation,
    "cross_correlation": cross_correlation,
}
"""Estimators without a critic."""
