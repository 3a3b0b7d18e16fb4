"""Which copies `mien check` finds, by kind, what it takes for copies that are none, and how long it looks.

    python benchmarks/near_duplicates.py STORE [--queries 300] [--sheet PAIRS.png]

For each kind of change, copies of drawn faces are put beside all pictures of the store, once as the copy and once as the
original. --sheet draws pairs of the store itself, to be looked at, with those that count least at the top.
"""

import argparse
import time
from pathlib import Path

import cv2
import numpy as np

from mien import draw
from mien.data import near
from mien.data.duplicates import NEAR_BITS, NEAR_CORRELATION, components
from mien.data.store import open_store


def changed(picture: np.ndarray, kind: str, by: float) -> np.ndarray:
    high, wide = picture.shape[:2]
    if kind == "mirrored":
        return np.ascontiguousarray(changed(picture, "turned", by)[:, ::-1]) if by else picture[:, ::-1].copy()
    if kind == "turned":
        matrix = cv2.getRotationMatrix2D(((wide - 1) / 2, (high - 1) / 2), by, 1)
        return cv2.warpAffine(picture, matrix, (wide, high), borderMode=cv2.BORDER_REPLICATE)
    if kind in ("cropped on each side", "cropped at a corner"):
        left, top = round(by * wide), round(by * high)
        right, below = (wide - left, high - top) if kind.endswith("side") else (wide, high)
        return cv2.resize(picture[top:below, left:right], (wide, high), interpolation=cv2.INTER_LINEAR)
    if kind == "brightened":
        return np.clip(picture * (1 + by), 0, 255).astype(np.uint8)
    if kind == "JPEG":
        return cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, int(by)])[1], cv2.IMREAD_UNCHANGED)
    noise = np.random.default_rng(0).normal(0, by, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


KINDS = [
    ("mirrored", 0), ("turned", 5), ("turned", 10), ("turned", -12), ("turned", 16), ("mirrored", 8),
    ("cropped on each side", 0.025), ("cropped on each side", 0.05), ("cropped on each side", 0.08),
    ("cropped at a corner", 0.05), ("cropped at a corner", 0.1), ("cropped at a corner", 0.15),
    ("brightened", 0.2), ("brightened", -0.3), ("JPEG", 30), ("noise", 8),
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--sheet", type=Path)
    options = parser.parse_args()
    store = open_store(options.store)
    rows = np.unique(store.digest, return_index=True)[1]
    began, processor = time.perf_counter(), time.process_time()
    pictures = near.small_pictures(store, rows)
    pairs, likeness = near.copies(pictures, NEAR_BITS, NEAR_CORRELATION)
    groups = np.unique(components(len(rows), pairs), return_counts=True)[1]
    seconds = time.perf_counter() - began, time.process_time() - processor
    print(
        f"{len(rows)} different pictures, {len(near.variants())} variants: {len(pairs)} pairs in {(groups > 1).sum()} groups"
    )
    print(f"largest group {groups.max()}; {seconds[0]:.1f} s, {seconds[1]:.1f} s of processor time\n")
    mean = pictures.mean(axis=0) if len(pictures) >= near.ENOUGH else None
    drawn = np.random.default_rng(0).choice(len(rows), min(options.queries, len(rows)), replace=False)
    own = near.variant_hashes(pictures[drawn], mean)
    print("| change | found |\n| --- | ---: |")
    for kind, by in KINDS:
        copies = np.stack([changed(store.image(int(rows[k])), kind, by) for k in drawn])
        grey = [
            cv2.resize(cv2.cvtColor(copy, cv2.COLOR_RGB2GRAY), (near.SIDE,) * 2, interpolation=cv2.INTER_AREA)
            for copy in copies
        ]
        small = np.stack(grey).reshape(len(copies), -1).astype(np.float32)
        theirs = near.variant_hashes(small, mean)
        best = np.zeros(len(drawn))
        for number in range(len(own)):
            for hashes, other, a, b in ((own, theirs, pictures[drawn], small), (theirs, own, small, pictures[drawn])):
                close = np.bitwise_count(hashes[number] ^ other[0]) <= NEAR_BITS
                best = np.maximum(best, np.where(close, near.correlate(a, b, number, mean), 0))
        amount = f"{by:+g} degrees" if kind in ("mirrored", "turned") else f"{by:g}"
        print(f"| {kind}, {amount} | {(best >= NEAR_CORRELATION).mean():.2f} |")
    if options.sheet is not None:
        order = np.argsort(likeness)[np.linspace(0, len(pairs) - 1, 96).astype(int)]
        tiles = [np.concatenate([store.image(int(rows[k])) for k in pairs[n]], axis=1) for n in order]
        draw.write_png(options.sheet, np.vstack([np.hstack(tiles[k : k + 8]) for k in range(0, 96, 8)]))


if __name__ == "__main__":
    main()
