"""A vectorised z-buffer rasteriser in numpy: triangles -> triangle number and barycentric weights per pixel."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mien.schema import FloatArray

IntArray = npt.NDArray[np.int64]


class Fragments(NamedTuple):
    """The nearest surface at every covered pixel; P covered pixels."""

    pixel: IntArray
    """(P,) flat pixel index, row * width + column."""
    triangle: IntArray
    """(P,) row of the triangle array that was given."""
    weights: FloatArray
    """(P, 3) barycentric weights."""
    depth: FloatArray
    """(H * W,) z of the nearest surface, -inf where nothing is."""


def rasterise(points: FloatArray, triangles: IntArray, size: int, two_sided: bool = False) -> Fragments:
    """Z-buffer of points (V, 3): x right and y down in pixels (centres at .0), z towards the viewer.

    Triangles are counter-clockwise seen from outside in a y-up world, so clockwise here; back faces are culled
    unless `two_sided`. All pixels of all bounding boxes are tested at once, which suits meshes of many small triangles.
    """
    corner = points[triangles]
    x, y, z = corner[..., 0], corner[..., 1], corner[..., 2]
    area = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (x[:, 2] - x[:, 0]) * (y[:, 1] - y[:, 0])
    left = np.clip(np.ceil(x.min(1)), 0, size).astype(np.int64)
    right = np.clip(np.floor(x.max(1)) + 1, 0, size).astype(np.int64)
    top = np.clip(np.ceil(y.min(1)), 0, size).astype(np.int64)
    bottom = np.clip(np.floor(y.max(1)) + 1, 0, size).astype(np.int64)
    facing = np.abs(area) > 1e-6 if two_sided else area < -1e-6
    keep = facing & (right > left) & (bottom > top)
    chosen = np.flatnonzero(keep)
    x, y, z, area = x[chosen], y[chosen], z[chosen], area[chosen]
    left, top = left[chosen], top[chosen]
    wide, high = right[chosen] - left, bottom[chosen] - top
    count = wide * high
    row = np.repeat(np.arange(len(chosen)), count)
    inside_box = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    column_of = inside_box % wide[row]
    px = (left[row] + column_of).astype(np.float32)
    py = (top[row] + inside_box // wide[row]).astype(np.float32)
    inverse = (1.0 / area).astype(np.float32)
    # Plane equations of the first two weights: w = a * (px - x2) + b * (py - y2).
    a0, b0 = (y[:, 1] - y[:, 2]) * inverse, (x[:, 2] - x[:, 1]) * inverse
    a1, b1 = (y[:, 2] - y[:, 0]) * inverse, (x[:, 0] - x[:, 2]) * inverse
    dx, dy = px - x[row, 2], py - y[row, 2]
    w0 = a0[row] * dx + b0[row] * dy
    w1 = a1[row] * dx + b1[row] * dy
    w2 = 1 - w0 - w1
    hit = np.flatnonzero((w0 >= 0) & (w1 >= 0) & (w2 >= 0))
    row, w0, w1, w2 = row[hit], w0[hit], w1[hit], w2[hit]
    pixel = py[hit].astype(np.int64) * size + px[hit].astype(np.int64)
    near = w0 * z[row, 0] + w1 * z[row, 1] + w2 * z[row, 2]
    depth = np.full(size * size, -np.inf, np.float32)
    np.maximum.at(depth, pixel, near)
    won = np.flatnonzero(near == depth[pixel])
    owner = np.full(size * size, -1)
    owner[pixel[won]] = won  # of equally near candidates the last one stays
    pixel = np.flatnonzero(owner >= 0)
    won = owner[pixel]
    weights = np.stack([w0[won], w1[won], w2[won]], 1)
    return Fragments(pixel, chosen[row[won]], weights, depth)
