"""A leaderboard file: one checked row a model, and tables of the rows that may stand side by side.

Rows of other faces, another split, another protocol or another cue are never in one table. Each row carries a checksum over its
own cells, so that a number that was changed by hand is found.
"""

from __future__ import annotations

import csv
import hashlib
import html
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mien import __version__
from mien.errors import DataError
from mien.files import write_atomic

SCORES = (
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "calibration_error",
    "att_cos",
    "att_excess",
    "deletion",
    "insertion",
)
"""Columns of numbers; empty where a model was not measured or cannot be."""
HIGHER = {"calibration_error": False, "deletion": False}
"""Scores that are better when lower."""
FACTS = ("model", "weights", "store", "data", "split", "protocol", "cue", "faces", "people", "mien", "date")
"""Columns of words: what was scored on what. `weights`, `data` and `cue` are hashes."""
TOGETHER = ("data", "split", "protocol", "cue", "faces")
"""Rows that differ in one of these are in different tables."""
COLUMNS = (*FACTS, *SCORES, "check")


def row_of(facts: Mapping[str, Any], scores: Mapping[str, float | None]) -> dict[str, str]:
    """One row as text, its checksum last; DataError for a missing fact, an unknown score or a number that is none.

    facts has every name of FACTS, scores some of SCORES; a score may be None.
    """
    missing, unknown = [name for name in FACTS if name not in facts], [name for name in scores if name not in SCORES]
    if missing or unknown:
        raise DataError(
            f"a row needs {', '.join(missing) or 'no more facts'}, and has no column {', '.join(unknown) or '-'}."
        )
    row = {name: " ".join(str(facts[name]).split()) for name in FACTS}
    for name in SCORES:
        value = scores.get(name)
        if value is not None and not math.isfinite(value):
            raise DataError(f"{name} of {facts['model']} is {value}, which is no score.")
        row[name] = "" if value is None else f"{value:.6f}"
    return {**row, "check": check_of(row)}


def check_of(row: Mapping[str, str]) -> str:
    """Checksum over the cells of a row, in the order of COLUMNS."""
    cells = "\x1f".join(row[name] for name in COLUMNS if name != "check")
    return hashlib.sha256(cells.encode()).hexdigest()[:16]


def row_of_results(results: Mapping[str, Any], faces: Mapping[str, Any]) -> dict[str, str]:
    """The row of a scored model from its results.json and its per-face arrays (maps/faces.npz)."""
    return row_of(facts_of_results(results, faces), scores_of_results(results))


def facts_of_results(results: Mapping[str, Any], faces: Mapping[str, Any]) -> dict[str, Any]:
    """FACTS of a scored model from its results.json and its per-face arrays; DataError for scores of an earlier version."""
    if "source_fingerprint" not in results:
        raise DataError(
            f"{results['run']} was scored by an earlier mien, which kept no fingerprint of the faces; score it again."
        )
    people = {name for name in faces.get("subject", ()) if name}
    cue = results["cue"]
    scored = "\n".join([results["source_fingerprint"], *sorted(map(str, faces["id"]))])
    drawn = f"{cue['kind']} {cue.get('drawn')} {cue.get('action_units')}"
    return {
        "model": results["run"], "weights": results["weights"][:16], "store": results["store"],
        "data": hashlib.sha256(scored.encode()).hexdigest()[:16], "split": results["split"],
        "protocol": results["protocol"], "cue": hashlib.sha256(drawn.encode()).hexdigest()[:16], "faces": results["faces"],
        "people": len(people), "mien": __version__, "date": results["date"],
    }  # fmt: skip


def scores_of_results(results: Mapping[str, Any]) -> dict[str, float | None]:
    """SCORES of a results.json, None where it has none."""
    own = results["classification"]
    layers = sorted(
        (name for name in results["alignment"] if name.startswith("layer-")), key=lambda name: int(name[6:])
    )
    found: dict[str, float | None] = {name: own[name] for name in SCORES[:4]}
    if layers:
        last = layers[-1]
        found["att_cos"] = results["alignment"][last]["cosine"]["class_mean"]
        found["att_excess"] = results["excess"][last]["scores"]["cosine"]["class_mean"]
        faithful = results.get("faithfulness", {}).get("scores", {}).get(last, {})
        found |= {name: faithful[name]["class_mean"] for name in ("deletion", "insertion") if name in faithful}
    return found


def add_row(file: Path, row: Mapping[str, str]) -> str:
    """Add a row to a CSV file, which is made where there is none; the row of the same weights on the same faces is replaced.

    Returns:
        added, replaced, or unchanged.

    """
    rows = read_rows(file) if file.exists() else []
    key = ("weights", "model", *TOGETHER)
    same = [one for one in rows if all(one[name] == row[name] for name in key)]
    if any(all(one[name] == row[name] for name in COLUMNS if name not in ("date", "check")) for one in same):
        return "unchanged"
    kept = [one for one in rows if one not in same]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows([*kept, dict(row)])
    write_atomic(file, buffer.getvalue())
    return "replaced" if same else "added"


def read_rows(file: Path) -> list[dict[str, str]]:
    """Every row, checked; DataError with the line of a row that was changed, or of a file that is none of these."""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DataError(f"there is no file {file}; `mien compare ... --rows {file}` writes one.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read ({error}).") from error
    try:
        lines = csv.DictReader(io.StringIO(text))
        reader, head = list(lines), lines.fieldnames
    except csv.Error as error:
        raise DataError(f"{file} cannot be read ({error}).") from error
    if tuple(head or ()) != COLUMNS:
        raise DataError(f"{file} is no file of rows: its first line must be {','.join(COLUMNS)}.")
    rows = []
    for number, row in enumerate(reader, start=2):
        if None in row or None in row.values() or check_of(row) != row["check"]:
            raise DataError(
                f"{file} line {number}: the row was changed or cut after it was written; score the model again."
            )
        rows.append(row)
    return rows


def tables_of_rows(rows: Sequence[Mapping[str, str]]) -> list[list[Mapping[str, str]]]:
    """Rows that may stand side by side, best accuracy first; the order of the tables is that of their first rows."""
    tables: dict[tuple[str, ...], list[Mapping[str, str]]] = {}
    for row in rows:
        tables.setdefault(tuple(row[name] for name in TOGETHER), []).append(row)
    return [sorted(table, key=lambda row: -float(row["accuracy"] or "nan")) for table in tables.values()]


def rows_page(rows: Sequence[Mapping[str, str]], title: str) -> str:
    """One HTML page: a table for each set of faces, protocol and cue."""
    parts = [f"<h1>{html.escape(title)}</h1>"]
    tables = tables_of_rows(rows)
    if len(tables) > 1:
        parts.append(f"<p>{len(tables)} tables: rows of other faces, splits, protocols or cues do not compare.</p>")
    for table in tables:
        first = table[0]
        used = [name for name in SCORES if any(row[name] for row in table)]
        head = "".join(f"<th>{name.replace('_', ' ')} {'↑' if HIGHER.get(name, True) else '↓'}</th>" for name in used)
        body = "".join(
            f"<tr><td>{html.escape(row['model'])}</td><td><code>{row['weights'][:8]}</code></td>"
            + "".join(f"<td>{float(row[name]):.3f}</td>" if row[name] else "<td>–</td>" for name in used)
            + f"<td>{html.escape(row['mien'])}, {html.escape(row['date'])}</td></tr>"
            for row in table
        )
        facts = (
            f"{first['faces']} {first['split']} faces of {first['people']} people, {first['store']} (faces {first['data']}, cue "
            f"{first['cue']}), protocol {first['protocol']}"
        )
        parts.append(
            f"<h2>{html.escape(facts)}</h2><table><tr><th>model</th><th>weights</th>{head}<th>scored by</th></tr>{body}</table>"
        )
    style = "body{font:15px sans-serif;margin:2em}td,th{padding:.3em .8em;text-align:left;border-bottom:1px solid #ccc}"
    head = f"<meta charset='utf-8'><title>{html.escape(title)}</title><style>{style}h2{{font-size:1em}}</style>"
    return f"<!doctype html><html lang='en'>{head}{''.join(parts)}</html>"
