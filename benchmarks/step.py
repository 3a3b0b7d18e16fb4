"""A training step of a guided recipe, part by part, beside the bare backbone with cross-entropy on pictures at hand.

    python benchmarks/step.py [--size 112] [--batch 32] [--rounds 7] [--compile]

Processor time of one thread, so that other programs on the machine matter little; medians over rounds in which all take turns.
`--compile` adds the step with run.compile.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import itertools

from benchmarks.growth import make_store
from mien.config import DataConfig, GuidanceConfig, ModelConfig, OptimConfig, Recipe, RunConfig
from mien.data.loader import Loader
from mien.training.guidance import guided_forward
from mien.training.loop import loss_terms, prepare_batch
from mien.training.objective import hard_labels
from mien.training.session import Session, prepare_session

PARTS = ("read, augment, normalise", "masks, CutMix, steering", "forward", "cue and terms", "backward", "optimiser")


def parts_of_step(session: Session, recipe: Recipe, loader: Loader) -> list[float]:
    """Seconds of PARTS in one step."""
    marks = [time.process_time()]

    def mark() -> None:
        marks.append(time.process_time())

    batch = next(iter(loader))
    mark()
    batch = prepare_batch(recipe, session, batch, 1, 0)
    mark()
    output = guided_forward(session.wrapped, session.guides, batch.images, hard_labels(batch), batch.guide)
    mark()
    loss = torch.stack(list(loss_terms(recipe, output, batch, session, 1, 0).values())).sum()
    mark()
    session.fabric.backward(loss)
    mark()
    session.optimizer.step()
    session.optimizer.zero_grad()
    mark()
    return [after - before for before, after in itertools.pairwise(marks)]


def bare_step(session: Session, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], float]:
    """Seconds of a step of the same backbone with pooling, a linear layer and cross-entropy, on a batch at hand."""
    backbone = copy.deepcopy(session.model.backbone)
    head = torch.nn.Linear(backbone.channels[-1], 7)
    weights = [*backbone.parameters(), *head.parameters()]
    group = {key: session.optimizer.param_groups[0][key] for key in ("momentum", "weight_decay")}
    optimizer = torch.optim.SGD(weights, lr=1e-4, **group)

    def step() -> float:
        began = time.process_time()
        F.cross_entropy(head(backbone(images).features[-1].mean((2, 3))), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.process_time() - began

    return step


def measure(backbone: str, size: int, batch: int, rounds: int, compiled: bool) -> dict[str, list[float]]:
    """Way -> seconds of PARTS, medians; of the bare step their sum alone."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_store(folder / "store", 20 * batch, size)
        recipe = Recipe(
            data=DataConfig(store=folder / "store", near_duplicates="keep"), model=ModelConfig(backbone, size=size),
            guidance=GuidanceConfig(weight=4.0), optim=OptimConfig(batch=batch, lr=1e-4),
            run=RunConfig(accelerator="cpu", precision="32-true"),
        )  # fmt: skip
        ways = {"guided": recipe, "unguided": replace(recipe, guidance=GuidanceConfig())}
        if compiled:
            ways["guided, compiled"] = replace(recipe, run=replace(recipe.run, compile=True))
        sessions = {name: prepare_session(way, folder / name)[0] for name, way in ways.items()}
        times: dict[str, list[list[float]]] = {"bare": [], **{name: [] for name in ways}}
        first = sessions["guided"]
        order = first.split.train[:batch]
        loaders = {
            name: Loader(
                session.store, order, session.labels, size=size, batch=batch, device=session.fabric.device,
                augment=recipe.augment, reader=session.reader,
            )
            for name, session in sessions.items()
        }  # fmt: skip
        shown = next(iter(loaders["guided"]))
        bare = bare_step(first, shown.images, hard_labels(shown))
        for number in range(rounds + 1):
            seen = {"bare": [bare()]}
            for name, session in sessions.items():
                session.wrapped.train()
                seen[name] = parts_of_step(session, ways[name], loaders[name])
            for name, parts in seen.items():
                times[name] += [parts] if number else []  # the first round is not counted
    return {name: [statistics.median(part) for part in zip(*rows, strict=True)] for name, rows in times.items()}


def table(found: dict[str, list[float]]) -> str:
    """Markdown, milliseconds."""
    whole = {name: sum(parts) for name, parts in found.items()}
    there = {name: whole[name] - parts[0] if len(parts) > 1 else whole[name] for name, parts in found.items()}
    lines = ["| part | " + " | ".join(found) + " |", "| --- |" + " ---: |" * len(found)]
    for k, part in enumerate(PARTS):
        cells = [f"{1e3 * parts[k]:.1f}" if len(parts) > 1 else "-" for parts in found.values()]
        lines.append(f"| {part} | " + " | ".join(cells) + " |")
    lines.append("| without reading | " + " | ".join(f"{1e3 * value:.1f}" for value in there.values()) + " |")
    lines.append("| beside bare | " + " | ".join(f"{value / there['bare']:.2f}" for value in there.values()) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(table(measure(args.backbone, args.size, args.batch, args.rounds, args.compile)))


if __name__ == "__main__":
    main()
