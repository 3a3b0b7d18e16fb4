"""The 68 iBUG landmarks: names of their groups, mirror order, quality screen, and readers of landmark files.

Landmarks are (68, 2) float32 (x, y) in pixels of the image they travel with, pixel centres at .0, NaN when unknown,
never clipped; indices are 0-based. Left and right are those of the image as seen, not of the person.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mien.errors import DataError
from mien.schema import LANDMARKS, FloatArray

JAW = tuple(range(17))
LEFT_BROW, RIGHT_BROW = tuple(range(17, 22)), tuple(range(22, 27))
NOSE = tuple(range(27, 36))
LEFT_EYE, RIGHT_EYE = tuple(range(36, 42)), tuple(range(42, 48))
OUTER_LIPS, INNER_LIPS = tuple(range(48, 60)), tuple(range(60, 68))
MOUTH = OUTER_LIPS + INNER_LIPS
GROUPS = {
    "jaw": JAW,
    "brows": LEFT_BROW + RIGHT_BROW,
    "nose": NOSE,
    "eyes": LEFT_EYE + RIGHT_EYE,
    "mouth": MOUTH,
}
"""Group name -> 0-based indices; the groups do not overlap and cover all 68 points."""

FLIP = (
    16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0,
    26, 25, 24, 23, 22, 21, 20, 19, 18, 17,
    27, 28, 29, 30, 35, 34, 33, 32, 31,
    45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40,
    54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55,
    64, 63, 62, 61, 60, 67, 66, 65,
)  # fmt: skip
"""Point i of a mirrored face is point FLIP[i] of the original."""

MESH_TO_68 = (
    127, 234, 93, 58, 172, 136, 149, 176, 152, 400, 378, 365, 397, 288, 323, 454, 356,
    70, 63, 105, 66, 107, 336, 296, 334, 293, 300,
    168, 197, 5, 4, 75, 97, 2, 326, 305,
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181,
    78, 82, 13, 312, 308, 317, 14, 87,
)  # fmt: skip
"""Vertex of MediaPipe's 478-point face mesh nearest to each iBUG-68 point.

The list in common circulation has 162, 389 at points 0, 16; 148, 377 at 7, 9; and 71, 301 at 17, 26. Those lie 16, 8
and 9 % of the eye distance off dlib's points on 60 portraits, these 4, 7 and 5 %, and human-placed points agree. On
turned heads the mesh's jaw stays on the skin where iBUG follows the visible outline: it differs by definition."""

OUTER_EYE_CORNERS = (36, 45)


def flip_landmarks(landmarks: FloatArray, width: float) -> FloatArray:
    """Landmarks of the horizontally mirrored image: x -> width - 1 - x, and left/right indices swapped.

    Args:
        landmarks: (..., 68, 2) pixels of an image of `width` pixels.
        width: Width of the image.

    """
    mirrored = np.array(landmarks, dtype=np.float32)[..., list(FLIP), :]
    mirrored[..., 0] = width - 1 - mirrored[..., 0]
    return mirrored


def eye_distance(landmarks: FloatArray) -> FloatArray:
    """Distance between the outer eye corners (points 36 and 45) in pixels, (..., 68, 2) -> (...)."""
    first, second = OUTER_EYE_CORNERS
    return np.asarray(np.linalg.norm(landmarks[..., second, :] - landmarks[..., first, :], axis=-1), dtype=np.float32)


def five_points(landmarks: FloatArray) -> FloatArray:
    """Left eye centre, right eye centre, nose tip, left and right mouth corner: (..., 68, 2) -> (..., 5, 2).

    An eye centre is the mean of its six points; left means left in the image.
    """
    parts = [
        landmarks[..., list(LEFT_EYE), :].mean(-2),
        landmarks[..., list(RIGHT_EYE), :].mean(-2),
        landmarks[..., 30, :],
        landmarks[..., 48, :],
        landmarks[..., 54, :],
    ]
    return np.stack(parts, axis=-2).astype(np.float32)


def suspicious(landmarks: FloatArray, threshold: float = 4.0) -> npt.NDArray[np.bool_]:
    """Faces whose shape lies far from the median shape of the set, probably wrong landmarks.

    Every shape is centred and scaled to unit outer-eye distance (rotation is kept: aligned sets should be upright). The
    distance of a face is the mean distance of its points to the median shape. A face is suspicious when that distance
    exceeds the set's median distance by more than `threshold` times 1.4826 MAD (a robust standard deviation), or when
    it is not finite.

    Args:
        landmarks: (N, 68, 2), rows with NaN allowed.
        threshold: Robust standard deviations; higher flags fewer faces.

    Returns:
        (N,) bool, True = look at it before training on it.

    """
    points = np.asarray(landmarks, dtype=np.float64)
    scale = eye_distance(points.astype(np.float32)).astype(np.float64)
    usable = np.isfinite(points).all((1, 2)) & (scale > 0)
    flagged = ~usable
    if not usable.any():
        return flagged
    shapes = points[usable] - points[usable].mean(1, keepdims=True)
    shapes /= scale[usable, None, None]
    distance = np.linalg.norm(shapes - np.median(shapes, axis=0), axis=2).mean(1)
    middle = np.median(distance)
    spread = 1.4826 * np.median(np.abs(distance - middle))
    # A floor of 1 % of the eye distance keeps a set of nearly identical shapes from flagging rounding noise.
    flagged[usable] = distance - middle > threshold * max(float(spread), 0.01)
    return flagged


def normalised_error(found: FloatArray, truth: FloatArray) -> FloatArray:
    """NME: mean point distance in percent of the outer-eye distance of `truth`, (..., 68, 2) -> (...). Lower is better.

    Points that are NaN in `truth` are left out (NaN when none is left or an eye corner is unknown).
    """
    gap = np.linalg.norm(np.asarray(found, np.float64) - truth, axis=-1)
    known = np.isfinite(gap)
    count = known.sum(-1)
    total = np.where(known, gap, 0.0).sum(-1)
    mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return np.asarray(100 * mean / eye_distance(truth), dtype=np.float32)


# --- files that the user brings ------------------------------------------------------------------------------------


def read_landmarks(path: Path) -> dict[str, FloatArray]:
    """Landmarks by image id from a file or a folder.

    These forms are read:

    * ``.txt`` published by the guided-AU authors: lines ``id,x1..x68,y1..y68``; ``inf`` = no face.
    * ``.csv`` with a header: an id column (``id``, ``image``, ``path``, ``file`` or ``row``, else the first column) and
      columns ``x1..x68,y1..y68`` or ``x_0..x_67,y_0..y_67`` (OpenFace). Empty cells = unknown.
    * ``.npz`` with ``landmarks`` (or ``ibug68``) (N, 68, 2) and ids in ``id``, ``path`` or ``row``.
    * ``.npy`` (68, 2), id = file stem; or (N, 68, 2), ids = "0", "1", ...
    * ``.pts`` of the iBUG annotations, one face a file, id = file stem. Those count pixels from 1, as MATLAB does, so 1
      is subtracted here.
    * a folder of ``.pts``, ``.npy`` or ``.txt`` files, id = file stem; a ``.txt`` of 68 lines ``row col`` is y, x.

    Returns:
        id -> (68, 2) float32, all NaN where the file says that no face was found.

    Raises:
        DataError: not found, unknown form, or a value that is no number, naming file and line.

    """
    if path.is_dir():
        files = [file for file in sorted(path.iterdir()) if file.suffix.lower() in (".pts", ".npy", ".txt")]
        if not files:
            raise DataError(f"{path}: no .pts, .npy or .txt landmark files in this folder.")
        return {name: points for file in files for name, points in read_landmarks(file).items()}
    if not path.is_file():
        raise DataError(f"{path}: landmark file not found.")
    readers = {".txt": _read_text, ".csv": _read_csv, ".npz": _read_npz, ".npy": _read_npy, ".pts": _read_pts}
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise DataError(
            f"{path}: unknown landmark format '{suffix}'; give one of {', '.join(sorted(readers))} or a folder."
        )
    try:
        return readers[suffix](path)
    except (UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path}: cannot be read as {suffix} ({error}).") from error


def _numbers(cells: Iterable[str], place: str) -> npt.NDArray[np.float64]:
    """Cells as numbers; empty -> NaN, infinite -> NaN (the published mark for 'no face')."""
    values = []
    for cell in cells:
        try:
            values.append(float(cell) if cell.strip() else np.nan)
        except ValueError as error:
            raise DataError(f"{place}: '{cell}' is not a number; expected landmark coordinates.") from error
    array = np.array(values, dtype=np.float64)
    array[~np.isfinite(array)] = np.nan
    return array


def _points(array: npt.NDArray[np.float64], place: str) -> FloatArray:
    if array.shape[-2:] != (LANDMARKS, 2):
        raise DataError(f"{place}: shape {array.shape} found, (68, 2) points expected (iBUG-68).")
    return np.where(np.isfinite(array), array, np.nan).astype(np.float32)


def _read_text(path: Path) -> dict[str, FloatArray]:
    lines = [(n, line) for n, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1) if line.strip()]
    if len(lines) == LANDMARKS and "," not in lines[0][1]:
        rows = [_numbers(line.split(), f"{path}, line {n}") for n, line in lines]
        if any(len(row) != 2 for row in rows):
            raise DataError(f"{path}: 68 lines of 'row col' expected, a line with another count of numbers found.")
        return {path.stem: _points(np.stack(rows)[:, ::-1], str(path))}
    result = {}
    for n, line in lines:
        # The id is split off from the right, so that an id with commas survives.
        name, *cells = line.rsplit(",", 2 * LANDMARKS)
        if len(cells) != 2 * LANDMARKS:
            raise DataError(f"{path}, line {n}: {len(cells)} numbers found, 'id,x1..x68,y1..y68' (136) expected.")
        values = _numbers(cells, f"{path}, line {n}")
        result[name] = _points(values.reshape(2, LANDMARKS).T, f"{path}, line {n}")
    return result


def _read_csv(path: Path) -> dict[str, FloatArray]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file, skipinitialspace=True)
        header = [cell.strip().lower() for cell in next(rows, [])]
        styles = (
            [f"{axis}{i}" for axis in "xy" for i in range(1, LANDMARKS + 1)],
            [f"{axis}_{i}" for axis in "xy" for i in range(LANDMARKS)],
        )
        columns = next((style for style in styles if set(style) <= set(header)), None)
        if columns is None:
            raise DataError(f"{path}: no columns x1..x68,y1..y68 (or x_0..x_67,y_0..y_67) in the header.")
        where = [header.index(column) for column in columns]
        key = next((header.index(name) for name in ("id", "image", "path", "file", "row") if name in header), 0)
        result = {}
        for n, row in enumerate(rows, 2):
            if not row:
                continue
            if len(row) < len(header):
                raise DataError(f"{path}, line {n}: {len(row)} cells, but the header has {len(header)}.")
            values = _numbers((row[i] for i in where), f"{path}, line {n}")
            result[row[key]] = _points(values.reshape(2, LANDMARKS).T, f"{path}, line {n}")
    return result


def _load(path: Path) -> npt.NDArray[np.float64] | dict[str, npt.NDArray[np.generic]]:
    try:
        loaded = np.load(path, allow_pickle=False)
        return dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else np.asarray(loaded, np.float64)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{path}: not a readable numpy file of plain numbers ({error}).") from error


def _read_npz(path: Path) -> dict[str, FloatArray]:
    arrays = _load(path)
    if not isinstance(arrays, dict):
        raise DataError(f"{path}: is a single array; name it .npy.")
    values = next((arrays[name] for name in ("landmarks", "ibug68") if name in arrays), None)
    ids = next((arrays[name] for name in ("id", "path", "row") if name in arrays), None)
    if values is None or ids is None or len(values) != len(ids):
        raise DataError(f"{path}: needs 'landmarks' (N, 68, 2) and as many ids in 'id', 'path' or 'row'.")
    points = _points(values.astype(np.float64), f"{path}, landmarks")
    return {str(name): points[i] for i, name in enumerate(ids.tolist())}


def _read_npy(path: Path) -> dict[str, FloatArray]:
    array = _load(path)
    if isinstance(array, dict):
        raise DataError(f"{path}: holds several arrays; name it .npz.")
    points = _points(array, str(path))
    return {path.stem: points} if points.ndim == 2 else {str(i): face for i, face in enumerate(points)}


def _read_pts(path: Path) -> dict[str, FloatArray]:
    text = path.read_text(encoding="utf-8")
    body = text[text.find("{") + 1 : text.rfind("}")] if "{" in text and "}" in text else ""
    values = _numbers(body.split(), str(path))
    if len(values) != 2 * LANDMARKS:
        raise DataError(f"{path}: {len(values)} numbers between braces, 68 lines 'x y' expected.")
    return {path.stem: _points(values.reshape(LANDMARKS, 2) - 1.0, str(path))}
