"""Which copies `mien check` finds, by kind, what it takes for copies that are none, and how long it looks.

    python benchmarks/near_duplicates.py STORE [--queries 300] [--sheet PAIRS.png]

For each kind of change, copies of drawn faces are put beside all pictures of the store, and all are searched. Where the
store knows people, pairs of two people are counted, which the search alone, without names, takes for copies. --sheet draws
pairs of the store itself, to be looked at, with those that count least at the top.
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
    rows = np.sort(np.unique(store.digest, return_index=True)[1])
    began, processor = time.perf_counter(), time.process_time()
    pictures = near.small_pictures(store, rows)
    pairs, likeness = near.copies(pictures, NEAR_BITS, NEAR_CORRELATION)
    groups = np.unique(components(len(rows), pairs), return_counts=True)[1]
    seconds = time.perf_counter() - began, time.process_time() - processor
    print(
        f"{len(rows)} different pictures, {len(near.variants())} variants: {len(pairs)} pairs in {(groups > 1).sum()} groups"
    )
    print(f"largest group {groups.max()}; {seconds[0]:.1f} s, {seconds[1]:.1f} s of processor time")
    people = store.subject[rows]
    known = np.array([name is not None for name in people])
    if known.any():
        both = known[pairs].all(axis=1) & (people[pairs[:, 0]] != people[pairs[:, 1]])
        counts = np.unique(people[known].astype(str), return_counts=True)[1]
        possible = (known.sum() ** 2 - (counts**2).sum()) // 2
        print(f"pairs of two people: {both.sum()} of {possible} possible ones")
    drawn = np.random.default_rng(0).choice(len(rows), min(options.queries, len(rows)), replace=False)
    print("\n| change | found |\n| --- | ---: |")
    for kind, by in KINDS:
        small = shrunk(np.stack([changed(store.image(int(rows[k])), kind, by) for k in drawn]))
        found, _ = near.copies(np.concatenate([pictures, small]), NEAR_BITS, NEAR_CORRELATION)
        found = {tuple(pair) for pair in found.tolist()}
        share = np.mean([(int(k), len(rows) + place) in found for place, k in enumerate(drawn)])
        amount = f"{by:+g} degrees" if kind in ("mirrored", "turned") else f"{by:g}"
        print(f"| {kind}, {amount} | {share:.2f} |", flush=True)
    if options.sheet is not None:
        order = np.argsort(likeness)[np.linspace(0, len(pairs) - 1, 96).astype(int)]
        tiles = [np.concatenate([store.image(int(rows[k])) for k in pairs[n]], axis=1) for n in order]
        draw.write_png(options.sheet, np.vstack([np.hstack(tiles[k : k + 8]) for k in range(0, 96, 8)]))


def shrunk(pictures: np.ndarray) -> np.ndarray:
    """(N, SIDE * SIDE) small grey pictures of (N, H, W, 3) RGB."""
    grey = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in pictures]
    small = [cv2.resize(picture, (near.SIDE, near.SIDE), interpolation=cv2.INTER_AREA) for picture in grey]
    return np.stack(small).reshape(len(pictures), -1)


if __name__ == "__main__":
    main()
