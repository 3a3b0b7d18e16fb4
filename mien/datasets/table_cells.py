"""What columns of a table hold where their names do not say it: pictures, labels, splits and shares told by their first cells."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from mien.data.au_folds import BP4D_UNITS, DISFA_PAPER_UNITS, DISFA_UNITS
from mien.datasets.columns import RATERS, UNIT_TARGETS, Columns, named_targets
from mien.datasets.spread import (
    UNIT_CELLS,
    VOTE_WORDS,
    Row,
    Spread,
    are_shares,
    numbers_of,
    spread,
    spreads_of,
    unit_spread,
)
from mien.datasets.table_boxes import target_of
from mien.datasets.tables import Table
from mien.datasets.words import NUMBERINGS, Labels, find_expression, label_key, splits_of
from mien.errors import UsageError
from mien.faces.text_table import is_picture_name, number

SAMPLE = 200
"""Rows of a table that are looked at."""
NEARLY = 0.9
"""Share of the cells that must be names of pictures, or words of expressions."""
CLASSES = range(6, 12)
"""Numbers in a row that may be shares of expressions without names."""
NUMBERED = re.compile(r"(.*?)[ _.\[(-]*(\d{1,2})[\])]?$")
FLAGS = {"train": ("train", "test"), "training": ("train", "test"), "test": ("test", "train"), "valid": ("valid", "train"),
         "val": ("valid", "train")}  # fmt: skip
"""is_train, is_test, ... -> split where it is true, and where not."""
POLARITY = {
    "positive": "Positive",
    "pos": "Positive",
    "negative": "Negative",
    "neg": "Negative",
    "neutral": "Neutral",
    "neu": "Neutral",
}
"""Words of three-way polarity -> class of polarity-3."""

Cells = Mapping[str, list[Any]]


def first_rows(table: Table) -> list[Row]:
    """The first rows of a table."""
    return [row for _, row in islice(table.rows(), SAMPLE) if isinstance(row, dict)]


def _cells(table: Table, rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Column -> cells of its first `rows` that are not empty."""
    some = [spread(row, table.spreads) for row in rows]
    return {name: [cell for row in some if not _empty(cell := row.get(name))] for name in table.names}


def _empty(cell: Any) -> bool:
    return cell is None or (isinstance(cell, str) and not cell.strip()) or (isinstance(cell, float) and cell != cell)


def taken_apart(
    tables: Sequence[Table], samples: Sequence[list[Row]], said: Mapping[str, str], order: Sequence[str]
) -> list[Table]:
    """Tables whose cells with several things are columns of their own (`spread`), the same ones in each table."""
    found: dict[str, Spread] = {}
    for table, rows in zip(tables, samples, strict=True):
        cells = {name: some for name, some in _cells(table, rows).items() if name not in said.values() and some}
        if not cells or (not table.header and len(cells) < 2):
            continue
        free = [name for name in table.names if name not in said.values()]
        known = named_targets(free, said) if table.header else dict(said)
        left = {name: some for name, some in cells.items() if target_of(re.sub(r"[\W_]+", "", name).lower()) is None}
        left = {name: some for name, some in left.items() if name != known.get("image")}
        units = not any(target in known for target in UNIT_TARGETS)
        for one in spreads_of(left, units=units, points="x0" not in known, order=order):
            found.setdefault(one.column, one)
    for column, one in found.items():
        if one.listed:  # every unit that any row names
            every = {_hashable(row.get(column)) for table in tables for _, row in table.rows() if isinstance(row, dict)}
            found[column] = unit_spread(column, list(every)) or one
    apart = [_with(table, [one for one in found.values() if one.column in table.names]) for table in tables]
    refuse_nameless(apart, order)
    return apart


def refuse_nameless(tables: Sequence[Table], order: Sequence[str]) -> None:
    """UsageError where cells hold a number for each of several units and nothing says which; it shows those of DISFA and BP4D."""
    for table in tables:
        for one in table.spreads:
            count = len(one.names)
            bare = re.sub(r"[\W_]+", "", one.column).lower()
            if one.names[0] != f"{one.column}[0]" or not UNIT_CELLS.fullmatch(bare):
                continue
            if order:
                raise UsageError(
                    f"--units names {len(order)} units, the cells of '{one.column}' of '{table.path}' have {count}."
                )
            raise UsageError(
                f"'{table.path}': the cells of '{one.column}' hold {count} numbers, one for a unit each; say which: "
                f"{unit_orders(count)}."
            )


def unit_orders(count: int) -> str:
    """The `--units` that may be meant by so many numbers."""
    fits = [f"--units {','.join(units)} ({name})" for name, units in ORDERS.items() if len(units) == count]
    return " or ".join(fits or [f"--units AU1,AU2,... ({count} of them)"])


ORDERS = {"DISFA": DISFA_UNITS, "BP4D": BP4D_UNITS, "the papers' eight of DISFA": DISFA_PAPER_UNITS}
"""Orders of units in which published tables have them."""


def _hashable(cell: Any) -> Any:
    return tuple(cell) if isinstance(cell, list) else cell


def _with(table: Table, spreads: Sequence[Spread]) -> Table:
    if not spreads:
        return table
    taken = {one.column for one in spreads}
    names = [name for name in table.names if name not in taken] + [name for one in spreads for name in one.names]
    return table._replace(
        names=tuple(names), spreads=(*table.spreads, *spreads), file_names=table.file_names or table.names
    )


def guessed(table: Table, rows: Sequence[Row], said: Mapping[str, str]) -> tuple[Table, dict[str, str]]:
    """The table, perhaps with a column more, and target -> column for what is still missing: picture, expression, split.

    Of a table without header numbers may be labels, too; UsageError where several columns may be.
    """
    cells = {name: some for name, some in _cells(table, rows).items() if name not in said.values() and some}
    known = named_targets(list(table.names), said) if table.header else dict(said)
    apart = {name for one in table.spreads for name in one.names}
    free = {name: some for name, some in cells.items() if name not in known.values() and name not in apart}
    found: dict[str, str] = {}
    if "image" not in known:
        column = next((name for name, some in free.items() if _share(some, _is_picture) >= NEARLY), None)
        if column is None and not table.header:
            column = next(
                (name for name, some in free.items() if all("/" in str(cell) for cell in some)), table.names[0]
            )
        if column is not None and column not in said.values():
            found["image"] = column
    free = {name: some for name, some in free.items() if name not in found.values()}
    if "split" not in known:
        table, column = _split_column(table, free)
        found |= {"split": column} if column is not None else {}
    free = {name: some for name, some in free.items() if name not in found.values()}
    if not table.header and not {"left", "box_xyxy", "box_xywh"} & {*known}:
        found |= _box_of_list(table, free, {**known, **found})
        free = {name: some for name, some in free.items() if name not in found.values()}
    if "expression" not in {**known, **found}:
        words = [
            name
            for name, some in free.items()
            if _share(some, lambda cell: find_expression(str(cell)) is not None) >= NEARLY
        ]
        if len(words) == 1:
            found["expression"] = words[0]
        elif not words and not table.header:
            found |= _label_of_list(table, free, {**known, **found})
    column = _polarity_column({**known, **found}, cells, said)
    if column is not None:
        found = {target: name for target, name in found.items() if name != column} | {"attr.polarity": "polarity"}
        read = lambda cell: [POLARITY.get(str(cell).strip().lower())]  # noqa: E731
        table = _with(table, [Spread(column, ("polarity",), read)])
    return table, found


def _share(cells: Sequence[Any], fits: Callable[[Any], bool]) -> float:
    return sum(map(fits, cells)) / len(cells)


def _is_picture(cell: Any) -> bool:
    if isinstance(cell, dict):
        return bool({"bytes", "path"} & set(cell))
    return isinstance(cell, bytes) or (isinstance(cell, str) and is_picture_name(cell.strip().strip("'\"")))


def _split_column(table: Table, free: Cells) -> tuple[Table, str | None]:
    """A column whose cells are words of splits, or one such as is_train, which becomes a column of splits."""
    for name, cells in free.items():
        words = {str(cell).strip() for cell in cells}
        if not any(map(str.isdigit, words)) and set(splits_of(words)) == words:
            return table, name
        flag = re.fullmatch(r"is_?([a-z]+)", name.strip().lower())
        if flag and flag[1] in FLAGS and {word.lower() for word in words} <= {"true", "false", "0", "1", "yes", "no"}:
            yes, no = FLAGS[flag[1]]
            read = lambda cell, yes=yes, no=no: [yes if str(cell).strip().lower() in ("true", "1", "yes") else no]  # noqa: E731
            return _with(table, [Spread(name, (f"split of {name}",), read)]), f"split of {name}"
    return table, None


def _label_of_list(table: Table, free: Cells, known: Mapping[str, str]) -> dict[str, str]:
    """The column with numbers of classes of a table without header; UsageError where there are several."""
    digits = [
        name for name, cells in free.items() if all(label_key(str(cell)).isdigit() for cell in cells) and _few(cells)
    ]
    varied = [name for name in digits if len(set(map(str, free[name]))) > 1] or digits
    if len(varied) > 1:
        shown = ",".join(f"{target}={column}" for target, column in known.items() if target != "expression")
        units = f", or {shown},AU1={varied[0]},AU2={varied[1]}" if len(varied) > 3 else ""
        raise UsageError(
            f"'{table.path}' has no header, and each of its columns {', '.join(varied[:12])} may be the label: name them by their "
            f"numbers, e.g. --columns {shown},expression={varied[-1]}{units}."
        )
    return {"expression": varied[0]} if varied else {}


EXPW = {"left": "4", "top": "3", "right": "5", "bottom": "6", "expression": "8"}
"""Columns of ExpW's label.lst: picture, number of the face, top, left, right, bottom, confidence, label."""


def is_expw(table: Table) -> bool:
    """Whether a table is the list of ExpW."""
    return not table.header and table.path.name.lower() == "label.lst" and len(table.names) == 8


def _box_of_list(table: Table, free: Cells, known: Mapping[str, str]) -> dict[str, str]:
    """left, top, right, bottom -> the four columns in a row that hold a face's box, of a table without header; empty without such.

    Numbers of pixels, the third above the first and the fourth above the second, or sides; a label before or behind is left out.
    """
    if is_expw(table):
        return {target: column for target, column in EXPW.items() if target not in known}
    numbers = {name: [number(str(cell)) for cell in cells] for name, cells in free.items() if name.isdigit()}
    run = sorted((name for name, cells in numbers.items() if None not in cells), key=int)
    if len(run) == 5:
        labels = [name for name in (run[-1], run[0]) if _few(free[name])]
        run = [name for name in run if name != labels[0]] if labels else []
    if len(run) != 4 or int(run[3]) - int(run[0]) != 3 or len({len(numbers[name]) for name in run}) != 1:
        return {}
    rows = np.array([numbers[name] for name in run], dtype=np.float64).T
    sized = (rows >= -50).all() and rows.max(axis=1).min() > 5 and (rows[:, 2:] > 0).all()
    return dict(zip(("left", "top", "right", "bottom"), run, strict=True)) if sized else {}


def _few(cells: Sequence[Any]) -> bool:
    """Whether cells repeat as labels do: at most eleven, and not each of them once unless there are few rows."""
    words = set(map(str, cells))
    return len(words) <= 11 and (len(words) < len(cells) or len(cells) <= 3)


def _polarity_column(known: Mapping[str, str], cells: Cells, said: Mapping[str, str]) -> str | None:
    """A column whose labels are positive, negative or neutral."""
    names = [known.get("expression", ""), *(name for name in cells if name not in known.values())]
    for name in (name for name in names if name in cells and name not in said.values()):
        words = {str(cell).strip().lower() for cell in cells[name]}
        if words - {"neutral", "neu"} and words <= set(POLARITY):
            return name
    return None


def numbered_shares(table: Table, rows: Sequence[Row], said: Mapping[str, str]) -> list[str]:
    """Columns of shares or votes without names of expressions, in order: prob_0 ..., 0 ... 6, or those of a list without header.

    Numbers of action units leave 3 and 8 out, so columns without a gap are none.
    """
    cells = {name: some for name, some in _cells(table, rows).items() if name not in said.values()}
    groups: dict[str, list[tuple[int, str]]] = {}
    for name in cells:
        if found := NUMBERED.fullmatch(name.strip()):
            groups.setdefault(found[1], []).append((int(found[2]), name))
    for stem, group in groups.items():
        many = RATERS.match(f"{stem}1".strip().lower()) is not None  # a label each, not counts of votes
        votes = 0.0 if many or (stem and not VOTE_WORDS.search(stem.lower())) else 0.5 if table.header else 0.1
        names = [name for _, name in sorted(group)]
        numbers = sorted(number for number, _ in group)
        if not table.header:  # the longest run of numbers
            names = [
                name
                for name in names
                if name.isdigit() and cells[name] and all(len(numbers_of(cell) or ()) == 1 for cell in cells[name])
            ]
            numbers = list(map(int, names))
        if len(names) not in CLASSES or numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            continue
        if table.header and numbers[0] > 1:
            continue
        columns = [[(numbers_of(cell) or [float("nan")])[0] for cell in cells[name]] for name in names]
        if (
            len({len(column) for column in columns}) == 1
            and columns[0]
            and are_shares(list(zip(*columns, strict=True)), votes)
        ):
            return names
    return []


def named_shares(columns: Sequence[str], labels: Labels, meaning: Columns, table: Table) -> dict[str, str]:
    """Expression -> column, by the numbers of `labels`: those of the columns' names in a header, else in their order.

    Empty where another column says the expression in words and there are no `labels`; else UsageError with what to add.
    """
    numbers = sorted(int(key) for key in labels if key.isdigit())
    own = [found[2] if (found := NUMBERED.fullmatch(name)) else "" for name in columns]
    keys = own if table.header and all(key in labels for key in own) else list(map(str, numbers))
    if labels and len(keys) == len(columns):
        return {name: column for key, column in zip(keys, columns, strict=True) if (name := labels[key])}
    if not labels and "expression" in meaning.targets:
        return {}
    fits = [
        f"--labels {name} ({', '.join(table.values())})"
        for name, table in NUMBERINGS.items()
        if len(table) == len(columns)
    ]
    some = f"'{columns[0]}' to '{columns[-1]}'"
    raise UsageError(
        f"'{table.path}': the {len(columns)} columns {some} hold shares of expressions; say which, in this order: "
        f"{' or '.join([*fits, '--labels ' + ','.join(f'{k}=...' for k in range(len(columns)))])}."
    )


def few_shares(table: Table, rows: Sequence[Row], left: Sequence[str]) -> dict[str, str]:
    """Expression -> column of two or three columns named after expressions whose cells add up to 1 in each row."""
    cells = _cells(table, rows)
    found = {expression: name for name in left if (expression := find_expression(name)) is not None}
    some = [[numbers_of(cell) or [] for cell in cells.get(name, ())] for name in found.values()]
    if (
        len(found) < 2
        or len({len(column) for column in some}) != 1
        or any(len(cell) != 1 for each in some for cell in each)
    ):
        return {}
    columns = [[cell[0] for cell in column] for column in some]
    return found if all(abs(sum(row) - 1) < 0.03 and min(row) >= 0 for row in zip(*columns, strict=True)) else {}
