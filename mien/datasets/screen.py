"""What landmarks tell about the pictures of a store: shapes too odd to be a face's, faces that are small in them.

Odd landmarks are dropped by a mark in `store.json`; nothing else is written.
"""

from __future__ import annotations

import numpy as np

from mien.data.arrow import read_json
from mien.data.store import Store, open_store
from mien.errors import UsageError
from mien.faces.landmarks import median_shape, shape_distance
from mien.files import write_json
from mien.schema import FloatArray

LIMIT = 0.25
"""Outer-eye distances. On FER-2013 half a percent of the faces that MediaPipe found lies beyond: profiles and mistakes."""

LEAST_SHARE = 0.6
"""Of the picture's side. Aligned faces span about 0.75, those of FER-2013 0.83; portraits from the waist up 0.3 to 0.4."""


def shape_distances(store: Store) -> FloatArray:
    """(N,) `shape_distance` of every face to the median shape of the store, dropped ones too; NaN with unknown points."""
    points = Store(store.path, store.info._replace(landmarks_dropped=())).landmarks
    return shape_distance(points, median_shape(points))


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
    known = np.asarray(np.isfinite(store.landmarks).all(axis=2))
    points = store.landmarks[known.any(axis=1)]
    if notes.get("align") != "False" or "source_dataset" in notes or not len(points):
        return None
    sides = np.nanmax(points, axis=1) - np.nanmin(points, axis=1)
    return round(float(np.median(sides.max(axis=1))) / store.info.size, 4)


def share_line(share: float | None) -> str:
    """`face_share` in words, with the remedy where faces are small; empty for None."""
    if share is None:
        return ""
    percent = f"{100 * share:.0f} %"
    line = f"landmarks span {percent} of the picture's longer side (median)"
    if share < LEAST_SHARE:
        line += f"\n  WARNING: faces fill {percent} of the pictures; mien prepare --align cuts them out"
    return line
