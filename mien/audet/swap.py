"""`mien audet swap`: the expression of one face on another, as a grid, a strip, a GIF and a film."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mien import draw
from mien.audet.nets import AudetNet
from mien.audet.photos import UnitReader, open_reader
from mien.audet.regions import corners_of
from mien.data.framing import FramedFace, frame_face
from mien.errors import DataError, PictureError, UsageError
from mien.faces.detect import open_provider
from mien.faces.films import open_film
from mien.faces.pictures import load_picture
from mien.faces.provider import Provider
from mien.files import write_atomic
from mien.schema import ByteArray

STEPS = 9
"""Pictures of a strip, from a face's own z1 to the other's."""
SMALL = 128
"""Longer side in pixels up to which a picture without a face that can be found counts as a face itself."""
CELL, PAUSE = 144, 120
"""Side of a shown picture in pixels, and time of a frame in milliseconds."""
ROUNDS = 3
"""How often a film goes there and back, which a GIF does without end."""


class Swapped(NamedTuple):
    """What came of two faces, indexed by whose z2 it is."""

    faces: list[ByteArray]
    """The two faces as the net saw them."""
    strips: list[list[ByteArray]]
    """For each face the pictures from its own z1 (first) to the other's (last), (S, S, 3) uint8 each."""
    units: list[list[dict[str, float]]]
    """What the net itself reads in each of them: unit -> intensity 0-5, or probability 0-1."""


def swap_audet(run: Path, first: Path, second: Path, out: Path, faces: str = "auto", steps: int = STEPS) -> Swapped:
    """Put the expression of each of two photos on the other: swap.png (grid), strip.png, swap.gif, swap.mp4 and swap.json.

    Args:
        run: run folder of `mien audet train` whose net has z2 and a decoder.
        first: photo of a face.
        second: photo of another.
        out: folder to write into.
        faces: who finds them: mediapipe, dlib, none (whole pictures are faces), or auto, mediapipe where it is there.
        steps: pictures of a strip.

    Raises:
        DataError: no picture, no face in it, or a net that cannot swap. UsageError: too few steps.

    """
    if steps < 2:
        raise UsageError(f"--steps {steps}: give at least 2, a face's own expression and the other's.")
    reader, provider = open_reader(run), finder_of(faces)
    refuse_single(reader.net, run)
    cut = [open_face(path, reader, provider) for path in (first, second)]
    found = swap_faces(reader, cut, steps)
    names = [escape_name(path) for path in (first, second)]
    out.mkdir(parents=True, exist_ok=True)
    draw.write_png(out / "swap.png", grid_of(found, names))
    draw.write_png(out / "strip.png", strips_of(found, names))
    frames = frames_of(found)
    write_atomic(out / "swap.gif", moving(frames))
    filmed = film(frames, out / "swap.mp4")
    report = {
        "run": str(run),
        "faces": [str(first), str(second)],
        "regresses": reader.net.regresses,
        "units": found.units,
    }
    write_atomic(out / "swap.json", json.dumps(report, indent=1, allow_nan=False))
    print(f"{out}: swap.png, strip.png, swap.gif, {'swap.mp4, ' if filmed else ''}swap.json")
    return found


def escape_name(path: Path) -> str:
    """Name of a photo as it is shown, at most 24 characters."""
    return path.name if len(path.name) <= 24 else path.name[:21] + "..."


def finder_of(faces: str) -> Provider | None:
    """Who finds faces; None where whole pictures are taken as faces."""
    if faces == "none":
        return None
    if faces != "auto":
        return open_provider(faces)
    try:
        return open_provider("mediapipe")
    except DataError:
        return None


def refuse_single(net: AudetNet, run: Path) -> None:
    """DataError for a net that has nothing to swap."""
    if net.decoder is None or not net.z2_channels:
        lacks = "decoder" if net.decoder is None else "z2"
        raise DataError(f"{run}: its net has no {lacks}, so it cannot swap; train recipes/audet/swap.cfg.")


def open_face(path: Path, reader: UnitReader, provider: Provider | None) -> FramedFace:
    """The main face of a photo, cut as the net's training faces were; DataError where there is none."""
    if not path.is_file():
        raise DataError(f"photo not found: {path}.")
    try:
        image = draw.rgb(load_picture(path))
    except PictureError as error:
        raise DataError(f"{path}: {error}.") from error
    return cut_face(image, str(path), reader, provider)


def cut_face(image: ByteArray, name: str, reader: UnitReader, provider: Provider | None) -> FramedFace:
    """The main face of an RGB picture, cut as the net's training faces were; DataError, which says `name`, where there is none."""
    found = provider(image) if provider is not None else []
    if provider is not None and not found and max(image.shape[:2]) > SMALL:
        raise DataError(
            f"{name}: no face found; give a photo that shows one from the front, or --finder none for a cut face."
        )
    face = found[0] if found else None
    points, box = (None, None) if face is None else (face.landmarks, face.box)
    return frame_face(image, points, box, reader.framing, CELL)


@torch.no_grad()
def swap_faces(reader: UnitReader, faces: Sequence[FramedFace], steps: int = STEPS) -> Swapped:
    """Both faces with every step from their own z1 to the other's; z2 and what the decoder skips stay their own."""
    net, device = reader.net, reader.device
    pixels = torch.from_numpy(np.stack([face.pixels for face in faces]).transpose(0, 3, 1, 2)).to(device)
    corners = corners_of(
        torch.from_numpy(np.stack([face.landmarks for face in faces])).float(), reader.framing.size
    ).to(device)
    seen = net(net.from_pixels(pixels, corners), decode=False)
    shares = torch.linspace(0, 1, steps, device=device)[:, None, None, None]
    strips, units = [], []
    for own, other in ((0, 1), (1, 0)):
        z1 = torch.lerp(seen.z1[own], seen.z1[other], shares)
        z2, *skips = (part[own : own + 1].expand(steps, -1, -1, -1) for part in (seen.z2, *seen.skips))
        pictures = net.decode(z1, z2, tuple(skips))
        again = net(
            net.standardise((pictures * 0.5 + 0.5).clamp(0, 1), corners[own : own + 1].expand(steps, -1, -1)),
            decode=False,
        )
        strips.append([bytes_of(picture) for picture in pictures.float().cpu()])
        units.append(
            [dict(zip(net.action_units, row, strict=True)) for row in again.action_units.float().cpu().tolist()]
        )
    return Swapped([face.pixels for face in faces], strips, units)


def bytes_of(picture: Tensor) -> ByteArray:
    """(3, H, W) in [-1, 1] -> (H, W, 3) uint8."""
    values = (picture.permute(1, 2, 0).numpy() * 0.5 + 0.5).clip(0, 1) * 255
    return np.asarray(np.rint(values), dtype=np.uint8)


def grid_of(found: Swapped, names: Sequence[str]) -> ByteArray:
    """Two rows, a face each: the face, decoded with its own z1, and with the other's."""
    cells = [[face, strip[0], strip[-1]] for face, strip in zip(found.faces, found.strips, strict=True)]
    columns = ("face", "own expression, decoded", "expression of the other")
    return draw.grid(cells, rows=names, columns=columns, cell=CELL)


def strips_of(found: Swapped, names: Sequence[str]) -> ByteArray:
    """Two rows, a face each: from its own z1 to the other's."""
    steps = len(found.strips[0])
    columns = [f"{k / (steps - 1):.2f}" for k in range(steps)]
    return draw.grid(found.strips, rows=names, columns=columns, cell=CELL, title="share of the other's z1")


def frames_of(found: Swapped) -> list[ByteArray]:
    """Both faces side by side, to the other's expression and back: (288, 576, 3) uint8 each."""
    pairs = [
        np.concatenate([draw.fit(frame, (2 * CELL, 2 * CELL)) for frame in pair], 1)
        for pair in zip(*found.strips, strict=True)
    ]
    return [*pairs, *pairs[-2:0:-1]]


def moving(frames: Sequence[ByteArray]) -> bytes:
    """A GIF of the frames, without end."""
    first, *rest = (Image.fromarray(frame) for frame in frames)
    target = io.BytesIO()
    first.save(target, "GIF", save_all=True, append_images=rest, duration=PAUSE, loop=0)
    return target.getvalue()


def film(frames: Sequence[ByteArray], path: Path) -> bool:
    """Write the frames, ROUNDS times, as an MP4; False, and one line, where this OpenCV cannot."""
    height, width = frames[0].shape[:2]
    temporary = path.with_name(f"{path.stem}.part.mp4")
    made = open_film(temporary, "", 1000 / PAUSE, (width, height))
    if made is None:
        print(f"mien: {path.name}: OpenCV cannot write this video; it is left out.", file=sys.stderr)
        return False
    for k, frame in enumerate(list(frames) * ROUNDS):
        made.add(frame, k * PAUSE / 1000)
    made.close()
    temporary.replace(path)
    return True
