"""`mien prepare --replace`: a store is made beside the old one and takes its place when it is finished."""

from __future__ import annotations

import shutil
from pathlib import Path

from mien.data.duplicates import KEPT
from mien.data.shards import SHARD
from mien.data.store import Store, open_store
from mien.errors import UsageError
from mien.files import writing

PARTS = ("store.json", "progress.json", "skipped.csv", ".verified.json", ".lock", KEPT)


def new_place(out: Path, add: bool = False) -> Path:
    """Where the new store is made; UsageError where `out` holds anything but a store, or pictures shall be added to it."""
    if add:
        raise UsageError("--replace makes the store anew, --add keeps what it has: give one of both.")
    if out.exists() and (not out.is_dir() or any(not _of_store(path) for path in out.iterdir())):
        raise UsageError(
            f"'{out}' holds more than a prepared store, so --replace leaves it alone: choose another --out."
        )
    return out.with_name(f"{out.name}.new")


def _of_store(path: Path) -> bool:
    return path.name in PARTS or (path.name.startswith(("part-", SHARD)) and path.suffix == ".arrow")


def put_in_place(place: Path, out: Path) -> Store:
    """Remove the old store and give the finished new one its name."""
    with writing(out):
        if out.exists():
            shutil.rmtree(out)
        place.rename(out)
    return open_store(out)
