"""How accuracy falls where a face is covered or turned and nothing else changes: the limits of occlusion, yaw and pitch.

    MIEN_SHARED_DATA=FOLDER python tools/quality_pairs.py [--count 300] [--only occlusion,yaw,pitch] [--write] [--look SHEET.png]

Faces of FER-2013's PublicTest (enlarged to 96 px) and press photos (FOLDER/muxspace_dev.npz), both against their labels, and portraits
(FOLDER/faces, Neutral and Happiness), which are only printed. Each face is read as it is and changed, found anew each time; a changed
face is held against the same face as it is, so that what is hard about a face counts on both sides. `kept` is accuracy changed over
accuracy as it is, of the faces that are found changed.

Covers: a hand, a mask, dark glasses and one of the other covers of tools/occlusion.py, each in flat tones, in the tone of the skin or
as a piece of another photo. Turns: the face mesh with its depth is rotated about the vertical (yaw) or the horizontal (pitch) through
the head and drawn with the photo's own pixels, as 300W-LP does (Zhu et al. 2016, arXiv 1511.07212); only faces within FRONTAL are
turned. The limit is the value that Mien itself tells at which `kept`, made to fall throughout (isotonic regression), crosses KEPT.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from occlusion import covered, pictures
from PIL import Image
from quality_limits import BINS, LABELS, RESAMPLED, SEED, Shown, crossing, photos, write_limits
from scipy.spatial import ConvexHull, Delaunay
from sklearn.isotonic import IsotonicRegression

import mien
from mien.faces.detect import open_provider
from mien.faces.head import head_of
from mien.predict.model import FaceModel
from mien.schema import ByteArray, FloatArray
from mien.synthetic.raster import rasterise

SIDE = 96
"""Pixels of the pictures of FER-2013 and of the press photos."""
FRONTAL = (8.0, 15.0)
"""Degrees of yaw and pitch within which a face is turned further."""
TURNS = (10, 20, 30, 40, 50, 60)
COVERS = ("hand", "mask", "glasses")
OTHERS = ("blindfold", "bar", "shape")
SKIN = 468
"""Points of the mesh without the irises."""
SCORED = ("PublicTest", "press photos")
"""Sources from which limits come."""


def sources(data: Path, count: int) -> Iterator[tuple[str, ByteArray, str]]:
    """Source, RGB picture and expression."""
    for face in photos(data, count):
        yield SCORED[0], cv2.resize(face.image, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC), face.expression
    with np.load(data / "muxspace_dev.npz") as kept:
        images, labels, names = kept["images"], kept["label"], kept["label_names"]
    for row in np.random.default_rng(SEED).permutation(len(images))[:count]:
        yield SCORED[1], images[row], LABELS.get(str(names[labels[row]]), "Neutral")
    for image, source, person in pictures(data, 0):
        if source == "portraits":
            yield source, image, "Neutral"
            with Image.open(data / "faces" / "london" / "smiling" / f"{person}.jpg") as photo:
                small = photo.convert("RGB").resize((200, 200), Image.Resampling.LANCZOS)
            yield source, np.asarray(small), "Happiness"


def found_faces(data: Path, count: int) -> dict[str, list[Shown]]:
    """Source -> faces that are found as they are."""
    find, faces = open_provider("mediapipe"), dict[str, list[Shown]]()
    for source, image, expression in sources(data, count):
        seen = find(image)
        if seen:
            faces.setdefault(source, []).append(Shown(image, seen[0].landmarks, expression, seen[0].mesh))
    return faces


def turned(face: Shown, degrees: float, along: int = 0) -> Shown:
    """The face turned about the vertical (`along` 0) or the horizontal (1) through its head, drawn from its own pixels.

    To which side depends on the picture.

    Around the face the head goes on, deeper, to 1.4 times its outline; from 2.2 times on nothing moves.
    """
    assert face.mesh is not None
    mesh = face.mesh[:SKIN].astype(np.float64)
    outline = mesh[ConvexHull(mesh[:, :2]).vertices]
    middle, width = mesh.mean(0), float(np.ptp(mesh[:, 0]))
    head, still = (
        middle + (outline - middle) * [by, by, 0] + [0, 0, deep * width] for by, deep in ((1.4, 0.3), (2.2, 1.5))
    )
    points = np.concatenate([mesh, head, still])
    angle = np.radians(degrees) * (1 if int(face.image.sum()) % 2 else -1)
    moved, axis = points.copy(), middle + np.array([0, 0, 0.5 * width])
    off = points[: -len(still)] - axis
    moved[: -len(still), along] = axis[along] + np.cos(angle) * off[:, along] + np.sin(angle) * off[:, 2]
    moved[: -len(still), 2] = axis[2] - np.sin(angle) * off[:, along] + np.cos(angle) * off[:, 2]
    triangles = Delaunay(points[:, :2]).simplices
    nearer = (moved * [1, 1, -1]).astype(np.float32)
    drawn = rasterise(nearer, triangles.astype(np.int64), len(face.image), two_sided=True)
    from_where = np.einsum("pc,pcd->pd", drawn.weights, points[triangles[drawn.triangle], :2]).astype(np.float32)
    pixels = cv2.remap(face.image, from_where[:, None], None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    image = face.image.copy()
    image.reshape(-1, 3)[drawn.pixel] = pixels[:, 0]
    return face._replace(image=image)


def dark_glasses(face: Shown, rng: np.random.Generator) -> Shown:
    """Two dark lenses and a bridge over the eyes."""
    eyes = [face.points[part].mean(0) for part in (slice(36, 42), slice(42, 48))]
    apart = float(np.linalg.norm(eyes[1] - eyes[0]))
    angle = float(np.degrees(np.arctan2(*(eyes[1] - eyes[0])[::-1])))
    layer = np.zeros(face.image.shape[:2], np.uint8)
    axes = tuple(max(1, round(apart * part)) for part in rng.uniform((0.32, 0.22), (0.42, 0.34)))
    for eye in eyes:
        cv2.ellipse(layer, np.rint(eye).astype(int).tolist(), axes, angle, 0, 360, 255, -1, cv2.LINE_AA)
    ends = [np.rint(eye).astype(int).tolist() for eye in eyes]
    cv2.line(layer, *ends, 255, max(1, round(apart * 0.06)), cv2.LINE_AA)
    soft = layer[..., None] / 255 * rng.uniform(0.85, 1.0)
    image = face.image * (1 - soft) + rng.uniform(5, 50) * soft
    return face._replace(image=np.clip(np.rint(image), 0, 255).astype(np.uint8))


def under_cover(face: Shown, cover: str, pieces: list[ByteArray]) -> Shown:
    """The face under a cover; the same every time."""
    rng = np.random.default_rng([int(face.image.sum()), *cover.encode()])
    if cover == "glasses":
        return dark_glasses(face, rng)
    name = str(rng.choice(OTHERS)) if cover == "other" else cover
    filling = str(rng.choice(["flat", "skin", "texture"]))
    image = covered(face.image, face.points, name, filling, pieces, rng)[0]
    if (face.image == face.image[..., :1]).all():
        image = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    return face._replace(image=image)


def read(model: FaceModel, faces: list[Shown], quality: str) -> tuple[FloatArray, FloatArray]:
    """(N,) values of a quality, NaN where no face is found, and 1 where the bundled model is right."""
    pictures = model.predict([face.image for face in faces])
    found = [next((one for one in picture.faces if one.landmarks is not None), None) for picture in pictures]
    values = [np.nan if one is None else abs(getattr(one.quality, quality)) for one in found]
    right = [one is not None and one.expression == face.expression for one, face in zip(found, faces, strict=True)]
    return np.array(values, np.float32), np.array(right, np.float32)


def line(words: str, values: FloatArray, before: FloatArray, after: FloatArray) -> None:
    """A row of a table about changed faces, NaN among `values` where they are not found."""
    seen = np.isfinite(values)
    old, new = float(before[seen].mean()), float(after[seen].mean())
    print(
        f"| {words} | {seen.sum()} of {len(seen)} | {np.median(values[seen]):.3g} | {old:.2f} | {new:.2f} | {new / old:.2f} |"
    )


def edge(values: FloatArray, before: FloatArray, after: FloatArray, show: bool = False) -> float | None:
    """Where `kept` falls to KEPT over BINS bins of the values of faces that are found."""
    order = np.argsort(values, kind="stable")
    parts = np.array_split(order, BINS)
    if show:
        for part in parts:
            line(f"{values[part].min():.3g} to {values[part].max():.3g}", values[part], before[part], after[part])
    kept = [float(after[part].mean() / max(before[part].mean(), 1e-6)) for part in parts]
    falling = IsotonicRegression(increasing=False).fit_transform(np.arange(BINS), kept)
    medians = [float(np.median(values[part])) for part in parts]
    return crossing([0.0, *medians], [1.0, *(min(1.0, float(value)) for value in falling)])


def limit_of(
    model: FaceModel, quality: str, faces: dict[str, list[Shown]], changes: dict[str, Callable[[Shown], Shown]]
) -> list[float | None] | None:
    """Print the tables of one quality; its limit as [least, most], None where `kept` never falls so far."""
    head = "| found | median | as it is | changed | kept |\n| --- | ---: | ---: | ---: | ---: | ---: |"
    print(f"\n| {quality} {head}", flush=True)
    values, before, after, plain = [], [], [], []
    for source, shown in faces.items():
        own, good = read(model, shown, quality)
        plain.append(own if source in SCORED else own[:0])
        for name, change in changes.items():
            told, right = read(model, [change(face) for face in shown], quality)
            line(f"{source}, {name}", told, good, right)
            if source in SCORED:
                values.append(told), before.append(good), after.append(right)
    told, old, new, usual = (np.concatenate(parts) for parts in (values, before, after, plain))
    seen = np.isfinite(told)
    told, old, new = told[seen], old[seen], new[seen]
    print(f"\n| {quality}, both sources {head}")
    found = edge(told, old, new, show=True)
    rng = np.random.default_rng(SEED)
    again = [edge(told[rows], old[rows], new[rows]) for rows in (rng.integers(len(told), size=(RESAMPLED, len(told))))]
    known = [one for one in again if one is not None]
    low, high = np.quantile(known, (0.05, 0.95)) if known else (np.nan, np.nan)
    print(f"limit {quality}: {found} ({low:.3g} to {high:.3g} in {len(known)} of {RESAMPLED} resamplings)")
    if found is None:
        return None
    usual, over = usual[np.isfinite(usual)], told > found
    print(
        f"beyond it: {(usual > found).mean():.1%} of {len(usual)} faces as they are, {over.mean():.1%} of the changed ones"
    )
    within = new[~over].mean() / old[~over].mean()
    print(f"kept within it {within:.2f}, beyond it {new[over].mean() / old[over].mean():.2f}", flush=True)
    return [None, round(found, 3 if quality == "occlusion" else 1)]


def changes_of(pieces: list[ByteArray]) -> dict[str, dict[str, Callable[[Shown], Shown]]]:
    """Quality -> the ways in which it is changed, by name."""
    covers = {name: partial(under_cover, cover=name, pieces=pieces) for name in (*COVERS, "other")}
    yaws = {f"by {degrees}": partial(turned, degrees=degrees) for degrees in TURNS}
    pitches = {f"by {degrees}": partial(turned, degrees=degrees, along=1) for degrees in TURNS}
    return {"occlusion": covers, "yaw": yaws, "pitch": pitches}


def sheet(faces: dict[str, list[Shown]], changes: dict[str, dict[str, Callable[[Shown], Shown]]]) -> ByteArray:
    """Three faces of each source, as they are and changed."""
    every = [change for some in changes.values() for change in some.values()]
    chosen = [shown[k] for shown in faces.values() for k in (1, 2, 3)]
    rows = [[face.image, *(change(face).image for change in every)] for face in chosen]
    return np.vstack([np.hstack([cv2.resize(image, (144, 144)) for image in row]) for row in rows])


def main() -> None:
    """Print the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300, help="faces of PublicTest, and press photos")
    parser.add_argument("--only", default="occlusion,yaw,pitch", help="qualities, commas between")
    parser.add_argument(
        "--look", type=Path, help="write a sheet of changed faces, to be looked at; they are of real people"
    )
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    data = Path(os.environ["MIEN_SHARED_DATA"])
    cv2.setNumThreads(1)
    negatives = sorted((data / "faces" / "negatives").glob("*.jpg"))
    changes = changes_of([np.asarray(Image.open(path).convert("RGB")) for path in negatives])
    faces = found_faces(data, given.count)
    if given.look:
        Image.fromarray(sheet(faces, changes)).save(given.look)
    facing = {source: [face for face in shown if frontal(face)] for source, shown in faces.items()}
    model = mien.load(any_quality=True)
    limits: dict[str, list[float | None]] = {}
    for quality in [name for name in changes if name in given.only.split(",")]:
        measured = limit_of(model, quality, faces if quality == "occlusion" else facing, changes[quality])
        limits.update({} if measured is None else {quality: measured})
    if given.write:
        write_limits(limits)


def frontal(face: Shown) -> bool:
    """Whether a face looks into the camera."""
    head = head_of(face.points, face.mesh)
    return abs(head.yaw) <= FRONTAL[0] and abs(head.pitch) <= FRONTAL[1]


if __name__ == "__main__":
    main()
