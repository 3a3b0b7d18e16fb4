"""Is a map about this model? Scores that need no cue: taking pixels away and giving them back, and randomised weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mien import maps as m
from mien.errors import UsageError, unknown_name

STEPS = 16
TWINS = 5
"""Random nets whose maps are compared: one alone can lie anywhere."""
PARTS = ("head", "all")
"""What `randomised` makes random."""
FAITHFULNESS = {"deletion": False, "insertion": True, "randomised_head": False, "randomised_all": False}
"""Name of a score -> higher is better."""


def mean_colour(images: Tensor) -> Tensor:
    """Each image's own mean colour everywhere, (B, 3, H, W)."""
    return images.mean(dim=(2, 3), keepdim=True).expand_as(images)


def blurred(images: Tensor) -> Tensor:
    """Gaussian blur, standard deviation a tenth of the shorter side: no expression can be read any more, (B, 3, H, W)."""
    sigma = min(images.shape[-2:]) / 10
    for axis in (2, 3):
        radius = min(math.ceil(3 * sigma), images.shape[axis] - 1)
        offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
        kernel = (-(offsets**2) / (2 * sigma**2)).exp()
        kernel = (kernel / kernel.sum()).view(1, 1, -1, 1).expand(images.shape[1], 1, -1, 1)
        turned = images if axis == 2 else images.transpose(2, 3)
        turned = F.conv2d(F.pad(turned, (0, 0, radius, radius), "reflect"), kernel, groups=images.shape[1])
        images = turned if axis == 2 else turned.transpose(2, 3)
    return images


FILLS: dict[str, Callable[[Tensor], Tensor]] = {"mean": mean_colour, "blur": blurred}
"""Name -> what stands where pixels are missing."""


def deletion_insertion(
    probability: Callable[[Tensor], Tensor],
    images: Tensor,
    maps: Tensor,
    target: Tensor,
    *,
    steps: int = STEPS,
    deletion_fill: str = "mean",
    insertion_fill: str = "blur",
    seed: int = 0,
) -> dict[str, Tensor]:
    """Deletion and insertion AUC (Petsiuk et al. 2018, RISE, arXiv 1806.07421), each (B,) in [0, 1].

    The target's probability is followed while pixels, most important first, turn into the fill (`deletion`: lower is
    better) or come back out of the fill (`insertion`: higher is better); the score is the area under it over the share
    of pixels, by the trapezoid rule. Pixels of equal importance go in a random order, the same for every image.

    Args:
        probability: images -> (B, K) probabilities.
        images: (B, 3, H, W) normalised.
        maps: (B, 1, h, w), resized to the images; only the order of their values counts. NaN counts as 0.
        target: (B,) int64.
        steps: equal shares in which pixels change; 2 (steps + 1) passes in all.
        deletion_fill: key of FILLS. The paper fills with the mean of the dataset; here it is that of the image.
        insertion_fill: key of FILLS. The paper's blur is narrower (5 of 224 pixels) and leaves an expression readable.
        seed: of the order of equal pixels.

    """
    if steps < 1:
        raise UsageError(f"steps is {steps}; it must be at least 1.")
    for name in (deletion_fill, insertion_fill):
        if name not in FILLS:
            raise unknown_name("fill", name, FILLS)
    rank = importance_rank(m.resize(maps.float(), (images.shape[-2], images.shape[-1])), seed)
    total = rank.shape[-2] * rank.shape[-1]
    paths = {
        "deletion": (images, FILLS[deletion_fill](images)),
        "insertion": (FILLS[insertion_fill](images), images),
    }
    scores = {}
    for name, (start, end) in paths.items():
        curve = [
            probability(torch.where(rank * steps < step * total, end, start)).gather(1, target[:, None])[:, 0]
            for step in range(steps + 1)
        ]
        scores[name] = torch.trapezoid(torch.stack(curve, 1).float(), dim=1) / steps
    return scores


def importance_rank(maps: Tensor, seed: int = 0) -> Tensor:
    """Place of every pixel when the highest come first, int64 of the shape of `maps`; ties in a seeded random order."""
    flat = maps.flatten(1).nan_to_num()
    mixed = torch.randperm(flat.shape[1], generator=torch.Generator().manual_seed(seed)).to(flat.device)
    order = mixed[flat[:, mixed].argsort(dim=1, descending=True, stable=True)]
    places = torch.arange(flat.shape[1], device=flat.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places).view(maps.shape)


def map_similarity(own: Tensor, twin: Tensor) -> Tensor:
    """Pearson correlation of the maps of a net and of its random twin, (B,) in [-1, 1]; NaN where either is flat.

    (B, 1, h, w) each. A random net often has no evidence at all: its empty map correlates with nothing, which is no sign that
    the net's own map depends on its weights.
    """
    return m.pearson(own, twin).masked_fill(m.is_flat(own) | m.is_flat(twin), torch.nan)


@torch.no_grad()
def randomised(model: nn.Module, part: str = "all", seed: int = 0) -> nn.Module:
    """A copy of a model whose weights say nothing (Adebayo et al. 2018, arXiv 1810.03292); the model itself is left alone.

    Matrices and kernels are drawn anew (He normal), vectors such as biases are shuffled, batch norm goes back to its
    start. A map that hardly changes with `part` "all" shows edges of the image, not what was learnt; one that does not
    change with "head" does not depend on the class. Compare with `map_similarity`, over several seeds; lower is better.
    """
    if part not in PARTS:
        raise unknown_name("part", part, PARTS)
    twin = copy.deepcopy(model)
    _randomise(twin if part == "all" else twin.get_submodule(part), torch.Generator().manual_seed(seed))
    return twin


@torch.no_grad()
def randomised_stages(model: nn.Module, names: Sequence[str], seed: int = 0) -> nn.Module:
    """A copy of a model in which the modules `names` are made random as in `randomised`; the model itself is left alone."""
    twin, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    for name in names:
        _randomise(twin.get_submodule(name), generator)
    return twin


def stages(model: nn.Module, most: int) -> list[list[str]]:
    """Modules with weights of their own in at most `most` runs of like length, that of the output first."""
    names = [name for name, part in model.named_modules() if any(True for _ in part.parameters(recurse=False))]
    names, count = names[::-1], min(most, len(names))
    return [names[k * len(names) // count : (k + 1) * len(names) // count] for k in range(count)]


def _randomise(module: nn.Module, generator: torch.Generator) -> None:
    for part in module.modules():
        if isinstance(part, _BatchNorm):
            part.reset_parameters()
    for parameter in module.parameters():
        if not parameter.is_floating_point():  # quantised
            continue
        if parameter.dim() > 1:
            fresh = nn.init.kaiming_normal_(torch.empty(parameter.shape), generator=generator)
        else:
            fresh = (
                parameter.cpu()[torch.randperm(len(parameter), generator=generator)] if parameter.dim() else parameter
            )
        parameter.copy_(fresh)
