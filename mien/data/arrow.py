"""How a face becomes a row of an Arrow file and back: columns, pixels, part files, `store.json`."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mien import files
from mien.data.part_columns import column
from mien.errors import DataError, UsageError
from mien.files import replacing
from mien.schema import ACTION_UNITS, EXPRESSIONS, LANDMARKS, SPLITS, ByteArray, FloatArray, Record
from mien.values import short

STORE_VERSION = 2
"""Of what is written. Version 1, which has no digests of its files, is read too: its fingerprint stands for them."""
READ_VERSIONS = (1, 2)
JPEG_QUALITY = 95


class Skipped(NamedTuple):
    """A sample that cannot be used: readers yield it in place of a Record, the store lists it in `skipped.csv`."""

    id: str
    reason: str


class StoreInfo(NamedTuple):
    """The content of `store.json`."""

    version: int
    dataset: str
    size: int
    channels: int
    encoding: str
    action_units: tuple[str, ...]
    """Names of the stored columns."""
    landmarks: str
    """Landmark convention in words."""
    mien: str
    """Version of Mien that wrote the store."""
    notes: dict[str, str]
    """Licence, choices of the reader, face provider: anything a later reader must know."""
    rows: int
    skipped: int
    fingerprint: str
    """sha256 over ids, pixels and labels in order; independent of encoding and of how parts were cut."""
    parts: tuple[dict[str, Any], ...]
    """One {file, rows, bytes, sha256, pixels, frame} each: digests of the whole file and of what lies outside the bytes
    `pixels` (start, stop), which hold the pictures. Version 1 has the first three alone."""
    landmark_limit: float | None = None
    """Largest distance from the median shape, see `screen.limit_landmarks`; None keeps all landmarks."""
    landmarks_dropped: tuple[int, ...] = ()
    """Rows beyond the limit: their landmarks stay on disk and read as unknown."""
    skipped_sha256: str | None = None
    """Digest of `skipped.csv`; None in a store from before it was kept."""


def difference_hash(image: ByteArray) -> int:
    """64-bit perceptual hash: grey, area-resized to 9 x 8, one bit per horizontal neighbour that is brighter.

    Insensitive to brightness, contrast, scale and mild compression; a flat picture hashes to 0. Two pictures are near
    duplicates when few bits differ (N. Krawetz, "Kind of Like That", 2013).
    """
    import cv2

    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 and image.shape[2] == 3 else image.squeeze()
    small = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA)
    return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1]).tobytes(), "big")


ATTRIBUTES = json.JSONEncoder(sort_keys=True)
"""How a row keeps its attributes; one for all rows, where `json.dumps` makes one for each."""

TWINS = ("same_person", "same_actions")
"""Columns of a part that has a face with such a group; other parts are without."""


def table_schema(twins: bool = False) -> Any:
    """The columns of a part, with those of TWINS or without; fixed-size lists hold NaN where a value is unknown."""

    def numbers(width: int) -> Any:
        return pa.list_(pa.float32(), width)

    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("image", pa.large_binary(), nullable=False),
            pa.field("split", pa.string(), nullable=False),
            pa.field("subject", pa.string()),
            pa.field("expression", pa.string()),
            pa.field("votes", numbers(len(EXPRESSIONS))),
            pa.field("action_units", numbers(len(ACTION_UNITS))),
            pa.field("landmarks", numbers(2 * LANDMARKS)),
            pa.field("visible", pa.list_(pa.bool_(), LANDMARKS)),
            pa.field("pose", numbers(3)),
            pa.field("attributes", pa.string(), nullable=False),
            pa.field("digest", pa.string(), nullable=False),
            pa.field("dhash", pa.uint64(), nullable=False),
            *(pa.field(name, pa.string()) for name in TWINS if twins),
        ]
    )


@cache
def _unknown(width: int) -> FloatArray:
    """NaN (width,), one for all faces of which nothing is known."""
    found = np.full(width, np.nan, dtype=np.float32)
    found.flags.writeable = False
    return found


def _floats(record: Record, name: str, shape: tuple[int, ...]) -> FloatArray:
    value = getattr(record, name)
    if value is None:
        return _unknown(math.prod(shape))
    array = np.asarray(value, dtype=np.float32)
    if array.shape != shape:
        raise DataError(f"record '{record.id}': {name} has shape {array.shape}, expected {shape}.")
    return np.where(np.isfinite(array), array, np.float32(np.nan)).reshape(-1)


def _visible(record: Record, landmarks: FloatArray) -> npt.NDArray[np.bool_]:
    """(LANDMARKS,) which points are known and not said to be hidden."""
    if record.landmarks is None:
        return np.zeros(LANDMARKS, dtype=bool)
    known = np.asarray(np.isfinite(landmarks.reshape(-1, 2)).all(axis=1))
    return known if record.visible is None else known & np.asarray(record.visible, dtype=bool)


def row(record: Record, settings: dict[str, Any]) -> dict[str, Any]:
    """One row of the table; DataError for values outside the schema's names and shapes."""
    if record.split not in SPLITS:
        raise DataError(f"record '{record.id}': split '{record.split}' is none of {', '.join(SPLITS)}.")
    if record.expression is not None and record.expression not in EXPRESSIONS:
        raise DataError(f"record '{record.id}': expression '{record.expression}' is none of {', '.join(EXPRESSIONS)}.")
    image = _square(record, settings["size"], settings["channels"])
    landmarks = _floats(record, "landmarks", (LANDMARKS, 2))
    visible = _visible(record, landmarks)
    return {
        "id": record.id,
        "image": encode(image, settings["encoding"]),
        "split": record.split,
        "subject": record.subject,
        "expression": record.expression,
        "votes": _floats(record, "votes", (len(EXPRESSIONS),)),
        "action_units": _floats(record, "action_units", (len(ACTION_UNITS),)),
        "landmarks": landmarks,
        "visible": visible,
        "pose": _floats(record, "pose", (3,)),
        "attributes": ATTRIBUTES.encode(dict(record.attributes)),
        "digest": hashlib.sha1(image.data, usedforsecurity=False).hexdigest(),
        "dhash": difference_hash(image),
        **{name: getattr(record, name) for name in TWINS},
    }


def _square(record: Record, size: int, channels: int) -> ByteArray:
    """The record's pixels as contiguous (size, size) grey or (size, size, 3) RGB."""
    import cv2

    image = record.image
    if (
        not isinstance(image, np.ndarray)
        or image.dtype != np.uint8
        or image.shape not in ((size, size), (size, size, 3))
    ):
        found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise DataError(
            f"record '{record.id}': a store of size {size} takes uint8 ({size}, {size}[, 3]) pixels, got {found}."
        )
    if channels == 1:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image
    elif image.ndim == 2:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    return np.ascontiguousarray(image)


def encode(image: ByteArray, encoding: str) -> bytes:
    """Grey (H, W[, 1]) or RGB (H, W, 3) pixels as raw bytes, PNG or JPEG (quality 95)."""
    if encoding == "raw":
        return image.tobytes()
    import cv2

    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if encoding == "jpeg" else []
    pixels = image[:, :, ::-1] if image.ndim == 3 else image
    done, data = cv2.imencode(f".{encoding}", np.ascontiguousarray(pixels), options)
    if not done:
        raise DataError(f"a picture could not be encoded as {encoding}.")
    return bytes(data.tobytes())


def decode(data: Any, info: StoreInfo, shrink: int = 1) -> ByteArray:
    """Bytes of one row to (H, W, 1) grey or (H, W, 3) RGB; a view without copying where the bytes are raw.

    `shrink` 2, 4 or 8 gives a JPEG that much smaller: each pixel is the mean of those that it stands for, at less work.
    DataError for bytes that are no picture of the store's size.
    """
    pixels = np.frombuffer(data, dtype=np.uint8)
    if info.encoding == "raw":
        if pixels.size != info.size * info.size * info.channels:
            raise DataError(f"a picture of {info.dataset} has {pixels.size} bytes: the store is damaged.")
        return pixels.reshape(info.size, info.size, info.channels)
    import cv2

    reduced = 0 if shrink == 1 else 8 * shrink  # OpenCV's flags 16, 32 and 64
    mode = cv2.IMREAD_GRAYSCALE if info.channels == 1 else cv2.IMREAD_COLOR_RGB
    image: Any = cv2.imdecode(pixels, mode | reduced)
    if image is None or image.shape[:2] != (info.size // shrink, info.size // shrink):
        raise DataError(f"a picture of {info.dataset} cannot be decoded: the store is damaged.")
    return image[:, :, None] if info.channels == 1 else image


def write_part(path: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Write rows as one record batch under a temporary name, sync, rename. Returns its entry in `parts`."""
    schema = table_schema(any(row[name] is not None for row in rows for name in TWINS))
    columns = [column([row[field.name] for row in rows], field.type) for field in schema]
    with replacing(path) as temporary, open(temporary, "wb") as file:
        with pa.ipc.new_file(file, schema) as writer:
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
        file.flush()
        os.fsync(file.fileno())
    pixels, whole, frame = _digests(path)
    return {
        "file": path.name, "rows": len(rows), "bytes": path.stat().st_size, "sha256": whole, "pixels": list(pixels), "frame": frame,
    }  # fmt: skip


def map_part(path: Path) -> Any:
    """The record batch of a part, memory-mapped; DataError for a file that is none, or has other columns."""
    try:
        batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
    except (pa.ArrowException, OSError, ValueError, IndexError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"part '{path}' cannot be read ({reason}): {REMEDY}") from error
    if batch.schema.names not in (table_schema().names, table_schema(True).names):
        raise DataError(f"part '{path}' has other columns than a store: {REMEDY}")
    return batch


REMEDY = "delete the folder and run `mien prepare` again."
"""For a damaged store."""


def _digests(path: Path) -> tuple[tuple[int, int], str, str]:
    """Of the file of a part: start and stop of the pictures in it, its digest, and that of what lies outside the pictures."""
    mapped = pa.memory_map(str(path))
    whole = mapped.read_buffer(mapped.size())
    pictures = pa.ipc.open_file(pa.BufferReader(whole)).get_batch(0).column("image").buffers()[2]
    start = stop = 0
    if pictures is not None and pictures.size:  # not a part of skipped faces alone
        start = pictures.address - whole.address
        stop = start + pictures.size
    frame = hashlib.sha256(whole.slice(0, start))
    frame.update(whole.slice(stop))
    return (start, stop), hashlib.sha256(whole).hexdigest(), frame.hexdigest()


def frame_sha256(path: Path, pixels: tuple[int, int]) -> str:
    """Digest of a part's bytes outside `pixels` (start, stop): cheap, and all that Arrow reads before it reads a picture."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        digest.update(file.read(pixels[0]))
        file.seek(pixels[1])
        digest.update(file.read())
    return digest.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """`store.json` or `progress.json`; DataError when damaged, changed by hand or of another store version."""
    content = files.read_json(path, REMEDY.rstrip("."))
    version = content.get("version")
    if version not in READ_VERSIONS or isinstance(version, bool):
        raise DataError(
            f"'{path}' has store version {short(version)}, this Mien reads {STORE_VERSION}: run `mien prepare` again."
        )
    return content if version == 1 else files.read_json(path, REMEDY.rstrip("."), sealed=True)


def read_info(path: Path) -> StoreInfo:
    """`store.json` of a finished store; DataError for one that lacks something or holds what cannot be."""
    content = read_json(path / "store.json")
    try:
        values = {name: content[name] for name in StoreInfo._fields if name not in StoreInfo._field_defaults}
        info = StoreInfo(**values, **{name: content[name] for name in StoreInfo._field_defaults if name in content})
        if wrong := _impossible(info):
            raise DataError(f"'{path / 'store.json'}' is damaged ({wrong}): {REMEDY}")
    except KeyError as error:
        raise DataError(f"'{path / 'store.json'}' lacks {error}: {REMEDY}") from error
    dropped = tuple(info.landmarks_dropped)
    return info._replace(action_units=tuple(info.action_units), parts=tuple(info.parts), landmarks_dropped=dropped)


def _impossible(info: StoreInfo) -> str | None:
    """The first field that holds what cannot be."""
    sound = {
        "size": _is_count(info.size) and 8 <= info.size <= 2**15,
        "channels": info.channels in (1, 3),
        "encoding": info.encoding in ("raw", "png", "jpeg"),
        "action_units": isinstance(info.action_units, list) and all(isinstance(n, str) for n in info.action_units),
        "notes": isinstance(info.notes, dict) and all(isinstance(value, str) for value in info.notes.values()),
        "parts": isinstance(info.parts, list) and all(map(sound_part, info.parts)),
        "landmark_limit": info.landmark_limit is None or isinstance(info.landmark_limit, int | float),
        **{name: isinstance(getattr(info, name), str) for name in ("dataset", "landmarks", "mien", "fingerprint")},
        **{name: _is_count(getattr(info, name)) for name in ("rows", "skipped")},
        "skipped_sha256": info.skipped_sha256 is None or isinstance(info.skipped_sha256, str),
    }
    if wrong := [name for name, holds in sound.items() if not holds]:
        return wrong[0]
    if sum(part["rows"] for part in info.parts) != info.rows:
        return "rows"
    rows = info.landmarks_dropped
    few = isinstance(rows, list | tuple) and all(_is_count(row) and row < info.rows for row in rows)
    return None if few else "landmarks_dropped"


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def sound_part(part: Any) -> bool:
    """Whether an entry of `parts` names a file of the store's own and where in it the pictures lie."""
    if not (isinstance(part, dict) and isinstance(part.get("file"), str) and PART_NAME.fullmatch(part["file"])):
        return False
    start, stop = part["pixels"] if _is_pair(part.get("pixels")) else (0, 0)
    return _is_count(part.get("rows")) and _is_count(part.get("bytes")) and start <= stop <= part["bytes"]


def _is_pair(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_count, value))


PART_NAME = re.compile(r"part-\d{5,9}\.arrow")


def intact(folder: Path, part: dict[str, Any]) -> bool:
    """Whether a part file is there with the bytes that were written, pictures aside (`verify.py` reads those too)."""
    path = folder / part["file"]
    if not path.is_file() or path.stat().st_size != part["bytes"]:
        return False
    return "frame" not in part or frame_sha256(path, part["pixels"]) == part["frame"]


def intact_parts(folder: Path, progress: dict[str, Any]) -> list[dict[str, Any]]:
    """The finished parts of an interrupted store up to the first damaged one (so that row order is kept)."""
    parts: list[dict[str, Any]] = []
    for part in progress.get("parts", []):
        if not sound_part(part) or not intact(folder, part):
            break
        parts.append(part)
    return parts


def same_settings(folder: Path, found: dict[str, Any], settings: dict[str, Any], add: bool = False) -> None:
    """UsageError when a store holds data made with other settings or of another source, naming the first that differs.

    With `add` the files of the source may have changed.
    """
    for name, value in settings.items():
        if name in ("version", "source") or found.get(name) == value:
            continue
        raise UsageError(
            f"'{folder}' holds a store with {name} {found.get(name)!r}, now {value!r} is asked: "
            "choose another folder for --out, delete this one, or let mien prepare --replace it."
        )
    there, asked = found.get("source", {}), settings.get("source", {})
    if asked and not there:
        raise UsageError(
            f"'{folder}' was made by an earlier mien, which did not note what from: choose another --out, or --replace it."
        )
    if {**there, "listing": "", "files": 0} != {**asked, "listing": "", "files": 0}:
        raise UsageError(
            f"'{folder}' holds faces of another place named '{there.get('root')}'; now '{asked.get('root')}' is asked: choose "
            "another --out, or --replace it."
        )
    if there != asked and not add:
        raise UsageError(
            f"'{folder}' was made of {there['files']} files; those under '{asked['root']}' have changed since ({asked['files']} "
            "now): --add reads pictures that it lacks, --replace makes it anew."
        )
