"""Memory of a process that walks once through a store, for a store and one four times as large. Linux only.

Two numbers: the memory that the process owns, which must not grow, and the whole resident set, which counts pages of the
mapped files too; the system takes those back whenever it needs them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.rows import Row
from mien.data.store import write_store
from mien.schema import EXPRESSIONS, Record

ROOT = Path(__file__).resolve().parent.parent
SIZE = 112
WALK = """
import sys, torch, numpy as np
from pathlib import Path
from mien.data.loader import Loader, labels_of
from mien.data.store import open_store

def resident():
    lines = dict(line.split(":") for line in open("/proc/self/status") if line.startswith("Rss"))
    own, mapped = (int(lines[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile"))
    return own, own + mapped

torch.set_num_threads(1)
rows, store = int(sys.argv[2]), open_store(Path(sys.argv[1]))
some = dict(size=112, batch=32, device=torch.device("cpu"))
for _ in Loader(store, np.arange(64) % rows, labels_of(store, "basic-7"), **some):
    pass  # what is allocated once, on first use
before = peak = resident()
for _ in Loader(store, np.arange(rows), labels_of(store, "basic-7"), **some):
    peak = tuple(map(max, peak, resident()))
print(*(high - low for high, low in zip(peak, before)))
"""


def growth(folder: Path, count: int) -> tuple[float, float]:
    """MiB that a walk through `count` faces adds: owned by the process, and resident with mapped files."""
    rng = np.random.default_rng(0)
    records = (
        Record(str(i), rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8), "train", str(i), EXPRESSIONS[i % 7])
        for i in range(count)
    )
    write_store(records, folder, dataset="benchmark", size=SIZE)
    search = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    ran = subprocess.run(
        [sys.executable, "-c", WALK, str(folder), str(count)],
        check=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": search},
    )  # fmt: skip
    own, resident = (float(word) for word in ran.stdout.split()[-2:])
    return own, resident


def measure(quick: bool = False) -> list[Row]:
    """Growth in MiB for 4 N faces (ours) and for N (peer); no rows where there is no /proc."""
    if not Path("/proc/self/status").is_file():
        return []
    count = 64 if quick else 1024
    with tempfile.TemporaryDirectory() as folder:
        few, many = growth(Path(folder) / "few", count), growth(Path(folder) / "many", 4 * count)
    data = 3 * count * SIZE * SIZE * 3 / 2**20
    names = ("memory of its own", "resident, with mapped files")
    aims = (f"flat ({data:.0f} MiB more pixels)", "-")
    return [
        Row(f"{name}, MiB added by {4 * count} faces, against {count}", b, a, None, aim, 1)
        for name, a, b, aim in zip(names, few, many, aims, strict=True)
    ]
