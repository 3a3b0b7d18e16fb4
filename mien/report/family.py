"""All tests of one page as a family: corrected for their number, and what each of them then allows to say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mien.metrics.decisions import MARGIN, deviation_of, holm, seeds_needed
from mien.metrics.intervals import Comparison
from mien.report.numbers import Difference, Paired

LEVEL = 0.05
POINTS = f"{100 * MARGIN:g} point"


class Ruling(NamedTuple):
    """A difference after the correction."""

    p: float
    """Of the difference, corrected over every test that the page prints."""
    mcnemar: tuple[float, ...]
    """Corrected over every McNemar p of the page."""
    kept: bool | None
    """A loss of the margin is ruled out, corrected over every such claim of the page; None where there is no margin."""
    word: str


class Family(NamedTuple):
    """Rulings of every row of the page."""

    rulings: list[dict[str, Ruling]]
    """By comparison and short name, as in Paired.differences."""
    beyond: list[float]
    """Corrected p of the comparisons with baselines and wrong cues, in the order given."""
    size: int
    """How many tests were corrected together."""
    size_mcnemar: int
    size_kept: int


def family_of(tests: Sequence[Paired], beyond: Sequence[Comparison]) -> Family:
    """Holm over all differences of the page, over all its McNemar tests, and over all its claims that accuracy is kept."""
    rows = [row for test in tests for row in test.differences.values()]
    p = holm([row.test.p for row in rows] + [other.p for other in beyond]).tolist()
    exact = iter(holm([value for row in rows for value in row.mcnemar]).tolist())
    claims = [row.kept.p_lower for row in rows if row.kept is not None]
    lower = iter(holm(claims).tolist())
    own, rulings = iter(p), []
    for test in tests:
        found = {}
        for name, row in test.differences.items():
            adjusted, mcnemar = next(own), tuple(next(exact) for _ in row.mcnemar)
            kept = next(lower) < LEVEL / 2 if row.kept is not None else None
            found[name] = Ruling(adjusted, mcnemar, kept, word(row, adjusted, kept))
        rulings.append(found)
    return Family(rulings, p[len(rows) :], len(p), sum(len(row.mcnemar) for row in rows), len(claims))


def word(row: Difference, p: float, kept: bool | None) -> str:
    """What a corrected test allows to say. A wide interval around zero is not called equality."""
    if p < LEVEL:
        if row.test.difference > 0:
            return "higher"
        return f"lower, by less than {POINTS}" if kept else "lower"
    if kept is None:
        return "undecided"
    return f"kept: a loss of {POINTS} is ruled out" if kept else f"undecided: a loss of {POINTS} is not ruled out"


def seeds_sentence(test: Paired) -> str:
    """How many seeds the spread that was seen would need to rule out a loss of the margin; what is missing where there is one."""
    seeds = test.differences["accuracy"].seeds
    if seeds is None:
        return ""
    firsts, seconds = (
        [run.results["classification"]["accuracy"] for run in side] for side in zip(*test.pairs, strict=True)
    )
    spread = deviation_of([b - a for a, b in zip(firsts, seconds, strict=True)])
    needed = seeds_needed(spread)
    many = "more than 1000 seeds" if needed is None else f"{needed} seeds"
    return (
        f"The accuracy difference of {test.other.name} varies over {seeds.n} seeds with standard deviation {spread:.3f}: where "
        f"nothing is lost, {many} would rule out a loss of {POINTS} with a chance of 80 %, on these faces."
    )
