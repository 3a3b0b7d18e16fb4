"""Verb `mien guides`: guide images of a prepared store as grey PNG files, named as published, or a sheet of all kinds."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mien.cues.config import CueConfig
from mien.data.fold_files import published_name
from mien.data.store import Store, open_store
from mien.errors import DataError, UsageError, unknown_name
from mien.files import read_json, replacing, write_atomic
from mien.progress import track
from mien.schema import EXPRESSIONS, ByteArray, IntArray

PRODUCTS = {"patches": "landmark_mask", "weighted": "landmark_soft"}
"""Guide image that is a picture times a mask -> cue of that mask."""
GUIDES = ("image", "landmark_mask", "landmark_soft", "landmark_dilation", "saliency", *PRODUCTS)
MISSING = ("white", "black", "image", "skip")
SETTINGS, LOST = "guides.json", "without_guide.csv"
CHUNK = 256
SHEET_CELL, SHEET_FACES = 96, 9


def guides(
    store: Path,
    *,
    kind: str = "landmark_mask",
    out: Path | None = None,
    size: int = 48,
    missing: Literal["white", "black", "image", "skip"] = "white",
    jaw: bool | Literal["published"] | None = None,
    groups: dict[str, float] | None = None,
    dilation: Literal["centred", "published"] = "centred",
    saliency: str = "spectral_residual",
    sheet: Path | None = None,
) -> Path | None:
    """Write guide images of the guided spatial transformers, one PNG a face; the same command continues.

    Args:
        store: Prepared store.
        kind: image (the grey picture), landmark_mask, landmark_soft, landmark_dilation, saliency, patches (picture times
            landmark_mask) or weighted (picture times landmark_soft).
        out: Folder of the files, FOLDER/STEM.png as published; new, empty, or begun by the same command.
        size: Side in pixels; published 48.
        missing: Guide of a face without landmarks (saliency: of a flat picture): white (published), black, image (the grey
            picture), or skip (no file).
        jaw: True or false: draw the jaw line; unless said, landmark_mask and landmark_soft do. published: 3 pixels of the store's
            pictures wide, for weights that have seen such guides.
        groups: Factors of jaw, brows, nose, eyes, mouth, e.g. '{mouth: 2, nose: 0}'; 1 where not named, 0 leaves out.
        dilation: landmark_dilation: centred, or as published, moved to the right and down.
        saliency: spectral_residual, or a file with weights of MSI-Net.
        sheet: PNG to write: some faces of the store with every kind, instead of or beside --out.

    """
    if kind not in GUIDES:
        raise unknown_name("guide", kind, GUIDES)
    if missing not in MISSING:
        raise unknown_name("--missing", missing, MISSING)
    if size < 8:
        raise UsageError(f"--size {size} is too small for a face; the published guides have 48.")
    if out is None and sheet is None:
        raise UsageError("nothing to write: give --out FOLDER, --sheet SHEET.png or both.")
    if sheet is not None and sheet.suffix.lower() != ".png":
        raise UsageError(f"--sheet {sheet}: give a file name that ends in .png.")
    options: dict[str, Any] = {"jaw": jaw, "groups": groups or {}, "dilation": dilation, "saliency": saliency}
    config = CueConfig(cue_of(kind), **options)
    faces = open_store(store)
    if sheet is not None:
        write_sheet(sheet, faces, options, missing)
        print(f"{sheet}: every kind of guide")
    if out is None:
        return None
    settings = {"store": faces.fingerprint, "kind": kind, "size": size, "missing": missing, **options}
    print(write_guides(faces, kind, config, out, size, missing, settings))
    return out


def cue_of(kind: str) -> str:
    """The cue that a guide needs; `image` needs none, so any will do."""
    return PRODUCTS.get(kind, "landmark_mask" if kind == "image" else kind)


def write_guides(
    store: Store, kind: str, config: CueConfig, out: Path, size: int, missing: str, settings: dict[str, Any]
) -> str:
    """Write the files that are not there yet, the list of faces without a guide, and the settings; returns a summary."""
    names = file_names(store.ids.tolist())
    begin(out, settings)
    lost = read_lost(out / LOST)
    left = np.array([row for row, name in enumerate(names) if not (out / name).is_file()], dtype=np.int64)
    written = 0
    for rows in track(np.split(left, range(CHUNK, len(left), CHUNK)), "guides"):
        images, valid = draw_guides(store, rows, kind, config, size, missing)
        lost |= dict.fromkeys(str(store.ids[row]) for row in rows[~valid])
        write_lost(out / LOST, lost)  # before the files: a file that is there is not looked at again
        for row, image, good in zip(rows.tolist(), images, valid.tolist(), strict=True):
            if good or missing != "skip":
                write_grey(out / names[row], image)
                written += 1
    said = {"skip": "left out", "image": "the picture itself"}.get(missing, missing)
    where = f"; {len(lost)} faces have none and are {said}, see {LOST}" if lost else ""
    return f"{out}: {len(names) - len(left)} guides were there, {written} written ({kind}, {size} px){where}"


def draw_guides(
    store: Store, rows: IntArray, kind: str, config: CueConfig, size: int, missing: str
) -> tuple[ByteArray, npt.NDArray[np.bool_]]:
    """Guide images (B, size, size) uint8 of some rows, and which of them have a guide of their own, (B,)."""
    import torch

    from mien.cues import render_cue
    from mien.data.transforms import as_pictures

    if not len(rows):
        return np.zeros((0, size, size), np.uint8), np.zeros(0, bool)
    pictures = store.images(rows)
    grey = np.stack([grey_picture(picture, size) for picture in pictures])
    if kind == "image":
        return grey, np.ones(len(rows), bool)
    frame = (store.info.size, store.info.size)
    points, unknown = torch.from_numpy(store.landmarks_of(rows)), torch.full((len(rows),), -1)
    images = as_pictures(pictures) if config.kind == "saliency" else None
    cue = render_cue(config, points, unknown, image_size=frame, size=(size, size), images=images)
    valid = cue.valid.numpy()
    guide = levels(cue.maps[:, 0].numpy())
    guide[~valid] = 0 if missing == "black" else 255
    if kind in PRODUCTS:
        guide = product(grey, guide)
    elif missing == "image":
        guide[~valid] = grey[~valid]
    return guide, valid


def grey_picture(picture: ByteArray, size: int) -> ByteArray:
    """RGB (H, W, 3) -> grey (size, size), by Pillow's luma and bicubic resize as published."""
    from PIL import Image

    return np.asarray(Image.fromarray(picture).convert("L").resize((size, size), Image.Resampling.BICUBIC))


def levels(maps: npt.NDArray[np.floating[Any]]) -> ByteArray:
    """Maps in [0, 1] as 0-255, halves rounded down, so that 0.5 becomes the published 127."""
    return np.ceil(maps * 255 - 0.5).astype(np.uint8)


def product(picture: ByteArray, mask: ByteArray) -> ByteArray:
    """guide/255 * picture/255 * 255, truncated; in whole numbers, so that a white mask leaves the picture as it is."""
    return (picture.astype(np.int64) * mask // 255).astype(np.uint8)


def file_names(ids: list[str]) -> list[str]:
    """FOLDER/STEM.png of every id; ids that differ in their suffix only keep it.

    Raises:
        DataError: an id that leads out of the folder.

    """
    stems = [published_name(name) for name in ids]
    counts = Counter(stems)
    names = [f"{stem if counts[stem] == 1 else name}.png" for stem, name in zip(stems, ids, strict=True)]
    for name in names:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
            raise DataError(
                f"'{name.removesuffix('.png')}' is an id that leads out of the folder; prepare it with other ids."
            )
    return names


def begin(out: Path, settings: dict[str, Any], name: str = SETTINGS) -> None:
    """Make the folder with its file of settings, or make sure that the same command began it."""
    file = out / name
    if file.is_file():
        found = read_json(file, f"delete the folder '{out}'")
        other = [name for name, value in settings.items() if found.get(name) != value]
        if other:
            raise UsageError(
                f"'{out}' holds files made with another {other[0]} ({found.get(other[0])}): choose another folder for --out."
            )
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"'{out}' exists and holds something else: choose a new or empty folder for --out.")
    else:
        write_atomic(file, json.dumps(settings, indent=1) + "\n")


def read_lost(path: Path) -> dict[str, None]:
    """Ids of faces that were found to have no guide."""
    if not path.is_file():
        return {}
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return dict.fromkeys(row["path"] for row in csv.DictReader(file))
    except (ValueError, KeyError, csv.Error) as error:
        raise DataError(f"'{path}' is damaged ({error}): delete it, the same command writes it again.") from error


def write_lost(path: Path, ids: Iterable[str]) -> None:
    """The published list: one column, `path`."""
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["path"], *([name] for name in ids)])


def write_grey(path: Path, image: ByteArray) -> None:
    """A grey PNG."""
    from PIL import Image

    with replacing(path) as temporary:
        Image.fromarray(image).save(temporary, format="PNG")


def write_sheet(path: Path, store: Store, options: dict[str, Any], missing: str) -> None:
    """Some faces of a store, one of each class and one without landmarks, with every kind of guide at 96 px."""
    from mien import draw

    known = np.asarray(store.known_points().all(axis=1))
    groups = [np.flatnonzero(known & (store.expression == name)) for name in EXPRESSIONS]
    groups += [np.flatnonzero(known), np.flatnonzero(~known)]
    picked = [int(group[0]) for group in groups if len(group)]
    rows = np.array(list(dict.fromkeys(picked))[:SHEET_FACES], dtype=np.int64)
    lines: list[list[ByteArray | None]] = [[store.image(int(row))] for row in rows]
    for kind in GUIDES:
        images, valid = draw_guides(store, rows, kind, CueConfig(cue_of(kind), **options), SHEET_CELL, missing)
        for line, image, good in zip(lines, images, valid, strict=True):
            line.append(image if good or missing != "skip" else None)
    titles = [str(store.expression[row] or "") + ("" if known[row] else "\nno landmarks") for row in rows]
    draw.write_png(path, draw.grid(lines, titles, ["picture", *GUIDES], cell=SHEET_CELL))
