"""Within which quality of a face accuracy was measured to hold: curves, and mien/predict/limits.json.

    MIEN_SHARED_DATA=FOLDER python tools/quality_limits.py --faces FACES [--count 300] [--write]

Size, sharpness, contrast and cut: faces of FER-2013's PublicTest (FOLDER/fer2013/fer2013_train_public.npz), which the bundled model
never saw, made worse in steps; their points are those found on the faces as they are, so that reading is judged and not finding.
The limit is the quality at which the line through the steps (median quality, accuracy) falls to KEPT of the accuracy of the first.
Yaw and pitch: the synthetic faces with an expression of tools/unit_faces.py, in bins by the angle; the limit is where the first bin
begins that keeps less than KEPT of the accuracy of the best half, and where none does, the end of what was measured.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

import mien
from mien.faces.detect import open_provider, points_box
from mien.faces.landmarks import MESH_TO_68
from mien.faces.provider import Face
from mien.schema import EXPRESSIONS, ByteArray, FloatArray

KEPT = 0.85
BINS = 8
SEED = 7301
LABELS = {
    "angry": "Anger",
    "disgust": "Disgust",
    "fear": "Fear",
    "happy": "Happiness",
    "sad": "Sadness",
    "surprise": "Surprise",
}
LIMITS = Path(__file__).parent.parent / "mien" / "predict" / "limits.json"
UPWARDS = ("size", "sharpness", "contrast")
"""Qualities of which more is better."""


class Shown(NamedTuple):
    """A picture, the points of its face, and its expression."""

    image: ByteArray
    points: FloatArray
    expression: str
    mesh: FloatArray | None = None


def smaller(face: Shown, side: float) -> Shown:
    """The picture at `side` pixels."""
    image = cv2.resize(face.image, (int(side), int(side)), interpolation=cv2.INTER_AREA)
    return face._replace(image=image, points=(face.points + 0.5) * side / len(face.image) - 0.5)


def blurred(face: Shown, sigma: float) -> Shown:
    """Gaussian blur, pixels."""
    return face._replace(image=cv2.GaussianBlur(face.image, (0, 0), sigma)) if sigma else face


def darker(face: Shown, gain: float) -> Shown:
    """Less light: dimmer, with the noise of a sensor, which does not get less."""
    rng = np.random.default_rng(int(face.image.sum()) % 2**31)
    noise = rng.normal(0, 1.5, face.image.shape[:2])[..., None]
    return face._replace(image=np.clip(np.rint(face.image * gain + noise), 0, 255).astype(np.uint8))


def cropped(face: Shown, share: float) -> Shown:
    """Without a part of one side; which side depends on the picture."""
    lost, side = round(share * len(face.image)), int(face.image.sum()) % 4
    x0, y0 = (lost if side == 0 else 0), (lost if side == 1 else 0)
    x1, y1 = (-lost or None if side == 2 else None), (-lost or None if side == 3 else None)
    image = np.ascontiguousarray(face.image[y0:y1, x0:x1])
    return face._replace(image=image, points=face.points - np.float32([x0, y0]))


WORSE: dict[str, tuple[Callable[[Shown, float], Shown], tuple[float, ...]]] = {
    "size": (smaller, (48, 36, 28, 22, 18, 14)),
    "sharpness": (blurred, (0, 0.6, 1.0, 1.5, 2.2)),
    "contrast": (darker, (1, 0.3, 0.12, 0.06, 0.03)),
    "cut": (cropped, (0, 0.15, 0.3, 0.45, 0.6)),
}


def photos(data: Path, count: int) -> Iterator[Shown]:
    """Faces of PublicTest that are found as they are."""
    with np.load(data / "fer2013" / "fer2013_train_public.npz") as arrays:
        public = list(arrays["usage_names"]).index("PublicTest")
        rows = np.flatnonzero((arrays["usage"] == public) & ~arrays["not_a_face"])
        rows = np.random.default_rng(SEED).permutation(rows)[:count]
        images, labels, names = arrays["images"][rows], arrays["label"][rows], arrays["label_names"]
    provider = open_provider("mediapipe")
    for pixels, label in zip(images, labels, strict=True):
        image = np.repeat(pixels[..., None], 3, axis=2)
        found = provider(image)
        if found:
            yield Shown(image, found[0].landmarks, LABELS.get(str(names[label]), "Neutral"))


def heads(folder: Path) -> Iterator[Shown]:
    """Synthetic faces with an expression of the seven, turned up to 35 degrees."""
    for split in ("test", "train"):
        images, kept = np.load(folder / f"{split}.npy", mmap_mode="r"), np.load(folder / f"{split}.npz")
        rows, mirrors, meshes = kept["row"], kept["mirror"], kept["mesh"]
        for row, mesh in zip(rows[~mirrors], meshes[~mirrors], strict=True):
            expression = EXPRESSIONS[(row // 2) % len(EXPRESSIONS)]
            if row % 2 and expression != "Contempt":
                yield Shown(np.ascontiguousarray(images[row]), mesh[list(MESH_TO_68), :2], expression, mesh)


def judged(faces: list[Shown], factors: tuple[str, ...]) -> tuple[dict[str, FloatArray], FloatArray]:
    """Values of some qualities, and 1 where the bundled model is right."""
    table = {face.image.tobytes(): face for face in faces}

    def find(image: ByteArray) -> list[Face]:
        face = table[image.tobytes()]
        return [Face(points_box(face.points), face.points, 1.0, "given", face.mesh)]

    model = mien.load(faces=find, any_quality=True)
    found = [picture.faces[0] for picture in model.predict([face.image for face in faces])]
    right = np.array([one.expression == face.expression for one, face in zip(found, faces, strict=True)], np.float32)
    return {name: np.array([getattr(one.quality, name) for one in found], np.float32) for name in factors}, right


def crossing(medians: list[float], accuracies: list[float]) -> float | None:
    """Quality at which the line through the steps first falls to KEPT of the first accuracy; None where it does not."""
    bar = KEPT * accuracies[0]
    for k in range(1, len(medians)):
        if accuracies[k] < bar:
            share = (accuracies[k - 1] - bar) / (accuracies[k - 1] - accuracies[k])
            return medians[k - 1] + share * (medians[k] - medians[k - 1])
    return None


def limit(values: FloatArray, right: FloatArray) -> tuple[list[str], float]:
    """Lines of the bins, smallest value first, and where the first bin begins that keeps less than KEPT of the smaller half's
    accuracy; the 99th percentile where none does.
    """
    order = np.argsort(values, kind="stable")
    usual = float(right[order[: len(order) // 2]].mean())
    lines, edge = [], None
    for part in np.array_split(order, BINS):
        accuracy = float(right[part].mean())
        lines.append(f"| {values[part[0]]:.3g} to {values[part[-1]]:.3g} | {accuracy:.2f} | {len(part)} |")
        if edge is None and accuracy < KEPT * usual:
            edge = float(values[part[0]])
    return lines, float(np.quantile(values, 0.99)) if edge is None else edge


def main() -> None:
    """Print the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=Path, required=True)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    found: dict[str, list[float | None]] = {}
    values, right = judged(list(heads(given.faces)), ("yaw", "pitch"))
    faces = list(photos(Path(os.environ["MIEN_SHARED_DATA"]), given.count))
    for factor, (worse, levels) in WORSE.items():
        steps = [judged([worse(face, level) for face in faces], (factor,)) for level in levels]
        medians = [float(np.median(part[factor])) for part, _ in steps]
        rights = [float(good.mean()) for _, good in steps]
        edge = crossing(medians, rights)
        for level, (part, good) in zip(levels, steps, strict=True):
            print(
                f"{factor} step {level:g}: median {np.median(part[factor]):.3g}, accuracy {good.mean():.3f} of {len(good)}"
            )
        print(f"limit: {edge}")
        if edge is not None:
            found[factor] = [round(edge, 3), None] if factor in UPWARDS else [None, round(edge, 3)]
    for factor, part in values.items():
        lines, edge = limit(np.abs(part), right)
        print(f"\n| {factor} | accuracy | faces |\n| --- | ---: | ---: |\n" + "\n".join(lines) + f"\nlimit: {edge}")
        found[factor] = [None, round(edge, 1)]
    if given.write:
        about = f"Quality of a face within which accuracy holds ({KEPT:.0%} of it); made by tools/quality_limits.py --write."
        LIMITS.write_text(json.dumps({"about": about, "limits": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
