"""Where the tables of a dataset lie, and their rows: text, JSON lines and Parquet, in one or several files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from mien.datasets import json_tables
from mien.datasets.frame_tables import frames_of, kept_names, with_pictures
from mien.datasets.paired_lists import find_pairs, label_column, paired_rows, partner_of, refuse_several_folds
from mien.datasets.spread import Row, Spread, spread
from mien.datasets.words import find_split, split_of_name
from mien.errors import DataError, UsageError
from mien.faces.text_table import is_picture_name, open_table, text_encoding
from mien.files import walk

TEXT, LISTS, LINES, ARROW = (".csv", ".tsv"), (".txt", ".lst", ".list"), (".jsonl", ".json"), (".parquet", ".arrow")
OTHERS = (
    ".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".xls", ".xlsx", ".ods", ".npz", ".npy", ".h5", ".hdf5", ".mat",
    ".pkl", ".pt", ".pth", ".tfrecord", ".sqlite", ".db", ".feather", ".rds", ".sav",
)  # fmt: skip
"""Files that are no tables."""
MOST_LISTS = 50
"""More text files than this are labels of single pictures."""
MOST_TABLES = 2000
"""More tables than this are no tables of videos."""
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
    spreads: tuple[Spread, ...] = ()
    """Columns whose cells are taken apart into further ones."""
    file_names: tuple[str, ...] = ()
    """Of the file's own columns in their order, where `names` are others."""
    beside: Path | None = None
    """The file with the labels, where this one has only the paths of the pictures."""

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[tuple[int, Row | str]]:
        """(number from 1, column -> cell) of every row, of some columns only if so asked; text where a row has too many cells."""
        asked = None if columns is None else {*columns}
        wanted = [one for one in self.spreads if asked is None or asked & {*one.names}]
        base = None if columns is None else [*columns, *(one.column for one in wanted)]
        for n, row in self._rows(base):
            yield n, spread(row, wanted) if wanted and isinstance(row, dict) else row

    def _rows(self, columns: Sequence[str] | None) -> Iterator[tuple[int, Row | str]]:
        if self.beside is not None:
            yield from enumerate(paired_rows(self.path, self.beside, self.file_names or self.names), 1)
        elif self.path.suffix.lower() in ARROW:
            yield from _arrow_rows(self, columns)
        elif self.path.suffix.lower() in LINES:
            yield from ((n, row) for n, row in enumerate(_json_rows(self.path), 1))
        else:
            table = open_table(self.path, self.header)
            for n, (_, cells) in enumerate(table.body(), 1):
                names = self.file_names or self.names
                if any(cells[len(names) :]):
                    yield n, f"{len(cells)} cells, but {len(names)} columns"
                else:
                    yield n, dict(zip(names, cells, strict=False))


def find_tables(root: Path, pictures: Path | None = None) -> list[Table]:
    """The file `root`, or the table in a folder: one file, or one for each split (``train.csv`` and ``test.csv``,
    ``train-00000-of-00002.parquet``, ``train/metadata.jsonl``), or numbered parts; or pairs of lists (`paired_lists`). Frames of
    videos lie in `pictures`, or in `root`.

    Raises:
        DataError: there is no such file. UsageError: no table, or several that are none of these, with what to give.

    """
    if root.is_file():
        if (labels := partner_of(root)) is not None:
            return [_paired(root, labels)]
        table = read_table(root, split_of_name(root.stem))
        return _of_videos([table], pictures or root.parent) or [table]
    if not root.exists():
        raise DataError(f"table '{root}' does not exist.")
    files = [path for path in walk(root) if path.suffix.lower() in (*TEXT, *ARROW, ".jsonl")]
    lists: list[Path] = []
    if not files:
        lists = [path for path in walk(root) if path.suffix.lower() in (*LISTS, ".json")]
        files = [path for path in lists if _lists_pictures(path)] if len(lists) <= MOST_LISTS else []
    if len(files) == 1:
        table = read_table(files[0], split_of_name(files[0].stem) or _split_of_folder(files[0], root))
        return _of_videos([table], pictures or root) or [table]
    if not files and (pairs := find_pairs(lists)):
        refuse_several_folds([path for path, _ in pairs], root)
        return _of_one_kind([_paired(*pair) for pair in pairs], root)
    if not files:
        raise UsageError(
            f"'{root}' holds 0 tables (.csv, .tsv, .parquet, .jsonl, lists of pictures): name the one to read."
            f"{_texts(root)}{unread(root)}"
        )
    splits = {path: split_of_name(path.stem) or _split_of_folder(path, root) for path in files}
    refuse_several_folds(files, root)
    families = {_family(path) for path in files}
    tables = [read_table(path, splits[path]) for path in files] if len(files) <= MOST_TABLES else []
    if found := _of_videos(tables, pictures or root):
        return found
    if len(families) == 1 and (all(splits.values()) or not any(splits.values())):
        return tables or [read_table(path, splits[path]) for path in files]
    shown = ", ".join(f"--root '{path}'" for path in files[:4])
    raise UsageError(f"'{root}' holds {len(files)} tables: name the one to read, e.g. {shown}.")


def _of_videos(tables: list[Table], root: Path) -> list[Table]:
    """Tables of videos with the pictures of their frames (`frame_tables`); none where they are others."""
    frames = frames_of([(table.path, table.names) for table in tables if table.header], root)
    if frames is None or len(frames) != len(tables):
        return []
    return [
        table._replace(
            names=(*(name for name in kept_names(found, table.names) if name != found.column), "image", "subject"),
            file_names=table.names, spreads=(with_pictures(found, table.path.stem),),
        )
        for table, found in zip(tables, frames, strict=True)
    ]  # fmt: skip


def _paired(path: Path, labels: Path) -> Table:
    return Table(path, split_of_name(path.stem), ("image", label_column(labels)), beside=labels)


def _of_one_kind(tables: list[Table], root: Path) -> list[Table]:
    """The tables where they are parts of one; UsageError for others, which may have faces in common."""
    if len({_family(table.path) for table in tables}) == 1 and len({table.split is None for table in tables}) == 1:
        return tables
    shown = ", ".join(f"--root '{table.path}'" for table in tables[:4])
    raise UsageError(f"'{root}' holds {len(tables)} lists: name the one to read, e.g. {shown}.")


def _texts(root: Path) -> str:
    """A sentence on text files that do not look like lists of pictures and labels; empty without."""
    files = [path for path in walk(root) if path.suffix.lower() in LISTS][:3]
    names = ", ".join(f"'{path.relative_to(root).as_posix()}'" for path in files)
    return f" Not taken: {names}; a list has a picture's path and its label a line, as a.jpg,happy." if files else ""


def unread(root: Path) -> str:
    """A sentence on what lies in a folder, or at a path, that is read by nobody; empty without."""
    files = [root] if root.is_file() else [path for path in walk(root) if path.suffix.lower() in OTHERS][:1]
    if not files or files[0].suffix.lower() not in OTHERS:
        return ""
    kind = OTHERS.index(files[0].suffix.lower())
    cure = (
        "unpack it and give the folder"
        if kind < OTHERS.index(".xls")
        else "save it as CSV"
        if kind < OTHERS.index(".npz")
        else ("write a table (CSV) of pictures' names and labels, and pictures that are in it as files")
    )
    return f" '{files[0].name}' is not read: {cure}."


def _split_of_folder(path: Path, root: Path) -> str | None:
    parts = path.relative_to(root).parts[:-1]
    return next((split for part in reversed(parts) if (split := find_split(part)) is not None), None)


def _family(path: Path) -> str:
    """What stays of a file's name without splits and numbers."""
    words = [word for word in re.split(r"[\W_\d]+", path.stem.lower()) if word and find_split(word) is None]
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
    if suffix in OTHERS:
        raise DataError(f"no table:{unread(path)}")
    if suffix in ARROW:
        return _arrow_table(path, split)
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


def _batches(path: Path, columns: Sequence[str] | None = None) -> tuple[Any, Iterator[Any]]:
    """Schema and record batches of Parquet, or of Arrow as Hugging Face's `save_to_disk` writes it; DataError where it is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.suffix.lower() == ".parquet":
            file = pq.ParquetFile(path)
            return file.schema_arrow, file.iter_batches(batch_size=BATCH, columns=columns)
        source = pa.memory_map(str(path))
        try:
            stream = pa.ipc.open_stream(source)
            return stream.schema, iter(stream)
        except pa.ArrowInvalid:
            whole = pa.ipc.open_file(pa.memory_map(str(path)))
            return whole.schema, (whole.get_batch(k) for k in range(whole.num_record_batches))
    except (pa.ArrowInvalid, OSError) as error:
        kind = "Parquet" if path.suffix.lower() == ".parquet" else "Arrow"
        raise DataError(f"'{path}' is not a readable {kind} file ({error}).") from error


def _arrow_table(path: Path, split: str | None) -> Table:
    schema, _ = _batches(path)
    known = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        features = json.loads(known).get("info", {}).get("features", {})
    except (ValueError, AttributeError):
        features = {}
    kinds = {name: value.get("names") for name, value in features.items() if isinstance(value, dict)}
    classes = {name: tuple(map(str, words)) for name, words in kinds.items() if isinstance(words, list)}
    return Table(path, split, tuple(schema.names), classes=classes)


def _arrow_rows(table: Table, columns: Sequence[str] | None) -> Iterator[tuple[int, Row]]:
    schema, batches = _batches(table.path)
    wanted = [name for name in schema.names if columns is None or name in columns]
    if table.path.suffix.lower() == ".parquet":
        batches = _batches(table.path, wanted)[1]
    number = 0
    for batch in batches:
        for part in (batch.slice(k, BATCH) for k in range(0, batch.num_rows, BATCH)):
            for row in part.select(wanted).to_pylist():
                number += 1
                yield number, row
