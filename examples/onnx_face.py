"""Name the expression of a face with an exported model: needs onnxruntime, numpy and pillow, nothing else.

From a photo, with five points of its face, in pixels: the eye on the left of the picture, the eye on its right, nose tip, the
mouth's corner on the left, on the right. Any landmark library gives them; without points the picture must be a cut-out face.

    python onnx_face.py face.onnx photo.jpg 310,240 402,238 357,300 322,352 395,350
"""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def beside(model: str):
    """face_crop.py, which `mien export` wrote beside the model."""
    spec = importlib.util.spec_from_file_location("face_crop", Path(model).with_name("face_crop.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def face_of(model: str, about: dict, picture: str, points: list[list[float]]) -> Image.Image:
    """The face as the model wants it: cut by its points, or the whole picture."""
    with Image.open(picture, formats=("JPEG", "PNG", "WEBP", "BMP")) as opened:
        photo = ImageOps.exif_transpose(opened).convert("RGB")
    size = (about["input"]["size"],) * 2
    if not points:
        return ImageOps.fit(photo, size)
    cut = Image.fromarray(beside(model).crop(np.asarray(photo), np.array(points), about))
    return cut if cut.size == size else cut.resize(size, Image.Resampling.BILINEAR)


def main(model: str, picture: str, points: list[list[float]] = (), heat: str | None = None) -> dict[str, float]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["mien"])
    face = face_of(model, about, picture, points)
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(names, {"pixels": np.asarray(face).transpose(2, 0, 1)[None]}), strict=True))
    shares = dict(zip(about["classes"], found["probabilities"][0].tolist(), strict=True))
    for name, share in sorted(shares.items(), key=lambda pair: -pair[1]):
        print(f"{name:<10} {share:6.1%} {'#' * round(40 * share)}")
    if max(shares.values()) < about["calibration"].get("threshold", 0):
        print("unsure: below the threshold at which the model should name an expression")
    if heat is not None:  # where the model looked: the mean over the channels of its last layer
        attention = found["attention"][0, 0] - found["attention"].min()
        levels = Image.fromarray((255 * attention / max(attention.max(), 1e-9)).astype(np.uint8)).resize(face.size)
        Image.composite(Image.new("RGB", face.size, "red"), face, levels.point(lambda level: level // 2)).save(heat)
    return shares


if __name__ == "__main__":
    words = sys.argv[3:]
    given = [[float(part) for part in word.split(",")] for word in words if "," in word]
    rest = [word for word in words if "," not in word]
    if len(sys.argv) < 3 or len(given) not in (0, 5) or len(rest) > 1:
        sys.exit("usage: python onnx_face.py MODEL.onnx PICTURE [X,Y X,Y X,Y X,Y X,Y] [HEAT.png]   (docs/export.md)")
    main(sys.argv[1], sys.argv[2], given, *rest)
