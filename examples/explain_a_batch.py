"""Explain a batch with any model of Mien: raw maps, then named calls that make them fit to look at."""

import numpy as np
import torch

from mien.config import ModelConfig
from mien.data.transforms import normalise
from mien.explain import explain
from mien.maps import min_max, resize
from mien.models import create_model
from mien.synthetic.sample import faces


def main(size: int = 64, count: int = 4) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = create_model(ModelConfig(backbone="resnet10t", size=size, channels=[8, 16, 32, 64]), classes=7)
    pixels = np.stack([record.image for record in faces(count, size=size, subjects=1)])
    images = normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    raw = explain(model, images, methods=("cam", "grad_cam", "layer_cam"))  # for the predicted class
    shown = {name: resize(min_max(map_.relu()), (size, size)) for name, map_ in raw.items()}
    for name, map_ in shown.items():
        print(f"{name:<10} raw {tuple(raw[name].shape)} shown {tuple(map_.shape)} mean {map_.mean():.3f}")
    return shown


if __name__ == "__main__":
    main()
