"""What maps without any evidence score against AU cues: the baselines to read every alignment score beside.

    python benchmarks/baselines.py [--faces 280] [--size 112] [--codebook corrected]

Synthetic faces with exact landmarks. The mean cues (of all faces, of each class) come from the first half, scores from the second.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from mien.cues import controls
from mien.cues.config import CueConfig
from mien.cues.render import mean_cue, render_cue
from mien.metrics.alignment import SCORES, alignment_scores, summarise
from mien.schema import class_index, scheme_classes
from mien.synthetic.sample import faces

SCHEME = "basic-7"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=int, default=280)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--codebook", default="corrected")
    args = parser.parse_args()
    classes, index = scheme_classes(SCHEME), class_index(SCHEME)
    records = list(faces(args.faces, size=args.size, classes=classes))
    points = torch.from_numpy(np.stack([r.landmarks for r in records])).float()
    labels = torch.tensor([index[r.expression] for r in records])
    config, half = CueConfig(codebook=args.codebook), args.faces // 2
    sizes = {"scheme": SCHEME, "image_size": (args.size, args.size), "size": (args.size, args.size)}
    average, by_label = mean_cue(config, [(points[:half], labels[:half])], **sizes)
    points, labels = points[half:], labels[half:]
    cue = render_cue(config, points, labels, **sizes)
    noise = torch.rand(len(points), 1, 7, 7, generator=torch.Generator().manual_seed(0))
    other = render_cue(
        CueConfig(codebook=args.codebook, control="other_class"),
        points,
        labels,
        generator=torch.Generator().manual_seed(0),
        **sizes,
    )
    rows: dict[str, Callable[[], Tensor]] = {
        "uniform": lambda: controls.uniform(cue.maps),
        "centre": lambda: controls.centre(cue.maps),
        "dataset-mean cue": lambda: controls.mean(cue.maps, average),
        "class-mean cue": lambda: by_label[labels],
        "another class's cue": lambda: other.maps,
        "7 x 7 noise": lambda: noise,
    }
    print(f"{int(cue.valid.sum())} synthetic faces, {args.size} px, codebook {args.codebook}: mean over classes")
    print("| map | " + " | ".join(SCORES) + " | cosine by class |\n| --- |" + " ---: |" * len(SCORES) + " --- |")
    for name, maps in rows.items():
        scores = {key: value.numpy() for key, value in alignment_scores(maps(), cue.maps).items()}
        table = summarise(scores, labels, labels, cue.valid, classes)["scores"]
        by_class = {k: v for k, v in table["cosine"]["per_class"].items() if v is not None}
        print(
            f"| {name} | "
            + " | ".join(f"{table[key]['class_mean']:.2f}" for key in SCORES)
            + " | "
            + ", ".join(f"{k} {v:.2f}" for k, v in by_class.items())
            + " |"
        )


if __name__ == "__main__":
    main()
