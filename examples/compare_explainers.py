"""Score every explainer against the action-unit cue, beside the baseline of a map that never saw the face."""

import numpy as np
import torch

from mien.config import ModelConfig
from mien.cues import CueConfig, controls, render_cue
from mien.data.transforms import normalise
from mien.explain import EXPLAINERS, Sampling, evidence, explain, fitting
from mien.metrics.alignment import alignment_scores, cam_scores
from mien.models import create_model
from mien.schema import class_index
from mien.synthetic.sample import faces


def main(size: int = 64, count: int = 14) -> dict[str, dict[str, float]]:
    torch.manual_seed(0)
    model = create_model(ModelConfig(backbone="resnet10t", size=size, channels=[8, 16, 32, 64]), classes=7)  # untrained
    records = list(faces(count, size=size, subjects=2))
    images = normalise(torch.from_numpy(np.stack([r.image for r in records])).permute(0, 3, 1, 2))
    landmarks = torch.from_numpy(np.stack([r.landmarks for r in records]))
    labels = torch.tensor([class_index("basic-7")[r.expression] for r in records])
    cue = render_cue(CueConfig(), landmarks, labels, image_size=(size, size), size=(size, size))

    methods = fitting(model, images[:1], tuple(EXPLAINERS))  # a CNN has no attention between tokens
    maps = explain(model, images, target=labels, methods=methods, sampling=Sampling(samples=2))
    scores = {name: cam_scores(evidence(name, raw), cue.maps) for name, raw in maps.items()}
    scores["baseline: uniform"] = alignment_scores(controls.uniform(cue.maps), cue.maps)
    # Neutral has no action units: its cue is not valid and is left out of the mean.
    means = {name: {key: float(v[cue.valid].mean()) for key, v in kinds.items()} for name, kinds in scores.items()}
    for name, kinds in means.items():
        print(f"{name:<22}" + "  ".join(f"{key} {value:.3f}" for key, value in kinds.items()))
    return means


if __name__ == "__main__":
    main()
