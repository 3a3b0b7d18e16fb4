"""What a part of an audit hands over: plain tables and plain curves, which JSON, CSV and the page are made of."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from mien.metrics.intervals import Interval

Direction = Literal["higher", "lower", ""]


class Row(NamedTuple):
    """One number of a table, with everything that it is read beside."""

    name: str
    value: float | None
    low: float | None = None
    """Ends of the 95 % interval, None without one."""
    high: float | None = None
    n: int = 0
    """Faces behind the value."""
    better: Direction = ""
    baseline: float | None = None
    """What an uninformative answer scores; what it is stands in `Table.baseline`."""
    note: str = ""


class Table(NamedTuple):
    """Rows of one kind."""

    key: str
    """Its name in JSON and CSV; unique within a part."""
    title: str
    rows: tuple[Row, ...]
    baseline: str = ""
    """What the column of baselines is; empty where there is none."""
    note: str = ""
    """How the numbers are to be read."""
    unit: str = ""


class Line(NamedTuple):
    """A named curve or a set of bars."""

    name: str
    x: tuple[float, ...]
    y: tuple[float | None, ...]
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()


class Drawing(NamedTuple):
    """A figure as numbers; `mien.audit.draw` draws it."""

    kind: Literal["lines", "dots", "matrix"]
    """lines: curves over x. dots: a row a line, its values with intervals. matrix: a row a line, shaded."""
    title: str
    lines: tuple[Line, ...]
    x: str = ""
    y: str = ""
    ticks: tuple[str, ...] = ()
    """Names of the places on the x axis, where they are names."""
    caption: str = ""
    diagonal: bool = False
    """Draw the line y = x: what a calibrated model would follow."""


class Part(NamedTuple):
    """One question of the audit, answered."""

    key: str
    title: str
    tables: tuple[Table, ...] = ()
    drawings: tuple[Drawing, ...] = ()
    verdict: tuple[str, ...] = ()
    """Plain sentences, each with its number."""
    cannot: tuple[str, ...] = ()
    """What these faces or this model do not allow to say, and why."""
    seconds: float = 0.0


def row(name: str, value: Any, n: int = 0, better: Direction = "", baseline: Any = None, note: str = "") -> Row:
    """A row of a number or an Interval; what is not finite becomes None."""
    base = _number(baseline)
    if isinstance(value, Interval):
        return Row(name, _number(value.value), _number(value.low), _number(value.high), n, better, base, note)
    return Row(name, _number(value), None, None, n, better, base, note)


def within(one: Row, least: float, most: float = float("inf")) -> Row:
    """The row with the ends of its interval cut to the range that its score can take: a t interval of few faces goes beyond."""
    low, high = (None if end is None else float(np.clip(end, least, most)) for end in (one.low, one.high))
    return one._replace(low=low, high=high)


def p_words(p: float) -> str:
    """`p = 0.012`, or `p < 0.001`: a p-value is never 0."""
    return f"p = {p:.3f}" if p >= 0.0005 else "p < 0.001"


def _number(value: Any) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)


def numbers(values: Sequence[Any] | np.ndarray) -> tuple[float | None, ...]:
    """Plain numbers for a Line; None where not finite."""
    return tuple(_number(value) for value in values)


def as_json(part: Part) -> dict[str, Any]:
    """Of plain types only."""
    return {
        **part._asdict(),
        "tables": [{**table._asdict(), "rows": [one._asdict() for one in table.rows]} for table in part.tables],
        "drawings": [{**one._asdict(), "lines": [line._asdict() for line in one.lines]} for one in part.drawings],
    }


def from_json(kept: Mapping[str, Any]) -> Part:
    """A Part out of `as_json`, also after a way through a file."""
    tables = tuple(Table(**{**one, "rows": tuple(Row(**r) for r in one["rows"])}) for one in kept["tables"])
    drawings = tuple(
        Drawing(**{
            **one, "ticks": tuple(one["ticks"]),
            "lines": tuple(Line(line["name"], *(tuple(line[k]) for k in ("x", "y", "low", "high"))) for line in one["lines"]),
        })
        for one in kept["drawings"]
    )  # fmt: skip
    plain = {key: tuple(kept[key]) for key in ("verdict", "cannot")}
    return Part(**{**kept, "tables": tables, "drawings": drawings, **plain})


def unsigned_zero(text: str) -> str:
    """The text without the sign of its zeros: `0.00` for `-0.00`."""
    return re.sub(r"(?<![\w.)])-(?=0(?:\.0+)?(?![\d.]))", "", text)


def percent(value: float | None, digits: int = 0) -> str:
    """A share as per cent, for sentences; "unknown" for None."""
    return "unknown" if value is None or not np.isfinite(value) else f"{100 * value:.{digits}f} %"
