"""Figures of the report: curves, confusion, reliability; as data URIs in the page, as SVG and PDF files."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mien.metrics.classification import CALIBRATION_BINS
from mien.report.runs import Group

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0b6fa4", "#d1590a", "#2e8b57", "#7a4fa3", "#8c6d1f", "#5b6570")
"""Of the recipes, in order; apart also for colour-blind readers (and told by line style in one panel)."""
INK, GRID = "#26282b", "#e3e5e8"
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans", "font.size": 9, "axes.titlesize": 10, "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": "#8a8f96", "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": GRID, "axes.axisbelow": True,
    "legend.frameon": False, "lines.linewidth": 1.6, "svg.fonttype": "path", "svg.hashsalt": "mien",
}  # fmt: skip

PANELS = (
    ("Cross-entropy", "nats", "train_classification", "valid_loss"),
    ("Accuracy", "share of faces", "train_accuracy", "valid_accuracy"),
    ("ATT-COS, last layer", "cosine", None, "valid_att_cos"),
)


def colour_of(number: int) -> str:
    """Colour of the recipe with this number."""
    return COLOURS[number % len(COLOURS)]


def curves(groups: Sequence[Group]) -> Figure | None:
    """Loss, accuracy and alignment over the epochs of every run; None where no run has a log."""
    import matplotlib
    from matplotlib.figure import Figure

    if not any(log for group in groups for run in group.runs for log in (run.log, *run.fold_logs)):
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.4, 3.3), layout="constrained")
        for axes, (title, unit, train, valid) in zip(figure.subplots(1, 3), PANELS, strict=True):
            axes.set(title=title, xlabel="epoch", ylabel=unit)
            axes.xaxis.get_major_locator().set_params(integer=True)
            for number, group in enumerate(groups):
                for log in (log for run in group.runs for log in run.fold_logs or (run.log,)):
                    _line(axes, log, train, colour_of(number), "--")
                    _line(axes, log, valid, colour_of(number), "-")
        _curve_legend(figure, groups)
        return figure


def _line(axes: Axes, log: Sequence[dict[str, Any]], key: str | None, colour: str, style: str) -> None:
    points = [(line["epoch"], line[key]) for line in log if key in line]
    if points:
        mark = "o" if len(points) == 1 else None
        axes.plot(
            *zip(*points, strict=True),
            style,
            color=colour,
            marker=mark,
            alpha=0.55 if style == "--" else 1,
            lw=1.2 if style == "--" else 1.8,
        )


def _curve_legend(figure: Figure, groups: Sequence[Group]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colour_of(k), lw=2, label=group.name) for k, group in enumerate(groups)]
    handles += [
        Line2D([], [], color="#777", ls=style, label=name) for style, name in (("-", "validation"), ("--", "training"))
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def confusion(groups: Sequence[Group]) -> Figure:
    """One matrix a recipe: rows true, columns predicted, shade = share of the row, figure = count."""
    import matplotlib
    from matplotlib.figure import Figure

    across = min(2, len(groups))
    down = -(-len(groups) // across)
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(5.2 * across, 4.5 * down), layout="constrained")
        panels = figure.subplots(down, across, squeeze=False).ravel()
        for axes, group in zip(panels, groups, strict=False):
            _matrix(axes, group)
        for axes in panels[len(groups) :]:
            axes.set_axis_off()
        return figure


def _matrix(axes: Axes, group: Group) -> None:
    counts = np.sum([run.results["classification"]["confusion"] for run in group.runs], axis=0)
    share = counts / counts.sum(1, keepdims=True).clip(1)
    names = group.first.classes
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(names))
    axes.set_xticks(ticks, names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(ticks, [f"{name} ({total})" for name, total in zip(names, counts.sum(1), strict=True)])
    several = f", {len(group.runs)} seeds summed" if len(group.runs) > 1 else ""
    axes.set(title=f"{group.name}{several}", xlabel="predicted", ylabel="true (faces)")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    for r, row in enumerate(counts):
        for c, count in enumerate(row):
            if count:
                axes.text(
                    c, r, str(count), ha="center", va="center", fontsize=8, color="white" if share[r, c] > 0.55 else INK
                )


def affect(groups: Sequence[Group], name: str) -> Figure | None:
    """Mean and standard deviation of valence or arousal in each cell of the confusion matrix; None where no store has it.

    Runs of a recipe are averaged cell by cell, weighted by their faces.
    """
    import matplotlib
    from matplotlib.figure import Figure

    known = [group for group in groups if name in group.first.results.get("errors", {}).get("affect", {})]
    if not known:
        return None
    across = min(3, len(known))
    down = -(-len(known) // across)
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(3.7 * across, 3.4 * down), layout="constrained")
        panels = figure.subplots(down, across, squeeze=False).ravel()
        for axes, group in zip(panels, known, strict=False):
            _affect_matrix(axes, group, name)
        for axes in panels[len(known) :]:
            axes.set_axis_off()
        return figure


def _affect_matrix(axes: Axes, group: Group, name: str) -> None:
    cells = [run.results["errors"]["affect"][name] for run in group.runs]
    mean, std, count = (np.array([cell[key] for cell in cells], dtype=np.float64) for key in ("mean", "std", "count"))
    weight = count / count.sum(0).clip(1)
    mean, std = (np.nansum(np.nan_to_num(part) * weight, axis=0) for part in (mean, std))
    seen, names = count.sum(0) > 0, group.first.classes
    axes.imshow(np.where(seen, mean, np.nan), cmap="RdBu_r", vmin=-1, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.set(title=group.name, xlabel="predicted", ylabel="true")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    for r, c in zip(*np.nonzero(seen), strict=True):
        text = f"{mean[r, c]:+.2f}\n± {std[r, c]:.2f}".replace("-", "−")
        axes.text(c, r, text, ha="center", va="center", fontsize=7, color="white" if abs(mean[r, c]) > 0.6 else INK)


def reliability(groups: Sequence[Group]) -> Figure:
    """Accuracy against confidence in equal-width bins, and how many predictions lie in each bin, in numbers."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.8, 4.3 + 0.45 * len(groups)), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(7, 1 + len(groups)))
        upper.plot([0, 1], [0, 1], color="#9aa0a6", lw=1, ls=":", label="perfectly calibrated")
        middles = (np.arange(CALIBRATION_BINS) + 0.5) / CALIBRATION_BINS
        for number, group in enumerate(groups):
            top = np.concatenate([run.faces["probabilities"].max(1) for run in group.runs])
            right = np.concatenate([run.right for run in group.runs])
            bins = np.clip(np.ceil(top * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
            count = np.bincount(bins, minlength=CALIBRATION_BINS)
            full = count > 0
            mean = [np.bincount(bins, weights=v, minlength=CALIBRATION_BINS)[full] / count[full] for v in (top, right)]
            ece = np.mean([run.results["classification"]["calibration_error"] for run in group.runs])
            upper.plot(*mean, "o-", ms=4, clip_on=False, color=colour_of(number), label=f"{group.name}, ECE {ece:.3f}")
            lower.bar(
                middles,
                0.8 * count / count.max(),
                0.9 / CALIBRATION_BINS,
                number + 0.1,
                color=colour_of(number),
                alpha=0.25,
            )
            for place in np.flatnonzero(full):
                lower.text(middles[place], number + 0.12, str(count[place]), ha="center", va="bottom", fontsize=6.5)
        upper.set(title="Reliability", ylabel="accuracy in the bin", xlim=(0, 1), ylim=(0, 1))
        upper.legend(loc="upper left", fontsize=8)
        lower.set(xlabel="confidence (top probability)", ylabel="predictions", ylim=(len(groups), 0), yticks=[])
        lower.set_ylim(0, len(groups))
        lower.grid(False)
        return figure


def uri(figure: Figure) -> str:
    """The figure as a data URI of SVG, without a date, so that equal input gives equal bytes."""
    return "data:image/svg+xml;base64," + base64.b64encode(as_bytes(figure, "svg")).decode("ascii")


def as_bytes(figure: Figure, form: Literal["svg", "pdf"]) -> bytes:
    """The figure as a file: SVG with text as paths, or PDF; without a date."""
    import matplotlib

    buffer = io.BytesIO()
    undated = (
        {"Date": None, "Creator": None} if form == "svg" else {"CreationDate": None, "Creator": None, "Producer": None}
    )
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format=form, metadata=undated)
    return buffer.getvalue()
