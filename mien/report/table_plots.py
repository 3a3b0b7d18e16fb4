"""Figures of a table of `mien reproduce`, from its table.json alone: curves over lambda, dots for everything else."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mien.report.plots import INK, STYLE, colour_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = (
    ("Accuracy (CL)", "share of faces", {"accuracy": INK}),
    ("Cosine with the cue", "class mean", {"cam_cos": colour_of(0), "att_cos": colour_of(1)}),
    ("Pearson correlation with the cue", "class mean", {"cam_pearson": colour_of(0), "att_pearson": colour_of(1)}),
)
"""Title, unit, and score -> colour, of each panel of the curves."""
DOT_PANELS = (("Accuracy (CL)", "accuracy"), ("CAM-COS", "cam_cos"), ("ATT-COS", "att_cos"))
LOWEST = {"cam_pearson": -1.0, "att_pearson": -1.0}
"""Score -> its lowest possible value where that is not 0; the highest is 1. Intervals of few seeds reach beyond both."""
BASELINE_STYLES = {"uniform": (":", "uniform map"), "centre": ("-.", "centre blob"), "mean": ("--", "mean cue")}
"""Baseline -> line style and name."""
BASELINE = "#8a8f96"


def figure_of(table: Mapping[str, Any]) -> Figure:
    """The figure of a table: curves for `lambda`, dots for `methods`, `layers` and `pal`."""
    import matplotlib

    with matplotlib.rc_context({**STYLE, "figure.titlesize": 11}):
        return curves(table) if table["table"] == "lambda" else dots(table)


def png(figure: Figure) -> bytes:
    """The figure as PNG, 150 dots an inch, without a date, so that equal input gives equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()


def curves(table: Mapping[str, Any]) -> Figure:
    """Scores over lambda with intervals; baselines dashed, published values hollow."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.1), layout="constrained")
    for axes, (title, unit, colours) in zip(figure.subplots(1, 3), PANELS, strict=True):
        axes.set(title=title, xlabel="λ (not to scale)", ylabel=unit)
        for score, colour in colours.items():
            _curve(axes, lines_with(table, score), colour)
        _baselines(axes, lines_with(table, next(iter(colours))), axes.axhline)
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, *(LOWEST.get(score, 0) - 0.02 for score in colours)), min(high, 1.02))
    _legend(figure, {"CAM": colour_of(0), "attention": colour_of(1)}, table)
    _title(figure, table, "what the weight of guidance does")
    return figure


def lines_with(table: Mapping[str, Any], score: str) -> list[dict[str, Any]]:
    """Lines of a score that have a value."""
    return [line for line in table["lines"] if line["score"] == score and line["value"] is not None]


def _curve(axes: Axes, lines: Sequence[Mapping[str, Any]], colour: str) -> None:
    places, values = range(len(lines)), [line["value"] for line in lines]
    axes.errorbar(places, values, yerr=_errors(lines), color=colour, marker="o", ms=4, capsize=2, elinewidth=1)
    printed = [(k, line["published"]) for k, line in enumerate(lines) if line["published"] is not None]
    if printed:
        axes.plot(*zip(*printed, strict=True), "D", mfc="white", color=colour, ms=5, zorder=3)
    axes.set_xticks(places, [line["row"] for line in lines])


def _errors(lines: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """Lengths of the error bars, below and above; 0 where there is no interval."""
    below = [line["value"] - line["low"] if line["low"] is not None else 0 for line in lines]
    above = [line["high"] - line["value"] if line["high"] is not None else 0 for line in lines]
    return [below, above]


def _baselines(axes: Axes, lines: Sequence[Mapping[str, Any]], draw: Any) -> None:
    """Lines at the mean baselines of a panel, by `axes.axhline` or `axes.axvline`; none for accuracy."""
    measured = [line["baselines"] for line in lines if line["baselines"]]
    for name, (style, _) in BASELINE_STYLES.items():
        values = [baselines[name] for baselines in measured if baselines[name] is not None]
        if values:
            draw(sum(values) / len(values), ls=style, lw=1, color=BASELINE, zorder=0)


def dots(table: Mapping[str, Any]) -> Figure:
    """A row for each row of the table, a dot for each column of it with its interval; published values hollow."""
    from matplotlib.figure import Figure

    titles = {line["row"]: line["title"] for line in table["lines"]}
    columns = list(dict.fromkeys(line["column"] for line in table["lines"]))
    figure = Figure(figsize=(12, 1.7 + 0.34 * len(titles)), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    for axes, (title, score) in zip(panels, DOT_PANELS, strict=True):
        axes.set(title=title, xlabel="share of faces" if score == "accuracy" else "cosine, class mean")
        lines = lines_with(table, score)
        for number, column in enumerate(columns):
            _dots(axes, [line for line in lines if line["column"] == column], list(titles), number, len(columns))
        _baselines(axes, lines, axes.axvline)
        low, high = axes.get_xlim()
        axes.set_xlim(max(low, -0.02), min(high, 1.02))
        axes.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(len(titles)), list(titles.values()))
    panels[0].invert_yaxis()
    _legend(figure, {name: colour_of(k) for k, name in enumerate(columns) if name}, table)
    _title(figure, table, {"methods": "without and with action units", "layers": "which layers are guided"}.get(
        table["table"], "privileged attribution and its controls"))  # fmt: skip
    return figure


def _dots(axes: Axes, lines: Sequence[Mapping[str, Any]], rows: Sequence[str], number: int, columns: int) -> None:
    shift = 0.16 * (number - (columns - 1) / 2)
    places, colour = [rows.index(line["row"]) + shift for line in lines], colour_of(number)
    values = [line["value"] for line in lines]
    axes.errorbar(values, places, xerr=_errors(lines), fmt="o", ms=5, capsize=2, elinewidth=1, color=colour)
    printed = [(line["published"], place) for line, place in zip(lines, places, strict=True) if line["published"]]
    if printed:
        axes.plot(*zip(*printed, strict=True), "D", mfc="white", color=colour, ms=4.5, zorder=3)


def _legend(figure: Figure, colours: Mapping[str, str], table: Mapping[str, Any]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colour, marker="o", ls="", label=name) for name, colour in colours.items()]
    if any(line["published"] is not None for line in table["lines"]):
        handles.append(Line2D([], [], color=INK, marker="D", mfc="white", ls="", label="published"))
    handles += [
        Line2D([], [], color=BASELINE, lw=1, ls=style, label=f"baseline: {name}")
        for style, name in BASELINE_STYLES.values()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8)


def _title(figure: Figure, table: Mapping[str, Any], what: str) -> None:
    several = len(table["seeds"])
    bars = f"bars: 95 % t interval over {several} seeds" if several > 1 else "bars: 95 % bootstrap over faces, one seed"
    figure.suptitle(
        f"{table['dataset']}, {what} ({table['faces']} test faces, scale {table['scale']}, protocol {table['protocol']}; {bars})"
    )
