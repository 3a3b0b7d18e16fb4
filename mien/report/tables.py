"""Tables of the page as plain data: recognition, alignment, classes, tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mien.metrics.faithfulness import FAITHFULNESS
from mien.metrics.intervals import Comparison
from mien.report.family import Family
from mien.report.numbers import Number, Paired, alignment, beyond, classification, mean_of, over_seeds, right_and_wrong
from mien.report.runs import Group, Run
from mien.report.words import (
    BASELINES,
    CEILING,
    FAITHFUL,
    MAPS,
    MISMATCHED,
    SCORES,
    class_mean_of,
    explain_map,
    interval,
    signed,
)

Cell = dict[str, Any]
"""text, note (small, below), weak (grey), numbers (value, low, high; for export)."""


def cell(value: Number | float | None, weak: bool = False) -> Cell:
    """A number, its interval below it."""
    entry = value if isinstance(value, Number) else Number(value)
    if entry.value is None:
        return {"text": "–", "note": "", "weak": True, "numbers": (None, None, None)}
    note = interval(entry.low, entry.high) if entry.low is not None and entry.high is not None else ""
    text = f"{entry.value:.3f}".replace("-", "−")
    return {"text": text, "note": note, "weak": weak, "numbers": tuple(entry)}


def per_run_table(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """One line a run, for recipes with several seeds."""
    rows = []
    for group in groups:
        for run in group.runs:
            scores = run.results["classification"]
            values = [scores[name] for name in ("accuracy", "balanced_accuracy", "macro_f1", "calibration_error")]
            values += [
                alignment(Group(run.name, [run]), name, "cosine").value for name in (run.last_layer, run.class_map)
            ]
            rows.append({"name": run.name, "seed": run.recipe.run.seed, "cells": [cell(value) for value in values]})
    return rows


def classification_table(groups: Sequence[Group], seed: int) -> list[dict[str, Any]]:
    """A row a recipe."""
    names = ("accuracy", "balanced_accuracy", "macro_f1", "calibration_error")
    scores = [classification(group, seed) for group in groups]
    return [{"name": g.name, "cells": [cell(s[name]) for name in names]} for g, s in zip(groups, scores, strict=True)]


def levels(run: Run) -> list[dict[str, str]]:
    """Rows of what recognition starts from: the most frequent class, and the landmarks alone where they were scored."""
    counts = np.sum(run.results["classification"]["confusion"], axis=1)
    share, present = float(counts.max() / counts.sum()), int((counts > 0).sum())
    rows = [{"accuracy": share, "balanced_accuracy": 1 / present, "macro_f1": 2 * share / (1 + share) / present}]
    shape = run.results.get("levels", {}).get("landmarks_only")
    if shape is not None:
        rows.append(shape)
    titles = ("always the most frequent class", "68 landmarks alone (LDA)")
    return [
        {"title": title, **{name: f"{value:.3f}" for name, value in row.items()}}
        for title, row in zip(titles, rows, strict=False)
    ]


def alignment_table(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Sections of rows; a row has one list of cells (recipes) for each score. Grey: not above its class-mean baseline."""
    present = {name for group in groups for name in group.first.results["alignment"]}
    layers = sorted((name for name in present if name.startswith("layer-")), key=lambda name: int(name.split("-")[1]))
    trained = sorted(name for name in present if name.startswith(("guided:", "second:")))
    lasts = {group.first.last_layer for group in groups}
    others = sorted({name for group in groups for name in group.first.results.get("methods", [])} - set(MAPS))
    sections = (
        ("Where the model looks", [*layers, *MAPS, *others], True),
        ("Attributions that were trained, each against its own cue", trained, False),
        ("Baselines: maps that never saw the face, against the right cue", list(BASELINES), False),
        ("Ceiling: what a perfect map scores", list(CEILING), False),
        (
            "Mismatched cues: the last layer's attention against a wrong cue, beside what other maps score there",
            list(MISMATCHED),
            False,
        ),
    )
    table = []
    for title, names, graded in sections:
        rows = []
        for name in (name for name in names if name in present):
            heading, note = explain_map(name, name if name in lasts else "")
            rows.append(
                {
                    "title": heading,
                    "note": note,
                    "scores": [_align_cells(groups, name, kind, graded) for kind, _, _ in SCORES],
                }
            )
        if rows:
            table.append({"title": title, "rows": rows})
    return table


def _align_cells(groups: Sequence[Group], name: str, kind: str, graded: bool) -> list[Cell]:
    cells = []
    for group in groups:
        value, over = alignment(group, name, kind), class_mean_of(group, name)
        blind = alignment(group, over, kind).value if graded and over else None
        low = blind is not None and value.value is not None and value.value <= blind
        cells.append(cell(value, weak=low))
    return cells


def per_class_table(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """A row a class: recall, F1 and ATT-COS of each recipe; classes of the first recipe."""
    rows = []
    for name in groups[0].first.classes:
        blocks = []
        for kind in ("recall", "f1"):
            values = [
                [run.results["classification"]["per_class"].get(name, {}).get(kind) for run in g.runs] for g in groups
            ]
            blocks.append([cell(mean_of(entry)) for entry in values])
        values = [
            [r.results["alignment"][r.last_layer]["cosine"]["per_class"].get(name) for r in g.runs] for g in groups
        ]
        blocks.append([cell(mean_of(entry)) for entry in values])
        count = groups[0].first.results["classification"]["per_class"][name]["count"]
        rows.append({"name": name, "count": count, "blocks": blocks})
    return rows


def faithfulness_table(groups: Sequence[Group]) -> dict[str, Any] | None:
    """Deletion, insertion and randomised models of every map, a column a score and recipe; None where nobody measured them."""
    measured = [run.results.get("faithfulness") for group in groups for run in group.runs]
    known = [found for found in measured if found]
    if not known:
        return None
    kinds = [kind for kind in FAITHFULNESS if any(kind in row for found in known for row in found["scores"].values())]
    names = list(dict.fromkeys(name for found in known for name in found["scores"]))
    last = {group.first.last_layer for group in groups}
    rows = []
    for name in names:
        blocks = [[cell(_faithful(group, name, kind)) for group in groups] for kind in kinds]
        rows.append({"title": explain_map(name, name if name in last else "")[0], "scores": blocks})
    return {
        "kinds": [f"{FAITHFUL[kind]} {'↑' if FAITHFULNESS[kind] else '↓'}" for kind in kinds],
        "rows": rows,
        "faces": sorted({found["faces"] for found in known}),
        "missing": [group.name for group in groups if not any(run.results.get("faithfulness") for run in group.runs)],
    }


def _faithful(group: Group, name: str, kind: str) -> Number:
    """Class mean with its interval over people for one run, over seeds for several."""
    found = [run.results.get("faithfulness", {}).get("scores", {}).get(name, {}).get(kind) for run in group.runs]
    known = [entry for entry in found if entry and entry["class_mean"] is not None]
    if len(known) > 1:
        return over_seeds([entry["class_mean"] for entry in known])
    return Number(known[0]["class_mean"], *(known[0]["interval"] or (None, None))) if known else Number(None)


def right_wrong_table(groups: Sequence[Group], seed: int) -> list[dict[str, Any]]:
    """ATT-COS and CAM-COS of right and of wrong predictions."""
    rows = []
    for group in groups:
        for title, name in (("ATT-COS, last layer", group.first.last_layer), ("CAM-COS", group.first.class_map)):
            if name not in group.first.results["alignment"]:
                continue
            sides = right_and_wrong(group, name, seed)
            rows.append(
                {
                    "name": group.name,
                    "title": title,
                    "cells": [{**cell(value), "count": count} for value, count in sides],
                }
            )
    return rows


def beyond_tests(groups: Sequence[Group], seed: int) -> dict[tuple[str, str], list[Comparison | None]]:
    """(Baseline or wrong cue, score) -> how far the last layer's attention is beyond it, by recipe; rows without any left out."""
    names = ("baseline:class_mean_predicted", "mismatched:same_class", "mismatched:other_class")
    found = {
        (name, kind): [beyond(group, name, kind, seed) for group in groups]
        for name in names
        for kind in ("cosine", "pearson")
    }
    return {key: row for key, row in found.items() if any(row)}


def beyond_table(
    tests: dict[tuple[str, str], list[Comparison | None]], corrected: Sequence[float]
) -> list[dict[str, Any]]:
    """A row a baseline or wrong cue; grey where the corrected test does not find the attention above it."""
    adjusted, rows = iter(corrected), []
    for (name, kind), found in tests.items():
        cells = []
        for test in found:
            if test is None:
                cells.append(cell(None))
                continue
            p = next(adjusted)
            note = f"{interval(test.low, test.high, sign=True)}, p {p_value(p)}"
            cells.append({**_change(test), "note": note, "weak": p >= 0.05 or test.difference <= 0})
        title = {**BASELINES, **MISMATCHED}[name][0]
        rows.append({"title": title, "kind": {"cosine": "cosine ↑", "pearson": "Pearson ↑"}[kind], "cells": cells})
    return rows


def tests_table(test: Paired, family: Family, number: int) -> dict[str, Any]:
    """One comparison with the baseline."""
    rows, rulings = [], family.rulings[number]
    for name, difference in test.differences.items():
        ruling = rulings[name]
        rows.append(
            {
                "title": difference.title,
                "faces": _change(difference.faces),
                "seeds": _change(difference.seeds) if difference.seeds else None,
                "both": _change(difference.both) if difference.both else None,
                "p": p_value(difference.test.p),
                "p_corrected": p_value(ruling.p),
                "mcnemar": ", ".join(p_value(p) for p in ruling.mcnemar),
                "verdict": ruling.word,
            }
        )
    return {
        "base": test.base.name, "other": test.other.name, "rows": rows, "faces": test.faces, "people": test.people,
        "pairs": len(test.pairs), "same_seed": test.same_seed, "seeds": len(test.pairs) > 1 and test.same_seed,
        "clusters": test.differences["accuracy"].faces.clusters,
    }  # fmt: skip


def _change(test: Comparison) -> Cell:
    numbers = (test.difference, test.low, test.high)
    return {
        "text": signed(test.difference),
        "note": interval(test.low, test.high, sign=True),
        "weak": False,
        "numbers": numbers,
    }


def p_value(p: float) -> str:
    """Three decimals, or a bound."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
