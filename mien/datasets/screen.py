"""What landmarks tell about the pictures of a store: shapes too odd to be a face's, faces that are small in them.

Odd landmarks are dropped by a mark in `store.json`; nothing else is written.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mien.data.arrow import read_json
from mien.data.store import BLOCK, Store, open_store
from mien.errors import UsageError
from mien.faces.landmarks import median_shape, shape_distance, thinned, usable_shapes
from mien.files import write_json
from mien.schema import FloatArray

LIMIT = 0.25
"""Outer-eye distances. On FER-2013 half a percent of the faces that MediaPipe found lies beyond: profiles and mistakes."""

LEAST_SHARE = 0.6
"""Of the picture's side. Aligned faces span about 0.75, those of FER-2013 0.83; portraits from the waist up 0.3 to 0.4."""


def point_blocks(store: Store) -> Iterator[FloatArray]:
    """Landmarks (b, 68, 2) of all faces in order, a block at a time."""
    for start in range(0, len(store), BLOCK):
        yield store.landmarks_of(np.arange(start, min(start + BLOCK, len(store))))


def shape_distances(store: Store) -> FloatArray:
    """(N,) `shape_distance` of every face to the median shape of the store, dropped ones too; NaN with unknown points."""
    whole = Store(store.path, store.info._replace(landmarks_dropped=()))
    usable = np.flatnonzero(np.concatenate([usable_shapes(points) for points in point_blocks(whole)]))
    median = median_shape(whole.landmarks_of(thinned(usable)))
    return np.concatenate([shape_distance(points, median) for points in point_blocks(whole)])


def check_limit(limit: float | None) -> None:
    """UsageError for a limit that is not above 0."""
    if limit is not None and not limit > 0:
        raise UsageError(f"--landmark-limit {limit:g} must be above 0; 0.25 is a start.")


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


def face_share(store: Store) -> float | None:
    """Median share of the picture's side, the photo's longer one, that a face's known landmarks span.

    None where no face has landmarks, and where faces were laid on a standard position: aligned, fitted or rendered.
    """
    notes = store.info.notes
    if notes.get("align") != "False" or "source_dataset" in notes:
        return None
    sides = []
    for block in point_blocks(store):
        points = block[np.asarray(np.isfinite(block).all(axis=2)).any(axis=1)]
        sides += [(np.nanmax(points, axis=1) - np.nanmin(points, axis=1)).max(axis=1)] if len(points) else []
    return round(float(np.median(np.concatenate(sides))) / store.info.size, 4) if sides else None


def share_line(share: float | None) -> str:
    """`face_share` in words, with the remedy where faces are small; empty for None."""
    if share is None:
        return ""
    percent = f"{100 * share:.0f} %"
    line = f"landmarks span {percent} of the picture's longer side (median)"
    if share < LEAST_SHARE:
        line += f"\n  WARNING: faces fill {percent} of the pictures; mien prepare --align cuts them out"
    return line
