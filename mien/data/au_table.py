"""Action units in a CSV with names: `id,AU1,AU2,...`; labels of a dataset, or predictions beside a store."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mien.errors import DataError, UsageError, unknown_name
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
    """Name of schema.ACTION_UNITS that a word stands for: AU12, au12, AU06, 12; UsageError for any other."""
    number = word.strip().lower().removeprefix("au").lstrip("0")
    name = f"AU{number}"
    if name not in ACTION_UNITS:
        raise unknown_name("action unit", word.strip(), ACTION_UNITS)
    return name


def read_unit_table(path: Path) -> UnitTable:
    """Read `id,AU1,AU2,...`; empty cells are unknown.

    DataError for a missing file, a header without ids or with an unknown or repeated unit, a row with another number of
    cells, a value that is no number from 0 to 5, or an id that occurs twice, naming file and line.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file, skipinitialspace=True) if row]
    except FileNotFoundError as error:
        raise DataError(f"action-unit file '{path}' does not exist.") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"'{path}' is not a readable CSV file ({error}).") from error
    if not rows or rows[0][0].strip().lower() != "id" or len(rows[0]) < 2:
        raise DataError(f"'{path}' needs the header id,AU1,AU2,... and a row a face.")
    try:
        units = tuple(unit_name(word) for word in rows[0][1:])
    except UsageError as error:
        raise DataError(f"'{path}', line 1: {error}") from error
    if len(set(units)) < len(units):
        raise DataError(f"'{path}', line 1: an action unit is named twice.")
    values = np.full((len(rows) - 1, len(units)), np.nan, dtype=np.float32)
    ids = []
    for k, row in enumerate(rows[1:]):
        if len(row) != len(rows[0]):
            raise DataError(f"'{path}', line {k + 2}: {len(row)} cells, but the header has {len(rows[0])}.")
        ids.append(row[0])
        values[k] = [_number(cell, f"'{path}', line {k + 2}") for cell in row[1:]]
    if len(set(ids)) < len(ids):
        twice = next(name for k, name in enumerate(ids) if name in set(ids[:k]))
        raise DataError(f"'{path}': the id '{twice}' occurs twice.")
    return UnitTable(tuple(ids), units, values)


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
