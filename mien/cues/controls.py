"""Control cues: what a guided model must beat before its cue may be given the credit.

Each takes maps (B, 1, h, w) of the plain cue and returns maps of that shape; the samples that count stay the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mien.cues.heatmaps import gaussians
from mien.maps import resize
from mien.schema import Cue

CENTRE_SIGMA = 0.2
"""Standard deviation of the centre blob as a share of the shorter side."""


def uniform(maps: Tensor) -> Tensor:
    """The same everywhere: ones."""
    return torch.ones_like(maps)


def inverted(maps: Tensor) -> Tensor:
    """Look everywhere but there: 1 - map."""
    return 1 - maps


def centre(maps: Tensor) -> Tensor:
    """One fixed Gaussian blob in the middle, sigma 0.2 of the shorter side, peak 1."""
    height, width = maps.shape[-2:]
    unit = 1000
    canvas = (unit * height // min(height, width), unit * width // min(height, width))
    middle = torch.stack([maps.new_full((1, 1), (side - 1) / 2) for side in (canvas[1], canvas[0])], -1)
    sigma = maps.new_full((1,), CENTRE_SIGMA * unit)
    return gaussians(middle, sigma, canvas, (height, width)).expand_as(maps)


def mean(maps: Tensor, dataset_mean: Tensor) -> Tensor:
    """The dataset-mean cue (1, 1, h', w') for every sample, resized where needed."""
    return resize(dataset_mean.to(maps), (maps.shape[-2], maps.shape[-1])).expand_as(maps)


def shuffled(cue: Cue, generator: torch.Generator | None = None, among: Tensor | None = None) -> Cue:
    """Another valid sample's map for each valid sample: one random cycle through them, so nobody keeps its own.

    With `among` (B,), e.g. class indices, a cycle through the samples of equal number each: another face of the same class.
    A sample without another one becomes invalid.
    """
    count, device = len(cue.valid), cue.valid.device
    group = torch.zeros(count, dtype=torch.int64, device=device) if among is None else among
    group = torch.where(cue.valid, group, group.max() + 1)  # those without a cue make a group of their own, at the end
    order = (group + _random(count, generator, device).clamp(max=0.999)).argsort()
    ordered, place = group[order], torch.arange(count, device=device)
    first = torch.searchsorted(ordered, ordered)
    after = torch.searchsorted(ordered, ordered, right=True)
    following = torch.where(place + 1 < after, place + 1, first)
    donor = torch.empty_like(order).scatter_(0, order, order[following])
    alone = torch.empty_like(cue.valid).scatter_(0, order, after - first < 2)
    return Cue(cue.maps[donor], cue.valid & ~alone)


def other_labels(labels: Tensor, drawn: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """A class with a cue, drawn evenly among those that are not the sample's own, (B,) int64.

    `drawn` (K,) bool tells which classes have a cue. A label of -1 gets any of them.
    """
    keys = _random(len(labels) * len(drawn), generator, labels.device).view(len(labels), len(drawn))
    classes = torch.arange(len(drawn), device=labels.device)
    barred = ~drawn | (classes == labels[:, None])
    return (keys - 2 * barred.float()).argmax(1)


def _random(count: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Uniform numbers; drawn on the generator's own device, so that one seed gives one answer."""
    source = generator.device if generator is not None else device
    return torch.rand(count, generator=generator, device=source).to(device)


class MeanCue:
    """Running mean of cues over batches, overall and per class; Neutral and other invalid samples are left out.

    Sums are kept in float64 on the CPU.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.count = torch.zeros(classes, dtype=torch.float64)
        self.total: Tensor | None = None

    def update(self, cue: Cue, labels: Tensor) -> None:
        """Add a batch: cue maps (B, 1, h, w), labels (B,) class index or -1 (counted overall only), or (B, K) soft."""
        hard = labels.argmax(1) if labels.dim() == 2 else labels
        row = torch.where(hard < 0, self.classes, hard).cpu()
        keep = cue.valid.cpu()
        maps = cue.maps.detach().cpu().double()
        if self.total is None:
            self.total = torch.zeros(self.classes + 1, *maps.shape[1:], dtype=torch.float64)
            self.count = torch.zeros(self.classes + 1, dtype=torch.float64)
        self.total.index_add_(0, row[keep], maps[keep])
        self.count.index_add_(0, row[keep], torch.ones(int(keep.sum()), dtype=torch.float64))

    def overall(self) -> Tensor:
        """Mean over all valid samples, (1, 1, h, w) float32; zeros when there was none."""
        if self.total is None:
            return torch.zeros(1, 1, 1, 1)
        return (self.total.sum(0, keepdim=True) / self.count.sum().clamp_min(1)).float()

    def per_class(self) -> Tensor:
        """Mean over the valid samples of each class, (K, 1, h, w) float32; zeros for a class without any."""
        if self.total is None:
            return torch.zeros(self.classes, 1, 1, 1)
        return (self.total / self.count.clamp_min(1).view(-1, 1, 1, 1))[: self.classes].float()
