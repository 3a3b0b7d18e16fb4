"""Rows into a file as they come: CSV, JSON Lines or Parquet. A file takes its name when it is whole."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from mien.errors import UsageError
from mien.files import name_of, writing
from mien.predict.formats import FORMATS, format_named
from mien.predict.results import PicturePrediction
from mien.predict.rows import Layout, arrow_schema, columns, rows_of

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula."""
HELD = 4096
"""Rows of a Parquet file that are written at once."""


class Writer:
    """A context that leaves a whole file behind. After Ctrl-C or an error its rows lie in NAME.part.csv, beside an older file."""

    def __init__(self, path: Path, layout: Layout, format: str = "mien") -> None:
        self.path, self.layout, self.format, self.count = path, layout, format_named(format), 0
        self.part = path.with_name(f"{path.stem}.part{path.suffix}")

    def __enter__(self) -> Writer:
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with writing(self.path):
                self.close()
                if kind is None:
                    os.replace(self.part, self.path)
        finally:
            if self.part.exists() and not self.count:
                self.part.unlink()
            elif self.part.exists():
                print(f"mien: the rows until then are in {name_of(self.part)}.", file=sys.stderr)

    def write(self, picture: PicturePrediction) -> None:
        """Add the rows of a picture."""
        for row in self.format.rows(picture):
            with writing(self.path):
                self.add(row)
            self.count += 1

    def open(self) -> None:
        """Begin the file."""
        self.file: IO[str] = open(self.part, "w", encoding="utf-8", newline="")  # noqa: SIM115

    def add(self, row: dict[str, Any]) -> None:
        """Write one row."""
        raise AssertionError

    def close(self) -> None:
        """Finish the file."""
        self.file.close()


class CsvWriter(Writer):
    """UTF-8, comma, a header; an unknown value is an empty cell, a float has six digits and three decimals at least."""

    def open(self) -> None:
        """Begin with the header."""
        super().open()
        self.table = csv.DictWriter(self.file, list(self.format.columns(self.layout)), restval="", lineterminator="\n")
        self.table.writeheader()

    def add(self, row: dict[str, Any]) -> None:
        """Write one row."""
        self.table.writerow(cells(row, self.table.fieldnames))


class JsonLinesWriter(Writer):
    """One JSON object a line; an unknown value is null, a float has six digits and three decimals at least."""

    def add(self, row: dict[str, Any]) -> None:
        """Write one row."""
        named = {name: _short(row.get(name)) for name in columns(self.layout)}
        self.file.write(json.dumps(named, ensure_ascii=False, allow_nan=False) + "\n")


class ParquetWriter(Writer):
    """A Parquet file with typed columns and the version of the schema in its metadata."""

    def open(self) -> None:
        """Begin the file."""
        import pyarrow.parquet as pq

        self.schema, self.rows = arrow_schema(self.layout), list[dict[str, Any]]()
        self.parquet = pq.ParquetWriter(self.part, self.schema)

    def add(self, row: dict[str, Any]) -> None:
        """Hold a row until there are enough."""
        self.rows.append(row)
        if len(self.rows) >= HELD:
            self.flush()

    def flush(self) -> None:
        """Write what is held."""
        import pyarrow as pa

        if self.rows:
            self.parquet.write_table(pa.Table.from_pylist(self.rows, schema=self.schema))
            self.rows = []

    def close(self) -> None:
        """Write the rest and the footer, without which a file cannot be read."""
        try:
            self.flush()
            self.parquet.close()
        except OSError:
            self.count = 0
            raise


WRITERS: dict[str, type[Writer]] = {".csv": CsvWriter, ".jsonl": JsonLinesWriter, ".parquet": ParquetWriter}
"""Ending of a file -> its writer."""


def open_writer(path: Path, layout: Layout, format: str = "mien") -> Writer:
    """Writer by the ending of the file; UsageError for another, and where tables of `format` are CSV only."""
    kind = WRITERS.get(path.suffix.lower())
    if kind is None:
        raise UsageError(f"--out {path}: give a file that ends in {', '.join(WRITERS)}.")
    if format in FORMATS and format != "mien" and kind is not CsvWriter:
        raise UsageError(f"--out {path}: tables of --format {format} are CSV; give a file that ends in .csv.")
    return kind(path, layout, format)


def check_out(path: Path | None, format: str = "mien") -> None:
    """UsageError for a file or format that no writer knows, before anything is computed."""
    format_named(format)
    if path is None and format != "mien":
        raise UsageError(f"--format {format} needs --out FILE.csv.")
    if path is not None:
        open_writer(path, Layout((), (), False), format)


def csv_text(pictures: Iterable[PicturePrediction], layout: Layout) -> str:
    """The rows of some pictures as the text of a CSV file."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(columns(layout)), restval="", lineterminator="\n")
    table.writeheader()
    for picture in pictures:
        for row in rows_of(picture):
            table.writerow(cells(row, table.fieldnames))
    return text.getvalue()


def cells(row: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """A row as the cells of a CSV file. No text is a formula to a spreadsheet: a path like `=x.jpg` becomes `./=x.jpg`."""
    found = {name: _cell(row[name]) for name in names if name in row}
    for name, value in found.items():
        if isinstance(value, str) and value.startswith(FORMULA):
            found[name] = f"./{value}" if name == "source" else f"'{value}"
    return found


def short_float(value: float) -> float:
    """A number at six digits, but no coarser than a thousandth: the seconds of a long video stay apart."""
    return float(f"{value:.6g}") if abs(value) < 1000 else round(value, 3)


def _short(value: Any) -> Any:
    """A float as in `short_float`; NaN and infinity are unknown."""
    if isinstance(value, float):
        return short_float(value) if math.isfinite(value) else None
    return value


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    short = _short(value)
    return "" if short is None else short
