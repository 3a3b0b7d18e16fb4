"""What a codebook makes of action units: "AU12 0.9, AU6 0.7 -> Happiness"."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from mien.cues.codebook import load_codebook


class Reading(NamedTuple):
    """The expression whose action units fit best."""

    expression: str
    """Neutral where no unit is present."""
    fit: float
    """Weighted Jaccard index with the expression's units, in [0, 1]; 1 for Neutral."""
    text: str
    """Units that are present, strongest first, and the expression."""


def in_words(strength: Mapping[str, float], cut: float) -> str:
    """Units that are present, strongest first: "AU12 0.9, AU6 0.7"; empty without one."""
    present = [(value, name) for name, value in strength.items() if value >= cut]
    return ", ".join(f"{name} {value:.1f}" for value, name in sorted(present, key=lambda item: -item[0]))


def read_units(
    strength: Mapping[str, float], cut: float, codebook: str = "corrected", expressions: Collection[str] | None = None
) -> Reading:
    """Read action units by the expressions of a codebook.

    The fit of an expression is sum of min / sum of max over the units (weighted Jaccard index, Ruzicka 1958) between the
    strengths and 1 for the expression's units; units that nobody looked for count on neither side. The first of equals wins.

    Args:
        strength: name -> strength in [0, 1], every unit that was looked for.
        cut: from which strength a unit is present.
        codebook: corrected, paper, or the path of an own .json file.
        expressions: those that may be found, for example the classes of a model; all of the codebook when not given.

    """
    present = {name: value for name, value in strength.items() if value >= cut}
    best, fit = "Neutral", 1.0 if not present else 0.0
    for expression, units in load_codebook(codebook).expressions.items():
        looked_for = [name for name in units if name in strength]
        if present and looked_for and (expressions is None or expression in expressions):
            wanted = {name: float(name in looked_for) for name in strength}
            most = sum(max(strength[name], wanted[name]) for name in strength)
            score = sum(min(strength[name], wanted[name]) for name in strength) / most
            best, fit = (expression, score) if score > fit else (best, fit)
    return Reading(best, fit, f"{in_words(strength, cut) or 'no action unit'} -> {best}")
