"""Action units in a CSV with names: `id,AU1,AU2,...`; labels of a dataset, or predictions beside a store."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mien.data.au_scale import unit_of
from mien.errors import DataError, UsageError, unknown_name
from mien.faces.text_table import open_table
from mien.files import write_atomic
from mien.schema import ACTION_UNITS, FloatArray


class UnitTable(NamedTuple):
    """Intensities of some action units of some faces."""

    ids: tuple[str, ...]
    units: tuple[str, ...]
    """Names out of schema.ACTION_UNITS."""
    values: FloatArray
    """(N, len(units)); NaN unknown."""


def unit_name(word: str) -> str:
    """Name of schema.ACTION_UNITS that a word stands for: AU12, au12, AU06, AU12_r, 12; UsageError for any other."""
    text = word.strip()
    found = unit_of(f"AU{text}" if text.isdigit() else text)
    if found is None:
        raise unknown_name("action unit", text, ACTION_UNITS)
    return found[0]


def read_unit_table(path: Path) -> UnitTable:
    """Read `id,AU1,AU2,...`; empty cells are unknown.

    DataError for a missing file, a header without ids or with an unknown or repeated unit, a row with another number of
    cells, a value that is no number from 0 to 5, or an id that occurs twice, naming file and line.
    """
    units, rows = read_unit_cells(path)
    values = np.full((len(rows), len(units)), np.nan, dtype=np.float32)
    for k, (name, row) in enumerate(rows.items()):
        values[k] = [_number(cell, f"'{path}', '{name}'") for cell in row]
    return UnitTable(tuple(rows), units, values)


def read_unit_cells(path: Path) -> tuple[tuple[str, ...], dict[str, list[str]]]:
    """Units and cells by id of `id,AU1,AU2,...`, not read as numbers yet; DataError as `read_unit_table`."""
    if not path.is_file():
        raise DataError(f"action-unit file '{path}' does not exist.")
    table = open_table(path, header=True)
    header = table.header or ()
    if header[0].lower() != "id" or len(header) < 2:
        raise DataError(f"'{path}' needs the header id,AU1,AU2,... and a row a face.")
    try:
        units = tuple(unit_name(word) for word in header[1:])
    except UsageError as error:
        raise DataError(f"'{path}', line 1: {error}") from error
    if len(set(units)) < len(units):
        raise DataError(f"'{path}', line 1: an action unit is named twice.")
    rows: dict[str, list[str]] = {}
    for line, row in table.body():
        if len(row) != len(header):
            raise DataError(f"'{path}', line {line}: {len(row)} cells, but the header has {len(header)}.")
        if row[0] in rows:
            raise DataError(f"'{path}': the id '{row[0]}' occurs twice.")
        rows[row[0]] = row[1:]
    return units, rows


def _number(cell: str, place: str) -> float:
    if not cell.strip():
        return math.nan
    try:
        value = float(cell)
    except ValueError:
        raise DataError(f"{place}: '{cell}' is not a number; an intensity from 0 to 5, or nothing.") from None
    if not 0 <= value <= 5:
        raise DataError(f"{place}: {cell.strip()} is outside 0 to 5.")
    return value


def write_unit_table(path: Path, ids: Sequence[str], units: Sequence[str], values: FloatArray) -> None:
    """Write (N, len(units)) intensities 0-5 with their ids under a temporary name, then rename; NaN becomes an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", *units])
    for name, row in zip(ids, values, strict=True):
        writer.writerow([name, *("" if math.isnan(value) else f"{value:.4g}" for value in row)])
    write_atomic(path, text.getvalue())


def spread_units(units: Sequence[str], values: FloatArray) -> FloatArray:
    """(N, len(units)) values as (N, A) columns of schema.ACTION_UNITS; NaN where a unit is not among them."""
    wide = np.full((len(values), len(ACTION_UNITS)), np.nan, dtype=np.float32)
    wide[:, [ACTION_UNITS.index(name) for name in units]] = values
    return wide
