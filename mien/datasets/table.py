"""Any dataset that comes as a table: a CSV, TSV, list, JSON lines or Parquet file with one face a row, in one or several files."""

from __future__ import annotations

import math
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mien.data import au_scale as scales
from mien.data.arrow import Skipped
from mien.datasets.cell_values import holds_picture, in_base64, is_empty, is_pixels, is_unlabelled, label_word
from mien.datasets.columns import POINTS, Columns
from mien.datasets.picture_paths import Pictures
from mien.datasets.spread import Row
from mien.datasets.table_boxes import four
from mien.datasets.table_plan import Plan, plan_of
from mien.datasets.tables import Table
from mien.datasets.words import fold_number, named, unknown_expression
from mien.errors import PictureError
from mien.faces.pictures import upright_size
from mien.faces.text_table import number
from mien.schema import ACTION_UNITS, EXPRESSIONS, LANDMARKS, ByteArray, FloatArray, Record


def records(
    root: Path,
    *,
    columns: str | None = None,
    labels: str | None = None,
    pictures: str | None = None,
    au_scale: str | None = None,
    units: str | None = None,
) -> Iterator[Record | Skipped]:
    """Rows in order, of the table `root` or of those that `tables.find_tables` finds in this folder.

    `columns` are ``target=column`` pairs, e.g. ``image=path,expression=emotion,AU12=AU12_r,attr.skin=tone,
    landmarks_x=x_{},landmarks_y=y_{}``; columns whose names say what they are (`columns.NAMES`) need no pair. Targets: image (a
    path, encoded bytes, or pixels), id, expression, subject, split, AU1 ..., x0 ... y67 (pixels of the picture), left
    top right bottom, or left top width height, or box_xyxy or box_xywh with all four in a cell (face box, pixels or shares
    of the picture), yaw pitch roll (degrees), attr.NAME. Columns named after expressions are shares of votes, several
    numbered ones (``rater1``, ``rater2``) the labels of annotators; the expression is then their first choice. `labels` are
    ``value=expression`` pairs for tables with numbers or foreign words. `pictures` is the folder that paths start in, by
    default found around the table. `au_scale`: see `au_scale.read_scale`; by default decided from all known values. `units` names the
    action units of cells that hold a number for each, in their order.

    A row that cannot be used is skipped with the reason; empty cells and codes such as 9, -1 and 999 of action units mean
    unknown. What was taken for what is told on stderr. UsageError when a column is missing or no label means anything.
    """
    plan = plan_of(Path(root), columns, labels, pictures, au_scale, units)
    seen: dict[str, tuple[Any, ...]] = {}
    again: list[str] = []
    for table, meaning, place, shares in zip(plan.tables, plan.columns, plan.pictures, plan.shares, strict=True):
        polled = _polled(table, meaning, plan.labels)
        fold = fold_number(table.path.stem) if len(plan.tables) > 1 else None
        for count, row in table.rows():
            record = _record(plan, table, meaning, place, count, row)
            if polled is not None and isinstance(record, Record) and isinstance(row, dict):
                votes = polled.pop(str(row.get(meaning.targets["image"])), None)
                if votes is None:
                    continue  # a further annotator's row
                record = record._replace(votes=votes, expression=first_choice(votes))
            if fold is not None and isinstance(record, Record):
                record = record._replace(attributes={**record.attributes, "fold": fold})
            if shares and isinstance(record, Record) and record.box is not None:
                record = _in_pixels(record)
            what = _said(record)
            if record.id in seen:  # several faces in one picture, say
                again += [record.id] if what[0] == seen[record.id][0] and what[1] != seen[record.id][1] else []
                record = record._replace(id=f"{record.id}#{count}")
            seen[record.id] = what
            yield record
    if again and (root, again[0]) not in _TOLD:
        _TOLD.add((root, again[0]))
        print(
            f"{len(again)} rows name a picture again, with another label (first: {again[0]}): both are kept; mien check lists them.",
            file=sys.stderr,
        )


def _said(record: Record | Skipped) -> tuple[Any, ...]:
    """Where the face of a row is, and what the row says of it."""
    if isinstance(record, Skipped):
        return None, record.reason
    return None if record.box is None else tuple(record.box.tolist()), record.expression


def notes(
    root: Path,
    *,
    columns: str | None = None,
    labels: str | None = None,
    pictures: str | None = None,
    au_scale: str | None = None,
    units: str | None = None,
) -> dict[str, str]:
    """What the store should remember: the scale of its action units."""
    plan = plan_of(Path(root), columns, labels, pictures, au_scale, units)
    return {"au_scale": scales.note(plan.scales)} if plan.scales else {}


ANNOTATORS = (
    "rater",
    "raterid",
    "annotator",
    "annotatorid",
    "coder",
    "coderid",
    "worker",
    "workerid",
    "judge",
    "voter",
    "expert",
)
"""Columns that name who labelled a row."""


def _polled(table: Table, meaning: Columns, labels: Mapping[str, str]) -> dict[str, FloatArray] | None:
    """Picture -> (8,) shares of votes, of a table with a row for each annotator of a picture; None for others."""
    image, label = meaning.targets["image"], meaning.targets.get("expression")
    who = next((name for name in meaning.left if re.sub(r"[\W_]+", "", name).lower() in ANNOTATORS), None)
    if who is None or label is None:
        return None
    votes: dict[str, FloatArray] = {}
    rows = 0
    for _, row in table.rows([image, label]):
        if isinstance(row, dict) and isinstance(row.get(image), str) and not is_empty(row.get(label)):
            name = named(label_word(row[label], table.classes.get(label)), labels)
            if name:
                rows += 1
                votes.setdefault(row[image], np.zeros(len(EXPRESSIONS), dtype=np.float32))[EXPRESSIONS.index(name)] += 1
    if rows == len(votes):
        return None
    if (table.path, "") not in _TOLD:
        _TOLD.add((table.path, ""))
        print(
            f"votes: {rows} rows of {len(votes)} pictures, one for each annotator of '{who}', become shares.",
            file=sys.stderr,
        )
    return {name: (counts / counts.sum()).astype(np.float32) for name, counts in votes.items()}


_TOLD: set[tuple[Path, str]] = set()


class _BadCellError(Exception):
    """A cell that cannot be used; becomes the reason of a Skipped."""


def _record(
    plan: Plan, table: Table, meaning: Columns, place: Pictures | None, count: int, row: Row | str
) -> Record | Skipped:
    """The face of a row, or why it cannot be used."""
    if isinstance(row, str):
        return Skipped(
            f"row-{count}" if len(plan.tables) == 1 else f"{table.path.stem}/row-{count}", f"row {count}: {row}"
        )
    cells = {target: row.get(column) for target, column in meaning.targets.items()}
    image: Any = cells["image"]
    if isinstance(image, dict):  # Hugging Face keeps pictures as {"bytes", "path"}
        image, name = image.get("bytes") or image.get("path"), image.get("path")
    else:
        name = image if isinstance(image, str) and not holds_picture(image) else None
    given = cells.get("id") if meaning.targets.get("id") != meaning.targets["image"] else None
    name = _name(given or name or f"row-{count}", table, plan, place)
    try:
        if image is None or (isinstance(image, str | bytes | list) and not image):
            raise _BadCellError("no picture")
        known = {key: value for key, value in cells.items() if not is_empty(value)}
        label = _label(known.get("expression"), table.classes.get(meaning.targets.get("expression", "")), plan.labels)
        if label == "":
            raise _BadCellError("its class is left out by --labels")
        votes = _votes(row, meaning, table, plan.labels)
        if votes is not None and label is None:
            label = first_choice(votes)
        return Record(
            id=name,
            image=_image(image, place),
            split=_split(known.get("split"), plan.splits, table.split),
            subject=_subject(known.get("subject")),
            expression=label,
            votes=votes,
            action_units=_units(cells, plan.scales),
            landmarks=_landmarks(known),
            box=_box(known),
            pose=_vector(known, ("yaw", "pitch", "roll")),
            attributes={
                key[5:]: _attribute(value)
                for key, value in known.items()
                if key.startswith("attr.") and not (key in AFFECT and str(value).strip() in UNKNOWN_AFFECT)
            },
            same_person=_subject(known.get("same_person")),
            same_actions=_subject(known.get("same_actions")),
        )
    except _BadCellError as error:
        return Skipped(name, f"row {count}: {error}")


AFFECT, UNKNOWN_AFFECT = ("attr.valence", "attr.arousal"), ("-2", "-2.0", "-5", "-5.0")
"""Attributes from -1 to 1, and what stands there for unknown ones (AffectNet, Aff-Wild2)."""

NOBODY = ("unknown", "unk", "none", "null", "n/a", "na", "nan", "?", "-")
"""Words in a column of people that name nobody."""


def _subject(value: Any) -> str | None:
    text = "" if value is None else str(value).strip()
    return None if not text or text.lower() in NOBODY else text


def _name(given: Any, table: Table, plan: Plan, place: Pictures | None) -> str:
    text = str(given).strip()
    if place is not None and place.drop and "id" not in plan.columns[0].targets:
        text = place.name(text)
    if len(plan.tables) == 1:
        return text
    folder = table.path.parent.name if table.path.suffix.lower() == ".jsonl" else table.split or table.path.stem
    return text if text.startswith(f"{folder}/") else f"{folder}/{text}"


def _image(image: Any, place: Pictures | None) -> Path | bytes | ByteArray:
    if isinstance(image, bytes):
        return image
    if isinstance(image, list) or is_pixels(str(image)):
        try:
            pixels = np.array(image if isinstance(image, list) else str(image).split(), dtype=np.float64)
        except ValueError:
            raise _BadCellError("pixels of uneven rows") from None
        side = math.isqrt(pixels.size)
        if pixels.ndim == 1 and side * side == pixels.size:
            pixels = pixels.reshape(side, side)
        if pixels.ndim not in (2, 3) or not np.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > 255:
            raise _BadCellError(f"pixels of shape {pixels.shape} are no picture of 0 to 255")
        return pixels.astype(np.uint8)
    if (encoded := in_base64(str(image))) is not None:
        return encoded
    return place.find(str(image)) if place is not None else Path(str(image))


def _split(value: Any, splits: Mapping[str, str], of_table: str | None) -> str:
    if value is None:
        return of_table or "train"
    word = str(value).strip().lower()
    if word not in splits:
        raise _BadCellError(f"split '{value}' is none of train, valid, test: write these, or leave the column out")
    return splits[word]


def _label(value: Any, classes: tuple[str, ...] | None, labels: Mapping[str, str]) -> str | None:
    """Expression, None where the cell is empty, "" where the user leaves the class out."""
    if value is None:
        return None
    text = label_word(value, classes)
    if is_unlabelled(text, labels):
        return None
    name = named(text, labels)
    if name is None:
        hint = (
            " (--labels 0=Anger,...)" if text.isdigit() else f" (--labels {shlex.quote(text[:40])}=... says what it is)"
        )
        raise _BadCellError(f"expression {unknown_expression(text)}{hint}")
    return name


def _votes(row: Row, meaning: Columns, table: Table, labels: Mapping[str, str]) -> FloatArray | None:
    """(8,) shares over EXPRESSIONS of a row's votes; None without any."""
    if not meaning.shares and not meaning.raters:
        return None
    votes = np.zeros(len(EXPRESSIONS))
    for expression, column in meaning.shares.items():
        if not is_empty(row.get(column)):
            votes[EXPRESSIONS.index(expression)] = _number(row[column], column)
    for column in meaning.raters:
        value = row.get(column)
        label = None if is_empty(value) else _label(value, table.classes.get(column), labels)
        if label:
            votes[EXPRESSIONS.index(label)] += 1
    if (votes < 0).any():
        raise _BadCellError("a negative share of votes")
    return (votes / votes.sum()).astype(np.float32) if votes.sum() > 0 else None


def first_choice(votes: FloatArray) -> str | None:
    """The expression with the largest share; None for a tie."""
    best = np.flatnonzero(votes == votes.max())
    return EXPRESSIONS[int(best[0])] if len(best) == 1 else None


def _number(value: Any, target: str) -> float:
    found = number(value) if isinstance(value, str) else value
    if found is None:  # True and False, or marks, of one-hot columns
        word = str(value).strip().lower()
        found = 1.0 if word in scales.SIGNS else scales.WORDS.get(word)
    if not isinstance(found, int | float):
        raise _BadCellError(f"{target} '{value}' is no number")
    return float(found)


PLACE = {unit: k for k, unit in enumerate(ACTION_UNITS)}


def _units(cells: Row, scale: Mapping[str, scales.Scale]) -> FloatArray | None:
    """(A,) intensities, NaN where a cell is empty or says unknown; None when all are."""
    values = [math.nan] * len(ACTION_UNITS)
    for unit, kind in scale.items():
        value = scales.intensity(cells.get(unit), kind)
        if value is None:
            cell = cells[unit]
            if isinstance(scales.value_of(cell), str):
                raise _BadCellError(f"{unit} '{cell}' is no number")
            most = {"occurrence": 1, "probability": 1, "percent": 100, "signed": 1, "marks": 1}.get(kind, 5)
            raise _BadCellError(f"{unit} {cell} is outside 0..{most}")
        values[PLACE[unit]] = value
    if "marks" in scale.values():
        known = scales.beside_marks([values[PLACE[unit]] for unit in scale], scale.values())
        for unit, value in zip(scale, known, strict=True):
            values[PLACE[unit]] = value
    return None if all(map(math.isnan, values)) else np.array(values, dtype=np.float32)


def _vector(known: Row, targets: tuple[str, ...]) -> FloatArray | None:
    """Values of the targets, NaN where a cell is empty; None when all are."""
    if known.keys().isdisjoint(targets):
        return None
    values = [_number(known[target], target) if target in known else math.nan for target in targets]
    return np.array(values, dtype=np.float32)


def _in_pixels(record: Record) -> Record | Skipped:
    """A face whose box is in shares of its picture, with the box in pixels."""
    if isinstance(record.image, np.ndarray):
        high, wide = record.image.shape[:2]
    else:
        assert isinstance(record.image, Path | bytes)  # no table holds frames of videos
        try:
            wide, high = upright_size(record.image)
        except PictureError as error:
            return Skipped(record.id, str(error))
    assert record.box is not None
    return record._replace(box=record.box * np.array([wide, high, wide, high], dtype=np.float32))


def _box(known: Row) -> FloatArray | None:
    """(4,) left, top, right, bottom in pixels, or in shares of the picture."""
    for target, sides in (("box_xyxy", False), ("box_xywh", True)):
        if target in known:
            values = four(known[target])
            if values is None:
                raise _BadCellError(f"'{known[target]}' is no box of four numbers")
            found = np.array(values, dtype=np.float32)
            return np.concatenate([found[:2], found[:2] + found[2:]]) if sides else found
    if "width" in known and "right" not in known:
        sized = _vector(known, ("left", "top", "width", "height"))
        return None if sized is None else np.concatenate([sized[:2], sized[:2] + sized[2:]])
    return _vector(known, ("left", "top", "right", "bottom"))


def _landmarks(known: Row) -> FloatArray | None:
    flat = _vector(known, POINTS)
    if flat is None:
        return None
    return np.ascontiguousarray(np.where(np.isfinite(flat), flat, np.float32(np.nan)).reshape(2, LANDMARKS).T)


def _attribute(value: Any) -> str | float:
    """Numbers stay factors, everything else is a group name."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return str(value).strip()
