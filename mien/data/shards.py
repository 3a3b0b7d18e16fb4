"""Faces that many processes make: coded and hashed where they are made, by rows or as whole part files of the store.

Processes of one machine hand coded rows back, and the parts are cut and written here. Workers of a cluster write whole
parts themselves, into files of names that only they use; the writer gives them their place in the store, in order, when their
entry is here. So a worker that ends, or one that was believed dead and still writes, leaves no row twice and none out.
"""

from __future__ import annotations

import functools
import os
import platform
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from mien.data import cluster as clusters
from mien.data.arrow import Skipped, row, write_part
from mien.errors import DataError
from mien.schema import Record

Item = TypeVar("Item")

PART_ROWS = 2048
PART_BYTES = 128 * 2**20
FEWEST_ROWS = 64
"""Of a part that a worker of a cluster writes, where there is little to do."""
SHARD = ".shard-"
"""Begins the names of part files that have no place in the store yet."""


class Coding(NamedTuple):
    """How the pictures of a store are kept; picklable."""

    size: int
    channels: int
    encoding: str


class Coded(NamedTuple):
    """A face as a row of a part: the columns of `arrow.table_schema`, the picture coded and hashed."""

    id: str
    columns: dict[str, Any]


class Part(NamedTuple):
    """A part that is written, but has no place in the store yet."""

    entry: dict[str, Any]
    """As `arrow.write_part` returns it."""
    skipped: list[Skipped]

    @property
    def items(self) -> int:
        """Faces and skipped ones."""
        return int(self.entry["rows"]) + len(self.skipped)


def coded(record: Record | Skipped, coding: Coding) -> Coded | Skipped:
    """A face as a row; DataError for values outside the schema's names and shapes."""
    return record if isinstance(record, Skipped) else Coded(record.id, row(record, coding._asdict()))


def once(items: Iterable[Record | Skipped]) -> Iterator[Record | Skipped]:
    """Items with an id that was there before as skipped, before any work is done on them."""
    seen: set[str] = set()
    for item in items:
        yield Skipped(item.id, "id occurs twice") if item.id in seen else item
        seen.add(item.id)


def part_rows(coding: Coding, total: int | None, slots: int) -> int:
    """Items of a part that one worker writes: four parts a worker where there are few, else as many as PART_BYTES hold."""
    most = min(PART_ROWS, PART_BYTES // (coding.size**2 * coding.channels))
    return max(1, min(most, max(FEWEST_ROWS, -(-total // (4 * slots)))) if total is not None else most)


def made(
    function: Callable[[Item], Record | Skipped],
    items: Iterable[Item],
    out: Path,
    coding: Coding,
    *,
    workers: int | None,
    cluster: str | None,
    chunk: int = 8,
    total: int | None = None,
) -> Iterator[Coded | Skipped | Part]:
    """What `write_store` writes: `function` of every item in order, by processes of this machine or workers of a cluster.

    `out` is the folder of the store, `total` the number of items where it is known.
    """
    if cluster is None:
        yield from clusters.ordered_map(functools.partial(_make, function, coding), items, workers, chunk)
        return
    rows = part_rows(coding, total, clusters.slots(cluster))
    write = functools.partial(write_shard, function, coding, out)
    yield from clusters.ordered_map(write, _groups(items, rows), chunk=1, cluster=cluster)


def _make(function: Callable[[Item], Record | Skipped], coding: Coding, item: Item) -> Coded | Skipped:
    return coded(function(item), coding)


def _groups(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    source = iter(items)
    while group := list(islice(source, size)):
        yield group


def write_shard(function: Callable[[Item], Record | Skipped], coding: Coding, out: Path, items: list[Item]) -> Part:
    """Make some items and write them as a part of a name of its own into the folder of the store, which this worker must see."""
    if not (out / "progress.json").is_file():
        raise DataError(
            f"node {platform.node()} does not see the store '{out}': put --out on a file system that every node shares."
        )
    found = [_make(function, coding, item) for item in items]
    name = f"{SHARD}{platform.node()}-{os.getpid()}-{uuid.uuid4().hex[:12]}.arrow"
    entry = write_part(out / name, [face.columns for face in found if isinstance(face, Coded)])
    return Part(entry, [face for face in found if isinstance(face, Skipped)])


def take_place(folder: Path, part: Part, name: str) -> dict[str, Any]:
    """Give a part its place: its file gets `name`. Returns its entry in `parts`."""
    os.replace(folder / part.entry["file"], folder / name)
    return {**part.entry, "file": name}


def sweep(folder: Path, parts: Iterable[Mapping[str, Any]]) -> None:
    """Remove part files that no entry of `parts` names: of workers that ended, and of runs that were interrupted."""
    kept = {part["file"] for part in parts}
    for path in [*folder.glob(f"{SHARD}*"), *folder.glob("part-*.arrow")]:
        if path.name not in kept:
            path.unlink(missing_ok=True)
