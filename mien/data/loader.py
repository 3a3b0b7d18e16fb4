"""Prepared store -> batches. The same seed gives the same batches for any number of loader processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset

from mien.config import AugmentConfig, ModelConfig
from mien.data.labels import labels_of
from mien.data.store import Store
from mien.data.transforms import Changes, change_faces, draw_changes, luma, normalise, resize_faces, uniform
from mien.errors import DataError
from mien.progress import begin_worker
from mien.schema import EXPRESSIONS, LANDMARKS, PREPROCESSING, SCHEMES, Batch, FloatArray, IntArray

Item = tuple[Tensor, Tensor, Tensor]
Wanted = tuple[list[int], int]
"""Rows of a batch and the side of the net, which may change from one epoch to the next."""


CACHED = 2**21
"""Bytes of the float32 pictures that a CPU works on at a time."""
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


def read_faces(store: Store, rows: Sequence[int] | IntArray, side: int) -> tuple[Tensor, Tensor]:
    """Pictures (B, 3, S, S) uint8 for a net of `side` pixels, and their landmarks (B, 68, 2).

    A JPEG that is at least twice as large is decoded smaller, still at `side` pixels or more; what is left is resized.
    """
    shrink = store.shrink_for(side)
    images = torch.from_numpy(store.images(rows, shrink)).permute(0, 3, 1, 2)
    points = torch.from_numpy(store.landmarks_of(np.asarray(rows)))
    return images, points if shrink == 1 else (points + 0.5) / shrink - 0.5


class Faces(Dataset[Item]):
    """Batches of rows of a store, for a net of a side, as (uint8 images, landmarks and action units side by side, rows)."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, wanted: Wanted) -> Item:
        rows, side = wanted
        images, points = read_faces(self.store, rows, side)
        units = torch.from_numpy(self.store.action_units[rows].astype(np.float32))
        return images, torch.cat([points.flatten(1), units], 1), torch.tensor(rows)


class Reader:
    """What reads a store for one device; with `keep` its loader processes live on from one epoch to the next."""

    def __init__(self, store: Store, device: torch.device, workers: int = 0, keep: bool = False) -> None:
        self.order: Sequence[Wanted] = []
        self.loader = DataLoader(
            Faces(store),
            batch_size=None,  # a dataset of batches
            sampler=self,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            multiprocessing_context="spawn" if workers else None,
            worker_init_fn=begin_worker if workers else None,
            persistent_workers=keep and workers > 0,
            generator=torch.Generator(),  # its own: neither workers nor memory may change what dropout draws
        )

    def __iter__(self) -> Iterator[Wanted]:
        """What is read for each batch: the sampler of the loader."""
        return iter(self.order)

    def __len__(self) -> int:
        return len(self.order)

    def read(self, order: Sequence[Wanted]) -> Iterator[Item]:
        """Batches in their order; DataError where a loader process was killed."""
        self.order = order
        try:
            yield from self.loader
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise DataError(
                "a loader process was killed, often for want of memory; run the same command again with fewer --run.workers."
            ) from error


def on_device(items: Iterable[Item], device: torch.device) -> Iterator[Item]:
    """Items with pictures and numbers on a device: few copies, one of each. Small ones need no pinned memory.

    On a GPU they are copied on a stream of their own, so that they arrive while the net works on the batch before.
    """
    aside = torch.cuda.Stream(device) if device.type == "cuda" else None
    for images, values, index in items:
        with nullcontext() if aside is None else torch.cuda.stream(aside):
            there = [part.to(device, non_blocking=True) for part in (images, values)]
        if aside is not None:
            current = torch.cuda.current_stream(device)
            current.wait_event(aside.record_event())
            for part in there:
                part.record_stream(current)  # or its memory would be given out again while the net still reads it
        yield there[0], there[1], index


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
        pictures, points = resize_faces(*read_faces(store, rows, model.size), model.size)
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
        labels: the same for a second head, where `targets` are votes.
        reader: of the same store and device, whose loader processes are used in place of `workers` new ones.

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
        labels: IntArray | FloatArray | None = None,
        reader: Reader | None = None,
    ) -> None:
        self.labels = None if labels is None else torch.from_numpy(labels)
        self.targets, self.store = torch.from_numpy(targets), store
        self.canvas = store.info.size
        self.device, self.preprocessing, self.memory = device, preprocessing, memory
        self.size, self.augment, self.seed, self.epoch = size, augment, seed, epoch
        self.batches = list(BatchSampler(rows.tolist(), batch, drop_last and len(rows) > batch))
        self.reader = Reader(store, device, workers) if reader is None and memory is None else reader

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        for images, values, index in self._loaded():
            targets, labels, rows = self._targets(index)
            landmarks, units = values[:, : 2 * LANDMARKS].view(-1, LANDMARKS, 2), values[:, 2 * LANDMARKS :]
            changes = None
            if self.augment is not None:
                changes = draw_changes(self.augment, uniform(self.seed, self.epoch, index.numpy()))
            guide = None if self.memory is None or self.memory.guides is None else self.memory.guides[rows]
            pixels, landmarks = self._prepared(images, landmarks, changes)
            yield Batch(pixels, targets, units, landmarks, rows, None, guide, labels, self.canvas)

    def _prepared(self, images: Tensor, landmarks: Tensor, changes: Changes | None) -> tuple[Tensor, Tensor]:
        """Pictures resized, changed and normalised, and landmarks; on a CPU a few faces at a time, which its caches hold."""
        count = len(images)
        few = max(1, CACHED // (12 * self.size**2)) if images.device.type == "cpu" else count
        parts = []
        for start in range(0, count, few):
            part = slice(start, start + few)
            pictures, points = resize_faces(images[part], landmarks[part], self.size)
            if changes is not None:
                pictures, points = change_faces(pictures, points, Changes(*(values[part] for values in changes)))
            parts.append((normalise(pictures, self.preprocessing), points))
        if len(parts) == 1:
            return parts[0]
        grey = PREPROCESSING[self.preprocessing].grey  # seen three times, kept once
        pixels = torch.cat([one[:, :1] if grey else one for one, _ in parts])
        return pixels.expand(-1, 3, -1, -1), torch.cat([places for _, places in parts])

    def _targets(self, index: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Targets, labels of a second head and rows on the device; whole numbers go there side by side, shares likewise."""
        wanted = [self.targets] if self.labels is None else [self.targets, self.labels]
        rows, *whole = (
            torch.stack([index, *(values[index] for values in wanted if values.dim() == 1)])
            .to(self.device, non_blocking=True)
            .unbind()
        )
        soft = [values[index] for values in wanted if values.dim() > 1]
        shares = list(torch.stack(soft).to(self.device, non_blocking=True).unbind()) if soft else []
        found = [(whole if values.dim() == 1 else shares).pop(0) for values in wanted]
        return found[0], found[1] if len(found) > 1 else None, rows

    def _loaded(self) -> Iterator[Item]:
        if self.memory is None:
            assert self.reader is not None
            yield from on_device(self.reader.read([(rows, self.size) for rows in self.batches]), self.device)
            return
        memory, units = self.memory, self.store.action_units
        for rows in self.batches:
            there = torch.tensor(rows).to(memory.images.device, non_blocking=True)
            own = torch.from_numpy(units[rows].astype(np.float32)).to(memory.images.device, non_blocking=True)
            yield memory.images[there], torch.cat([memory.landmarks[there].flatten(1), own], 1), torch.tensor(rows)
