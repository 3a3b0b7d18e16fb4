"""Framed faces -> probabilities and explanations, a batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mien import explain as explainers
from mien import maps as m
from mien.config import Recipe
from mien.cues import load_codebook, map_resize, render_cue
from mien.cues.config import FACE_REGIONS
from mien.cues.regions import face_regions, unit_maps, unit_names
from mien.data.transforms import normalise, resize_faces
from mien.metrics.alignment import attention_scores, cam_scores
from mien.predict import contrast as c
from mien.predict.results import Explanation, Region
from mien.predict.views import logits_of
from mien.predict.words import sentence
from mien.schema import SCHEMES, Batch, Cue, FloatArray, Output, scheme_classes
from mien.training.steering import with_guide

if TYPE_CHECKING:
    from mien.data.framing import FramedFace
    from mien.predict.units import FaceUnits


class Faces(NamedTuple):
    """A batch as the net gets it."""

    images: Tensor
    """(B, 3, S, S) normalised."""
    pictures: Tensor
    """(B, 3, S, S) uint8."""
    landmarks: Tensor
    """(B, 68, 2) pixels of `pictures`."""
    units: Tensor
    """(B, A) intensities 0-5 over schema.ACTION_UNITS, NaN unknown."""
    guide: Tensor | None
    added: Tensor
    """(B, K) added to the logits: what the points of the face say beside the pixels; zeros without a fusion."""
    canvas: int
    """Side of the pictures before they were resized, on which cues are drawn."""
    classes: tuple[str, ...]
    """Of the model, in logit order: all or some of those of the recipe's scheme."""


def batch_of(
    recipe: Recipe, classes: tuple[str, ...], faces: Sequence[FramedFace], units: FloatArray, device: torch.device,
    added: Tensor | None = None,
) -> Faces:  # fmt: skip
    """Framed faces for a model of these classes, resized and normalised as in training, with the guide that it wants."""
    pixels = torch.from_numpy(np.stack([face.pixels for face in faces])).permute(0, 3, 1, 2)
    points = torch.from_numpy(np.stack([face.landmarks for face in faces]))
    pictures, points = resize_faces(pixels.to(device), points.to(device), recipe.model.size)
    images = normalise(pictures, recipe.model.preprocessing)
    intensities = torch.from_numpy(units).to(device)
    unlabelled, rows = torch.full((len(images),), -1, device=device), torch.arange(len(images), device=device)
    canvas = pixels.shape[-1]
    batch = Batch(images, unlabelled, intensities, points, rows, canvas=canvas)
    more = (torch.zeros(len(images), len(classes)) if added is None else added).to(device)
    guide = with_guide(recipe, batch, None, 0, 0).guide
    return Faces(images, pictures, points, intensities, guide, more, canvas, classes)


@torch.no_grad()
def classify(model: Any, faces: Faces, temperature: float, views: int = 1) -> Tensor:
    """Calibrated probabilities (B, K), logits averaged over `views` (predict.views)."""
    logits = logits_of(model, faces.images, faces.guide, views) + faces.added
    return (logits / temperature).softmax(1)


def explain_faces(
    model: Any, recipe: Recipe, faces: Faces, temperature: float, method: str, expression: str | None, masking: bool,
    measured: Sequence[FaceUnits], views: int = 1,
) -> tuple[Tensor, list[Explanation]]:  # fmt: skip
    """Probabilities as `classify` gives them, and an explanation of every face as it lies in its picture (the first view).

    `measured` are the action units of each face, which the words may name.
    """
    wanted = None if expression is None else faces.classes.index(expression)
    output, raw = explainers.explain_with_output(model, faces.images, wanted, (method,), guide=faces.guide)
    seen = ((output.logits.float() + faces.added) / temperature).softmax(1)  # in this one view
    probabilities = seen if views == 1 else classify(model, faces, temperature, views)
    target = probabilities.argmax(1) if wanted is None else torch.full_like(probabilities.argmax(1), wanted)
    second = c.runner_up(probabilities, target)
    evidence = explainers.evidence(method, raw[method])
    attention = attention_of(output)
    frame = (recipe.model.size, recipe.model.size)
    cue = render_cue(
        replace(recipe.cue, control="none"), faces.landmarks, in_scheme(target, faces.classes, recipe),
        scheme=recipe.data.scheme, image_size=frame, size=frame, images=faces.pictures.float() / 255, action_units=faces.units,
        canvas=(faces.canvas, faces.canvas),
    )  # fmt: skip
    scores = {method: cam_scores(evidence, cue.maps)}
    if attention is not None:
        scores = {"attention": attention_scores(attention, cue.maps, map_resize(recipe.cue)), **scores}
    difference = c.class_contrast(model, faces.images, output, target, second, faces.guide)
    regions, placed = face_regions(faces.landmarks, frame)
    share, effect = c.shares(evidence, regions), None
    if masking:
        again = partial(_probability, model, faces.guide, faces.added, temperature)
        before = seen.gather(1, target[:, None])[:, 0]
        effect = c.effects(again, faces.images, regions, target, before)
    units = None
    if difference is not None:
        size = (difference.shape[-2], difference.shape[-1])
        units = c.densities(
            difference, unit_maps(recipe.cue.codebook, faces.landmarks, frame, size, (faces.canvas, faces.canvas))[0]
        )
    told = Told(target, second, evidence, attention, cue, difference, placed, share, effect, units, scores)
    return probabilities, told.explanations(recipe, faces.classes, method, measured)


def attention_of(output: Output) -> Tensor | None:
    """(B, 1, h, w) channel mean of the last layer as it lies on the pictures; None for a model without a layer."""
    return m.to_input(m.channel_mean(output.features[-1]), output.theta) if output.features else None


def in_scheme(target: Tensor, classes: Sequence[str], recipe: Recipe) -> Tensor:
    """(B,) classes of a model -> their places in the label scheme, by which cues are drawn."""
    scheme = scheme_classes(recipe.data.scheme)
    return target.new_tensor([scheme.index(name) for name in classes])[target]


class Told(NamedTuple):
    """What is known of a batch of faces, for its explanations."""

    target: Tensor
    """(B,) class that is explained."""
    second: Tensor
    """(B,) its runner-up."""
    evidence: Tensor
    """(B, 1, h, w)."""
    attention: Tensor | None
    """(B, 1, h, w); None without a layer."""
    cue: Cue
    difference: Tensor | None
    """(B, 1, h, w) contrast of the two classes."""
    placed: Tensor
    """(B,) bool: the regions are known."""
    share: Tensor
    """(B, R)."""
    effect: Tensor | None
    """(B, R)."""
    units: Tensor | None
    """(B, U)."""
    scores: dict[str, dict[str, Tensor]]
    """Map name -> score name -> (B,)."""

    def explanations(
        self, recipe: Recipe, classes: Sequence[str], method: str, measured: Sequence[FaceUnits]
    ) -> list[Explanation]:
        """One a face. Everything is brought to the CPU first: each number alone would wait for the device."""
        names = unit_names(recipe.cue.codebook)
        placed, valid, share = self.placed.tolist(), self.cue.valid.tolist(), self.share.tolist()
        effect = [None] * len(placed) if self.effect is None else self.effect.tolist()
        units = [None] * len(placed) if self.units is None else self.units.tolist()
        scores = {name: {kind: v.tolist() for kind, v in kinds.items()} for name, kinds in self.scores.items()}
        maps, cues = _array(self.evidence[:, 0]), _array(self.cue.maps[:, 0])
        contrast, attention = (None if v is None else _array(v[:, 0]) for v in (self.difference, self.attention))
        found = []
        for k, (one, other) in enumerate(zip(self.target.tolist(), self.second.tolist(), strict=True)):
            parts = _regions(share[k], effect[k]) if placed[k] else {}
            row = units[k] if placed[k] else None
            named = {} if row is None else dict(zip(names, row, strict=True))
            found.append(Explanation(
                method, classes[one], classes[other], maps[k], None if attention is None else attention[k],
                cues[k] if valid[k] else None, None if contrast is None else contrast[k],
                {name: {kind: v[k] for kind, v in kinds.items()} for name, kinds in scores.items()} if valid[k] else {},
                named, parts, _words(recipe, classes[one], classes[other], measured[k], parts),
            ))  # fmt: skip
        return found


@torch.no_grad()
def _probability(
    model: Any, guide: Tensor | None, added: Tensor, temperature: float, images: Tensor, rows: Tensor
) -> Tensor:
    output: Output = model(images) if guide is None else model(images, guide=guide[rows])
    return ((output.logits.float() + added[rows]) / temperature).softmax(1)


def _regions(share: list[float], effect: list[float] | None) -> dict[str, Region]:
    values = [None] * len(FACE_REGIONS) if effect is None else effect
    return {name: Region(s, e) for name, s, e in zip(FACE_REGIONS, share, values, strict=True)}


def _words(recipe: Recipe, one: str, other: str, units: FaceUnits, regions: dict[str, Region]) -> str:
    if not regions:
        return f"{one} rather than {other}: no landmarks, so no regions."
    book, parts = load_codebook(recipe.cue.codebook).expressions, SCHEMES[recipe.data.scheme]
    own = {unit for part in parts[one] for unit in book.get(part, ())}
    expected = [unit for unit in units.looked_for if unit in own]
    return sentence(one, other, regions, units.present, expected)


def _array(values: Tensor) -> FloatArray:
    return np.asarray(values.detach().float().cpu().numpy(), dtype=np.float32)
