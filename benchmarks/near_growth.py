"""Time and peak memory of the near-duplicate search as pictures become more.

    python benchmarks/near_growth.py [--sizes 3000 30000 300000]

Pictures are smooth random fields of 24 x 24 px around one mean, as small pictures of faces are; one in fifty is a mirrored
copy of another. Reading a store comes on top. Each size runs in a process of its own.
"""

import argparse
import resource
import subprocess
import sys
import time

import cv2
import numpy as np

from mien.data import near
from mien.data.duplicates import NEAR_BITS, NEAR_CORRELATION


def fields(count: int) -> np.ndarray:
    """(N, SIDE * SIDE) uint8."""
    rng = np.random.default_rng(0)
    found = np.empty((count, near.SIDE, near.SIDE), dtype=np.uint8)
    mean = cv2.GaussianBlur(rng.random((near.SIDE, near.SIDE)).astype(np.float32), (0, 0), 4) * 1500 - 750
    for k in range(count):
        wide = rng.standard_normal((2, near.SIDE, near.SIDE), dtype=np.float32)
        field = 150 * cv2.GaussianBlur(wide[0], (0, 0), 3) + 40 * cv2.GaussianBlur(wide[1], (0, 0), 1)
        found[k] = np.clip(field + mean + 128, 0, 255)
    found[: count // 50] = found[-(count // 50) :, :, ::-1]
    return found.reshape(count, -1)


def measure(count: int) -> None:
    pictures = fields(count)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    pairs, _ = near.copies(pictures, NEAR_BITS, NEAR_CORRELATION)
    taken = time.process_time() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"| {count:,} | {len(pairs):,} of {count // 50:,} | {taken:.1f} | {memory / 1024:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[3000, 30_000, 300_000])
    sizes = parser.parse_args().sizes
    if len(sizes) == 1:
        measure(sizes[0])
        return
    print(
        "| pictures | pairs found | processor time, s | more memory, MiB |\n| ---: | ---: | ---: | ---: |", flush=True
    )
    for size in sizes:
        subprocess.run([sys.executable, __file__, "--sizes", str(size)], check=True)


if __name__ == "__main__":
    main()
