"""The page, the JSON and the CSV of an audit, from its parts."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mien import __version__
from mien.audit.draw import draw
from mien.audit.table import Part, Row, as_json, unsigned_zero
from mien.audit.verdict import verdict
from mien.report import plots

ARROWS = {"higher": " ↑", "lower": " ↓", "": ""}


def html(parts: Sequence[Part], facts: dict[str, Any]) -> str:
    """One self-contained page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folders = [Path(__file__).parent, Path(plots.__file__).parent]
    environment = Environment(
        loader=FileSystemLoader(folders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown: list[dict[str, Any]] = [
        {
            "key": part.key, "title": part.title, "cannot": part.cannot, "seconds": f"{part.seconds:.0f}",
            "figures": [(plots.uri(draw(one)), one) for one in part.drawings if one.lines],
            "tables": [{**dict(table._asdict()), "rows": [_cells(row) for row in table.rows]} for table in part.tables if table.rows],
        }
        for part in parts
    ]  # fmt: skip
    content = {**facts, "mien": __version__, "parts": shown, "verdict": [minus(one) for one in verdict(parts)]}
    return environment.get_template("page.html").render(content)


def _cells(one: Row) -> dict[str, Any]:
    def text(value: float | None) -> str:
        return "–" if value is None else minus(f"{value:.3f}")

    interval = f"[{text(one.low)}, {text(one.high)}]" if one.low is not None and one.high is not None else ""
    within = one.baseline is not None and one.low is not None and one.high is not None
    weak = within and bool(one.low <= one.baseline <= one.high)  # type: ignore[operator]
    return {
        "name": one.name + ARROWS[one.better], "value": text(one.value), "interval": interval, "weak": weak,
        "baseline": text(one.baseline) if one.baseline is not None else "", "n": one.n or "", "note": minus(one.note),
    }  # fmt: skip


def minus(text: str) -> str:
    """Numbers of a text with a minus sign in place of a hyphen, and none in front of a zero."""
    return re.sub(r"(?<![\w.)])-(?=\d)", "−", unsigned_zero(text))


def text_json(parts: Sequence[Part], facts: dict[str, Any]) -> str:
    """Everything as JSON."""
    content = {**facts, "mien": __version__, "verdict": verdict(parts), "parts": [as_json(part) for part in parts]}
    return json.dumps(content, indent=1, allow_nan=False)


def text_csv(parts: Sequence[Part]) -> str:
    """A line a number."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["part", "table", "name", "value", "low", "high", "n", "better", "baseline", "baseline_is", "note"])
    for part in parts:
        for table in part.tables:
            for one in table.rows:
                numbers = ["" if value is None else f"{value:.6g}" for value in (one.value, one.low, one.high)]
                base = "" if one.baseline is None else f"{one.baseline:.6g}"
                writer.writerow(
                    [part.key, table.key, one.name, *numbers, one.n, one.better, base, table.baseline, one.note]
                )
    return buffer.getvalue()
