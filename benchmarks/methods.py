"""A training step of every method of the published tables, with guidance against without.

    python benchmarks/methods.py [--repeats 9]

ResNet-18 at 112 px for the CNN heads, DeiT-S at 224 px, APViT at 112 px; settings of `mien reproduce methods`. The ratio is
the median over rounds of neighbours.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.guidance import batch_of
from benchmarks.rows import Row, round_times, table
from mien.config import Recipe, with_settings
from mien.data.cutmix import cutmix
from mien.data.masking import make_masking
from mien.models import create_model
from mien.reproduce.grids import methods_table
from mien.training.guidance import guided_forward
from mien.training.guides import guides_of
from mien.training.loop import loss_terms
from mien.training.objective import hard_labels
from mien.training.optim import make_optimizer

SIZES: dict[str, dict[str, Any]] = {
    "ts_cam": {"model.size": 224, "optim.batch": 4},
    "apvit": {"model.size": 112, "optim.batch": 4},
}
"""Where a method has its own net; the others have OURS."""
OURS: dict[str, Any] = {"model.backbone": "resnet18", "model.size": 112, "optim.batch": 16}
QUICK: dict[str, Any] = {
    "model.backbone": "resnet10t",
    "model.channels": [8, 8, 8, 8],
    "model.size": 48,
    "optim.batch": 4,
}


def recipes(quick: bool = False) -> dict[str, list[Recipe]]:
    """Method -> recipe without and with guidance, one method for each training."""
    found: dict[str, list[Recipe]] = {}
    for entry in methods_table():
        own = dict(entry.settings)
        if quick:
            own |= {**QUICK, **({"model.head_options": {"width": 8}} if entry.training == "acol" else {})}
            if entry.training in SIZES:
                continue
        else:
            own = {**OURS, **own, **SIZES.get(entry.training, {})}
        own.setdefault("guidance.weight", 4.0)
        pair = found.setdefault(entry.training, [])
        if len(pair) < 2:
            pair.append(with_settings(Recipe(), {**own, "model.pretrained": False, "optim.lr": 1e-4}))
    return found


def steps_of(pair: list[Recipe]) -> dict[str, Callable[[], None]]:
    """One training step each, on one net and one batch."""
    recipe = pair[0]
    data = batch_of(recipe.optim.batch, recipe.model.size)
    masking = make_masking(None, None, data.images.device)
    model = create_model(recipe.model, classes=7).train()
    optimizer = make_optimizer(model, recipe.optim)

    def step(recipe: Recipe) -> None:
        guides = guides_of(recipe, model)
        session = SimpleNamespace(class_weight=None, guides=guides, model=model, masking=masking)
        batch = cutmix(data, recipe.augment, 7, (0, 1, 0))
        output = guided_forward(model, guides, batch.images, hard_labels(batch))
        torch.stack(list(loss_terms(recipe, output, batch, session, epoch=1, step=0).values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return {name: partial(step, recipe) for name, recipe in zip(("unguided", "guided"), pair, strict=True)}


def measure(quick: bool = False, repeats: int = 9) -> list[Row]:
    rows = []
    for training, pair in recipes(quick).items():
        times = round_times(steps_of(pair), 1 if quick else repeats)
        ratio = statistics.median(a / b for a, b in zip(times["guided"], times["unguided"], strict=True))
        ours, peer = (1e3 * statistics.median(times[name]) for name in ("guided", "unguided"))
        net, size = pair[0].model.backbone, pair[0].model.size
        what = (
            f"training step of {training}, {net}, {size} px, batch {pair[0].optim.batch}, ms: guided against unguided"
        )
        rows.append(Row(what, ours, peer, ratio, "<= 1.05", 1))
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    print(table(measure(repeats=parser.parse_args().repeats)))
