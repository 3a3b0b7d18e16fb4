"""From scored cells to one table: means over seeds with intervals, baselines, paired differences, published numbers."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mien.metrics.intervals import paired_seeds
from mien.report.numbers import Number, over_seeds
from mien.report.runs import same_yardstick
from mien.reproduce.grids import Entry

Results = dict[str, Any]
"""Content of a results.json."""
Line = dict[str, Any]
"""One score of one entry, as table.json holds it."""


class Score(NamedTuple):
    """A number that is read from results.json."""

    title: str
    of: str
    """classification, explainer (the entry's map of the true class), layer (attention of the entry's layer), excess (of that
    layer), or constrained or attribution (Grad*Input of the true class, over the channels that were constrained or over all)."""
    kind: str


SCORES = {
    "accuracy": Score("Accuracy (CL)", "classification", "accuracy"),
    "balanced_accuracy": Score("Balanced accuracy", "classification", "balanced_accuracy"),
    "cam_cos": Score("CAM-COS", "explainer", "cosine"),
    "att_cos": Score("ATT-COS", "layer", "cosine"),
    "att_excess": Score("Excess of ATT-COS over the class-mean cue", "excess", "cosine"),
    "cam_pearson": Score("Pearson correlation of the CAM", "explainer", "pearson"),
    "att_pearson": Score("Pearson correlation of the attention", "layer", "pearson"),
    "constrained_pearson": Score("Pearson correlation of Grad*Input, constrained channels", "constrained", "pearson"),
    "attribution_pearson": Score("Pearson correlation of Grad*Input, all channels", "attribution", "pearson"),
}
"""Name -> score; higher is better for all of them."""
PLAIN = ("classification", "excess")
"""Scores beside which no map without evidence stands."""
CONSTRAINED = ("guided:grad_input", "second:grad_input")
"""Map that privileged attribution was trained with, by the section that asked for it."""
AS_CODED = "grad_cam_pp_as_coded"
"""Grad-CAM++ under protocol paper: the map behind the published numbers."""
BASELINES = ("uniform", "centre", "mean")
"""Maps that never saw the face, weakest first as a rule."""


def lines_of(
    entries: Sequence[Entry], results: Mapping[tuple[str, str], Mapping[int, Results]], dataset: str
) -> list[Line]:
    """A line for every entry and score that it has. `results`: (row, column) of an entry -> seed -> results.json."""
    lines = []
    for entry in entries:
        own = results[entry.row, entry.column]
        base = results[entry.against] if entry.against else {}
        for name, score in SCORES.items():
            if score.of == "explainer" and entry.explainer is None:
                continue
            if score.of in ("constrained", "attribution") and not any(has_map(r, entry, score) for r in own.values()):
                continue
            value = over_runs([read(result, entry, score) for result in own.values()])
            lines.append(
                {
                    "row": entry.row,
                    "title": entry.title,
                    "column": entry.column,
                    "score": name,
                    "seeds": sorted(own),
                    "value": value.value,
                    "low": value.low,
                    "high": value.high,
                    "difference": difference(base, own, entry, score),
                    "baselines": baselines(list(own.values()), score.kind) if score.of not in PLAIN else None,
                    "class_mean": class_mean(list(own.values()), entry, score) if score.of not in PLAIN else None,
                    "published": entry.published.get(dataset, {}).get(name),
                }
            )
    return lines


def read(results: Results, entry: Entry, score: Score) -> Number:
    """A score of one run with its bootstrap interval over faces; an empty Number where the run has no such map."""
    if score.of == "classification":
        scores = results["classification"]
        return Number(scores[score.kind], *scores[f"{score.kind}_interval"])
    if score.of == "excess":
        beyond = results.get("excess", {}).get(map_of(results, entry, score))
        own = beyond["scores"][score.kind] if beyond else None
        return Number(own["class_mean"], *own["interval"]) if own and own["class_mean"] is not None else Number(None)
    found = results["alignment"].get(map_of(results, entry, score), {}).get(score.kind, {"class_mean": None})
    return Number(found["class_mean"], *found["interval"]) if found["class_mean"] is not None else Number(None)


def map_of(results: Results, entry: Entry, score: Score) -> str | None:
    """Which map of a run a score is read from; None where it has none."""
    if score.of == "explainer":
        as_coded = results.get("protocol") == "paper" and AS_CODED in results["alignment"]
        return AS_CODED if as_coded and entry.explainer == "grad_cam_pp" else entry.explainer
    if score.of == "attribution":
        return "grad_input"
    if score.of == "constrained":
        return next((name for name in CONSTRAINED if name in results["alignment"]), None)
    layers = [name for name in results["alignment"] if name.startswith("layer-")]
    return layers[entry.layer - (entry.layer > 0)]


def has_map(results: Results, entry: Entry, score: Score) -> bool:
    """Whether a run was scored by the map of this score."""
    return map_of(results, entry, score) in results["alignment"]


def over_runs(numbers: Sequence[Number]) -> Number:
    """One run: its number and interval over faces. Several: their mean with a Student t interval over seeds."""
    known = [number for number in numbers if number.value is not None]
    if len(known) < 2:
        return known[0] if known else Number(None)
    return over_seeds([float(number.value or 0) for number in known])


def difference(
    base: Mapping[int, Results], own: Mapping[int, Results], entry: Entry, score: Score
) -> dict[str, float | int | None] | None:
    """The entry minus what it is compared with, paired by seed, both read from the entry's map; t interval from two seeds.

    None for an alignment score where both were measured against different cues.
    """
    pairs = [
        (read(base[seed], entry, score).value, read(own[seed], entry, score).value)
        for seed in own
        if seed in base and (score.of == "classification" or same_yardstick(base[seed], own[seed]))
    ]
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    if not known:
        return None
    if len(known) == 1:
        return {"value": known[0][1] - known[0][0], "low": None, "high": None, "p": None, "seeds": 1}
    test = paired_seeds([a for a, _ in known], [b for _, b in known])
    return {"value": test.difference, "low": test.low, "high": test.high, "p": test.p, "seeds": test.n}


def baselines(results: Sequence[Results], kind: str) -> dict[str, float | None]:
    """Mean over runs of what maps that never saw the face score."""
    found = {}
    for name in BASELINES:
        values = [result["alignment"][f"baseline:{name}"][kind]["class_mean"] for result in results]
        known = [value for value in values if value is not None]
        found[name] = sum(known) / len(known) if known else None
    return found


def class_mean(results: Sequence[Results], entry: Entry, score: Score) -> float | None:
    """Mean over runs of what the class-mean baseline of the entry's map scores, the strongest map that never saw the face."""
    found = []
    for result in results:
        excess = result.get("excess", {}).get(map_of(result, entry, score)) if score.of != "classification" else None
        value = result["alignment"][excess["over"]][score.kind]["class_mean"] if excess else None
        found += [] if value is None else [value]
    return sum(found) / len(found) if found else None


def as_markdown(table: Mapping[str, Any]) -> str:
    """The whole table as Markdown: a paragraph on how it was made, then a block for every score."""
    blocks = [f"# {table['table']}: {table['dataset']}", "\n".join(notes(table))]
    for name, score in SCORES.items():
        lines = [line for line in table["lines"] if line["score"] == name]
        if any(line["value"] is not None for line in lines):
            blocks.append(f"## {score.title} ↑\n\n{block(lines)}")
    if table["failed"]:
        reasons = [f"- {name}: {reason}" for name, reason in table["failed"].items()]
        blocks.append("## Failed\n\n" + "\n".join(reasons))
    return "\n\n".join(blocks) + "\n"


def notes(table: Mapping[str, Any]) -> list[str]:
    """How the numbers came about, and what they can be compared with."""
    several = len(table["seeds"]) > 1
    interval = f"t over {len(table['seeds'])} seeds" if several else "bootstrap over the faces of one seed"
    found = [
        f"- {table['faces']} test faces, {len(table['classes'])} classes, scale {table['scale']}, protocol {table['protocol']}, "
        f"mien {table['mien']}; made by `{table['command']}`.",
        f"- Brackets: 95 % interval, {interval}. Differences are paired by seed"
        + ("." if several else "; one seed gives them no interval, and proves nothing."),
        "- Baselines: what a uniform map, a blob in the centre, the mean cue of the training faces and the mean cue of a class score, "
        "which never saw the face. The part of a score that follows this face is what lies above the class mean. Guessing scores "
        f"{1 / len(table['classes']):.3f} in balanced accuracy.",
    ]
    missing = {line["title"]: len(line["seeds"]) for line in table["lines"] if line["seeds"] != table["seeds"]}
    if missing:
        few = ", ".join(f"{title}: {count}" for title, count in missing.items())
        found.append(
            f"- Not all seeds are there: {few}. A row of one seed has the bootstrap over its faces in brackets."
        )
    if table["protocol"] == "paper":
        found.append(
            "- Protocol paper: the test faces selected the epoch, so these numbers are too good for new faces."
        )
    if any(line["published"] is not None for line in table["lines"]):
        found.append("- Published: Belharbi et al. 2024, one seed, selected on the test faces, ResNet-50 at 224 px.")
    return found


def block(lines: Sequence[Line]) -> str:
    """One score: a row of the table a line, its columns side by side."""
    columns = list(dict.fromkeys(line["column"] for line in lines))
    measured = any(line["baselines"] for line in lines)
    printed = any(line["published"] is not None for line in lines)
    head = ["", *[column or "value" for column in columns], "difference"]
    head += ["baselines: uniform / centre / mean / class mean"] * measured
    head += [f"published {column}".strip() for column in columns] * printed
    rows = []
    for row in dict.fromkeys(line["row"] for line in lines):
        cells = {line["column"]: line for line in lines if line["row"] == row}
        last = list(cells.values())[-1]
        there = [cells.get(column) for column in columns]  # a training that failed has no line where others have
        text = [last["title"], *["–" if cell is None else with_interval(cell) for cell in there]]
        text.append(change(last["difference"]))
        if measured:
            values = [*(last["baselines"][name] for name in BASELINES), last.get("class_mean")]
            text.append(" / ".join(plain(value) for value in values))
        if printed:
            text += [as_printed(None if cell is None else cell["published"]) for cell in there]
        rows.append(text)
    return markdown_table(head, rows)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Padded, so that it reads well on a terminal too; numbers to the right."""
    every = [head, *rows]
    widths = [max(3, *(len(row[k]) for row in every)) for k in range(len(head))]
    padded = [
        [
            text.ljust(width) if k == 0 else text.rjust(width)
            for k, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in every
    ]
    rule = [("-" * width) if k == 0 else "-" * (width - 1) + ":" for k, width in enumerate(widths)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [padded[0], rule, *padded[1:]])


def plain(value: float | None, sign: bool = False) -> str:
    """Three decimals, a dash for nothing."""
    return "–" if value is None else f"{value:+.3f}" if sign else f"{value:.3f}"


def as_printed(value: float | None) -> str:
    """A published value with the digits that were printed."""
    return "–" if value is None else f"{value:.4f}".rstrip("0").ljust(4, "0")


def with_interval(line: Mapping[str, Any]) -> str:
    """Value and its interval."""
    between = f" [{line['low']:.3f}, {line['high']:.3f}]" if line["low"] is not None else ""
    return plain(line["value"]) + between


def change(value: Mapping[str, Any] | None) -> str:
    """Difference with its interval, both signed."""
    if value is None:
        return "–"
    between = f" [{value['low']:+.3f}, {value['high']:+.3f}]" if value["low"] is not None else ""
    return plain(value["value"], sign=True) + between


def as_csv(table: Mapping[str, Any]) -> str:
    """A line for every entry and score, everything flat."""
    buffer = io.StringIO()
    keys = ("row", "title", "column", "score", "value", "low", "high", "published")
    writer = csv.writer(buffer, lineterminator="\n")
    changes, bases = ("value", "low", "high", "p"), BASELINES
    writer.writerow(
        [
            "table",
            "dataset",
            *keys,
            "seeds",
            *[f"difference_{key}" for key in changes],
            *[f"baseline_{n}" for n in (*bases, "class_mean")],
        ]
    )
    for line in table["lines"]:
        moved, low = line["difference"] or {}, line["baselines"] or {}
        row = [table["table"], table["dataset"], *[line[key] for key in keys], len(line["seeds"])]
        writer.writerow(
            row + [moved.get(key) for key in changes] + [low.get(name) for name in bases] + [line.get("class_mean")]
        )
    return buffer.getvalue()
