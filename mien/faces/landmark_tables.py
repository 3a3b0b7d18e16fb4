"""Landmarks in the tables of other tools: OpenFace, py-feat and whoever writes x0 ... y67, and MediaPipe's 478 points."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mien.errors import DataError
from mien.faces.landmark_layouts import CURE, LAYOUTS, OTHERS, SCHEMES, as_68, in_pairs, paired, refused
from mien.faces.text_table import TextTable, number, open_table
from mien.schema import LANDMARKS, FloatArray

AXIS_FIRST = re.compile(r"(?:(?:landmarks?|lm|lmk|points?|pts?|p)[ _.-]*)?([xy])[ _.-]*0*(\d{1,3})$")
NUMBER_FIRST = re.compile(r"(?:landmarks?|lm|lmk|points?|pts?|p)?[ _.-]*0*(\d{1,3})[ _.-]*([xy])$")


def point_columns(names: Sequence[str]) -> dict[str, str]:
    """x0 ... x67, y0 ... y67 -> column, of columns such as x0, x_0 (OpenFace), x1 ... x68, lm_0_x, p12y.

    Numbers begin at 0 or 1, as they do in the table. Of other schemes (LAYOUTS) the points at the 68 are taken.
    Empty where the points are not complete.
    """
    found: dict[tuple[str, int], str] = {}
    for name in names:
        word = name.strip().lower()
        if match := AXIS_FIRST.match(word):
            found.setdefault((match[1], int(match[2])), name)
        elif match := NUMBER_FIRST.match(word):
            found.setdefault((match[2], int(match[1])), name)
    numbers = sorted({number for _, number in found})
    first = numbers[0] if numbers else 0
    count = len(numbers)
    if first > 1 or numbers != list(range(first, first + count)) or len(found) != 2 * count:
        return {}
    places = LAYOUTS.get(count, ())
    return {f"{axis}{k}": found[axis, place + first] for axis in "xy" for k, place in enumerate(places)}


ID_NAMES = (
    "id", "image", "path", "file", "row", "filename", "filepath", "imagepath", "imgpath", "imagename", "imgname", "img", "input",
    "picture", "photo",
)  # fmt: skip
"""Columns with the picture, in lower case without blanks and signs, the plainest first."""
NO_IDS = ("face", "faceid", "confidence", "success", "timestamp", "facescore")
"""First columns of tools that name no picture: then the file's own name is the picture's."""
SURE = 0.5
"""Confidence from which a face counts as one where a picture has several."""


class Found(NamedTuple):
    """One face of a landmark file."""

    points: FloatArray
    """(68, 2), all NaN where no face was found."""
    confidence: float = 1.0


def read_landmark_table(path: Path) -> dict[str, FloatArray]:
    """Picture -> (68, 2) points of a table with a header; see `landmark_files.read_landmarks`.

    A row without a face (success 0, or all points in one place) is all NaN, and so is one with a cell that is no number; where a
    picture has several rows the main face is taken (`main_face`). Lines on stderr tell both.

    Raises:
        DataError: no such columns, a short row, or cells that are no numbers in most rows, naming file and line.

    """
    table = open_table(path, header=True)
    header = [name.lower() for name in table.header or ()]
    columns = point_columns(header)
    if not columns:
        return long_rows(table) or flat_rows(open_table(path))
    where = [header.index(columns[f"{axis}{k}"]) for axis in "xy" for k in range(LANDMARKS)]
    bare = [re.sub(r"[\W_]+", "", name) for name in header]
    key = next((bare.index(name) for name in ID_NAMES if name in bare), 0)
    named = key != 0 or (bare[0] not in NO_IDS and 0 not in where)
    extra: dict[str, int] = {name: bare.index(name) for name in ("success", "confidence", "facescore") if name in bare}
    faces: dict[str, list[Found]] = {}
    broken: list[str] = []
    for line, row in table.body():
        if len(row) < len(header):
            raise DataError(f"{path}, line {line}: {len(row)} cells, but the header has {len(header)}.")
        found = _found(row, where, extra, f"{path}, line {line}")
        if isinstance(found, str):
            broken.append(found)
            found = Found(np.full((LANDMARKS, 2), np.nan, dtype=np.float32))
        faces.setdefault(row[key] if named else path.stem, []).append(found)
    if 2 * len(broken) > sum(map(len, faces.values())):
        raise DataError(broken[0])
    if broken:
        print(f"landmarks: {len(broken)} rows count as 'no face', the first: {broken[0]}", file=sys.stderr)
    return main_faces(faces, str(path))


def _found(row: list[str], where: list[int], extra: dict[str, int], place: str) -> Found | str:
    """The face of a row, or what is wrong with it."""
    try:
        values = np.array([row[k] for k in where], dtype=np.float64)
    except ValueError:
        values = np.empty(len(where))
        for n, k in enumerate(where):
            try:
                values[n] = float(row[k].replace(",", ".")) if row[k] else np.nan
            except ValueError:
                return f"{place}: '{row[k]}' is not a number; expected landmark coordinates."
    points = known_points(values.reshape(2, LANDMARKS).T)
    numbers = {}
    for name, k in extra.items():
        try:
            numbers[name] = float(row[k].replace(",", "."))
        except ValueError:
            continue
    if numbers.get("success") == 0:
        points = np.full_like(points, np.nan)
    return Found(points, numbers.get("confidence", numbers.get("facescore", 1.0)))


FARTHEST = 1e6
"""Pixels from the corner of a picture, beyond which no point of a face is; also what is not finite."""


def known_points(points: npt.NDArray[np.float64]) -> FloatArray:
    """(..., 68, 2) float32; NaN where a point lies in no picture, and for faces whose points all lie in one place (zeros)."""
    known = np.where(np.abs(points) < FARTHEST, points, np.nan).astype(np.float32)
    same = (known == known[..., :1, :]).all(axis=(-2, -1), keepdims=True)
    return np.where(same, np.float32(np.nan), known)


def main_faces(faces: dict[str, list[Found]], place: str) -> dict[str, FloatArray]:
    """Picture -> points of its main face; one line on stderr tells how many pictures have several."""
    more = (found for found in faces.values() if len(found) > 1)
    several = sum(sum(bool(np.isfinite(face.points).any()) for face in found) > 1 for found in more)
    if several:
        print(
            f"{place}: {several} pictures have several faces; the largest of the confident ones is taken.",
            file=sys.stderr,
        )
    return {name: main_face(found) for name, found in faces.items()}


def main_face(found: Sequence[Found]) -> FloatArray:
    """Points of the largest face whose confidence is at least 0.5, or of the largest where none is; NaN without any face."""
    if len(found) == 1:
        return found[0].points
    known = [face for face in found if np.isfinite(face.points).any()]
    if not known:
        return found[0].points
    sure = [face for face in known if face.confidence >= SURE] or known
    return max(
        sure, key=lambda face: float(np.nanmax(np.nanmax(face.points, axis=0) - np.nanmin(face.points, axis=0)))
    ).points


POINT_NUMBERS = (
    "landmark",
    "landmarkid",
    "landmarkindex",
    "index",
    "idx",
    "point",
    "pointid",
    "pointindex",
    "number",
    "part",
    "keypoint",
    "id",
)
"""Columns with the number of a point in tables of a row a point, in lower case without blanks and signs."""


def long_rows(table: TextTable) -> dict[str, FloatArray]:
    """Picture -> (68, 2) of a table with a row a point: a picture's name, the point's number, x and y; empty for any other.

    A picture whose points are not complete counts as one without a face.
    """
    bare = [re.sub(r"[\W_]+", "", name.lower()) for name in table.header or ()]
    key = next((bare.index(name) for name in ID_NAMES if name in bare), None)
    at = next((k for name in POINT_NUMBERS for k, word in enumerate(bare) if word == name and k != key), None)
    if key is None or at is None or not {"x", "y"} <= {*bare}:
        return {}
    faces: dict[str, dict[int, tuple[float, float]]] = {}
    for line, row in table.body():
        cells = [number(row[k]) if k < len(row) else None for k in (at, bare.index("x"), bare.index("y"))]
        if None in cells:
            raise DataError(f"{table.path}, line {line}: the number of a point, x and y expected.")
        faces.setdefault(row[key], {})[int(cells[0] or 0)] = (float(cells[1] or 0), float(cells[2] or 0))
    counts = [len(points) for points in faces.values()]
    most = max(set(counts), key=counts.count, default=0)
    if most not in LAYOUTS:
        raise DataError(f"{table.path}: {refused(most)}.")
    missing = np.full((LANDMARKS, 2), np.nan, dtype=np.float32)
    first = min(min(points) for points in faces.values())
    found = {}
    for name, points in faces.items():
        whole = sorted(points) == list(range(first, first + most))
        pairs = as_68(np.array([points[k] for k in sorted(points)])) if whole else None
        found[name] = missing if pairs is None else known_points(pairs)
    return found


def flat_rows(table: TextTable) -> dict[str, FloatArray]:
    """Picture -> (68, 2) of rows that hold a picture's name and bare numbers, in cells of their own or in one.

    The name is the cell that is no number, or else the first; WFLW writes it last. Behind the numbers of the points may stand a box
    and six marks, as in WFLW. DataError where most rows are no such.
    """
    names, rows, numbers = [], [], []
    for _, cells in table.body():
        words = [word for cell in cells for word in re.split(r"[,;\s\[\]()]+", cell) if word]
        texts = [
            cell
            for cell in cells
            if number(cell) is None and number(re.split(r"[,;\s\[\]()]+", cell.strip("[( "))[0]) is None
        ]
        name = max(texts, key=lambda cell: "." in cell) if texts else words.pop(0)
        values = [value for word in words if (value := number(word)) is not None]
        count = next((2 * n for n in LAYOUTS if len(values) - 2 * n in (0, 4, 10)), None)
        names.append(name)
        numbers.append(values)
        rows.append(values[:count] if count is not None else [])
    counts = {len(row) for row in rows if row}
    if len(counts) != 1 or 2 * sum(map(bool, rows)) < len(rows):
        counted = [len(row) // 2 for row in numbers if len(row) > 3]
        most = max(set(counted), key=counted.count, default=0)
        what = f"; there are {refused(most)}" if most in OTHERS else f"; {CURE}"
        raise DataError(
            f"{table.path}: no columns x1..x68,y1..y68 (or x_0..x_67,y_0..y_67), nor rows of a name and numbers of {SCHEMES}{what}."
        )
    known = np.array([row for row in rows if row])
    pairs = in_pairs(known)
    missing = np.full((1, counts.pop()), np.nan)
    return {
        name: known_points(as_68(paired(np.array([row]) if row else missing, pairs))[0])  # type: ignore[index]
        for name, row in zip(names, rows, strict=True)
    }
