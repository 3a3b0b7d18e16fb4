"""Bring a face to the five-point template that face models share, and its landmarks with it.

Matrices are (2, 3) and map (x, y) pixels, centres at .0, of the source image to those of the result:
p' = M @ [x, y, 1].
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mien.errors import DataError
from mien.faces.landmarks import five_points
from mien.schema import ByteArray, FloatArray

Matrix = npt.NDArray[np.floating]

TEMPLATE_SIZE = 112
TEMPLATE = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)
"""ArcFace template (Deng et al. 2019) for 112 x 112: left eye, right eye, nose tip, left and right mouth corner
as seen in the image, pixel centres at .0."""


HALVED = np.array([[2, 0, 0.5], [0, 2, 0.5], [0, 0, 1]])
"""Pixel centres of an image of half the size to those of the image."""


def template(size: int) -> FloatArray:
    """The five template points for a (size, size) image, (5, 2).

    Scaled about pixel centres, t -> (t + 0.5) size / 112 - 0.5, so that an image aligned at one size and then resized
    is the image aligned at the other size. The published plain factor size / 112 lies half a pixel off at 224.
    """
    return ((np.array(TEMPLATE) + 0.5) * size / TEMPLATE_SIZE - 0.5).astype(np.float32)


def similarity(source: FloatArray, target: FloatArray) -> Matrix | None:
    """Least-squares rotation, one scale and shift from source to target (Umeyama 1991, without reflection).

    In two dimensions the minimum of sum |a R(t) s_i + b - t_i|^2 has a closed form with c = a cos t and d = a sin t:
    c = sum <s, t> / sum |s|^2 and d = sum (s_x t_y - s_y t_x) / sum |s|^2 of the centred points.

    Args:
        source: (n, 2) points, n >= 2.
        target: (n, 2) points in the same order.

    Returns:
        (2, 3) matrix, or None when a point is not finite or the source or target points coincide.

    """
    s, t = np.asarray(source, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if not (np.isfinite(s).all() and np.isfinite(t).all()):
        return None
    s_mean, t_mean = s.mean(0), t.mean(0)
    s, t = s - s_mean, t - t_mean
    power = float((s**2).sum())
    if power < 1e-12:
        return None
    c, d = float((s * t).sum()) / power, float((s[:, 0] * t[:, 1] - s[:, 1] * t[:, 0]).sum()) / power
    if np.hypot(c, d) < 1e-9:
        return None
    turn = np.array([[c, -d], [d, c]])
    return np.hstack([turn, (t_mean - turn @ s_mean)[:, None]])


def move_points(points: FloatArray, matrix: Matrix) -> FloatArray:
    """Points (..., 2) moved by a (2, 3) matrix; NaN stays NaN."""
    return np.asarray(np.asarray(points, dtype=np.float64) @ matrix[:, :2].T + matrix[:, 2], dtype=np.float32)


def invert(matrix: Matrix) -> Matrix:
    """The (2, 3) matrix of the way back; DataError when there is none."""
    try:
        back = np.linalg.inv(matrix[:, :2])
    except np.linalg.LinAlgError as error:
        raise DataError("alignment matrix has no inverse: its scale is zero.") from error
    return np.hstack([back, (-back @ matrix[:, 2])[:, None]])


def warp(image: ByteArray, matrix: Matrix, size: int, replicate: bool = False) -> ByteArray:
    """The (size, size, C) view of an image under `matrix` (image to view), bilinear, antialiased when it shrinks a lot.

    Args:
        image: uint8 (H, W) or (H, W, C).
        matrix: (2, 3), pixel centres of the image to those of the view.
        size: Side of the view in pixels.
        replicate: Repeat the border pixels outside the image; False is black.

    """
    import cv2

    scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    if 0 < scale <= 0.5:  # bilinear sampling would skip pixels, so areas are averaged first
        image, matrix = _part_seen(image, matrix, size, margin=2 / scale)
        while scale <= 0.5:
            image, matrix, scale = _halved(image), matrix @ HALVED, 2 * scale
    border = cv2.BORDER_REPLICATE if replicate else cv2.BORDER_CONSTANT
    return np.asarray(
        cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=border), dtype=np.uint8
    )


def _halved(image: ByteArray) -> ByteArray:
    """Means of 2 x 2 pixels, faster than areas of any other size; an odd border counts twice."""
    import cv2

    height, width = image.shape[:2]
    if height % 2 or width % 2:
        image = np.asarray(cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE), dtype=np.uint8)
    half = (image.shape[1] // 2, image.shape[0] // 2)
    return np.asarray(cv2.resize(image, half, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _part_seen(image: ByteArray, matrix: Matrix, size: int, margin: float) -> tuple[ByteArray, Matrix]:
    """The part of the image that the (size, size) view shows, `margin` pixels more on each side, and its matrix.

    A view beside the image keeps the nearest pixels, whose border is then repeated.
    """
    corners = np.array([[0, 0], [size - 1, 0], [0, size - 1], [size - 1, size - 1]], dtype=np.float64)
    back = invert(matrix)
    seen = corners @ back[:, :2].T + back[:, 2]
    last = np.array([image.shape[1], image.shape[0]]) - 1
    left, top = np.clip(np.floor(seen.min(0) - margin), 0, last).astype(int)
    right, bottom = np.clip(np.ceil(seen.max(0) + margin), 0, last).astype(int)
    moved = matrix[:, 2] + matrix[:, :2] @ np.array([left, top])
    return image[top : bottom + 1, left : right + 1], np.hstack([matrix[:, :2], moved[:, None]])


def align(image: ByteArray, landmarks: FloatArray, size: int = 112) -> tuple[ByteArray, FloatArray, Matrix] | None:
    """Align a face to the five-point template.

    Args:
        image: uint8 (H, W) or (H, W, 3).
        landmarks: (68, 2) iBUG-68 pixels of `image`.
        size: Side of the aligned image in pixels.

    Returns:
        Aligned uint8 image (size, size[, 3]) with black outside the picture; the 68 landmarks in its pixels (float32);
        the (2, 3) matrix from image to aligned pixels. None when a point that it needs is unknown or all coincide.

    Raises:
        DataError: landmarks of another shape.

    """
    points = np.asarray(landmarks, dtype=np.float32)
    if points.shape != (68, 2):
        raise DataError(f"landmarks of shape {points.shape}: (68, 2) iBUG-68 points are needed to align a face.")
    matrix = similarity(five_points(points), template(size))
    if matrix is None:
        return None
    return warp(image, matrix, size), move_points(points, matrix), matrix
