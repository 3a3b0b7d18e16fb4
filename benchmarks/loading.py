"""Faces a second: the loader on a prepared store against torchvision's ImageFolder of PNG files and a DataLoader.

    python benchmarks/loading.py [--sizes 112 224] [--encoding raw] [--stored 448] [--workers 2] [--wall]

By processor time, of loader processes too, which are started before; with `--wall` by wall time. Stored pictures may be
larger than what the net takes.

Both resize, augment alike and normalise. The peer does so in one torchvision v2 Compose on each image and has no landmarks;
ours moves 68 landmarks with each face, draws its randomness from (seed, epoch, row), and normalises a batch.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks.rows import Row, table
from mien.compat import ensure_torchvision
from mien.config import AugmentConfig
from mien.data.loader import Loader, Reader, labels_of
from mien.data.store import Encoding, Store, write_store
from mien.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from mien.schema import Record
from mien.synthetic.sample import faces

ensure_torchvision()
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

SIZE, BATCH = 112, 32


class Folder(ImageFolder):
    """Unpickled in a worker process it imports this file, and so mien before torchvision."""


def write_both(folder: Path, count: int, size: int = SIZE, encoding: Encoding = "raw") -> tuple[Store, Path]:
    """The same faces as a store and as class folders of PNG files; 28 rendered faces, repeated with other noise."""
    rendered, rng, records = list(faces(28, size=size)), np.random.default_rng(0), []
    for i in range(count):
        face = rendered[i % len(rendered)]
        noise = rng.integers(-6, 7, face.image.shape)
        image = np.clip(face.image + noise, 0, 255).astype(np.uint8)
        records.append(Record(str(i), image, "train", str(i), face.expression, landmarks=face.landmarks))
        path = folder / "png" / str(face.expression) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return write_store(records, folder / "store", dataset="benchmark", size=size, encoding=encoding), folder / "png"


def steps(augment: AugmentConfig | None, size: int = SIZE) -> v2.Compose:
    """The peer's steps: those of `mien.data.transforms` on an image alone, then ToDtype and Normalize."""
    random: list[Any] = []
    if augment is not None:
        shift, zoom = (augment.translate, augment.translate), (1 - augment.scale, 1 + augment.scale)
        bilinear = v2.InterpolationMode.BILINEAR
        random = [
            v2.RandomHorizontalFlip(augment.flip),
            v2.RandomAffine(augment.rotation, translate=shift, scale=zoom, interpolation=bilinear),
            v2.ColorJitter(augment.jitter, augment.jitter, augment.jitter / 2),
        ]
    last = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    return v2.Compose([v2.ToImage(), v2.Resize((size, size), antialias=True), *random, *last])


def rate(batches: Iterable[Any], count: int, batch: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Faces a second from the first batch on: starting a process is left out."""
    iterator = iter(batches)
    next(iterator)
    start = clock()
    for _ in iterator:
        pass
    return (count - batch) / (clock() - start)


def measure(quick: bool = False) -> list[Row]:
    """Training (augmented) with 0 and 1 workers, evaluation with 0; the best of several passes, in turns."""
    count, batch, repeats = (24, 8, 1) if quick else (768, BATCH, 2)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        store, pngs = write_both(Path(folder), count)
        labels, order = labels_of(store, "basic-7"), np.random.default_rng(0).permutation(count)
        cases = [("training", AugmentConfig(), 0), ("evaluation", None, 0)]
        for name, augment, workers in cases if quick else [*cases, ("training", AugmentConfig(), 1)]:
            peer_data = Folder(str(pngs), steps(augment))
            ours = peer = 0.0
            for _ in range(repeats):
                mine = Loader(
                    store, order, labels, size=SIZE, batch=batch, device=torch.device("cpu"), augment=augment,
                    workers=workers,
                )  # fmt: skip
                context = "spawn" if workers else None
                theirs = DataLoader(
                    peer_data, batch, sampler=order.tolist(), num_workers=workers, multiprocessing_context=context
                )
                ours, peer = max(ours, rate(mine, count, batch)), max(peer, rate(theirs, count, batch))
            rows.append(Row(f"loader, {name}, {workers} workers, faces a second", ours, peer, ours / peer, "> 1", 0))
    return rows


def spent() -> float:
    """Seconds of processor time of this process and of the processes that it has started and that still live."""
    total = time.process_time()
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def whole_rate(batches: Iterable[Any], count: int, clock: Callable[[], float]) -> float:
    """Faces a second of a whole pass by a clock; what a process begins with is done in the pass before."""
    began = clock()
    for _ in batches:
        pass
    return count / (clock() - began)


def alone(
    size: int, stored: int, count: int, repeats: int, encoding: Encoding, workers: int, wall: bool = False
) -> list[Row]:
    """Training and evaluation at one size, by processor time, to which other programs matter little, or by wall time."""
    clock = time.perf_counter if wall else spent
    rows, cpu = [], torch.device("cpu")
    with tempfile.TemporaryDirectory() as folder:
        store, pngs = write_both(Path(folder), count, stored, encoding)
        labels, order = labels_of(store, "basic-7"), np.random.default_rng(0).permutation(count)
        for name, augment in (("training", AugmentConfig()), ("evaluation", None)):
            reader = Reader(store, cpu, workers, keep=True)
            mine = Loader(store, order, labels, size=size, batch=BATCH, device=cpu, augment=augment, reader=reader)
            theirs = DataLoader(
                Folder(str(pngs), steps(augment, size)), BATCH, sampler=order.tolist(), num_workers=workers,
                multiprocessing_context="spawn" if workers else None, persistent_workers=workers > 0,
            )  # fmt: skip
            found: dict[str, list[float]] = {"ours": [], "peer": []}
            for turn in range(repeats + 1):
                for who, batches in (("ours", mine), ("peer", theirs)):
                    reached = whole_rate(batches, count, clock)
                    if turn:
                        found[who].append(reached)
            ours, peer = (max(values) for values in found.values())
            of = "wall" if wall else "processor"
            what = f"{name}, {size} px of {encoding} of {stored}, {workers} workers, faces a second of {of} time"
            rows.append(Row(what, ours, peer, ours / peer, ">= 2", 0))
            del mine, theirs, reader
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[112, 224])
    parser.add_argument("--encoding", choices=["raw", "png", "jpeg"], default="raw")
    parser.add_argument("--stored", type=int, help="side of the pictures on disk; by default the net's")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--faces", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--wall", action="store_true", help="by wall time, for a machine with nothing else to do")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for size in args.sizes:
        stored = args.stored or size
        print(table(alone(size, stored, args.faces, args.repeats, args.encoding, args.workers, args.wall)), flush=True)


if __name__ == "__main__":
    main()
