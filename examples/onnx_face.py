"""Name the expression of a cut-out face with an exported model: needs onnxruntime, numpy and pillow, nothing else."""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def main(model: str, picture: str, heat: str | None = None) -> dict[str, float]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["mien"])
    with Image.open(picture) as opened:
        face = ImageOps.fit(ImageOps.exif_transpose(opened).convert("RGB"), (about["input"]["size"],) * 2)
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(names, {"pixels": np.asarray(face).transpose(2, 0, 1)[None]}), strict=True))
    shares = dict(zip(about["classes"], found["probabilities"][0].tolist(), strict=True))
    for name, share in sorted(shares.items(), key=lambda pair: -pair[1]):
        print(f"{name:<10} {share:6.1%} {'#' * round(40 * share)}")
    if heat is not None:  # where the model looked: the mean over the channels of its last layer
        attention = found["attention"][0, 0] - found["attention"].min()
        levels = Image.fromarray((255 * attention / max(attention.max(), 1e-9)).astype(np.uint8)).resize(face.size)
        Image.composite(Image.new("RGB", face.size, "red"), face, levels.point(lambda level: level // 2)).save(heat)
    return shares


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit("usage: python onnx_face.py MODEL.onnx FACE.png [HEAT.png]   (a cut-out face, see docs/export.md)")
    main(*sys.argv[1:])
