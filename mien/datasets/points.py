"""Landmarks that a user brings, laid over the records of a dataset, and whether they are in pixels of its pictures."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from mien.data.arrow import Skipped
from mien.errors import DataError, PictureError, UsageError
from mien.faces.detect import open_given, points_box
from mien.faces.frame_order import in_order, is_sequence
from mien.faces.landmark_files import read_landmarks
from mien.faces.pictures import upright_size
from mien.faces.provider import Face
from mien.schema import FloatArray, Record

Read = Callable[[], Iterator[Record | Skipped]]

SAMPLE = 100
"""Faces that the frame of landmarks is found out from."""
WIDEST = 1.1
"""Largest share of the picture's longer side that the points of a face may span."""
USUAL_FRAMES = (48, 64, 96, 100, 112, 128, 160, 178, 192, 218, 224, 256, 299, 320, 384, 480, 512, 640, 720, 1024)


def laid_over(read: Read, landmarks: Path, order: Literal["row-col", "x-y"]) -> Read:
    """The records of a dataset with the landmarks of a user's file, which is read once.

    Those of a table of frames, without names of pictures, are theirs by number or by order (`frame_order`).
    """
    if is_sequence(Path(landmarks)):
        table = {int(float(frame)): points for frame, points in read_landmarks(landmarks, order).items()}
        return functools.partial(with_points, read, _by_frame(read, table, landmarks), landmarks)
    return functools.partial(with_points, read, open_given(landmarks, order), landmarks)


def _by_frame(read: Read, table: dict[int, FloatArray], landmarks: Path) -> Callable[..., list[Face] | None]:
    """As `open_given`, for a table with a number a frame."""

    @functools.cache
    def frames() -> dict[str, int]:
        names = [item.id for item in read() if isinstance(item, Record)]
        found = in_order([*table], names, f"'{landmarks}'")
        first = min(found)
        print(f"landmarks: frame {first} of '{landmarks.name}' is '{found[first]}', and so on.", file=sys.stderr)
        return {name: frame for frame, name in found.items()}

    def look_up(image_id: str, picture: Path | None = None) -> list[Face] | None:
        frame = frames().get(image_id)
        if frame is None:
            return None
        points = table[frame]
        return [] if np.isnan(points).all() else [Face(points_box(points), points, 1.0, "given")]

    return look_up


def with_points(read: Read, look_up: Callable[..., list[Face] | None], landmarks: Path) -> Iterator[Record | Skipped]:
    """Records with the landmarks of a user's file; a picture that it does not list has no face, but some must fit."""

    def laid(item: Record) -> Record | None:
        found = look_up(item.id, item.image if isinstance(item.image, Path) else None)
        return None if found is None else item._replace(landmarks=found[0].landmarks if found else None)

    records = (item for item in read() if isinstance(item, Record))
    if (first := next(records, None)) is not None and all(laid(item) is None for item in chain([first], records)):
        raise DataError(
            f"'{landmarks}' lists no picture of this dataset, whose first is '{first.id}': its faces need these ids or the ends of "
            "them, in a column 'image', in 'id' of .npz, or as names of files "
            "(OpenFace's FeatureExtraction numbers its rows, FaceLandmarkImg writes a file a picture)."
        )
    for item in read():
        yield (laid(item) or item._replace(landmarks=None)) if isinstance(item, Record) else item


def read_frame(text: str) -> tuple[int, int]:
    """Width and height of "100" or "120x100"; "1" says that points are shares of the picture."""
    found = re.fullmatch(r"(\d+)(?:x(\d+))?", text.strip().lower())
    sides = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if min(sides) < 1:
        raise UsageError(f"--landmark-frame '{text}' is no size in pixels: write 100, or 120x100 (width x height).")
    return sides


def check_frame(items: Iterator[Record | Skipped]) -> None:
    """DataError with the option that cures it where the landmarks of most faces cannot be pixels of their pictures.

    Of the first hundred faces with points: more than half have most points outside, or span above 110 % of the longer side;
    or all lie within a corner that is less than 60 % of the picture.
    """
    first = (item for item in islice(items, 5 * SAMPLE) if isinstance(item, Record))
    pairs = [(item.landmarks, item) for item in first if item.landmarks is not None]
    known = [(face, item) for face, item in pairs if np.isfinite(face).all()][:SAMPLE]
    shares = [face for face, _ in known if as_shares(face)]
    if shares and 2 * sum(bool((face < -0.02).any(axis=1).mean() > 0.3) for face in shares) > len(shares):
        raise DataError(
            "landmarks: points from -1 to 1, neither pixels nor shares of the picture: write (p + 1) / 2, which are shares from "
            "0 to 1, or pixels."
        )
    if shares:
        print("landmarks: shares of the picture, from 0 to 1, are scaled to it.", file=sys.stderr)
    pixels = [(face, picture_size(item)) for face, item in known if not as_shares(face)]
    sized = [(face, size) for face, size in pixels if size is not None]
    if not sized:
        return
    points = np.stack([face for face, _ in sized]).astype(np.float64)
    sizes = np.array([size for _, size in sized], dtype=np.float64)[:, None]
    outside = ((points < -0.5) | (points > sizes - 0.5)).any(axis=2).mean(axis=1) > 0.5
    span = np.ptp(points, axis=1).max(axis=1) / sizes.max(axis=(1, 2))
    wrong = outside | (span > WIDEST)
    if 2 * wrong.sum() > len(wrong):
        raise DataError(
            _refusal(f"the points of {wrong.sum()} of {len(wrong)} faces leave their pictures", points, sizes)
        )
    # A corner: nothing beyond 60 %, and the middle of the faces well above and left of the pictures' middle.
    share = (points + 0.5) / sizes
    if len(sized) >= 10 and share.max() < 0.6 and (share.mean(axis=(0, 1)) < 0.35).all():
        raise DataError(_refusal(f"the points of all {len(sized)} faces lie in the top left corner", points, sizes))


def _refusal(what: str, points: npt.NDArray[np.float64], sizes: npt.NDArray[np.float64]) -> str:
    most = float(np.percentile(points.max(axis=(1, 2)), 75))  # some faces leave their frame
    frame = next((side for side in USUAL_FRAMES if side >= most), 1024)
    width, height = (int(n) for n in np.median(sizes[:, 0], axis=0))
    return (
        f"landmarks: {what} (up to {most:.0f} in pictures of {width} x {height} pixels): they live in another frame. Add its size, "
        f"e.g. --landmark-frame {frame}x{frame} (width x height), or --landmark-frame {width}x{height} if these are pixels."
    )


def picture_size(item: Record) -> tuple[int, int] | None:
    """Width and height of a record's picture without decoding it, upright; None where that cannot be told."""
    if isinstance(item.image, np.ndarray):
        return int(item.image.shape[1]), int(item.image.shape[0])
    try:
        return upright_size(item.image) if isinstance(item.image, Path | bytes) else None
    except PictureError:
        return None


def as_shares(points: FloatArray) -> bool:
    """Whether points are shares of the picture: nothing beyond 2, where a face of pixels spans tens."""
    known = points[np.isfinite(points)]
    return bool(known.size and np.abs(known).max() <= 2.0)
