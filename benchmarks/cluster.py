"""What a face costs a worker and the command of `mien prepare --cluster`, on one core, and what 10 million cost from that.

    python benchmarks/cluster.py [--photos 40] [--faces mediapipe] [--size 224]

Photos are synthetic faces of 448 px as JPEG. Times are of the processor, the best of three. With `--ray 20000 80000` it also
writes stores of that many faces, with nothing to do for each, over a Ray of two workers, and notes the command's memory.
"""

from __future__ import annotations

import argparse
import pickle
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mien import progress
from mien.data import cluster
from mien.data.arrow import map_part, write_part
from mien.data.fingerprint import fingerprint
from mien.data.shards import Coding, coded, made, once
from mien.data.store import write_store
from mien.datasets import DATASETS
from mien.datasets.prepare import Options, prepare_record
from mien.datasets.source import source_of
from mien.faces.detect import open_provider
from mien.faces.pictures import load_picture
from mien.schema import Record
from mien.synthetic.sample import faces

PIXELS = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def cost(function: Callable[[], object], count: int) -> float:
    """Milliseconds of the processor for each of `count`, the best of three."""
    best = float("inf")
    for _ in range(3):
        begun = time.process_time()
        function()
        best = min(best, time.process_time() - begun)
    return 1e3 * best / count


def in_a_worker(photos: list[Path], folder: Path, provider: str, size: int) -> dict[str, float]:
    records = [Record(f"train/happy/{file.name}", file, expression="Happiness") for file in photos]
    pictures, find = [load_picture(file) for file in photos], open_provider(provider, None)
    options, count = Options(size, True, provider, None, None, True), len(photos)
    whole = cost(lambda: [prepare_record(record, options) for record in records], count)
    decode, found = (
        cost(lambda: [load_picture(file) for file in photos], count),
        cost(lambda: list(map(find, pictures)), count),
    )
    done = [prepare_record(record, options) for record in records]
    times = {"decode": decode, "find the face": found, "align, resize": max(0.0, whole - decode - found)}
    coding = Coding(size, 3, "jpeg")
    times["code as JPEG, hash"] = cost(lambda: [coded(record, coding) for record in done], count)
    rows = [coded(record, coding).columns for record in done] * -(-2048 // count)
    rows = [{**row, "id": f"train/happy/{number:08d}.jpg"} for number, row in enumerate(rows)]
    times["write the part"] = cost(lambda: write_part(folder / "part-00000.arrow", rows), len(rows))
    return times


def in_the_command(folder: Path, count: int = 5000) -> dict[str, float]:
    root = folder / "many"
    for number in range(count):
        place = root / "train" / ("happy" if number % 2 else "sad")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:08d}.jpg").write_bytes(b"x")
    records = list(DATASETS["folder"].records(root))
    batch = map_part(folder / "part-00000.arrow")
    return {
        "list the folder, twice": 2 * cost(lambda: list(DATASETS["folder"].records(root)), count),
        "digest of the listing": cost(lambda: source_of(root, {}, folder / "out"), count),
        "ids, sending": cost(lambda: pickle.dumps(list(once(records))), count),
        "fingerprint": cost(lambda: fingerprint([batch]), len(batch)),
    }


def nothing(record: Record) -> Record:
    return record._replace(image=PIXELS)


def memory() -> float:
    """MiB that this process owns."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) / 1024


def over_ray(counts: list[int], folder: Path) -> None:
    progress.default_workers = lambda: 2
    cluster.slots("auto")
    peak = [0.0]

    def watch() -> None:
        while True:
            peak[0] = max(peak[0], memory())
            time.sleep(0.2)

    threading.Thread(target=watch, daemon=True).start()
    for count in counts:
        before, begun, peak[0] = memory(), time.process_time(), 0.0
        items = (
            Record(f"train/{k:08d}.jpg", Path(f"/data/train/{k:08d}.jpg"), expression="Fear") for k in range(count)
        )
        out = folder / f"store-{count}"
        found = made(nothing, once(items), out, Coding(32, 3, "jpeg"), workers=1, cluster="auto", total=count)
        store = write_store(found, out, dataset="toy", size=32, encoding="jpeg")
        spent = 1e6 * (time.process_time() - begun) / count
        told = f"{len(store.info.parts)} parts, {spent:.0f} us of the command a face, {before:.0f} -> {peak[0]:.0f} MiB"
        print(f"| {count:,} over Ray | {told} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--photos", type=int, default=40)
    parser.add_argument("--faces", default="mediapipe")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--ray", type=int, nargs="*", default=[])
    given = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as name:
        folder, photos = Path(name), []
        for number, face in enumerate(faces(given.photos, size=448, seed=3)):
            photos.append(folder / f"{number:03d}.jpg")
            cv2.imwrite(str(photos[-1]), np.asarray(face.image)[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
        for where, times in {
            "worker": in_a_worker(photos, folder, given.faces, given.size), "command": in_the_command(folder),
        }.items():  # fmt: skip
            for step, each in times.items():
                print(f"| {where} | {step} | {each:.3f} ms |")
            total = sum(times.values())
            print(f"| {where} | **together** | {total:.3f} ms: {total * 1e7 / 3.6e6:.1f} core-hours for 10 million |")
        over_ray(given.ray, folder) if given.ray else None


if __name__ == "__main__":
    main()
