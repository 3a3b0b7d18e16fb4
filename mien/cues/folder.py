"""`mien cues STORE --out FOLDER`: one file a face, a chunk of the store at a time, so that memory does not grow with it."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mien.cues.config import CueConfig
from mien.cues.guides import begin, file_names, write_grey
from mien.data.store import Store
from mien.errors import DataError, UsageError
from mien.files import replacing
from mien.progress import track
from mien.schema import EXPRESSIONS, FloatArray

if TYPE_CHECKING:
    from torch import Tensor

SCHEME = "basic-8"
CHUNK = 64
"""Faces at a time; also what random controls are drawn for, so that an interrupted folder goes on as it would have."""
SAVE_AFTER = 10.0
"""Seconds between two writings of the index, which tells faces without a cue."""
INDEX, SETTINGS = "index.csv", "cues.json"


def write_maps(
    store: Store,
    config: CueConfig,
    out: Path,
    names: list[str | None],
    size: int,
    seed: int,
    per_class: bool,
    files: str,
    crops: bool,
) -> str:
    """Write the maps that are not there yet, ``index.csv`` (id, file, expression, valid), and return a summary.

    ``FOLDER/STEM.npy`` holds float32 (size, size) in [0, 1], or (K, size, size) with `per_class`, K the expressions in the order
    of schema.EXPRESSIONS, zero where one has no cue; ``.png`` is 8-bit grey, with `per_class` one file an expression
    (``STEM--Happiness.png``). A face without a cue has no file and valid 0. With `crops` the stored pictures are written to
    ``FOLDER/pictures/STEM.png``, too.

    Raises:
        UsageError: a control that goes through all faces, or a folder of another command.

    """
    if config.control == "shuffled":
        raise UsageError("--control shuffled goes through all faces at once: give --out MAPS.npz.")
    stems = [name.removesuffix(".png") for name in file_names(store.ids.tolist())]
    settings = {
        **asdict(config), "store": store.fingerprint, "size": size, "seed": seed, "per_class": per_class, "files": files,
        "crops": crops, "expression": None if names == list(store.expression) else names[0],
    }  # fmt: skip
    begin(out, settings, SETTINGS)
    valid = read_valid(out / INDEX)
    mean = _mean(store, config, names, size) if config.control == "mean" else None
    starts = range(0, len(store), CHUNK)
    written, saved = 0, time.monotonic()
    for start in track(starts, "cues", len(starts)):
        rows = np.arange(start, min(start + CHUNK, len(store)))
        done = [_done(out, stems[row], str(store.ids[row]), valid, per_class, files, crops) for row in rows]
        if all(done):
            continue
        maps, good = _draw(store, rows, config, [names[row] for row in rows], size, seed + start, mean, per_class)
        for row, map_, known, there in zip(rows.tolist(), maps, good.tolist(), done, strict=True):
            if there:
                continue
            valid[str(store.ids[row])] = known
            written += known
            if known:
                _write(out, stems[row], map_, per_class, files)
            if crops:
                _write_crop(out / "pictures" / f"{stems[row]}.png", store.image(row))
        if time.monotonic() - saved > SAVE_AFTER:
            _write_index(out / INDEX, store, stems, names, valid, per_class, files)
            saved = time.monotonic()
    _write_index(out / INDEX, store, stems, names, valid, per_class, files)
    known = sum(valid.values())
    return f"{out}: maps of {known} of {len(store)} faces, {written} written now ({config.kind}, {size} px, {files}); see {INDEX}"


def files_of(stem: str, per_class: bool, files: str) -> list[str]:
    """Names of a face's files."""
    if files == "png" and per_class:
        return [f"{stem}--{name}.png" for name in EXPRESSIONS]
    return [f"{stem}.{files}"]


def read_valid(index: Path) -> dict[str, bool]:
    """Id -> whether the face has a cue, of an index that an earlier command wrote."""
    if not index.is_file():
        return {}
    try:
        with open(index, newline="", encoding="utf-8") as file:
            return {row["id"]: row["valid"] == "1" for row in csv.DictReader(file)}
    except (ValueError, KeyError, csv.Error) as error:
        raise DataError(f"'{index}' is damaged ({error}): delete it, the same command writes it again.") from error


def _done(out: Path, stem: str, name: str, valid: dict[str, bool], per_class: bool, files: str, crops: bool) -> bool:
    """Whether a face needs nothing; one whose files are there is entered in `valid`, as the index of a killed command lacks it."""
    if crops and not (out / "pictures" / f"{stem}.png").is_file():
        return False
    if valid.get(name) is False:
        return True
    there = all((out / file).is_file() for file in files_of(stem, per_class, files))
    if there:
        valid[name] = True
    return there


def _labels(names: list[str | None]) -> Tensor:
    import torch

    return torch.tensor([-1 if name is None else EXPRESSIONS.index(name) for name in names], dtype=torch.int64)


def _inputs(store: Store, rows: npt.NDArray[np.int64], config: CueConfig) -> dict[str, Any]:
    import torch

    from mien.data.transforms import as_pictures

    images = as_pictures(store.images(rows)) if config.kind == "saliency" else None
    return {"images": images, "action_units": torch.from_numpy(store.action_units[rows])}


def _draw(
    store: Store, rows: npt.NDArray[np.int64], config: CueConfig, names: list[str | None], size: int, seed: int,
    mean: Tensor | None, per_class: bool,
) -> tuple[FloatArray, npt.NDArray[np.bool_]]:  # fmt: skip
    """Maps (B, size, size), or (B, K, size, size), and which faces have one."""
    import torch

    from mien.cues.render import render_cue

    points, frame = torch.from_numpy(store.landmarks_of(rows)), (store.info.size, store.info.size)
    extra = _inputs(store, rows, config)

    def draw(labels: Tensor) -> Any:
        generator = torch.Generator().manual_seed(seed)
        return render_cue(
            config, points, labels, scheme=SCHEME, image_size=frame, size=(size, size), generator=generator, mean=mean,
            images=extra["images"], action_units=extra["action_units"],
        )  # fmt: skip

    if not per_class:
        cue = draw(_labels(names))
        return cue.maps[:, 0].numpy(), cue.valid.numpy()
    cues = [draw(torch.full((len(rows),), k)) for k in range(len(EXPRESSIONS))]
    maps = torch.cat([cue.maps * cue.valid[:, None, None, None] for cue in cues], dim=1)
    return maps.numpy(), torch.stack([cue.valid for cue in cues]).any(dim=0).numpy()


def _mean(store: Store, config: CueConfig, names: list[str | None], size: int) -> Tensor:
    """(1, 1, size, size) mean cue of all faces, a chunk at a time."""
    import torch

    from mien.cues.render import mean_cue

    def batches() -> Iterator[tuple[Tensor, Tensor, Tensor | None, Tensor | None]]:
        for start in range(0, len(store), CHUNK):
            rows = np.arange(start, min(start + CHUNK, len(store)))
            extra = _inputs(store, rows, config)
            points = torch.from_numpy(store.landmarks_of(rows))
            yield points, _labels([names[row] for row in rows]), extra["images"], extra["action_units"]

    frame = (store.info.size, store.info.size)
    return mean_cue(config, batches(), scheme=SCHEME, image_size=frame, size=(size, size))[0]


def _write(out: Path, stem: str, map_: FloatArray, per_class: bool, files: str) -> None:
    if files == "npy":
        with replacing(out / f"{stem}.npy") as temporary, open(temporary, "wb") as file:
            np.save(file, map_.astype(np.float32))
        return
    for name, plane in zip(files_of(stem, per_class, files), map_ if per_class else [map_], strict=True):
        write_grey(out / name, np.rint(plane * 255).astype(np.uint8))


def _write_crop(path: Path, image: npt.NDArray[np.uint8]) -> None:
    from PIL import Image

    if not path.is_file():
        with replacing(path) as temporary:
            Image.fromarray(image).save(temporary, format="PNG")


def _write_index(
    path: Path,
    store: Store,
    stems: list[str],
    names: list[str | None],
    valid: dict[str, bool],
    per_class: bool,
    files: str,
) -> None:
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "file", "expression", "valid"])
        for name, stem, label in zip(store.ids, stems, names, strict=True):
            if name in valid:
                shown = " ".join(files_of(stem, per_class, files)) if valid[name] else ""
                writer.writerow([name, shown, label or "", int(valid[name])])
