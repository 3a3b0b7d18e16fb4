"""Who reads action units in swapped faces: another net than the one that made them, which has not trained it either."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from mien.audet.embed import device_of, read_again
from mien.audet.run import load_audet, read_run
from mien.audet.spec import Cfg
from mien.errors import DataError, UsageError
from mien.files import file_sha256
from mien.metrics.action_units import ACTIVE
from mien.schema import ACTION_UNITS, ByteArray

ENLARGED = 256
"""Side to which small pictures are enlarged before a face is looked for."""

Array = npt.NDArray[np.float64]


class Reader(NamedTuple):
    """A function from pictures to action units, and what its numbers mean."""

    name: str
    units: tuple[str, ...]
    cuts: tuple[float, ...]
    """From where each unit counts as read."""
    threshold: float
    """Intensity from which a label counts as active."""
    intensities: bool
    """Whether it reads intensities 0-5; else probabilities."""
    read: Callable[[Tensor, Tensor], Array]
    """Pictures (B, 3, H, W) in [-1, 1] and corners of the eyes (B, 4, 2) in shares of the side -> (B, A); NaN without a face."""


def open_reader(name: str, run: Path) -> tuple[Reader | None, str]:
    """Reader `blendshapes`, the run folder of another net, `auto` (blendshapes where there is the face model) or `none`.

    Returns:
        the reader, or None with the reason.

    Raises:
        UsageError: the net itself, or the reader that a term of its loss trained it with, which can be fooled. DataError: no such
            run, or no face model.

    """
    if name == "none":
        return None, "none was asked for"
    if name not in ("blendshapes", "auto"):
        return open_net(Path(name), run), ""
    try:
        return open_blendshapes(), ""
    except DataError as error:
        if name == "blendshapes":
            raise
        return None, f"no face model, and no other net by --reader RUN ({str(error).split(';')[0]})"


def open_net(folder: Path, run: Path) -> Reader:
    """The net of another run folder as a reader."""
    cfg, _ = read_run(folder)
    if same := same_net(folder, run, read_run(run)[0]):
        raise UsageError(f"--reader {folder} {same}; give a net that it has never met, or blendshapes.")
    net, device = load_audet(folder), device_of(cfg)
    net.to(device)

    def read(pictures: Tensor, corners: Tensor) -> Array:
        return read_again(net, pictures, corners, device).action_units.float().cpu().double().numpy()

    cut = net.threshold if net.regresses else 0.5
    return Reader(folder.name, net.action_units, (cut,) * len(net.action_units), net.threshold, net.regresses, read)


def same_net(folder: Path, run: Path, cfg: Cfg) -> str | None:
    """Why a run folder is no independent reader of another: it is that net, or the one that trained it; by their weights."""
    own = file_sha256(folder / "best.ckpt")
    if own == file_sha256(run / "best.ckpt"):
        return "is the net that made the swaps"
    trained = Path(cfg.loss.reader) / "best.ckpt"
    if Path(cfg.loss.reader).resolve() == folder.resolve() or (trained.is_file() and own == file_sha256(trained)):
        return "trained the net that made the swaps"
    return None


def open_blendshapes() -> Reader:
    """The units that the bundled regressor reads from the Face Landmarker's blendshapes; sides are averaged."""
    from mien.faces.mediapipe import open_nets
    from mien.faces.units import read_units, unit_columns, unit_intensities

    find, columns = open_nets(None), unit_columns()
    units = [unit for unit in read_units() if unit.name in ACTION_UNITS]

    def read_one(pixels: ByteArray) -> Array:
        faces = find(pixels)
        if not faces or faces[0].blendshapes is None:
            return np.full(len(units), np.nan)
        values = np.clip(unit_intensities(faces[0].blendshapes[None])[0], 0, 5)
        return np.array([np.mean([values[columns.index(name)] for name in unit.columns]) for unit in units])

    def read(pictures: Tensor, corners: Tensor) -> Array:
        size = max(ENLARGED, pictures.shape[-1])
        large = F.interpolate(pictures, size=[size, size], mode="bicubic", antialias=True)
        pixels = (
            ((large * 0.5 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
        )
        return np.stack([read_one(picture) for picture in pixels])

    return Reader(
        "blendshapes", tuple(unit.name for unit in units), tuple(unit.cut for unit in units), ACTIVE, True, read
    )
