"""Draw docs/guidance.png from a demo folder: face, action-unit map, attention unguided and guided.

python tools/guidance_figure.py mien-demo docs/guidance.png
"""

import sys
from pathlib import Path

import numpy as np
import torch

from mien import checkpoint, draw, maps
from mien.cues import render_cue
from mien.data.loader import Loader, labels_of
from mien.data.store import open_store
from mien.schema import scheme_classes
from mien.train import split_rows

SIDE = 160


@torch.no_grad()
def main(demo: Path, out: Path) -> None:
    models = {name: checkpoint.load_model(demo / name)[:2] for name in ("unguided", "guided")}
    recipe = models["guided"][1]
    store = open_store(recipe.data.store)
    labels = labels_of(store, recipe.data.scheme)
    rows = split_rows(store, recipe).test
    classes = scheme_classes(recipe.data.scheme)
    frontal = np.abs(store.pose[rows]).max(1) + 100 * (store.visible[rows].mean(1) < 1)
    chosen = np.array([rows[labels[rows] == k][frontal[labels[rows] == k].argmin()] for k in range(1, len(classes))])
    loader = Loader(store, chosen, labels, size=recipe.model.size, batch=len(chosen), device=torch.device("cpu"))
    batch = next(iter(loader))
    frame = (recipe.model.size, recipe.model.size)
    cue = render_cue(recipe.cue, batch.landmarks, batch.expressions, image_size=frame, size=(SIDE, SIDE)).maps
    attention = {
        name: maps.resize(maps.min_max(maps.channel_mean(model(batch.images).features[-1])), (SIDE, SIDE))
        for name, (model, _) in models.items()
    }
    faces = [draw.fit(store.image(row), (SIDE, SIDE)) for row in chosen]
    columns = {"face": faces}
    for title, stack in {"AU map": cue, **attention}.items():
        columns[title] = [
            draw.overlay(face, map_[0].clamp(0, 1).numpy()) for face, map_ in zip(faces, stack, strict=True)
        ]
    names = [classes[labels[row]] for row in chosen]
    sheet = draw.grid(list(columns.values()), rows=list(columns), columns=names, cell=SIDE, bar=True)
    draw.write_png(out, sheet)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
