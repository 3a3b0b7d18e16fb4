"""Where the tables of a dataset lie, and their rows: text, JSON lines and Parquet, in one or several files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from mien.datasets import json_tables
from mien.datasets.words import SPLIT_NAMES
from mien.errors import DataError, UsageError
from mien.faces.text_table import is_picture_name, open_table, text_encoding
from mien.files import walk

Row = dict[str, Any]

TEXT, LISTS, LINES = (".csv", ".tsv"), (".txt", ".lst", ".list"), (".jsonl", ".json")
MOST_LISTS = 50
"""More text files than this are labels of single pictures."""
BATCH = 256


class Table(NamedTuple):
    """One file of a dataset's table, before its rows are read."""

    path: Path
    split: str | None
    """What the file's or folder's name says."""
    names: tuple[str, ...]
    """Of its columns; "1", "2", ... where it has no header."""
    header: bool = True
    classes: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    """Column -> names of the classes that its numbers stand for (ClassLabel of Hugging Face)."""

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[tuple[int, Row | str]]:
        """(number from 1, column -> cell) of every row, of some columns only if so asked; text where a row has too many cells."""
        if self.path.suffix.lower() == ".parquet":
            yield from _parquet_rows(self, columns)
        elif self.path.suffix.lower() in LINES:
            yield from ((n, row) for n, row in enumerate(_json_rows(self.path), 1))
        else:
            table = open_table(self.path, self.header)
            for n, (_, cells) in enumerate(table.body(), 1):
                extra = len(cells) - len(self.names)
                if extra > 0 and any(cells[len(self.names) :]):
                    yield n, f"{len(cells)} cells, but {len(self.names)} columns"
                else:
                    yield n, dict(zip(self.names, cells, strict=False))


def find_tables(root: Path) -> list[Table]:
    """The file `root`, or the table in a folder: one file, or one for each split (``train.csv`` and ``test.csv``,
    ``train-00000-of-00002.parquet``, ``train/metadata.jsonl``), or numbered parts.

    Raises:
        DataError: there is no such file. UsageError: no table, or several that are none of these, with what to give.

    """
    if root.is_file():
        return [read_table(root, split_of_name(root))]
    if not root.exists():
        raise DataError(f"table '{root}' does not exist.")
    files = [path for path in walk(root) if path.suffix.lower() in (*TEXT, ".parquet", ".jsonl")]
    if not files:
        lists = [path for path in walk(root) if path.suffix.lower() in (*LISTS, ".json")]
        files = [path for path in lists if _lists_pictures(path)] if len(lists) <= MOST_LISTS else []
    if len(files) == 1:
        return [read_table(files[0], split_of_name(files[0]) or _split_of_folder(files[0], root))]
    if not files:
        raise UsageError(
            f"'{root}' holds 0 tables (.csv, .tsv, .parquet, .jsonl, lists of pictures): name the one to read."
        )
    splits = {path: split_of_name(path) or _split_of_folder(path, root) for path in files}
    families = {_family(path) for path in files}
    if len(families) == 1 and (all(splits.values()) or not any(splits.values())):
        return [read_table(path, splits[path]) for path in files]
    shown = ", ".join(f"--root '{path}'" for path in files[:4])
    raise UsageError(f"'{root}' holds {len(files)} tables: name the one to read, e.g. {shown}.")


def split_of_name(path: Path) -> str | None:
    """Split that a word of a file's name says: test_labels.csv, train-00000-of-00002.parquet."""
    words = [SPLIT_NAMES.get(word) for word in re.split(r"[\W_\d]+", path.stem.lower())]
    return next(filter(None, words), None)


def _split_of_folder(path: Path, root: Path) -> str | None:
    parts = path.relative_to(root).parts[:-1]
    return next((SPLIT_NAMES[part.lower()] for part in reversed(parts) if part.lower() in SPLIT_NAMES), None)


def _family(path: Path) -> str:
    """What stays of a file's name without splits and numbers."""
    words = [word for word in re.split(r"[\W_\d]+", path.stem.lower()) if word and word not in SPLIT_NAMES]
    return " ".join([*words, path.suffix.lower()])


def _lists_pictures(path: Path) -> bool:
    if path.suffix.lower() == ".json":
        if path.stat().st_size >= 2**26:
            return False
        try:
            rows = json_tables.rows_of(json.loads(path.read_text("utf-8-sig")))
        except ValueError:
            return False
        cells = [cell for row in rows[:50] if isinstance(row, dict) for cell in row.values()]
        return any(isinstance(cell, str) and is_picture_name(cell) for cell in cells)
    try:
        table = open_table(path)
    except DataError:
        return False
    first = next(table.body(), (0, []))[1]
    return len(first) > 1 and any(map(is_picture_name, first))


def read_table(path: Path, split: str | None = None) -> Table:
    """Columns of a file; DataError for one that cannot be read."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _parquet_table(path, split)
    if suffix in LINES:
        names: dict[str, None] = {}
        for number, row in enumerate(_json_rows(path)):
            names |= dict.fromkeys(row) if isinstance(row, dict) else {}
            if number == BATCH:
                break
        return Table(path, split, tuple(names))
    table = open_table(path)
    if table.header is not None:
        return Table(path, split, _unlike(table.header))
    first = next(table.rows(), (0, []))[1]
    return Table(path, split, tuple(str(k) for k in range(1, len(first) + 1)), header=False)


def without_header(table: Table) -> Table:
    """The same file, its first row a face."""
    return table._replace(names=tuple(str(k) for k in range(1, len(table.names) + 1)), header=False)


def _unlike(names: Sequence[str]) -> tuple[str, ...]:
    """Names, numbered where one is empty or occurs again."""
    found: list[str] = []
    for k, name in enumerate(names, 1):
        word = name or f"column {k}"
        found.append(f"{word} #{k}" if word in found else word)
    return tuple(found)


def _json_rows(path: Path) -> Iterator[Row | str]:
    """Objects of a file (.json, `json_tables`) or of lines, blank ones left out; text where one is broken or no object.

    DataError where the file cannot be read, has no known shape, or not one of its first lines is an object.
    """
    lines = path.suffix.lower() != ".json"
    try:
        with open(path, encoding=text_encoding(path) if lines else "utf-8-sig", errors="replace") as file:
            content = None if lines else json_tables.rows_of(json.load(file))
            good = 0
            for number, entry in enumerate((line for line in file if line.strip()) if content is None else content):
                row = _json_row(entry) if lines else entry
                good += isinstance(row, dict)
                if number == BATCH and not good:
                    raise ValueError("no JSON objects")
                yield row if isinstance(row, dict | str) else "no JSON object"
            if not good:
                raise ValueError("no JSON objects")
    except (ValueError, OSError) as error:
        raise DataError(f"'{path}' is no readable file of JSON lines ({error}).") from error


def _json_row(line: str) -> Any:
    try:
        row = json.loads(line)
    except ValueError as error:
        return f"broken line of JSON ({error})"
    return json_tables.flat(row) if isinstance(row, dict) else row


def _parquet(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"'{path}' is not a readable Parquet file ({error}).") from error


def _parquet_table(path: Path, split: str | None) -> Table:
    schema = _parquet(path).schema_arrow
    known = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        features = json.loads(known).get("info", {}).get("features", {})
    except (ValueError, AttributeError):
        features = {}
    kinds = {name: value.get("names") for name, value in features.items() if isinstance(value, dict)}
    classes = {name: tuple(map(str, words)) for name, words in kinds.items() if isinstance(words, list)}
    return Table(path, split, tuple(schema.names), classes=classes)


def _parquet_rows(table: Table, columns: Sequence[str] | None) -> Iterator[tuple[int, Row]]:
    wanted = None if columns is None else [name for name in table.names if name in columns]
    number = 0
    for batch in _parquet(table.path).iter_batches(batch_size=BATCH, columns=wanted):
        for row in batch.to_pylist():
            number += 1
            yield number, row
