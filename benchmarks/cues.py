"""Time of rendering cues: ours for a batch against the published per-image OpenCV procedure.

    python benchmarks/cues.py [--device cuda] [--batch 256]
    python benchmarks/cues.py --figure docs/cues.png          # only draws the figure of docs/cues.md

The procedure is written anew from the facts of Belharbi et al. 2024: for each action unit of the label one canvas of
the native image size, filled ellipses, resize to 28x28, 3x3 blur, resize back; maximum, min-max. It includes the resize
to the attention layer that the loss makes.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT))
from test_cues import PAPER_UNITS, face, paper_drawing, paper_ellipses

from benchmarks.rows import Row, best_times
from mien.cues import CueConfig, render_cue
from mien.schema import scheme_classes


def seconds(call, at_least: float = 1.0, device: str = "cpu") -> float:
    # on one thread, processor time: what else the machine does is left out
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    call()
    times: list[float] = []
    while sum(times) < at_least or len(times) < 5:
        begin = clock()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(clock() - begin)
    return min(times)  # of many: other programs on the machine only ever add time


def figure(path: Path) -> None:
    from matplotlib.figure import Figure

    names = scheme_classes("basic-8")[1:]
    rows = [
        ("corrected", CueConfig(), 224),
        ("corrected, 14x14", CueConfig(), 14),
        ("paper", CueConfig(codebook="paper"), 224),
        ("landmarks", CueConfig("landmarks"), 224),
    ]
    sheet = Figure(figsize=(1.5 * len(names), 1.55 * len(rows)))
    axes = sheet.subplots(len(rows), len(names))
    for line, (title, config, size) in zip(axes, rows, strict=True):
        points = torch.from_numpy(face(roll=0.12)).float()[None].expand(len(names), -1, -1)
        labels = torch.arange(1, len(names) + 1)
        cue = render_cue(config, points, labels, scheme="basic-8", image_size=(224, 224), size=(size, size))
        for axis, name, drawn, valid in zip(line, names, cue.maps, cue.valid, strict=True):
            axis.imshow(drawn[0], extent=(-0.5, 223.5, 223.5, -0.5), cmap="inferno", vmin=0, vmax=1)
            axis.scatter(points[0, :, 0], points[0, :, 1], s=1.5, c="#00e5ff", linewidths=0)
            axis.set(xticks=[], yticks=[], xlim=(-0.5, 223.5), ylim=(223.5, -0.5))
            if title == rows[0][0]:
                axis.set_title(name, fontsize=9)
            if not valid:
                axis.text(112, 30, "no cue", color="white", ha="center", fontsize=8)
        line[0].set_ylabel(title, fontsize=8)
    sheet.tight_layout(pad=0.3)
    sheet.savefig(path, dpi=90)


def ellipses_of(faces: np.ndarray, labels: torch.Tensor) -> list[list[list[tuple[int, int, int, int]]]]:
    """The published ellipses of each face: of each action unit of its label. Not timed, in the original's favour."""
    names = [scheme_classes("basic-7")[int(k)] for k in labels]
    drawn = [paper_ellipses(points, 224, 224) for points in faces]
    return [[every[unit] for unit in PAPER_UNITS[name]] for every, name in zip(drawn, names, strict=True)]


def original(faces: list[list[list[tuple[int, int, int, int]]]], size: int) -> torch.Tensor:
    """The published drawing at 224x224, image by image, then the loss' resize of the batch to the layer's size."""
    big = torch.from_numpy(np.stack([paper_drawing(units, (224, 224)) for units in faces]))[:, None]
    return (
        big
        if size == 224
        else F.interpolate(big, size=(size, size), mode="bilinear", align_corners=True, antialias=True)
    )


def measure(quick: bool = False) -> list[Row]:
    """Cues of a batch at the layer's size against the published drawing, wall-clock, all cores for both."""
    repeats = 1 if quick else 15
    cases = [(12, size) for size in (7, 14, 28)] if quick else [(252, 7), (252, 14), (252, 28), (1008, 14)]
    rng = np.random.default_rng(0)
    faces = np.stack([face() + rng.normal(0, 1.5, (68, 2)) for _ in range(cases[-1][0])])
    labels = torch.arange(len(faces)) % 6 + 1
    some = min(36, len(faces))
    landmarks, units = torch.from_numpy(faces).float(), ellipses_of(faces[:some], labels[:some])
    rows = []
    for count, size in cases:

        def ours(count: int = count, size: int = size) -> None:
            render_cue(CueConfig(), landmarks[:count], labels[:count], image_size=(224, 224), size=(size, size))

        seconds = best_times({"ours": ours, "peer": lambda size=size: original(units, size)}, repeats)
        mine, theirs = seconds["ours"] / count * 1e3, seconds["peer"] / some * 1e3
        rows.append(Row(f"cue {size}x{size}, batch {count}, ms a face", mine, theirs, theirs / mine, ">= 50", digits=3))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    if options.figure is not None:
        figure(options.figure)
        return
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(options.threads)
    rng = np.random.default_rng(0)
    faces = np.stack([face() + rng.normal(0, 1.5, (68, 2)) for _ in range(options.batch)])
    labels = torch.arange(options.batch) % 6 + 1
    units = ellipses_of(faces[:12], labels[:12])
    landmarks, targets = torch.from_numpy(faces).float().to(options.device), labels.to(options.device)
    print(
        f"{options.device}, {options.threads} thread(s), batch {options.batch} (32 at 224 and for paper), image 224; "
        "best of many, ms per image"
    )
    print("| map | cue | original | ours | ratio |\n| --- | --- | ---: | ---: | ---: |")
    old = {size: seconds(lambda size=size: original(units, size)) / 12 * 1e3 for size in (7, 14, 28, 224)}
    for codebook, kind in (("corrected", "au"), ("paper", "au"), ("corrected", "landmarks")):
        for size in (7, 14, 28, 224):
            count = 32 if size == 224 or codebook == "paper" else options.batch
            config = CueConfig(kind, codebook=codebook)

            def ours(config=config, size=size, count=count) -> None:
                render_cue(config, landmarks[:count], targets[:count], image_size=(224, 224), size=(size, size))

            new = seconds(ours, device=options.device) / count * 1e3
            label = f"au, {codebook}" if kind == "au" else "landmarks"
            reference = (f"{old[size]:.3f}", f"{old[size] / new:.2g}") if kind == "au" else ("-", "-")
            print(f"| {size}x{size} | {label} | {reference[0]} | {new:.4f} | {reference[1]} |", flush=True)


if __name__ == "__main__":
    main()
