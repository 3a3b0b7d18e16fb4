"""The first figure of the report: every map of every recipe between its class-mean baseline and its ceiling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from mien.report.numbers import Number, alignment
from mien.report.plots import INK, STYLE, colour_of
from mien.report.runs import Group
from mien.report.words import MAPS, class_mean_of, explain_map

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = (("cosine", "Cosine with the cue ↑"), ("pearson", "Pearson correlation with the cue ↑"))
FIXED = {
    "baseline:uniform": (":", "uniform map"),
    "baseline:centre": ("-.", "centre blob"),
    "baseline:mean": ("--", "mean cue"),
}
"""Baselines that are the same for every map -> line style and name."""
GREY = "#8a8f96"


class Dot(NamedTuple):
    """One map of one recipe in one score."""

    value: Number
    blind: float | None
    """Its class-mean baseline."""
    ceiling: float | None


def rows_of(groups: Sequence[Group]) -> list[str]:
    """Maps of the figure from above: attention of the layers, maps of the explainers, trained attributions."""
    present = {name for group in groups for name in group.first.results["alignment"]}
    layers = sorted((name for name in present if name.startswith("layer-")), key=lambda name: int(name.split("-")[1]))
    others = sorted({name for group in groups for name in group.first.results.get("methods", [])} - set(MAPS))
    trained = sorted(name for name in present if name.startswith(("guided:", "second:")))
    return [name for name in [*layers, *MAPS, *others, *trained] if name in present]


def dot_of(group: Group, name: str, kind: str, seed: int) -> Dot | None:
    """None where the recipe has no such map."""
    value, over = alignment(group, name, kind, seed), class_mean_of(group, name)
    if value.value is None:
        return None
    own = f"ceiling:{name}"
    top = alignment(group, own if own in group.first.results["alignment"] else "ceiling", kind).value
    return Dot(value, alignment(group, over, kind).value if over else None, top)


def maps_figure(groups: Sequence[Group], seed: int) -> Figure | None:
    """Dots with 95 % intervals; a bar of the same colour from the class-mean baseline to the ceiling; None without any cue."""
    import matplotlib
    from matplotlib.figure import Figure

    rows = rows_of(groups)
    if not any(alignment(group, name, "cosine").value is not None for group in groups for name in rows):
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 1.5 + len(rows) * max(0.26, 0.15 * len(groups))), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for axes, (kind, title) in zip(panels, KINDS, strict=True):
            axes.set(title=title)
            for name, (style, _) in FIXED.items():
                level = alignment(groups[0], name, kind).value
                if level is not None:
                    axes.axvline(level, ls=style, lw=1, color=GREY, zorder=0)
            for place, name in enumerate(rows):
                for number, group in enumerate(groups):
                    dot = dot_of(group, name, kind, seed)
                    if dot is not None:
                        _draw(axes, dot, place + 0.8 * ((number + 0.5) / len(groups) - 0.5), colour_of(number))
            axes.tick_params(axis="y", length=0)
        lasts = {group.first.last_layer for group in groups}
        titles = [explain_map(name, name if name in lasts else "")[0] for name in rows]
        panels[0].set_yticks(range(len(rows)), titles)
        panels[0].invert_yaxis()
        _legend(figure, groups)
        return figure


def _draw(axes: Axes, dot: Dot, height: float, colour: str) -> None:
    value, low, high = dot.value
    assert value is not None
    if dot.blind is not None and dot.ceiling is not None:
        axes.plot(
            [dot.blind, dot.ceiling], [height, height], color=colour, lw=4, alpha=0.18, solid_capstyle="butt", zorder=1
        )
    for level, mark in ((dot.blind, "|"), (dot.ceiling, "4")):
        if level is not None:
            axes.plot([level], [height], mark, color=colour, ms=7, mew=1.4, zorder=2)
    if low is not None and high is not None:
        axes.plot([low, high], [height, height], color=colour, lw=1.2, zorder=3)
    axes.plot([value], [height], "o", color=colour, ms=4.5, zorder=4)


def _legend(figure: Figure, groups: Sequence[Group]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour_of(k), marker="o", lw=1.2, label=group.name) for k, group in enumerate(groups)
    ]
    handles += [
        Line2D([], [], color=INK, marker="|", ls="", ms=7, mew=1.4, label="class-mean cue"),
        Line2D([], [], color=INK, marker="4", ls="", ms=7, mew=1.4, label="ceiling"),
    ]
    handles += [Line2D([], [], color=GREY, lw=1, ls=style, label=name) for style, name in FIXED.values()]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 5), fontsize=8)
