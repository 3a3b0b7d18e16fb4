"""Prepared store -> batches. The same seed gives the same batches for any number of loader processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mien.config import AugmentConfig, ModelConfig
from mien.data.labels import labels_of
from mien.data.store import Store
from mien.data.transforms import FaceTransform, luma, normalise
from mien.schema import EXPRESSIONS, LANDMARKS, PREPROCESSING, SCHEMES, Batch, FloatArray, IntArray

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
            # not torch.manual_seed: it also notes the stack for devices not yet in use, a sixth of a small net's step
            torch.default_generator.manual_seed(
                int(np.random.SeedSequence((self.seed, self.epoch, row)).generate_state(1)[0])
            )
            return (*self.transform(image, landmarks), row)


class Memory(NamedTuple):
    """All pictures of a store as the net's size wants them, on one device, and their landmarks."""

    images: Tensor
    """(N, 3, S, S) uint8, or (N, 1, S, S) luma where the preprocessing is grey."""
    landmarks: Tensor
    """(N, 68, 2) pixels of `images`."""
    guides: Tensor | None = None
    """(N, 1, S, S) what `Batch.guide` gets, where it is the same in every epoch; else None."""


def load_memory(store: Store, model: ModelConfig, device: torch.device) -> Memory:
    """Read a whole store; the same numbers as one face at a time."""
    grey, transform = PREPROCESSING[model.preprocessing].grey, FaceTransform(model.size)
    images = torch.empty((len(store), 1 if grey else 3, model.size, model.size), dtype=torch.uint8, device=device)
    landmarks = torch.empty((len(store), LANDMARKS, 2), device=device)
    for rows in np.array_split(np.arange(len(store)), max(1, len(store) // 512)):
        pictures = torch.from_numpy(store.images(rows)).permute(0, 3, 1, 2)
        pictures, points = transform(pictures, torch.from_numpy(store.landmarks[rows].astype(np.float32)))
        images[rows[0] : rows[-1] + 1] = luma(pictures) if grey else pictures
        landmarks[rows[0] : rows[-1] + 1] = points
    return Memory(images, landmarks)


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
        memory: where pictures come from in place of the store; then `augment` and `workers` have nothing to do.

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
        memory: Memory | None = None,
    ) -> None:
        self.faces = Faces(store, size, augment, seed)
        self.faces.epoch = epoch
        self.targets, self.action_units = torch.from_numpy(targets), torch.from_numpy(store.action_units)
        self.device, self.preprocessing = device, preprocessing
        self.memory, self.rows, self.batch = memory, torch.from_numpy(rows), batch
        self.drop_last = drop_last and len(rows) > batch
        self.loader = DataLoader(
            self.faces,
            batch_size=batch,
            sampler=rows.tolist(),
            num_workers=workers,
            drop_last=self.drop_last,
            pin_memory=device.type == "cuda",
            multiprocessing_context="spawn" if workers else None,
        )

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        for images, landmarks, index in self.loader if self.memory is None else self._remembered(self.memory):
            moved = (images, self.targets[index], self.action_units[index], landmarks, index)
            images, targets, units, landmarks, index = (part.to(self.device, non_blocking=True) for part in moved)
            guide = None if self.memory is None or self.memory.guides is None else self.memory.guides[index]
            yield Batch(normalise(images, self.preprocessing), targets, units, landmarks, index, guide=guide)

    def _remembered(self, memory: Memory) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        torch.empty((), dtype=torch.int64).random_()  # DataLoader draws a seed too: dropout must not differ
        for index in self.rows.split(self.batch)[: len(self)]:
            there = index.to(memory.images.device)
            yield memory.images[there], memory.landmarks[there], index
