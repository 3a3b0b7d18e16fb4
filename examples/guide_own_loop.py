"""Guide a net that is not Mien's, in a training loop that is not Mien's, then score it beside the same net unguided."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import mien
from mien.synthetic.synthesize import synthesize
from mien.wrapped.classes import labels_for

CLASSES = ("neutral", "happy", "surprised", "afraid", "angry", "disgusted", "sad")


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 16, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, 2, 1),
        nn.ReLU(),
    ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, len(CLASSES)))


def train(model: nn.Module, store, weight: float, epochs: int, batch: int = 32) -> nn.Module:
    wrapped = mien.wrap(model, CLASSES, size=store.info.size)
    guide = mien.guide(model, CLASSES, weight=weight)
    labels = torch.from_numpy(labels_for(store, wrapped.classes))
    rows = torch.from_numpy((store.split == "train").nonzero()[0])
    points, optimizer = torch.from_numpy(store.landmarks), torch.optim.Adam(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(epochs):
        for part in rows[torch.randperm(len(rows))].split(batch):
            images, landmarks = guide.change(wrapped.prepare(store.images(part.numpy())), points[part])
            logits, extra = guide(images, labels[part], landmarks)
            optimizer.zero_grad()
            (F.cross_entropy(logits, labels[part]) + extra).backward()
            optimizer.step()
    return model


def main(out: Path = Path("runs/own-loop"), faces: int = 700, size: int = 48, epochs: int = 10) -> dict[str, float]:
    synthesize(out=out / "faces", faces=faces, size=size, subjects=faces // 14, workers=1)
    store = mien.open_store(out / "faces")
    found = {}
    for name, weight in (("unguided", 0.0), ("guided", 4.0)):
        model = mien.wrap(train(net(), store, weight, epochs), CLASSES, size=size, name=name)
        results = mien.evaluate_model(model, store, out=out / name)
        found[name] = results["alignment"]["layer-1"]["cosine"]["class_mean"]
    print(found, f"now: mien compare {out / 'unguided'} {out / 'guided'} --store {out / 'faces'}")
    return found


if __name__ == "__main__":
    main()
