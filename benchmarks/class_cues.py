"""What it does to the class-mean baseline of `mien evaluate` that at most 2,000 training faces a class are drawn.

    python benchmarks/class_cues.py STORE [--side 7]

Class-mean cues of all training faces, and of at most 2,000 a class, at the side of a layer; both are scored on the test faces
as `mien evaluate` scores a map. Time is of the processor, one thread.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from mien.config import DataConfig, ModelConfig, Recipe
from mien.cues import map_resize
from mien.data.labels import labels_of
from mien.data.store import open_store
from mien.evaluation import reference
from mien.metrics.alignment import alignment_scores, class_mean
from mien.training.cues import faces_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--side", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    store, cpu = open_store(args.store), torch.device("cpu")
    size = store.info.size
    recipe = Recipe(data=DataConfig(store=args.store), model=ModelConfig(size=size))
    labels = labels_of(store, recipe.data.scheme)
    train, test = (np.flatnonzero((store.split == name) & (labels >= 0)) for name in ("train", "test"))
    print(f"{len(train):,} training and {len(test):,} test faces, at most {np.bincount(labels[train]).max():,} a class")
    print("| training faces a class | s | cosine | Pearson |\n| --- | ---: | ---: | ---: |")
    for name, most in (("at most 2,000", reference.MOST), ("all", len(store))):
        reference.MOST = most
        began = time.process_time()
        found = reference.class_cues(recipe, store, labels, train, args.side, cpu)
        taken, scores, valid = time.process_time() - began, [], []
        for part in faces_of(recipe, store, labels, test):
            cue = reference.draw(recipe, part, (size, size), cpu, size)
            maps = found.resized((size, size), cpu, map_resize(recipe.cue)).of(part[1])
            values = alignment_scores(maps, cue.maps)
            scores.append(torch.stack([values["cosine"], values["pearson"]], 1))
            valid.append(cue.valid)
        each, known = torch.cat(scores).numpy(), torch.cat(valid).numpy()
        cosine, pearson = (class_mean(each[:, k], labels[test], known) for k in (0, 1))
        print(f"| {name} | {taken:.1f} | {cosine:.4f} | {pearson:.4f} |")


if __name__ == "__main__":
    main()
