"""Where the evidence lies is known: does guidance of an attribution move a net onto it, and what does that cost?

    python benchmarks/toy.py [--seeds 3]

Noise of 32x32 cells holds six blobs at jittered landmarks; their signs name one of four classes. A patch in a corner
agrees with the class in 90 % of the training pictures and in 25 % (chance) of the test pictures. Each row trains a small
CNN with an MLP head on 1000 pictures for 14 epochs and prints accuracy on 1000 test pictures, and the Pearson correlation
of |gradient x features|, averaged over channels, with the landmark heatmap: of the true class' logit, and of the sum.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mien import maps
from mien.cues.heatmaps import gaussians
from mien.losses.alignment import guidance_loss
from mien.losses.attribution import Request, attribute
from mien.losses.config import GuidanceConfig
from mien.models import Classifier
from mien.schema import Cue, HeadOutput, Layers, LinearChain

SIDE, GRID, CLASSES, EPOCHS, BATCH = 32, 8, 4, 14, 50
NOISE = 1.6
POINTS = torch.tensor([[9.0, 11], [22, 11], [16, 16], [10, 23], [16, 25], [22, 23]])
SIGNS = torch.tensor([[1.0, 1, 1, -1, -1, -1], [1, -1, -1, 1, -1, 1], [-1, 1, -1, -1, 1, 1], [-1, -1, 1, 1, 1, -1]])
PAL = GuidanceConfig(weight=1.0, attribution="grad_input", similarity="pearson")
SETTINGS = {
    "cross-entropy only": None,
    "grad_input, label": PAL,
    "grad_input, sum": GuidanceConfig(1.0, attribution="grad_input", similarity="pearson", target="sum"),
    "grad_input, margin": GuidanceConfig(1.0, attribution="grad_input", similarity="pearson", target="margin"),
    "grad_input, label, signed": GuidanceConfig(1.0, attribution="grad_input", similarity="pearson", signed=True),
    "grad_input, label, detached": GuidanceConfig(1.0, attribution="grad_input", similarity="pearson", detach=True),
    "grad_input, label, first half": GuidanceConfig(
        1.0, attribution="grad_input", similarity="pearson", channels="first_half"
    ),
    "grad_input, label, all joint": GuidanceConfig(
        1.0, attribution="grad_input", similarity="pearson", channels="all_joint"
    ),
    "activation": GuidanceConfig(1.0, similarity="pearson"),
}


class Pictures(NamedTuple):
    images: Tensor
    labels: Tensor
    heatmaps: Tensor


def pictures(count: int, seed: int, agree: float) -> Pictures:
    """`agree`: share of pictures whose corner patch names the class; in the others it names any class."""
    draws = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=draws)
    points = POINTS + torch.randn(count, 6, 2, generator=draws)
    grid = torch.arange(SIDE, dtype=torch.float32)
    x, y = (torch.exp(-((grid - points[..., k, None]) ** 2) / 4.5) for k in (0, 1))
    images = torch.randn(count, SIDE, SIDE, generator=draws) * NOISE
    images += torch.einsum("bl,bly,blx->byx", SIGNS[labels], y, x)
    any_class = torch.randint(CLASSES, (count,), generator=draws)
    told = torch.where(torch.rand(count, generator=draws) < agree, labels, any_class)
    images[:, :4, :4] += (told.float() - 1.5)[:, None, None] * 1.3
    return Pictures(images[:, None], labels, gaussians(points, torch.full((count,), 1.5), (SIDE, SIDE), (GRID, GRID)))


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        steps = [
            nn.Conv2d(1, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.ReLU(),
        ]
        self.steps = nn.Sequential(*steps, nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())

    def forward(self, images: Tensor) -> Layers:
        return Layers((self.steps(images),))


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.last = nn.Linear(16 * GRID * GRID, 64), nn.Linear(64, CLASSES)

    def forward(self, layers: Layers, labels: Tensor | None = None) -> HeadOutput:
        return HeadOutput(self.last(self.hidden(layers.features[-1].flatten(1)).relu()), None)

    def chain(self, features: Tensor) -> LinearChain:
        return LinearChain(False, (self.hidden.weight, self.last.weight), (self.hidden.bias, self.last.bias))


def train(config: GuidanceConfig | None, seed: int, epochs: int = EPOCHS, count: int = 1000) -> Classifier:
    faces = pictures(count, 100 + seed, agree=0.9)
    torch.manual_seed(seed)
    model = Classifier(Convolutions(), Mlp())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    gradient = config is not None and config.attribution != "activation"
    for epoch in range(epochs):
        for rows in torch.randperm(count).split(BATCH):
            ask = partial(attribute, [Request(config, [0])], faces.labels[rows], graph=True) if gradient else None
            output = model(faces.images[rows], attribute=ask)
            loss = F.cross_entropy(output.logits, faces.labels[rows])
            if config is not None:
                cue = Cue(faces.heatmaps[rows], torch.ones(len(rows), dtype=torch.bool))
                loss = loss + config.weight * guidance_loss(
                    output.attributions or output.features, [cue], config, epoch + 1
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model


def scores(model: Classifier, seed: int) -> dict[str, float]:
    """Accuracy where the corner says nothing, and where the logits come from."""
    faces = pictures(1000, 900 + seed, agree=0.0)
    ask = [Request(GuidanceConfig(attribution="grad_input", target=target), [0]) for target in ("label", "sum")]
    output = model(faces.images, attribute=partial(attribute, ask, faces.labels, graph=False))
    found = {"accuracy": (output.logits.argmax(1) == faces.labels).float().mean().item()}
    for name, a in zip(("rho(label)", "rho(sum)"), output.attributions, strict=True):
        found[name] = maps.pearson(a.mean(1, keepdim=True), faces.heatmaps).mean().item()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    print("| guidance | accuracy | rho(label) | rho(sum) |\n| --- | ---: | ---: | ---: |")
    for name, config in SETTINGS.items():
        runs = [scores(train(config, seed), seed) for seed in range(seeds)]
        cells = []
        for key in runs[0]:
            values = [run[key] for run in runs]
            cells.append(f"{statistics.mean(values):.3f} ± {statistics.stdev(values) if seeds > 1 else 0:.3f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
