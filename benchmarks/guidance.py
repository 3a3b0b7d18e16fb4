"""A training step with guidance against one without, through the functions that `mien train` calls."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from benchmarks.rows import Row, round_times
from mien.config import GuidanceConfig, ModelConfig, Recipe
from mien.data.masking import make_masking
from mien.data.transforms import normalise
from mien.models import Classifier, create_model
from mien.schema import Batch, class_index
from mien.synthetic.sample import faces
from mien.training.guidance import guided_forward
from mien.training.guides import guides_of
from mien.training.loop import loss_terms
from mien.training.optim import make_optimizer

ACTIVATION = GuidanceConfig(weight=4.0)
PAL = GuidanceConfig(weight=1.0, attribution="grad_input", similarity="pearson")


def measure(quick: bool = False) -> list[Row]:
    """Forward, loss, backward, SGD. The ratio is the median over rounds of neighbours."""
    size, batch, repeats = (48, 4, 1) if quick else (112, 32, 15)
    net = ModelConfig("resnet10t", channels=[8, 8, 8, 8], size=size) if quick else ModelConfig("resnet18", size=size)
    mlp = replace(net, head="mlp", head_options={"hidden1": 512, "hidden2": 512})
    dense = {"hidden1": 32, "hidden2": 32} if quick else {"hidden1": 4096, "hidden2": 4096}
    wide = replace(
        net if quick else ModelConfig("vgg16", size=112), head="mlp", head_options={"flatten": True, **dense}
    )
    kinds = {"activation": ACTIVATION, "grad_input": PAL, "grad_input, stage before": replace(PAL, layers=[-2])}
    rows = _compare(f"{net.backbone}, GAP head", net, batch, repeats, kinds, "<= 1.05")
    rows += _compare(f"{net.backbone}, MLP head 512, 512", mlp, batch, repeats, {"grad_input": PAL}, "<= 1.15")
    what = f"{wide.backbone}, MLP head {dense['hidden1']}, {dense['hidden2']} on the flattened last layer"
    return rows + _compare(what, wide, 4, min(repeats, 5), {"grad_input": PAL}, "<= 1.4")


def _compare(
    name: str, config: ModelConfig, batch: int, repeats: int, kinds: dict[str, GuidanceConfig], aim: str
) -> list[Row]:
    """Rows of time and of memory; `grad_input` at the last stage also without its closed form."""
    data = batch_of(batch, config.size)
    masking = make_masking(None, None, data.images.device)
    plain = Recipe(model=config)
    model = create_model(config, classes=7).train()
    optimizer = make_optimizer(model, replace(plain.optim, lr=1e-4))

    def loss(guidance: GuidanceConfig, closed: bool) -> Tensor:
        recipe = replace(plain, guidance=guidance)
        guides = guides_of(recipe, model)
        session = SimpleNamespace(class_weight=None, guides=guides, model=model, masking=masking)
        with nullcontext() if closed else _no_closed_form(model):
            output = guided_forward(model, guides, data.images, data.expressions)
        return torch.stack(list(loss_terms(recipe, output, data, session, epoch=1, step=0).values())).sum()

    def step(guidance: GuidanceConfig, closed: bool) -> None:
        loss(guidance, closed).backward()
        optimizer.step()
        optimizer.zero_grad()

    ways = {kind: (guidance, True) for kind, guidance in kinds.items()}
    ways["grad_input, double backward"] = (PAL, False)
    ways["off"] = (GuidanceConfig(), True)
    times = round_times({kind: partial(step, *way) for kind, way in ways.items()}, repeats)
    saved = {kind: _saved(partial(loss, *way), model) for kind, way in ways.items()}
    rows = []
    for kind in list(ways)[:-1]:
        ratio = statistics.median(a / b for a, b in zip(times[kind], times["off"], strict=True))
        ours, peer = (1e3 * statistics.median(times[which]) for which in (kind, "off"))
        what = f"training step, {name}, batch {batch}, ms: {kind} against unguided"
        rows.append(Row(what, ours, peer, ratio, aim if kind in ("activation", "grad_input") else "-", 1))
        ratio = saved[kind] / saved["off"]
        rows.append(Row("the same, MiB kept for the backward pass", saved[kind], saved["off"], ratio, "-", 1))
    return rows


def batch_of(batch: int, size: int) -> Batch:
    records = list(faces(batch, size=size, seed=0))
    index = class_index("basic-7")
    images = normalise(torch.from_numpy(np.stack([r.image for r in records])).permute(0, 3, 1, 2))
    labels = torch.tensor([index[r.expression] for r in records])
    points = torch.from_numpy(np.stack([r.landmarks for r in records])).float()
    return Batch(images, labels, torch.full((batch, 1), float("nan")), points, torch.arange(batch))


@contextmanager
def _no_closed_form(model: Classifier) -> Iterator[None]:
    """What the head says of itself is kept quiet, so that autograd differentiates twice."""
    model.head.chain = lambda features: None
    try:
        yield
    finally:
        del model.head.chain


def _saved(loss: Callable[[], Tensor], model: Classifier) -> float:
    """MiB of distinct storages that the graph of a loss keeps for its backward pass, weights left out."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        held = loss()
    del held
    return sum(kept.values()) / 2**20
