"""Guidance of a run: which maps are pulled towards which cues, checked before training, computed in every step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mien import maps
from mien.config import GUIDED_KINDS, GuidanceConfig, Recipe
from mien.cues import CueConfig, mean_cue, render_cue
from mien.data.cutmix import mix_cue
from mien.data.loader import Memory
from mien.data.store import Store
from mien.data.transforms import as_pictures, denormalised, normalise
from mien.errors import UsageError
from mien.explain import left_as_found
from mien.losses.alignment import alignment_loss, compared_map, guidance_loss, resolve_layers
from mien.losses.attribution import Request, attribute, route, target_slope
from mien.models import Classifier
from mien.schema import Batch, Cue, IntArray, Layers, Output

CHOSEN_CHANNELS = ("first_half", "second_half", "fraction")
"""Channels that stay the same for the whole run, so that a score can tell them from the others."""
CHUNK = 256
"""Faces whose cues are drawn at once."""
NOTHING = 1e-5
"""Share of a gradient under which it counts as zero, or as the same everywhere."""


class Guide(NamedTuple):
    """One guidance of a recipe, resolved for a model."""

    section: str
    """`guidance` or `second`."""
    config: GuidanceConfig
    cue: CueConfig
    layers: list[int]
    """Indices into Output.features."""
    early: bool
    """Has a layer before the last."""
    means: list[Tensor | None]
    """Dataset-mean cue of each layer, for the control `mean`."""

    @property
    def by_gradient(self) -> bool:
        """The attribution needs a gradient of the logits."""
        return self.config.attribution != "activation"

    @property
    def has_own_score(self) -> bool:
        """Its map or its cue is not that of the layers' attention, which is scored anyway."""
        return self.by_gradient or self.config.channels in CHOSEN_CHANNELS or self.config.cue is not None


def guides_of(recipe: Recipe, model: Classifier) -> list[Guide]:
    """The guidances of a recipe with a weight, layers resolved; UsageError for a layer that cannot be guided."""
    guides, count = [], len(model.backbone.channels)
    for section, config in recipe.guidances().items():
        if not config.weight:
            continue
        layers = resolve_layers(config.layers, count, section)
        early = any(layer != count - 1 for layer in layers)
        for layer in layers:
            if model.backbone.sides[layer] == 1:
                raise UsageError(
                    f"{section}.layers: layer {layer + 1} is a single cell at model.size {recipe.model.size}, which "
                    "aligns with everything; choose a shallower layer, a larger model.size or model.output_stride 16."
                )
        if config.attribution == "integrated" and early:
            raise UsageError(f"{section}.attribution integrated runs the head again and exists at the last layer only.")
        if config.attribution != "activation" and "fsdp" in recipe.run.strategy:
            raise UsageError(f"{section}.attribution {config.attribution} does not train under fsdp; use ddp.")
        cue = replace(recipe.cue, kind=config.cue) if config.cue else recipe.cue
        guides.append(Guide(section, config, cue, layers, early, [None] * len(layers)))
    return guides


def prepare_guides(
    recipe: Recipe, model: Classifier, store: Store, labels: IntArray, rows: IntArray, device: torch.device
) -> list[Guide]:
    """Guides of a training: degenerate settings are refused, the mean cue over `rows` is there where a control asks."""
    guides = guides_of(recipe, model)
    for k, guide in enumerate(guides):
        if guide.by_gradient:
            refuse_degenerate(guide, model, recipe.model.size)
        if guide.cue.control == "mean":
            to_cue = guide.config.scale == "to_cue"
            sides = [recipe.model.size if to_cue else model.backbone.sides[layer] for layer in guide.layers]
            own = replace(recipe, cue=guide.cue)
            means = [mean_of_cue(own, store, labels, rows, side).to(device) for side in sides]
            guides[k] = guide._replace(means=list(means))
    return guides


def active(guides: Sequence[Guide], epoch: int) -> list[Guide]:
    """Those that have a weight in this epoch."""
    return [guide for guide in guides if guide.config.weight_at(epoch)]


def guided_forward(
    model: nn.Module,
    guides: Sequence[Guide],
    images: Tensor,
    labels: Tensor,
    steering: Tensor | None = None,
    *,
    graph: bool = True,
) -> Output:
    """Forward pass with the attributions that the guides need, differentiable with `graph`.

    Without `graph` it is an evaluation: the head is not told the labels, the attributions are. `steering` is the
    batch's `guide` for a spatial transformer.
    """
    told = labels if graph else None
    wanted = [guide for guide in guides if guide.by_gradient]
    placed = {} if steering is None else {"guide": steering}
    if not wanted:
        return cast(Output, model(images, told, **placed))
    requests = [Request(guide.config, guide.layers) for guide in wanted]
    # Fused attention kernels have no second derivative; gradients of inner blocks need the plain one.
    plain = graph and any(guide.early for guide in wanted)
    with sdpa_kernel(SDPBackend.MATH) if plain else nullcontext():
        return cast(Output, model(images, told, partial(attribute, requests, labels, graph=graph), **placed))


def attributions_of(guides: Sequence[Guide], output: Output) -> list[list[Tensor]]:
    """For every guide one attribution (B, C, h, w) a layer, as it lies on the input picture.

    `output` comes from `guided_forward` with the same guides.
    """
    computed = iter(output.attributions)
    return [
        [
            maps.to_input(next(computed) if guide.by_gradient else output.features[layer], output.theta)
            for layer in guide.layers
        ]
        for guide in guides
    ]


def guidance_terms(
    recipe: Recipe, guides: Sequence[Guide], output: Output, batch: Batch, epoch: int, step: int
) -> dict[str, Tensor]:
    """Section -> weighted loss of each active guide; random draws depend on (seed, epoch, step) only."""
    terms = {}
    for guide, found in zip(guides, attributions_of(guides, output), strict=True):
        to_cue = guide.config.scale == "to_cue"
        sizes = [batch.images.shape[-2:] if to_cue else a.shape[-2:] for a in found]
        cues = cues_for(replace(recipe, cue=guide.cue), batch, sizes, guide.means, epoch, step)
        draws = generator_of(recipe, epoch, step, batch.images.device)
        loss = guidance_loss(found, cues, guide.config, recipe.loss.sharpness(epoch), draws)
        terms[guide.section] = guide.config.weight_at(epoch) * loss
    return terms


def generator_of(recipe: Recipe, epoch: int, step: int, device: torch.device) -> torch.Generator:
    """Random numbers of one training step; a resumed run draws the same."""
    seed = int(np.random.SeedSequence((recipe.run.seed, epoch, step)).generate_state(1)[0])
    return torch.Generator(device=device).manual_seed(seed)


def cues_for(
    recipe: Recipe, batch: Batch, sizes: Sequence[Sequence[int]], means: Sequence[Tensor | None], epoch: int, step: int
) -> list[Cue]:
    """The recipe's cue at each size (h, w); under CutMix the own cue outside the box, the partner's inside."""
    labels = batch.expressions if batch.mix is None else batch.mix.labels
    cues = []
    for (h, w), mean in zip(sizes, means, strict=True):
        cue = render_cue(
            recipe.cue, batch.landmarks, labels, scheme=recipe.data.scheme,
            image_size=(batch.images.shape[-2], batch.images.shape[-1]), size=(h, w),
            generator=generator_of(recipe, epoch, step, batch.landmarks.device), mean=mean, images=seen_by_cue(recipe, batch),
            action_units=batch.action_units,
        )  # fmt: skip
        cues.append(cue if batch.mix is None else mix_cue(cue, batch.mix))
    return cues


def with_guide(recipe: Recipe, batch: Batch, mean: Tensor | None, epoch: int, step: int) -> Batch:
    """The batch with what its spatial transformer wants to see: the recipe's cue, control included, or the landmarks.

    A face without a cue gets `transformer.missing`. `mean` is the mean cue at the size of the image, for that control. Draws
    depend on (seed, epoch, step) only. The batch itself where no guide is wanted, or it came with one out of memory.
    """
    if batch.guide is not None:
        return batch
    if recipe.transformer.kind == "landmarks":
        return batch._replace(guide=batch.landmarks)
    if recipe.transformer.kind not in GUIDED_KINDS:
        return batch
    cue = cues_for(recipe, batch, [batch.images.shape[-2:]], [mean], epoch, step)[0]
    missing = float(recipe.transformer.missing == "white")
    return batch._replace(guide=torch.where(cue.valid[:, None, None, None], cue.maps, missing))


def kept_guides(recipe: Recipe, memory: Memory, mean: Tensor | None) -> Tensor | None:
    """Guides of all pictures in memory, (N, 1, S, S), drawn once; None where none is wanted or it changes with the batch."""
    own = recipe.cue.control == "shuffled" or recipe.cue.kind == "au_observed"  # needs more than pictures and points
    changing = own or recipe.augment.changes_faces or recipe.augment.cutmix or recipe.mask.train
    if recipe.transformer.kind not in GUIDED_KINDS or changing:
        return None
    found = []
    for images, landmarks in zip(memory.images.split(256), memory.landmarks.split(256), strict=True):
        pictures = normalise(images, recipe.model.preprocessing)
        unknown = images.new_full((len(images),), -1, dtype=torch.int64)
        batch = Batch(pictures, unknown, landmarks.new_full((len(images), 0), torch.nan), landmarks, unknown)
        guide = with_guide(recipe, batch, mean, 0, 0).guide
        assert guide is not None
        found.append(guide)
    return torch.cat(found)


def seen_by_cue(recipe: Recipe, batch: Batch) -> Tensor | None:
    """The pictures of a batch, RGB (B, 3, H, W) in [0, 1], where the recipe's cue is drawn from them."""
    return denormalised(batch.images, recipe.model.preprocessing) if recipe.cue.kind == "saliency" else None


def mean_of_cue(recipe: Recipe, store: Store, labels: IntArray, rows: IntArray, side: int) -> Tensor:
    """Dataset-mean cue (1, 1, side, side) over `rows`, e.g. the training faces: the strongest map that never saw the face."""
    frame = (store.info.size, store.info.size)

    def batches() -> Iterator[tuple[Tensor | None, ...]]:
        for part in np.split(rows, range(CHUNK, len(rows), CHUNK)):
            points = torch.from_numpy(store.landmarks[part].astype(np.float32))
            pictures = as_pictures(store.images(part)) if recipe.cue.kind == "saliency" else None
            yield points, torch.from_numpy(labels[part]), pictures, torch.from_numpy(store.action_units[part])

    return mean_cue(recipe.cue, batches(), scheme=recipe.data.scheme, image_size=frame, size=(side, side))[0]


class Look(NamedTuple):
    """Where a model looks by an attribution that it was trained with."""

    name: str
    maps: Tensor
    """(B, 1, h, w), values as compared in training."""
    cue: CueConfig
    """What it was pulled towards, without control."""


def look(
    model: nn.Module, guides: Sequence[Guide], images: Tensor, labels: Tensor, steering: Tensor | None = None
) -> tuple[Output, list[Look]]:
    """Output, and the trained attributions of the label's logit at the deepest guided layer; no graph is kept.

    `guided:grad_input` (of the section second: `second:grad_input`) is over the constrained channels. Where only some
    were constrained, `guided:grad_input-all` is over all: evidence may have moved into the free ones.
    """
    asked = []
    for guide in guides:
        if guide.has_own_score:
            channels: Any = guide.config.channels if guide.config.channels in CHOSEN_CHANNELS else "mean"
            config = replace(guide.config, target="label", channels=channels, normalise="none", detach=False)
            asked.append(guide._replace(config=config, layers=[max(guide.layers)]))
    with torch.set_grad_enabled(any(guide.by_gradient for guide in asked)):
        output = guided_forward(model, asked, images, labels, steering, graph=False)
    looks = []
    for guide, (found,) in zip(asked, attributions_of(asked, output), strict=True):
        name = f"{'guided' if guide.section == 'guidance' else guide.section}:{guide.config.attribution}"
        plain, size = replace(guide.cue, control="none"), found.shape[-2:]
        looks.append(Look(name, compared_map(found.detach(), guide.config, size), plain))
        if guide.config.channels != "mean":
            whole = replace(guide.config, channels="mean", fraction=1.0)
            looks.append(Look(f"{name}-all", compared_map(found.detach(), whole, size), plain))
    return output, looks


def describe(guide: Guide, model: Classifier) -> str:
    """One line for the log: what is pulled where, and how its gradient is found."""
    count = len(model.backbone.channels)
    layers = ", ".join(str(layer + 1) for layer in guide.layers)
    line = (
        f"{guide.section}: {guide.config.attribution} at layer {layers} of {count}, "
        f"{guide.config.similarity} with cue {guide.cue.kind}"
    )
    if not guide.by_gradient:
        return line
    sizes = zip(model.backbone.channels, model.backbone.sides, strict=True)
    shapes = Layers(tuple(torch.empty(1, channels, side, side, device="meta") for channels, side in sizes))
    way = route(Request(guide.config, guide.layers), model.head, shapes)
    line += f"; gradient of {guide.config.target} by {way}"
    if guide.early and any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.backbone.modules()):
        line += "; batch norms above the layer mix the faces of a batch into it"
    return line


def refuse_degenerate(guide: Guide, model: Classifier, size: int) -> None:
    """UsageError with the reason where an attribution is nothing, says nothing, or could not train the backbone.

    Found by trying it: two random images in eval mode, at every layer of the guide. The model is left as it was.
    """
    draws = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, size, size, generator=draws)
    labels = torch.zeros(2, dtype=torch.int64)
    config, section = guide.config, guide.section
    with left_as_found(model), torch.enable_grad():
        output = guided_forward(model, [guide], images, labels, model.blank_guide(images))
        for layer, found in zip(guide.layers, output.attributions, strict=True):
            where = f"{section}.attribution {config.attribution} at layer {layer + 1}"
            one, whole = _slopes(output, layer, labels, config.target)
            if whole <= NOTHING * one or one == 0:
                raise UsageError(
                    f"{where}: the gradient of {config.target} is zero. Logits are expected; if the head ends in a softmax, "
                    "its sum is 1 whatever the image."
                )
            seen = compared_map(found, replace(config, channels="mean", fraction=1.0), found.shape[-2:])
            spread = (seen - seen.mean((2, 3), keepdim=True)).abs().amax()
            if config.attribution == "grad" and spread <= NOTHING * seen.abs().amax():
                raise UsageError(
                    f"{where} is the same at every cell, because the head averages over the cells first; it cannot align. "
                    "Use grad_input, or an earlier layer."
                )
            cue = Cue(torch.rand(2, 1, *found.shape[-2:], generator=draws), torch.ones(2, dtype=torch.bool))
            weights = [p for p in model.backbone.parameters() if p.requires_grad]
            if weights and not _reaches(alignment_loss(seen, cue, "pearson"), weights, where):
                raise UsageError(
                    f"{where} sends nothing into the backbone: the head is piecewise linear, so its gradient does not depend "
                    "on the layer. Use grad_input, or an earlier layer."
                )


def _reaches(loss: Tensor, weights: Sequence[Tensor], where: str) -> bool:
    """Whether any of the weights gets a gradient that is not zero."""
    try:
        pulls = torch.autograd.grad(loss, weights, allow_unused=True, retain_graph=True)
    except RuntimeError as error:
        if "is not implemented" not in str(error):
            raise
        raise UsageError(
            f"{where}: {str(error).splitlines()[0]}, so the net above has no second derivative. Use detach, the last layer, "
            "or another backbone."
        ) from error
    return any(pull is not None and bool(pull.any()) for pull in pulls)


def _slopes(output: Output, layer: int, labels: Tensor, target: str) -> tuple[float, float]:
    """Largest absolute gradient of a single logit, and of the target, with respect to a layer."""
    sizes = []
    for name in ("label", target):
        slope = target_slope(output.logits, labels, name)
        (gradient,) = torch.autograd.grad(output.logits, output.features[layer], slope, retain_graph=True)
        sizes.append(float(gradient.abs().amax()))
    return sizes[0], sizes[1]
