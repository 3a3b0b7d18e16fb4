"""The section on errors: with and without landmarks, valence and arousal, and what all runs get wrong together."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mien import draw
from mien.evaluation.tables import AFFECT, FACTS, csv_cell
from mien.metrics.errors import common_errors
from mien.report import plots
from mien.report.pictures import CELL, COLUMNS, Faces, comparable, data_uri
from mien.report.runs import Group, Run

SHOWN = 12
"""Common errors that are listed and drawn, the most confident first."""


class Common(NamedTuple):
    """Faces that several runs scored, and which of them all get wrong."""

    runs: list[Run]
    ids: np.ndarray
    """(N,) faces that every run scored."""
    rows: np.ndarray
    """(M, N) place of each face in each run."""
    labels: np.ndarray
    predicted: np.ndarray
    """(M, N)."""
    wrong: np.ndarray
    """(N,) bool: wrong in every run."""
    same: np.ndarray
    """(N,) bool: and misclassified as the same class by every run."""

    @property
    def confidence(self) -> np.ndarray:
        """(N,) mean over the runs of the top probability."""
        tops = [run.faces["probabilities"][own].max(1) for run, own in zip(self.runs, self.rows, strict=True)]
        return np.asarray(np.mean(tops, axis=0))

    def fact(self, name: str) -> np.ndarray | None:
        """(N,) a column that evaluation noted of each face; None in older run folders."""
        column = self.runs[0].faces.get(name)
        return None if column is None else column[self.rows[0]]

    def order(self) -> np.ndarray:
        """Places of the common errors, the most confident first."""
        which = np.flatnonzero(self.wrong)
        return which[np.argsort(-self.confidence[which], kind="stable")]


def common_of(groups: Sequence[Group]) -> Common | None:
    """Common errors of all runs on the first recipe's faces; None with a single run, or where runs share no face."""
    runs = [run for group in comparable(groups) for run in group.runs]
    ids = runs[0].faces["id"]
    for run in runs[1:]:
        ids = ids[np.isin(ids, run.faces["id"])]
    if len(runs) < 2 or not len(ids):
        return None
    places = [{name: k for k, name in enumerate(run.faces["id"])} for run in runs]
    rows = np.array([[place[name] for name in ids] for place in places], dtype=np.int64)
    labels = runs[0].faces["label"][rows[0]]
    predicted = np.stack([run.faces["probabilities"][own].argmax(1) for run, own in zip(runs, rows, strict=True)])
    return Common(runs, ids, rows, labels, predicted, *common_errors(predicted, labels))


def errors_section(groups: Sequence[Group], faces: Faces | None) -> dict[str, Any]:
    """Everything that the template shows; `faces` None leaves the pictures out."""
    common = common_of(groups)
    return {
        "landmarks": landmarks_table(groups),
        "affect": {name: plots.uri(figure) for name in AFFECT if (figure := plots.affect(groups, name))},
        "common": common_section(common, faces) if common else None,
    }


def landmarks_table(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """A row a recipe: errors, and accuracy on faces with and without landmarks; runs of a recipe together."""
    table = []
    for group in groups:
        parts = [run.results["errors"]["landmarks"] for run in group.runs if "errors" in run.results]
        cells = []
        for state in ("known", "unknown"):
            faces = sum(part.get(state, {"faces": 0})["faces"] for part in parts)
            errors = sum(part.get(state, {"errors": 0})["errors"] for part in parts)
            cells.append(
                {
                    "text": f"{1 - errors / faces:.3f}" if faces else "–",
                    "note": f"{errors} of {faces} wrong",
                    "weak": False,
                }
            )
        if parts:
            table.append({"name": group.name, "cells": cells})
    return table


def common_section(common: Common, faces: Faces | None) -> dict[str, Any]:
    """Counts of common errors by class and by the dataset's expression, the most confident of them, and their pictures."""
    classes = common.runs[0].classes
    alone = [float((said != common.labels).mean()) for said in common.predicted]
    expression = common.fact("expression")
    by = [("true class", np.array(classes)[common.labels])]
    if expression is not None and set(expression) - set(classes):
        by.append(("expression in the data", expression))
    chosen = common.order()[:SHOWN]
    return {
        "runs": len(common.runs),
        "faces": len(common.ids),
        "wrong": int(common.wrong.sum()),
        "same": int(common.same.sum()),
        "chance": float(np.prod(alone) * len(common.ids)),
        "tables": [{"title": title, "rows": _counts(values, common.wrong)} for title, values in by],
        "listed": [_line(common, k) for k in chosen],
        "names": [run.name for run in common.runs],
        "pictures": data_uri(_sheet(common, chosen, faces)) if faces is not None and len(chosen) else None,
    }


def _counts(values: np.ndarray, wrong: np.ndarray) -> list[dict[str, Any]]:
    names = list(dict.fromkeys(values.tolist()))
    rows = [(str(name), int(wrong[values == name].sum()), int((values == name).sum())) for name in names]
    return [
        {"name": name, "wrong": count, "faces": faces, "share": f"{count / faces:.3f}"}
        for name, count, faces in sorted(rows, key=lambda row: -row[1] / row[2])
    ]


def _line(common: Common, place: int) -> dict[str, Any]:
    classes = common.runs[0].classes
    return {
        "id": str(common.ids[place]),
        "true": classes[common.labels[place]],
        "said": [classes[k] for k in common.predicted[:, place]],
        "confidence": f"{common.confidence[place]:.2f}",
    }


def _sheet(common: Common, chosen: np.ndarray, faces: Faces) -> Any:
    """Pictures of common errors, six in a row, with the true class and what each run says."""
    images = faces.images(common.rows[0][chosen])
    lines = [_line(common, k) for k in chosen]
    texts = [
        "\n".join([f"is {line['true']}", *(f"says {word}" for word in dict.fromkeys(line["said"]))]) for line in lines
    ]
    starts = range(0, len(chosen), COLUMNS)
    cells = [list(images[start : start + COLUMNS]) for start in starts]
    return draw.grid(cells, captions=[texts[start : start + COLUMNS] for start in starts], cell=CELL)


def common_csv(common: Common) -> str:
    """A line a face that every run gets wrong, the most confident first: what it is, what each run says, what the store knows."""
    facts = [(name, values) for name in FACTS if (values := common.fact(name)) is not None]
    valence, arousal = (common.fact(name) for name in AFFECT)
    if valence is not None and arousal is not None:
        facts.append(("intensity", np.hypot(valence, arousal)))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    heads = [name for name, _ in facts]
    writer.writerow(["id", "true", "same_answer", "confidence", *heads, *(f"said:{run.name}" for run in common.runs)])
    for place in common.order():
        line = _line(common, place)
        known = [csv_cell(values[place]) for _, values in facts]
        same = "yes" if common.same[place] else "no"
        writer.writerow([line["id"], line["true"], same, line["confidence"], *known, *line["said"]])
    return buffer.getvalue()
