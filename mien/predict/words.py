"""What an explanation says in words: regions of the map, what blurring does, and action units that are measured as present.

A unit is named only where it was measured on the face and is proven (`mien.faces.units`). That a map lies where a unit would show
is said as a region, never as the unit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mien.faces.units import in_words, shown_in
from mien.predict.results import Region, counted

LEAST_SHARE = 0.15
"""Share of the map from which a region is named; the largest is named in any case."""
MOST_REGIONS = 3


def sentence(
    expression: str, runner_up: str, regions: Mapping[str, Region], present: Mapping[str, tuple[str, ...]],
    expected: Sequence[str],
) -> str:  # fmt: skip
    """What `Explanation.words` holds.

    Args:
        expression: that is explained.
        runner_up: the next most probable.
        regions: region -> its part; not empty.
        present: units that are measured as present -> their columns (`mien.faces.units.present_units`).
        expected: units of the expression in the codebook that could have been measured as present.

    """
    told, place = map_words(regions)
    parts = [told, effect_words(expression, regions)]
    there = {name: columns for name, columns in present.items() if name in shown_in(place)}
    if there:
        parts.append(f"measured there: {in_words(there)}")
    if expected and not set(expected) & set(present):
        parts.append(f"no unit of {expression} is measured ({', '.join(expected)} were looked for)")
    return f"{expression} rather than {runner_up}: {'; '.join(part for part in parts if part)}."


def map_words(regions: Mapping[str, Region]) -> tuple[str, tuple[str, ...]]:
    """Where the map lies, in words and as names: the largest region, and others from LEAST_SHARE on, three at most."""
    falling = sorted(regions, key=lambda name: -regions[name].share)
    named = tuple(name for k, name in enumerate(falling) if regions[name].share > (LEAST_SHARE if k else 0))
    named = named[:MOST_REGIONS]
    if not named:
        return "the map is empty", ()
    if named[0] == "elsewhere":
        text = "the map lies outside the face"
        return (f"{text} and on the {listed(named[1:])}" if len(named) > 1 else text), named
    inside = [name for name in named if name != "elsewhere"]
    text = f"the map lies on the {listed(inside)}"
    return (f"{text}, and outside the face" if len(inside) < len(named) else text), named


def effect_words(expression: str, regions: Mapping[str, Region]) -> str:
    """What blurring the region that matters most does; empty where it was not tried."""
    tried = {name: region.effect for name, region in regions.items() if region.effect is not None}
    if not tried:
        return ""
    name = max(tried, key=lambda key: abs(tried[key]))
    points = round(abs(tried[name]) * 100)
    if not points:
        return "blurring any one region changes nothing"
    what = "all but the face" if name == "elsewhere" else f"the {name}"
    return f"blurring {what} {'lowers' if tried[name] >= 0 else 'raises'} {expression} by {counted(points, 'point')}"


def listed(names: Sequence[str]) -> str:
    """mouth; mouth and cheeks; mouth, cheeks and chin."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
