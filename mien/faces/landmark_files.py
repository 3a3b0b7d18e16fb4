"""Readers of the landmark files that a user brings, and the way from a picture to its entry in such a file."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from mien.errors import DataError
from mien.faces.landmark_layouts import CURE, LAYOUTS, SCHEMES, as_68, refused
from mien.faces.landmark_tables import Found, flat_rows, known_points, main_face, main_faces, read_landmark_table
from mien.faces.landmarks import mirrored
from mien.faces.text_table import open_table
from mien.files import read_arrays, walk
from mien.schema import LANDMARKS, FloatArray

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

Order = Literal["row-col", "x-y"]
"""The two numbers of a line in a text file of 68 lines: y x (public files for PAL) or x y."""

FOLDER_SUFFIXES = (".npy", ".pts", ".txt", ".csv", ".json", ".mat")
POINTS = (
    "landmarks", "ibug68", "landmark", "points", "keypoints", "lmks", "pts", "landmarks_68", "landmarks68", "lmk", "kpts",
    "kps", "shape", "face_landmarks", "faceLandmarks", "multi_face_landmarks",
)  # fmt: skip
MATLAB = ("pts", "pt2d", "pts_2d", "pts2d", "landmarks", "points", "pt3d_68", "lms")
"""Names of points in MATLAB's files; those of 300W-LP are pt2d."""
IDS = (
    "id", "path", "row", "ids", "paths", "rows", "name", "names", "file", "files", "filename", "filenames", "image",
    "images", "imagePath", "image_name", "image_names", "image_path", "image_paths", "img_name", "img_names", "img_path",
    "img_paths", "key", "keys",
)  # fmt: skip
"""Names of arrays, or of entries in JSON."""


def read_landmarks(path: Path, order: Order = "row-col") -> dict[str, FloatArray]:
    """Landmarks by picture id from a file or a folder; nothing is clipped or wrapped, also below zero.

    These forms are read:

    * ``.txt`` published by the guided-AU authors: lines ``id,x1..x68,y1..y68``; ``inf`` = no face.
    * ``.txt`` of 68 lines with two numbers, id = file stem; `order` says which comes first.
    * ``.csv`` or ``.tsv`` with a header: an id column (``id``, ``image``, ``path``, ``file``, ``row``, ``input``, ..., else the
      first column) and columns ``x1..x68,y1..y68``, ``x0..x67,y0..y67`` or ``x_0..x_67,y_0..y_67`` (OpenFace, py-feat).
      Without an id, as OpenFace writes one file a picture, id = file stem. Empty cells = unknown.
    * ``.npz`` with ``landmarks`` (or another of POINTS) (N, 68, 2) and ids in ``id``, ``path``, ``row`` (or another of IDS); or
      with an array (68, 2) a picture.
    * ``.json``: picture -> points, or objects with one of IDS and one of POINTS; of one face also the points alone.
    * ``.npy`` (68, 2), id = file stem; or (N, 68, 2), ids = "0", "1", ...
    * ``.xml`` of dlib's imglab, parts 00 to 67; id = the path in it.
    * ``.txt``, ``.csv`` of rows with a picture's name and bare numbers, as WFLW's lists have them (`landmark_tables.flat_rows`).
    * ``.mat`` with one of MATLAB's names; 1 is subtracted.
    * ``.pts`` of the iBUG annotations, one face a file, id = file stem. Those count pixels from 1, as MATLAB does, so 1
      is subtracted here.
    * a folder of ``.pts``, ``.npy``, ``.txt``, ``.csv`` or ``.json`` files, id = path inside it without suffix. A file of it that
      cannot be read counts as a face that was not found; one line on stderr says how many there are.

    Wherever 68 points fit, those of another scheme may stand (`landmark_layouts.LAYOUTS`). Points all in one place (zeros) are no
    face. Of several faces in a picture the main one is taken (`landmark_tables.main_face`).

    Returns:
        id -> (68, 2) float32, all NaN where the file says that no face was found.

    Raises:
        DataError: not found, unknown form, or a value that is no number, naming file and line; points of most faces are
            those of mirror images, so x and y are swapped.

    """
    path = Path(path)
    table = _here(_read_folder(path, order) if path.is_dir() else _read_file(path, order))
    some = [points for points in table.values() if np.isfinite(points).all()][:1000]
    wrong = int(mirrored(np.stack(some)).sum()) if some else 0
    if 2 * wrong > len(some):
        raise DataError(
            f"{path}: {wrong} of {len(some)} faces are mirror images of a face, so x and y are swapped; "
            f"text files of 68 lines were read as {order}, see --landmark-order."
        )
    return table


def _here(table: dict[str, FloatArray]) -> dict[str, FloatArray]:
    """The table with / between folders, and without the folders of another computer that all its paths have in common."""
    if not any("\\" in name or name.startswith("/") for name in table):
        return table
    names = [re.sub(r"[\\/]+", "/", name) for name in table]
    if all(re.match(r"(?:[A-Za-z]:)?/", name) for name in names):
        folders = [name.split("/")[:-1] for name in names]
        common = len(list(takewhile(lambda level: len(set(level)) == 1, zip(*folders, strict=False))))
        names = ["/".join(name.split("/")[common:]) for name in names]
    return dict(zip(names, table.values(), strict=True)) if len(set(names)) == len(names) else table


def picture_keys(image_id: str, picture: Path | None = None) -> Iterator[str]:
    """Names under which a picture may stand in a file of the user, the most exact first, each with and without suffix.

    Its id, then the end of its path: the whole, without the first folder, ... down to the bare name; a row of FER-2013 also by
    its number (row-00017 as 17). A file that names another version of the pictures (``our_aligned/a.jpg`` for
    ``original/a.jpg``, ``a_aligned`` for ``a.jpg``) does not fit by accident.
    """
    names = [image_id]
    if row := re.fullmatch(r"row-(\d+)", image_id):
        names += [str(int(row[1])), row[1]]
    if picture is not None:
        parts = picture.as_posix().split("/")
        names += ["/".join(parts[k:]) for k in range(len(parts))]
    for name in names:
        yield name
        bare = re.sub(r"\.[A-Za-z]\w{2,3}$", "", name)
        if bare != name:
            yield bare


def _read_folder(folder: Path, order: Order) -> dict[str, FloatArray]:
    files = [file for file in walk(folder) if file.suffix.lower() in FOLDER_SUFFIXES]
    if not files:
        raise DataError(f"{folder}: no landmark files ({', '.join(FOLDER_SUFFIXES)}) in this folder.")
    table: dict[str, FloatArray] = {}
    broken: list[str] = []
    for file in files:
        name = file.relative_to(folder).with_suffix("").as_posix()
        try:
            found = _read_file(file, order)
        except DataError as error:
            broken.append(str(error))
            found = {file.stem: np.full((LANDMARKS, 2), np.nan, dtype=np.float32)}
        # Frames of a video, which OpenFace counts from 1.
        if list(found) != [file.stem] and all(map(str.isdigit, found)) and file.suffix.lower() == ".csv":
            found = {f"{name}_{int(frame) - 1}": points for frame, points in found.items()}
        table.update({name: found[file.stem]} if list(found) == [file.stem] else found)
    if len(broken) == len(files):
        raise DataError(broken[0])
    table = _without_end(table)
    if broken:
        print(
            f"landmarks: {len(broken)} of {len(files)} files count as 'no face', the first: {broken[0]}",
            file=sys.stderr,
        )
    return table


ENDS = re.compile(r"[_.-](?:landmarks?(?:68)?|lm[ks]?|points|pts(?:68)?|lnd|68)$", re.IGNORECASE)


def _without_end(table: dict[str, FloatArray]) -> dict[str, FloatArray]:
    """The table, without what all names have behind the picture's (S005_001_00000011_landmarks)."""
    ends = {found[0] if (found := ENDS.search(name)) else "" for name in table}
    return (
        {name[: -len(end)]: points for name, points in table.items()}
        if len(ends) == 1 and (end := ends.pop())
        else table
    )


def _read_file(path: Path, order: Order) -> dict[str, FloatArray]:
    if not path.is_file():
        raise DataError(f"{path}: landmark file not found.")
    suffix = path.suffix.lower()
    readers = {
        ".csv": read_landmark_table, ".tsv": read_landmark_table, ".npz": _read_npz, ".npy": _read_npy, ".pts": _read_pts,
        ".xml": _read_xml, ".json": _read_json, ".mat": _read_mat,
    }  # fmt: skip
    if suffix != ".txt" and suffix not in readers:
        raise DataError(
            f"{path}: unknown landmark format '{suffix}'; give one of {', '.join(sorted([*readers, '.txt']))} or a folder; in Python, "
            "numpy.savez('landmarks.npz', landmarks=points, id=names) with points (N, 68, 2)."
        )
    try:
        return _read_text(path, order) if suffix == ".txt" else readers[suffix](path)
    except (UnicodeDecodeError, OSError, csv.Error) as error:
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
    points = as_68(array)
    if points is None:
        if array.ndim >= 2 and array.shape[-1] in (2, 3):
            raise DataError(f"{place}: {refused(array.shape[-2])}.")
        raise DataError(
            f"{place}: shape {array.shape} found, (68, 2) or (N, 68, 2) expected; what is read are {SCHEMES}."
        )
    return known_points(points)


def _read_text(path: Path, order: Order) -> dict[str, FloatArray]:
    lines = [(n, line) for n, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1) if line.strip()]
    pairs = [re.split(r"[,;\s]+", line.strip()) for _, line in lines]
    if pairs and all(len(pair) == 2 for pair in pairs):
        if len(pairs) not in LAYOUTS:
            raise DataError(f"{path}: {len(pairs)} lines of two numbers found, 68 expected: {refused(len(pairs))}.")
        rows = np.stack([_numbers(pair, f"{path}, line {n}") for (n, _), pair in zip(lines, pairs, strict=True)])
        return {path.stem: _points(rows[:, ::-1] if order == "row-col" else rows, str(path))}
    result: dict[str, FloatArray] = {}
    for n, line in lines:
        # The id is split off from the right, so that an id with commas survives.
        name, *cells = line.rsplit(",", 2 * LANDMARKS)
        if len(cells) != 2 * LANDMARKS:
            try:
                if not result:
                    return flat_rows(open_table(path))
                more = "."
            except DataError as error:
                more = f"; {str(error).split('; ', 1)[-1]}"  # which points they may be, and the remedy
            raise DataError(
                f"{path}, line {n}: {len(cells)} numbers after a comma found; "
                f"'id,x1..x68,y1..y68' (136) or 68 lines of two numbers expected{more}"
            )
        values = _numbers(cells, f"{path}, line {n}")
        result[name] = _points(values.reshape(2, LANDMARKS).T, f"{path}, line {n}")
    return result


def _read_npz(path: Path) -> dict[str, FloatArray]:
    arrays = read_arrays(path, REMEDY)
    if "" in arrays:
        raise DataError(f"{path}: is a single array; name it .npy.")
    values = next((arrays[name] for name in POINTS if name in arrays), None)
    ids = next((arrays[name] for name in IDS if name in arrays and arrays[name].ndim == 1), None)
    if values is None and arrays and all(array.ndim == 2 for array in arrays.values()):
        return {name: _points(_plain(array, path), f"{path}, {name}") for name, array in arrays.items()}
    if values is None or ids is None or values.shape[:1] != ids.shape or not ids.shape:
        raise DataError(
            f"{path}: needs 'landmarks' (N, 68, 2) and as many ids in 'id', 'path' or 'row', or one array (68, 2) a picture."
        )
    points = _points(_plain(values, path), f"{path}, landmarks")
    if points.ndim != 3:
        raise DataError(f"{path}: 'landmarks' has shape {values.shape}, (N, 68, 2) expected.")
    return {str(name): points[i] for i, name in enumerate(ids.tolist())}


def _read_npy(path: Path) -> dict[str, FloatArray]:
    arrays = read_arrays(path, REMEDY)
    if "" not in arrays:
        raise DataError(f"{path}: holds several arrays; name it .npz.")
    points = _points(_plain(arrays[""], path), str(path))
    points = points[0] if points.shape[:-2] == (1,) else points  # face-alignment's list of one face
    if points.ndim not in (2, 3):
        raise DataError(f"{path}: shape {points.shape} found, (68, 2) or (N, 68, 2) expected.")
    return {path.stem: points} if points.ndim == 2 else {str(i): face for i, face in enumerate(points)}


def _read_json(path: Path) -> dict[str, FloatArray]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise DataError(f"{path}: no readable JSON ({error}).") from error
    if isinstance(content, dict) and isinstance(content.get("shapes"), list):  # labelme: one file a picture
        content = [shape["points"] for shape in sorted(content["shapes"], key=_number_of)]
        return {path.stem: _of_list([pair for points in content for pair in points], str(path))}
    if isinstance(content, dict) and any(name in content for name in POINTS):
        content = next(content[name] for name in POINTS if name in content)
    if isinstance(content, dict):
        faces = {name: _entry(value, POINTS) if isinstance(value, dict) else value for name, value in content.items()}
    elif isinstance(content, list) and content and all(isinstance(value, dict) for value in content):
        faces = {str(_entry(value, IDS)): _entry(value, POINTS) for value in content}
    else:
        faces = {path.stem: content}
    if all(value is None for value in faces.values()):
        raise DataError(f"{path}: no points in it.")
    return {name: _of_list(value, f"{path}, {name}") for name, value in faces.items()}


def _entry(value: Any, names: tuple[str, ...]) -> Any:
    return next((value[name] for name in names if name in value), None) if isinstance(value, dict) else None


def _of_list(value: Any, place: str) -> FloatArray:
    """Points of nested lists, or of one list x0, y0, x1, ...; no face where there is none."""
    if value is None or value == []:
        return np.full((LANDMARKS, 2), np.nan, dtype=np.float32)
    try:
        if isinstance(value, list) and all(isinstance(point, dict) for point in value):
            value = [[point["x"], point["y"]] for point in value]
        elif isinstance(value, list) and value and all(_is_face(face) for face in value):  # MediaPipe: a list of faces
            return main_face([Found(_of_list(face, place)) for face in value])
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError, KeyError):
        raise DataError(f"{place}: no list of points [[x, y], ...]; what is read are {SCHEMES}; {CURE}.") from None
    return _points(array, place)


def _is_face(face: Any) -> bool:
    return isinstance(face, list) and bool(face) and all(isinstance(point, dict) and "x" in point for point in face)


def _number_of(shape: Any) -> int:
    """Number in the label of a point of labelme, for their order."""
    found = re.search(r"\d+", str(shape.get("label", ""))) if isinstance(shape, dict) else None
    return int(found[0]) if found else 0


def _read_mat(path: Path) -> dict[str, FloatArray]:
    """Points of MATLAB's files, counted from 1."""
    from scipy.io import loadmat

    try:
        content = loadmat(path, variable_names=MATLAB)
        array = next((np.asarray(content[name], dtype=np.float64) for name in MATLAB if name in content), None)
    except Exception as error:  # a damaged file fails in many ways
        raise DataError(f"{path}: not a readable file of MATLAB ({error}).") from None
    if array is None:
        raise DataError(f"{path}: holds no {', '.join(MATLAB)}.")
    return {path.stem: _points(array - 1, str(path))}


def _plain(array: npt.NDArray[np.generic], path: Path) -> npt.NDArray[np.float64]:
    """Numbers as float64; DataError for text, dates, complex numbers and records."""
    if array.dtype.kind not in "fiu":
        raise DataError(f"{path}: not a numpy file of plain numbers ({array.dtype}); {REMEDY}.")
    with np.errstate(over="ignore", invalid="ignore"):  # damaged numbers become infinite, and unknown later
        return np.asarray(array, dtype=np.float64)


REMEDY = "save plain numbers with numpy.save or numpy.savez"


def _read_pts(path: Path) -> dict[str, FloatArray]:
    text = path.read_text(encoding="utf-8")
    body = text[text.find("{") + 1 : text.rfind("}")] if "{" in text and "}" in text else ""
    values = _numbers(body.split(), str(path))
    if len(values) // 2 not in LAYOUTS or len(values) % 2:
        raise DataError(
            f"{path}: {len(values)} numbers between braces, 68 lines 'x y' expected; {refused(len(values) // 2)}."
        )
    return {path.stem: _points(values.reshape(-1, 2) - 1.0, str(path))}


def _read_xml(path: Path) -> dict[str, FloatArray]:
    """Faces of dlib's imglab: ``<image file=><box ><part name='00' x= y=/>``, counted from 0."""
    from xml.etree import ElementTree

    faces: dict[str, list[Found]] = {}
    try:
        for _, image in ElementTree.iterparse(path):
            if image.tag == "image":
                boxes = [_parts(box) for box in image.iter("box")]
                faces[image.get("file", "").replace("\\", "/")] = [Found(points) for points in boxes] or [
                    Found(np.full((LANDMARKS, 2), np.nan, dtype=np.float32))
                ]
                image.clear()
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{path}: not a readable file of dlib's imglab ({error}).") from error
    if not faces or all(np.isnan(face.points).all() for found in faces.values() for face in found):
        raise DataError(f"{path}: no <box> with the parts 00 to 67 in it.")
    return main_faces(faces, str(path))


def _parts(box: Element) -> FloatArray:
    points = np.full((LANDMARKS, 2), np.nan)
    for part in box.iter("part"):
        name = part.get("name", "")
        if name.isdigit() and int(name) < LANDMARKS:
            points[int(name)] = float(part.get("x", "nan")), float(part.get("y", "nan"))
    return known_points(points)
