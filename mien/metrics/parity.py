"""Is a model as good for all? Accuracy and calibration by group, with intervals over people and a corrected test.

Groups are what somebody wrote down, never what a program took from a picture. (N,) strings, "" unknown and left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mien.errors import DataError
from mien.metrics.confidence import equal_mass_error
from mien.metrics.decisions import holm
from mien.metrics.intervals import Comparison, Interval, bootstrap_mean, compared, spread_of
from mien.metrics.resampling import cluster_totals, clusters_of

Names = npt.NDArray[np.str_]
Array = npt.NDArray[np.float64]
LEAST_FACES, LEAST_PEOPLE = 12, 5
"""Of a group that is tested: below, its interval means little."""
WIDEST = 0.1
"""Half of the interval of a group that may be judged: ten points."""
DRAWS = 1000


class Gap(NamedTuple):
    """The second group's mean minus the first's."""

    first: str
    second: str
    test: Comparison
    corrected: float
    """p after Holm over the family of all pairs of all attributes."""


def judged(groups: npt.ArrayLike, people: npt.ArrayLike | None) -> list[str]:
    """Names of groups with at least LEAST_FACES faces and LEAST_PEOPLE people (faces where nobody is known), sorted."""
    names = np.asarray(groups).astype(str)
    persons = np.arange(len(names)) if people is None else np.asarray(people)
    found = []
    for name in np.unique(names[names != ""]):
        own = names == name
        if own.sum() >= LEAST_FACES and len(np.unique(persons[own])) >= LEAST_PEOPLE:
            found.append(str(name))
    return found


def group_means(
    values: npt.ArrayLike, groups: npt.ArrayLike, people: npt.ArrayLike | None = None, *, seed: int = 0
) -> dict[str, Interval]:
    """Group -> mean of values (N,) with its interval over people; NaN values are left out, groups without any too."""
    data, names = np.asarray(values, dtype=np.float64), np.asarray(groups).astype(str)
    found = {}
    for name in np.unique(names[names != ""]):
        own = (names == name) & np.isfinite(data)
        if own.any():
            persons = None if people is None else np.asarray(people)[own]
            found[str(name)] = bootstrap_mean(data[own], persons, seed=seed, draws=DRAWS)
    return found


def difference(
    values: npt.ArrayLike, first: npt.ArrayLike, second: npt.ArrayLike, people: npt.ArrayLike | None = None,
    *, seed: int = 0,
) -> Comparison:  # fmt: skip
    """Mean of values (N,) where `second` minus mean where `first` (bool masks), people resampled whole.

    A person may have faces on both sides. Degrees of freedom are those of the smaller side (`effective_clusters`).
    """
    data = np.asarray(values, dtype=np.float64)
    sides = [np.asarray(side, dtype=bool) & np.isfinite(data) for side in (first, second)]
    if not all(side.any() for side in sides):
        raise DataError("a difference between groups needs a value on both sides.")
    chosen = sides[0] | sides[1]
    data, (a, b) = data[chosen], (side[chosen].astype(np.float64) for side in sides)
    clusters, grouped = clusters_of(len(data), None if people is None else np.asarray(people)[chosen])
    totals = cluster_totals(np.stack([a * data, a, b * data, b], axis=1), clusters)
    smaller = totals[:, 1] if (totals[:, 1] > 0).sum() <= (totals[:, 3] > 0).sum() else totals[:, 3]

    def gap(sums: Array) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(sums[:, 2] / sums[:, 3] - sums[:, 0] / sums[:, 1])

    shares = smaller / smaller.sum()
    spread = spread_of(totals, gap, shares[shares > 0], len(data), grouped, seed=seed, draws=DRAWS)
    answers = bool(np.isin(data, (0, 1)).all())
    return compared(spread, answers=answers and spread.error == 0)


def largest_gaps(
    values: npt.ArrayLike,
    attributes: Mapping[str, npt.ArrayLike],
    people: npt.ArrayLike | None = None,
    *,
    seed: int = 0,
) -> dict[str, Gap]:
    """Attribute -> its pair of judged groups with the largest gap, its p corrected for all pairs of all attributes.

    values (N,) scores of a face, such as 0 or 1 for right; attributes name -> (N,) groups. Attributes with fewer than two
    judged groups are left out.
    """
    data, tests = np.asarray(values, dtype=np.float64), []
    for attribute, given in attributes.items():
        names = np.asarray(given).astype(str)
        known = np.where(np.isfinite(data), names, "")
        for first, second in combinations(judged(known, people), 2):
            tests.append(
                (attribute, first, second, difference(data, names == first, names == second, people, seed=seed))
            )
    found: dict[str, Gap] = {}
    corrected = holm([test.p for *_, test in tests])
    for (attribute, first, second, test), p in zip(tests, corrected, strict=True):
        if attribute not in found or abs(test.difference) > abs(found[attribute].test.difference):
            found[attribute] = Gap(first, second, test, float(p))
    return found


def smallest_group(share: float, half: float = WIDEST) -> int:
    """Independent faces that a group needs so that the 95 % interval of a share is at most `half` to each side, at least.

    n = z^2 share (1 - share) / half^2, and never fewer than LEAST_FACES; shares are taken for at most 0.98 from either end.
    """
    inside = min(max(share, 0.02), 0.98)
    return max(LEAST_FACES, int(np.ceil(1.959963984540054**2 * inside * (1 - inside) / half**2)))


class People(NamedTuple):
    """Means of the worst tenth, the median and the best tenth of people; each a (3,) tuple."""

    people: int
    own: tuple[float, float, float]
    luck: tuple[float, float, float]
    """What people would show who do not differ: each face right with the chance of all."""


def spread_over_people(
    right: npt.ArrayLike, people: npt.ArrayLike, *, least: int = LEAST_PEOPLE, draws: int = 500, seed: int = 0
) -> People | None:
    """How far accuracy differs from person to person, beside what luck alone shows with as many faces each.

    right (N,) 0 or 1, people (N,) clusters. People with fewer than `least` faces are left out; None where fewer than `least`
    people are left. A tenth is at least one person.
    """
    hit, (_, person) = np.asarray(right, dtype=np.float64), np.unique(np.asarray(people), return_inverse=True)
    counts = np.bincount(person)
    fit = counts >= least
    if fit.sum() < least:
        return None
    sums, counts, few = np.bincount(person, hit)[fit], counts[fit], max(1, round(fit.sum() / 10))

    def three(means: Array) -> Array:
        ordered = np.sort(means, axis=1)
        return np.stack([ordered[:, :few].mean(1), np.median(ordered, axis=1), ordered[:, -few:].mean(1)], 1)

    drawn = np.random.default_rng(seed).binomial(counts, sums.sum() / counts.sum(), (draws, len(counts))) / counts
    own, luck = three((sums / counts)[None])[0].tolist(), three(drawn).mean(0).tolist()
    return People(len(counts), (own[0], own[1], own[2]), (luck[0], luck[1], luck[2]))


class Odds(NamedTuple):
    """Largest differences between groups for one class against the others."""

    recall: float
    """Of the share of its faces that are found (true positive rate)."""
    false_alarms: float
    """Of the share of other faces that are given this class (false positive rate)."""

    @property
    def equalised(self) -> float:
        """Equalised-odds difference (Hardt et al. 2016, arXiv 1610.02413): the larger of the two. 0 is equal."""
        return float(np.nanmax([self.recall, self.false_alarms])) if np.isfinite([*self]).any() else float("nan")


def odds(predicted: npt.ArrayLike, labels: npt.ArrayLike, groups: npt.ArrayLike, label: int) -> Odds:
    """Equalised odds of one class over the groups (N,); "" is left out, groups without faces on a side are too."""
    said, truth = np.asarray(predicted) == label, np.asarray(labels) == label
    names = np.asarray(groups).astype(str)
    rates: tuple[list[float], list[float]] = ([], [])
    for name in np.unique(names[names != ""]):
        own = names == name
        for side, found in zip((truth, ~truth), rates, strict=True):
            if (own & side).any():
                found.append(float(said[own & side].mean()))
    return Odds(*(max(found) - min(found) if len(found) > 1 else float("nan") for found in rates))


def calibration_gaps(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, groups: npt.ArrayLike
) -> dict[str, tuple[float, float]]:
    """Group -> (expected calibration error in bins of equal mass, mean confidence minus accuracy: above 0 over-confident)."""
    shares, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    names, right = np.asarray(groups).astype(str), shares.argmax(1) == truth
    found = {}
    for name in np.unique(names[names != ""]):
        own = names == name
        bins = max(1, min(15, int(own.sum()) // 20))  # few faces in many bins show an error that is not there
        over = float(shares[own].max(1).mean() - right[own].mean())
        found[str(name)] = (equal_mass_error(shares[own], truth[own], bins), over)
    return found
