"""Files on disk: written whole or not at all, and what goes wrong told in one line."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from mien.errors import DataError

fcntl: Any
msvcrt: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
try:
    import msvcrt
except ImportError:  # everywhere else
    msvcrt = None


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
        temporary.write_bytes(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)


RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")
"""Variables that number the processes of one training, as torchrun, SLURM and lightning-fabric set them."""


def first_process() -> bool:
    """Whether this is the first process of a training, or the only one: it writes and tells, the others only compute."""
    return all(os.environ.get(name, "0") in ("", "0") for name in RANKS)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Only one process at a time is in this block for a folder, which is made; DataError that names the other one.

    The lock is the system's and goes with its process, however that ends. Its file `.lock` says who writes, as long as it does. A
    folder that was made here and is still empty at the end is removed. Further processes of the same training (`run.devices`)
    pass: the first one holds the lock. File systems without locks have none.
    """
    if not first_process():
        yield
        return
    path, made = folder / ".lock", not folder.exists()
    file = _locked(path)
    try:
        yield
    finally:
        if fcntl is not None:  # Windows removes no file that is open
            with suppress(OSError):
                path.unlink(missing_ok=True)  # before the lock is given up, so that nobody else has it
        with suppress(OSError):  # what a full disk did not take
            file.close()
        if fcntl is None:
            with suppress(OSError):  # another process has it by now
                path.unlink(missing_ok=True)
        if made:
            with suppress(OSError):  # it has content, as it should
                folder.rmdir()


FAR = 2**30
"""The byte that is locked on Windows, where nobody else may read a locked one: far behind the words that name the holder."""


def _take(file: IO[str]) -> None:
    """Lock an open file, without waiting: BlockingIOError where another process has it, OSError where there are no locks."""
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    elif msvcrt is not None:
        os.lseek(file.fileno(), FAR, os.SEEK_SET)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EDEADLK):
                raise BlockingIOError(error.errno, "locked") from error
            raise


def _locked(path: Path) -> IO[str]:
    """The lock file, open and locked; DataError that names its holder."""
    while True:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(path, "a+", encoding="utf-8")  # noqa: SIM115
        try:
            _take(file)
        except BlockingIOError as error:
            with file:
                file.seek(0)
                who = file.read(200).strip() or "another process"
            raise DataError(
                f"{path.parent} is being written by {who}; wait until it has ended, or choose another --out."
            ) from error
        except OSError:  # no locks on this file system
            pass
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            with suppress(OSError):  # a full disk: the lock holds without a name
                file.truncate(0)
                file.write(f"process {os.getpid()} on {platform.node()}")
                file.flush()
            return file
        file.close()  # its last holder took it away in between


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a mapping as JSON with the digest of its content (`sha256`), which `read_json` compares."""
    plain = json.loads(json.dumps({name: value for name, value in content.items() if name != "sha256"}))
    write_atomic(path, json.dumps(plain | {"sha256": _content_sha256(plain)}, indent=1) + "\n")


def _content_sha256(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_json(path: Path, remedy: str, sealed: bool = False) -> dict[str, Any]:
    """Mapping of a JSON file, without the digest that `write_json` gave it; with `sealed` it must have one.

    DataError that ends in `remedy` for a file that is missing, damaged, of another type, or was changed since it was written.
    """
    try:
        if path.exists() and not path.is_file():
            raise OSError("no file, but a folder, pipe or device")
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; {remedy}.") from error
    except (ValueError, OSError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({' '.join(str(error).split())[:200]}); {remedy}.") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is damaged (it holds a {type(content).__name__}, not a mapping); {remedy}.")
    digest = content.pop("sha256", None)
    if (digest is not None or sealed) and digest != _content_sha256(content):
        raise DataError(f"{path} was changed since it was written, or is damaged; {remedy}.")
    return content


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A mapping of JSON; ValueError where a key stands twice, of which one would win without a word."""
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"it has '{max(names, key=names.count)}' a second time")
    return dict(pairs)


def refuse_special(path: Path) -> None:
    """DataError for a folder, pipe or device where a file belongs: reading some of them would never end."""
    if path.exists() and not path.is_file():
        raise DataError(f"'{path}' is no file, but a folder, pipe or device.")


def read_npz(path: Path, remedy: str) -> dict[str, np.ndarray]:
    """Arrays of a .npz by name, nothing unpickled; DataError that ends in `remedy` for a missing or damaged file."""
    arrays = read_arrays(path, remedy)
    if "" in arrays:
        raise DataError(f"{path} holds a single array, not named ones; {remedy}.")
    return arrays


def read_arrays(path: Path, remedy: str) -> dict[str, np.ndarray]:
    """Arrays of a .npz by name, or that of a .npy by the name ""; DataError as `read_npz`."""
    try:
        if path.exists() and not path.is_file():
            raise OSError("no file, but a folder, pipe or device")
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"": loaded}
        with loaded as archive:
            found = {str(name): archive[name] for name in archive}
        if not all(isinstance(value, np.ndarray) for value in found.values()):  # numpy gives bytes of what is no array
            raise OSError("not all in it are arrays")
        return found
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; {remedy}.") from error
    except Exception as error:  # zip, zlib and numpy's headers raise nearly anything on a damaged file
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if "unsafely" in reason or "Object arrays" in reason:  # numpy says so of anything that it does not know
            reason = "no arrays, or objects, which are never read"
        raise DataError(f"{path} is damaged ({reason}); {remedy}.") from error


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a compressed .npz through `replacing`."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


WEIGHTS = "model.safetensors"
"""Name of best.ckpt in a published run: the Hub knows it by this one."""


def weights_file(path: Path) -> Path:
    """best.ckpt of a run folder; of a published run the same file under the name that the Hub knows."""
    own, published = path / "best.ckpt", path / WEIGHTS
    return published if not own.exists() and published.exists() else own


def file_sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def name_of(path: Path | str) -> str:
    r"""A path as text that can be printed and written: what is not UTF-8 in it stands there as `\udce9`."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def own_name(source: Path | str) -> str:
    """Name for a file about a source: its stem, the beginning of a long one, and letters that tell sources of one stem apart."""
    stem = name_of(Path(source).stem) or "picture"
    letters = hashlib.sha256(name_of(source).encode()).hexdigest()[:6]
    return f"{stem.encode()[:LONGEST_STEM].decode(errors='ignore')}-{letters}"


LONGEST_STEM = 200
"""Bytes; file systems take names of 255, and endings follow."""

IMAGE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".gif", ".avif", ".heic", ".heif",
    ".jp2", ".j2k", ".pnm", ".pbm",
)  # fmt: skip
"""Of pictures in datasets, lower case."""

JUNK = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "__pycache__"}


def is_junk(name: str) -> bool:
    """Whether a file or folder is what systems leave behind (hidden ones, ``._a.jpg``, ``__MACOSX``, ``Thumbs.db``)."""
    return name.startswith((".", "~$")) or name.lower() in JUNK


def listing(folder: Path) -> list[Path]:
    """Files and folders in a folder by name, without junk."""
    return [folder / name for name in sorted(os.listdir(folder)) if not is_junk(name)]


def folders(folder: Path) -> list[Path]:
    """Folders in a folder, and links to some, by name, without junk; its files cost no look."""
    with os.scandir(folder) as found:
        names = [
            e.name
            for e in found
            if not is_junk(e.name) and ((folder / e.name).is_dir() if e.is_symlink() else e.is_dir())
        ]
    return [folder / name for name in sorted(names)]


def first_with(folder: Path, suffix: str) -> Path | None:
    """The first file below a folder, in the order of names, whose name ends so in any case; folders before files."""
    for path, inner, names in os.walk(folder):
        inner[:] = sorted(name for name in inner if not is_junk(name))
        found = min((name for name in names if name.lower().endswith(suffix) and not is_junk(name)), default=None)
        if found is not None:
            return Path(path) / found
    return None


def walk(folder: Path) -> Iterator[Path]:
    """Files below a folder in the order of their paths, without junk; links to folders are followed, once round at most."""
    yield from _walk(folder, (os.path.realpath(folder),))


def _walk(folder: Path, above: tuple[str, ...]) -> Iterator[Path]:
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        if is_junk(entry.name):
            continue
        path = folder / entry.name
        link = entry.is_symlink()
        if not (path.is_dir() if link else entry.is_dir()):  # entry.is_dir() raises on a link that leads to itself
            yield path
        elif not link:
            yield from _walk(path, above)
        elif (real := os.path.realpath(path)) not in above and not any(up.startswith(real + os.sep) for up in above):
            yield from _walk(path, (*above, real))
