"""Cut a face out of a photo as an exported model wants it: numpy only, from five points or 68, to the pixel as Mien does.

Five points are (x, y) pixels, centres at .0: the eye on the left of the picture, the eye on its right, nose tip, mouth corner on the
left, mouth corner on the right.
"""

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def crop(photo: Array, points: Array, about: dict[str, Any]) -> Array:
    """The (S, S, 3) uint8 face of an RGB photo (H, W, 3); `about` is the JSON in the model's metadata."""
    framing, size = about["framing"], about["framing"]["size"]
    matrix = similarity(five(np.asarray(points, np.float32)), np.array(framing["points"], np.float32))
    scale = np.hypot(matrix[0, 0], matrix[1, 0])
    if scale <= 0.5:  # shrink by halves first, or pixels would be skipped; only the part that is seen
        photo, matrix = part_seen(photo, matrix, size, 2 / scale)
    while scale <= 0.5:
        photo = np.pad(photo, ((0, photo.shape[0] % 2), (0, photo.shape[1] % 2), (0, 0)), "edge").astype(np.uint16)
        photo = ((photo[::2, ::2] + photo[1::2, ::2] + photo[::2, 1::2] + photo[1::2, 1::2] + 2) // 4).astype(np.uint8)
        matrix, scale = matrix @ [[2, 0, 0.5], [0, 2, 0.5], [0, 0, 1]], 2 * scale
    return warp(photo, matrix, size, replicate=not framing["aligned"])


def five(points: Array) -> Array:
    """Five points of five or of iBUG's 68: centres of the eyes, nose tip, corners of the mouth."""
    return (
        points if len(points) == 5 else np.stack([points[36:42].mean(0), points[42:48].mean(0), *points[[30, 48, 54]]])
    )


def similarity(source: Array, target: Array) -> Array:
    """(2, 3) rotation, scale and shift of least squares from source to target points (Umeyama 1991)."""
    source, target = source.astype(float), target.astype(float)
    s, t = source - source.mean(0), target - target.mean(0)
    c, d = (s * t).sum() / (s**2).sum(), (s[:, 0] * t[:, 1] - s[:, 1] * t[:, 0]).sum() / (s**2).sum()
    turn = np.array([[c, -d], [d, c]])
    return np.hstack([turn, (target.mean(0) - turn @ source.mean(0))[:, None]])


def part_seen(photo: Array, matrix: Array, size: int, margin: float) -> tuple[Array, Array]:
    """The part of a photo that the view shows, and its matrix."""
    corners = np.array([[0, 0], [size - 1, 0], [0, size - 1], [size - 1, size - 1]]) - matrix[:, 2]
    seen, last = corners @ np.linalg.inv(matrix[:, :2]).T, np.array(photo.shape[1::-1]) - 1
    low = np.clip(np.floor(seen.min(0) - margin), 0, last).astype(int)
    high = np.clip(np.ceil(seen.max(0) + margin), 0, last).astype(int)
    return photo[low[1] : high[1] + 1, low[0] : high[0] + 1], np.hstack(
        [matrix[:, :2], (matrix[:, 2] + matrix[:, :2] @ low)[:, None]]
    )


def warp(photo: Array, matrix: Array, size: int, replicate: bool) -> Array:
    """The (size, size, 3) view of a photo under a matrix; outside the photo black, or its border repeated.

    Bilinear on a grid of 1/32 pixel, as OpenCV samples.
    """
    (a, b, c), (d, e, f) = matrix
    over = 1 / (a * e - b * d)
    a, b, d, e = e * over, -b * over, -d * over, a * over
    back, steps = ((a, b, -a * c - b * f), (d, e, -d * c - e * f)), np.arange(size)
    columns, rows = (
        (np.rint((row[1] * steps[:, None] + row[2]) * 1024) + 16 + np.rint(row[0] * steps * 1024)).astype(int) >> 5
        for row in back
    )
    left, top, right, down = columns >> 5, rows >> 5, (columns & 31)[..., None], (rows & 31)[..., None]
    wide = np.pad(photo, ((1, 1), (1, 1), (0, 0)), "edge" if replicate else "constant").astype(int)

    def at(y: int, x: int) -> Array:
        return wide[np.clip(top + y + 1, 0, len(wide) - 1), np.clip(left + x + 1, 0, wide.shape[1] - 1)]

    upper, lower = (32 - right) * at(0, 0) + right * at(0, 1), (32 - right) * at(1, 0) + right * at(1, 1)
    return (((32 - down) * upper + down * lower + 512) >> 10).astype(np.uint8)
