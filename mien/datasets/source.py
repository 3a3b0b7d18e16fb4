"""What a store was made of: the place, and which files lay there. Part of the store's identity, so that no two are mixed."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mien.errors import DataError
from mien.files import file_sha256, name_of, walk

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
        places.update(f"{name} {os.path.realpath(path)}\n".encode("utf-8", "surrogateescape"))
        for line in _lines(path, out):
            listing.update(f"{name} {line}\n".encode("utf-8", "surrogateescape"))
            count += 1
    return {
        "root": name_of(os.path.basename(os.path.realpath(root))), "place": places.hexdigest(),
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
        # Plain text and one look at each file: in a million pictures paths that are taken apart cost as much as decoding.
        place, own = Path(os.path.realpath(path)), Path(os.path.realpath(out))  # resolve() raises on a link to itself
        inside = f"{path / own.relative_to(place)}{os.sep}" if own.is_relative_to(place) else None
        start = len(f"{path / 'x'}") - 1
        for file in walk(path):
            name = str(file)
            found = None if inside is not None and name.startswith(inside) else _stat(name)
            if found is not None and stat.S_ISREG(found.st_mode):
                content = file_sha256(file) if name.lower().endswith(TABLES) else ""
                yield f"{name[start:]} {found.st_size} {content}"
    except OSError as error:
        raise DataError(f"cannot read '{error.filename or path}' ({error.strerror}).") from error


def _stat(name: str) -> os.stat_result | None:
    """What a file or the end of a link is; None where it leads nowhere, or to itself."""
    try:
        return os.stat(name)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            return None
        raise
