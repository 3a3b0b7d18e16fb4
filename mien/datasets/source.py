"""What a store was made of: the place, and which files lay there. Part of the store's identity, so that no two are mixed."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mien.errors import DataError
from mien.files import file_sha256, walk

TABLES = (
    ".csv", ".tsv", ".txt", ".json", ".npz", ".npy", ".pts", ".parquet", ".pkl", ".mat", ".xls", ".xlsx", ".xml",
)  # fmt: skip
"""Files whose content counts: labels change without the size. Of pictures and videos the name and size do."""


def source_of(root: Path, options: Mapping[str, Any], out: Path) -> dict[str, str | int]:
    """Name and digest of a dataset's place, and number and digest of its files; also of files and folders among `options`.

    The path itself stands nowhere, only its digest. What lies below `out` does not count.
    """
    paths = [("root", root), *sorted((name, path) for name, path in options.items() if isinstance(path, Path))]
    places, listing, count = hashlib.sha256(), hashlib.sha256(), 0
    for name, path in paths:
        places.update(f"{name} {path.resolve()}\n".encode("utf-8", "surrogateescape"))
        for line in _lines(path, out):
            listing.update(f"{name} {line}\n".encode("utf-8", "surrogateescape"))
            count += 1
    return {
        "root": root.resolve().name.encode("utf-8", "backslashreplace").decode(), "place": places.hexdigest(),
        "files": count, "listing": listing.hexdigest(),
    }  # fmt: skip


def _lines(path: Path, out: Path) -> Iterator[str]:
    """One line a file: relative path, size, and of a table the digest of its content."""
    if (path / "environment.json").is_file():  # of a run folder the framing counts, not its scores
        path = path / "environment.json"
    try:
        if not path.is_dir():
            yield f"{path.name} {path.stat().st_size} {file_sha256(path)}" if path.is_file() else path.name
            return
        own = out.resolve()
        inside: dict[Path, bool] = {}  # a folder is asked once, not for each of its files
        for file in walk(path):
            if file.parent not in inside:
                folder = file.parent.resolve()
                inside[file.parent] = own == folder or own in folder.parents
            if inside[file.parent] or (file.is_symlink() and own in file.resolve().parents):
                continue
            state = file.stat() if file.exists() else None
            if state is None or not stat.S_ISREG(state.st_mode):
                continue
            content = file_sha256(file) if file.suffix.lower() in TABLES else ""
            yield f"{file.relative_to(path)} {state.st_size} {content}"
    except OSError as error:
        raise DataError(f"cannot read '{error.filename or path}' ({error.strerror}).") from error
