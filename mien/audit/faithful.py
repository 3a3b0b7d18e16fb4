"""Is the explanation true? One map of a model under every test, beside a random map, class-mean cue, centre and the exact cue."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mien.audit.corruptions import affine, moved
from mien.audit.probe import OCCLUSION, Probe
from mien.audit.robustness import likeness
from mien.audit.sample import MOST_MEANS, Sample
from mien.cues import controls, render_cue
from mien.cues.config import CueConfig
from mien.cues.regions import unit_maps, unit_names
from mien.data.transforms import as_pictures, resize_faces
from mien.maps import min_max, pearson, resize
from mien.metrics.alignment import class_mean_maps
from mien.metrics.faithfulness import blurred, deletion_insertion, randomised_stages, stages
from mien.metrics.perturbed import (
    adcc,
    drop_and_increase,
    entropy,
    gini,
    infidelity,
    localisation,
    max_sensitivity,
    rank_correlation,
    region_effects,
    region_shares,
    removals,
    road,
    sensitivity_n,
)
from mien.schema import ByteArray, FloatArray, class_index

BATCH = 32
BASELINES = ("random", "class_mean", "centre", "cue")
"""Maps that never saw the net: noise, the mean cue of the predicted class, a Gaussian in the middle, the face's own cue."""
CUTS = (0.3, 0.5, 0.7)
"""Of the map's maximum, for localisation."""
SIZES = (0.1, 0.2, 0.4)
"""Shares of the picture that sensitivity-n removes at a time."""
STEPS = 8
REGION = 0.5
"""An action unit's region is where its cue is at least this."""
STAGES, TWIN_FACES = 5, 48
RADIUS = 0.02
SHUFFLED = "trained on random labels"
CUE = CueConfig()


class Faithful(NamedTuple):
    """Scores of n faces."""

    scores: dict[str, dict[str, FloatArray]]
    """Map ("own" or one of BASELINES) -> score -> (n,), NaN undefined."""
    units: tuple[str, ...]
    shares: FloatArray
    """(n, U) share of the own map in the region of each action unit."""
    effects: FloatArray
    """(n, U) probability that covering it costs."""
    means: dict[str, dict[str, FloatArray]]
    """"map" and "cue" -> class -> mean map (h, w) over the faces that are given this class."""
    twins: dict[str, list[FloatArray]]
    """"cascading" and "independent" -> for every stage, the output's first, (m,) likeness to the map of the random twin; SHUFFLED ->
    that to the map of a training on random labels."""


def expressions_in(classes: tuple[str, ...], labels: Tensor) -> Tensor:
    """Class indices of the model -> those of basic-8, -1 for a class that is none of its expressions."""
    index = class_index("basic-8")
    table = torch.tensor([index.get(name, -1) for name in classes], device=labels.device)
    return table[labels]


def cues_of(classes: tuple[str, ...], landmarks: Tensor, labels: Tensor, side: int, size: int) -> tuple[Tensor, Tensor]:
    """AU cues (B, 1, size, size) for the classes of a model, and validity; landmarks in pixels of a picture of `side`."""
    cue = render_cue(
        CUE, landmarks, expressions_in(classes, labels), scheme="basic-8", image_size=(side, side), size=(size, size)
    )
    return cue.maps, cue.valid


class Blind(NamedTuple):
    """Mean cue of each class at the size of a small map; arguments of `class_mean_maps`."""

    means: Tensor
    faces: Tensor
    overall: Tensor


def blind_cues(sample: Sample, side: int, scale: float, size: int = 28) -> Blind:
    """Class-mean cues over training faces of the store, or over the sample where it has none; `scale` of their landmarks."""
    points, labels = sample.train if sample.train is not None else (sample.landmarks, sample.labels)
    chosen = np.concatenate([np.flatnonzero(labels == k)[:MOST_MEANS] for k in range(len(sample.classes))])
    own = torch.from_numpy(labels[chosen])
    maps, valid = cues_of(sample.classes, (torch.from_numpy(points[chosen]) + 0.5) * scale - 0.5, own, side, size)
    member = torch.nn.functional.one_hot(own, len(sample.classes)).float() * valid[:, None]
    faces = member.sum(0)
    means = torch.einsum("nk,nchw->kchw", member, maps) / faces.clamp_min(1).view(-1, 1, 1, 1)
    return Blind(
        means, faces.long(), maps[valid].mean(0, keepdim=True) if valid.any() else maps.new_zeros(1, 1, size, size)
    )


def faithful(
    probe: Probe, sample: Sample, pictures: ByteArray, seed: int = 0, late: Callable[[], bool] = bool,
    shuffled: Probe | None = None,
) -> Faithful:  # fmt: skip
    """Every score of the map of the predicted class; `late` says when to stop: batches that were not begun are left out.

    `shuffled` is a model that was trained on random labels.
    """
    side = probe.model.size
    blind = blind_cues(sample, side, side / pictures.shape[1])
    scores: dict[str, dict[str, list[Tensor]]] = defaultdict(lambda: defaultdict(list))
    rows: dict[str, list[Tensor]] = defaultdict(list)
    for start in range(0, len(pictures), BATCH):
        if late():
            break
        part = slice(start, start + BATCH)
        images, landmarks = resize_faces(
            (as_pictures(pictures[part]) * 255).round().to(torch.uint8), torch.from_numpy(sample.landmarks[part]), side
        )
        images = images.float() / 255
        target = probe.probability(images).argmax(1)
        cue, valid = cues_of(sample.classes, landmarks, target, side, side)
        maps = maps_of(probe, images, target, cue, blind, sample.rows[part], seed)
        for name, kinds in scored(probe, images, maps, target, (cue, valid), seed).items():
            for kind, values in kinds.items():
                scores[name][kind].append(values.float())
        units, known = unit_maps(CUE.codebook, landmarks, (side, side), (side, side))
        regions = (units >= REGION) & known[..., None, None]
        effects = region_effects(probe.probability, images, regions, target, blurred(images))
        for name, map_ in maps.items():
            shares = region_shares(map_, regions)
            scores[name]["region_rank"].append(rank_correlation(shares, effects))
            if name == "own":
                rows["shares"].append(shares)
        rows["effects"].append(effects)
        rows["target"].append(target)
        rows["valid"].append(valid)
        rows["maps"].append(torch.nn.functional.interpolate(maps["own"], size=(28, 28), mode="bilinear"))
        rows["cues"].append(torch.nn.functional.interpolate(cue, size=(28, 28), mode="bilinear", antialias=True))
    joined = {name: torch.cat(values) for name, values in rows.items()}
    twins = {} if late() or not joined else twin_maps(probe, pictures, joined["target"], seed, shuffled)
    found = {name: {kind: torch.cat(v).numpy() for kind, v in kinds.items()} for name, kinds in scores.items()}
    none = np.zeros((0, len(unit_names(CUE.codebook))), np.float32)
    return Faithful(
        found, unit_names(CUE.codebook), joined["shares"].numpy() if joined else none,
        joined["effects"].numpy() if joined else none, mean_maps(sample.classes, joined) if joined else {}, twins,
    )  # fmt: skip


def maps_of(
    probe: Probe, images: Tensor, target: Tensor, cue: Tensor, blind: Blind, rows: npt.NDArray[np.int64], seed: int
) -> dict[str, Tensor]:
    """The model's own map and BASELINES, each (B, 1, h, w)."""
    noise = [torch.rand((1, 7, 7), generator=torch.Generator().manual_seed(seed + int(row))) for row in rows]
    return {
        "own": probe.look(images, target),
        "random": torch.stack(noise),
        "class_mean": class_mean_maps(*blind, target),
        "centre": controls.centre(images[:, :1]),
        "cue": cue,
    }


def scored(
    probe: Probe, images: Tensor, maps: dict[str, Tensor], target: Tensor, cue: tuple[Tensor, Tensor], seed: int
) -> dict[str, dict[str, Tensor]]:
    """Map -> score -> (B,). Removed cells are the same for all maps, so that they cost no further passes."""
    fill = blurred(images)
    removed = [removals(probe.probability, images, target, fill, share=share, seed=seed) for share in SIZES]
    region, found = cue[0] >= REGION, {}
    region = region & cue[1].view(-1, 1, 1, 1)
    for name, map_ in maps.items():
        kinds = deletion_insertion(probe.probability, images, map_, target, steps=STEPS)
        kinds["road"] = road(probe.probability, images, map_, target, seed=seed)["road"]
        kinds |= drop_and_increase(probe.probability, images, map_, target)
        kinds |= adcc(kinds["average_drop"], *again(probe, images, map_, target, name))
        kinds["sensitivity_n"] = torch.stack([sensitivity_n(map_, one) for one in removed]).nanmean(0)
        kinds["infidelity"] = torch.stack([infidelity(map_, one) for one in removed]).nanmean(0)
        kinds |= {"entropy": entropy(map_), "gini": gini(map_)}
        for cut in CUTS:
            kinds |= {f"{kind}@{cut:g}": v for kind, v in localisation(map_, region, cut).items()}
        kinds |= equivariance(probe, images, map_, target, name, cue)
        if name == "own":

            def look(changed: Tensor) -> Tensor:
                return probe.look(changed, target)

            draws = 2 if probe.method == OCCLUSION else 8
            kinds["max_sensitivity"] = max_sensitivity(look, images, map_, radius=RADIUS, draws=draws, seed=seed)
        empty = map_.flatten(1).amax(1) <= 0  # a class without a cue, a net without evidence
        found[name] = {kind: values.float().masked_fill(empty, torch.nan) for kind, values in kinds.items()}
    return found


def again(probe: Probe, images: Tensor, map_: Tensor, target: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """The map, and that of the picture multiplied by it; a map that never sees the picture is the same."""
    if name != "own":
        return map_, map_
    return map_, probe.look(images * min_max(resize(map_, (images.shape[-2], images.shape[-1]))), target)


def equivariance(
    probe: Probe, images: Tensor, map_: Tensor, target: Tensor, name: str, cue: tuple[Tensor, Tensor]
) -> dict[str, Tensor]:
    """Pearson of the map of a flipped, shifted (a tenth of the side) and turned (15 degrees) face with the map moved likewise."""
    one, none = torch.ones(len(images)), torch.zeros(len(images))
    angle = torch.deg2rad(15 * one)
    ways = {
        "flip": affine(one, none, none, none) * torch.tensor([[-1.0, 1, 1], [1, 1, 1]]),
        "shift": affine(one, none, 0.2 * one, none),
        "turn": affine(angle.cos(), angle.sin(), none, none),
    }
    found = {}
    for kind, theta in ways.items():
        expected = moved(map_, theta)
        # What never sees the picture stays; the exact cue follows the face by construction.
        still = expected if name == "cue" else map_
        seen = probe.look(moved(images, theta), target) if name == "own" else still
        found[kind] = likeness(expected, seen)
    return found


def twin_maps(
    probe: Probe, pictures: ByteArray, target: Tensor, seed: int, shuffled: Probe | None
) -> dict[str, list[FloatArray]]:
    """Likeness to the maps of nets whose weights are random: stage by stage from the output on, and each stage alone.

    Of the first TWIN_FACES; also to those of a net that was trained on random labels.
    """
    target = target[:TWIN_FACES]
    images = as_pictures(pictures[: len(target)])
    own, found = probe.look(images, target), {}
    if shuffled is not None:
        found[SHUFFLED] = [likeness(own, shuffled.look(images, target)).numpy()]
    if probe.model.layer is None:
        return found
    parts = stages(probe.model.module, STAGES)
    found |= {"cascading": [], "independent": []}
    for k, part in enumerate(parts):
        for kind, names in (("cascading", [name for one in parts[: k + 1] for name in one]), ("independent", part)):
            twin = randomised_stages(probe.model.module, names, seed)
            found[kind].append(likeness(own, probe.look(images, target, twin)).numpy())
    return found


def mean_maps(classes: tuple[str, ...], joined: dict[str, Tensor]) -> dict[str, dict[str, FloatArray]]:
    """Mean map and mean cue of the faces that are given each class, where five or more have a cue."""
    found: dict[str, dict[str, FloatArray]] = {"map": {}, "cue": {}}
    for k, name in enumerate(classes):
        own = (joined["target"] == k) & joined["valid"]
        if own.sum() >= 5:
            found["map"][name] = min_max(joined["maps"][own]).mean((0, 1)).numpy()
            found["cue"][name] = joined["cues"][own].mean((0, 1)).numpy()
    return found


def mean_correlation(first: FloatArray, second: FloatArray) -> float:
    """Normalised (Pearson) correlation of two mean maps (h, w)."""
    return float(pearson(torch.from_numpy(first)[None, None], torch.from_numpy(second)[None, None]))
