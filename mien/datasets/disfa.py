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
from mien.data.au_folds import split_of_subject
from mien.data.au_table import spread_units
from mien.datasets.folder import IMAGE_SUFFIXES
from mien.errors import DataError, unknown_name
from mien.faces.video import VIDEO_SUFFIXES
from mien.schema import ACTION_UNITS, LANDMARKS, FloatArray, Frame, Record

PICTURES = ("left", "right", "images")
CAMERAS = {"left": "leftcamera", "right": "rightcamera"}
IMAGE_FOLDERS = ("images", "imgs", "img", "frames")
FOLD = "literature-1"
INNER_CORNERS = {60: (48, 54), 64: (54, 48)}
"""Points of iBUG-68 that the 66 lack: from the first a small step towards the second."""
INNER_SHARE = 0.07


def records(root: Path, *, pictures: str | None = None, fold: str | None = None) -> Iterator[Record | Skipped]:
    """Frames of all subjects in order, id = subject and frame from 0 as in AUDetNet: ``SN003_110``.

    `root` is the folder with ``ActionUnit_Labels``. `pictures`: ``left`` or ``right`` camera, or ``images``, frames as picture
    files; by default what is there, in this order. Landmarks belong to the left camera and are read for it and for images.
    `fold` (default literature-1) says which subjects are split `test`; all others are `train`.

    Intensities are kept as coded, 0 to 5: what counts as active (2 and more in papers, more than 2 in AUDetNet) is chosen
    when a model is trained or scored. A subject without pictures, and a frame with an unreadable label, are skipped.
    """
    root = Path(root)
    labels = root / "ActionUnit_Labels"
    if not labels.is_dir():
        raise DataError(f"'{root}' is not DISFA: no ActionUnit_Labels in it.")
    subjects = sorted(path.name for path in labels.iterdir() if path.is_dir() and not path.name.startswith("."))
    kind = kind_of_pictures(root, pictures)
    for subject in subjects:
        split = split_of_subject("disfa", fold or FOLD, subject)
        yield from _subject(root, labels / subject, kind, split)


def notes(root: Path, *, pictures: str | None = None, fold: str | None = None) -> dict[str, str]:
    """What the store should remember."""
    return {
        "source": "DISFA, Mavadati et al. 2013",
        "licence": "research under DISFA's agreement; pictures may not be redistributed",
        "pictures": kind_of_pictures(Path(root), pictures),
        "fold": fold or FOLD,
        "au_scale": "intensity",
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
    folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    if kind == "images":
        return next((path for path in folders if path.name.lower() in IMAGE_FOLDERS), None)
    return next((path for path in folders if path.name.lower().endswith(CAMERAS[kind])), None)


def _subject(root: Path, labels: Path, kind: str, split: str) -> Iterator[Record | Skipped]:
    subject = labels.name
    values, broken = read_labels(labels)
    place = _folder(root, kind)
    assert place is not None
    frames: dict[int, Path | Frame] = {}
    if kind == "images":
        frames = dict(_image_files(place, subject))
    else:
        videos = [p for p in sorted(place.iterdir()) if subject in p.name and p.suffix.lower() in VIDEO_SUFFIXES]
        frames = {number: Frame(videos[0], number) for number in range(len(values))} if videos else {}
    if not frames:
        yield Skipped(subject, f"no pictures in {place.name}")
        return
    points = _landmark_files(root / "Landmark_Points" / subject, len(values)) if kind != "right" else {}
    for number, row in enumerate(values):
        name = f"{subject}_{number}"
        if number in broken:
            yield Skipped(name, broken[number])
        elif number not in frames:
            yield Skipped(name, f"no picture in {place.name}")
        else:
            marks = read_points(points[number]) if number in points else None
            yield Record(name, frames[number], split, subject, action_units=row, landmarks=marks)


def read_labels(folder: Path) -> tuple[FloatArray, dict[int, str]]:
    """(F, A) intensities 0-5 of the frames of one subject over schema.ACTION_UNITS, and frame -> reason it cannot be used.

    Of ``SN001_au12.txt`` and its siblings; NaN for units without a file. DataError for a line without a frame number.
    """
    files = sorted(folder.glob("*_au*.txt"), key=lambda path: (len(path.name), path.name))
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
            if text not in ("0", "1", "2", "3", "4", "5"):
                broken[frame - 1] = f"{name} is '{text}', no intensity from 0 to 5"
            else:
                values[frame - 1, k] = float(text)
    return spread_units(tuple(columns), values), broken


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"'{path}' cannot be read ({error}).") from error
    for number, line in enumerate(lines, 1):
        frame, _, intensity = line.strip().partition(",")
        if frame.isdigit() and int(frame) > 0:
            yield int(frame), intensity.strip()
        elif line.strip():
            raise DataError(f"'{path}', line {number}: '{line.strip()[:40]}' is not 'frame,intensity'.")


def _image_files(place: Path, subject: str) -> Iterator[tuple[int, Path]]:
    """Frame from 0 -> file, of the folder that names the subject; numbers in file names count from 0 or 1."""
    folders = [path for path in sorted(place.iterdir()) if path.is_dir() and subject in path.name]
    left = [path for path in folders if "right" not in path.name.lower()]
    files = sorted(left[0].iterdir()) if left else []
    numbers = {
        int(found[1]): path
        for path in files
        if path.suffix.lower() in IMAGE_SUFFIXES and (found := re.search(r"(\d+)$", path.stem))
    }
    first = 0 if 0 in numbers else 1
    for number, path in numbers.items():
        yield number - first, path


def _landmark_files(folder: Path, frames: int) -> dict[int, Path]:
    """Frame from 0 -> file. Numbers in the names begin at 0; where there is one file too many, the first belongs to no frame."""
    found = {int(number[1]): path for path in folder.rglob("*.mat") if (number := re.search(r"(\d+)_lm$", path.stem))}
    if len(found) == frames + 1:
        found.pop(min(found))
    if len(found) == frames:
        return dict(enumerate(found[number] for number in sorted(found)))
    return found


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
