"""A prepared store of synthetic faces and a recipe that trains on it in seconds: what whole-flow tests run on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mien.config import AugmentConfig, DataConfig, ModelConfig, OptimConfig, Recipe, RunConfig
from mien.data.store import Store, write_store
from mien.schema import EXPRESSIONS, Record

torch.set_num_threads(1)

SIZE = 32
NAMES = EXPRESSIONS[:7]


def points(size: float = SIZE) -> np.ndarray:
    """A schematic frontal face, (68, 2) pixels of a square picture of `size`."""
    jaw = [(112 - 78 * np.cos(t), 100 + 95 * np.sin(t) ** 1.1) for t in np.linspace(0, np.pi, 17)]
    brow = [(50, 86), (61, 78), (74, 76), (87, 79), (98, 84)]
    brows = brow + [(224 - x, y) for x, y in brow[::-1]]
    nose = [(112, 98), (112, 110), (112, 122), (112, 134), (97, 142), (104, 145), (112, 147), (120, 145), (127, 142)]
    eyes = [(62, 100), (71, 95), (83, 95), (92, 101), (83, 105), (71, 105)]
    eyes += [(132, 101), (141, 95), (153, 95), (162, 100), (153, 105), (141, 105)]
    lips = [(84, 165), (95, 160), (105, 157), (112, 159), (119, 157), (129, 160), (140, 165), (130, 173), (120, 178)]
    lips += [(112, 179), (104, 178), (94, 173)]
    inner = [(88, 165), (104, 164), (112, 165), (120, 164), (136, 165), (120, 169), (112, 170), (104, 169)]
    return ((np.array(jaw + brows + nose + eyes + lips + inner) + 0.5) * (size / 224) - 0.5).astype(np.float32)


def records(
    each: int = 6, seed: int = 0, size: int = SIZE, splits: tuple[str, ...] = ("train", "test")
) -> list[Record]:
    """`each` noisy pictures a class and split; a class is a bright bar at its own height, points jitter by a pixel."""
    rng = np.random.default_rng(seed)
    made = []
    for split in splits:
        for n in range(each):
            for k, name in enumerate(NAMES):
                image = rng.integers(0, 110, (size, size, 3), dtype=np.uint8)
                top = (k + 1) * size // 9
                image[top : top + size // 9, size // 4 : 3 * size // 4] += 130
                votes = np.zeros(len(EXPRESSIONS), np.float32)
                votes[k], votes[(k + 1) % 7] = 0.7, 0.3
                place = points(size) + rng.normal(0, 0.5, 2).astype(np.float32)
                made.append(
                    Record(f"{split}{n}{name}", image, split, f"{split}{n}", name, votes=votes, landmarks=place)
                )
    return made


def store(out: Path, **options: Any) -> Store:
    """Store of `records(**options)`."""
    made = records(**options)
    return write_store(made, out, dataset="toy", size=made[0].image.shape[0])


def recipe(path: Path, **sections: dict[str, Any]) -> Recipe:
    """Two epochs of a narrow net on the store at `path`, changed by section={key: value}."""
    net = ModelConfig(backbone="resnet10t", size=SIZE, stem_pool=False, output_stride=8, channels=[8, 8, 8, 8])
    start = Recipe(
        data=DataConfig(store=path, valid_fraction=0.3),
        augment=AugmentConfig(),
        model=net,
        optim=OptimConfig(epochs=2, batch=7, lr=0.05),
        run=RunConfig(accelerator="cpu", precision="32-true"),  # the same numbers on every machine
    )
    return replace(start, **{name: replace(getattr(start, name), **changes) for name, changes in sections.items()})
