"""Can a net that saw synthetic faces only place 68 points on photos? Trains one and sets it beside a face provider.

    mien synthesize --out stores/faces --faces 6000 --subjects 600 --size 96 --seed 11
    MIEN_SHARED_DATA=FOLDER python tools/rig_landmarks.py stores/faces [--epochs 30] [--overlays FOLDER]

FOLDER holds faces/ as tools/check_landmarks.py reads it. The net sees a grey square of 64 px and returns 68 points; on a
photo it starts at the provider's box and twice cuts anew around its own points. A few minutes on one core.
"""

import argparse
import os
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from check_landmarks import draw, read
from torch import Tensor, nn

from mien.data.store import open_store
from mien.faces.detect import open_provider
from mien.faces.landmarks import FLIP, GROUPS, eye_distance, normalised_error
from mien.progress import track
from mien.schema import FloatArray

SIDE, MARGIN, BATCH, ROUNDS = 64, 1.35, 64, 3


def make_net() -> nn.Module:
    layers, before = [], 1
    for width in (32, 64, 96, 128):
        for stride in (2, 1):
            layers += [nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            before = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(before * (SIDE // 16) ** 2, 2 * 68)).to(
        memory_format=torch.channels_last
    )


def square(points: Tensor) -> Tensor:
    """(B, 3) centre and side of the square around each face, pixels."""
    low, high = points.amin(1), points.amax(1)
    return torch.cat([(low + high) / 2, MARGIN * (high - low).amax(1, keepdim=True)], 1)


def cut(pictures: Tensor, boxes: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Grey squares (B, 1, S, S) and the matrix (B, 2, 3) from their coordinates, -1 to 1, to pixels of the pictures."""
    cosine, sine, half = angle.cos(), angle.sin(), boxes[:, 2] / 2
    matrix = torch.stack([cosine * half, -sine * half, boxes[:, 0], sine * half, cosine * half, boxes[:, 1]], 1)
    matrix = matrix.view(-1, 2, 3)
    height, width = pictures.shape[-2:]
    grid = F.affine_grid(matrix, (len(pictures), 1, SIDE, SIDE), align_corners=False)
    grid = (2 * grid + 1) / torch.tensor([width, height]) - 1
    return F.grid_sample(pictures, grid, padding_mode="border", align_corners=False), matrix


def changed(squares: Tensor, draws: torch.Generator) -> Tensor:
    """Contrast, light, gamma, side light, blur and noise at random: what tells a synthetic face from a photo should not count."""

    def some(low: float, high: float) -> Tensor:
        return torch.empty(len(squares), 1, 1, 1).uniform_(low, high, generator=draws)

    x = (squares / 255).clamp(1e-3, 1) ** some(-0.7, 0.7).exp()
    ramp = torch.linspace(-1, 1, SIDE)
    x = x * (1 + some(-0.5, 0.5) * ramp + some(-0.3, 0.3) * ramp[:, None])
    mean = x.mean((1, 2, 3), keepdim=True)
    x = mean + (x - mean) * some(0.5, 1.6) + some(-0.2, 0.2)
    soft = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    x = x + (soft - x) * some(-0.8, 1)
    return x + some(0, 0.06) * torch.randn(x.shape, generator=draws)


def standard(squares: Tensor) -> Tensor:
    mean, spread = squares.mean((1, 2, 3), keepdim=True), squares.std((1, 2, 3), keepdim=True)
    return ((squares - mean) / spread.clamp_min(1e-3)).to(memory_format=torch.channels_last)


def train(pictures: Tensor, points: Tensor, epochs: int) -> nn.Module:
    torch.manual_seed(0)
    draws, net = torch.Generator().manual_seed(0), make_net()
    steps = len(pictures) // BATCH
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=epochs * steps)
    for _ in track(range(epochs), "epochs", epochs):
        for rows in torch.randperm(len(pictures), generator=draws)[: steps * BATCH].view(steps, BATCH):
            images, marks = pictures[rows], points[rows]
            mirrored = torch.rand(BATCH, generator=draws) < 0.5
            images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)
            other = marks[:, list(FLIP)] * torch.tensor([-1.0, 1.0]) + torch.tensor([pictures.shape[-1] - 1.0, 0.0])
            marks = torch.where(mirrored.view(-1, 1, 1), other, marks)
            boxes = square(marks)
            boxes[:, :2] += 0.08 * boxes[:, 2:] * torch.randn(BATCH, 2, generator=draws)
            boxes[:, 2] *= torch.empty(BATCH).uniform_(0.85, 1.2, generator=draws)
            squares, matrix = cut(images, boxes, 0.25 * torch.randn(BATCH, generator=draws))
            target = torch.linalg.solve(matrix[:, :, :2], (marks - matrix[:, :, 2][:, None]).transpose(1, 2))
            found = net(standard(changed(squares, draws))).view(BATCH, 68, 2)
            loss = F.smooth_l1_loss(found, target.transpose(1, 2), beta=0.02)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval()


@torch.no_grad()
def place(net: nn.Module, picture: Tensor, box: Tensor) -> FloatArray:
    """(68, 2) pixels: cut, place, cut anew around the points."""
    boxes, angle = box[None], torch.zeros(1)
    for _ in range(ROUNDS):
        squares, matrix = cut(picture, boxes, angle)
        both = torch.cat([squares, squares.flip(3)])
        found, mirrored = net(standard(both / 255)).view(2, 68, 2)
        found = (found + mirrored[list(FLIP)] * torch.tensor([-1.0, 1.0])) / 2
        points = found @ matrix[0, :, :2].T + matrix[0, :, 2]
        eyes = points[42:48].mean(0) - points[36:42].mean(0)
        boxes, angle = square(points[None]), torch.atan2(eyes[1], eyes[0])[None]
    return points.numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--provider", default="mediapipe")
    parser.add_argument("--overlays", type=Path, help="write pictures of real people here, outside the repository")
    options = parser.parse_args()
    store = open_store(options.store)
    rows = np.flatnonzero(np.isfinite(store.landmarks).all(axis=(1, 2)))
    weights = torch.tensor([0.299, 0.587, 0.114])
    parts = [torch.from_numpy(store.images(part)).float() @ weights for part in np.array_split(rows, 32)]
    pictures, points = torch.cat(parts)[:, None], torch.from_numpy(store.landmarks[rows].astype(np.float32))
    tests = torch.from_numpy(store.split[rows] == "test")
    net = train(pictures[~tests], points[~tests], options.epochs)
    drawn = [
        normalised_error(place(net, picture[None], square(mark[None])[0]), mark.numpy())
        for picture, mark in zip(pictures[tests][:300], points[tests][:300], strict=True)
    ]
    print(f"synthetic faces of unseen people: NME {np.mean(drawn):.2f} % of the outer-eye distance")
    provider, folder = open_provider(options.provider, None), Path(os.environ["MIEN_SHARED_DATA"]) / "faces"
    gaps, sheets = {"rig": [], options.provider: []}, []
    with np.load(folder / "landmarks.npz") as arrays:
        known = [(p, t) for p, t in zip(arrays["path"].tolist(), arrays["ibug68"], strict=True) if np.isfinite(t).any()]
    for path, truth in known:
        image = read(folder / path)
        face = provider(image)[0]
        grey = torch.from_numpy(image).float() @ weights
        x0, y0, x1, y1 = face.box.tolist()
        box = torch.tensor([(x0 + x1) / 2, (y0 + y1) / 2, MARGIN * max(x1 - x0, y1 - y0)])
        ours = place(net, grey[None, None], box)
        for name, found in (("rig", ours), (options.provider, face.landmarks)):
            gaps[name].append(100 * np.linalg.norm(found - truth, axis=1) / eye_distance(truth))
        sheets.append(draw(image, ours, truth))
    for name, values in gaps.items():
        each = np.array(values)
        groups = ", ".join(f"{group} {np.nanmean(each[:, list(index)]):.1f}" for group, index in GROUPS.items())
        print(f"{name} on {len(known)} photos: NME {np.nanmean(each):.2f} ({groups})")
    if options.overlays:
        rows = [np.hstack(sheets[k : k + 4]) for k in range(0, 12, 4)]
        cv2.imwrite(str(options.overlays / "rig_landmarks.png"), np.vstack(rows))


if __name__ == "__main__":
    main()
