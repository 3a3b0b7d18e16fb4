"""Files on disk: written whole or not at all, and what goes wrong told in one line."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mien.errors import DataError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """DataError, one line that names `path`, for a full disk, a missing permission and the like."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(
                f"the disk is full while writing '{path}'; free some space and run the same command again."
            ) from error
        raise DataError(f"cannot write '{path}': {error.strerror or error}; what was there before is kept.") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`: what the block writes there takes the place of `path` when it ends.

    Missing folders are made. After an error the old file is as it was, and nothing is left beside it.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write text (UTF-8) or bytes through `replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a compressed .npz through `replacing`."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def file_sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
