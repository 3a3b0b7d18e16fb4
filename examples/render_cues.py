"""Draw every kind of cue and every control for one synthetic face into one picture."""

from pathlib import Path

import torch

from mien import draw
from mien.cues import CONTROLS, CUES, CueConfig, mean_cue, render_cue
from mien.schema import class_index
from mien.synthetic.sample import faces


def main(out: Path = Path("cues.png"), size: int = 96) -> Path:
    records = list(faces(7, size=size, subjects=1))
    landmarks = torch.stack([torch.from_numpy(record.landmarks) for record in records])
    labels = torch.tensor([class_index("basic-7")[record.expression] for record in records])
    face = next(i for i, record in enumerate(records) if record.expression == "Happiness")
    images = torch.stack([torch.from_numpy(record.image) for record in records]).permute(0, 3, 1, 2) / 255
    units = torch.stack([torch.from_numpy(record.action_units) for record in records])
    sizes = {"image_size": (size, size), "size": (size, size)}
    mean, class_means = mean_cue(CueConfig(), [(landmarks, labels)], **sizes)
    wanted = [CueConfig(kind=kind) for kind in CUES] + [CueConfig(control=name) for name in CONTROLS if name != "none"]
    pictures, names = [records[face].image], ["face"]
    for config in wanted:
        generator = torch.Generator().manual_seed(0)  # of the controls shuffled and other_class
        shown = {"images": images, "action_units": units}
        cue = render_cue(
            config,
            landmarks,
            labels,
            generator=generator,
            mean=class_means if config.control == "class_mean" else mean,
            **shown,
            **sizes,
        )
        assert cue.valid[face], "Happiness has action units, and the landmarks are known"
        pictures.append(draw.overlay(records[face].image, cue.maps[face, 0].numpy()))
        names.append(config.kind if config.control == "none" else config.control)
    draw.write_png(out, draw.strip(pictures, names))
    print(out)
    return out


if __name__ == "__main__":
    main()
