"""Measure a face provider on pictures with human-placed points, on pictures without people, and on FER-2013.

    MIEN_SHARED_DATA=FOLDER python tools/check_landmarks.py [--provider mediapipe] [--fer-rows 1000] [--overlays FOLDER]

FOLDER holds faces/ (landmarks.npz with path and ibug68, the pictures, negatives/) and fer2013/fer2013_train_public.npz.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import cv2
import numpy as np

from mien.faces.detect import open_provider
from mien.faces.landmarks import GROUPS, eye_distance, normalised_error
from mien.faces.provider import Provider
from mien.schema import ByteArray, FloatArray

LEAST = 0.7
"""Confidence from which `mien predict` counts a face."""
FACE_SHARE = 0.38
"""Width of the face in the portraits."""


def read(path: Path) -> ByteArray:
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def draw(image: ByteArray, points: FloatArray, truth: FloatArray | None = None, scale: int = 1) -> ByteArray:
    canvas = cv2.cvtColor(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC), cv2.COLOR_RGB2BGR)
    for cloud, colour in ((truth, (0, 255, 0)), (points, (0, 0, 255))):
        if cloud is not None:
            for x, y in cloud[np.isfinite(cloud).all(1)]:
                place = (round((float(x) + 0.5) * scale - 0.5), round((float(y) + 0.5) * scale - 0.5))
                cv2.circle(canvas, place, 2, colour, -1)
    return canvas


def portraits(folder: Path, provider: Provider, overlays: Path | None, scale: float, grey: bool) -> None:
    with np.load(folder / "landmarks.npz") as arrays:
        paths, truths = arrays["path"], arrays["ibug68"]
    errors, gaps, scales, sheets, found, spent = [], [], [], [], {"neutral": [], "smiling": []}, 0.0
    for path, truth in zip(paths.tolist(), truths, strict=True):
        image = read(folder / path)
        if scale != 1:
            image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            truth = (truth + 0.5) * scale - 0.5
        if grey:
            image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        start = time.perf_counter()
        faces = provider(image)
        spent += time.perf_counter() - start
        found[path.split("/")[1]].append(len(faces))
        if faces and np.isfinite(truth).any():
            errors.append(normalised_error(faces[0].landmarks, truth))
            gaps.append(faces[0].landmarks - truth)
            scales.append(eye_distance(truth))
        if faces and len(sheets) < 12:
            sheets.append(draw(image, faces[0].landmarks, truth))
    for name, counts in found.items():
        several = sum(count > 1 for count in counts)
        print(f"  {name}: found {sum(count > 0 for count in counts)}/{len(counts)}, more than one face in {several}")
    each = np.linalg.norm(np.array(gaps), axis=-1) / np.array(scales)[:, None] * 100
    mean, median, worst = np.mean(errors), np.median(errors), np.max(errors)
    print(f"  NME % of outer-eye distance: mean {mean:.2f} median {median:.2f} worst {worst:.2f}")
    print("  by group: " + ", ".join(f"{name} {np.nanmean(each[:, list(i)]):.2f}" for name, i in GROUPS.items()))
    print(f"  {spent / len(paths) * 1000:.1f} ms an image")
    if overlays:
        rows = [np.hstack(sheets[i : i + 4]) for i in range(0, len(sheets), 4)]
        cv2.imwrite(str(overlays / f"portraits_{scale}.png"), np.vstack(rows))


def negatives(folder: Path, provider: Provider) -> None:
    files = sorted(folder.glob("*.jpg"))
    hits = {file.name: [round(face.score, 2) for face in provider(read(file))] for file in files}
    print(f"negatives: a face in {sum(map(bool, hits.values()))}/{len(files)}", {k: v for k, v in hits.items() if v})


def small(file: Path, provider: Provider, rows: int, overlays: Path | None) -> None:
    with np.load(file) as arrays:
        images, bad = arrays["images"], arrays["not_a_face"]
    chosen = np.random.default_rng(0).choice(len(images), rows, replace=False)
    spent, found, false, sheets, missed = [], [], [], [], []
    for i in chosen:
        image = np.repeat(images[i][..., None], 3, axis=2)
        start = time.perf_counter()
        faces = provider(image)
        spent.append(time.perf_counter() - start)
        (false if bad[i] else found).append(bool(faces))
        if faces and len(sheets) < 60:
            sheets.append(draw(image, faces[0].landmarks, scale=4))
        elif not faces and not bad[i] and len(missed) < 60:
            missed.append(draw(image, np.empty((0, 2), np.float32), scale=4))
    milliseconds = np.array(spent) * 1000
    mean, median, high = milliseconds.mean(), np.median(milliseconds), np.percentile(milliseconds, 95)
    print(f"FER-2013: found {np.mean(found):.2%} of {len(found)}, and in {sum(false)}/{len(false)} of 'not a face'")
    print(f"  {mean:.1f} ms a face, median {median:.1f}, 95 % {high:.1f}")
    for name, tiles in (("fer_found", sheets), ("fer_missed", missed)):
        if overlays and tiles:
            tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % 10)
            cv2.imwrite(
                str(overlays / f"{name}.png"),
                np.vstack([np.hstack(tiles[i : i + 10]) for i in range(0, len(tiles), 10)]),
            )


def far_away(folder: Path, provider: Provider, count: int = 10) -> None:
    """How wide a face must be in large pictures: portraits, shrunk, on a plain ground at places drawn by chance."""
    photos = sorted((folder / "london" / "smiling").iterdir())[:count]
    for width, height in ((640, 480), (1280, 960), (1920, 1080), (4000, 3000)):
        found = {}
        for face in (16, 20, 25, 30, 40, 50, 60, 80):
            side, hits = round(face / FACE_SHARE), 0
            for seed, photo in enumerate(photos):
                draws = np.random.default_rng(seed)
                x, y = int(draws.integers(0, width - side)), int(draws.integers(0, height - side))
                image = np.full((height, width, 3), (150, 160, 150), np.uint8)
                image[y : y + side, x : x + side] = cv2.resize(read(photo), (side, side), interpolation=cv2.INTER_AREA)
                hits += any(one.score >= LEAST for one in provider(image))
            found[face] = hits
        counts = ", ".join(f"{face} px: {hits}" for face, hits in found.items())
        print(f"faces found of {count} in {width} x {height}, by their width: {counts}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--provider", default="mediapipe")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--fer-rows", type=int, default=1000)
    parser.add_argument("--overlays", type=Path, help="write pictures of real people here, outside the repository")
    options = parser.parse_args()
    data = Path(os.environ["MIEN_SHARED_DATA"])
    cv2.setNumThreads(1)
    provider = open_provider(options.provider, options.model)
    for scale, grey in ((1.0, False), (0.2, True)):
        print(f"portraits of {560 * scale:.0f} px{', grey' if grey else ''}:")
        portraits(data / "faces", provider, options.overlays, scale, grey)
    negatives(data / "faces" / "negatives", provider)
    far_away(data / "faces", provider)
    small(data / "fer2013" / "fer2013_train_public.npz", provider, options.fer_rows, options.overlays)


if __name__ == "__main__":
    main()
