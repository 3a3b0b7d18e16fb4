"""Draw where trained runs look, on one test face of each expression: face, cues, then one row for each run named.

    python tools/guidance_figure.py docs/guidance.png \
        unguided=mien-demo/unguided:activation guided=mien-demo/guided:activation --cues au
    python tools/guidance_figure.py docs/attribution.png --side 100 \
        'activation, unguided=runs/unguided:activation' 'activation, guided=runs/activation:activation' \
        'grad_input, unguided=runs/unguided:grad_input' 'grad_input, guided=runs/grad-input:grad_input'

A row is TITLE=RUN:ATTRIBUTION, a key of mien.losses.attribution.ATTRIBUTIONS: the map that guidance by it would compare
with the cue, of the true class, mean over channels, at the deepest guided layer. Every map is stretched to [0, 1]. Faces
come from the store of the first run; draw synthetic ones only.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mien import draw, maps
from mien.config import GuidanceConfig, Recipe
from mien.cues import render_cue
from mien.data.loader import Loader, labels_of
from mien.data.store import Store, open_store
from mien.losses.alignment import compared_map
from mien.schema import Batch, IntArray, scheme_classes
from mien.training import checkpoint
from mien.training.guidance import attributions_of, guided_forward
from mien.training.guides import guides_of
from mien.training.session import split_rows


def chosen_faces(store: Store, recipe: Recipe, labels: IntArray) -> IntArray:
    """The most frontal test face without hidden points of every class but Neutral."""
    rows = split_rows(store, recipe).test
    turned = np.abs(store.pose[rows]).max(1) + 100 * (store.visible[rows].mean(1) < 1)
    classes = range(1, len(scheme_classes(recipe.data.scheme)))
    return np.array([rows[labels[rows] == k][turned[labels[rows] == k].argmin()] for k in classes])


def seen_by(run: Path, attribution: str, batch: Batch) -> Tensor:
    """Map of a run, (B, 1, h, w)."""
    model, recipe, _ = checkpoint.load_model(run)
    config = GuidanceConfig(weight=1.0, attribution=attribution, layers=recipe.guidance.layers)
    (guide,) = guides_of(replace(recipe, guidance=config, second=GuidanceConfig()), model)
    guides = [guide._replace(layers=[max(guide.layers)])]
    output = guided_forward(model.eval(), guides, batch.images, batch.expressions, graph=False)
    ((found,),) = attributions_of(guides, output)
    return compared_map(found.detach(), config, found.shape[-2:])


def main(out: Path, rows: list[str], cues: list[str], side: int) -> None:
    named = {row.split("=")[0]: row.split("=")[1].rsplit(":", 1) for row in rows}
    recipe = checkpoint.load_model(Path(next(iter(named.values()))[0]))[1]
    store = open_store(recipe.data.store)
    labels = labels_of(store, recipe.data.scheme)
    chosen = chosen_faces(store, recipe, labels)
    loader = Loader(store, chosen, labels, size=recipe.model.size, batch=len(chosen), device=torch.device("cpu"))
    batch = next(iter(loader))
    frame = (recipe.model.size, recipe.model.size)
    drawn = {
        f"cue {kind}": render_cue(
            replace(recipe.cue, kind=kind), batch.landmarks, batch.expressions, image_size=frame, size=(side, side)
        ).maps
        for kind in cues
    }
    for title, (run, attribution) in named.items():
        drawn[title] = maps.resize(maps.min_max(seen_by(Path(run), attribution, batch)), (side, side))
    faces = [draw.fit(store.image(row), (side, side)) for row in chosen]
    cells = [faces] + [
        [draw.overlay(face, map_[0].clamp(0, 1).numpy()) for face, map_ in zip(faces, stack, strict=True)]
        for stack in drawn.values()
    ]
    names = [scheme_classes(recipe.data.scheme)[labels[row]] for row in chosen]
    draw.write_png(out, draw.grid(cells, rows=["face", *drawn], columns=names, cell=side, bar=True))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="PNG file to write")
    parser.add_argument("rows", nargs="+", help="TITLE=RUN:ATTRIBUTION")
    parser.add_argument("--cues", nargs="+", default=["landmarks", "au"], help="kinds of cues that are drawn")
    parser.add_argument("--side", type=int, default=160, help="side of each picture, pixels")
    main(**vars(parser.parse_args()))
