"""A store seen as a run wants its faces: turned, scaled and shifted onto where the run's training faces lie."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.data.framing import Framing, grey_repeated, known_five
from mien.data.store import BLOCK, Store
from mien.faces.align import Matrix, similarity, warp
from mien.faces.landmarks import five_points
from mien.faces.pictures import cut_square, whole_square
from mien.schema import ByteArray, FloatArray, IntArray

NEAR = 0.03
"""Median distance of five points from the run's, as a share of the picture: below it faces lie there already."""


class FramedStore(Store):
    """The faces of a store in the framing of a run, as `framing.frame_face` cuts them out of a photo; the rest is the store's own.

    Faces without landmarks are their whole picture. Picklable.
    """

    def __init__(self, store: Store, framing: Framing) -> None:
        super().__init__(store.path, store.info._replace(size=framing.size))
        self.store, self.framing = store, framing

    def __reduce__(self) -> tuple[Any, ...]:
        return FramedStore, (self.store, self.framing)

    @property
    def fingerprint(self) -> str:
        """sha256 over that of the store and the framing."""
        return hashlib.sha256(f"{self.store.fingerprint} {json.dumps(self.framing._asdict())}".encode()).hexdigest()

    @cached_property
    def placements(self) -> npt.NDArray[np.float64]:
        """(N, 2, 3) from the stored picture to the framed one, for each face; NaN without landmarks."""
        target, found = np.array(self.framing.points, dtype=np.float32), np.full((len(self), 2, 3), np.nan)
        for start in range(0, len(self), BLOCK):
            five = five_points(self.store.landmarks_of(np.arange(start, min(start + BLOCK, len(self)))))
            for row, matrix in enumerate((similarity(points, target) for points in five), start):
                found[row] = np.nan if matrix is None else matrix
        return found

    def placed(self) -> int:
        """How many faces have landmarks to be placed by."""
        return int(np.isfinite(self.placements[:, 0, 0]).sum())

    @cached_property
    def landmarks(self) -> FloatArray:
        """(N, 68, 2) pixels of the framed picture, NaN unknown."""
        return self.landmarks_of(np.arange(len(self)))

    def landmarks_of(self, rows: IntArray) -> FloatArray:
        """(n, 68, 2) `landmarks` of some rows."""
        own = self.placements[rows]
        own = np.where(np.isfinite(own), own, self._whole)
        moved = self.store.landmarks_of(rows).astype(np.float64) @ own[:, :, :2].transpose(0, 2, 1) + own[:, None, :, 2]
        return moved.astype(np.float32)

    @cached_property
    def _whole(self) -> Matrix:
        scale = self.framing.size / self.store.info.size
        return np.array([[scale, 0, 0.5 * scale - 0.5], [0, scale, 0.5 * scale - 0.5]], dtype=np.float32)

    def shrink_for(self, side: int) -> int:
        """1: faces are moved into place at their own size."""
        return 1

    def _pixels(self, index: int, shrink: int = 1) -> ByteArray:
        image = self.store.image(index)
        matrix = self.placements[index]
        if not np.isfinite(matrix[0, 0]):
            pixels = cut_square(image, whole_square(*image.shape[:2]), self.framing.size)[0]
        else:
            pixels = warp(image, matrix, self.framing.size, replicate=not self.framing.aligned)
        return grey_repeated(pixels) if self.framing.channels == 1 else pixels

    def grey(self, indices: Sequence[int] | npt.NDArray[np.integer[Any]]) -> ByteArray:
        """Grey framed pictures of some rows, (B, H, W) uint8."""
        import cv2

        shape = (-1, self.info.size, self.info.size)
        return np.array([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in self.images(indices)], np.uint8).reshape(
            shape
        )


def framed_as(store: Store, framing: Framing) -> Store:
    """The store in a run's framing; itself where the run has none, no face has landmarks, or the faces lie there already."""
    if framing.points is None:
        return store
    target, rows = (np.array(framing.points) + 0.5) / framing.size, np.arange(len(store))
    blocks = (known_five(store, rows[start : start + BLOCK]) for start in range(0, len(rows), BLOCK))
    apart = [np.linalg.norm((known + 0.5) / store.info.size - target, axis=2) for known in blocks]
    if not sum(map(len, apart)):
        return store
    near = float(np.median(np.concatenate(apart))) < NEAR
    return store if near and store.info.size == framing.size else FramedStore(store, framing)
