"""Four CAMs of a batch: closed form in one forward pass, against other libraries called as their users call them.

    python benchmarks/cams.py [--batch 16] [--size 112] [--backbone resnet18] [--repeats 7] [--threads 1]

Ours: `explain` on the whole batch (CAM, Grad-CAM, Grad-CAM++, LayerCAM). Theirs: GradCAM, GradCAM++ and LayerCAM (and
CAM in torch-cam), one extractor and one image at a time, as in their READMEs; then once with the whole batch at a time.
Theirs also normalise (and pytorch-grad-cam resizes) their maps. Random weights: speed does not depend on them.
Prints milliseconds per image for all of the maps, and the ratio to ours.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.rows import Row, best_times
from mien.compat import ensure_torchvision
from mien.config import ModelConfig
from mien.data.transforms import normalise
from mien.explain import explain
from mien.models import Classifier, create_model

ensure_torchvision()
import pytorch_grad_cam
import torchcam.methods
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget


class Logits(nn.Module):
    """The same model as other libraries take it: images -> logits."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images).logits


def grad_cam_library(net: Logits, images: Tensor, target: Tensor, step: int) -> None:
    for name in ("GradCAM", "GradCAMPlusPlus", "LayerCAM"):
        with getattr(pytorch_grad_cam, name)(model=net, target_layers=[net.model.backbone.net.layer4]) as extractor:
            for i in range(0, len(images), step):
                extractor(images[i : i + step], [ClassifierOutputTarget(int(k)) for k in target[i : i + step]])


def torch_cam_library(net: Logits, images: Tensor, target: Tensor, step: int) -> None:
    for name in ("CAM", "GradCAM", "GradCAMpp", "LayerCAM"):
        options = {"fc_layer": "model.head"} if name == "CAM" else {}
        with getattr(torchcam.methods, name)(net, "model.backbone.net.layer4", **options) as extractor:
            for i in range(0, len(images), step):
                extractor(target[i : i + step].tolist(), net(images[i : i + step]))


def calls(backbone: str, batch: int, size: int) -> dict[str, Callable[[], object]]:
    """What is timed: the same model, images and classes for all, images and model in channels_last."""
    generator = torch.Generator().manual_seed(0)
    model = create_model(ModelConfig(backbone=backbone, size=size), classes=7).eval()
    net = Logits(model).eval()
    images = normalise(torch.randint(256, (batch, 3, size, size), generator=generator, dtype=torch.uint8))
    target = torch.randint(7, (batch,), generator=generator)

    def forward() -> None:
        with torch.no_grad():
            net(images)

    return {
        "forward pass only": forward,
        "mien, 4 maps, batch": lambda: explain(model, images, target),
        "pytorch-grad-cam, 3 maps, image by image": lambda: grad_cam_library(net, images, target, 1),
        "torch-cam, 4 maps, image by image": lambda: torch_cam_library(net, images, target, 1),
        "pytorch-grad-cam, 3 maps, batch": lambda: grad_cam_library(net, images, target, batch),
        "torch-cam, 4 maps, batch": lambda: torch_cam_library(net, images, target, batch),
    }


def measure(quick: bool = False) -> list[Row]:
    """Four CAMs of a batch against two libraries image by image, wall-clock, all cores for all."""
    batch, size, repeats = (2, 64, 1) if quick else (16, 112, 3)
    kept = {name: call for name, call in calls("resnet18", batch, size).items() if "image" in name or "mien" in name}
    rows = []
    for precision in (torch.float32, torch.bfloat16):
        if precision is torch.bfloat16:
            kept.pop("pytorch-grad-cam, 3 maps, image by image")  # turns maps into numpy, which has no bfloat16
        with torch.autocast("cpu", torch.bfloat16, enabled=precision is torch.bfloat16):
            seconds = best_times(kept, repeats)
        ours = seconds.pop("mien, 4 maps, batch") / batch * 1e3
        what = "4 CAMs, ms an image" if precision is torch.float32 else "4 CAMs in bfloat16, ms an image"
        for name, value in seconds.items():
            peer = value / batch * 1e3
            rows.append(
                Row(f"{what}, against {name.removesuffix(', image by image')}", ours, peer, peer / ours, ">= 10", 1)
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--backbone", default="resnet18", help="a timm ResNet")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = calls(args.backbone, args.batch, args.size)
    seconds = best_times(rows, args.repeats)
    ours = seconds["mien, 4 maps, batch"]
    print(f"{args.backbone}, {args.size} px, batch {args.batch}, {args.threads} thread(s), best of {args.repeats}")
    print("| what | ms per image | times ours |\n| --- | ---: | ---: |")
    for name, value in seconds.items():
        print(f"| {name} | {1000 * value / args.batch:.1f} | {value / ours:.1f} |")


if __name__ == "__main__":
    main()
