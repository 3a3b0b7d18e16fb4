"""Name expression and action units by two exported graphs, of pixels and of blendshapes; needs onnxruntime, numpy and pillow.

    mien export --out face.onnx && mien export --units --out units.onnx
    python onnx_fusion.py face.onnx units.onnx photo.jpg face.json

face.json is what a landmark library says of the face: {"points": [[x, y], ...], "width": 210, "blendshapes": {"jawOpen": 0.1, ...}},
with five points (see onnx_face.py) or iBUG's 68, the width of the face's box in pixels, and the 52 of MediaPipe's Face Landmarker.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from onnx_face import face_of


def opened(model: str):
    """A graph, and the JSON in its metadata."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session, json.loads(session.get_modelmeta().custom_metadata_map["mien"])


def answers(session, values: np.ndarray) -> dict[str, np.ndarray]:
    """Outputs by name."""
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: values}), strict=True))


def main(model: str, units: str, picture: str, face: dict) -> tuple[dict[str, float], list[str]]:
    net, about = opened(model)
    map_, facts = opened(units)
    pixels = np.asarray(face_of(model, about, picture, face["points"])).transpose(2, 0, 1)
    views = np.stack([pixels, pixels[:, :, ::-1]])  # as it is and in the mirror, as `mien predict` does
    logits = answers(net, views)["logits"].mean(0)
    shapes = np.array([[face["blendshapes"][name] for name in facts["input"]["names"]]], np.float32)
    measured = answers(map_, shapes)
    if "added" in measured and face["width"] >= facts["least_width"]:  # the run has a fusion
        logits = logits + measured["added"][0]
    scaled = np.exp((logits - logits.max()) / about["calibration"]["temperature"])
    shares = dict(zip(about["classes"], (scaled / scaled.sum()).tolist(), strict=True))
    present = [name for name, there in zip(facts["columns"], measured["present"][0], strict=True) if there]
    for name, share in sorted(shares.items(), key=lambda pair: -pair[1]):
        print(f"{name:<10} {share:6.1%} {'#' * round(40 * share)}")
    print("measured units:", ", ".join(present) or "none of those that are proven")
    return shares, present


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit("usage: python onnx_fusion.py FACE.onnx UNITS.onnx PICTURE FACE.json   (docs/export.md)")
    main(*sys.argv[1:4], json.loads(Path(sys.argv[4]).read_text(encoding="utf-8")))
