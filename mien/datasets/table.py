"""Any dataset that comes as a table: a CSV or Parquet file with one face a row and columns of the user's naming."""

from __future__ import annotations

import csv
import difflib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mien.data.arrow import Skipped
from mien.datasets.folder import SPLIT_NAMES, find_expression, unknown_expression
from mien.errors import DataError, UsageError
from mien.schema import ACTION_UNITS, LANDMARKS, FloatArray, Record

PLAIN = ("image", "id", "expression", "subject", "split", "left", "top", "right", "bottom", "yaw", "pitch", "roll")
POINTS = tuple(f"{axis}{k}" for axis in "xy" for k in range(LANDMARKS))
TARGETS = (*PLAIN, *ACTION_UNITS, *POINTS)
"""What a column can mean; beside these, attr.NAME and the patterns landmarks_x=lmx_{} landmarks_y=lmy_{}."""

Row = dict[str, Any]


def records(root: Path, *, columns: str | None = None, labels: str | None = None) -> Iterator[Record | Skipped]:
    """Rows of a CSV (commas or semicolons) or Parquet file in order.

    `root` is the file, or a folder with exactly one .csv or .parquet file; relative picture paths start at its folder.
    `columns` are ``target=column`` pairs, e.g. ``image=path,expression=emotion,AU12=AU12_r,attr.skin=tone,
    landmarks_x=x_{},landmarks_y=y_{}``; a target whose own name is a column needs no pair. Targets: image (a path, or
    encoded bytes in Parquet), id, expression, subject, split, AU1 ... (0-5), x0 ... y67 (pixels of the picture), left
    top right bottom (face box, pixels), yaw pitch roll (degrees), attr.NAME. `labels` are ``value=expression`` pairs
    for tables with numbers or foreign words, e.g. ``0=Anger,1=Disgust``.

    A row that cannot be used is skipped with the reason; empty cells mean unknown. UsageError when a column is missing.
    """
    path = _find(Path(root))
    names, rows = _open(path)
    wanted = _resolve(_pairs(columns), names, path)
    words = _labels(_pairs(labels))
    seen: set[str] = set()
    for number, row in enumerate(rows, start=1):
        record = _record({target: row.get(column) for target, column in wanted.items()}, words, path.parent, number)
        if record.id in seen:  # several faces in one picture, say
            record = record._replace(id=f"{record.id}#{number}")
        seen.add(record.id)
        yield record


def _pairs(text: str | None) -> list[str]:
    return [pair.strip() for pair in (text or "").split(",") if pair.strip()]


def _find(root: Path) -> Path:
    if root.is_file():
        return root
    if not root.exists():
        raise DataError(f"table '{root}' does not exist.")
    found = sorted(path for path in root.iterdir() if path.suffix.lower() in (".csv", ".parquet"))
    if len(found) != 1:
        raise UsageError(f"'{root}' holds {len(found)} .csv and .parquet files: name the one to read.")
    return found[0]


def _open(path: Path) -> tuple[list[str], Iterator[Row]]:
    """Column names and a stream of rows; memory does not grow with the table."""
    if path.suffix.lower() == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.ParquetFile(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"'{path}' is not a readable Parquet file ({error}).") from error
        batches = table.iter_batches(batch_size=256)
        return list(table.schema_arrow.names), (row for batch in batches for row in batch.to_pylist())
    file = open(path, newline="", encoding="utf-8-sig", errors="replace")  # noqa: SIM115 (closed by the generator)
    header = file.readline()
    file.seek(0)
    semicolons = header.count(";") > header.count(",")
    reader = csv.DictReader(file, skipinitialspace=True, delimiter=";" if semicolons else ",")
    names = [name.strip() for name in reader.fieldnames or []]
    reader.fieldnames = names

    def rows() -> Iterator[Row]:
        with file:
            try:
                yield from reader
            except csv.Error as error:
                raise DataError(f"'{path}', line {reader.line_num}: {error}.") from error

    return names, rows()


def _resolve(columns: list[str], names: list[str], path: Path) -> dict[str, str]:
    """Target -> column name, explicit pairs over equal names."""
    if not names:
        raise DataError(f"table '{path}' is empty.")
    wanted = {target: target for target in TARGETS if target in names}
    for pair in columns:
        target, sign, column = pair.partition("=")
        if not sign or not column:
            raise UsageError(f"column pair '{pair}' is not target=column, e.g. image=path.")
        if target in ("landmarks_x", "landmarks_y") and "{}" in column:
            wanted.update({f"{target[-1]}{k}": column.replace("{}", str(k)) for k in range(LANDMARKS)})
        elif target in TARGETS or target.startswith("attr."):
            wanted[target] = column
        else:
            near = difflib.get_close_matches(target, (*TARGETS, "landmarks_x", "landmarks_y"), n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise UsageError(
                f"unknown column target '{target}'.{hint} Valid: {', '.join(PLAIN)}, AU1 ..., x0 ..., attr.NAME."
            )
    for target, column in wanted.items():
        if column not in names:
            near = difflib.get_close_matches(column, names, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise UsageError(f"'{path}' has no column '{column}' for {target}.{hint} Columns: {', '.join(names[:12])}.")
    if "image" not in wanted:
        raise UsageError(f"'{path}' has no column 'image': name the one with the pictures, e.g. --columns image=path.")
    missing = [point for point in POINTS if point not in wanted]
    if 0 < len(missing) < len(POINTS):
        raise UsageError(f"'{path}' has landmarks without '{missing[0]}': all of x0 ... x67 and y0 ... y67 are needed.")
    return wanted


def _labels(pairs: list[str]) -> dict[str, str]:
    words = {}
    for pair in pairs:
        value, sign, word = pair.partition("=")
        name = find_expression(word)
        if not sign or name is None:
            raise UsageError(f"label pair '{pair}': {unknown_expression(word)}; write value=expression, e.g. 0=Anger.")
        words[value] = name
    return words


class _BadCellError(Exception):
    """A cell that cannot be used; becomes the reason of a Skipped."""


def _record(cells: Row, words: dict[str, str], folder: Path, number: int) -> Record | Skipped:
    image = cells["image"]
    if isinstance(image, dict):  # Hugging Face keeps pictures as {"bytes", "path"}
        image = image.get("bytes") or image.get("path")
    name = str(cells.get("id") or (image if isinstance(image, str) else "") or f"row-{number}")
    try:
        if not image:
            raise _BadCellError("no picture")
        known = {key: value for key, value in cells.items() if not _empty(value)}
        return Record(
            id=name,
            image=image if isinstance(image, bytes) else folder / str(image),
            split=_split(known.get("split")),
            subject=str(known["subject"]).strip() if "subject" in known else None,
            expression=_expression(known.get("expression"), words),
            action_units=_vector(known, ACTION_UNITS, 0.0, 5.0),
            landmarks=_landmarks(known),
            box=_vector(known, ("left", "top", "right", "bottom")),
            pose=_vector(known, ("yaw", "pitch", "roll")),
            attributes={key[5:]: _attribute(value) for key, value in known.items() if key.startswith("attr.")},
        )
    except _BadCellError as error:
        return Skipped(name, f"row {number}: {error}")


def _empty(value: Any) -> bool:
    return (
        value is None
        or (isinstance(value, str) and not value.strip())
        or (isinstance(value, float) and math.isnan(value))
    )


def _split(value: Any) -> str:
    word = "train" if value is None else str(value).strip().lower()
    if word not in SPLIT_NAMES:
        raise _BadCellError(f"split '{value}' is none of train, valid, test")
    return SPLIT_NAMES[word]


def _expression(value: Any, words: dict[str, str]) -> str | None:
    if value is None:
        return None
    # Whole numbers in a column with gaps come as floats from Parquet.
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
    name = words.get(text) or find_expression(text)
    if name is None:
        hint = " (--labels 0=Anger,...)" if text.isdigit() else ""
        raise _BadCellError(f"expression {unknown_expression(text)}{hint}")
    return name


def _number(value: Any, target: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise _BadCellError(f"{target} '{value}' is no number") from None


def _vector(known: Row, targets: tuple[str, ...], low: float = -math.inf, high: float = math.inf) -> FloatArray | None:
    """Values of the targets, NaN where a cell is empty; None when all are."""
    if not any(target in known for target in targets):
        return None
    values = [_number(known[target], target) if target in known else math.nan for target in targets]
    for target, value in zip(targets, values, strict=True):
        if not math.isnan(value) and not low <= value <= high:
            raise _BadCellError(f"{target} {value:g} is outside {low:g}..{high:g}")
    return np.array(values, dtype=np.float32)


def _landmarks(known: Row) -> FloatArray | None:
    flat = _vector(known, POINTS)
    return None if flat is None else np.ascontiguousarray(flat.reshape(2, LANDMARKS).T)


def _attribute(value: Any) -> str | float:
    """Numbers stay factors, everything else is a group name."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return str(value).strip()
