"""Build the bundled expression model from FER-2013: `mien box build`. Every step is skipped where its result is there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mien.box import fuse, pack
from mien.box.join import join_runs
from mien.box.score import score
from mien.calibrate import calibrate
from mien.calibrate.photos import labelled_photos
from mien.config import Recipe, load_recipe
from mien.data.loader import targets_of
from mien.data.store import Store, open_store
from mien.datasets.prepare import prepare
from mien.errors import DataError, UsageError
from mien.faces.provider import Face
from mien.files import name_of, write_atomic, write_npz
from mien.metrics.classification import calibration_error
from mien.predict.finders import Finders, ahead
from mien.predict.fusion import write_fusion
from mien.predict.model import LEAST_FACE, FaceModel, load
from mien.predict.sources import Picture, decoded
from mien.progress import default_workers, track
from mien.schema import FloatArray, Record, class_index, scheme_classes
from mien.training.loop import fit

WHOLE = 0.33
"""Share of the training faces that the net also sees unaligned."""
PART = 2048
"""Faces whose blendshapes are kept in one file."""
SURE = 0.9
"""Share of right answers, by the majority of the annotators, from whose confidence on a face is not "unsure"."""
PORTRAIT_WEIGHT = 30.0
"""What a photo counts beside a validation face in the fit of the fusion, which small faces do not take."""


def build(
    root: Path, work: Path, out: Path, recipe: Path, photos: Path | None, columns: str | None, seeds: int = 1,
    student: Path | None = None,
) -> None:  # fmt: skip
    """Prepare, train, join or distil, pack, calibrate, fuse, score and describe; `work` keeps everything in between."""
    if seeds < 1:
        raise UsageError(f"--seeds {seeds}: at least one net is trained.")
    faces = ["--data.store", str(work / "aligned")]
    settings = load_recipe(recipe, faces)
    taught = None if student is None else load_recipe(student, faces)
    whole = prepared(work / "fer2013", "fer2013", root=root, faces="mediapipe")
    aligned = prepared(work / "aligned", "aligned", root=work / "fer2013", whole=WHOLE)
    packed = out / "expression"
    pack.pack_run(trained(settings, work, seeds, taught), packed)
    calibrate(packed, store=aligned.path, accuracy=SURE)
    calibrate(packed, store=aligned.path, head="labels")
    facts = fuse_run(packed, settings, whole, aligned, work / "blendshapes", photos, columns)
    pack.describe(packed, aligned.path, facts, score("fer2013", root, run=packed))
    pack.sum_up(out)


def trained(settings: Recipe, work: Path, seeds: int, student: Recipe | None = None) -> Path:
    """Run folder of the recipe; of several seeds, counted on from its own, that of their nets side by side; of a student that of
    the net that learnt from all of them.
    """
    runs = []
    for seed in range(settings.run.seed, settings.run.seed + seeds):
        runs.append(work / ("expression" if seed == settings.run.seed else f"expression-seed{seed}"))
        fit(replace(settings, run=replace(settings.run, seed=seed)), runs[-1])
    if student is not None:
        fit(replace(student, data=replace(student.data, teachers=runs)), work / "student")
        return work / "student"
    if seeds == 1:
        return runs[0]
    join_runs(runs, work / "joined")
    return work / "joined"


def prepared(path: Path, dataset: str, root: Path, faces: str = "none", whole: float | None = None) -> Store:
    """A store that is finished, or is made now."""
    if (path / "store.json").is_file():
        return open_store(path)
    return prepare(dataset, root=root, out=path, faces=faces, whole=whole)


def fuse_run(
    packed: Path, settings: Recipe, whole: Store, aligned: Store, cache: Path, photos: Path | None, columns: str | None
) -> dict[str, Any]:
    """Fit and keep the fusion of packed weights; what it is worth on validation faces and on photos of people left out."""
    scheme = settings.data.scheme
    classes = scheme_classes(scheme)
    shapes = blendshapes_of(whole, cache)
    votes = targets_of(aligned, scheme, "votes")
    row = {str(name): k for k, name in enumerate(whole.ids)}
    where = np.array([row.get(str(name), -1) for name in aligned.ids])
    train, valid = (np.flatnonzero((aligned.split == part) & (where >= 0)) for part in ("train", "valid"))
    expert = fuse.train_expert(shapes[where[train]], votes[train])
    model = load(packed)
    temperature = model.calibration.temperature
    judged = [decoded(whole.image(int(k)), str(whole.ids[k])) for k in where[valid]]
    base = seen_by(model, judged, votes[valid], 1.0)
    facts: dict[str, Any] = {}
    shown = None
    if photos is not None:
        pictures, labels, people = photographs(photos, columns, class_index(scheme))
        shown = seen_by(model, pictures, np.eye(len(classes), dtype=np.float32)[labels], PORTRAIT_WEIGHT)
        held = fuse.left_out(expert, base, shown, people, temperature)
        facts["photos"] = {
            "pictures": len(labels), "people": len(np.unique(people)),
            "net alone": recalls(np.exp(shown.scores), labels, classes),
            "fusion of other people": recalls(held, labels, classes),
        }  # fmt: skip
    facts["validation"] = worth(base, expert, temperature, shown)
    every = base if shown is None else fuse.joined([base, shown])
    write_fusion(packed, fuse.weigh(expert, every, temperature), classes)
    write_atomic(packed / "fusion.json", json.dumps(facts, indent=1))
    print(json.dumps(facts, indent=1))
    return facts


def blendshapes_of(store: Store, cache: Path) -> FloatArray:
    """(N, 52) blendshapes of the main face of every picture of a store, NaN without one; kept in parts, so that it resumes."""
    cache.mkdir(parents=True, exist_ok=True)
    parts = []
    for start in range(0, len(store), PART):
        file = cache / f"{start:06d}.npz"
        rows = range(start, min(start + PART, len(store)))
        if not file.is_file():
            finder = Finders("mediapipe", None)
            faces = ahead(finder, (store.image(k) for k in rows), default_workers(), 64)
            shapes = np.stack([main_shapes(found) for found in track(faces, "blendshapes", len(rows))])
            write_npz(file, {"blendshapes": shapes, "ids": store.ids[list(rows)].astype(str)})
        with np.load(file) as kept:
            if list(kept["ids"]) != [str(name) for name in store.ids[list(rows)]]:
                raise DataError(f"{file} holds blendshapes of other pictures than {store.path} has; delete it.")
            parts.append(kept["blendshapes"])
    return np.concatenate(parts)


def main_shapes(faces: Sequence[Face]) -> FloatArray:
    """(52,) of the main face, where it counts in prediction; else NaN."""
    unknown = np.full(52, np.nan, dtype=np.float32)
    sure = [face for face in faces if face.score >= LEAST_FACE["mediapipe"]]
    return unknown if not sure or sure[0].blendshapes is None else sure[0].blendshapes


def photographs(
    photos: Path, columns: str | None, index: dict[str, int]
) -> tuple[list[Picture], np.ndarray, np.ndarray]:
    """Pictures, class and number of the person of labelled photos."""
    records = [one for one in labelled_photos(photos, columns, None, None) if isinstance(one, Record)]
    usable = [record for record in records if record.expression in index and isinstance(record.image, Path)]
    if not usable:
        raise DataError(f"{photos} names no photo with an expression that the model knows.")
    names = [str(record.subject or record.id) for record in usable]
    number = {name: k for k, name in enumerate(dict.fromkeys(names))}
    pictures = [decoded(record.image, name_of(record.image)) for record in usable if isinstance(record.image, Path)]
    labels = np.array([index[str(record.expression)] for record in usable])
    return pictures, labels, np.array([number[name] for name in names])


def seen_by(model: FaceModel, pictures: Sequence[Picture], targets: FloatArray, weight: float) -> fuse.Seen:
    """What the net alone says of the main face of each picture, and its blendshapes; a uniform answer without a face."""
    scores, shapes = [], []
    classes = len(model.classes)
    for _, found in model.stream(pictures, display=8):
        face = found.faces[0] if found.faces else None
        p = [1 / classes] * classes if face is None else list(face.probabilities.values())
        known = face is not None and face.blendshapes is not None
        scores.append(np.log(np.maximum(p, 1e-12)))
        shapes.append(face.blendshapes if known and face is not None else np.full(52, np.nan))
    count = np.full(len(scores), weight, dtype=np.float32)
    return fuse.Seen(np.array(scores, np.float32), np.array(shapes, np.float32), targets.astype(np.float32), count)


def worth(seen: fuse.Seen, expert: Any, temperature: float, shown: fuse.Seen | None) -> dict[str, float]:
    """Accuracy by the largest vote and calibration error, of the net alone, and by a fusion of the other half and the photos."""
    labels, half = seen.targets.argmax(1), np.arange(len(seen.targets)) % 2 == 0
    p = np.empty_like(seen.scores)
    for own in (half, ~half):
        rest, held = (fuse.Seen(*(values[chosen] for values in seen)) for chosen in (~own, own))
        rest = rest if shown is None else fuse.joined([rest, shown])
        p[own] = fuse.fused(held, fuse.weigh(expert, rest, temperature), temperature)
    alone = np.exp(seen.scores)
    return {
        "faces": len(labels), "net alone": float((alone.argmax(1) == labels).mean()), "fused": float((p.argmax(1) == labels).mean()),
        "calibration error alone": calibration_error(alone, labels), "calibration error fused": calibration_error(p, labels),
    }  # fmt: skip


def recalls(p: FloatArray, labels: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    """Share of the photos of each expression that are called so."""
    return {classes[k]: float((p[labels == k].argmax(1) == k).mean()) for k in np.unique(labels)}
