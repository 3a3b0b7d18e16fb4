"""Within which quality of a face accuracy was measured to hold: curves, and mien/predict/limits.json.

    MIEN_SHARED_DATA=FOLDER python tools/quality_limits.py [--count 300] [--poses 3600] [--only size,yaw] [--write]

Faces of FER-2013's PublicTest (FOLDER/fer2013/fer2013_train_public.npz), which the bundled model never saw, against their labels.
Size, sharpness, contrast and cut: each made worse in steps; points are those found on the face as it is, so that reading is judged
and not finding. The limit is the quality at which the line through the steps (median quality, accuracy) falls to KEPT of the
accuracy of the first; behind it stands the middle 90 % of those of RESAMPLED drawings of the faces. Yaw and pitch: `--poses` faces as
they are, in bins, beside how many of the annotators of FER+ name the label; no limit is taken from these, for turned faces are
harder for people as well. The limits of occlusion, yaw and pitch are those of tools/quality_pairs.py.
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
import numpy.typing as npt

import mien
from mien.faces.detect import open_provider, points_box
from mien.faces.provider import Face
from mien.schema import ByteArray, FloatArray

KEPT = 0.85
BINS = 8
SEED = 7301
RESAMPLED = 400
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
    agreed: float = float("nan")
    """Share of the annotators of FER+ who name that expression."""


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
        votes, voted = arrays["ferplus_votes"][rows], [str(name) for name in arrays["ferplus_names"]]
    provider = open_provider("mediapipe")
    for pixels, label, given in zip(images, labels, votes, strict=True):
        image = np.repeat(pixels[..., None], 3, axis=2)
        found = provider(image)
        if found:
            expression = LABELS.get(str(names[label]), "Neutral")
            agreed = given[voted.index(expression.lower())] / max(int(given.sum()), 1)
            yield Shown(image, found[0].landmarks, expression, found[0].mesh, float(agreed))


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


def spread(edge_of: Callable[[npt.NDArray[np.int64]], float | None], faces: int) -> str:
    """The middle 90 % of a limit where the faces are drawn anew, with replacement, RESAMPLED times; in words."""
    rng = np.random.default_rng(SEED)
    edges = [edge_of(rng.integers(faces, size=faces)) for _ in range(RESAMPLED)]
    known = [edge for edge in edges if edge is not None]
    if not known:
        return "none in any resampling"
    low, high = np.quantile(known, (0.05, 0.95))
    return f"{low:.3g} to {high:.3g} in {len(known)} of {RESAMPLED} resamplings"


def by_steps(faces: list[Shown], factor: str) -> list[float | None] | None:
    """Print the curve of a quality that is made worse in steps; its limit as [least, most], None where there is none."""
    worse, levels = WORSE[factor]
    parts = [judged([worse(face, level) for face in faces], (factor,)) for level in levels]
    values, right = np.stack([part[factor] for part, _ in parts]), np.stack([good for _, good in parts])

    def edge_of(rows: npt.NDArray[np.int64]) -> float | None:
        return crossing(np.median(values[:, rows], 1).tolist(), right[:, rows].mean(1).tolist())

    for level, value, good in zip(levels, values, right, strict=True):
        print(f"{factor} step {level:g}: median {np.median(value):.3g}, accuracy {good.mean():.3f} of {len(good)}")
    edge = edge_of(np.arange(len(faces)))
    print(f"limit: {edge} ({spread(edge_of, len(faces))})", flush=True)
    if edge is None:
        return None
    return [round(edge, 3), None] if factor in UPWARDS else [None, round(edge, 3)]


def by_bins(factor: str, values: FloatArray, right: FloatArray, agreed: FloatArray) -> None:
    """Print the curve of a quality as it is found, and how far people agree with the labels there."""
    print(f"\n| {factor} | accuracy | annotators | faces |\n| --- | ---: | ---: | ---: |")
    for part in np.array_split(np.argsort(values, kind="stable"), BINS):
        scores = f"{right[part].mean():.2f} | {agreed[part].mean():.2f} | {len(part)}"
        print(f"| {values[part[0]]:.3g} to {values[part[-1]]:.3g} | {scores} |", flush=True)


def main() -> None:
    """Print the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--poses", type=int, default=3600)
    parser.add_argument("--only", default=",".join((*WORSE, "yaw", "pitch")), help="qualities, commas between")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    wanted = given.only.split(",")
    posed = {"yaw", "pitch"} & set(wanted)
    many = list(photos(Path(os.environ["MIEN_SHARED_DATA"]), given.poses if posed else given.count))
    faces = [face._replace(mesh=None) for face in many[: given.count]]
    found: dict[str, list[float | None]] = {}
    for factor in [name for name in wanted if name in WORSE]:
        edges = by_steps(faces, factor)
        found.update({} if edges is None else {factor: edges})
    if posed:
        values, right = judged(many, ("yaw", "pitch"))
        agreed = np.array([face.agreed for face in many], np.float32)
        for factor in sorted(posed):
            by_bins(factor, np.abs(values[factor]), right, agreed)
    if given.write:
        write_limits(found)


def write_limits(found: dict[str, list[float | None]]) -> None:
    """Put new limits into LIMITS; the others stay."""
    limits = json.loads(LIMITS.read_text(encoding="utf-8"))["limits"] | found
    about = (
        f"Quality of a face within which accuracy holds ({KEPT:.0%} of it); "
        "made by tools/quality_limits.py --write and tools/quality_pairs.py --write."
    )
    LIMITS.write_text(json.dumps({"about": about, "limits": limits}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
