"""Columns of a part as Arrow arrays and back, by their buffers.

`pyarrow.array` and `to_numpy` import pandas where that is installed, which takes half a second in every process. A part's columns
have known types: texts, bytes, numbers, and lists of numbers of one length. The arrays are the same to the byte, and so are files.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa


def column(values: Sequence[Any], kind: Any) -> Any:
    """N values as an Arrow array of type `kind`.

    Texts (str) or pictures (bytes), None where a text is unknown; numbers; or arrays (width,) for a list of fixed size.
    """
    if pa.types.is_fixed_size_list(kind):
        flat = np.concatenate([*values, np.empty(0, dtype=_dtype(kind.value_type))])
        return pa.FixedSizeListArray.from_arrays(_numbers(flat, kind.value_type), type=kind)
    if pa.types.is_string(kind) or pa.types.is_large_binary(kind):
        return _texts(values, kind)
    return _numbers(np.array(values, dtype=_dtype(kind)), kind)


def _dtype(kind: Any) -> Any:
    """The numpy type of an Arrow type of numbers; `to_pandas_dtype` would do, but is pandas' business."""
    return {pa.bool_(): np.bool_, pa.float32(): np.float32, pa.uint64(): np.uint64}[kind]


def _numbers(values: Any, kind: Any) -> Any:
    """(N,) numbers; Arrow keeps eight truth values in a byte."""
    plain = np.ascontiguousarray(values, dtype=_dtype(kind))
    held = np.packbits(plain, bitorder="little") if pa.types.is_boolean(kind) else plain
    return pa.Array.from_buffers(kind, len(plain), [None, pa.py_buffer(held)])


def _texts(values: Sequence[Any], kind: Any) -> Any:
    """(N,) texts or bytes, one after the other, and where each begins; a bit says which are known."""
    plain = [b"" if value is None else value if isinstance(value, bytes) else value.encode() for value in values]
    starts = np.zeros(len(plain) + 1, dtype=np.int64 if pa.types.is_large_binary(kind) else np.int32)
    np.cumsum([len(value) for value in plain], out=starts[1:])
    known = np.array([value is not None for value in values], dtype=bool)
    bits = None if known.all() else pa.py_buffer(np.packbits(known, bitorder="little"))
    return pa.Array.from_buffers(
        kind, len(plain), [bits, pa.py_buffer(starts), pa.py_buffer(b"".join(plain))], int((~known).sum())
    )


def numbers(array: Any) -> Any:
    """Numbers of an Arrow array without unknown ones, (N,), or of a list of fixed size, (N * width,); read-only, of its memory."""
    flat = array.flatten() if pa.types.is_fixed_size_list(array.type) else array
    held = flat.buffers()[1]
    start, stop = flat.offset, flat.offset + len(flat)
    if held is None:
        return np.empty(0, dtype=_dtype(flat.type))
    if pa.types.is_boolean(flat.type):
        return np.unpackbits(np.frombuffer(held, dtype=np.uint8), count=stop, bitorder="little")[start:].astype(
            np.bool_
        )
    return np.frombuffer(held, dtype=_dtype(flat.type), count=stop)[start:]


def texts(array: Any) -> list[str | None]:
    """Texts of an Arrow array, None where one is unknown."""
    known, starts, held = array.buffers()
    if not len(array):
        return []
    start, stop = array.offset, array.offset + len(array)
    ends = np.frombuffer(starts, dtype=np.int32, count=stop + 1)[start:].tolist()
    content = b"" if held is None else held.to_pybytes()
    if content.isascii():
        plain = content.decode("ascii")
        found: list[str | None] = [plain[a:b] for a, b in pairwise(ends)]
    else:
        found = [content[a:b].decode() for a, b in pairwise(ends)]
    if known is not None and array.null_count:
        bits = np.unpackbits(np.frombuffer(known, dtype=np.uint8), count=stop, bitorder="little")[start:]
        found = [text if bit else None for text, bit in zip(found, bits.tolist(), strict=True)]
    return found
