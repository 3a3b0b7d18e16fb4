"""From landmarks and labels to cues: the calls that training, evaluation and the command line share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple, cast

import torch
from torch import Tensor

from mien.cues import controls
from mien.cues.action_units import canvas_valid, draw_canvas, draw_face, resized_canvas
from mien.cues.codebook import Choice, choice, drawn_units, geometry, load_codebook
from mien.cues.config import NEED_BATCH, NEED_MEANS, CueConfig
from mien.cues.heatmaps import draw_landmarks, point_weights
from mien.cues.masks import draw_masks
from mien.cues.observed import draw_observed_canvas, draw_observed_face, strengths
from mien.cues.saliency import draw_saliency, has_contrast
from mien.errors import DataError, UsageError
from mien.maps import numbers, published_resize, resize
from mien.plugins import added, called
from mien.schema import LANDMARKS, Cue, scheme_classes

Size = tuple[int, int]
Drawn = tuple[Tensor, Tensor]


class Faces(NamedTuple):
    """What cues are drawn from."""

    landmarks: Tensor
    """(B, 68, 2) float32 pixels, NaN unknown."""
    labels: Tensor
    """(B,) class index, -1 unknown."""
    scheme: str
    image_size: Size
    """(H, W) of the canvas that the landmarks lie on."""
    seen_size: Size
    """(H, W) of the picture that the net sees: where codebook `paper` is resized to on its way."""
    images: Tensor | None
    """(B, 3, H, W) RGB in [0, 1], where given."""
    action_units: Tensor | None
    """(B, A) intensities 0-5 over schema.ACTION_UNITS, NaN unknown, where given."""


def _class_rows(config: CueConfig, faces: Faces) -> tuple[Choice, Tensor]:
    """What the codebook draws for each class, and the row of every face in it."""
    table = choice(config.codebook, faces.scheme, config.kind == "au_generic", faces.landmarks.device)
    labels, last = faces.labels, len(table.drawn) - 1
    return table, torch.where((labels < 0) | (labels >= last), last, labels)


def _action_units(config: CueConfig, faces: Faces, size: Size) -> Drawn:
    landmarks = faces.landmarks
    book = geometry(config.codebook, faces.image_size, landmarks.device)
    table, rows = _class_rows(config, faces)
    if load_codebook(config.codebook).drawing == "face":
        return draw_face(landmarks, rows, book, table, faces.image_size, size)
    maps, valid = draw_canvas(landmarks, rows, book, table, faces.image_size, faces.image_size)
    return resized_canvas(maps, faces.seen_size, size), valid


def _observed_units(config: CueConfig, faces: Faces, size: Size) -> Drawn:
    if faces.action_units is None:
        raise UsageError(
            "cue 'au_observed' needs the action units of every face: a store with labels, data.action_units, or --action-units."
        )
    device = faces.landmarks.device
    book, units = geometry(config.codebook, faces.image_size, device), drawn_units(config.codebook, device)
    strength = strengths(faces.action_units.to(device), units, config.least)
    if load_codebook(config.codebook).drawing == "face":
        return draw_observed_face(faces.landmarks, strength, book, units, faces.image_size, size)
    maps, valid = draw_observed_canvas(faces.landmarks, strength, book, units, faces.image_size, faces.image_size)
    return resized_canvas(maps, faces.seen_size, size), valid


def _landmarks(config: CueConfig, faces: Faces, size: Size) -> Drawn:
    weights = point_weights(config)
    return draw_landmarks(faces.landmarks, config.sigma, config.merge, weights, faces.image_size, size)


def _masks(config: CueConfig, faces: Faces, size: Size) -> Drawn:
    return draw_masks(config, faces.landmarks, faces.image_size, size)


def _saliency(config: CueConfig, faces: Faces, size: Size) -> Drawn:
    return draw_saliency(config, faces.images, size)


CUES: dict[str, Callable[[CueConfig, Faces, Size], Drawn]] = {
    "au": _action_units,
    "au_generic": _action_units,
    "au_observed": _observed_units,
    "landmarks": _landmarks,
    "landmark_mask": _masks,
    "landmark_soft": _masks,
    "landmark_dilation": _masks,
    "saliency": _saliency,
}


class AddedCue(NamedTuple):
    """A cue of another package: the object of an entry point `mien.cues` (CONTRIBUTING.md)."""

    draw: Callable[[CueConfig, Faces, Size], Drawn]
    """As the functions of CUES: maps (B, 1, h, w) float32 in [0, 1] and valid (B,) bool."""


def draw(config: CueConfig, faces: Faces, size: Size) -> Drawn:
    """Maps (B, 1, h, w) and valid (B,) of a kind of cue, Mien's own or a plugin's; DataError for a plugin that fails."""
    if config.kind in CUES:
        return CUES[config.kind](config, faces, size)
    found = added("mien.cues", config.kind, CUES, AddedCue)
    if found is None:  # a recipe of another machine
        raise DataError(f"no package here adds the cue '{config.kind}'; install its plugin.")
    batch = len(faces.landmarks)
    drawn = called(f"cue '{config.kind}'", found.draw, config, faces, size)
    shapes = [tuple(part.shape) for part in drawn] if all(isinstance(part, Tensor) for part in drawn) else []
    if shapes != [(batch, 1, *size), (batch,)]:
        raise DataError(
            f"cue '{config.kind}' gave shapes {shapes}; expected {[(batch, 1, *size), (batch,)]}. It is a plugin: tell its authors."
        )
    maps, valid = cast(Drawn, drawn)
    return maps.float().clamp(0, 1), valid.bool()


CONTROLS: dict[str, Callable[[Tensor], Tensor] | None] = {
    "none": None,
    "uniform": controls.uniform,
    "centre": controls.centre,
    "mean": None,
    "class_mean": None,
    "shuffled": None,
    "same_class": None,
    "other_class": None,
    "inverted": controls.inverted,
}
"""Control name -> function of the maps alone; None where it needs more (see `render_cue`)."""


def render_cue(
    config: CueConfig,
    landmarks: Tensor,
    labels: Tensor,
    *,
    scheme: str = "basic-7",
    image_size: Size,
    size: Size,
    generator: torch.Generator | None = None,
    mean: Tensor | None = None,
    images: Tensor | None = None,
    action_units: Tensor | None = None,
    canvas: Size | None = None,
) -> Cue:
    """Cue of a batch, drawn on the landmarks' device at `size` without a detour over the image size.

    Args:
        config: what to draw, and which control replaces it.
        landmarks: (B, 68, 2) xy pixels of the image, NaN unknown.
        labels: (B,) int64 class index in `scheme`, -1 unknown; (B, K) soft targets count by their largest entry.
        scheme: label scheme (a key of `schema.SCHEMES`).
        image_size: (H, W) of the image that the landmarks lie on.
        size: (h, w) of the maps.
        generator: source of the controls `shuffled`, `same_class` and `other_class`.
        mean: (1, 1, h, w) dataset-mean cue, needed by the control `mean`; (K, 1, h, w) of each class, by `class_mean`.
        images: (B, 3, H, W) RGB in [0, 1], needed by the kind `saliency`, which needs no landmarks.
        action_units: (B, A) intensities 0-5 over schema.ACTION_UNITS, NaN unknown, needed by the kind `au_observed`.
        canvas: (H, W) of the stored picture where the image is a resized copy of it: figures whose sizes are pixels (codebook
            `paper`) are drawn on it, and resized with the image. None for `image_size`.

    Returns:
        maps (B, 1, h, w) float32 in [0, 1], zero where not valid, and valid (B,): False for a class without action
        units (Neutral) under cue `au`, for a face without any under `au_observed`, for unknown landmarks that the cue
        needs, when nothing falls on the canvas, and for a picture without contrast under `saliency`.

    """
    if landmarks.dim() != 3 or landmarks.shape[1:] != (LANDMARKS, 2):
        raise UsageError(f"landmarks have shape {tuple(landmarks.shape)}; render_cue needs (B, 68, 2).")
    if config.control in NEED_MEANS and mean is None:
        raise UsageError(f"control '{config.control}' needs the mean cue; accumulate it with mean_cue first.")
    hard = (labels.argmax(1) if labels.dim() == 2 else labels).to(landmarks.device, torch.int64)
    with torch.autocast(landmarks.device.type, enabled=False):
        places = onto_canvas(landmarks.float(), image_size, canvas or image_size)
        faces = Faces(places, hard, scheme, canvas or image_size, image_size, images, action_units)
        maps, valid = draw(config, faces, size)
        if config.control in NEED_BATCH:
            among = hard if config.control == "same_class" else None
            maps, valid = controls.shuffled(Cue(maps, valid), generator, among)
        elif config.control == "other_class":
            drawn = choice(config.codebook, scheme, False, landmarks.device).drawn[:-1]
            others = controls.other_labels(hard, drawn, generator)
            maps, other_valid = draw(config, faces._replace(labels=others), size)
            valid = valid & other_valid
        elif config.control == "class_mean" and mean is not None:
            maps = controls.mean(maps, mean.to(hard.device)[hard.clamp_min(0)])
            valid = valid & (hard >= 0)
        elif config.control == "mean" and mean is not None:
            maps = controls.mean(maps, mean)
        else:
            change = CONTROLS[config.control]
            maps = maps if change is None else change(maps)
        return Cue(torch.where(valid[:, None, None, None], maps, 0.0), valid)


def map_resize(config: CueConfig) -> Callable[[Tensor, Size], Tensor]:
    """How attention is resized that is compared with this cue, in the loss and in the scores: as the cue itself was.

    `maps.published_resize` for cues of a codebook that is drawn on a canvas (`paper`), else `maps.resize`.
    """
    units = config.kind in ("au", "au_generic", "au_observed")
    return published_resize if units and load_codebook(config.codebook).drawing == "canvas" else resize


def onto_canvas(landmarks: Tensor, image_size: Size, canvas: Size) -> Tensor:
    """Landmarks (B, 68, 2), pixels of an image, on the canvas that the image was resized from; centres stay centres.

    What resizing there and back has lost is put right: 1/4096 of a pixel, which would move a whole number to the one below.
    """
    if canvas == image_size:
        return landmarks
    scale = numbers((canvas[1] / image_size[1], canvas[0] / image_size[0]), landmarks)
    moved = (landmarks + 0.5) * scale - 0.5
    return moved + (torch.round(moved * 4096) / 4096 - moved).detach()


SMALL = (7, 7)
"""Size of maps of which only the validity counts."""


def has_cue(
    config: CueConfig,
    landmarks: Tensor,
    labels: Tensor,
    *,
    scheme: str = "basic-7",
    image_size: Size,
    images: Tensor | None = None,
    action_units: Tensor | None = None,
    canvas: Size | None = None,
) -> Tensor:
    """Whether each face has a plain cue, (B,) bool: `render_cue(...).valid` without the cost of the maps."""
    plain = replace(config, control="none")
    if config.kind == "saliency" and images is not None:
        return has_contrast(images)
    if config.kind in ("au", "au_generic") and load_codebook(config.codebook).drawing == "canvas":
        canvas = canvas or image_size
        places = onto_canvas(landmarks.float(), image_size, canvas)
        faces = Faces(places, labels.to(landmarks.device), scheme, canvas, image_size, None, None)
        table, rows = _class_rows(plain, faces)
        book = geometry(config.codebook, canvas, landmarks.device)
        return canvas_valid(places, rows, book, table, canvas)
    cue = render_cue(
        plain, landmarks, labels, scheme=scheme, image_size=image_size, size=SMALL, images=images, action_units=action_units,
        canvas=canvas,
    )  # fmt: skip
    return cue.valid


def per_class_maps(
    config: CueConfig, landmarks: Tensor, *, scheme: str, image_size: Size, size: Size, images: Tensor | None = None
) -> Tensor:
    """Plain cue of every class of the scheme for every face, (B, K, h, w); zero for a class without a cue (Neutral)."""
    count = len(scheme_classes(scheme))
    labels = torch.arange(count, device=landmarks.device).repeat(len(landmarks))
    faces = landmarks.repeat_interleave(count, 0)
    plain = replace(config, control="none")
    pictures = None if images is None else images.repeat_interleave(count, 0)
    cue = render_cue(plain, faces, labels, scheme=scheme, image_size=image_size, size=size, images=pictures)
    return cue.maps.view(len(landmarks), count, *size)


def mean_cue(
    config: CueConfig,
    batches: Iterable[tuple[Tensor | None, ...]],
    *,
    scheme: str = "basic-7",
    image_size: Size,
    size: Size,
    canvas: Size | None = None,
) -> tuple[Tensor, Tensor]:
    """Dataset-mean cue over batches of (landmarks, labels[, images[, action units]]), what a cue does not need may be None.

    Returns the overall mean (1, 1, h, w) and those of the classes (K, 1, h, w).
    """
    total = controls.MeanCue(len(scheme_classes(scheme)))
    plain = replace(config, control="none")
    for landmarks, labels, *more in batches:
        assert landmarks is not None
        assert labels is not None
        images, units = (*more, None, None)[:2]
        cue = render_cue(
            plain, landmarks, labels, scheme=scheme, image_size=image_size, size=size, images=images, action_units=units,
            canvas=canvas,
        )  # fmt: skip
        total.update(cue, labels)
    overall, per_class = total.overall(), total.per_class()
    if total.total is None:
        overall, per_class = overall.expand(-1, -1, *size).clone(), per_class.expand(-1, -1, *size).clone()
    return overall, per_class
