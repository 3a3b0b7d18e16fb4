"""How a face becomes a row of an Arrow file and back: columns, pixels, part files, `store.json`."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from mien.errors import DataError, UsageError
from mien.files import replacing, write_atomic
from mien.schema import ACTION_UNITS, EXPRESSIONS, LANDMARKS, SPLITS, ByteArray, FloatArray, Record

STORE_VERSION = 1
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
    """One {file, rows, bytes} each."""
    landmark_limit: float | None = None
    """Largest distance from the median shape, see `screen.limit_landmarks`; None keeps all landmarks."""
    landmarks_dropped: tuple[int, ...] = ()
    """Rows beyond the limit: their landmarks stay on disk and read as unknown."""


def difference_hash(image: ByteArray) -> int:
    """64-bit perceptual hash: grey, area-resized to 9 x 8, one bit per horizontal neighbour that is brighter.

    Insensitive to brightness, contrast, scale and mild compression; a flat picture hashes to 0. Two pictures are near
    duplicates when few bits differ (N. Krawetz, "Kind of Like That", 2013).
    """
    import cv2

    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 and image.shape[2] == 3 else image.squeeze()
    small = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA)
    return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1]).tobytes(), "big")


def table_schema() -> Any:
    """The columns of a part; fixed-size lists hold NaN where a value is unknown."""

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
        ]
    )


def _floats(record: Record, name: str, shape: tuple[int, ...]) -> FloatArray:
    value = getattr(record, name)
    if value is None:
        return np.full(int(np.prod(shape)), np.nan, dtype=np.float32)
    array = np.asarray(value, dtype=np.float32)
    if array.shape != shape:
        raise DataError(f"record '{record.id}': {name} has shape {array.shape}, expected {shape}.")
    return array.reshape(-1)


def row(record: Record, settings: dict[str, Any]) -> dict[str, Any]:
    """One row of the table; DataError for values outside the schema's names and shapes."""
    if record.split not in SPLITS:
        raise DataError(f"record '{record.id}': split '{record.split}' is none of {', '.join(SPLITS)}.")
    if record.expression is not None and record.expression not in EXPRESSIONS:
        raise DataError(f"record '{record.id}': expression '{record.expression}' is none of {', '.join(EXPRESSIONS)}.")
    image = _square(record, settings["size"], settings["channels"])
    landmarks = _floats(record, "landmarks", (LANDMARKS, 2))
    known = np.isfinite(landmarks.reshape(-1, 2)).all(axis=1)
    visible = known if record.visible is None else known & np.asarray(record.visible, dtype=bool)
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
        "attributes": json.dumps(dict(record.attributes), sort_keys=True),
        "digest": hashlib.sha1(image.tobytes(), usedforsecurity=False).hexdigest(),
        "dhash": difference_hash(image),
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
        image = np.repeat(image[:, :, None], 3, axis=2)
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


def decode(data: Any, info: StoreInfo) -> ByteArray:
    """Bytes of one row to (H, W, 1) grey or (H, W, 3) RGB; a view without copying where the bytes are raw."""
    pixels = np.frombuffer(data, dtype=np.uint8)
    if info.encoding == "raw":
        return pixels.reshape(info.size, info.size, info.channels)
    import cv2

    image: Any = cv2.imdecode(pixels, cv2.IMREAD_GRAYSCALE if info.channels == 1 else cv2.IMREAD_COLOR)
    return image[:, :, None] if info.channels == 1 else image[:, :, ::-1]


def write_part(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as one record batch under a temporary name, sync, rename."""
    schema = table_schema()
    columns = []
    for field in schema:
        values = [row[field.name] for row in rows]
        if pa.types.is_fixed_size_list(field.type):
            flat = np.concatenate([*values, np.empty(0, dtype=field.type.value_type.to_pandas_dtype())])
            columns.append(pa.FixedSizeListArray.from_arrays(pa.array(flat, field.type.value_type), type=field.type))
        else:
            columns.append(pa.array(values, field.type))
    with replacing(path) as temporary, open(temporary, "wb") as file:
        with pa.ipc.new_file(file, schema) as writer:
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
        file.flush()
        os.fsync(file.fileno())


def map_part(path: Path) -> Any:
    """The record batch of a part, memory-mapped."""
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            f"part '{path}' cannot be read ({error}): delete the folder and run `mien prepare` again."
        ) from error


DECIDING = ("polarity", "fold")
"""Attributes that say what a face's label under polarity-3 is, and in which fold it lies."""


def fingerprint(batches: Iterable[Any]) -> str:
    """sha256 over ids, pixel digests and labels in row order, and the attributes that are labels or splits where a row has
    them (DECIDING); other attributes and the hash are left out.
    """
    texts, numbers = ("id", "digest", "split", "subject", "expression"), ("votes", "action_units", "landmarks", "pose")
    hashes = {name: hashlib.sha256() for name in (*texts, *numbers)}
    deciding, found = hashlib.sha256(), False
    for batch in batches:
        for value in map(json.loads, batch.column("attributes").to_pylist()):
            own = {name: value[name] for name in DECIDING if name in value}
            found = found or bool(own)
            deciding.update(f"{json.dumps(own, sort_keys=True)}\n".encode())
        for name in texts:
            for value in batch.column(name).to_pylist():
                hashes[name].update(f"{json.dumps(value)}\n".encode())
        for name in numbers:
            values = batch.column(name).flatten().to_numpy(zero_copy_only=False).astype("<f4")
            hashes[name].update(values.tobytes())
    parts = [*hashes.values(), *([deciding] if found else [])]
    return hashlib.sha256(b"".join(value.digest() for value in parts)).hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """`store.json` or `progress.json`; DataError when damaged or of another store version."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise DataError(f"'{path}' is damaged ({error}): delete the folder and run `mien prepare` again.") from error
    version = content.get("version") if isinstance(content, dict) else None
    if version != STORE_VERSION:
        raise DataError(
            f"'{path}' has store version {version}, this Mien reads {STORE_VERSION}: run `mien prepare` again."
        )
    return dict(content)


def read_info(path: Path) -> StoreInfo:
    """`store.json` of a finished store."""
    content = read_json(path / "store.json")
    try:
        values = {name: content[name] for name in StoreInfo._fields if name not in StoreInfo._field_defaults}
        info = StoreInfo(**values, **{name: content[name] for name in StoreInfo._field_defaults if name in content})
    except KeyError as error:
        raise DataError(
            f"'{path / 'store.json'}' lacks {error}: delete the folder and run `mien prepare` again."
        ) from error
    dropped = tuple(info.landmarks_dropped)
    return info._replace(action_units=tuple(info.action_units), parts=tuple(info.parts), landmarks_dropped=dropped)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON whole or not at all."""
    write_atomic(path, json.dumps(content, indent=1) + "\n")


def intact(folder: Path, part: dict[str, Any]) -> bool:
    """Whether a part file is there with the bytes that were written."""
    path = folder / part["file"]
    return path.is_file() and path.stat().st_size == part["bytes"]


def intact_parts(folder: Path, progress: dict[str, Any]) -> list[dict[str, Any]]:
    """The finished parts of an interrupted store up to the first damaged one (so that row order is kept)."""
    parts: list[dict[str, Any]] = []
    for part in progress["parts"]:
        if not intact(folder, part):
            break
        parts.append(part)
    return parts


def same_settings(folder: Path, found: dict[str, Any], settings: dict[str, Any]) -> None:
    """UsageError when a store holds data made with other settings, naming the first that differs."""
    for name, value in settings.items():
        if found.get(name) != value:
            raise UsageError(
                f"'{folder}' holds a store with {name} {found.get(name)!r}, now {value!r} is asked: "
                "choose another folder for --out, delete this one, or let mien prepare --replace it."
            )
