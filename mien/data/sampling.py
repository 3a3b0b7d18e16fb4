"""Which training faces an epoch visits, in which order: class balance and curriculum, by (seed, epoch) alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mien.config import Recipe
from mien.errors import DataError, UsageError
from mien.schema import IntArray, class_positions, scheme_classes

SAMPLERS = ("sampler", "sampler_min")
"""Values of `data.balance` that choose faces; the others weigh the loss."""


def epoch_rows(
    rows: IntArray,
    labels: IntArray,
    *,
    balance: str = "none",
    seed: int,
    epoch: int,
    classes: Sequence[int] | None = None,
    processes: int = 1,
) -> IntArray:
    """Rows of one training epoch in random order; the same in every process of a run, which then takes its share.

    Args:
        rows: (n,) labelled training rows of the store.
        labels: (N,) class index of every row of the store.
        balance: `sampler`: as many rows as there are, every class equally often (to one), those of a rare class
            repeated, no face more than once oftener than another of its class. `sampler_min`: as many of each class as
            the rarest has, drawn anew each epoch. Else each row once.
        seed: of the run.
        epoch: from 1.
        classes: only these (curriculum); None for all.
        processes: the number of rows is a multiple of it: equal shares, or processes would wait for each other.

    """
    if classes is not None:
        rows = rows[np.isin(labels[rows], classes)]
    if len(rows) == 0:
        raise DataError(f"data.curriculum: no training face of the classes of epoch {epoch}; see `mien check`.")
    random = np.random.default_rng((seed, epoch))
    chosen = random.permutation(_balanced(rows, labels, balance, random) if balance in SAMPLERS else rows)
    if len(chosen) < processes:
        raise DataError(f"epoch {epoch} has {len(chosen)} faces for {processes} processes; lower --run.devices.")
    return chosen[: len(chosen) // processes * processes]


def _balanced(rows: IntArray, labels: IntArray, balance: str, random: np.random.Generator) -> IntArray:
    members = [rows[labels[rows] == k] for k in random.permutation(np.unique(labels[rows]))]
    if balance == "sampler_min":
        counts = [min(map(len, members))] * len(members)
    else:  # the first ones get one more where it does not come out even; the order of the classes is random
        counts = [len(rows) // len(members) + (k < len(rows) % len(members)) for k in range(len(members))]
    return np.concatenate([_draw(mine, count, random) for mine, count in zip(members, counts, strict=True)])


def _draw(members: IntArray, count: int, random: np.random.Generator) -> IntArray:
    """`count` of the members; everyone has had a turn before anyone has another."""
    whole, rest = divmod(count, len(members))
    return np.concatenate([np.repeat(members, whole), random.permutation(members)[:rest]])


def training_size(recipe: Recipe, epoch: int) -> int:
    """Side of the training pictures in an epoch (from 1): the steps of optim.sizes in order, then model.size.

    Half of the epochs at two thirds of the side takes 2.3 times fewer operations there (progressive resizing; Tan and Le
    2021, arXiv 2104.00298). UsageError for sizes that cannot be meant.
    """
    steps, end = recipe.optim.sizes, 0.0
    shares = [step[1] for step in steps if len(step) == 2 and step[0] == int(step[0]) >= 16 and step[1] > 0]
    if len(shares) < len(steps) or sum(shares) > 1:
        raise UsageError(
            f"optim.sizes is {steps}; it must be a list of [side of at least 16, share of the epochs], with shares above 0 that "
            "add up to at most 1."
        )
    for side, share in steps:
        end += share * recipe.optim.epochs
        if epoch <= round(end):
            return int(side)
    return recipe.model.size


def taught_classes(recipe: Recipe, epoch: int) -> list[int] | None:
    """Class indices that the curriculum teaches in an epoch (from 1): its first group, one more every curriculum_epochs.

    None without a curriculum.

    Raises:
        UsageError: an unknown class, a class that is missing or named twice, a group that the epochs never reach or that
            early stopping may not.

    """
    groups, every = recipe.data.curriculum, recipe.data.curriculum_epochs
    if not groups:
        return None
    classes = scheme_classes(recipe.data.scheme)
    class_positions([name for group in groups for name in group], classes, "data.curriculum")
    if not all(groups):
        raise UsageError("data.curriculum: a group is empty; name at least one class in each.")
    last = 1 + (len(groups) - 1) * every
    if last > recipe.optim.epochs:
        raise UsageError(
            f"data.curriculum: its last group starts in epoch {last}, after optim.epochs {recipe.optim.epochs}."
        )
    patience = recipe.optim.patience
    if patience and last > 1 + patience:
        raise UsageError(
            f"data.curriculum: optim.patience {patience} can stop before its last group starts in epoch {last}; "
            f"set it to 0, or to {last - 1} or more."
        )
    return [classes.index(name) for group in groups[: 1 + (epoch - 1) // every] for name in group]
