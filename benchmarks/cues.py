"""Time of rendering cues: ours for a batch against the published per-image OpenCV procedure.

    python benchmarks/cues.py [--device cuda] [--batch 256]

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

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from test_cues import face, paper_twin

from mien.cues import CueConfig, render_cue
from mien.schema import scheme_classes


def seconds(call, at_least: float = 1.0, device: str = "cpu") -> float:
    call()
    times: list[float] = []
    while sum(times) < at_least or len(times) < 5:
        begin = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(options.threads)
    rng = np.random.default_rng(0)
    faces = np.stack([face() + rng.normal(0, 1.5, (68, 2)) for _ in range(options.batch)])
    labels = torch.arange(options.batch) % 6 + 1
    names = [scheme_classes("basic-7")[k] for k in labels]

    def original(size: int) -> None:
        for points, name in zip(faces[:12], names[:12], strict=True):
            big = torch.from_numpy(paper_twin(points, name, (224, 224)))[None, None]
            if size != 224:
                F.interpolate(big, size=(size, size), mode="bilinear", align_corners=True, antialias=True)

    landmarks, targets = torch.from_numpy(faces).float().to(options.device), labels.to(options.device)
    print(f"{options.device}, {options.threads} thread(s), batch {options.batch} (32 at 224), image 224; ms per image")
    print("| map | cue | original | ours | ratio |\n| --- | --- | ---: | ---: | ---: |")
    old = {size: seconds(lambda size=size: original(size)) / 12 * 1e3 for size in (7, 14, 28, 224)}
    for codebook, kind in (("corrected", "au"), ("paper", "au"), ("corrected", "landmarks")):
        for size in (7, 14, 28, 224):
            count = 32 if size == 224 or codebook == "paper" else options.batch
            config = CueConfig(kind, codebook=codebook)

            def ours(config=config, size=size, count=count) -> None:
                render_cue(config, landmarks[:count], targets[:count], image_size=(224, 224), size=(size, size))

            new = seconds(ours, device=options.device) / count * 1e3
            label = f"au, {codebook}" if kind == "au" else "landmarks"
            reference = (f"{old[size]:.3f}", f"{old[size] / new:.0f}") if kind == "au" else ("-", "-")
            print(f"| {size}x{size} | {label} | {reference[0]} | {new:.4f} | {reference[1]} |", flush=True)


if __name__ == "__main__":
    main()
