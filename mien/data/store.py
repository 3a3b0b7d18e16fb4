"""The prepared store: every face of a dataset in one folder of memory-mapped Arrow files.

A store is `part-00000.arrow` ... (Arrow IPC files, one record batch each), `store.json` (what it is) and `skipped.csv`
(what was left out and why). Parts are finished one by one and listed in `progress.json` until the last is done, so a
killed `mien prepare` continues where it stopped. Labels are read into arrays on first use; pictures stay on disk and
are mapped, and so do landmarks that are read by rows (`Store.landmarks_of`), so memory grows by a few hundred bytes a face.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mien.data.arrow import (
    REMEDY,
    STORE_VERSION,
    Skipped,
    StoreInfo,
    decode,
    difference_hash,
    intact,
    intact_parts,
    map_part,
    read_info,
    read_json,
    same_settings,
)
from mien.data.columns import by_part, shared_names
from mien.data.fingerprint import twin_column
from mien.data.part_columns import numbers, texts
from mien.data.shards import PART_BYTES, PART_ROWS, Coded, Part
from mien.data.verify import refuse_odd_parts, refuse_other_skipped, verify_once
from mien.data.writer import Writer, begin_adding
from mien.errors import DataError, UsageError
from mien.files import alone
from mien.schema import ACTION_UNITS, EXPRESSIONS, LANDMARKS, ByteArray, FloatArray, IntArray, Record

__all__ = ["Skipped", "Store", "StoreInfo", "difference_hash", "finished_ids", "open_store", "write_store"]

Encoding = Literal["raw", "png", "jpeg"]
BLOCK = 4096
"""Rows whose landmarks are looked through at once."""
ObjectArray = npt.NDArray[np.object_]


def _objects(values: Sequence[str | None]) -> ObjectArray:
    """(N,) an array of objects, whatever they are."""
    found = np.empty(len(values), dtype=object)
    found[:] = values
    return found


class Store:
    """A finished store, open for reading. Picklable: a worker process reopens it by path.

    Rows are numbered 0 .. len - 1 in the order in which the reader yielded them.
    """

    def __init__(self, path: Path, info: StoreInfo) -> None:
        self.path = path
        self.info = info
        self._starts = np.cumsum([0] + [int(part["rows"]) for part in info.parts])
        self._batches: dict[int, Any] = {}
        self._points: dict[int, FloatArray] = {}

    def __len__(self) -> int:
        return self.info.rows

    def __reduce__(self) -> tuple[Any, ...]:
        return Store, (self.path, self.info)

    def __repr__(self) -> str:
        return f"Store({self.info.dataset!r}, {len(self)} faces of {self.info.size} px, {str(self.path)!r})"

    @property
    def fingerprint(self) -> str:
        """sha256 over ids, pixels and labels, and over the rows whose landmarks were dropped."""
        rows = self.info.landmarks_dropped
        return hashlib.sha256(f"{self.info.fingerprint} {rows}".encode()).hexdigest() if rows else self.info.fingerprint

    def _batch(self, part: int) -> Any:
        if part not in self._batches:
            self._batches[part] = map_part(self.path / self.info.parts[part]["file"])
        return self._batches[part]

    def _column(self, name: str) -> list[Any]:
        return [self._batch(part).column(name) for part in range(len(self.info.parts))]

    def _objects(self, name: str) -> ObjectArray:
        parts = [_objects(texts(column)) for column in self._column(name)]
        return np.concatenate([*parts, np.empty(0, dtype=object)])

    def _matrix(self, name: str, width: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        parts = [numbers(column).reshape(-1, width) for column in self._column(name)]
        return np.concatenate([*parts, np.empty((0, width), dtype=dtype)]).astype(dtype, copy=False)

    @cached_property
    def ids(self) -> ObjectArray:
        """(N,) str, unique."""
        return self._objects("id")

    @cached_property
    def split(self) -> ObjectArray:
        """(N,) one of SPLITS."""
        return shared_names(self._column("split"))

    @cached_property
    def subject(self) -> ObjectArray:
        """(N,) str or None."""
        return shared_names(self._column("subject"))

    @cached_property
    def expression(self) -> ObjectArray:
        """(N,) one of EXPRESSIONS or None."""
        return shared_names(self._column("expression"))

    @cached_property
    def votes(self) -> FloatArray:
        """(N, 8) shares of annotator votes over EXPRESSIONS; NaN rows without votes."""
        return self._matrix("votes", len(EXPRESSIONS), np.float32)

    @cached_property
    def action_units(self) -> FloatArray:
        """(N, A) intensities 0-5 over ACTION_UNITS, NaN unlabelled."""
        stored = self._matrix("action_units", len(self.info.action_units), np.float32)
        if self.info.action_units == ACTION_UNITS:
            return stored
        columns = np.full((len(stored), len(ACTION_UNITS)), np.nan, dtype=np.float32)
        for k, name in enumerate(ACTION_UNITS):
            if name in self.info.action_units:
                columns[:, k] = stored[:, self.info.action_units.index(name)]
        return columns

    @cached_property
    def landmarks(self) -> FloatArray:
        """(N, 68, 2) iBUG-68 (x, y) pixels of the stored picture, NaN unknown or dropped (`screen.limit_landmarks`)."""
        return self._kept(self._matrix("landmarks", 2 * LANDMARKS, np.float32), np.nan).reshape(-1, LANDMARKS, 2)

    def landmarks_of(self, rows: IntArray) -> FloatArray:
        """(n, 68, 2) `landmarks` of some rows, out of the mapped files; nothing of the others is read or kept."""
        rows = np.asarray(rows, dtype=np.int64)
        found = np.empty((len(rows), LANDMARKS, 2), dtype=np.float32)
        for part, own, places in by_part(self._starts, rows):
            if part not in self._points:
                column = self._batch(part).column("landmarks")
                self._points[part] = column.values.to_numpy().reshape(-1, LANDMARKS, 2)  # a view of the file
            found[places] = self._points[part][own]
        if self.info.landmarks_dropped:
            found[np.isin(rows, self.info.landmarks_dropped)] = np.nan
        return found

    def known_points(self, rows: IntArray | None = None) -> npt.NDArray[np.bool_]:
        """(n, 68) which points of some rows, or of all, are known; a block of rows at a time."""
        rows = np.arange(len(self)) if rows is None else rows
        found = np.empty((len(rows), LANDMARKS), dtype=bool)
        for start in range(0, len(rows), BLOCK):
            found[start : start + BLOCK] = np.isfinite(self.landmarks_of(rows[start : start + BLOCK])).all(axis=2)
        return found

    def _kept(self, values: npt.NDArray[Any], unknown: float | bool) -> npt.NDArray[Any]:
        """Values with those of dropped landmarks unknown."""
        rows = list(self.info.landmarks_dropped)
        if rows:
            values = values.copy()
            values[rows] = unknown
        return values

    @cached_property
    def visible(self) -> npt.NDArray[np.bool_]:
        """(N, 68) True where the point is known and not occluded."""
        return self._kept(self._matrix("visible", LANDMARKS, np.bool_), False)

    @cached_property
    def pose(self) -> FloatArray:
        """(N, 3) yaw, pitch, roll in degrees, NaN unknown."""
        return self._matrix("pose", 3, np.float32)

    @cached_property
    def attributes(self) -> list[dict[str, str | float]]:
        """One dict a row: strings make groups, numbers are factors."""
        return [json.loads(text) for text in self._objects("attributes")]

    def attributes_of(self, rows: IntArray) -> list[dict[str, str | float]]:
        """`attributes` of some rows; those of the others are not made."""
        texts = np.empty(len(rows), dtype=object)
        for part, own, places in by_part(self._starts, np.asarray(rows, dtype=np.int64)):
            column = self._batch(part).column("attributes")
            texts[places] = [column[row].as_py() for row in own.tolist()]
        return [json.loads(text) for text in texts]

    @cached_property
    def same_person(self) -> ObjectArray:
        """(N,) str or None: group of faces that differ in their actions alone (`mien.data.twins`)."""
        return self._twins("same_person")

    @cached_property
    def same_actions(self) -> ObjectArray:
        """(N,) str or None: group of faces with the same actions."""
        return self._twins("same_actions")

    def _twins(self, name: str) -> ObjectArray:
        parts = (twin_column(self._batch(part), name) for part in range(len(self.info.parts)))
        return _objects([name for part in parts for name in part])

    @cached_property
    def digest(self) -> npt.NDArray[np.bytes_]:
        """(N,) sha1 of the pixels as 40 hex bytes; equal = identical picture."""
        return np.array(self._objects("digest"), dtype="S40")

    @cached_property
    def dhash(self) -> npt.NDArray[np.uint64]:
        """(N,) difference hash (see `difference_hash`); few differing bits = pictures that look alike."""
        parts = [numbers(column) for column in self._column("dhash")]
        return np.concatenate([*parts, np.empty(0, dtype=np.uint64)])

    @cached_property
    def skipped(self) -> list[Skipped]:
        """What was left out, and why; DataError where the list is not the one that was written."""
        path = self.path / "skipped.csv"
        refuse_other_skipped(self.path, self.info)
        try:
            with open(path, newline="", encoding="utf-8") as file:
                found = [Skipped(row["id"], row["reason"]) for row in csv.DictReader(file)]
        except (OSError, ValueError, KeyError, csv.Error) as error:
            raise DataError(
                f"'{path}' is missing or damaged ({' '.join(str(error).split())[:200]}): {REMEDY}"
            ) from error
        if len(found) != self.info.skipped:
            raise DataError(f"'{path}' lists {len(found)} files, store.json {self.info.skipped}: {REMEDY}")
        return found

    def _bytes(self, index: int) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} is outside 0..{len(self) - 1} of {self.path}")
        part = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._batch(part).column("image")[index - int(self._starts[part])].as_buffer()

    def _pixels(self, index: int, shrink: int = 1) -> ByteArray:
        return decode(self._bytes(index), self.info, shrink)

    def shrink_for(self, side: int) -> int:
        """How many times smaller pictures may be decoded for a net that takes `side` pixels: 1, 2, 4 or 8, of JPEG alone."""
        size = self.info.size if self.info.encoding == "jpeg" else 0
        return next((k for k in (8, 4, 2) if size >= k * side and size % k == 0), 1)

    def image(self, index: int) -> ByteArray:
        """RGB picture of one row, (H, W, 3) uint8; grey is repeated to three channels."""
        return self.images([index])[0]

    def images(self, indices: Sequence[int] | npt.NDArray[np.integer[Any]], shrink: int = 1) -> ByteArray:
        """RGB pictures of some rows, (B, H, W, 3) uint8; decoded `shrink_for` times smaller where that is given."""
        side = self.info.size // shrink
        out = np.empty((len(indices), side, side, 3), dtype=np.uint8)
        for k, index in enumerate(indices):
            out[k] = self._pixels(int(index), shrink)  # (H, W, 1) broadcasts over RGB
        return out

    def grey(self, indices: Sequence[int] | npt.NDArray[np.integer[Any]]) -> ByteArray:
        """Grey pictures of some rows, (B, H, W) uint8; PNG and JPEG are decoded to grey at once."""
        import cv2

        indices = np.asarray(indices, dtype=np.int64)
        out = np.empty((len(indices), self.info.size, self.info.size), dtype=np.uint8)
        parts = np.searchsorted(self._starts, indices, side="right") - 1
        for part in np.unique(parts).tolist():
            places = np.flatnonzero(parts == part)
            column, first = self._batch(part).column("image"), int(self._starts[part])
            info = self.info if self.info.encoding == "raw" else self.info._replace(channels=1)
            for k in places.tolist():
                pixels = decode(column[int(indices[k]) - first].as_buffer(), info)
                out[k] = pixels[:, :, 0] if pixels.shape[2] == 1 else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        return out


def open_store(path: Path, verified: bool = True) -> Store:
    """Open a finished store; DataError (one line) when it is missing, unfinished, of another version or damaged.

    Labels, landmarks and what Arrow reads are compared with their digests at every opening; with `verified` so are all the
    pictures, the first time that a store is opened after its files changed (`mien.data.verify`).
    """
    path = Path(path)
    if not path.is_dir():
        what = "it is a file" if path.exists() else "the folder does not exist"
        raise DataError(f"no prepared store at '{path}': {what}. Make one with `mien prepare`.")
    if not (path / "store.json").is_file():
        if (path / "progress.json").is_file():
            raise DataError(f"the store '{path}' is not finished: run the same `mien prepare` again, it continues.")
        raise DataError(f"'{path}' is not a prepared store (no store.json). Make one with `mien prepare`.")
    info = read_info(path)
    for part in info.parts:
        if not intact(path, part):
            raise DataError(f"part '{part['file']}' of the store '{path}' is missing, truncated or damaged: {REMEDY}")
    refuse_odd_parts(path, info)
    refuse_other_skipped(path, info)
    if verified:
        verify_once(path, info)
    return Store(path, info)


def finished_ids(out: Path, add: bool = False) -> set[str]:
    """Ids that a finished or interrupted store already holds or has skipped: work that need not be done again.

    With `add` what was skipped is tried again.
    """
    out = Path(out)
    under_way = (out / "progress.json").is_file()
    if (out / "store.json").is_file() and not (add and under_way):
        store = open_store(out)
        return {*store.ids, *(() if add else (skipped.id for skipped in store.skipped))}
    if not under_way:
        return set()
    progress = read_json(out / "progress.json")
    ids: set[str] = set()
    for part in intact_parts(out, progress):
        ids.update(map_part(out / part["file"]).column("id").to_pylist())
        ids.update(name for name, _ in part["skipped"])
    return ids


Face = Record | Coded | Skipped | Part
"""What a store is written from."""


def write_store(
    records: Iterable[Face],
    out: Path,
    *,
    dataset: str,
    size: int,
    channels: int = 3,
    encoding: Encoding = "raw",
    notes: Mapping[str, str] = {},
    source: Mapping[str, str | int] = {},
    add: bool = False,
    total: int | None = None,
) -> Store:
    """Write records into a store, a part at a time; a rerun keeps the finished parts and continues after them.

    Records may come coded, or as parts that are written already (`mien.data.shards.made`), whose ids `finished_ids(out)` must
    not have. `Record.image` is (size, size[, 3]) uint8 here; it becomes grey or RGB as `channels` (1 or 3) asks. Records whose
    id a finished part already has are passed over, so the caller may yield all again or leave out `finished_ids(out)`.
    `source` says what the faces come from (`datasets.source`); with `add` a store of the same place takes in what has come to
    lie there since. `total` only serves the progress bar. UsageError when `out` holds something else or a store with other
    settings or of another source; DataError for a malformed record, no records, a full disk (finished parts are kept), or
    another process that writes there.
    """
    out = Path(out)
    settings = {
        "version": STORE_VERSION, "dataset": dataset, "size": size, "channels": channels, "encoding": encoding,
        "action_units": list(ACTION_UNITS), "landmarks": "iBUG-68, 0-based, (x, y) pixels, pixel centres at .0",
        "notes": dict(notes), **({"source": dict(source)} if source else {}),
    }  # fmt: skip
    if channels not in (1, 3) or encoding not in ("raw", "png", "jpeg") or size < 8:
        raise UsageError(
            f"no store with size {size}, channels {channels}, encoding '{encoding}': size >= 8, 1 or 3, raw|png|jpeg."
        )
    with alone(out):
        return _write(records, out, settings, add, total)


def _write(records: Iterable[Face], out: Path, settings: dict[str, Any], add: bool, total: int | None) -> Store:
    from mien.progress import track

    if (out / "store.json").is_file():
        found = read_json(out / "store.json")
        same_settings(out, found, settings, add)
        if found.get("source", {}) == settings.get("source", {}):
            return open_store(out)
        begin_adding(out, found, settings)
    writer = Writer(out, settings, PART_ROWS, PART_BYTES, add)
    done = finished_ids(out, add)
    try:
        for record in track(records, f"writing {out.name}", total, _items):
            if isinstance(record, Part) or record.id not in done:
                writer.add(record)
    except BaseException:  # Ctrl-C or an error in a reader: what was computed is kept
        writer.stop()
        raise
    writer.flush()
    writer.finish()
    return open_store(out)


def _items(face: Face) -> int:
    return face.items if isinstance(face, Part) else 1
