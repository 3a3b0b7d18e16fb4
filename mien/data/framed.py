"""A store seen as a run wants its faces: turned, scaled and shifted onto where the run's training faces lie."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.data.framing import Framing, grey_repeated
from mien.data.store import Store
from mien.faces.align import Matrix, move_points, similarity, warp
from mien.faces.landmarks import five_points
from mien.faces.pictures import cut_square, whole_square
from mien.schema import ByteArray, FloatArray

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
    def placements(self) -> list[Matrix | None]:
        """(2, 3) from the stored picture to the framed one, for each face; None without landmarks."""
        target = np.array(self.framing.points, dtype=np.float32)
        return [similarity(points, target) for points in five_points(self.store.landmarks)]

    @cached_property
    def landmarks(self) -> FloatArray:
        """(N, 68, 2) pixels of the framed picture, NaN unknown."""
        moved = [
            move_points(points, self._whole if matrix is None else matrix)
            for points, matrix in zip(self.store.landmarks, self.placements, strict=True)
        ]
        return np.stack(moved) if moved else self.store.landmarks

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
        if matrix is None:
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
    points = five_points(store.landmarks)
    known = points[np.isfinite(points).all(axis=(1, 2))]
    if not len(known):
        return store
    there = (known + 0.5) / store.info.size - (np.array(framing.points) + 0.5) / framing.size
    near = float(np.median(np.linalg.norm(there, axis=2))) < NEAR
    return store if near and store.info.size == framing.size else FramedStore(store, framing)
