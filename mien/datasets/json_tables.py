"""Rows of a JSON file, in the shapes that circulate: a list, a dictionary of pictures, of columns or of splits, COCO."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from mien.datasets.words import find_split
from mien.faces.text_table import is_picture_name

Row = dict[str, Any]

FORMS = (
    "a list of objects, picture -> label, picture -> object, class -> pictures, column -> values, train and test -> any of "
    "these, or COCO's images, annotations and categories"
)


def rows_of(content: Any) -> list[Any]:
    """Rows (column -> cell) of the content of a JSON file; whatever in a list is no row stays as it is.

    ValueError for content of no known shape.
    """
    if isinstance(content, list):
        return [_row(entry) for entry in content]
    if isinstance(content, dict):
        found = (
            _coco(content)
            or _splits(content)
            or _pictures(content)
            or _classes(content)
            or _numbered(content)
            or _columns(content)
            or _inside(content)
        )
        if found:
            return found
    raise ValueError(f"neither {FORMS}")


def flat(row: Mapping[str, Any]) -> Row:
    """A row whose objects are taken apart: ``{"face": {"emotion": 3}}`` becomes emotion, or face.emotion where there is another
    emotion. What Hugging Face writes for a picture, ``{"bytes", "path"}``, stays.
    """
    found: Row = {}
    for name, value in row.items():
        while isinstance(value, list) and len(value) == 1:  # one annotation, one choice, one face
            value = value[0]
        inner = flat(value) if isinstance(value, dict) and not {"bytes", "path"} & set(value) else None
        for leaf, cell in [(name, value)] if inner is None else inner.items():
            found[leaf if inner is None or (leaf not in found and leaf not in row) else f"{name}.{leaf}"] = cell
    return found


def _row(entry: Any) -> Any:
    if isinstance(entry, dict):
        return flat(entry)
    if isinstance(entry, list) and len(entry) > 1:  # [path, label]
        picture = next((cell for cell in entry if isinstance(cell, str) and is_picture_name(cell)), None)
        others = [cell for cell in entry if cell is not picture]
        return entry if picture is None or len(others) > 1 else {"image": picture, "label": others[0]}
    return entry


def _pictures(content: Row) -> list[Row]:
    """``{"a.png": "happy"}``, ``{"a.png": {"label": 3, ...}}``."""
    if not all(map(is_picture_name, islice(content, 20))):
        return []
    return [
        {"image": name, **flat(value)} if isinstance(value, dict) else {"image": name, "label": value}
        for name, value in content.items()
    ]


def _classes(content: Row) -> list[Row]:
    """``{"happy": ["a.png", ...], "sad": [...]}``."""
    values = list(content.values())
    if len(values) < 2 or not all(isinstance(value, list) for value in values):
        return []
    if not all(isinstance(cell, str) and is_picture_name(cell) for value in values for cell in value):
        return []
    return [{"image": picture, "label": name} for name, value in content.items() for picture in value]


def _splits(content: Row) -> list[Row]:
    """``{"train": ..., "test": ...}``, each a table of its own."""
    if not content or not all(find_split(name) for name in content):
        return []
    return [
        {"split": name, **row} if isinstance(row, dict) else row
        for name, part in content.items()
        for row in rows_of(part)
    ]


def _numbered(content: Row) -> list[Row]:
    """``{"0001": {"path": "a.png", "label": 3}, ...}``: each object names a picture, and no two of its cells are names of pictures."""
    rows = [flat(value) if isinstance(value, dict) else {} for value in content.values()]
    pictures = [sum(isinstance(cell, str) and is_picture_name(cell) for cell in row.values()) for row in rows]
    return (
        rows
        if len(rows) > 1 and all(0 < count < max(2, len(row)) for count, row in zip(pictures, rows, strict=True))
        else []
    )


def _columns(content: Row) -> list[Row]:
    """``{"path": [...], "label": [...]}``, or with ``{"0": ..., "1": ...}`` for each list, or pandas's columns, index and data."""
    if {"columns", "data"} <= set(content) and isinstance(content["data"], list):
        return [
            dict(zip(content["columns"], cells, strict=False)) for cells in content["data"] if isinstance(cells, list)
        ]
    values = list(content.values())
    if len(values) < 2:
        return []
    if all(isinstance(value, list) for value in values) and len({len(value) for value in values}) == 1:
        return [dict(zip(content, cells, strict=True)) for cells in zip(*values, strict=True)]
    if all(isinstance(value, dict) for value in values) and len({tuple(value) for value in values}) == 1:
        return [{name: content[name][key] for name in content} for key in values[0]]
    return []


def _inside(content: Row) -> list[Row]:
    """The only list or table among other entries: ``{"version": 1, "data": [...]}``."""
    tables = [found for value in content.values() if (found := _table(value))]
    return tables[0] if len(tables) == 1 else []


def _table(value: Any) -> list[Row]:
    if isinstance(value, list) and not any(map(_is_row, value)):
        return []
    try:
        return rows_of(value)
    except ValueError:
        return []


def _is_row(entry: Any) -> bool:
    return isinstance(_row(entry), dict)


def _coco(content: Row) -> list[Row]:
    """Each annotation with its picture's file name, its category's name, and its box."""
    parts = [content.get(name) for name in ("images", "annotations")]
    if not all(isinstance(part, list) and all(isinstance(entry, dict) for entry in part) for part in parts):
        return []
    files = {entry.get("id"): entry.get("file_name") for entry in content["images"]}
    categories = content.get("categories")
    names = {entry.get("id"): entry.get("name") for entry in categories} if isinstance(categories, list) else {}
    return list(_annotated(content["annotations"], files, names))


def _annotated(annotations: list[Row], files: Mapping[Any, Any], names: Mapping[Any, Any]) -> Iterator[Row]:
    for entry in annotations:
        box = entry.get("bbox")
        sides = dict(zip(("x", "y", "w", "h"), box, strict=True)) if isinstance(box, list) and len(box) == 4 else {}
        others = {k: v for k, v in entry.items() if k not in ("id", "image_id", "category_id", "bbox", "segmentation")}
        label = names.get(entry.get("category_id"), entry.get("category_id"))
        yield {"image": files.get(entry.get("image_id")), "label": label, **sides, **flat(others)}
