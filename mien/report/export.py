"""The tables of the report as CSV and LaTeX, its figures as SVG and PDF."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mien.files import write_atomic
from mien.report.plots import as_bytes

Cell = Mapping[str, Any] | str | int
"""A number with its interval as in mien.report.tables, or words."""


class Table(NamedTuple):
    """A table as plain data."""

    name: str
    title: str
    head: list[str]
    rows: list[list[Cell]]


def write_export(content: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write NAME.csv and NAME.tex of every table and NAME.svg and NAME.pdf of every figure of a page into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []

    def write(name: str, data: str | bytes) -> None:
        write_atomic(folder / name, data)
        written.append(folder / name)

    for table in tables_of(content):
        write(f"{table.name}.csv", as_csv(table))
        write(f"{table.name}.tex", as_latex(table, content["facts"]))
    for name, figure in content["figures"].items():
        write(f"{name}.svg", as_bytes(figure, "svg"))
        write(f"{name}.pdf", as_bytes(figure, "pdf"))
    return written


def tables_of(content: Mapping[str, Any]) -> list[Table]:
    """Every table of the page that holds scores, from its context."""
    names = [group["name"] for group in content["groups"]]
    found = [
        Table(
            "recognition", "Recognition of expressions", ["recipe", "accuracy ↑", "balanced accuracy ↑", "macro-F1 ↑", "ECE ↓"],
            [[row["name"], *row["cells"]] for row in content["classification"]]
            + [
                [row["title"], row["accuracy"], row["balanced_accuracy"], row["macro_f1"], ""] for row in content["levels"]
            ],
        ),
        Table(
            "alignment", "Alignment of maps with the cue",
            ["kind", "map", *(f"{title} ↑, {name}" for _, title, _ in content["scores"] for name in names)],
            [
                [section["title"], row["title"], *(cell for block in row["scores"] for cell in block)]
                for section in content["alignment"]
                for row in section["rows"]
            ],
        ),
        Table(
            "classes", "Class by class",
            ["class", "faces", *(f"{title} ↑, {name}" for title in ("recall", "F1", "ATT-COS") for name in names)],
            [[row["name"], row["count"], *(cell for block in row["blocks"] for cell in block)] for row in content["per_class"]],
        ),
        Table(
            "right-wrong", "Right and wrong predictions apart",
            ["recipe", "score", "right ↑", "predictions", "wrong ↑", "predictions"],
            [
                [row["name"], row["title"], *(part for cell in row["cells"] for part in (cell, cell["count"]))]
                for row in content["right_wrong"]
            ],
        ),
        Table(
            "beyond", "Attention of the last layer minus baselines and mismatched cues", ["minus", "score", *names],
            [[row["title"], row["kind"], *row["cells"]] for row in content["beyond"]],
        ),
    ]  # fmt: skip
    faithful = content["faithfulness"]
    if faithful:
        head = ["map", *(f"{kind}, {name}" for kind in faithful["kinds"] for name in names)]
        rows = [[row["title"], *(cell for block in row["scores"] for cell in block)] for row in faithful["rows"]]
        found.append(Table("faithfulness", "Faithfulness", head, rows))
    found += [test_of(number, test) for number, test in enumerate(content["tests"], start=1)]
    return [table for table in found if table.rows]


def test_of(number: int, test: Mapping[str, Any]) -> Table:
    """A comparison with the baseline, from `tables.tests_table`."""
    over = [f"over {test['clusters']} {'people' if test['people'] else 'faces'}"]
    over += [f"over {test['pairs']} seeds", "over both"] if test["seeds"] else []
    head = ["score ↑", *over, "p", "p corrected", "McNemar p corrected", "reading"]
    rows: list[list[Cell]] = []
    for row in test["rows"]:
        changes = [row["faces"], *([row["seeds"], row["both"]] if test["seeds"] else [])]
        rows.append([row["title"], *changes, row["p"], row["p_corrected"], row["mcnemar"], row["verdict"]])
    return Table(f"test-{number}", f"{test['other']} minus {test['base']}", head, rows)


def as_csv(table: Table) -> str:
    """Numbers in full: a column with an interval becomes three, value, low and high; empty where there is none."""
    wide = [any(isinstance(row[k], Mapping) for row in table.rows) for k in range(len(table.head))]
    head = [
        name
        for title, parts in zip(table.head, wide, strict=True)
        for name in ([title, f"{title} low", f"{title} high"] if parts else [title])
    ]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(head)
    for row in table.rows:
        line: list[Any] = []
        for cell, parts in zip(row, wide, strict=True):
            if isinstance(cell, Mapping):
                line += ["" if number is None else f"{number:.6g}" for number in cell["numbers"]]
            else:
                line += [cell, "", ""] if parts else [cell]
        writer.writerow(line)
    return buffer.getvalue()


def as_latex(table: Table, facts: str) -> str:
    """A `table` of package booktabs with its facts as caption; intervals stand small behind their numbers."""
    kinds = "".join(
        "r" if any(isinstance(row[k], Mapping) for row in table.rows) else "l" for k in range(len(table.head))
    )
    lines = [" & ".join(latex(title) for title in table.head)]
    lines += [" & ".join(_latex_cell(cell) for cell in row) for row in table.rows]
    body = " \\\\\n".join([f"{lines[0]} \\\\ \\midrule\n{lines[1]}", *lines[2:]])
    return (
        f"% needs \\usepackage{{booktabs}}\n\\begin{{table}}\n\\centering\n\\caption{{{latex(table.title)}. {latex(facts)}}}\n"
        f"\\begin{{tabular}}{{{kinds}}}\n\\toprule\n{body} \\\\\n\\bottomrule\n\\end{{tabular}}\n\\end{{table}}\n"
    )


def _latex_cell(cell: Cell) -> str:
    if not isinstance(cell, Mapping):
        return latex(str(cell))
    return latex(cell["text"]) + (f" {{\\scriptsize {latex(cell['note'])}}}" if cell["note"] else "")


SIGNS = {
    "\\": "\\textbackslash{}", "{": "\\{", "}": "\\}", "&": "\\&", "%": "\\%", "$": "\\$", "#": "\\#", "_": "\\_",
    "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "$<$", ">": "$>$", "−": "$-$", "↑": "$\\uparrow$",
    "↓": "$\\downarrow$", "–": "--", "±": "$\\pm$",
}  # fmt: skip
"""Signs that LaTeX takes for something else, or that its fonts lack."""


def latex(text: str) -> str:
    """Words as LaTeX shows them."""
    return "".join(SIGNS.get(sign, sign) for sign in text)
