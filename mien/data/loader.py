"""Prepared store -> batches. The same seed gives the same batches for any number of loader processes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mien.config import AugmentConfig
from mien.data.labels import labels_of
from mien.data.store import Store
from mien.data.transforms import FaceTransform, normalise
from mien.schema import EXPRESSIONS, SCHEMES, Batch, FloatArray, IntArray

Item = tuple[Tensor, Tensor, int]


def targets_of(store: Store, scheme: str) -> FloatArray:
    """(N, K) soft targets from annotator votes gathered into the scheme's classes; one-hot label without votes."""
    gather = np.array([[name in group for group in SCHEMES[scheme].values()] for name in EXPRESSIONS], dtype=np.float32)
    votes = np.nan_to_num(store.votes) @ gather
    total = votes.sum(1, keepdims=True)
    hard = np.eye(gather.shape[1], dtype=np.float32)[np.clip(labels_of(store, scheme), 0, None)]
    return np.where(total > 0, votes / np.maximum(total, 1e-8), hard)


class Faces(Dataset[Item]):
    """Rows of a store as (uint8 image, landmarks, row); the random state of a face depends on (seed, epoch, row) only."""

    def __init__(self, store: Store, size: int, augment: AugmentConfig | None = None, seed: int = 0) -> None:
        self.store, self.seed, self.epoch = store, seed, 0
        self.random = augment is not None
        self.transform = FaceTransform(size, augment)

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, row: int) -> Item:
        image = torch.from_numpy(np.ascontiguousarray(self.store.image(row).transpose(2, 0, 1)))
        landmarks = torch.from_numpy(self.store.landmarks[row].astype(np.float32))
        if not self.random:
            return (*self.transform(image, landmarks), row)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence((self.seed, self.epoch, row)).generate_state(1)[0]))
            return (*self.transform(image, landmarks), row)


class Loader:
    """Batches of chosen rows on one device.

    Args:
        store: prepared store.
        rows: (n,) rows to visit, in order.
        targets: (N,) class index or (N, K) soft targets of all rows of the store.
        size: side of the square input.
        augment: random changes; None for evaluation.
        drop_last: leave out a last batch that is smaller, as training does for batch statistics.
        preprocessing: how pixels become the net's input, `model.preprocessing`.

    """

    def __init__(
        self,
        store: Store,
        rows: IntArray,
        targets: IntArray | FloatArray,
        *,
        size: int,
        batch: int,
        device: torch.device,
        augment: AugmentConfig | None = None,
        seed: int = 0,
        epoch: int = 0,
        workers: int = 0,
        drop_last: bool = False,
        preprocessing: str = "imagenet",
    ) -> None:
        self.faces = Faces(store, size, augment, seed)
        self.faces.epoch = epoch
        self.targets, self.action_units = torch.from_numpy(targets), torch.from_numpy(store.action_units)
        self.device, self.preprocessing = device, preprocessing
        self.loader = DataLoader(
            self.faces,
            batch_size=batch,
            sampler=rows.tolist(),
            num_workers=workers,
            drop_last=drop_last and len(rows) > batch,
            pin_memory=device.type == "cuda",
            multiprocessing_context="spawn" if workers else None,
        )

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        for images, landmarks, index in self.loader:
            moved = (images, self.targets[index], self.action_units[index], landmarks, index)
            images, targets, units, landmarks, index = (part.to(self.device, non_blocking=True) for part in moved)
            yield Batch(normalise(images, self.preprocessing), targets, units, landmarks, index)
