"""AUDetNet's label files: a pickled dictionary of frame id -> vector of action units, read without running any of it.

A pickle is a program. This reader lets it build dictionaries, lists, numbers, text and plain numpy arrays, and nothing
else: names of classes and functions in the file lead to the few stand-ins below, which build arrays from checked bytes,
or to an error. No function of numpy or of another library is ever called with what the file says.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.errors import DataError

MOST_BYTES = 2**30
"""Label files are small: 150,000 frames of 12 action units take 15 MiB."""
PLAIN_TYPE = re.compile(r"[biuf][1248]|[US]\d{1,4}")
"""Codes of numpy's numbers and fixed-width text; anything else (objects, records) is refused."""


class _Type:
    """Stands in for numpy.dtype."""

    def __init__(self, code: object, *_flags: object) -> None:
        if not isinstance(code, str) or not PLAIN_TYPE.fullmatch(code):
            raise ValueError(f"it holds an array of type {str(code)[:20]!r}, only plain numbers are read")
        self.code, self.order = code, "="

    def __setstate__(self, state: Any) -> None:
        if len(state) > 3 and (state[2] is not None or state[3] is not None):
            raise ValueError("it holds an array of records, only plain numbers are read")
        self.order = {"<": "<", ">": ">"}.get(state[1], "=")

    def array(self, data: object, shape: object, order: str) -> npt.NDArray[Any]:
        """The bytes as an array of this type; the shape must fit them."""
        sizes = shape if isinstance(shape, tuple) else (shape,)
        if not isinstance(data, bytes | bytearray) or not all(isinstance(n, int) and 0 <= n < 2**40 for n in sizes):
            raise ValueError("it holds an array that is no plain block of bytes")
        kind = np.dtype(self.order + self.code)
        if math.prod(sizes) * kind.itemsize != len(data):
            raise ValueError("it holds an array whose shape does not fit its bytes")
        return np.frombuffer(bytes(data), kind).reshape(sizes, order="F" if order == "F" else "C")


class _Array:
    """Stands in for numpy.ndarray between its creation and its state."""

    def __init__(self, *_arguments: object) -> None:
        self.value: npt.NDArray[Any] = np.empty(0)

    def __setstate__(self, state: Any) -> None:
        _version, shape, kind, fortran, data = state
        if not isinstance(kind, _Type):
            raise ValueError("it holds an array without a type")
        self.value = kind.array(data, shape, "F" if fortran else "C")


def _scalar(kind: object, data: object) -> Any:
    if not isinstance(kind, _Type):
        raise ValueError("it holds a number without a type")
    return kind.array(data, (), "C").item()


def _from_buffer(data: object, kind: object, shape: object, order: object) -> npt.NDArray[Any]:
    if not isinstance(kind, _Type):
        raise ValueError("it holds an array without a type")
    return kind.array(data, shape, str(order))


def _latin1(text: object, encoding: object = "latin1") -> bytes:
    """Stands in for _codecs.encode, by which old protocols write bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("it holds text in an odd encoding")
    return text.encode("latin1")


def _text_or_bytes(*arguments: object) -> bytes:
    """Stands in for bytes() and bytearray(), by which old protocols write empty ones."""
    return _latin1(*arguments) if arguments else b""


ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _latin1,
    ("builtins", "bytes"): _text_or_bytes,
    ("builtins", "bytearray"): _text_or_bytes,
    **{
        (f"numpy.{core}.{module}", name): stand_in
        for core in ("core", "_core")
        for module, name, stand_in in (
            ("multiarray", "_reconstruct", _Array),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
}
"""(module, name) in the file -> what is called in its place."""


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise ValueError(f"it asks for {module[:40]}.{name[:40]}, which is not run") from None


def read_label_pickle(path: Path) -> dict[str, npt.NDArray[np.float64]]:
    """Frame id -> vector of numbers, of a pickled dictionary; nothing in the file is run.

    DataError, with the reason, for a file that holds anything but ids with vectors, is damaged or larger than 1 GiB.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError("it is larger than 1 GiB, too large for labels")
        with open(path, "rb") as file:
            content = _Reader(file, encoding="latin1").load()
        if not isinstance(content, dict) or not content:
            raise ValueError("it holds no dictionary of frame id -> vector")
        return {_id(key): _vector(key, value) for key, value in content.items()}
    except FileNotFoundError as error:
        raise DataError(f"label file '{path}' does not exist.") from error
    except OSError as error:
        raise DataError(f"label file '{path}' cannot be read ({error.strerror or error}).") from error
    except ValueError as error:
        raise DataError(f"label file '{path}' is not read: {error}.") from error
    except Exception as error:  # a broken pickle may fail in any way
        raise DataError(f"label file '{path}' is damaged ({type(error).__name__}: {str(error)[:80]}).") from error


def _id(key: object) -> str:
    if isinstance(key, bytes):
        return key.decode("latin1")
    if not isinstance(key, str):
        raise ValueError(f"a key is {type(key).__name__}, frame ids are text")
    return key


def _vector(key: object, value: object) -> npt.NDArray[np.float64]:
    plain = value.value if isinstance(value, _Array) else value
    try:
        vector = np.asarray(plain, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"the entry of '{key}' is no vector of numbers") from None
    if vector.ndim != 1:
        raise ValueError(f"the entry of '{key}' has shape {vector.shape}, expected a vector")
    return vector
