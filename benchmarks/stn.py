"""An epoch of the guided spatial transformer: `mien train` with pictures in memory against the published loop, plainly."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.rows import Row, round_times
from mien.config import (
    AugmentConfig,
    CueConfig,
    DataConfig,
    ModelConfig,
    OptimConfig,
    Recipe,
    RunConfig,
    TransformerConfig,
)
from mien.data.store import write_store
from mien.schema import Batch
from mien.synthetic.sample import faces
from mien.training.loop import train_epoch
from mien.training.session import Session, prepare_session
from mien.training.steering import with_guide

SIZE = 48
CUE = CueConfig(kind="landmarks")


class PublishedNet(nn.Module):
    """The net of Luna-Jimenez et al. 2021 as their code has it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 10, 3), nn.Conv2d(10, 10, 3)
        self.conv3, self.conv4 = nn.Conv2d(10, 10, 3), nn.Conv2d(10, 10, 3)
        self.pool, self.norm = nn.MaxPool2d(2, 2), nn.BatchNorm2d(10)
        self.fc1, self.fc2 = nn.Linear(810, 50), nn.Linear(50, 3)
        first = (nn.Conv2d(1, 8, 7), nn.MaxPool2d(2, stride=2), nn.ReLU(True))
        self.localization = nn.Sequential(*first, nn.Conv2d(8, 10, 5), nn.MaxPool2d(2, stride=2), nn.ReLU(True))
        self.fc_loc = nn.Sequential(nn.Linear(640, 32), nn.ReLU(True), nn.Linear(32, 6))

    def forward(self, image: Tensor, guide: Tensor) -> Tensor:
        """(B, 1, 48, 48) each -> logits (B, 3)."""
        theta = self.fc_loc(self.localization(guide).view(-1, 640)).view(-1, 2, 3)
        out = F.grid_sample(image, F.affine_grid(theta, list(image.size()), align_corners=False), align_corners=False)
        out = F.relu(self.conv1(out))
        out = F.relu(self.pool(self.conv2(out)))
        out = F.relu(self.conv3(out))
        out = F.relu(self.pool(self.norm(self.conv4(out))))
        out = F.dropout(out, training=self.training).view(-1, 810)
        return self.fc2(F.relu(self.fc1(out)))


class TwoFiles(Dataset[tuple[Tensor, Tensor, int]]):
    """Image and guide of a face from two PNG files."""

    def __init__(self, folder: Path, labels: list[int]) -> None:
        self.folder, self.labels = folder, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        image, guide = (self.read(f"{kind}-{index}.png") for kind in ("image", "guide"))
        return image, guide, self.labels[index]

    def read(self, name: str) -> Tensor:
        """(1, 48, 48) from -1 to 1."""
        pixels = np.asarray(Image.open(self.folder / name).convert("L"))
        return (torch.from_numpy(pixels.copy())[None].float() / 255 - 0.5) / 0.5


def measure(quick: bool = False) -> list[Row]:
    """Images per second of whole epochs, files and memory warm. The ratio is the median over rounds of neighbours."""
    count, batch, repeats = (16, 8, 1) if quick else (1024, 128, 5)
    drawn = list(faces(min(count, 128), size=SIZE, seed=0, classes=("Neutral", "Happiness", "Sadness")))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        records = [
            drawn[k % len(drawn)]._replace(id=f"{k}", split=("train", "test")[k >= count]) for k in range(count + 3)
        ]
        write_store(records, folder / "store", dataset="benchmark", size=SIZE)
        recipe = _recipe(folder / "store", batch)
        half = replace(recipe, run=replace(recipe.run, precision="bf16-mixed"))
        calls = {
            "memory": _ours(recipe, folder / "memory"),
            "memory, bf16": _ours(half, folder / "bf16"),
            "published": _published(recipe, folder, batch),
        }
        times = round_times(calls, repeats)
    rows = []
    for kind, aim in (("memory", ">= 2"), ("memory, bf16", "-")):
        ratio = statistics.median(b / a for a, b in zip(times[kind], times["published"], strict=True))
        ours, peer = (count / statistics.median(times[which]) for which in (kind, "published"))
        what = f"training, guided STN, {SIZE} px, batch {batch}, images/s: from {kind}, against the published loop"
        rows.append(Row(what, ours, peer, ratio, aim, 0))
    return rows


def _recipe(store: Path, batch: int) -> Recipe:
    return Recipe(
        data=DataConfig(store=store, scheme="polarity-3", protocol="paper", balance="weights"),
        augment=AugmentConfig(flip=0, rotation=0, translate=0, scale=0, jitter=0),
        cue=CUE,
        model=ModelConfig(backbone="simple_cnn", head="flat", size=SIZE, drop=0.5, preprocessing="grey"),
        transformer=TransformerConfig(kind="guide"),
        optim=OptimConfig(name="adamw", lr=1e-3, weight_decay=0, schedule="step", gamma=1, batch=batch),
        run=RunConfig(accelerator="cpu", in_memory=True),
    )


def _ours(recipe: Recipe, out: Path) -> Callable[[], object]:
    session, _ = prepare_session(recipe, out)
    return lambda: train_epoch(recipe, session, 1, session.split.train)


def _published(recipe: Recipe, folder: Path, batch: int) -> Callable[[], object]:
    session, _ = prepare_session(recipe, folder / "files")
    _write_files(recipe, session, folder)
    labels = session.labels[session.split.train]
    data = DataLoader(TwoFiles(folder, labels.tolist()), batch_size=batch, shuffle=True)
    net = PublishedNet().train()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    weight = torch.ones(3)

    def epoch() -> None:
        for image, guide, label in data:
            optimizer.zero_grad()
            F.cross_entropy(net(image, guide), label, weight=weight).backward()
            optimizer.step()

    return epoch


def _write_files(recipe: Recipe, session: Session, folder: Path) -> None:
    """PNG files of image and guide, as the published scripts prepare them."""
    for index, row in enumerate(session.split.train):
        picture = Image.fromarray(session.store.image(row)).convert("L")
        picture.save(folder / f"image-{index}.png")
        points = torch.from_numpy(session.store.landmarks[row : row + 1])
        alone = torch.zeros(1, dtype=torch.int64)
        batch = Batch(torch.zeros(1, 3, SIZE, SIZE), alone, torch.zeros(1, 0), points, alone)
        guide = with_guide(recipe, batch, None, 0, 0).guide
        assert guide is not None
        Image.fromarray((guide[0, 0] * 255).byte().numpy()).save(folder / f"guide-{index}.png")
