"""Cells of a table that hold several things: action units ("1+2+12"), shares of all expressions, or 68 points. They are taken apart
into columns of their own, so that everything else reads one thing a cell.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mien.data.au_scale import UNKNOWN_WORDS
from mien.datasets.words import find_expression
from mien.faces.landmark_layouts import in_pairs, paired
from mien.faces.text_table import number
from mien.schema import ACTION_UNITS, LANDMARKS

Row = dict[str, Any]

UNIT_CELLS = re.compile(
    r"(active|present|detected|all|facs|coded)?(f?aus?|f?aucodes?|actionunits?|facs|facscodes?|facscoding|facslabels?|aulabels?|aulist)"
    r"(active|present|detected|codes?|list|labels?|combination)?"
)
"""Bare name of a column with the units of a face in one cell."""
UNIT = re.compile(r"(?:f?au|action unit)?\s*([lrtbu]?)0*(\d{1,2})([a-e]?)([lr]?)(\??)", re.IGNORECASE)
"""A unit in such a cell: 12, AU12, 12C, with a side (R12, 12L; U and B: upper and lower), and 12? where the coder was not sure."""
VALUES = re.compile(r"(?:f?au)?0*(\d{1,2})['\"]?\s*[:=]\s*(\d+(?:\.\d+)?|[a-e])\b")
"""A unit with its value in such a cell: AU6:2, 'AU12': 3.5, 4=d."""
NONE_ACTIVE = ("0", "none", "neutral", "[]", "()", "{}", "au0", "no")
"""What a cell says where nothing moves; an empty one says nothing."""
FEWEST, MOST = 3, 11
"""Numbers in a cell that may be shares of expressions."""


class Spread(NamedTuple):
    """How the cells of one column become columns."""

    column: str
    names: tuple[str, ...]
    read: Callable[[Any], Sequence[Any] | None]
    """Cell -> cells of the columns `names`; None for an empty or odd cell."""
    listed: bool = False
    """Whether cells list the units that are there, so that those which no cell names are unknown."""


def spread(row: Row, spreads: Sequence[Spread]) -> Row:
    """A row with the columns that its cells are taken apart into."""
    for one in spreads:
        cells = one.read(row.get(one.column))
        row = row | dict(zip(one.names, cells if cells is not None else [None] * len(one.names), strict=True))
    return row


def units_of(cell: Any) -> dict[str, str] | None:
    """Action unit -> its letter or number, "" without one, of a cell such as 1+2+12, "AU1 AU12", [1, 12], 4+5D, {AU6: 2}; None where a
    part is none.

    A unit of one side counts as the unit, "?" is one that the coder was not sure of; units without a place in Mien are passed over.
    """
    if isinstance(cell, list | tuple | np.ndarray):
        cell = " ".join(map(str, cell))
    text = re.sub(r"\baction unit\s+|\bau[\s_]+(?=\d)", "au", str(cell).strip().lower())
    if text in NONE_ACTIVE:
        return {}
    found: dict[str, str] = {}
    if pairs := VALUES.findall(text):
        rest = VALUES.sub("", text)
        if re.search(r"\w", rest):
            return None
        return {f"AU{unit}": value for unit, value in pairs if f"AU{unit}" in ACTION_UNITS}
    for part in filter(None, re.split(r"[\s+,;|/&\[\](){}'\"]+", text)):
        match = UNIT.fullmatch(re.sub(r"(?<=\d)\.0$", "", part))
        if match is None:
            return None
        name = f"AU{match[2]}"
        if name in ACTION_UNITS:
            found[name] = max(match[5] or match[3], found.get(name, ""))
    return found


def _is_empty(cell: Any) -> bool:
    if isinstance(cell, list | tuple | np.ndarray | dict):
        return False
    return cell is None or str(cell).strip().lower() in UNKNOWN_WORDS - {"none", "-"}


def unit_spread(column: str, cells: Sequence[Any]) -> Spread | None:
    """How to read a column whose cells list action units; None where they do not.

    Units that any cell names are known in all rows: there where listed, absent elsewhere. A unit without a letter among others with
    letters (A to E) is there with unknown strength, and kept as present.
    """
    known = [cell for cell in cells if not _is_empty(cell)]
    found = [units_of(cell) for cell in known]
    listed = [units for units in found if units]
    if not listed or 50 * (len(found) - sum(units is not None for units in found)) > len(found):
        return None
    names = tuple(name for name in ACTION_UNITS if any(name in units for units in listed))
    graded = any(units[name].strip("?") for units in listed for name in units)
    absent, present = "0", "5" if graded else "1"

    def read(cell: Any) -> list[str | None] | None:
        units = None if _is_empty(cell) else units_of(cell)
        if units is None:
            return None
        return [absent if name not in units else units[name] or present for name in names]

    return Spread(column, names, read, listed=True) if names else None


def unit_vectors(column: str, cells: Sequence[Any], order: Sequence[str]) -> Spread | None:
    """How to read a column whose cells hold a number for each unit, [0, 0, 1, ...]; None where they list units.

    Rows of one length with a 0 beside other numbers, or a number that occurs again, list no units. `order` names the units, else the
    column's name does ("AU1,AU2,AU4"), else the places are ``column[0]``, ... (`table_plan` asks which they are).
    """
    rows = [numbers_of(cell) for cell in cells if not _is_empty(cell)]
    found = [row for row in rows if row is not None]
    count = len(found[0]) if found else 0
    if count < FEWEST or len(found) < len(rows) or any(len(row) != count for row in found):
        return None
    if not any(len(set(row)) < count or 0 in row for row in found):
        return None
    own = [f"AU{int(n)}" for n in re.findall(r"au[ _.-]*0*(\d+)", column.lower())]
    names = next((tuple(each) for each in (order, own) if len(each) == count == len(set(each))), None)

    def read(cell: Any) -> list[float] | None:
        values = None if _is_empty(cell) else numbers_of(cell)
        return values if values is not None and len(values) == count else None

    return Spread(column, names or tuple(f"{column}[{k}]" for k in range(count)), read)


def numbers_of(cell: Any) -> list[float] | None:
    """The numbers of a cell: a list, nested or not, or text such as "[0.1, 0.2]", "0.1 0.2", "0.1;0.2"; None for anything else."""
    if isinstance(cell, list | tuple | np.ndarray):
        try:
            return [float(value) for value in np.asarray(cell, dtype=np.float64).ravel()]
        except (TypeError, ValueError):
            return None
    words = re.split(r"[\s,;|]+", re.sub(r"[\[\](){}]|array|np\.float\d+", " ", str(cell)).strip(" ,;|\t'\""))
    values = [number(word) for word in words]
    return None if None in values else [float(value) for value in values if value is not None]


VOTE_WORDS = re.compile(r"soft|prob|dist|vote|share|score|label|emotion|expression|annotat|counts?|ballot")
"""In names of columns whose whole numbers may be counts of votes."""


def are_shares(rows: Sequence[Sequence[float]], votes: float) -> bool:
    """Whether rows of numbers, none negative, are shares, with sums of 1 or of 100, or counts of votes: whole numbers whose sums (2
    and more) differ by at most the share `votes`.
    """
    known = np.array([row for row in rows if np.isfinite(row).all() and np.sum(row) > 0])
    if not len(known) or known.shape[1] < FEWEST or (known < 0).any():
        return False
    sums = known.sum(axis=1)
    counts = (known == np.rint(known)).all() and sums.min() >= 2 and np.ptp(sums) <= votes * sums.max()
    return bool((votes and counts) or np.abs(sums - 1).max() < 0.03 or np.abs(sums - 100).max() < 3)


def share_spread(column: str, cells: Sequence[Any]) -> Spread | None:
    """How to read a column whose cells hold a share for every expression, in columns ``column[0]``, ...; None where they do not."""
    found = [numbers_of(cell) for cell in cells if not _is_empty(cell)]
    rows = [row for row in found if row is not None]
    count = len(rows[0]) if rows else 0
    if len(rows) < len(found) or not FEWEST <= count <= MOST or any(len(row) != count for row in rows):
        return None
    if not are_shares(rows, 0.5 if VOTE_WORDS.search(column.lower()) else 0.0):
        return None

    def read(cell: Any) -> list[float] | None:
        values = None if _is_empty(cell) else numbers_of(cell)
        return values if values is not None and len(values) == count else None

    return Spread(column, tuple(f"{column}[{k}]" for k in range(count)), read)


def rater_spread(column: str, cells: Sequence[Any]) -> Spread | None:
    """How to read a column whose cells hold the labels of several annotators ("happy;happy;sad"); None where they do not."""

    def words_of(cell: Any) -> list[str]:
        if isinstance(cell, list | tuple | np.ndarray):
            return [str(word) for word in cell]
        return [word.strip(" '\"") for word in re.split(r"[,;|/]", str(cell).strip("[](){} ")) if word.strip(" '\"")]

    found = [words_of(cell) for cell in cells if not _is_empty(cell)]
    known = [words for words in found if len(words) > 1 and all(find_expression(word) for word in words)]
    if not known or len(known) < 0.9 * len(found):
        return None
    count = max(map(len, known))
    names = tuple(f"rater{k}" for k in range(1, count + 1))
    return Spread(column, names, lambda cell: [*words_of(cell)[:count], *[None] * (count - len(words_of(cell)))])


def point_spread(column: str, cells: Sequence[Any]) -> Spread | None:
    """How to read a column whose cells hold 68 points, x and y in turn or all x first; None where they hold none."""
    rows = [numbers_of(cell) for cell in cells if not _is_empty(cell)]
    found = [row for row in rows if row is not None and len(row) == 2 * LANDMARKS]
    if not found or len(found) < len(rows):
        return None
    pairs = in_pairs(np.array(found))
    names = tuple(f"{axis}{k}" for axis in "xy" for k in range(LANDMARKS))

    def read(cell: Any) -> list[float] | None:
        values = None if _is_empty(cell) else numbers_of(cell)
        if values is None or len(values) != 2 * LANDMARKS:
            return None
        return [float(value) for value in paired(np.array(values), pairs).T.ravel()]

    return Spread(column, names, read)


def _odd_units(cells: Sequence[Any]) -> str:
    """What keeps a column of units in one cell from being read."""
    odd = [str(cell)[:40] for cell in cells if not _is_empty(cell) and units_of(cell) is None]
    return (
        f"'{odd[0]}' lists no units such as 1+2+12, and so do {len(odd)} of {len(cells)} cells"
        if odd
        else "no unit is in it"
    )


def spreads_of(columns: Mapping[str, Sequence[Any]], units: bool, points: bool, order: Sequence[str]) -> list[Spread]:
    """How to read those columns of a table (name -> first cells) whose cells hold several things; `units` and `points` say whether
    such are still to be found, `order` names the units of a vector.
    """
    found: list[Spread] = []
    for name, cells in columns.items():
        bare = re.sub(r"[\W_]+", "", name).lower()
        named = UNIT_CELLS.fullmatch(bare) or (
            bare.isdigit() and sum("+" in str(cell) for cell in cells) > len(cells) / 2
        )
        named = named or len(re.findall(r"au[ _.-]*\d", name.lower())) >= FEWEST
        one = (unit_vectors(name, cells, order) or unit_spread(name, cells)) if units and named else None
        if named and units and one is None:
            print(f"column '{name}' is not read as action units: {_odd_units(cells)}.", file=sys.stderr)
        if one is None:
            one = rater_spread(name, cells)
        if one is None and any(isinstance(cell, list) or len(str(cell)) > 4 for cell in cells):
            one = share_spread(name, cells) or (point_spread(name, cells) if points else None)
        if one is not None:
            units, points = units and not one.names[0].startswith("AU"), points and one.names[0] != "x0"
            found.append(one)
    return found
