"""Tables for the scripts that people have: the columns of OpenFace 2 and of py-feat, filled with what Mien measures.

A column that Mien does not measure is empty, never 0: a mean over it is unknown, not wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from mien.errors import unknown_name
from mien.predict.results import FacePrediction, PicturePrediction
from mien.predict.rows import Layout, columns, rows_of
from mien.schema import LANDMARKS

OPENFACE_UNITS = (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26, 45)
"""With an intensity in OpenFace 2 (AU12_r, 0 to 5); those and AU28 with a presence (AU12_c, 0 or 1)."""
SHAPE_MODES = 34
"""Parameters of OpenFace's shape model, p_0 to p_33."""
PY_FEAT_UNITS = (1, 2, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15, 17, 20, 23, 24, 25, 26, 28, 43)
PY_FEAT_EXPRESSIONS = {
    "anger": "Anger", "disgust": "Disgust", "fear": "Fear", "happiness": "Happiness", "sadness": "Sadness",
    "surprise": "Surprise", "neutral": "Neutral",
}  # fmt: skip
PRESENT = 0.2
"""Strength from which a unit counts as present where the model has no measured limit of its own: intensity 1."""


class Format(NamedTuple):
    """How predictions become a table."""

    columns: Callable[[Layout], dict[str, type]]
    """Column name -> type, in order."""
    rows: Callable[[PicturePrediction], Iterator[dict[str, Any]]]


def openface_columns(layout: Layout) -> dict[str, type]:
    """Of FeatureExtraction of OpenFace 2.2, but for the points of the eyes; `source` at the end tells files apart.

    Gaze, 3-D points and the shape's parameters are there for readers that take all columns by name, and empty.
    """
    found: dict[str, type] = {"frame": int, "face_id": int, "timestamp": float, "confidence": float, "success": int}
    found |= dict.fromkeys((f"gaze_{eye}_{axis}" for eye in "01" for axis in "xyz"), float)
    found |= {"gaze_angle_x": float, "gaze_angle_y": float}
    found |= dict.fromkeys((f"pose_{kind}{axis}" for kind in "TR" for axis in "xyz"), float)
    found |= dict.fromkeys((f"{axis}_{k}" for axis in "xyXYZ" for k in range(LANDMARKS)), float)
    found |= dict.fromkeys(
        (f"p_{name}" for name in ("scale", "rx", "ry", "rz", "tx", "ty", *range(SHAPE_MODES))), float
    )
    found |= dict.fromkeys((f"AU{unit:02}_r" for unit in OPENFACE_UNITS), float)
    found |= dict.fromkeys((f"AU{unit:02}_c" for unit in sorted((*OPENFACE_UNITS, 28))), int)
    return found | {"source": str}


def openface_rows(picture: PicturePrediction) -> Iterator[dict[str, Any]]:
    """A row a face; one with success 0 for a picture without any. Frames count from 1, faces and tracks from 0.

    Angles are radians about the camera's axes (x to the right, y down, z away from it), as OpenFace has them: Rx positive where
    the head nods down, Ry where it turns to the person's right, Rz where it leans clockwise in the picture.
    """
    place = {"frame": picture.frame + 1, "timestamp": picture.time or 0.0, "source": picture.source}
    if not picture.faces:
        yield {**place, "face_id": 0, "confidence": 0.0, "success": 0}
    for face, row in zip(picture.faces, rows_of(picture), strict=False):
        angles = {"pose_Rx": row.get("pitch"), "pose_Ry": _minus(row.get("yaw")), "pose_Rz": row.get("roll")}
        units = {f"AU{unit:02}_r": _times(strength_of(face, unit), 5) for unit in OPENFACE_UNITS}
        present = {f"AU{unit:02}_c": presence_of(face, unit) for unit in (*OPENFACE_UNITS, 28)}
        yield {
            **place, "face_id": (face.track or face.face) - 1, "confidence": _sure(face), "success": 1,
            **{name: None if v is None else math.radians(v) for name, v in angles.items()}, **_points(face), **units, **present,
        }  # fmt: skip


def py_feat_columns(layout: Layout) -> dict[str, type]:
    """Of a Fex table of py-feat 0.6."""
    found: dict[str, type] = {"frame": int}
    found |= dict.fromkeys(("FaceRectX", "FaceRectY", "FaceRectWidth", "FaceRectHeight", "FaceScore"), float)
    found |= dict.fromkeys((f"{axis}_{k}" for axis in "xy" for k in range(LANDMARKS)), float)
    found |= dict.fromkeys(("Pitch", "Roll", "Yaw"), float)
    found |= dict.fromkeys((f"AU{unit:02}" for unit in PY_FEAT_UNITS), float)
    found |= dict.fromkeys(PY_FEAT_EXPRESSIONS, float)
    return found | {"input": str, "approx_time": float, "Identity": str}


def py_feat_rows(picture: PicturePrediction) -> Iterator[dict[str, Any]]:
    """A row a face; an empty one for a picture without any. Units are strengths in [0, 1], angles degrees as in Mien's rows."""
    place = {"frame": picture.frame, "input": picture.source, "approx_time": picture.time}
    if not picture.faces:
        yield place
    for face, row in zip(picture.faces, rows_of(picture), strict=False):
        x0, y0, x1, y1 = face.box or (0.0, 0.0, picture.width - 1.0, picture.height - 1.0)
        yield {
            **place, "FaceRectX": x0, "FaceRectY": y0, "FaceRectWidth": x1 - x0, "FaceRectHeight": y1 - y0, "FaceScore": _sure(face),
            **_points(face), **{name: row.get(name.lower()) for name in ("Pitch", "Roll", "Yaw")},
            **{f"AU{unit:02}": strength_of(face, unit) for unit in PY_FEAT_UNITS},
            **{name: face.probabilities.get(own) for name, own in PY_FEAT_EXPRESSIONS.items()},
            "Identity": f"Person_{(face.track or face.face) - 1}",
        }  # fmt: skip


FORMATS: dict[str, Format] = {
    "mien": Format(columns, rows_of),
    "openface": Format(openface_columns, openface_rows),
    "py-feat": Format(py_feat_columns, py_feat_rows),
}
"""Name of `--format` -> its table."""


def format_named(name: str) -> Format:
    """A format of FORMATS; UsageError for another."""
    if name not in FORMATS:
        raise unknown_name("format", name, FORMATS)
    return FORMATS[name]


def strength_of(face: FacePrediction, unit: int) -> float | None:
    """Strength of a unit in [0, 1]; None where it is not measured. AU26 and AU27 are one opening, AU43 and AU45 one closing."""
    for name in {26: ("AU26", "AU27"), 43: ("AU43", "AU45"), 45: ("AU45", "AU43")}.get(unit, (f"AU{unit}",)):
        if name in face.action_units:
            return float(face.action_units[name])
    return None


def presence_of(face: FacePrediction, unit: int) -> int | None:
    """1 for a unit that is present, 0 for one that is not, None for one that is not measured."""
    strength = strength_of(face, unit)
    return None if strength is None else int(strength >= PRESENT)


def _points(face: FacePrediction) -> Mapping[str, float]:
    if face.landmarks is None:
        return {}
    return {
        f"{axis}_{k}": float(face.landmarks[k, d]) for d, axis in enumerate("xy") for k in range(len(face.landmarks))
    }


def _sure(face: FacePrediction) -> float:
    return 1.0 if face.landmark_confidence is None else min(max(float(face.landmark_confidence), 0.0), 1.0)


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _minus(value: float | None) -> float | None:
    return _times(value, -1.0)
