"""Scoring four CAMs of one model on a test split: one pass for all, against the published way.

Ours is what `mien evaluate` does for a batch: one forward pass, four maps, the attention of every layer, cues at the size of
the input, alignment scores. The published way scores one method a run and one image a time: forward, backward, one map, the
cue drawn with OpenCV, one cosine. Memory is what a fresh process adds to its peak while it scores. Linux only.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks.rows import Row

METHODS = ("cam", "grad_cam", "grad_cam_pp", "layer_cam")


def peak() -> float:
    """Highest resident MiB since the last `forget_peak`."""
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def score(way: str, faces: int, size: int, threads: int) -> None:
    """Print milliseconds an image and MiB added, of one way, in this process."""
    from benchmarks.cues import ellipses_of
    from mien.config import ModelConfig
    from mien.cues import CueConfig, render_cue
    from mien.data.transforms import normalise
    from mien.models import create_model
    from mien.synthetic.sample import faces as make

    torch.set_num_threads(threads)
    records = list(make(faces, size=size, seed=0))
    images = normalise(torch.from_numpy(np.stack([r.image for r in records])).permute(0, 3, 1, 2))
    labels = torch.arange(faces) % 6 + 1  # every one has a cue
    landmarks = torch.from_numpy(np.stack([r.landmarks for r in records])).float()
    model = create_model(ModelConfig(backbone="resnet18", size=size), classes=7).eval()
    ellipses = ellipses_of(landmarks.numpy() * 224 / size, labels)

    def ours(rows: slice) -> None:
        from mien.explain import evidence, explain_with_output
        from mien.metrics.alignment import attention_scores, cam_scores

        output, raw = explain_with_output(model, images[rows], labels[rows], METHODS)
        cue = render_cue(CueConfig(), landmarks[rows], labels[rows], image_size=(size, size), size=(size, size))
        for features in output.features:
            attention_scores(features, cue.maps)
        for name, map_ in raw.items():
            cam_scores(evidence(name, map_), cue.maps)

    def published(rows: slice) -> None:
        import torchcam.methods

        from benchmarks.cams import Logits
        from benchmarks.cues import original

        net = Logits(model).eval()
        for name in ("CAM", "GradCAM", "GradCAMpp", "LayerCAM"):
            options = {"fc_layer": "model.head"} if name == "CAM" else {}
            with getattr(torchcam.methods, name)(net, "model.backbone.net.layer4", **options) as extractor:
                for i in range(*rows.indices(len(images))):
                    (map_,) = extractor(int(labels[i]), net(images[i : i + 1]))
                    cue = original([ellipses[i]], 224)
                    large = F.interpolate(map_[None].float(), size=cue.shape[-2:], mode="bilinear")
                    F.cosine_similarity(large.flatten(), cue.flatten(), dim=0)

    way_of = {"ours": ours, "published": published}[way]
    way_of(slice(0, 2))  # imports and first allocations
    before = peak_now()
    forget_peak()
    start = time.perf_counter()
    for first in range(0, faces, 32):
        way_of(slice(first, first + 32))
    print(1e3 * (time.perf_counter() - start) / faces, max(0.0, peak() - before))


def peak_now() -> float:
    forget_peak()
    return peak()


def measure(quick: bool = False) -> list[Row]:
    """Milliseconds an image and MiB, each way in a process of its own."""
    faces, size = (4, 48) if quick else (128, 112)
    found = {}
    for way in ("ours", "published"):
        words = [sys.executable, __file__, way, str(faces), str(size), str(torch.get_num_threads())]
        ran = subprocess.run(words, check=True, capture_output=True, text=True, cwd=ROOT)
        found[way] = [float(word) for word in ran.stdout.split()[-2:]]
    (ours, own), (theirs, peer) = found["ours"], found["published"]
    return [
        Row(
            "scoring 4 CAMs, ms an image, against one method and image a time", ours, theirs, theirs / ours, ">= 10", 1
        ),
        Row("the same, MiB added to the peak (batch 32, against 1)", own, peer, None, "-", 0),
    ]


if __name__ == "__main__":
    score(sys.argv[1], *map(int, sys.argv[2:]))
