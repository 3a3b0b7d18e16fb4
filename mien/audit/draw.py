"""Figures of an audit from their numbers, in the style of the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mien.audit.table import Drawing
from mien.report.plots import COLOURS, INK, STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLES = ("-", "--", ":", "-.")


def draw(drawing: Drawing) -> Figure:
    """One figure."""
    import matplotlib
    from matplotlib.figure import Figure

    height = {"lines": 4.2, "dots": 0.9 + 0.24 * len(drawing.lines), "matrix": 4.6}[drawing.kind]
    with matplotlib.rc_context({**STYLE, "axes.grid": drawing.kind != "matrix"}):
        figure = Figure(figsize=(8.4 if drawing.kind != "matrix" else 5.6, height), layout="constrained")
        axes = figure.subplots()
        {"lines": _lines, "dots": _dots, "matrix": _matrix}[drawing.kind](axes, drawing)
        axes.set_title(drawing.title)
        return figure


def _lines(axes: Axes, drawing: Drawing) -> None:
    if drawing.diagonal:
        axes.plot([0, 1], [0, 1], color="#9aa0a6", lw=1, ls=":", label="perfectly calibrated")
    for number, line in enumerate(drawing.lines):
        y = [np.nan if value is None else value for value in line.y]
        mark = "o" if len(line.x) <= 24 else None
        axes.plot(
            line.x,
            y,
            STYLES[number // len(COLOURS) % len(STYLES)],
            color=COLOURS[number % len(COLOURS)],
            marker=mark,
            ms=3.5,
            label=line.name,
        )
    axes.set(xlabel=drawing.x, ylabel=drawing.y)
    if drawing.ticks:
        axes.set_xticks(range(len(drawing.ticks)), drawing.ticks, rotation=40, ha="right", rotation_mode="anchor")
    places = sorted({x for line in drawing.lines for x in line.x})
    if not drawing.ticks and len(places) <= 12 and all(x == int(x) for x in places):
        axes.set_xticks(places, [f"{x:.0f}" for x in places])  # steps and stages have no halves
    axes.legend(fontsize=7.5, loc="center left", bbox_to_anchor=(1.01, 0.5))


def _dots(axes: Axes, drawing: Drawing) -> None:
    for place, line in enumerate(drawing.lines):
        value = line.y[0]
        if value is None:
            continue
        colour = COLOURS[0] if line.x[0] == 0 else COLOURS[5]
        if line.low and line.low[0] is not None and line.high[0] is not None:
            axes.plot([line.low[0], line.high[0]], [place, place], color=colour, lw=1.4, alpha=0.6)
        axes.plot([value], [place], "o", color=colour, ms=5)
    if drawing.y:
        axes.axvline(float(drawing.y), color="#9aa0a6", lw=1, ls=":")
    axes.set_yticks(range(len(drawing.lines)), [line.name for line in drawing.lines], fontsize=7.5)
    axes.set_ylim(len(drawing.lines) - 0.4, -0.6)
    axes.set(xlabel=drawing.x)


def _matrix(axes: Axes, drawing: Drawing) -> None:
    counts = np.array([[value or 0 for value in line.y] for line in drawing.lines])
    share = counts / counts.sum(1, keepdims=True).clip(1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(drawing.ticks)), drawing.ticks, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(drawing.lines)), [line.name for line in drawing.lines])
    axes.set(xlabel=drawing.x, ylabel=drawing.y)
    axes.spines[:].set_visible(False)
    for r, row in enumerate(counts):
        for c, count in enumerate(row):
            if count:
                colour = "white" if share[r, c] > 0.55 else INK
                axes.text(c, r, f"{count:g}", ha="center", va="center", fontsize=8, color=colour)
