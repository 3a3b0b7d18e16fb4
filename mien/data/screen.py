"""Find landmarks whose shape is too odd to be a face's, and drop them: a mark in `store.json`, nothing else is written."""

from __future__ import annotations

from mien.data.arrow import read_json, write_json
from mien.data.store import Store, open_store
from mien.faces.landmarks import median_shape, shape_distance
from mien.schema import FloatArray

LIMIT = 0.25
"""Outer-eye distances. On FER-2013 half a percent of the faces that MediaPipe found lies beyond: profiles and mistakes."""


def shape_distances(store: Store) -> FloatArray:
    """(N,) `shape_distance` of every face to the median shape of the store, dropped ones too; NaN with unknown points."""
    points = Store(store.path, store.info._replace(landmarks_dropped=())).landmarks
    return shape_distance(points, median_shape(points))


def limit_landmarks(store: Store, limit: float | None) -> Store:
    """The store with the landmarks of faces beyond `limit` reading as unknown; None takes any earlier limit back.

    A face is beyond when `shape_distance` to the median shape of all faces of the store exceeds `limit` (outer-eye
    distances). Pictures, labels and the numbers on disk stay, so that another limit can be set at any time; the
    fingerprint changes with the rows that are dropped. Cues of such faces are not valid: they train the classifier and
    are neither guided nor scored.
    """
    if limit == store.info.landmark_limit:
        return store
    content = read_json(store.path / "store.json")
    rows = []
    if limit is not None:
        rows = (shape_distances(store) > limit).nonzero()[0].tolist()  # NaN, an unknown shape, is not beyond
    content |= {"landmark_limit": limit, "landmarks_dropped": rows}
    write_json(store.path / "store.json", content)
    return open_store(store.path)
