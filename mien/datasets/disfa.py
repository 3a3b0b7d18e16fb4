"""DISFA (Mavadati et al. 2013, doi 10.1109/T-AFFC.2013.4): 27 people watching videos, twelve action units coded 0 to 5.

Layout as released: ``ActionUnit_Labels/SN001/SN001_au12.txt`` with lines ``frame,intensity`` (frames from 1),
``Videos_LeftCamera/LeftVideoSN001_comp.avi``, ``Video_RightCamera/RightVideoSN001_Comp.avi`` and
``Landmark_Points/SN001/tmp_frame_lm/SN001_0000_lm.mat`` (66 points of the left video). Frames that were written as pictures
are read too: ``images/SN001/1.jpg``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.data.arrow import Skipped
from mien.data.au_folds import NO_FOLD, split_of_subject
from mien.data.au_scale import intensity
from mien.data.au_table import spread_units
from mien.datasets import disfa_plus, graph_au
from mien.datasets.frame_numbers import first_number
from mien.errors import DataError, unknown_name
from mien.faces.video import VIDEO_SUFFIXES
from mien.files import IMAGE_SUFFIXES, listing
from mien.schema import ACTION_UNITS, LANDMARKS, FloatArray, Frame, Record

PICTURES = ("left", "right", "images")
CAMERAS = {"left": "leftcamera", "right": "rightcamera"}
IMAGE_FOLDERS = ("images", "imgs", "img", "frames")
FOLD = "literature-1"
INNER_CORNERS = {60: (48, 54), 64: (54, 48)}
"""Points of iBUG-68 that the 66 lack: from the first a small step towards the second."""
INNER_SHARE = 0.07


def records(
    root: Path, *, pictures: str | None = None, fold: str | None = None, first_frame: int | None = None
) -> Iterator[Record | Skipped]:
    """Frames of all subjects in order, id = subject and frame from 0 as in AUDetNet: ``SN003_110``.

    `root` is the folder with ``ActionUnit_Labels``. `pictures`: ``left`` or ``right`` camera, or ``images``, frames as picture
    files; by default what is there, in this order. Landmarks belong to the left camera and are read for it and for images.
    `fold` (default literature-1) says which subjects are split `test`; all others are `train`, and "none" puts all there.
    `first_frame` says whether picture files count from 0 or 1; by default all subjects together show it (`frame_numbers`).

    Lists of ME-GraphAU are read by `graph_au`, with `fold` 1, 2 or 3.

    DISFA+ (posed: ``Labels/SN001/<trial>/AU1.txt``, ``Images/SN001/<trial>/000.jpg``) is read by `disfa_plus`, without a fold.

    Intensities are kept as coded, 0 to 5: what counts as active (2 and more in papers, more than 2 in AUDetNet) is chosen
    when a model is trained or scored. A subject without pictures, and a frame with an unreadable label, are skipped.
    """
    root = Path(root)
    labels = root / "ActionUnit_Labels"
    if disfa_plus.is_there(root):
        yield from disfa_plus.records(root)
        return
    if lists := graph_au.find_lists(root, "disfa"):
        yield from graph_au.records(lists, root, "disfa", fold)
        return
    if not labels.is_dir():
        raise DataError(f"'{root}' is not DISFA: no ActionUnit_Labels in it, nor the Labels and Images of DISFA+.")
    kind = kind_of_pictures(root, pictures)
    folders = [path for path in listing(labels) if path.is_dir()]
    splits = {path.name: split_of_subject("disfa", fold or FOLD, path.name) for path in folders}
    people = [Person(root, path, kind) for path in folders]
    first = (
        first_number(((set(p.files), len(p.values)) for p in people), "pictures", first_frame)
        if kind == "images"
        else 0
    )
    marks = ((set(person.marks), len(person.values)) for person in people if len(person.marks) < len(person.values))
    first_mark = first_number(marks, "landmark files", first_frame)
    for person in people:
        yield from _frames(person, splits[person.name], first, first_mark)


def notes(root: Path, *, pictures: str | None = None, fold: str | None = None) -> dict[str, str]:
    """What the store should remember."""
    plus = disfa_plus.is_there(Path(root))
    listed = bool(graph_au.find_lists(Path(root), "disfa"))
    return {
        "source": "DISFA+, Mavadati, Sanger and Mahoor 2016" if plus else "DISFA, Mavadati et al. 2013",
        "licence": "research under DISFA's agreement; pictures may not be redistributed",
        "pictures": "images" if plus or listed else kind_of_pictures(Path(root), pictures),
        "fold": NO_FOLD if plus else fold or FOLD,
        "au_scale": "occurrence" if listed else "intensity",
    }


def kind_of_pictures(root: Path, pictures: str | None) -> str:
    """One of PICTURES: what was asked for, else the first that is there."""
    if pictures is not None and pictures not in PICTURES:
        raise unknown_name("kind of DISFA pictures", pictures, PICTURES)
    wanted = PICTURES if pictures is None else (pictures,)
    kind = next((kind for kind in wanted if _folder(root, kind) is not None), None)
    if kind is None:
        asked = {"left": "Videos_LeftCamera", "right": "Video_RightCamera", "images": "images"}
        raise DataError(f"'{root}' has no folder {' nor '.join(asked[name] for name in wanted)}.")
    return kind


def _folder(root: Path, kind: str) -> Path | None:
    folders = [path for path in listing(root) if path.is_dir()] if root.is_dir() else []
    if kind == "images":
        return next((path for path in folders if path.name.lower() in IMAGE_FOLDERS), None)
    return next((path for path in folders if path.name.lower().endswith(CAMERAS[kind])), None)


class Person:
    """Labels, pictures and landmark files of one subject."""

    def __init__(self, root: Path, labels: Path, kind: str) -> None:
        self.name, self.kind = labels.name, kind
        self.values, self.broken = read_labels(labels)
        place = _folder(root, kind)
        assert place is not None
        self.place = place
        self.files: dict[int, Path | Frame] = {}
        """Number in the file's name, or frame of the video from 0 -> picture."""
        if kind == "images":
            self.files = dict(_image_files(place, self.name))
        else:
            videos = [p for p in listing(place) if self.name in p.name and p.suffix.lower() in VIDEO_SUFFIXES]
            self.files = {number: Frame(videos[0], number) for number in range(len(self.values))} if videos else {}
        self.marks = _landmark_files(root / "Landmark_Points" / self.name) if kind != "right" else {}


def _frames(person: Person, split: str, first: int, first_mark: int) -> Iterator[Record | Skipped]:
    if not person.files:
        yield Skipped(person.name, f"no pictures in {person.place.name}")
        return
    points = _of_frames(person.marks, len(person.values), first_mark)
    for number, row in enumerate(person.values):
        name = f"{person.name}_{number}"
        picture = person.files.get(number + first)
        if number in person.broken:
            yield Skipped(name, person.broken[number])
        elif picture is None:
            yield Skipped(name, f"no picture in {person.place.name}")
        else:
            marks = read_points(points[number]) if number in points else None
            yield Record(name, picture, split, person.name, action_units=row, landmarks=marks)
    beyond = [number for number in person.files if not 0 <= number - first < len(person.values)]
    if beyond:
        yield Skipped(f"{person.name}, {len(beyond)} pictures", f"no label, the first is number {min(beyond)}")


def read_labels(folder: Path) -> tuple[FloatArray, dict[int, str]]:
    """(F, A) intensities 0-5 of the frames of one subject over schema.ACTION_UNITS, and frame -> reason it cannot be used.

    Of ``SN001_au12.txt`` and its siblings; NaN for units without a file. DataError for a line without a frame number.
    """
    files = sorted(
        (path for path in listing(folder) if path.match("*_au*.txt")), key=lambda path: (len(path.name), path.name)
    )
    columns: dict[str, dict[int, str]] = {}
    for path in files:
        found = re.search(r"_au(\d+)$", path.stem)
        name = f"AU{found[1]}" if found else ""
        if name not in ACTION_UNITS:
            raise DataError(f"'{path}': {unknown_name('action unit', name or path.stem, ACTION_UNITS)}")
        columns[name] = dict(_lines(path))
    if not columns:
        raise DataError(f"'{folder}' holds no labels such as {folder.name}_au12.txt.")
    count = max((max(cells, default=0) for cells in columns.values()), default=0)
    values = np.full((count, len(columns)), np.nan, dtype=np.float32)
    broken: dict[int, str] = {}
    for k, (name, cells) in enumerate(columns.items()):
        for frame in range(1, count + 1):
            text = cells.get(frame, "")
            value = intensity(text, "intensity") if text else None
            if value is None or (np.isfinite(value) and value != int(value)):
                broken[frame - 1] = f"{name} is '{text}', no intensity from 0 to 5"
            else:
                values[frame - 1, k] = value
    return spread_units(tuple(columns), values), broken


MOST_FRAMES = 1_000_000
"""Of a video; a larger number is none of a frame."""


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"'{path}' cannot be read ({error}).") from error
    for number, line in enumerate(lines, 1):
        frame, _, intensity = line.strip().partition(",")
        if frame.isdecimal() and len(frame) <= 9 and 0 < int(frame) <= MOST_FRAMES:
            yield int(frame), intensity.strip()
        elif line.strip():
            raise DataError(f"'{path}', line {number}: '{line.strip()[:40]}' is not 'frame,intensity'.")


def _image_files(place: Path, subject: str) -> Iterator[tuple[int, Path]]:
    """Number in the file's name -> file, of the folder that names the subject."""
    folders = [path for path in listing(place) if path.is_dir() and subject in path.name]
    left = [path for path in folders if "right" not in path.name.lower()]
    loose = () if left else (path for path in listing(place) if re.match(rf"{subject}[_-]", path.name))  # SN001_110.jpg
    for path in listing(left[0]) if left else loose:
        if path.suffix.lower() in IMAGE_SUFFIXES and (found := re.search(r"(\d+)$", path.stem)):
            yield int(found[1]), path


def _landmark_files(folder: Path) -> dict[int, Path]:
    """Number in the file's name -> file."""
    return {int(found[1]): path for path in folder.rglob("*.mat") if (found := re.search(r"(\d+)_lm$", path.stem))}


def _of_frames(found: dict[int, Path], frames: int, first: int) -> dict[int, Path]:
    """Frame from 0 -> landmark file. One for every frame: in order. One too many: the first belongs to no frame. Fewer: by their
    numbers, which count from `first` in all subjects.
    """
    order = sorted(found)[1:] if len(found) == frames + 1 else sorted(found)
    if len(order) == frames:
        return dict(enumerate(found[number] for number in order))
    return {number - first: path for number, path in found.items()}


def read_points(path: Path) -> FloatArray | None:
    """(68, 2) points of a ``.mat`` file with `pts`; None where it cannot be read.

    66 points lack the inner mouth corners of iBUG-68: these are put 7 % of the mouth's width inside the outer ones. Points
    count from 1, as in MATLAB, so 1 is subtracted.
    """
    from scipy.io import loadmat

    try:
        points: npt.NDArray[Any] = np.asarray(loadmat(path, variable_names=["pts"])["pts"], dtype=np.float64)
    except Exception:  # a damaged file fails in many ways
        return None
    if points.shape == (LANDMARKS, 2):
        return (points - 1).astype(np.float32)
    return None if points.shape != (LANDMARKS - 2, 2) else from_66_points(points - 1)


def from_66_points(points: npt.NDArray[Any]) -> FloatArray:
    """66 points (iBUG-68 without the inner mouth corners 60 and 64) -> (68, 2)."""
    whole = np.insert(np.asarray(points, dtype=np.float64), [60, 63], 0.0, axis=0)
    for corner, (near, far) in INNER_CORNERS.items():
        whole[corner] = whole[near] + INNER_SHARE * (whole[far] - whole[near])
    return whole.astype(np.float32)
