"""A tiny trained run, a finder of faces that needs no nets, and pictures with bright marks for it to find."""

from pathlib import Path

import numpy as np
import tiny
from PIL import Image

from mien.faces.detect import points_box
from mien.faces.provider import Face

MARK = (255, 0, 255)
"""A pixel of this colour is the upper left corner of a face that is SIDE px large."""
SIDE = 60


def face_at(x: float, y: float, size: float = SIDE) -> Face:
    """A face whose landmarks fill a square."""
    points = tiny.points(size) + np.float32([x, y])
    return Face(points_box(points), points, 0.9, "test")


def find(image: np.ndarray) -> list[Face]:
    """A face at every mark, from left to right."""
    ys, xs = np.nonzero((np.abs(image.astype(int) - MARK) < 60).all(axis=2))
    corners: list[tuple[int, int]] = []
    for x, y in sorted(zip(xs.tolist(), ys.tolist(), strict=True)):
        if all(abs(x - a) > 17 or abs(y - b) > 17 for a, b in corners):
            corners.append((x, y))
    return [face_at(x, y) for x, y in corners]


def picture(*corners: tuple[int, int], size: tuple[int, int] = (160, 96), seed: int = 0) -> np.ndarray:
    """RGB noise with a mark at each corner."""
    image = np.random.default_rng(seed).integers(0, 200, (size[1], size[0], 3), dtype=np.uint8)
    image[..., 1] = np.maximum(image[..., 1], 80)
    for x, y in corners:
        image[y : y + 3, x : x + 3] = MARK
    return image


def frame(*corners: tuple[int, int], size: tuple[int, int] = (160, 96)) -> np.ndarray:
    """A picture that survives the compression of a video: grey, with large marks."""
    image = np.full((size[1], size[0], 3), 110, np.uint8)
    for x, y in corners:
        image[y : y + 16, x : x + 16] = MARK
    return image


def save(path: Path, image: np.ndarray, **options: object) -> Path:
    Image.fromarray(image).save(path, **options)
    return path


def write_video(path: Path, frames: list[np.ndarray], rate: float = 10.0, codec: str = "MJPG") -> Path:
    import cv2

    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), rate, (width, height))
    assert writer.isOpened()
    for frame in frames:
        writer.write(frame[:, :, ::-1])
    writer.release()
    return path
