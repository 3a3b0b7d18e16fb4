"""What the cells of a table mean, found out by one look through it before its first row becomes a face."""

from __future__ import annotations

import functools
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from mien.data import au_scale as scales
from mien.data.au_table import unit_name
from mien.datasets import table_boxes
from mien.datasets.cell_values import holds_picture, is_empty, is_unlabelled, label_word
from mien.datasets.columns import BOX_TARGETS, POINTS, Columns, resolve
from mien.datasets.picture_paths import Pictures, find_base
from mien.datasets.spread import Row
from mien.datasets.table_cells import (
    few_shares,
    first_rows,
    guessed,
    is_expw,
    named_shares,
    numbered_shares,
    taken_apart,
)
from mien.datasets.tables import Table, find_tables, without_header
from mien.datasets.words import find_expression, find_split, label_remedy, named, read_labels, splits_of
from mien.errors import PictureError, UsageError
from mien.faces.pictures import upright_size
from mien.schema import ACTION_UNITS

MOST_WORDS = 1000
"""Different labels that are remembered while a table is looked through."""
SIZED = 200
"""Rows whose pictures' sizes are read, where boxes are told by them."""
FIRST_ROWS = 5000
"""Rows whose pictures are looked for."""


class Plan(NamedTuple):
    """What a table's cells mean, found out before its first row is read."""

    tables: tuple[Table, ...]
    columns: tuple[Columns, ...]
    """Of each table."""
    labels: Mapping[str, str]
    splits: Mapping[str, str]
    """Word -> split."""
    scales: Mapping[str, scales.Scale]
    """Action unit -> scale."""
    pictures: tuple[Pictures | None, ...]
    """Of each table; None where its pictures are in it."""
    shares: tuple[bool, ...]
    """Of each table: whether its boxes are shares of the picture."""


def plan_of(
    root: Path, columns: str | None, labels: str | None, pictures: str | None, au_scale: str | None, units: str | None
) -> Plan:
    """The plan of a table, made once a file."""
    tables = find_tables(root, None if pictures is None else Path(pictures))
    changed = tuple(table.path.stat().st_mtime_ns for table in tables)
    return _plan(root, changed, columns, labels, pictures, au_scale, units)


class Found(NamedTuple):
    """What a first look through a table finds."""

    images: list[str]
    labels: Counter[str]
    splits: Counter[str]
    units: dict[str, Counter[float | str]]


@functools.lru_cache(maxsize=1)
def _plan(
    root: Path,
    _changed: tuple[int, ...],
    columns: str | None,
    labels: str | None,
    pictures: str | None,
    scale: str | None,
    units: str | None,
) -> Plan:
    words, asked = read_labels(labels), scales.read_scale(scale)
    order = tuple(unit_name(word) for word in (units or "").split(",") if word.strip())
    tables, meanings = _meanings(
        find_tables(root, None if pictures is None else Path(pictures)), _pairs(columns), words, order
    )
    looks = [_look(table, meaning) for table, meaning in zip(tables, meanings, strict=True)]
    meanings = [_without_foreign_split(*pair, columns) for pair in zip(meanings, looks, strict=True)]
    counts: dict[str, Counter[float | str]] = {}
    for look in looks:
        for unit, values in look.units.items():
            counts.setdefault(unit, Counter()).update(values)
    hints = scales.named_scales({k: v for k, v in meanings[0].targets.items() if k in counts}, counts)
    found = scales.decide(counts, hints | asked, f"'{tables[0].path}'") if counts else {}
    _check_labels(sum((look.labels for look in looks), Counter()), words, tables[0].path)
    given = None if pictures is None else Path(pictures)
    places = [
        find_base(look.images, table.path.parent, root, given, table.path) if look.images else None
        for look, table in zip(looks, tables, strict=True)
    ]
    splits = splits_of(word for look in looks for word in look.splits)
    said = any(pair.split("=")[0] in BOX_TARGETS for pair in _pairs(columns))
    boxes = [_boxes(*parts, said) for parts in zip(tables, meanings, places, strict=True)]
    meanings = [meaning for meaning, _ in boxes]
    _refuse_units_alone(tables[0], meanings[0])
    _tell(tables, meanings[0], found, counts, scale is not None, boxes[0][1])
    shares = tuple(of_picture for _, of_picture in boxes)
    return Plan(tuple(tables), tuple(meanings), words, splits, found, tuple(places), shares)


SIDES = ("left", "top", "right", "bottom")


def _numbered_box(table: Table, meaning: Columns, place: Pictures | None) -> Columns:
    """The meaning of a table without header whose four columns in a row are a box: corners or sides, by the pictures' sizes."""
    columns, image = [meaning.targets[side] for side in SIDES], meaning.targets["image"]
    rows = [row for _, row in islice(table.rows([*columns, image]), SIZED) if isinstance(row, dict)]
    cells = [(row.get(image), table_boxes.four([row.get(column) for column in columns])) for row in rows]
    known = [(picture, box) for picture, box in cells if box is not None]
    kind = table_boxes.order([box for _, box in known], [_size(picture, place) for picture, _ in known])
    if kind is None:
        shown = [
            f"--columns {','.join(f'{t}={c}' for t, c in zip(form, columns, strict=True))}" for form in (SIDES, SIZES)
        ]
        raise UsageError(
            f"'{table.path}': the columns {', '.join(columns)} may be corners or sides of a box: say which, {' or '.join(shown)}, "
            f"with image={image} and the label's column."
        )
    targets = {target: column for target, column in meaning.targets.items() if target not in SIDES}
    names = SIDES if kind == "box_xyxy" else SIZES
    return meaning._replace(targets=targets | dict(zip(names, columns, strict=True)))


SIZES = ("left", "top", "width", "height")


def _boxes(table: Table, meaning: Columns, place: Pictures | None, said: bool) -> tuple[Columns, bool]:
    """The meaning with a box in one cell as corners or sides, and whether boxes are shares of the picture; both by the first rows.

    UsageError where four numbers may be either.
    """
    columns = {target: meaning.targets[target] for target in (*BOX_TARGETS, "box") if target in meaning.targets}
    if not columns:
        return meaning, False
    if not (table.header or said) and {*SIDES} <= {*columns} and not is_expw(table):
        meaning = _numbered_box(table, meaning, place)
        columns = {target: column for target, column in meaning.targets.items() if target in BOX_TARGETS}
    image = meaning.targets["image"]
    rows = [row for _, row in islice(table.rows([*columns.values(), image]), FIRST_ROWS) if isinstance(row, dict)]
    cells = [(row.get(image), table_boxes.four(row.get(columns["box"]))) for row in rows] if "box" in columns else []
    known = [(picture, box) for picture, box in cells if box is not None]
    if known:
        sizes = [_size(picture, place) if k < SIZED else None for k, (picture, _) in enumerate(known)]
        kind = table_boxes.order([box for _, box in known], sizes)
        name = columns["box"]
        if kind is None:
            raise UsageError(
                f"'{table.path}': the four numbers of '{name}' may be corners or sides: say which, "
                f"--columns box_xyxy={name} or --columns box_xywh={name}."
            )
        meaning = meaning._replace(targets={kind if t == "box" else t: c for t, c in meaning.targets.items()})
    elif "box" in columns:  # a column of that name with something else in it
        targets = {target: column for target, column in meaning.targets.items() if target != "box"}
        meaning = meaning._replace(targets=targets, left=(*meaning.left, columns.pop("box")))
    values = [v for row in rows for c in columns.values() for v in table_boxes.numbers(row.get(c))]
    return meaning, table_boxes.are_shares(values)


def _size(image: Any, place: Pictures | None) -> tuple[int, int] | None:
    """Width and height of a row's picture; None for one that cannot be read, or that is pixels."""
    if isinstance(image, dict):
        image = image.get("bytes") or image.get("path")
    if isinstance(image, str):
        image = place.find(image) if place is not None else Path(image)
    try:
        return upright_size(image) if isinstance(image, bytes | Path) else None
    except (PictureError, OSError):
        return None


def _pairs(text: str | None) -> list[str]:
    return [pair.strip() for pair in (text or "").split(",") if pair.strip()]


def _meanings(
    tables: Sequence[Table], pairs: list[str], words: Mapping[str, str], order: Sequence[str]
) -> tuple[list[Table], list[Columns]]:
    """The tables, with cells of several things taken apart, and what their columns mean; `order` names the units of vectors."""
    said = {target: column for target, sign, column in (pair.partition("=") for pair in pairs) if sign}
    tables = [_first_row(table, pairs) for table in tables]
    samples = [first_rows(table) for table in tables]
    tables = taken_apart(tables, samples, said, order)
    found = [_meaning(table, rows, pairs, said, words) for table, rows in zip(tables, samples, strict=True)]
    return [table for table, _ in found], [meaning for _, meaning in found]


def _first_row(table: Table, pairs: list[str]) -> Table:
    """The table; a first row with a label in it is no header."""
    if table.header and not pairs and table.path.suffix.lower() not in (".parquet", ".arrow", ".jsonl", ".json"):
        words = [name for name in table.names if find_expression(name) or find_split(name)]
        if 0 < len(words) < 3:
            try:
                resolve(pairs, table.names, table.path)
            except UsageError:
                table = without_header(table)
    return table


def _meaning(
    table: Table, rows: list[Row], pairs: list[str], said: Mapping[str, str], words: Mapping[str, str]
) -> tuple[Table, Columns]:
    """The table and what its columns mean: what the user says, what their names say, and what their first cells hold."""
    shares = numbered_shares(table, rows, said)
    table = table._replace(file_names=table.file_names or table.names)
    bare, more = guessed(table._replace(names=tuple(name for name in table.names if name not in shares)), rows, said)
    meaning = resolve([*(f"{t}={c}" for t, c in more.items()), *pairs], bare.names, table.path, table.header)
    if shares:
        named = named_shares(shares, words, meaning, table)
        meaning = meaning._replace(shares=named, left=(*meaning.left, *(name for name in shares if not named)))
    elif not meaning.shares and (few := few_shares(bare, rows, meaning.left)):
        meaning = meaning._replace(shares=few, left=tuple(name for name in meaning.left if name not in few.values()))
    return bare._replace(names=(*bare.names, *shares)), meaning


def _look(table: Table, meaning: Columns) -> Found:
    """Labels, split words and known values of action units of all rows, and the pictures of the first."""
    units = {unit: column for unit, column in meaning.targets.items() if unit in ACTION_UNITS}
    wanted = {target: meaning.targets.get(target) for target in ("expression", "split")}
    image = meaning.targets["image"]
    found = Found([], Counter(), Counter(), {unit: Counter() for unit in units})
    names = [*filter(None, wanted.values()), *meaning.raters, *units.values()]
    found.images.extend(_first_images(table, image))
    for _, row in table.rows(names) if names else ():
        if isinstance(row, str):
            continue
        for column in (wanted["expression"], *meaning.raters):
            if column is not None and not is_empty(row.get(column)) and len(found.labels) < MOST_WORDS:
                found.labels[label_word(row[column], table.classes.get(column))] += 1
        if wanted["split"] is not None and not is_empty(row.get(wanted["split"])):
            found.splits[str(row[wanted["split"]]).strip().lower()] += 1
        for unit, column in units.items():
            scales.count_values([row.get(column)], found.units[unit])
    return found


def _first_images(table: Table, column: str) -> list[str]:
    """Paths in the first rows of a table; none where it holds the pictures themselves."""
    first = next((row for _, row in table.rows([column]) if isinstance(row, dict)), {})
    if not isinstance(first.get(column), str):
        return []
    rows = (row for _, row in islice(table.rows([column]), FIRST_ROWS) if isinstance(row, dict))
    cells = (row.get(column) for row in rows)
    return [cell for cell in cells if isinstance(cell, str) and cell.strip() and not holds_picture(cell)]


def _check_labels(found: Counter[str], words: Mapping[str, str], path: Path) -> None:
    """UsageError where no label of a table means an expression, or most do not: those that do may be words of another language."""
    found = Counter({word: count for word, count in found.items() if not is_unlabelled(word, words)})
    unknown = {word: count for word, count in found.items() if named(word, words) is None}
    if unknown and (len(unknown) == len(found) or 2 * sum(unknown.values()) > sum(found.values())):
        most = "no label is an expression" if len(unknown) == len(found) else "most labels are no expressions"
        raise UsageError(f"'{path}': {most} ({', '.join(sorted(unknown)[:12])}); {label_remedy(unknown)}.")


def _refuse_units_alone(table: Table, meaning: Columns) -> None:
    """UsageError where a table says nothing but action units, none of which is taken: coded apart for both sides, or by several."""
    known = {"expression", "attr.polarity", *ACTION_UNITS} & {*meaning.targets}
    if known or meaning.shares or meaning.raters or not meaning.units_left:
        return
    pairs: dict[str, str] = {}
    for name in meaning.units_left:
        if (found := re.search(r"\d+", name)) and f"AU{int(found[0])}" in ACTION_UNITS:
            pairs.setdefault(f"AU{int(found[0])}", name)
    if pairs:
        raise UsageError(
            f"'{table.path}': {len(meaning.units_left)} columns look like action units, and none is taken, because each has several "
            f"({', '.join(meaning.units_left[:4])}): name one each, --columns {','.join(f'{u}={c}' for u, c in pairs.items())}."
        )


def _without_foreign_split(meaning: Columns, look: Found, columns: str | None) -> Columns:
    """The meaning, less a column such as `set` that was taken for the split by its name and holds no word of a split."""
    name = meaning.targets.get("split", "")
    said = any(pair.startswith("split=") for pair in _pairs(columns))
    if not name or said or name.strip().lower() == "split" or splits_of(look.splits):
        return meaning
    shown = ", ".join(list(look.splits)[:4])
    print(
        f"column '{name}' holds no words of splits ({shown}): every face is train unless they are train, valid and test.",
        file=sys.stderr,
    )
    targets = {target: column for target, column in meaning.targets.items() if target != "split"}
    return meaning._replace(targets=targets, left=(*meaning.left, name))


def _tell(
    tables: list[Table],
    meaning: Columns,
    units: Mapping[str, scales.Scale],
    counts: dict[str, Counter[float | str]],
    asked: bool,
    shares: bool,
) -> None:
    """What was taken for what, and what was not taken, in a few lines on stderr."""
    lines = []
    plain = {t: c for t, c in meaning.targets.items() if t != c and t not in ACTION_UNITS and t not in POINTS}
    if plain or not tables[0].header:
        lines.append(
            f"columns of '{tables[0].path.name}': "
            + ", ".join(f"{t} = {c}" for t, c in meaning.targets.items() if t in plain)
        )
    if len(tables) > 1 or tables[0].split is not None:
        lines.append("tables: " + ", ".join(f"{table.path.name} is {table.split or 'train'}" for table in tables[:6]))
    if units:
        lines.append(scales.told(units, counts, asked))
    if any(one.listed for one in tables[0].spreads):
        lines.append(
            "action units in one cell: those that no cell names are unknown; an empty cell is unknown, 0 or none is not"
        )
    if shares:
        lines.append("boxes: numbers from 0 to 1, shares of the picture's width and height")
    if meaning.shares:
        columns = ", ".join(meaning.shares.values())
        lines.append(
            f"votes: the columns {columns}, in each row scaled to add up to 1; the expression is the first choice"
        )
    if meaning.raters:
        lines.append(f"votes: the annotators {', '.join(meaning.raters)}; the expression is what most of them chose")
    if (
        not meaning.shares
        and not meaning.raters
        and not units
        and not {"expression", "attr.polarity"} & {*meaning.targets}
    ):
        lines.append("no column says the expression, so no face has one: --columns expression=COLUMN names it")
    if meaning.units_left:
        lines.append(f"action units that are not taken: {', '.join(meaning.units_left)}")
    rest = [name for name in meaning.left if name not in meaning.units_left]
    if rest:
        shown = ", ".join(rest[:12]) + (f" and {len(rest) - 12} more" if len(rest) > 12 else "")
        lines.append(f"columns that are not taken: {shown} (--columns attr.NAME=COLUMN keeps one as a group or factor)")
    for line in lines:
        print(line, file=sys.stderr)
