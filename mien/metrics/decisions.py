"""What a test allows to say: a family of tests corrected, a loss ruled out, the seeds that it would take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mien.errors import DataError
from mien.metrics.intervals import Comparison

MARGIN = 0.01
"""Loss of accuracy that counts as none: one point."""
POWER = 0.8


class Kept(NamedTuple):
    """Non-inferiority and equivalence of a second recipe, each at half of 1 - level on a side."""

    margin: float
    p_lower: float
    """One-sided p of a loss of the margin or more; under 0.025 where the 95 % interval lies above -margin."""
    p_equal: float
    """The larger of the two one-sided p (TOST): that the difference is the margin or more in either direction."""
    not_lower: bool
    equal: bool


def holm(p: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """P-values corrected for looking at all of them (Holm 1979): the chance that any true null is rejected stays under level.

    p (M,) in [0, 1] -> (M,): the k-th smallest times M - k + 1, never smaller than those before it, at most 1.
    """
    values = np.asarray(p, dtype=np.float64)
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise DataError(f"p-values must be (M,) in [0, 1], got {values.tolist()}.")
    order = np.argsort(values, kind="stable")
    steps = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)) if len(values) else values
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(steps, 1)
    return adjusted


def kept(test: Comparison, margin: float = MARGIN, level: float = 0.95) -> Kept:
    """Is a score kept within a margin? Two one-sided t tests (Schuirmann 1987, doi 10.1007/BF01068419).

    `not_lower`: a loss of `margin` or more is ruled out, exactly where the lower end of the interval at `level` lies above
    -margin. `equal`: a gain of that size is ruled out too. A wide interval around 0 is neither: that nothing was shown is no
    proof that nothing is there. DataError for a margin that is not above 0.
    """
    from scipy import stats

    if margin <= 0:
        raise DataError(f"a margin of {margin} rules nothing out; give one above 0, such as 0.01.")
    if not np.isfinite(test.error):
        return Kept(margin, 1.0, 1.0, False, False)
    ends = test.difference + margin, margin - test.difference
    if test.error > 0:
        lower, upper = (float(stats.t.sf(end / test.error, test.freedom)) for end in ends)
    else:
        lower, upper = (0.0 if end > 0 else 1.0 for end in ends)
    cut = (1 - level) / 2
    return Kept(margin, lower, max(lower, upper), lower < cut, max(lower, upper) < cut)


def seeds_needed(
    deviation: float, effect: float = MARGIN, power: float = POWER, level: float = 0.95, most: int = 1000
) -> int | None:
    """Seeds with which a one-sided paired t test at (1 - level) / 2 finds `effect` with chance `power`; None where over `most`.

    deviation: standard deviation over seeds of the paired difference. With effect = the margin, these are the seeds that show
    non-inferiority where the truth is no difference at all. Power by the noncentral t; at least 2. DataError for numbers that
    are no deviation or effect.
    """
    from scipy import stats

    if not (deviation >= 0 and effect > 0):
        raise DataError(f"deviation {deviation} must be at least 0 and effect {effect} above 0.")
    if deviation == 0:
        return 2
    n = np.arange(2, most + 1)
    cut = stats.t.ppf((1 + level) / 2, n - 1)
    reached = stats.nct.sf(cut, n - 1, effect / deviation * np.sqrt(n))
    enough = np.flatnonzero(
        np.nan_to_num(reached, nan=1.0) >= power
    )  # the noncentral t overflows where power is certain
    return int(n[enough[0]]) if len(enough) else None


def deviation_of(differences: Sequence[float]) -> float:
    """Standard deviation (n - 1) of paired differences over seeds; DataError with fewer than 2."""
    if len(differences) < 2:
        raise DataError(f"{len(differences)} seed shows no spread; train at least 2.")
    return float(np.std(np.asarray(differences, dtype=np.float64), ddof=1))
