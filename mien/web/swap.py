"""Two photos whose expressions are exchanged, for a slider of the page; asked where --action-units names a net that can."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mien import draw
from mien.audet.photos import UnitReader
from mien.audet.swap import cut_face, swap_faces
from mien.errors import UsageError
from mien.predict.model import FaceModel
from mien.predict.units import NetUnits
from mien.schema import ByteArray


def swapper_of(model: FaceModel) -> UnitReader | None:
    """The net of action units of a model, where it has z2 and a decoder."""
    units = model.units
    if not isinstance(units, NetUnits) or units.reader.net.decoder is None or not units.reader.net.z2_channels:
        return None
    return units.reader


def halves(body: bytearray, first: float) -> tuple[bytearray, bytearray]:
    """Two files of a body, the first of `first` bytes; UsageError where these are none of its lengths."""
    if not 0 < first < len(body) or first != int(first):
        raise UsageError(
            "a swap is asked for with two photos, one behind the other, and first, the bytes of the first."
        )
    return body[: int(first)], body[int(first) :]


def strips(model: FaceModel, body: bytearray, first: float, read: Callable[[bytearray], ByteArray]) -> dict[str, Any]:
    """For each of two photos the pictures from its own z1 to the other's, as data URIs, with what the net reads in each.

    UsageError where the model's net of action units cannot swap; DataError for a photo without a face.
    """
    reader = swapper_of(model)
    if reader is None:
        raise UsageError("swaps need --action-units RUN, a run of recipes/audet/swap.cfg.")
    images = [read(half) for half in halves(body, first)]
    names = ("the first photo", "the second photo")
    provider = model.provider if callable(model.provider) else None
    found = swap_faces(
        reader, [cut_face(image, name, reader, provider) for image, name in zip(images, names, strict=True)]
    )
    cut = reader.net.threshold if reader.net.regresses else 0.5
    shown = [[{"picture": draw.to_data_uri(large(picture)), "units": [name for name, value in units.items() if value >= cut]}
              for picture, units in zip(*row, strict=True)] for row in zip(found.strips, found.units, strict=True)]  # fmt: skip
    return {"strips": shown}


def large(picture: ByteArray) -> ByteArray:
    """Four times as wide and high, smoothly."""
    return np.ascontiguousarray(draw.fit(picture, (4 * picture.shape[0], 4 * picture.shape[1])))
