"""Within which quality of a face the bundled model was measured to work: curves of accuracy, and mien/predict/limits.json.

    MIEN_SHARED_DATA=FOLDER python tools/quality_limits.py [--faces 200] [--write]

Size, sharpness, contrast, cut and roll: faces of FER-2013's PublicTest (FOLDER/fer2013/fer2013_train_public.npz), which the model
never saw, made worse in steps. Yaw and pitch: synthetic faces of unseen people, turned in steps. A quality is read off each face by
mien.faces.quality, faces are put into bins by it, and the limit is the last value up to which every bin keeps at least KEPT of the
accuracy of the faces that were left as they are. Faces that are not found count as neither right nor wrong; their number is printed.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

import mien
from mien.schema import EXPRESSIONS, ByteArray, FloatArray
from mien.synthetic.render import render_face
from mien.synthetic.sample import sample_face

KEPT = 0.9
BINS = 8
LABELS = {
    "angry": "Anger",
    "disgust": "Disgust",
    "fear": "Fear",
    "happy": "Happiness",
    "sad": "Sadness",
    "surprise": "Surprise",
}
SEED, PEOPLE = 7301, 30
LIMITS = Path(__file__).parent.parent / "mien" / "predict" / "limits.json"


def smaller(image: ByteArray, side: float) -> ByteArray:
    return cv2.resize(image, (int(side), int(side)), interpolation=cv2.INTER_AREA)


def blurred(image: ByteArray, sigma: float) -> ByteArray:
    return cv2.GaussianBlur(image, (0, 0), sigma) if sigma else image


def darker(image: ByteArray, gain: float) -> ByteArray:
    """Less light: dimmer, with the noise of a sensor that does not get less."""
    rng = np.random.default_rng(int(image.sum()) % 2**31)
    noise = rng.normal(0, 1.5, image.shape[:2])[..., None]
    return np.clip(np.rint(image * gain + noise), 0, 255).astype(np.uint8)


def cropped(image: ByteArray, share: float) -> ByteArray:
    """Without a part of one side; which side depends on the picture."""
    side, lost = int(image.sum()) % 4, round(share * len(image))
    turned = np.rot90(image, side)[lost:]
    return np.ascontiguousarray(np.rot90(turned, -side))


def rolled(image: ByteArray, degrees: float) -> ByteArray:
    height, width = image.shape[:2]
    side = int(1.5 * max(height, width))
    padded = cv2.copyMakeBorder(image, *[(side - height) // 2] * 2, *[(side - width) // 2] * 2, cv2.BORDER_REPLICATE)
    middle = ((padded.shape[1] - 1) / 2, (padded.shape[0] - 1) / 2)
    turn = cv2.getRotationMatrix2D(middle, -degrees, 1.0)
    return cv2.warpAffine(padded, turn, padded.shape[1::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


WORSE: dict[str, tuple[Callable[[ByteArray, float], ByteArray], tuple[float, ...]]] = {
    "size": (smaller, (48, 36, 28, 22, 18, 14)),
    "sharpness": (blurred, (0, 0.6, 1.0, 1.5, 2.2, 3.0)),
    "contrast": (darker, (1, 0.5, 0.25, 0.12, 0.06, 0.03)),
    "cut": (cropped, (0, 0.15, 0.3, 0.4, 0.5)),
    "roll": (rolled, (0, 30, 60, 90, 120, 150, 180)),
}
TURNED = {"yaw": (-60, -45, -30, -15, 0, 15, 30, 45, 60), "pitch": (-45, -30, -15, 0, 15, 30, 45)}


def photos(data: Path, count: int) -> Iterator[tuple[ByteArray, str]]:
    with np.load(data / "fer2013" / "fer2013_train_public.npz") as arrays:
        public = list(arrays["usage_names"]).index("PublicTest")
        rows = np.flatnonzero((arrays["usage"] == public) & ~arrays["not_a_face"])
        rows = np.random.default_rng(SEED).permutation(rows)[:count]
        images, labels, names = arrays["images"][rows], arrays["label"][rows], arrays["label_names"]
    for image, label in zip(images, labels, strict=True):
        yield np.repeat(image[..., None], 3, axis=2), LABELS.get(str(names[label]), "Neutral")


def heads(factor: str, level: float) -> Iterator[tuple[ByteArray, str]]:
    for index in range(2 * PEOPLE):
        face = sample_face(SEED, index, PEOPLE, EXPRESSIONS[:7])
        pose = (level, 0.0, 0.0) if factor == "yaw" else (0.0, level, 0.0)
        face = replace(face, pose=pose, scale=0.24)
        yield render_face(face, 128).image, str(face.expression)


def judged(
    model: mien.FaceModel, faces: list[tuple[ByteArray, str]], factor: str
) -> tuple[FloatArray, FloatArray, int]:
    """Value of the factor and 1 for a right answer, of the faces that are found; how many are not."""
    values, right, missed = [], [], 0
    for picture, (_, truth) in zip(model.predict([image for image, _ in faces]), faces, strict=True):
        if not picture.faces:
            missed += 1
            continue
        face = picture.faces[0]
        values.append(getattr(face.quality, factor))
        right.append(face.expression == truth)
    return np.array(values, np.float32), np.array(right, np.float32), missed


def limit(
    values: FloatArray, right: FloatArray, usual: float, downwards: bool
) -> tuple[list[tuple[float, float, float, int]], float | None]:
    """Bins (from, to, accuracy, faces), best quality first, and the last edge up to which all keep KEPT of `usual`.

    None where all bins do.
    """
    order = np.argsort(-values if downwards else values)
    bins, edge, lost = [], None, False
    for part in np.array_split(order, BINS):
        accuracy = float(right[part].mean())
        bins.append((float(values[part[0]]), float(values[part[-1]]), accuracy, len(part)))
        if accuracy < KEPT * usual and not lost:
            edge, lost = bins[-1][0], True
    return bins, edge if lost else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faces", type=int, default=200)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    model, found = mien.load(), {}
    faces = list(photos(Path(os.environ["MIEN_SHARED_DATA"]), given.faces))
    for factor in (*WORSE, *TURNED):
        values, right, missed, usual = [], [], [], float("nan")
        for level in WORSE[factor][1] if factor in WORSE else TURNED[factor]:
            if factor in WORSE:
                made = [(WORSE[factor][0](image, level), truth) for image, truth in faces]
            else:
                made = list(heads(factor, level))
            seen, good, lost = judged(model, made, factor)
            if (factor in WORSE and level == WORSE[factor][1][0]) or (factor in TURNED and level == 0):
                usual = float(good.mean())
            at = f"{np.median(seen):.3g}" if len(seen) else "-"
            print(
                f"{factor} step {level:g}: {len(made)} faces, {lost} not found, accuracy {good.mean():.3f}, median {factor} {at}",
                flush=True,
            )
            values.append(np.abs(seen) if factor in ("roll", "yaw", "pitch") else seen)
            right.append(good)
            missed.append(lost)
        downwards = factor in ("size", "sharpness", "contrast")
        bins, edge = limit(np.concatenate(values), np.concatenate(right), usual, downwards)
        for low, high, accuracy, count in bins:
            print(f"  {factor} {low:.3g} to {high:.3g}: accuracy {accuracy:.3f} ({count})")
        print(f"  limit: {edge}", flush=True)
        if edge is not None:
            found[factor] = [round(edge, 3), None] if downwards else [None, round(edge, 3)]
    if given.write:
        LIMITS.write_text(
            json.dumps(
                {
                    "about": f"Quality within which accuracy holds ({KEPT:.0%} of it); made by tools/quality_limits.py --write.",
                    "limits": found,
                },
                indent=1,
            )
            + "\n",
            encoding="utf-8",
        )


if __name__ == "__main__":
    main()
