"""Fit the fusion of a run (predict.fusion): what blendshapes add to the answer of its net.

First a small net learns the annotators' votes from the blendshapes of the training faces alone. Then its answer is weighed
against that of the big net, by a matrix and an offset a class, on faces that neither has seen: the validation faces and,
where they are given, photos of other people.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mien.faces.blendshapes import BLENDSHAPES
from mien.predict.fusion import Fusion
from mien.schema import FloatArray, IntArray

HIDDEN, EPOCHS, RATE, DECAY = 32, 40, 3e-3, 1e-4
RIDGE = 1e-2
"""Pull of the matrix towards START times the identity, and of the offsets towards zero."""
START = 0.3
GROUPS = 10
"""People are left out in so many groups."""


class Seen(NamedTuple):
    """Faces that the big net did not train on."""

    scores: FloatArray
    """(N, K) log p of the big net alone, at its temperature."""
    blendshapes: FloatArray
    """(N, 52), NaN where unknown."""
    targets: FloatArray
    """(N, K) shares of votes, or one-hot labels."""
    weight: FloatArray
    """(N,) what each counts."""


def mirror() -> list[int]:
    """Index of the coefficient of the other side, for each of BLENDSHAPES."""
    names = {name: k for k, name in enumerate(BLENDSHAPES)}
    other = [name.replace("Left", "Right") if "Left" in name else name.replace("Right", "Left") for name in BLENDSHAPES]
    return [names[name] for name in other]


def train_expert(blendshapes: FloatArray, targets: FloatArray, seed: int = 0) -> nn.Sequential:
    """52 -> HIDDEN -> K with ReLU, cross-entropy against soft targets, Adam; each face is seen mirrored in half of the epochs."""
    random = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(52, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, targets.shape[1]))
    known = np.isfinite(blendshapes).all(1)
    inputs, wanted = torch.from_numpy(blendshapes[known]), torch.from_numpy(targets[known])
    optimizer = torch.optim.AdamW(net.parameters(), RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    other = mirror()
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(inputs), generator=random).split(256):
            part = inputs[rows]
            part = torch.where(torch.rand(len(part), 1, generator=random) < 0.5, part[:, other], part)
            optimizer.zero_grad()
            F.cross_entropy(net(part), wanted[rows]).backward()
            optimizer.step()
        schedule.step()
    return net.eval()


def weigh(expert: nn.Sequential, seen: Seen, temperature: float) -> Fusion:
    """The fusion with the least cross-entropy on `seen` (weighted mean, ridge penalty), by L-BFGS from START.

    p = softmax(log p_net + (A h(b) + c) / T), so that the offsets are in units of the net's logits at temperature T.
    """
    classes = seen.scores.shape[1]
    matrix = (torch.eye(classes) * START).requires_grad_()
    offset = torch.zeros(classes, requires_grad=True)
    scores, targets = torch.from_numpy(seen.scores).float(), torch.from_numpy(seen.targets).float()
    weight = torch.from_numpy(seen.weight).float()
    shapes = torch.from_numpy(seen.blendshapes)
    known = torch.isfinite(shapes).all(1, keepdim=True)
    with torch.no_grad():
        said = centred(expert(shapes.nan_to_num()))
    optimizer = torch.optim.LBFGS([matrix, offset], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = scores + (said @ matrix.T + offset) * known / temperature
        loss = (F.cross_entropy(logits, targets, reduction="none") * weight).sum() / weight.sum()
        loss = loss + RIDGE * ((matrix - START * torch.eye(classes)).square().sum() + offset.square().sum())
        loss.backward()
        return loss

    optimizer.step(closure)
    return merged(expert, matrix.detach(), offset.detach())


def centred(said: Tensor) -> Tensor:
    """Logits (B, K) less their mean over the classes, which changes no probability."""
    return said - said.mean(1, keepdim=True)


def merged(expert: nn.Sequential, matrix: Tensor, offset: Tensor) -> Fusion:
    """A (W2 h - mean) + c as one layer behind the expert's hidden one."""
    first, last = expert[0], expert[2]
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    weight = last.weight.detach() - last.weight.detach().mean(0, keepdim=True)
    bias = last.bias.detach() - last.bias.detach().mean()
    return Fusion(first.weight.detach(), first.bias.detach(), matrix @ weight, matrix @ bias + offset)


def fused(seen: Seen, fusion: Fusion, temperature: float) -> FloatArray:
    """(N, K) probabilities with the fusion."""
    added = fusion.added(torch.from_numpy(seen.blendshapes)) / temperature
    return np.asarray((torch.from_numpy(seen.scores).float() + added).softmax(1).numpy(), dtype=np.float32)


def joined(parts: Sequence[Seen]) -> Seen:
    """Several sets of faces as one."""
    return Seen(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def left_out(expert: nn.Sequential, base: Seen, photos: Seen, people: IntArray, temperature: float) -> FloatArray:
    """(N, K) probabilities of each photo by a fusion that was fitted without the photos of its person (in GROUPS groups)."""
    found = np.empty_like(photos.scores, dtype=np.float32)
    for group in np.unique(people % GROUPS):
        own = people % GROUPS == group
        rest, held = (Seen(*(values[chosen] for values in photos)) for chosen in (~own, own))
        found[own] = fused(held, weigh(expert, joined([base, rest]), temperature), temperature)
    return found
