"""Published weights of MSI-Net, read without TensorFlow and without running code from the file.

Three forms: `.safetensors` under this package's names; `.npz` with TensorFlow's variables by name; `.pb`, the frozen graphs
that its authors publish (`model_salicon_cpu.pb`), whose constants are read from the wire format of protocol buffers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mien.cues.msi_net import MsiNet
from mien.errors import DataError
from mien.files import read_npz

Array = npt.NDArray[np.float32]
LONGEST = 10
"""Bytes of the longest varint."""


def read_msi_net(path: Path) -> MsiNet:
    """MSI-Net with the weights of a file, in evaluation mode.

    Raises:
        DataError: no such file, another kind of file, or variables missing or of another shape.

    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = from_tensorflow(
                _read_npz(path) if path.suffix == ".npz" else dict(graph_constants(path.read_bytes()))
            )
    except FileNotFoundError as error:
        raise DataError(f"weights of MSI-Net not found: {path}.") from error
    except Exception as error:  # safetensors, zipfile, numpy and a cut file each raise their own kinds
        if isinstance(error, DataError):
            raise
        raise DataError(f"weights {path} cannot be read ({' '.join(str(error).split())[:120]}).") from error
    with torch.device("meta"):
        net = MsiNet()
    own = net.state_dict()
    missing = [name for name in own if name not in state]
    wrong = [name for name in own if name in state and state[name].shape != own[name].shape]
    if missing or wrong:
        raise DataError(
            f"weights {path} are not MSI-Net's: {len(missing)} of {len(own)} tensors missing ({', '.join(missing[:2])}), "
            f"{len(wrong)} of another shape ({', '.join(wrong[:2])})."
        )
    net.load_state_dict({name: state[name].float() for name in own}, assign=True)
    return net.eval().requires_grad_(False)


def from_tensorflow(variables: dict[str, Array]) -> dict[str, Tensor]:
    """State dict from TensorFlow's variables: ``[scope/]conv1/conv1_1/kernel[:0]`` (h, w, in, out) and ``.../bias``."""
    state = {}
    for name, value in variables.items():
        found = re.search(r"((?:conv\d|aspp|decoder)/conv\d(?:_\d)?)/(kernel|bias)(?::0)?$", name)
        if found:
            kernel = found[2] == "kernel" and value.ndim == 4
            array = value.transpose(3, 2, 0, 1) if kernel else value
            state[f"layers.{found[1]}.{'weight' if found[2] == 'kernel' else 'bias'}"] = torch.from_numpy(
                np.array(array, dtype=np.float32, order="C")
            )
    return state


def _read_npz(path: Path) -> dict[str, Array]:
    return read_npz(path, "give another weight file")


def graph_constants(data: bytes) -> Iterator[tuple[str, Array]]:
    """Name and value of every float constant of a serialised TensorFlow GraphDef.

    Fields read: GraphDef.node 1; NodeDef.name 1, op 2, attr 5 (key 1, value 2); AttrValue.tensor 8; TensorProto.dtype 1
    (1 is float), tensor_shape 2 (dim 2, size 1), tensor_content 4, float_val 5.
    """
    for field, node in _fields(data):
        parts = list(_fields(node)) if field == 1 else []
        if (2, b"Const") not in parts:
            continue
        name = next((value.decode() for number, value in parts if number == 1 and isinstance(value, bytes)), "")
        for number, entry in parts:
            value = dict(_fields(entry)) if number == 5 else {}
            array = _tensor(dict(_fields(value.get(2, 0))).get(8, 0)) if value.get(1) == b"value" else None
            if array is not None:
                yield name, array


def _tensor(message: int | bytes) -> Array | None:
    """A float tensor: its raw bytes, or a list of values of which the last is repeated as often as the shape needs."""
    fields = list(_fields(message))
    parts = dict(fields)
    if parts.get(1) != 1:
        return None
    sizes = [dict(_fields(each)).get(1, 0) for field, each in _fields(parts.get(2, 0)) if field == 2]
    shape = [size for size in sizes if isinstance(size, int)]
    raw = b"".join(value for field, value in fields if field in (4, 5) and isinstance(value, bytes))
    values = np.frombuffer(raw, dtype="<f4")
    missing = int(np.prod(shape)) - len(values)
    return np.pad(values, (0, missing), mode="edge").reshape(shape) if len(values) and missing >= 0 else None


def _fields(message: int | bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field number and value of each entry of a message: an integer, or the bytes of a longer one; none of an integer."""
    if isinstance(message, int):
        return
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, place = _varint(message, place)
            yield number, value
            continue
        if kind not in (1, 2, 5):
            raise ValueError(f"wire type {kind} is none of a TensorFlow graph")
        length, place = _varint(message, place) if kind == 2 else (8 if kind == 1 else 4, place)
        if place + length > len(message):
            raise ValueError("the file ends inside a field")
        yield number, message[place : place + length]
        place += length


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = 0
    for k in range(LONGEST):
        if place + k >= len(message):
            raise ValueError("the file ends inside a number")
        byte = message[place + k]
        value |= (byte & 0x7F) << (7 * k)
        if byte < 0x80:
            return value, place + k + 1
    raise ValueError("a number is longer than ten bytes")
