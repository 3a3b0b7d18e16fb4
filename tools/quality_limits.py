"""Within which quality of a face accuracy was measured to hold: curves, and mien/predict/limits.json.

    MIEN_SHARED_DATA=FOLDER python tools/quality_limits.py [--count 300] [--poses 1500] [--only yaw,pitch] [--write]

Faces of FER-2013's PublicTest (FOLDER/fer2013/fer2013_train_public.npz), which the bundled model never saw, against their labels.
Size, sharpness, contrast and cut: each made worse in steps; points are those found on the face as it is, so that reading is judged
and not finding. The limit is the quality at which the line through the steps (median quality, accuracy) falls to KEPT of the
accuracy of the first. Occlusion: the same with covers, points found on the covered face, but at least what PLAIN of the faces stay
below that nobody covered. Yaw and pitch: `--poses` faces as they are. These go into bins; the limit is where the first bin begins
from which on every bin keeps less than KEPT of the accuracy of the smaller half, and where the last one keeps it, the end of what was
measured. Behind most limits stands the middle 90 % of those of RESAMPLED drawings of the faces.
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
            yield Shown(image, found[0].landmarks, LABELS.get(str(names[label]), "Neutral"), found[0].mesh)


def covered(face: Shown, share: float) -> Shown:
    """A turned box or an ellipse of one tone, with noise, over `share` of the face's box, its centre at one of its points."""
    if not share:
        return face
    rng, inner = np.random.default_rng(int(face.image.sum())), face.points[17:]
    centre, (width, height) = inner[rng.integers(len(inner))], inner.max(0) - inner.min(0)
    half, shape, tone = np.sqrt(share * width * height) / 2, rng.uniform(0.7, 1.4), rng.integers(20, 235)
    mask, angle = np.zeros(face.image.shape[:2], np.uint8), float(rng.uniform(0, 180))
    if rng.random() < 0.5:
        axes = (max(1, int(half * shape * 1.13)), max(1, int(half / shape * 1.13)))
        cv2.ellipse(mask, tuple(int(v) for v in np.rint(centre)), axes, angle, 0, 360, 1, -1)
    else:
        box = (tuple(map(float, centre)), (2 * half * shape, 2 * half / shape), angle)
        cv2.fillConvexPoly(mask, np.rint(cv2.boxPoints(box)).astype(np.int32), 1)
    image, noise = face.image.copy(), rng.normal(0, 12, mask.shape)[..., None].repeat(3, 2)
    image[mask > 0] = np.clip(tone + noise, 0, 255).astype(np.uint8)[mask > 0]
    return face._replace(image=image)


COVERED = (0, 0.2, 0.35, 0.5)
"""Shares of the face's box (brows to chin) that are covered."""
PLAIN = 0.95


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


def judged_found(faces: list[Shown]) -> tuple[dict[str, FloatArray], FloatArray]:
    """As `judged` of the occlusion, with faces found on the pictures as they are now; a face that is not found is left out."""
    model = mien.load(any_quality=True)
    found = [picture.faces[0] for picture in model.predict([face.image for face in faces])]
    seen = [k for k, one in enumerate(found) if one.landmarks is not None]
    right = np.array([found[k].expression == faces[k].expression for k in seen], np.float32)
    return {"occlusion": np.array([found[k].quality.occlusion for k in seen], np.float32)}, right


def crossing(medians: list[float], accuracies: list[float]) -> float | None:
    """Quality at which the line through the steps first falls to KEPT of the first accuracy; None where it does not."""
    bar = KEPT * accuracies[0]
    for k in range(1, len(medians)):
        if accuracies[k] < bar:
            share = (accuracies[k - 1] - bar) / (accuracies[k - 1] - accuracies[k])
            return medians[k - 1] + share * (medians[k] - medians[k - 1])
    return None


def limit(values: FloatArray, right: FloatArray) -> tuple[list[str], float]:
    """Lines of the bins, smallest value first, and where the first bin begins from which on every bin keeps less than KEPT of the
    smaller half's accuracy; the 99th percentile where the last one keeps it.
    """
    order = np.argsort(values, kind="stable")
    usual = float(right[order[: len(order) // 2]].mean())
    lines, edge = [], None
    for part in np.array_split(order, BINS):
        accuracy = float(right[part].mean())
        lines.append(f"| {values[part[0]]:.3g} to {values[part[-1]]:.3g} | {accuracy:.2f} | {len(part)} |")
        edge = None if accuracy >= KEPT * usual else float(values[part[0]]) if edge is None else edge
    return lines, float(np.quantile(values, 0.99)) if edge is None else edge


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


def by_bins(factor: str, values: FloatArray, right: FloatArray) -> list[float | None]:
    """Print the curve of a quality as it is found; its limit as [least, most]."""
    lines, edge = limit(values, right)
    print(f"\n| {factor} | accuracy | faces |\n| --- | ---: | ---: |\n" + "\n".join(lines))
    print(f"limit: {edge} ({spread(lambda rows: limit(values[rows], right[rows])[1], len(values))})", flush=True)
    return [None, round(edge, 1)]


def by_covers(faces: list[Shown]) -> list[float | None]:
    """Print the curve of faces that are covered in steps; the limit as [least, most].

    Where the line through the steps falls to KEPT, as for the others, but no less than what PLAIN of the faces stay below that nobody
    covered: the occlusion is a guess.
    """
    parts = [judged_found([covered(face, share) for face in faces]) for share in COVERED]
    values, right = [part["occlusion"] for part, _ in parts], [good for _, good in parts]
    for share, value, good in zip(COVERED, values, right, strict=True):
        print(f"covered {share:g}: median {np.median(value):.3g}, accuracy {good.mean():.3f} of {len(good)}")
    falls = crossing([float(np.median(value)) for value in values], [float(good.mean()) for good in right])
    plain = float(np.quantile(values[0], PLAIN))
    edge = max(plain, falls or 0.0)
    beyond = [float((value > edge).mean()) for value in values]
    every, good = np.concatenate(values), np.concatenate(right)
    print(f"falls at {falls}; {PLAIN:.0%} of the faces that nobody covered are below {plain:.3g}; limit: {edge}")
    print(f"beyond it {', '.join(f'{part:.0%}' for part in beyond)}; accuracy there {good[every > edge].mean():.2f} of "
          f"{(every > edge).sum()}, within {good[every <= edge].mean():.2f}")  # fmt: skip
    return [None, round(edge, 3)]


def main() -> None:
    """Print the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--poses", type=int, default=1500)
    parser.add_argument(
        "--only", default=",".join((*WORSE, "occlusion", "yaw", "pitch")), help="qualities, commas between"
    )
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
    if "occlusion" in wanted:
        found["occlusion"] = by_covers(faces)
    if posed:
        values, right = judged(many, ("yaw", "pitch"))
        found.update({factor: by_bins(factor, np.abs(values[factor]), right) for factor in sorted(posed)})
    if given.write:
        limits = json.loads(LIMITS.read_text(encoding="utf-8"))["limits"] | found
        about = f"Quality of a face within which accuracy holds ({KEPT:.0%} of it); made by tools/quality_limits.py --write."
        LIMITS.write_text(json.dumps({"about": about, "limits": limits}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
