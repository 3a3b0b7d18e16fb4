"""Whether a store is what was written: digests of its files, and once in full before anything is learnt from it.

Labels, landmarks and Arrow's own bytes are a few per cent of a store and are compared at every opening (`arrow.intact`).
Pictures are most of it: they are read once after the files changed, and `.verified.json` remembers which files that were.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from mien.data.arrow import REMEDY, TWINS, StoreInfo, decode, map_part, table_schema
from mien.data.cluster import ordered_map
from mien.data.fingerprint import fingerprint
from mien.errors import DataError
from mien.files import file_sha256, write_atomic
from mien.progress import track

MARK = ".verified.json"


def refuse_odd_parts(path: Path, info: StoreInfo) -> None:
    """DataError where a part has other rows or columns than the store says; offsets and texts are looked through.

    Pictures are not read.
    """
    widths = {field.name: field.type for field in table_schema() if field.name != "action_units"}
    for part in info.parts:
        batch = map_part(path / part["file"])
        twins = {field.name: field.type for field in batch.schema if field.name in TWINS}
        try:
            batch.validate(full=True)
            units = batch.schema.field("action_units").type
            found = batch.num_rows == part["rows"] and units == pa.list_(pa.float32(), len(info.action_units))
            found = found and all(batch.schema.field(name).type == kind for name, kind in widths.items())
            found = found and all(kind == pa.string() for kind in twins.values())
        except (pa.ArrowException, ValueError) as error:
            raise DataError(f"part '{part['file']}' of the store '{path}' is damaged ({error}): {REMEDY}") from error
        if not found:
            raise DataError(f"part '{part['file']}' of the store '{path}' does not fit store.json: {REMEDY}")


def refuse_other_skipped(path: Path, info: StoreInfo) -> None:
    """DataError where `skipped.csv` is missing or another one than was written; stores from before its digest have none."""
    file = path / "skipped.csv"
    if info.skipped_sha256 is None:
        return
    if not file.is_file():
        raise DataError(f"'{file}' is missing: {REMEDY}")
    if file_sha256(file) != info.skipped_sha256:
        raise DataError(f"'{file}' was changed or is damaged (SHA-256): {REMEDY}")


def verify_once(path: Path, info: StoreInfo) -> None:
    """`verify`, unless these very files passed it before; DataError as there."""
    try:
        mark = json.loads((path / MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        mark = None
    if mark != _state(path, info):
        verify(path, info)
        mark_verified(path, info)


def mark_verified(path: Path, info: StoreInfo) -> None:
    """Remember that the files, as they are now, hold what was written; a folder that cannot be written is read again each time."""
    with suppress(DataError):
        write_atomic(path / MARK, json.dumps(_state(path, info)))


def _state(path: Path, info: StoreInfo) -> dict[str, Any]:
    """What tells that a file was touched; of files, not of bytes, so that it costs nothing."""
    found = {}
    for part in info.parts:
        stat = (path / part["file"]).stat()
        found[part["file"]] = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, part.get("sha256", "")]
    return {"fingerprint": info.fingerprint, "files": found}


def verify(path: Path, info: StoreInfo, deep: bool = False, cluster: str | None = None) -> None:
    """Read every byte; DataError that names the part whose digest differs, or a store whose fingerprint does.

    A store of version 1 has no digests: its fingerprint and its pictures stand for them. `deep` looks at those of every store.
    The workers of a `cluster` (`mien.data.cluster`) read a part each.
    """
    deep = deep or any("sha256" not in part for part in info.parts)
    job = partial(_verify_part, path, info, deep)
    for _ in track(ordered_map(job, info.parts, 1, 1, cluster), "verify", len(info.parts)):
        pass
    if deep and fingerprint(map_part(path / part["file"]) for part in info.parts) != info.fingerprint:
        raise DataError(f"labels or landmarks of the store '{path}' were changed (fingerprint): {REMEDY}")


def _verify_part(path: Path, info: StoreInfo, deep: bool, part: dict[str, Any]) -> None:
    """The digest of a part's file; `deep`, also those of its pictures."""
    if "sha256" in part and file_sha256(path / part["file"]) != part["sha256"]:
        raise DataError(f"part '{part['file']}' of the store '{path}' was changed or is damaged (SHA-256): {REMEDY}")
    if not deep:
        return
    batch = map_part(path / part["file"])
    for name, value, digest in zip(*(batch.column(key) for key in ("id", "image", "digest")), strict=True):
        pixels = decode(value.as_buffer(), info)
        own = hashlib.sha1(pixels.tobytes(), usedforsecurity=False).hexdigest()
        if info.encoding != "jpeg" and own != digest.as_py():  # the digest is of the pixels before they became JPEG
            raise DataError(f"the picture of '{name}' in the store '{path}' was changed or is damaged: {REMEDY}")
