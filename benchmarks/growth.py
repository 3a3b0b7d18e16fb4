"""Time and memory of commands as a store grows, on stores of made faces: does anything grow faster than the data?

    python benchmarks/growth.py [--sizes 3000 30000] [--folder FOLDER] [--side 48]
    python benchmarks/growth.py --sizes 300000 --side 32 --only check "check again" "train, to the first batch"
    python benchmarks/growth.py --make 30000 --folder FOLDER     # only the store FOLDER/faces-30000

A made face is a mixture of two synthetic faces of one class under a smooth random field, with the mixed landmarks, so that
30,000 are written in half a minute and are not copies of each other; one in fifty is a mirrored copy, as `mien check` should
find. Every command runs in a process of its own. Memory is what the process owns at its peak (anonymous pages): those of
mapped files go back to the system when it needs them. Linux only.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from mien.data.store import write_store
from mien.schema import EXPRESSIONS, Record
from mien.synthetic.sample import faces

ENV = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}
NAMES = EXPRESSIONS[:7]

POOL = 140
"""Synthetic faces that are mixed."""
EACH = 15
"""Faces of a person."""
RECIPE = """
model: {backbone: resnet10t, size: 48, stem_pool: false, output_stride: 8, channels: [8, 8, 8, 8]}
guidance: {weight: 1.0}
optim: {epochs: 1, batch: 64, lr: 0.02}
run: {accelerator: cpu, precision: 32-true}
"""
"""A net so narrow that reading and drawing cost more than it does."""
FIRST_BATCH = """
import sys
from pathlib import Path
from mien.config import load_recipe
from mien.data.loader import Loader
from mien.training.session import prepare_session

recipe = load_recipe(Path(sys.argv[1]), ["--data.store", sys.argv[2]])
session, _ = prepare_session(recipe, Path(sys.argv[3]))
loader = Loader(
    session.store, session.split.train, session.labels, size=recipe.model.size, batch=recipe.optim.batch,
    device=session.fabric.device, augment=recipe.augment, reader=session.reader,
)
next(iter(loader))
"""


class Cost(NamedTuple):
    """Of one command."""

    wall: float
    """Seconds."""
    cpu: float
    """Seconds of processor time."""
    memory: float
    """MiB that the process owned at most."""


def made_faces(count: int, side: int, seed: int = 0) -> Iterator[Record]:
    """`count` grey faces (side, side); of ten persons eight are for training, one for validation, one for the test."""
    pool = list(faces(POOL, size=side, seed=seed, classes=NAMES))
    own = [[one for one in pool if one.expression == name] for name in NAMES]
    rng = np.random.default_rng(seed)
    label, image = 0, np.zeros((side, side), np.uint8)
    for k in range(count):
        person = k // EACH
        split = ("valid", "test")[person % 10 - 8] if person % 10 >= 8 else "train"
        if k % 50 == 49:
            yield Record(f"{k:08d}", image[:, ::-1], split, f"p{person}", NAMES[label])
            continue
        label = k % len(NAMES)
        one, other = (own[label][j] for j in rng.integers(0, len(own[label]), 2))
        share = rng.uniform(0.25, 0.75)
        field = cv2.resize(rng.normal(0, 40, (6, 6)), (side, side), interpolation=cv2.INTER_CUBIC)
        mixed = share * one.image.mean(2) + (1 - share) * other.image.mean(2) + field
        image = np.clip(mixed, 0, 255).astype(np.uint8)
        place = share * one.landmarks + (1 - share) * other.landmarks
        yield Record(f"{k:08d}", image, split, f"p{person}", NAMES[label], None, one.action_units, place)


def make_store(folder: Path, count: int, side: int) -> None:
    """A prepared store of `made_faces`; an interrupted one is gone on with, a finished one kept."""
    write_store(made_faces(count, side), folder, dataset="made", size=side, channels=1, total=count)


def make_pictures(folder: Path, count: int, side: int) -> None:
    """The same faces as folders of PNG files, by class."""
    for record in made_faces(count, side):
        (folder / str(record.expression)).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / str(record.expression) / f"{record.id}.png"), record.image)


def owned(process: int) -> float:
    """MiB of anonymous memory that a process owns now; 0 for one that has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))


def cost_of(command: list[str]) -> Cost:
    """Run a Python command to its end."""
    began, most = time.perf_counter(), 0.0
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen([sys.executable, *command], stdout=said, stderr=said, cwd=ROOT, env=ENV)
        while True:
            ended, status, used = os.wait4(process.pid, os.WNOHANG)
            if ended:
                break
            most = max(most, owned(process.pid))
            time.sleep(0.02)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"{' '.join(command)}: {said.read().decode()[-2000:]}")
    return Cost(time.perf_counter() - began, used.ru_utime + used.ru_stime, most)


def measure(count: int, side: int, folder: Path, trained: Path, only: list[str]) -> dict[str, Cost]:
    """Cost of each command on `count` faces, or of those named; `trained` is a run that is scored on them."""
    store, mien = str(folder / f"faces-{count}"), ["-m", "mien"]
    recipe, started = str(folder / "recipe.yaml"), str(folder / f"run-{count}")
    page = ["--store", store, "--out", str(folder / "report.html")]
    found = {}
    if "prepare" in only:
        pictures = folder / "pictures"
        make_pictures(pictures, count, side)
        found["prepare"] = cost_of([*mien, "prepare", "folder", "--root", str(pictures), "--out", f"{store}-prepared",
                                    "--size", str(side), "--channels", "1", "--workers", "1"])  # fmt: skip
        shutil.rmtree(pictures)
        shutil.rmtree(f"{store}-prepared")
    found["write a store"] = cost_of([__file__, "--make", str(count), "--side", str(side), "--folder", str(folder)])
    commands = {
        "check": [*mien, "check", store],
        "check again": [*mien, "check", store],
        "train, to the first batch": ["-c", FIRST_BATCH, recipe, store, started],
        "evaluate": [*mien, "evaluate", str(trained), "--store", store],
        "report": [*mien, "report", str(trained), *page],
        "audit": [*mien, "audit", str(trained), "--store", store, "--out", str(folder / "audit"),
                  "--parts", "right,sure,groups", "--faces", str(count)],
        "cues": [*mien, "cues", store, "--out", str(folder / "maps")],
        "predict": [*mien, "predict", str(folder / "photos"), "--run", str(trained), "--faces", "none",
                    "--out", str(folder / "rows.csv")],
    }  # fmt: skip
    if "predict" in only:
        make_pictures(folder / "photos", count, side)
    for name, command in commands.items():
        if name in only:
            shutil.rmtree(folder / "maps", ignore_errors=True)
            shutil.rmtree(folder / "audit", ignore_errors=True)
            found[name] = cost_of(command)
            print(f"{count} {name}: {found[name]}", file=sys.stderr, flush=True)
    return found


COMMANDS = (
    "prepare",
    "check",
    "check again",
    "train, to the first batch",
    "evaluate",
    "report",
    "audit",
    "cues",
    "predict",
)
NEED_A_RUN = ("evaluate", "report", "audit", "predict")


def table(costs: dict[int, dict[str, Cost]]) -> str:
    """Markdown: a row a command, processor time and memory at each size."""
    sizes = list(costs)
    lines = [
        "| command | " + " | ".join(f"{size:,}: CPU s, s, MiB" for size in sizes) + " |",
        "| --- |" + " ---: |" * len(sizes),
    ]
    for name in costs[sizes[0]]:
        cells = [costs[size][name] for size in sizes]
        lines.append(f"| {name} | " + " | ".join(f"{c.cpu:.1f}, {c.wall:.1f}, {c.memory:.0f}" for c in cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[3000, 30_000])
    parser.add_argument("--side", type=int, default=48, help="of the faces, pixels")
    parser.add_argument("--folder", type=Path, help="for the stores, which stay there; a temporary one when not given")
    parser.add_argument("--only", nargs="+", default=list(COMMANDS[:6]), choices=COMMANDS,
                        help="of the commands; the last three when named")  # fmt: skip
    parser.add_argument("--make", type=int, metavar="FACES", help="only write one store, faces-FACES")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if args.make:
            make_store(folder / f"faces-{args.make}", args.make, args.side)
            return
        (folder / "recipe.yaml").write_text(RECIPE.replace("size: 48", f"size: {args.side}"))
        trained = folder / "trained"
        if set(NEED_A_RUN) & set(args.only):
            make_store(folder / "faces-700", 700, args.side)
            start = ["-m", "mien", "train", str(folder / "recipe.yaml")]
            cost_of([*start, "--data.store", str(folder / "faces-700"), "--out", str(trained)])
        costs = {}
        for size in args.sizes:
            costs[size] = measure(size, args.side, folder, trained, args.only)
            print(table(costs), flush=True)


if __name__ == "__main__":
    main()
