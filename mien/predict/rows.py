"""The table of predictions: named columns, one row a face and one for each picture or frame without a face."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from mien.cues.config import FACE_REGIONS
from mien.faces.quality import Quality
from mien.predict.results import Explanation, FacePrediction, PicturePrediction

SCHEMA_VERSION = 1
"""In the column `schema_version` of every row; a column that changes its name or meaning raises it, a new one does not."""

PLACE = {
    "schema_version": int, "source": str, "frame": int, "time": float, "width": int, "height": int, "faces": int,
    "face": int, "track": int, "reason": str, "box_x0": float, "box_y0": float, "box_x1": float, "box_y1": float,
    "landmark_confidence": float, "crop": str, "expression": str, "confidence": float, "abstained": bool,
}  # fmt: skip
"""Columns of every table, before the probabilities, and their types."""
QUALITY = Quality._fields
"""Columns of how well the face can be read, before the probabilities; then `outside`."""
EXPLAINED = {
    "method": str, "explained_expression": str, "runner_up": str, "attention_cosine": float, "attention_energy": float,
    "map_cosine": float, "map_energy": float,
}  # fmt: skip
"""Columns of an explanation, before those of the regions."""


class Layout(NamedTuple):
    """What decides the columns of a table."""

    classes: tuple[str, ...]
    action_units: tuple[str, ...]
    explained: bool


def columns(layout: Layout) -> dict[str, type]:
    """Column name -> type, in order."""
    found: dict[str, type] = {**PLACE, **dict.fromkeys(QUALITY, float), "outside": str}
    found |= {f"p_{name}": float for name in layout.classes}
    if layout.action_units:
        found |= {**dict.fromkeys(layout.action_units, float), "present": str, "reading": str}
    if layout.explained:
        found |= EXPLAINED
        found |= {f"{kind}_{name}": float for kind in ("share", "effect") for name in FACE_REGIONS}
        found["words"] = str
    return found


def rows_of(picture: PicturePrediction) -> Iterator[dict[str, Any]]:
    """Rows of one picture as column -> value; columns that are not there are empty."""
    place = {
        "schema_version": SCHEMA_VERSION, "source": picture.source, "frame": picture.frame, "time": picture.time,
        "width": picture.width, "height": picture.height, "faces": len(picture.faces), "reason": picture.reason,
    }  # fmt: skip
    if not picture.faces:
        yield place
    for face in picture.faces:
        yield {**place, **_face(face), **({} if face.explanation is None else _explanation(face.explanation))}


def _face(face: FacePrediction) -> dict[str, Any]:
    known = {name: None if math.isnan(value) else value for name, value in face.quality._asdict().items()}
    box = dict(zip(("box_x0", "box_y0", "box_x1", "box_y1"), face.box or (), strict=False))
    return {
        "face": face.face, "track": face.track, **box, "landmark_confidence": face.landmark_confidence,
        "crop": face.crop, "expression": face.expression, "confidence": face.confidence, "abstained": face.abstained,
        **known, "outside": face.outside or None,
        **{f"p_{name}": value for name, value in face.probabilities.items()}, **face.action_units,
        "present": " ".join(column for columns in face.present_units.values() for column in columns) or None,
        "reading": face.reading,
    }  # fmt: skip


def _explanation(explanation: Explanation) -> dict[str, Any]:
    scores = {
        f"{column}_{kind}": explanation.scores.get(name, {}).get(kind)
        for column, name in (("attention", "attention"), ("map", explanation.method))
        for kind in ("cosine", "energy")
    }
    return {
        "method": explanation.method,
        "explained_expression": explanation.expression,
        "runner_up": explanation.runner_up,
        **scores,
        **{f"share_{name}": region.share for name, region in explanation.regions.items()},
        **{f"effect_{name}": region.effect for name, region in explanation.regions.items()},
        "words": explanation.words,
    }


def arrow_schema(layout: Layout) -> Any:
    """pyarrow.Schema of the columns, with the version in its metadata."""
    import pyarrow as pa

    kinds = {int: pa.int64(), float: pa.float64(), str: pa.string(), bool: pa.bool_()}
    fields = [pa.field(name, kinds[kind]) for name, kind in columns(layout).items()]
    return pa.schema(fields, metadata={"mien.predict.schema_version": str(SCHEMA_VERSION)})


def table_of(pictures: Iterable[PicturePrediction], layout: Layout) -> Any:
    """pyarrow.Table of all rows."""
    import pyarrow as pa

    rows = [row for picture in pictures for row in rows_of(picture)]
    return pa.Table.from_pylist(rows, schema=arrow_schema(layout))
