"""Find faces in photographs: one small interface, and the table of providers behind it.

A provider is a function: RGB uint8 (H, W, 3) -> faces, the main one first. No face found is an empty list, not an
error. Opening one loads its nets on one thread; open it once per process.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mien.errors import DataError, unknown_name
from mien.faces.landmark_files import Order, picture_keys, read_landmarks
from mien.faces.landmarks import eye_distance
from mien.schema import ByteArray, FloatArray


class Face(NamedTuple):
    """One face found in an image."""

    box: FloatArray
    """(4,) float32 x0, y0, x1, y1 in pixels of the image, not clipped."""
    landmarks: FloatArray
    """(68, 2) float32 iBUG-68 (x, y) pixels of the image, pixel centres at .0, not clipped."""
    score: float
    """Confidence of the provider; 0-1 for mediapipe, an open scale for dlib, 1 for given landmarks."""
    provider: str
    """Key of PROVIDERS, or "given"."""
    blendshapes: FloatArray | None = None
    """(52,) in [0, 1], coefficients of `blendshapes.BLENDSHAPES`; None from a provider that has none."""


Provider = Callable[[ByteArray], list[Face]]


def overlap(box: FloatArray, boxes: FloatArray) -> FloatArray:
    """Intersection over union of one box (4,) with boxes (n, 4), x0 y0 x1 y1: (n,) in [0, 1]."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    common = np.prod(np.maximum(high - low, 0), axis=1)
    union = np.prod(box[2:] - box[:2]) + np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) - common
    return np.asarray(common / np.maximum(union, 1e-9), dtype=np.float32)


def check_image(image: ByteArray) -> None:
    """DataError unless the image is RGB uint8 (H, W, 3) with at least one pixel."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise DataError(f"image of shape {image.shape} and type {image.dtype}: RGB uint8 (H, W, 3) is expected.")


def main_first(faces: list[Face], height: int, width: int) -> list[Face]:
    """Sort faces by area of the box times closeness to the image centre (1 at the centre, 0.2 in a corner)."""

    def weight(face: Face) -> float:
        x0, y0, x1, y1 = (float(v) for v in face.box)
        off = np.hypot((x0 + x1 + 1 - width) / width, (y0 + y1 + 1 - height) / height) / np.sqrt(2)
        return max(x1 - x0, 0) * max(y1 - y0, 0) * max(1 - 0.8 * float(off), 0.0)

    return sorted(faces, key=weight, reverse=True)


def locate(images: Sequence[ByteArray], provider: Provider) -> list[Face | None]:
    """The main face of each image, None where the provider finds none. Order is kept."""
    return [next(iter(provider(image)), None) for image in images]


def points_box(landmarks: FloatArray) -> FloatArray:
    """Box of the known points, widened upwards by half an eye distance, as iBUG-68 has no forehead. (68, 2) -> (4,)."""
    low, high = np.nanmin(landmarks, 0), np.nanmax(landmarks, 0)
    scale = float(eye_distance(landmarks))
    low[1] -= 0.5 * (scale if np.isfinite(scale) else float(high[0] - low[0]) / 2)
    return np.concatenate([low, high]).astype(np.float32)


def open_given(path: Path, order: Order = "row-col") -> Callable[..., list[Face] | None]:
    """Faces that the user brings, looked up by image id and picture path (not by pixels).

    `read_landmarks` says which files are read and what `order` is, `picture_keys` how a picture finds its entry.

    Returns:
        (image_id, picture=None) -> one face; [] where the file lists the picture without a face; None where it does not
        list it. DataError when one entry fits two pictures.

    """
    table = read_landmarks(path, order)
    taken: dict[str, str] = {}

    def look_up(image_id: str, picture: Path | None = None) -> list[Face] | None:
        key = next((key for key in picture_keys(image_id, picture) if key in table), None)
        if key is None:
            return None
        if taken.setdefault(key, image_id) != image_id:
            raise DataError(
                f"{path}: entry '{key}' fits the pictures '{taken[key]}' and '{image_id}'; "
                "name the entries by their paths in the dataset."
            )
        points = table[key]
        return [] if np.isnan(points).all() else [Face(points_box(points), points, 1.0, "given")]

    return look_up


def open_dlib(model: Path | None = None) -> Provider:
    """HOG detector and 68-point shape predictor of dlib (Kazemi and Sullivan 2014), for upright near-frontal faces.

    The published 68-point model was trained on iBUG 300-W, whose terms exclude commercial use.

    Args:
        model: Path of a 68-point predictor (.dat); None takes the one in the package face-recognition-models.

    """
    try:
        dlib: Any = importlib.import_module("dlib")
    except ImportError as error:
        raise DataError("provider 'dlib' needs dlib: pip install dlib-bin face-recognition-models.") from error
    path = model or installed_file("face-recognition-models", "shape_predictor_68_face_landmarks.dat")
    if path is None or not path.is_file():
        raise DataError(
            "no 68-point dlib model: pip install face-recognition-models, or give --landmark-model PATH of a .dat file."
        )
    detector, predictor = dlib.get_frontal_face_detector(), dlib.shape_predictor(str(path))

    def find(image: ByteArray) -> list[Face]:
        check_image(image)
        image = np.ascontiguousarray(image)
        # HOG needs faces of about 80 px: one upsampling for small images.
        boxes, scores, _ = detector.run(image, 1 if max(image.shape[:2]) < 640 else 0, 0.0)
        faces = []
        for box, score in zip(boxes, scores, strict=True):
            shape = predictor(image, box)
            points = np.array([(part.x, part.y) for part in shape.parts()], dtype=np.float32)
            corners = np.array([box.left(), box.top(), box.right(), box.bottom()], dtype=np.float32)
            faces.append(Face(corners, points, float(score), "dlib"))
        return main_first(faces, *image.shape[:2])

    return find


def open_mediapipe(model: Path | None = None) -> Provider:
    """MediaPipe's face mesh nets, run by LiteRT; see `mien.faces.mediapipe`."""
    from mien.faces import mediapipe

    return mediapipe.open_nets(model)


def installed_file(package: str, name: str) -> Path | None:
    """A file shipped by an installed distribution, found through its metadata without importing it."""
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.name == name), None)


PROVIDERS: dict[str, Callable[[Path | None], Provider]] = {
    "mediapipe": open_mediapipe,
    "dlib": open_dlib,
}
"""Provider name -> opener. Landmarks that the user brings are keyed by image id instead: see `open_given`."""


def open_provider(name: str, model: Path | None = None) -> Provider:
    """Open a provider of PROVIDERS by name.

    Args:
        name: Key of PROVIDERS; another name raises UsageError with the nearest.
        model: Model file; None looks in the places that the provider documents.

    """
    if name not in PROVIDERS:
        raise unknown_name("face provider", name, PROVIDERS)
    return PROVIDERS[name](model)
