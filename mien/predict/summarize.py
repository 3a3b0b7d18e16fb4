"""`mien summarize`: the rows of `mien predict` -> what each person of a video showed, when and for how long, and blinks."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mien.errors import DataError, UsageError
from mien.files import write_atomic
from mien.predict.writers import short_float

UNIT = re.compile(r"AU\d+(_[LR])?(_r)?")
"""Name of a column with a unit's strength."""
UNSURE = "unsure"
GAP = 3.0
"""Steps without a face from which an episode has ended; a shorter gap is bridged."""
ROUNDED = 1e-3
"""Seconds by which the times of a table may be off."""
LONGEST_BLINK = 0.5
"""Seconds. Lids that stay closed for longer do not blink (Stern et al. 1984: 0.1 to 0.4 s)."""
CLOSED = 0.5
"""Share of a unit's range from which the lids count as closed."""
LIDS = ("AU45", "AU45_r", "AU43", "AU43_r")
"""Columns that may tell that lids are closed, the first that is there; else the mean of both sides of AU45."""
ENDINGS = (".csv", ".jsonl", ".parquet")
MOST_PANELS = 12
LARGEST = 1e9
"""Seconds, and strengths, are smaller."""

Floats = npt.NDArray[np.float64]


class Episode(NamedTuple):
    """One expression from its onset until it changes."""

    expression: str
    onset: float
    """Seconds."""
    seconds: float


class Person(NamedTuple):
    """What one track of one video shows; photos together are one, without times."""

    source: str
    track: int | None
    begin: float
    end: float
    """Seconds in the video; NaN for photos."""
    seconds: float
    """That the face was seen; for photos NaN."""
    faces: int
    shares: Mapping[str, float]
    """Expression, or UNSURE -> share of the time (of photos: of faces); they add up to 1."""
    episodes: tuple[Episode, ...]
    means: Mapping[str, float]
    """Action unit -> mean over time."""
    peaks: Mapping[str, float]
    """Action unit -> largest value."""
    blinks: float
    """A minute; NaN without a column that tells closed lids."""


def summarize(rows: Path, *, out: Path | None = None, plot: Path | None = None) -> tuple[Person, ...]:
    """Summarise a table of `mien predict`: for each video and track shares of time, onsets and durations, units, blinks.

    Args:
        rows: table of mien predict: .csv, .jsonl or .parquet.
        out: table with a line a track (.csv); beside it NAME-episodes.csv with a line for every expression from its onset on. Without
            it the table is printed.
        plot: timeline of all tracks as .svg, .png or .pdf.

    Returns:
        One entry a track.

    """
    if out is not None and out.suffix.lower() != ".csv":
        raise UsageError(f"--out {out}: give a file that ends in .csv.")
    if plot is not None and plot.suffix.lower() not in (".svg", ".png", ".pdf"):
        raise UsageError(f"--plot {plot}: give a file that ends in .svg, .png or .pdf.")
    people = summary_of(read_rows(rows))
    if not people:
        raise DataError(f"{rows} has no face; nothing can be summarised.")
    lines = table_of(people)
    if out is None:
        print(lines, end="")
    else:
        write_atomic(out, lines)
        write_atomic(out.with_name(f"{out.stem}-episodes.csv"), episode_lines(people))
        print(f"{len(people)} {'track' if len(people) == 1 else 'tracks'}: {out}")
    if plot is not None:
        buffer = io.BytesIO()
        timeline(people).savefig(buffer, format=plot.suffix[1:].lower(), dpi=150)
        write_atomic(plot, buffer.getvalue())
    return people


def read_rows(path: Path) -> dict[str, list[Any]]:
    """Columns of a table of `mien predict`; DataError for another table, or one that cannot be read."""
    import pyarrow as pa

    if path.suffix.lower() not in ENDINGS:
        raise UsageError(f"{path}: give a table of mien predict that ends in {', '.join(ENDINGS)}.")
    if not path.is_file():
        raise DataError(f"{path} does not exist; make it with `mien predict VIDEO --out {path.name}`.")
    try:
        if path.suffix.lower() == ".parquet":
            import pyarrow.parquet as pq

            table = pq.read_table(path)
        elif path.suffix.lower() == ".jsonl":
            import pyarrow.json as pj

            table = pj.read_json(path)
        else:
            import pyarrow.csv as pc

            options = pc.ConvertOptions(
                column_types={"source": pa.string(), "expression": pa.string()}, strings_can_be_null=True
            )
            table = pc.read_csv(path, convert_options=options)
        return checked_columns(table, path)
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise DataError(f"{path} cannot be read ({' '.join(str(error).split())[:160]}).") from error


def checked_columns(table: Any, path: Path) -> dict[str, list[Any]]:
    """The columns of an Arrow table, those that are summarised with the values that they must have."""
    import pyarrow as pa

    kinds = {
        "source": pa.string(), "time": pa.float64(), "track": pa.int64(), "expression": pa.string(), "abstained": pa.bool_(),
    }  # fmt: skip
    lacking = [name for name in kinds if name not in table.column_names]
    if lacking:
        raise DataError(f"{path} is no table of mien predict: it has no column {', '.join(lacking)}.")
    kinds |= {name: pa.float64() for name in table.column_names if UNIT.fullmatch(name)}
    columns = {
        name: (table[name].cast(kinds[name]) if name in kinds else table[name]).to_pylist()
        for name in table.column_names
    }
    for name in (name for name, kind in kinds.items() if kind == pa.float64()):
        odd = [value for value in columns[name] if value is not None and not abs(value) < LARGEST]
        if odd:
            raise DataError(f"{path}: the column {name} holds {odd[0]}, which it cannot.")
    return columns


def summary_of(columns: Mapping[str, Sequence[Any]]) -> tuple[Person, ...]:
    """A `Person` for each track of each video in order, and one for all photos together."""
    groups: dict[tuple[str, int | None, bool], list[int]] = {}
    for row, (source, time, track, expression) in enumerate(
        zip(columns["source"], columns["time"], columns["track"], columns["expression"], strict=True)
    ):
        if expression is not None:
            place = ("photos", None, False) if time is None else (source or "", track, True)
            groups.setdefault(place, []).append(row)
    units = [name for name in columns if UNIT.fullmatch(name)]
    ranges = {name: 5.0 if max((v for v in columns[name] if v is not None), default=0.0) > 1 else 1.0 for name in units}
    return tuple(_person(columns, source, track, rows, units, ranges) for (source, track, _), rows in groups.items())


def _person(
    columns: Mapping[str, Sequence[Any]], source: str, track: int | None, rows: list[int], units: list[str],
    ranges: Mapping[str, float],
) -> Person:  # fmt: skip
    timed = columns["time"][rows[0]] is not None
    if timed:
        rows = sorted(rows, key=lambda row: columns["time"][row])
    times = np.array([columns["time"][row] if timed else k for k, row in enumerate(rows)], dtype=np.float64)
    labels = [UNSURE if columns["abstained"][row] else str(columns["expression"][row]) for row in rows]
    weights = weights_of(times) if timed else np.ones(len(rows))
    values = {
        name: np.array([np.nan if columns[name][row] is None else columns[name][row] for row in rows], float)
        for name in units
    }
    known = {name: found for name, found in values.items() if np.isfinite(found).any()}
    total = float(weights.sum())
    lids = lids_of(known, ranges)
    return Person(
        source, track, float(times[0]) if timed else np.nan, float(times[-1] + weights[-1]) if timed else np.nan,
        total if timed else np.nan, len(rows), shares_of(labels, weights),
        episodes_of(times, labels, weights) if timed else (),
        {name: mean_of(found, weights) for name, found in known.items()},
        {name: float(np.nanmax(found)) for name, found in known.items()},
        np.nan if lids is None or not timed or not total else 60 * blinks_of(times, lids) / total,
    )  # fmt: skip


def mean_of(values: Floats, weights: Floats) -> float:
    """Mean of the known values by weight; of their number where they weigh nothing, as a face that was seen once."""
    known = np.isfinite(values)
    parts = weights[known]
    return float(np.average(values[known], weights=parts if parts.sum() > 0 else None))


def weights_of(times: Floats) -> Floats:
    """Seconds for which each face stands: until the next one of its track, at most GAP usual steps; the last one a usual step.

    The usual step is the median; of a single face it is unknown, and 0.
    """
    if len(times) < 2:
        return np.zeros(len(times))
    steps = np.diff(times)
    usual = float(np.median(steps))
    return np.append(np.where(steps > GAP * usual + ROUNDED, usual, steps), usual)


def shares_of(labels: Sequence[str], weights: Floats) -> dict[str, float]:
    """Label -> share of the weight, the largest first; of the number where all weights are 0."""
    parts = weights if weights.sum() > 0 else np.ones(len(labels))
    found: dict[str, float] = {}
    for label, part in zip(labels, parts, strict=True):
        found[label] = found.get(label, 0.0) + float(part)
    return dict(sorted(((name, part / float(parts.sum())) for name, part in found.items()), key=lambda pair: -pair[1]))


def episodes_of(times: Floats, labels: Sequence[str], weights: Floats) -> tuple[Episode, ...]:
    """Runs of one label; a gap of more than GAP usual steps ends one."""
    found: list[Episode] = []
    limit = GAP * float(np.median(np.diff(times))) + ROUNDED if len(times) > 1 else 0.0
    for k, (time, label, weight) in enumerate(zip(times, labels, weights, strict=True)):
        goes_on = k > 0 and label == labels[k - 1] and time - times[k - 1] <= limit
        if goes_on:
            found[-1] = found[-1]._replace(seconds=found[-1].seconds + float(weight))
        else:
            found.append(Episode(label, float(time), float(weight)))
    return tuple(found)


def lids_of(units: Mapping[str, Floats], ranges: Mapping[str, float]) -> Floats | None:
    """How closed the lids are, 0 to 1, over the faces; None where no column tells."""
    for name in LIDS:
        if name in units:
            return units[name] / ranges[name]
    sides = [units[name] / ranges[name] for name in ("AU45_L", "AU45_R") if name in units]
    return np.mean(sides, axis=0) if sides else None


def blinks_of(times: Floats, closed: Floats) -> int:
    """How often lids that were open close and open again within LONGEST_BLINK."""
    count, since = 0, np.nan
    shut = np.nan_to_num(closed) >= CLOSED
    for k in range(1, len(times)):
        if shut[k] and not shut[k - 1]:
            since = times[k]
        elif shut[k - 1] and not shut[k]:
            count += bool(times[k] - since <= LONGEST_BLINK)
            since = np.nan
    return count


def table_of(people: Sequence[Person]) -> str:
    """A line a track as CSV; an unknown value is empty."""
    labels = list(dict.fromkeys(label for person in people for label in person.shares))
    units = list(dict.fromkeys(name for person in people for name in person.means))
    head = ["source", "track", "begin", "end", "seconds", "faces", *(f"share_{label}" for label in labels), "episodes"]
    head += [f"{kind}_{name}" for kind in ("mean", "peak") for name in units] + ["blinks_per_minute"]
    lines = [
        [person.source, person.track, person.begin, person.end, person.seconds, person.faces,
         *(person.shares.get(label, 0.0) for label in labels), len(person.episodes),
         *(found.get(name) for found in (person.means, person.peaks) for name in units), person.blinks]
        for person in people
    ]  # fmt: skip
    return csv_of(head, lines)


def episode_lines(people: Sequence[Person]) -> str:
    """A line an episode as CSV."""
    lines = [[person.source, person.track, *episode] for person in people for episode in person.episodes]
    return csv_of(["source", "track", "expression", "onset", "seconds"], lines)


def csv_of(head: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    """CSV with floats as in the rows (`short_float`); None and NaN are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    for line in lines:
        writer.writerow(
            ["" if v is None or v != v else f"{short_float(v):.12g}" if isinstance(v, float) else v for v in line]
        )
    return text.getvalue()


def timeline(people: Sequence[Person]) -> Any:
    """A matplotlib Figure: a strip a track, coloured by expression over time. A notebook shows it; the first MOST_PANELS tracks.

    Photos have no time and are left out; DataError where nothing else is there.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [person for person in people if person.episodes][:MOST_PANELS]
    if not shown:
        raise DataError("a timeline needs rows of a video; photos have no times.")
    labels = sorted({episode.expression for person in shown for episode in person.episodes} - {UNSURE})
    inks = {label: f"C{k}" for k, label in enumerate(labels)} | {UNSURE: "0.8"}
    figure = Figure(figsize=(10, 0.9 + 0.55 * len(shown)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for row, person in enumerate(shown):
        for label, ink in inks.items():
            spans = [(e.onset, e.seconds) for e in person.episodes if e.expression == label]
            axes.broken_barh(spans, (row - 0.4, 0.8), facecolors=ink)
    axes.set_yticks(range(len(shown)), [f"{Path(p.source).name[:28]} #{p.track}" for p in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlabel("seconds")
    bars = [axes.barh(0, 0, color=ink, label=label) for label, ink in inks.items()]
    axes.legend(
        handles=bars, ncols=min(len(bars), 8), loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, fontsize=8
    )
    return figure
