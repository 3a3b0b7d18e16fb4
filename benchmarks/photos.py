"""From photo files to rows: faces a second, latency of one photo, cold start. Wall clock, and processor time beside it.

    python benchmarks/photos.py RUN PHOTOS [--repeats 3]

RUN is a run folder (`bundled`: the bundled model), PHOTOS a folder with one face a photo. Files are read, decoded,
searched, aligned and classified; nothing is kept from the call before. On a busy machine only the processor time says something.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


class Timed(NamedTuple):
    """Of one call."""

    what: str
    wall: float
    """Median over repeats, seconds."""
    cpu: float
    """Of all threads, seconds."""
    faces: int


def timed(what: str, call: Callable[[], int], repeats: int) -> Timed:
    walls, cpus, faces = [], [], 0
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        faces = call()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return Timed(what, statistics.median(walls), statistics.median(cpus), faces)


def measure(model, photos: list[Path], repeats: int) -> list[Timed]:
    """A row for each way to call the model; `model` is a mien.FaceModel."""

    def call(files: list[Path], **options) -> Callable[[], int]:
        return lambda: len(model.predict(list(files), display=32, **options).faces)

    call(photos[:2], explain="auto")()  # what is loaded on first use
    few = photos[:20]
    return [
        timed("batch 32", call(photos, batch=32), repeats),
        timed("batch 1", call(photos, batch=1), repeats),
        timed("batch 32, explained, without effects", call(photos, batch=32, explain="auto", masking=False), repeats),
        timed("batch 32, explained", call(few, batch=32, explain="auto"), repeats),
        timed("one photo after load", call(photos[:1], batch=1), max(5, repeats)),
        timed("one photo after load, explained", call(photos[:1], batch=1, explain="auto"), max(5, repeats)),
    ]


def cold_start(run: str, photo: Path, repeats: int) -> Timed:
    """`mien predict PHOTO` as a new process."""
    words = [sys.executable, "-m", "mien.cli", "predict", str(photo), *([] if run == "bundled" else ["--run", run])]
    walls, cpus = [], []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    for _ in range(repeats):
        before, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(words, check=True, capture_output=True, env=environment)
        walls.append(time.perf_counter() - wall)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpus.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return Timed("cold start of `mien predict PHOTO`", statistics.median(walls), statistics.median(cpus), 1)


def table(rows: list[Timed]) -> str:
    lines = ["| what | faces | seconds | faces/s | processor ms a face |", "| --- | ---: | ---: | ---: | ---: |"]
    for row in rows:
        each = row.cpu / max(row.faces, 1) * 1000
        lines.append(f"| {row.what} | {row.faces} | {row.wall:.2f} | {row.faces / row.wall:.1f} | {each:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("photos", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()

    import mien
    from mien.predict.sources import PICTURE_SUFFIXES, walk

    photos = [path for path, reason in walk(options.photos, PICTURE_SUFFIXES) if reason is None]
    model = mien.load(None if options.run == "bundled" else options.run)
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    print(f"{len(photos)} photos, run {model.name}, {os.cpu_count()} cores, load before {load}\n")
    rows = [*measure(model, photos, options.repeats), cold_start(options.run, photos[0], options.repeats)]
    print(table(rows))


if __name__ == "__main__":
    main()
