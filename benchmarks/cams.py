"""Four CAMs of a batch: closed form in one forward pass, against other libraries called as their users call them.

    python benchmarks/cams.py [--batch 16] [--size 112] [--backbone resnet18] [--repeats 7] [--threads 1]

Ours: `explain` on the whole batch (CAM, Grad-CAM, Grad-CAM++, LayerCAM). Theirs: GradCAM, GradCAM++ and LayerCAM (and
CAM in torch-cam), one extractor and one image at a time, as in their READMEs; then once with the whole batch at a time.
Theirs also normalise (and pytorch-grad-cam resizes) their maps. Random weights: speed does not depend on them.
Prints milliseconds per image for all of the maps, and the ratio to ours.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from mien.compat import ensure_torchvision
from mien.explain import explain
from mien.schema import Output

ensure_torchvision()
import pytorch_grad_cam  # noqa: E402
import timm  # noqa: E402
import torchcam.methods  # noqa: E402
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget  # noqa: E402


class Classifier(nn.Module):
    """The contract of `mien.models` around the very timm net that the other libraries explain."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.head = net.fc

    def forward(self, images: Tensor) -> Output:
        final = self.net.forward_features(images)
        maps = torch.einsum("kc,bchw->bkhw", self.head.weight, final)
        return Output(self.head(final.mean(dim=(2, 3))), (final,), maps)


def grad_cam_library(net: nn.Module, images: Tensor, target: Tensor, step: int) -> None:
    for name in ("GradCAM", "GradCAMPlusPlus", "LayerCAM"):
        with getattr(pytorch_grad_cam, name)(model=net, target_layers=[net.layer4]) as extractor:
            for i in range(0, len(images), step):
                extractor(images[i : i + step], [ClassifierOutputTarget(int(k)) for k in target[i : i + step]])


def torch_cam_library(net: nn.Module, images: Tensor, target: Tensor, step: int) -> None:
    for name in ("CAM", "GradCAM", "GradCAMpp", "LayerCAM"):
        options = {"fc_layer": "fc"} if name == "CAM" else {}
        with getattr(torchcam.methods, name)(net, "layer4", **options) as extractor:
            for i in range(0, len(images), step):
                extractor(target[i : i + step].tolist(), net(images[i : i + step]))


def best_times(rows: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Least seconds of each row; rounds go through all rows, so that a busy moment of the machine hits them alike."""
    for function in rows.values():
        function()
    times: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(repeats):
        for name, function in rows.items():
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return {name: min(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--backbone", default="resnet18", help="a timm ResNet")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    generator = torch.Generator().manual_seed(0)
    net = timm.create_model(args.backbone, num_classes=7).eval()
    images = torch.randn(args.batch, 3, args.size, args.size, generator=generator)
    target = torch.randint(7, (args.batch,), generator=generator)
    model = Classifier(net)

    def forward() -> None:
        with torch.no_grad():
            net(images)

    rows = {
        "forward pass only": forward,
        "mien, 4 maps, batch": lambda: explain(model, images, target),
        "pytorch-grad-cam, 3 maps, image by image": lambda: grad_cam_library(net, images, target, 1),
        "torch-cam, 4 maps, image by image": lambda: torch_cam_library(net, images, target, 1),
        "pytorch-grad-cam, 3 maps, batch": lambda: grad_cam_library(net, images, target, args.batch),
        "torch-cam, 4 maps, batch": lambda: torch_cam_library(net, images, target, args.batch),
    }
    seconds = best_times(rows, args.repeats)
    ours = seconds["mien, 4 maps, batch"]
    print(f"{args.backbone}, {args.size} px, batch {args.batch}, {args.threads} thread(s), best of {args.repeats}")
    print("| what | ms per image | times ours |\n| --- | ---: | ---: |")
    for name, value in seconds.items():
        print(f"| {name} | {1000 * value / args.batch:.1f} | {value / ours:.1f} |")


if __name__ == "__main__":
    main()
