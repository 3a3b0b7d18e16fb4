"""Facts that stand below every table: date, data, seeds, parameters, chance level, what was resampled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mien.metrics.resampling import people
from mien.report.runs import Group, Run


def facts_of(groups: Sequence[Group]) -> str:
    """What a table that is cut out of the page must carry along: date, data, seeds, parameters, chance level."""
    first = groups[0].first
    dates = sorted({str(run.results.get("date", "on an unknown date")) for group in groups for run in group.runs})
    scored = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    nets = [
        f"{group.name}: seed{'s' * (len(group.runs) > 1)} {', '.join(str(run.recipe.run.seed) for run in group.runs)}, "
        f"{parameters_of(group.first)} parameters"
        for group in groups
    ]
    return (
        f"Scored {scored} on {first.results['faces']} {first.results['split']} faces of {first.results['store']}. {'; '.join(nets)}. "
        f"Chance level of accuracy {1 / len(first.classes):.3f} ({len(first.classes)} classes). ↑ higher, ↓ lower is better."
    )


def parameters_of(run: Run) -> str:
    """How many numbers the net has, with three digits; ? in a run that was scored by an earlier version."""
    count = run.results.get("parameters")
    if count is None:
        return "?"
    for size, unit in ((1_000_000, " M"), (1_000, " k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)


def resampled(run: Run) -> str:
    """What the intervals of a run resample."""
    persons = people(run.faces["subject"]) if "subject" in run.faces else None
    count = 0 if persons is None else len(np.unique(persons))
    if 1 < count < len(run.right):
        return f"{count} people, all pictures of one together"
    return f"{len(run.right)} faces" + (" of one person, so they say nothing of others" if count == 1 else "")
