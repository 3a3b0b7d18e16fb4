"""Scores of an explanation for a batch, against Quantus: the same pictures, maps and numbers of passes.

    pip install quantus
    python benchmarks/truth.py [--batch 32] [--size 64]

Ours: the functions of `mien.metrics` that `mien audit` calls. Theirs: the class of the same name with as many passes. A small
random net, so that what is timed is the metric and not the net; grey pictures, since Quantus 0.6.0's ROAD fails on three
channels. CPU seconds of all threads, ratio of theirs to ours.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.rows import Row, table
from mien.compat import ensure_torchvision

ensure_torchvision()
import quantus

from mien.metrics.faithfulness import deletion_insertion, mean_colour
from mien.metrics.perturbed import entropy, gini, infidelity, max_sensitivity, removals, road, sensitivity_n

STEPS, DRAWS = 16, 10
SHARES = (20, 40, 60, 80)


def small_net() -> nn.Module:
    """Two convolutions and a linear layer."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, 7)).eval()


def saliency(net: nn.Module, images: Tensor, target: Tensor) -> Tensor:
    """|gradient|, largest over the colours, (B, 1, H, W): the map that both judge."""
    leaf = images.detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(net(leaf).softmax(1).gather(1, target[:, None]).sum(), leaf)
    return slope.abs().amax(1, keepdim=True)


def calls(batch: int, size: int) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """Score -> ours and theirs."""
    net, images = small_net(), torch.rand(batch, 1, size, size, generator=torch.Generator().manual_seed(0))
    target = net(images).argmax(1)
    maps = saliency(net, images, target)
    data = {
        "model": net,
        "x_batch": images.numpy(),
        "y_batch": target.numpy(),
        "a_batch": maps.numpy(),
        "device": "cpu",
    }
    plain = {"disable_warnings": True, "display_progressbar": False, "normalise": False, "abs": False}

    def probability(x: Tensor) -> Tensor:
        with torch.no_grad():
            return net(x).softmax(1)

    def theirs(kind: type, **options: object) -> Callable[[], object]:
        return lambda: kind(**{**plain, **options})(**data, softmax=True, batch_size=batch)

    def explain(model: nn.Module, inputs: np.ndarray, targets: np.ndarray, **_: object) -> np.ndarray:
        return saliency(net, torch.as_tensor(inputs), torch.as_tensor(targets)).numpy()

    def cells(function: Callable[..., Tensor]) -> Callable[[], object]:
        return lambda: function(maps, removals(probability, images, target, mean_colour(images), draws=DRAWS))

    noisy = quantus.MaxSensitivity(nr_samples=DRAWS, lower_bound=0.02, **plain)
    pixels = size * size
    return {
        f"deletion, {STEPS} steps (PixelFlipping; ours inserts too)": (
            lambda: deletion_insertion(probability, images, maps, target, steps=STEPS),
            theirs(quantus.PixelFlipping, features_in_step=pixels // STEPS, perturb_baseline="mean"),
        ),
        f"ROAD, {len(SHARES)} shares (ours both ends)": (
            lambda: road(probability, images, maps, target), theirs(quantus.ROAD, percentages=list(SHARES)),
        ),
        f"sensitivity-n, {DRAWS} sets (FaithfulnessCorrelation)": (
            cells(sensitivity_n), theirs(quantus.FaithfulnessCorrelation, nr_runs=DRAWS, subset_size=pixels // 5),
        ),
        f"infidelity, {DRAWS} sets": (
            cells(infidelity), theirs(quantus.Infidelity, n_perturb_samples=DRAWS, perturb_patch_sizes=[size // 8]),
        ),
        f"max-sensitivity, {DRAWS} pictures": (
            lambda: max_sensitivity(lambda x: saliency(net, x, target), images, maps, radius=0.02, draws=DRAWS),
            lambda: noisy(**data, explain_func=explain, batch_size=batch),
        ),
        "entropy (Complexity)": (lambda: entropy(maps), theirs(quantus.Complexity)),
        "Gini (Sparseness)": (lambda: gini(maps), theirs(quantus.Sparseness)),
    }  # fmt: skip


def seconds(call: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows, totals = [], np.zeros(2)
    for name, (ours, theirs) in calls(options.batch, options.size).items():
        ours()  # not counted
        found = seconds(ours), seconds(theirs)
        totals += found
        rows.append(Row(name, *found, found[1] / max(found[0], 1e-9), "", 3))
    rows.append(Row("all", *totals, totals[1] / totals[0], ">= 5", 3))
    print(table(rows))


if __name__ == "__main__":
    main()
