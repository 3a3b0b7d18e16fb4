"""Verb `mien parquet`: a prepared store as Parquet, for other tools; one file, or a file for each part of the store."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mien.data.arrow import TWINS, StoreInfo, decode, encode, map_part
from mien.data.cluster import ordered_map
from mien.data.fingerprint import twin_column
from mien.data.part_columns import numbers
from mien.data.store import Store, open_store
from mien.errors import UsageError
from mien.files import alone, replacing, writing
from mien.progress import track

DROPPED = {"landmarks": np.nan, "visible": False}
"""Columns of landmarks that were dropped -> what they hold then."""


def parquet(store: Path, *, out: Path, workers: int | None = None, cluster: str | None = None) -> Path:
    """Write a prepared store as Parquet: one row a face, with its picture as PNG, or JPEG where the store keeps JPEG.

    Args:
        store: Folder of the prepared store.
        out: File that ends in .parquet, or a new folder, in which each part of the store becomes a file, part-00000.parquet and so on.
        workers: Processes for a folder; all cores by default, 1 stays in this one.
        cluster: Ray cluster whose workers write a folder instead: HOST:PORT, or auto for that of RAY_ADDRESS or one of this machine's
            cores (docs/scale.md).

    """
    opened = open_store(store)
    if out.suffix.lower() == ".parquet":
        if cluster is not None:
            raise UsageError("one Parquet file is written by one process: with --cluster, name a folder for --out.")
        export_parquet(opened, out)
    else:
        export_folder(opened, out, workers, cluster)
    print(f"{out}: {len(opened)} faces of {opened.info.dataset}, fingerprint {opened.fingerprint[:12]}")
    return out


def export_parquet(store: Store, path: Path) -> Path:
    """Write the store into one Parquet file, a part at a time; pictures as PNG or JPEG, dropped landmarks as NaN."""
    import pyarrow.parquet as pq

    path, twins = Path(path), has_twins(store.path, store.info)
    with replacing(path) as temporary:
        batches = (plain_part(store.path, store.info, twins, number) for number in range(len(store.info.parts)))
        first = next(batches)
        with pq.ParquetWriter(temporary, first.schema) as writer:
            writer.write_batch(first)
            for batch in track(batches, f"writing {path.name}", len(store.info.parts) - 1):
                writer.write_batch(batch)
    return path


def export_folder(store: Store, out: Path, workers: int | None = None, cluster: str | None = None) -> Path:
    """Write each part of the store into a file of a new folder, by processes of this machine or workers of a cluster.

    UsageError for a folder that holds anything but files of an earlier, interrupted call.
    """
    if out.exists() and (not out.is_dir() or any(not _own(path.name) for path in out.iterdir())):
        raise UsageError(
            f"'{out}' holds something else: choose a new or empty folder for --out, or a name in .parquet."
        )
    count = len(store.info.parts)
    with alone(out), writing(out):
        job = partial(_write_part, store.path, store.info, has_twins(store.path, store.info), out)
        for _ in track(ordered_map(job, range(count), workers, 1, cluster), f"writing {out.name}", count):
            pass
        kept = {_file(number) for number in range(count)} | {".lock"}
        for path in [path for path in out.iterdir() if path.name not in kept]:
            path.unlink(missing_ok=True)
    return out


def _file(number: int) -> str:
    return f"part-{number:05d}.parquet"


def _own(name: str) -> bool:
    return name == ".lock" or name.startswith((".shard-", "part-"))


def _write_part(path: Path, info: StoreInfo, twins: bool, out: Path, number: int) -> None:
    """One part as a file; under a name of its own first, so that two workers that have the same part do not meet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    temporary = out / f".shard-{uuid.uuid4().hex}.parquet"
    try:
        pq.write_table(pa.Table.from_batches([plain_part(path, info, twins, number)]), temporary)
        os.replace(temporary, out / _file(number))
    finally:
        temporary.unlink(missing_ok=True)


def has_twins(path: Path, info: StoreInfo) -> bool:
    """Whether a part has columns of TWINS; then all files get them."""
    return any(set(TWINS) & set(map_part(path / part["file"]).schema.names) for part in info.parts)


def plain_part(path: Path, info: StoreInfo, twins: bool, number: int) -> Any:
    """The record batch of a part with pictures that every reader knows, and without the landmarks that were dropped."""
    import pyarrow as pa

    batch = map_part(path / info.parts[number]["file"])
    for name in (name for name in TWINS if twins and name not in batch.schema.names):
        batch = batch.append_column(name, pa.array(twin_column(batch, name), pa.string()))
    if info.encoding == "raw":
        pictures = [encode(decode(value.as_buffer(), info), "png") for value in batch.column("image")]
        batch = _with(batch, "image", pa.array(pictures, pa.large_binary()))
    for name, unknown in DROPPED.items():
        kind = batch.schema.field(name).type
        values = numbers(batch.column(name)).reshape(len(batch), kind.list_size).copy()
        values[list(_dropped(info, number))] = unknown
        kept = pa.array(np.ascontiguousarray(values).reshape(-1), kind.value_type)
        batch = _with(batch, name, pa.FixedSizeListArray.from_arrays(kept, type=kind))
    return batch


def _with(batch: Any, name: str, column: Any) -> Any:
    return batch.set_column(batch.schema.get_field_index(name), name, column)


def _dropped(info: StoreInfo, number: int) -> Iterator[int]:
    """Rows of a part whose landmarks were dropped."""
    ends = np.cumsum([0, *(part["rows"] for part in info.parts)]).tolist()
    start, stop = list(pairwise(ends))[number]
    yield from (row - start for row in info.landmarks_dropped if start <= row < stop)
