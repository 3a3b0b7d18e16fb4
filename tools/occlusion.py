"""Fit mien/faces/occlusion_weights.npz: how much of a face is covered, from photos that are covered here.

    MIEN_SHARED_DATA=FOLDER python tools/occlusion.py [--faces 600] [--write]

Faces of FER-2013's Training and neutral portraits at 200 px are covered twice each, by hands, masks, blindfolds, bars, boxes and
ellipses, filled with flat tones, the tone of the face's own skin, or pieces of other photos. Points are found on the covered picture
where they can be, as in use. Ridge regression of the root of the covered share of the face. Scored on faces of PublicTest, on half of
the portraits' people who took no part, and with each kind of cover and filling left out of the training. The weights that are written
are those of Training and of all portraits.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from mien.faces.detect import Provider, open_provider
from mien.faces.occlusion import features
from mien.faces.quality import view_of
from mien.schema import ByteArray, FloatArray
from mien.synthetic.accessories import hand_shape

SEED = 7319
COVERS = ("hand", "mask", "blindfold", "bar", "shape")
FILLINGS = ("flat", "skin", "texture")
STRENGTH = 20.0
"""Of the ridge."""
LEAST_SCORE = 0.7
PRESENT = 0.1
"""Share from which a face counts as covered in the scores."""
WEIGHTS = Path(__file__).parent.parent / "mien" / "faces" / "occlusion_weights.npz"


class Row(NamedTuple):
    """A face, covered or not."""

    view: ByteArray
    share: float
    cover: str
    filling: str
    source: str
    person: str


def layer(cover: str, points: FloatArray, size: tuple[int, int], rng: np.random.Generator) -> ByteArray:
    """Where a cover lies, 0 or 255, in a picture of (height, width)."""
    inner, eyes = points[17:], float(np.linalg.norm(points[36] - points[45]))
    found = np.zeros(size, np.uint8)
    if cover == "hand":
        return np.ascontiguousarray(hand_shape(rng, points, max(size))[: size[0], : size[1]])
    if cover == "mask":
        top = points[27] + rng.uniform(0.3, 0.95) * (points[30] - points[27])
        shape = np.concatenate([points[2:15], top[None]])
    elif cover == "shape":
        centre, share, narrow = inner[rng.integers(51)], rng.uniform(0.08, 0.5), rng.uniform(0.6, 1.6)
        half = np.sqrt(share * np.prod(inner.max(0) - inner.min(0))) / 2
        shape = cv2.boxPoints((centre.tolist(), (2 * half * narrow, 2 * half / narrow), rng.uniform(0, 180)))
        if rng.random() < 0.5:
            axes = (max(1, int(1.13 * half * narrow)), max(1, int(1.13 * half / narrow)))
            return np.asarray(
                cv2.ellipse(found, centre.astype(int).tolist(), axes, rng.uniform(0, 180), 0, 360, 255, -1)
            )
    else:
        across = points[45] - points[36]
        blind = cover == "blindfold"
        middle = (
            (points[17:27].mean(0) + points[36:48].mean(0)) / 2
            if blind
            else inner.mean(0) + rng.normal(0, 0.2, 2) * eyes
        )
        sides = (
            (eyes * rng.uniform(1.3, 1.9), eyes * rng.uniform(0.35, 0.6))
            if blind
            else (eyes * rng.uniform(0.25, 0.8), 2.0 * max(size))
        )
        angle = np.degrees(np.arctan2(across[1], across[0])) if blind else rng.uniform(0, 180)
        shape = cv2.boxPoints((middle.tolist(), sides, float(angle)))
    return np.asarray(cv2.fillPoly(found, [np.rint(shape).astype(np.int32)], 255, cv2.LINE_AA))


def filled(
    image: ByteArray, points: FloatArray, filling: str, others: list[ByteArray], rng: np.random.Generator
) -> FloatArray:
    """What a cover shows, as a whole picture (H, W, 3)."""
    height, width = image.shape[:2]
    if filling == "texture":
        other = others[rng.integers(len(others))]
        side = int(rng.integers(80, min(other.shape[:2])))
        y, x = (int(rng.integers(0, length - side + 1)) for length in other.shape[:2])
        found = cv2.resize(other[y : y + side, x : x + side], (width, height), interpolation=cv2.INTER_AREA).astype(
            float
        )
    else:
        x, y = np.clip(points[30], 0, [width - 1, height - 1]).astype(int)
        tone = rng.uniform(5, 250, 3) if filling == "flat" else image[y, x] * rng.uniform(0.65, 1.2)
        slope = rng.uniform(-40, 40, 2)
        found = (
            tone
            + slope[0] * np.linspace(-1, 1, width)[None, :, None]
            + slope[1] * np.linspace(-1, 1, height)[:, None, None]
        )
    return np.asarray(found + rng.normal(0, rng.uniform(0, 8), (height, width, 1)), np.float32)


def covered(
    image: ByteArray, points: FloatArray, cover: str, filling: str, others: list[ByteArray], rng: np.random.Generator
) -> tuple[ByteArray, float]:
    """The picture with a cover over its face, and the share of the face (brows to chin) that it hides."""
    hidden = layer(cover, points, image.shape[:2], rng)
    soft = cv2.GaussianBlur(
        hidden, (0, 0), max(0.5, float(np.linalg.norm(points[36] - points[45])) * 0.02)
    ) / np.float32(255)
    mixed = image * (1 - soft[..., None]) + filled(image, points, filling, others, rng) * soft[..., None]
    face = np.zeros(hidden.shape, np.uint8)
    cv2.fillConvexPoly(face, cv2.convexHull(np.rint(np.concatenate([points[17:], points[3:14]])).astype(np.int32)), 1)
    share = float((soft[face > 0] > 0.5).mean()) if face.any() else 0.0
    return np.clip(mixed, 0, 255).astype(np.uint8), share


def pictures(data: Path, count: int) -> Iterator[tuple[ByteArray, str, str]]:
    """RGB photos with where they come from and who is in them."""
    rng = np.random.default_rng(SEED)
    with np.load(data / "fer2013" / "fer2013_train_public.npz") as kept:
        usage, images = kept["usage"], kept["images"]
        for name, wanted in (("Training", count), ("PublicTest", count // 3)):
            rows = np.flatnonzero((usage == list(kept["usage_names"]).index(name)) & ~kept["not_a_face"])
            for row in rng.permutation(rows)[:wanted]:
                yield np.repeat(images[row][..., None], 3, axis=2), name, f"{name} {row}"
    with open(data / "faces" / "index.csv", encoding="utf-8") as table:
        for line in csv.DictReader(table):
            if (line["set"], line["expression"]) == ("london", "neutral"):
                with Image.open(data / "faces" / line["file"]) as photo:
                    yield (
                        np.asarray(photo.convert("RGB").resize((200, 200), Image.Resampling.LANCZOS)),
                        "portraits",
                        line["person"],
                    )


def rows_of(data: Path, count: int) -> Iterator[Row]:
    """Every face as it is, and twice covered."""
    rng, find = np.random.default_rng(SEED + 1), open_provider("mediapipe")
    others = [
        np.asarray(Image.open(path).convert("RGB")) for path in sorted((data / "faces" / "negatives").glob("*.jpg"))
    ]
    for image, source, person in pictures(data, count):
        points = found(find, image)
        if points is None:
            continue
        yield Row(inner(image, points), 0.0, "", "", source, person)
        for cover in rng.choice(COVERS, 2, replace=False):
            filling = str(rng.choice(FILLINGS))
            changed, share = covered(image, points, cover, filling, others, rng)
            seen = found(find, changed)
            yield Row(inner(changed, points if seen is None else seen), share, cover, filling, source, person)


def found(find: Provider, image: ByteArray) -> FloatArray | None:
    """Points of the main face; None where none is found."""
    faces = find(image)
    return faces[0].landmarks if faces and faces[0].score >= LEAST_SCORE else None


def inner(image: ByteArray, points: FloatArray) -> ByteArray:
    """The part that the regressor sees."""
    view = view_of(image, points)
    assert view is not None
    return view


def fit(rows: list[Row]) -> FloatArray:
    """(1825,) weights and constant, from the faces and their mirror images."""
    both = [features(np.ascontiguousarray(view)) for row in rows for view in (row.view, row.view[:, ::-1])]
    model = Ridge(alpha=STRENGTH).fit(np.stack(both), np.sqrt(np.repeat([row.share for row in rows], 2)))
    return np.append(model.coef_, model.intercept_).astype(np.float32)


def score(words: str, rows: list[Row], weights: FloatArray) -> None:
    """Print AUC, and how many covered faces pass what 5 % of those that are not covered pass, by share."""
    values = np.array([features(row.view) @ weights[:-1] + weights[-1] for row in rows])
    share = np.array([row.share for row in rows])
    plain, much = share == 0, share > PRESENT
    cut = float(np.quantile(values[plain], 0.95))
    parts = []
    for low, high in ((0.1, 0.2), (0.2, 0.35), (0.35, 1.0)):
        chosen = (share > low) & (share <= high)
        parts.append(f"{(values[chosen] > cut).mean():.2f} of {chosen.sum()}" if chosen.any() else "-")
    auc = roc_auc_score(much[plain | much], values[plain | much])
    print(f"| {words} | {plain.sum()}, {much.sum()} | {auc:.2f} | {' | '.join(parts)} |", flush=True)


def main() -> None:
    """Cover, fit, score, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=int, default=600)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    cv2.setNumThreads(1)
    rows = list(rows_of(Path(os.environ["MIEN_SHARED_DATA"]), given.faces))
    people = sorted({row.person for row in rows if row.source == "portraits"})
    held = set(np.random.default_rng(SEED).permutation(people)[::2])
    train = [row for row in rows if row.source == "Training" or (row.source == "portraits" and row.person not in held)]
    test = [row for row in rows if row.source == "PublicTest"]
    apart = [row for row in rows if row.person in held]
    print(
        "| scored on | plain, covered | AUC | 10 to 20 % | 20 to 35 % | more |\n| --- | --- | ---: | ---: | ---: | ---: |"
    )
    weights = fit(train)
    score("PublicTest", test, weights)
    score("portraits of other people", apart, weights)
    for field, names in (("cover", COVERS), ("filling", FILLINGS)):
        for name in names:
            new = [row for row in test + apart if getattr(row, field) in ("", name)]
            if sum(row.share > PRESENT for row in new) > 5:
                score(f"{field} {name}, never seen", new, fit([row for row in train if getattr(row, field) != name]))
    if given.write:
        np.savez_compressed(
            WEIGHTS, weights=fit([row for row in rows if row.source != "PublicTest"]).astype(np.float16)
        )


if __name__ == "__main__":
    main()
