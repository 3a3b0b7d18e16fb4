"""Prepared store -> batches. The same seed gives the same batches for any number of loader processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset

from mien.config import AugmentConfig, ModelConfig
from mien.data.labels import labels_of
from mien.data.store import Store
from mien.data.transforms import change_faces, draw_changes, luma, normalise, resize_faces, uniform
from mien.errors import DataError
from mien.progress import begin_worker
from mien.schema import EXPRESSIONS, LANDMARKS, PREPROCESSING, SCHEMES, Batch, FloatArray, IntArray

Item = tuple[Tensor, Tensor, Tensor]


LABEL_SHARE = {"votes": 0.0, "mixed": 0.6, "both": 0.0}
"""data.targets -> share of the label in a soft target. Above a half the label stays the largest class, whose cue guides."""


def targets_of(store: Store, scheme: str, kind: str) -> FloatArray:
    """(N, K) soft targets: annotator votes gathered into the scheme's classes, mixed with the one-hot label.

    `kind` is a key of LABEL_SHARE. A face without votes has its label alone.
    """
    gather = np.array([[name in group for group in SCHEMES[scheme].values()] for name in EXPRESSIONS], dtype=np.float32)
    votes = np.nan_to_num(store.votes) @ gather
    total = votes.sum(1, keepdims=True)
    hard = np.eye(gather.shape[1], dtype=np.float32)[np.clip(labels_of(store, scheme), 0, None)]
    voted = np.where(total > 0, votes / np.maximum(total, 1e-8), hard)
    share = LABEL_SHARE[kind]
    return (share * hard + (1 - share) * voted).astype(np.float32)


class Faces(Dataset[Item]):
    """Batches of rows of a store as (uint8 images, landmarks, rows)."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, rows: list[int]) -> Item:
        images = torch.from_numpy(self.store.images(rows)).permute(0, 3, 1, 2)
        return images, torch.from_numpy(self.store.landmarks[rows].astype(np.float32)), torch.tensor(rows)


class Memory(NamedTuple):
    """All pictures of a store as the net's size wants them, on one device, and their landmarks."""

    images: Tensor
    """(N, 3, S, S) uint8, or (N, 1, S, S) luma where the preprocessing is grey."""
    landmarks: Tensor
    """(N, 68, 2) pixels of `images`."""
    guides: Tensor | None = None
    """(N, 1, S, S) what `Batch.guide` gets, where it is the same in every epoch; else None."""
    canvas: int | None = None
    """`Batch.canvas`."""


def load_memory(store: Store, model: ModelConfig, device: torch.device) -> Memory:
    """Read a whole store; the same numbers as one face at a time."""
    grey = PREPROCESSING[model.preprocessing].grey
    images = torch.empty((len(store), 1 if grey else 3, model.size, model.size), dtype=torch.uint8, device=device)
    landmarks = torch.empty((len(store), LANDMARKS, 2), device=device)
    for rows in np.array_split(np.arange(len(store)), max(1, len(store) // 512)):
        pictures = torch.from_numpy(store.images(rows)).permute(0, 3, 1, 2)
        points = torch.from_numpy(store.landmarks[rows].astype(np.float32))
        pictures, points = resize_faces(pictures, points, model.size)
        images[rows[0] : rows[-1] + 1] = luma(pictures) if grey else pictures
        landmarks[rows[0] : rows[-1] + 1] = points
    return Memory(images, landmarks, canvas=store.info.size)


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
        memory: where pictures come from in place of the store; then `workers` have nothing to do.
        labels: (N,) class index for a second head, where `targets` are votes.

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
        labels: IntArray | None = None,
    ) -> None:
        self.labels = None if labels is None else torch.from_numpy(labels)
        self.targets, self.action_units = torch.from_numpy(targets), torch.from_numpy(store.action_units)
        self.canvas = store.info.size
        self.device, self.preprocessing, self.memory = device, preprocessing, memory
        self.size, self.augment, self.seed, self.epoch = size, augment, seed, epoch
        self.batches = BatchSampler(rows.tolist(), batch, drop_last and len(rows) > batch)
        self.loader = DataLoader(
            Faces(store),
            batch_size=None,  # a dataset of batches
            sampler=self.batches,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            multiprocessing_context="spawn" if workers else None,
            worker_init_fn=begin_worker if workers else None,
        )

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        for images, landmarks, index in self._loaded() if self.memory is None else self._remembered(self.memory):
            moved = (images, self.targets[index], self.action_units[index], landmarks, index)
            images, targets, units, landmarks, rows = (part.to(self.device, non_blocking=True) for part in moved)
            images, landmarks = resize_faces(images, landmarks, self.size)
            if self.augment is not None:
                changes = draw_changes(self.augment, uniform(self.seed, self.epoch, index.numpy()))
                images, landmarks = change_faces(images, landmarks, changes) if changes else (images, landmarks)
            guide = None if self.memory is None or self.memory.guides is None else self.memory.guides[rows]
            labels = None if self.labels is None else self.labels[index].to(self.device)
            pixels = normalise(images, self.preprocessing)
            yield Batch(pixels, targets, units, landmarks, rows, None, guide, labels, self.canvas)

    def _loaded(self) -> Iterator[Item]:
        try:
            yield from self.loader
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise DataError(
                "a loader process was killed, often for want of memory; run the same command again with fewer --run.workers."
            ) from error

    def _remembered(self, memory: Memory) -> Iterator[Item]:
        torch.empty((), dtype=torch.int64).random_()  # DataLoader draws a seed too: dropout must not differ
        for rows in self.batches:
            index = torch.tensor(rows)
            there = index.to(memory.images.device)
            yield memory.images[there], memory.landmarks[there], index
