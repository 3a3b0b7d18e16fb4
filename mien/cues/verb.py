"""The command `mien cues`: draw cues for a file of landmarks, or a sheet of cues over the faces of a store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from mien.cues.config import NEED_BATCH, NEED_MEANS, CueConfig
from mien.errors import DataError, UsageError, unknown_name
from mien.files import read_npz, replacing, write_npz
from mien.schema import EXPRESSIONS, LANDMARKS, ByteArray, FloatArray

if TYPE_CHECKING:
    from torch import Tensor

    from mien.data.store import Store

SCHEME = "basic-8"
CHUNK = 256
MOST_BYTES = 2**30
"""Of the maps of one .npz file, which are held in memory."""
FACES_A_ROW = 2
Pictures = Callable[[npt.NDArray[np.int64]], ByteArray] | None
"""Rows -> RGB (B, H, W, 3) uint8; None without pictures."""


def cues(
    source: Path,
    *,
    cue: str = "au",
    codebook: str = "corrected",
    expression: str | None = None,
    image_size: int = 224,
    size: int | None = None,
    out: Path | None = None,
    sheet: Path | None = None,
    sigma: float = 0.06,
    jaw: bool | Literal["published"] | None = None,
    merge: Literal["max", "sum"] = "max",
    groups: dict[str, float] | None = None,
    dilation: Literal["centred", "published"] = "centred",
    saliency: str = "spectral_residual",
    least: float = 1.0,
    action_units: Path | None = None,
    control: str = "none",
    per_class: bool = False,
    files: Literal["npy", "png"] = "npy",
    crops: bool = False,
    seed: int = 0,
) -> FloatArray | None:
    """Draw where the evidence should be: maps from landmarks, or a sheet of cues over the faces of a prepared store.

    Args:
        source: prepared store folder, or .npz file with the array `landmarks` (N, 68, 2), xy pixels of a square image.
        cue: what to draw: au (action units of the expression), au_generic (all of them), au_observed (those of the face, by
            the store or --action-units), landmarks (Gaussians), landmark_mask, landmark_soft, landmark_dilation (regions) or
            saliency (of a store's pictures).
        codebook: corrected, paper, or the path of an own .json file.
        expression: draw every face as this expression; a store uses its own labels when this is left out.
        image_size: side in pixels of the image that the landmarks of an .npz file lie on.
        size: side of the maps in cells; the image size when left out.
        out: .npz file to write: `maps` (N, size, size) float32 in [0, 1], zero where not valid, and `valid` (N,), 1 GiB of maps at
            most. Or, for a store, a folder: one file a face, resumed by the same command, in flat memory, and index.csv.
        sheet: .png file to write: one row per expression with image, landmarks and cue.
        sigma: landmark heatmap, standard deviation as a fraction of the distance of the outer eye corners.
        jaw: landmark kinds, true or false: draw the jaw line; unless said, landmark_mask and landmark_soft do. published: 3 pixels of
            the picture wide.
        merge: landmark heatmap, max or sum over the points.
        groups: landmark kinds, factors of jaw, brows, nose, eyes, mouth, e.g. '{mouth: 2, nose: 0}'; 1 where not named.
        dilation: landmark_dilation, centred or as published, moved to the right and down.
        saliency: spectral_residual, or a file with weights of MSI-Net.
        least: au_observed, intensity (0-5) from which an action unit is drawn.
        action_units: au_observed, file `id,AU1,...` of mien audet predict in place of the store's action units.
        per_class: folder only: the map of every expression on each face, in place of that of its own.
        files: folder only: npy (float32 from 0 to 1) or png (8-bit grey).
        crops: folder only: write the store's pictures beside the maps, as PNG.
        control: none, or what replaces the cue: uniform, centre, mean, class_mean, shuffled, same_class, other_class, inverted.
        seed: seed of the controls that draw lots.

    """
    config = CueConfig(cue, codebook, sigma, merge, jaw, control, groups or {}, dilation, saliency, least)
    as_folder = out is not None and source.is_dir() and out.suffix.lower() != ".npz"
    _check_output(out, sheet, as_folder, per_class or crops or files != "npy", image_size, size)
    if expression is not None:
        _check_expression(expression, cue, codebook)
    names, pictures, units, store = _nothing()
    if source.is_dir():
        from mien.data.observed import open_faces

        store = open_faces(source, action_units)
        names, image_size = list(store.expression), store.info.size
        pictures, units = store.images, store.action_units
        if sheet is not None:
            _write_sheet(sheet, store, config, expression, size or image_size, seed)
            print(f"{sheet}: cue sheet of {source}")
    else:
        landmarks = _read_landmarks(source)
        _check_landmarks_alone(source, cue, expression, sheet, action_units)
    count = len(landmarks if store is None else store)
    if names is None or expression is not None:
        names = [expression] * count
    if out is None:
        return None
    if as_folder and store is not None:
        from mien.cues.folder import write_maps

        print(write_maps(store, config, out, names, size or image_size, seed, per_class, files, crops))
        return None
    _check_bytes(count, size or image_size, source)
    points = landmarks if store is None else store.landmarks
    maps, valid = _draw(config, points, names, image_size, size or image_size, seed, pictures, units)
    write_npz(out, {"maps": maps, "valid": valid})
    print(f"{out}: {len(maps)} maps of {maps.shape[1]}x{maps.shape[2]}, {int(valid.sum())} valid ({cue}, {codebook})")
    return maps


def _nothing() -> tuple[list[str | None] | None, Pictures, FloatArray | None, Store | None]:
    """What only a store has: names of expressions, pictures, action units, itself."""
    return None, None, None, None


def _check_output(
    out: Path | None, sheet: Path | None, as_folder: bool, of_folders: bool, image_size: int, size: int | None
) -> None:
    if out is None and sheet is None:
        raise UsageError("nothing to write: give --out MAPS.npz, --out FOLDER, --sheet SHEET.png or both.")
    if of_folders and not as_folder:
        raise UsageError("--per-class, --files and --crops go with a prepared store and --out FOLDER.")
    if image_size < 1 or (size is not None and size < 1):
        raise UsageError("--image-size and --size must be at least 1.")


def _check_bytes(faces: int, size: int, source: Path) -> None:
    """UsageError where the maps of one file would not fit into MOST_BYTES."""
    if 4 * faces * size**2 > MOST_BYTES:
        folder = "--out FOLDER (one file a face, in flat memory)" if source.is_dir() else f"fewer faces than {faces:,}"
        fits = int((MOST_BYTES / 4 / faces) ** 0.5)
        raise UsageError(
            f"{faces:,} maps of {size}x{size} are {4 * faces * size**2 / 2**30:.1f} GiB, too much for one .npz file: give {folder}"
            f"{f', or --size {fits} or less' if fits else ''}."
        )


def _check_landmarks_alone(
    source: Path, cue: str, expression: str | None, sheet: Path | None, action_units: Path | None
) -> None:
    if sheet is not None:
        raise UsageError(f"--sheet needs a prepared store with faces; {source} holds landmarks only. Use --out.")
    if cue == "saliency":
        raise UsageError(f"--cue saliency needs a prepared store with pictures; {source} holds landmarks only.")
    if cue == "au_observed" or action_units is not None:
        raise UsageError(f"--cue au_observed needs a prepared store; {source} holds landmarks only.")
    if cue == "au" and expression is None:
        raise UsageError("--cue au needs --expression for a file of landmarks, for example --expression Happiness.")


def _check_expression(expression: str, cue: str, codebook: str) -> None:
    from mien.cues.codebook import load_codebook

    if expression not in EXPRESSIONS:
        raise unknown_name("expression", expression, EXPRESSIONS)
    if cue == "au" and not load_codebook(codebook).expressions.get(expression):
        raise UsageError(f"{expression} has no action units in codebook {codebook}; use --cue au_generic or landmarks.")


def _read_landmarks(source: Path) -> FloatArray:
    if not source.is_file():
        raise DataError(f"{source} does not exist; give a prepared store folder or an .npz file with 'landmarks'.")
    arrays = read_npz(source, "give an .npz file with 'landmarks'")
    if "landmarks" not in arrays:
        raise DataError(f"{source} has no array 'landmarks' (it has: {', '.join(arrays) or 'nothing'}).")
    landmarks = arrays["landmarks"]
    if landmarks.ndim != 3 or landmarks.shape[1:] != (LANDMARKS, 2) or landmarks.dtype.kind not in "fiu":
        found = f"{landmarks.dtype} {landmarks.shape}"
        raise DataError(f"{source}: 'landmarks' is {found}; it must be numbers of shape (N, 68, 2), x before y.")
    return landmarks.astype(np.float32)


def _labels(names: list[str | None]) -> Tensor:
    import torch

    return torch.tensor([-1 if name is None else EXPRESSIONS.index(name) for name in names], dtype=torch.int64)


def _draw(
    config: CueConfig,
    landmarks: FloatArray,
    names: list[str | None],
    image_size: int,
    size: int,
    seed: int,
    pictures: Pictures,
    units: FloatArray | None,
) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    import torch

    from mien.cues.render import mean_cue, render_cue
    from mien.data.transforms import as_pictures
    from mien.progress import track

    points, labels = torch.from_numpy(np.array(landmarks, np.float32)), _labels(names)
    canvas, cells = (image_size, image_size), (size, size)
    generator = torch.Generator().manual_seed(seed)
    mean = None
    # a shuffle goes through all faces, everything else is drawn in pieces
    chunk = max(1, len(points)) if config.control in NEED_BATCH else CHUNK
    parts = torch.arange(len(points)).split(chunk)

    def batches() -> Iterator[tuple[Tensor, Tensor, Tensor | None, Tensor | None]]:
        for rows in parts:
            images = as_pictures(pictures(rows.numpy())) if pictures and config.kind == "saliency" else None
            yield points[rows], labels[rows], images, None if units is None else torch.from_numpy(units[rows.numpy()])

    if config.control in NEED_MEANS:
        overall, classes = mean_cue(config, batches(), scheme=SCHEME, image_size=canvas, size=cells)
        mean = classes if config.control == "class_mean" else overall
    maps, valid = np.zeros((len(points), size, size), np.float32), np.zeros(len(points), bool)
    for rows, (p, k, images, shown) in zip(parts, track(batches(), "cues", len(parts)), strict=True):
        cue = render_cue(
            config, p, k, scheme=SCHEME, image_size=canvas, size=cells, generator=generator, mean=mean,
            images=images, action_units=shown,
        )  # fmt: skip
        maps[rows.numpy()], valid[rows.numpy()] = cue.maps[:, 0].numpy(), cue.valid.numpy()
    return maps, valid


def _sheet_rows(store: Store, expression: str | None) -> list[tuple[str, list[int]]]:
    """Expression -> the first faces that carry it and have landmarks."""
    located = store.known_points().all(axis=1)
    names = np.asarray(store.expression, dtype=object)
    wanted = EXPRESSIONS if expression is None else (expression,)
    rows = [(name, np.flatnonzero(located & (names == name))[:FACES_A_ROW].tolist()) for name in wanted]
    if expression is not None and not rows[0][1]:
        rows = [(expression, np.flatnonzero(located)[:FACES_A_ROW].tolist())]
    return [(name, faces) for name, faces in rows if faces]


def _write_sheet(sheet: Path, store: Store, config: CueConfig, expression: str | None, size: int, seed: int) -> None:
    """One row per expression: two faces, each as image, landmarks, and cue over the image."""
    from matplotlib.figure import Figure

    rows = _sheet_rows(store, expression)
    if not rows:
        raise DataError(f"{store.path} has no labelled face with landmarks; prepare it with a landmark provider.")
    columns = 3 * FACES_A_ROW
    figure = Figure(figsize=(1.5 * columns, 1.65 * len(rows)))
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line in axes:
        for axis in line:
            axis.set_axis_off()
    picked = [i for _, faces in rows for i in faces]
    names: list[str | None] = [name for name, faces in rows for _ in faces]
    chosen = np.array(picked)
    maps, valid = _draw(
        config, store.landmarks_of(chosen), names, store.info.size, size, seed, lambda rows: store.images(chosen[rows]),
        store.action_units[picked],
    )  # fmt: skip
    place = 0
    for line, (name, faces) in zip(axes, rows, strict=True):
        for column, face in enumerate(faces):
            picture, points = store.image(face), store.landmarks_of(np.array([face]))[0]
            plain, dotted, covered = line[3 * column : 3 * column + 3]
            for axis in (plain, dotted, covered):
                axis.imshow(picture)
            plain.set_title(name, fontsize=8)
            dotted.scatter(points[:, 0], points[:, 1], s=2, c="#00e5ff")
            covered.set_title(config.kind if valid[place] else "no cue", fontsize=8)
            edge = len(picture) - 0.5
            covered.imshow(
                maps[place],
                extent=(-0.5, edge, edge, -0.5),
                cmap="inferno",
                vmin=0,
                vmax=1,
                alpha=0.55 * bool(valid[place]),
            )
            for axis in (plain, dotted, covered):
                axis.set_xlim(-0.5, edge)
                axis.set_ylim(edge, -0.5)
            place += 1
    figure.tight_layout(pad=0.3)
    with replacing(sheet) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
