"""From landmarks and labels to cues: the calls that training, evaluation and the command line share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor

from mien.cues import controls
from mien.cues.action_units import draw_canvas, draw_face
from mien.cues.codebook import choice, geometry, load_codebook
from mien.cues.config import CueConfig
from mien.cues.heatmaps import draw_landmarks, point_weights
from mien.errors import UsageError
from mien.schema import LANDMARKS, Cue, scheme_classes

Size = tuple[int, int]
Drawn = tuple[Tensor, Tensor]


def _action_units(
    config: CueConfig, landmarks: Tensor, labels: Tensor, scheme: str, image_size: Size, size: Size
) -> Drawn:
    device = landmarks.device
    book = geometry(config.codebook, image_size, device)
    table = choice(config.codebook, scheme, config.kind == "au_generic", device)
    rows = torch.where((labels < 0) | (labels >= len(table.drawn) - 1), len(table.drawn) - 1, labels)
    draw = draw_face if load_codebook(config.codebook).drawing == "face" else draw_canvas
    return draw(landmarks, rows, book, table, image_size, size)


def _landmarks(
    config: CueConfig, landmarks: Tensor, labels: Tensor, scheme: str, image_size: Size, size: Size
) -> Drawn:
    return draw_landmarks(landmarks, config.sigma, config.merge, point_weights(config), image_size, size)


CUES: dict[str, Callable[[CueConfig, Tensor, Tensor, str, Size, Size], Drawn]] = {
    "au": _action_units,
    "au_generic": _action_units,
    "landmarks": _landmarks,
}

CONTROLS: dict[str, Callable[[Tensor], Tensor] | None] = {
    "none": None,
    "uniform": controls.uniform,
    "centre": controls.centre,
    "mean": None,
    "shuffled": None,
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
) -> Cue:
    """Cue of a batch, drawn on the landmarks' device at `size` without a detour over the image size.

    Args:
        config: what to draw, and which control replaces it.
        landmarks: (B, 68, 2) xy pixels of the image, NaN unknown.
        labels: (B,) int64 class index in `scheme`, -1 unknown; (B, K) soft targets count by their largest entry.
        scheme: label scheme (a key of `schema.SCHEMES`).
        image_size: (H, W) of the image that the landmarks lie on.
        size: (h, w) of the maps.
        generator: source of the controls `shuffled` and `other_class`.
        mean: (1, 1, h, w) dataset-mean cue, needed by the control `mean`.

    Returns:
        maps (B, 1, h, w) float32 in [0, 1], zero where not valid, and valid (B,): False for a class without action
        units (Neutral) under cue `au`, for unknown landmarks that the cue needs, and when nothing falls on the canvas.

    """
    if landmarks.dim() != 3 or landmarks.shape[1:] != (LANDMARKS, 2):
        raise UsageError(f"landmarks have shape {tuple(landmarks.shape)}; render_cue needs (B, 68, 2).")
    if config.control == "mean" and mean is None:
        raise UsageError("control 'mean' needs the dataset-mean cue; accumulate it with mean_cue first.")
    hard = (labels.argmax(1) if labels.dim() == 2 else labels).to(landmarks.device, torch.int64)
    with torch.autocast(landmarks.device.type, enabled=False):
        points = landmarks.float()
        maps, valid = CUES[config.kind](config, points, hard, scheme, image_size, size)
        if config.control == "shuffled":
            maps, valid = controls.shuffled(Cue(maps, valid), generator)
        elif config.control == "other_class":
            drawn = choice(config.codebook, scheme, False, landmarks.device).drawn[:-1]
            others = controls.other_labels(hard, drawn, generator)
            maps, other_valid = CUES[config.kind](config, points, others, scheme, image_size, size)
            valid = valid & other_valid
        elif config.control == "mean" and mean is not None:
            maps = controls.mean(maps, mean)
        else:
            change = CONTROLS[config.control]
            maps = maps if change is None else change(maps)
        return Cue(torch.where(valid[:, None, None, None], maps, 0.0), valid)


def control_cue(
    control: str,
    config: CueConfig,
    landmarks: Tensor,
    labels: Tensor,
    *,
    scheme: str = "basic-7",
    image_size: Size,
    size: Size,
    generator: torch.Generator | None = None,
    mean: Tensor | None = None,
) -> Cue:
    """The cue of `config` under another control: the floors beside an alignment score. Arguments as `render_cue`."""
    return render_cue(
        replace(config, control=control),
        landmarks,
        labels,
        scheme=scheme,
        image_size=image_size,
        size=size,
        generator=generator,
        mean=mean,
    )


def per_class_maps(config: CueConfig, landmarks: Tensor, *, scheme: str, image_size: Size, size: Size) -> Tensor:
    """Plain cue of every class of the scheme for every face, (B, K, h, w); zero for a class without a cue (Neutral)."""
    count = len(scheme_classes(scheme))
    labels = torch.arange(count, device=landmarks.device).repeat(len(landmarks))
    faces = landmarks.repeat_interleave(count, 0)
    plain = replace(config, control="none")
    cue = render_cue(plain, faces, labels, scheme=scheme, image_size=image_size, size=size)
    return cue.maps.view(len(landmarks), count, *size)


def mean_cue(
    config: CueConfig,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    scheme: str = "basic-7",
    image_size: Size,
    size: Size,
) -> tuple[Tensor, Tensor]:
    """Dataset-mean cue over batches of (landmarks, labels): overall (1, 1, h, w) and per class (K, 1, h, w)."""
    total = controls.MeanCue(len(scheme_classes(scheme)))
    plain = replace(config, control="none")
    for landmarks, labels in batches:
        total.update(render_cue(plain, landmarks, labels, scheme=scheme, image_size=image_size, size=size), labels)
    overall, per_class = total.overall(), total.per_class()
    if total.total is None:
        overall, per_class = overall.expand(-1, -1, *size).clone(), per_class.expand(-1, -1, *size).clone()
    return overall, per_class
