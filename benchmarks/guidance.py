"""A training step with guidance against one without, through the functions that `mien train` calls."""

from __future__ import annotations

import statistics
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch

from benchmarks.rows import Row, round_times
from mien.config import GuidanceConfig, Recipe
from mien.data.masking import make_masking
from mien.data.synthetic import faces
from mien.data.transforms import normalise
from mien.guidance import guides_of
from mien.models import create_model
from mien.optim import make_optimizer
from mien.schema import Batch, class_index
from mien.train import loss_terms


def measure(quick: bool = False) -> list[Row]:
    """ResNet-18, 112 px, batch 32: forward, loss, backward, SGD. The ratio is the median over rounds of neighbours."""
    size, batch, repeats = (64, 4, 1) if quick else (112, 32, 15)
    records = list(faces(batch, size=size, seed=0))
    index = class_index("basic-7")
    images = normalise(torch.from_numpy(np.stack([r.image for r in records])).permute(0, 3, 1, 2))
    labels = torch.tensor([index[r.expression] for r in records])
    points = torch.from_numpy(np.stack([r.landmarks for r in records])).float()
    data = Batch(images, labels, torch.full((batch, 1), float("nan")), points, torch.arange(batch))
    plain = Recipe()
    model = create_model(replace(plain.model, backbone="resnet18", size=size), classes=7).train()
    optimizer = make_optimizer(model, replace(plain.optim, lr=1e-4))
    masking = make_masking(None, None, images.device)

    def step(recipe: Recipe) -> None:
        session = SimpleNamespace(model=model, class_weight=None, guides=guides_of(recipe, model), masking=masking)
        terms = loss_terms(recipe, model(data.images), data, session, epoch=1, step=0)
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    guided = replace(plain, guidance=GuidanceConfig(weight=4.0, layers=[-1], similarity="cosine"))
    times = round_times({"guided": lambda: step(guided), "unguided": lambda: step(plain)}, repeats)
    ratio = statistics.median(a / b for a, b in zip(times["guided"], times["unguided"], strict=True))
    ours, peer = (1e3 * statistics.median(times[name]) for name in ("guided", "unguided"))
    return [Row(f"training step, batch {batch}, ms: guided against unguided", ours, peer, ratio, "<= 1.05", 1)]
