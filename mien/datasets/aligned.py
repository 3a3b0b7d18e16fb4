"""A prepared store read again, its faces aligned with the median training face, and synthetic faces added to its training part.

`mien predict` lays every face of a photo exactly there (mien.data.framing); a net that is trained on such faces need not
spend itself on turns and shifts that it will never see.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np

from mien.data import folds
from mien.data.arrow import Skipped
from mien.data.framed import FramedStore
from mien.data.framing import framing_of, kept_framing
from mien.data.store import Store, open_store
from mien.datasets.synthetic_store import open_synthetic, record_of
from mien.errors import DataError, UsageError
from mien.faces.align import move_points, similarity, warp
from mien.faces.landmarks import five_points
from mien.schema import ByteArray, FloatArray, Record

SEED, FRACTION = 0, 0.1
"""Of the validation part, as `mien train` carves it out at run.seed 0 and data.valid_fraction 0.1."""
SYNTHETIC = "synthetic/"
"""Ids of synthetic faces begin with it."""
WHOLE = "whole/"
"""Ids of training faces that are there unaligned, too."""


def records(
    root: Path, synthetic: Path | None = None, whole: float = 0.0, like: Path | None = None
) -> Iterator[Record | Skipped]:
    """Faces of the store `root`, turned, scaled and shifted so that their five points lie on the median training face's.

    Borders are repeated; a face without landmarks stays as it is. Splits are those of protocol strict at run.seed 0: its
    validation part becomes an official one, and training faces that it leaves out are skipped. All faces of `synthetic`, a
    store of `mien synthesize`, are laid on the same points and join the training part. A share `whole` of the training
    faces, chosen at random, joins it unaligned too, so that a net knows the pictures in which no face is found.

    `like` is a run folder of mien train: all faces are laid where its training faces lie, at the size of its store, and keep
    their splits, so that a store without training faces can be aligned for it.

    Raises:
        DataError: `root` has no landmarks, or no training part without `like`, or `synthetic` is no store of synthetic faces.

    """
    if not 0 <= whole <= 1:
        raise UsageError(f"--whole {whole:g} must lie between 0 and 1.")
    store = open_store(Path(root))
    if like is not None:
        if synthetic is not None or whole:
            raise UsageError(
                "--like aligns faces for a run that was trained; --synthetic and --whole are for a training part."
            )
        yield from _like(store, like)
        return
    parts = folds.strict(store, SEED, FRACTION)
    points, size = framing_of(store, parts.train).points, store.info.size
    if points is None:
        raise DataError(f"'{root}' has no landmarks to fit its faces by; prepare it with --faces mediapipe.")
    target = np.array(points, dtype=np.float32)
    split = np.full(len(store), "", dtype=object)
    split[parts.train], split[parts.valid], split[parts.test] = "train", "valid", "test"
    faces = None if synthetic is None else open_synthetic(synthetic)
    for i in range(len(store)):
        record = record_of(store, i)
        if split[i]:
            yield align_record(record._replace(split=split[i]), target, size)
        else:
            yield Skipped(record.id, "the same picture, or one that looks alike, is a test or validation face")
    chosen = np.random.default_rng(SEED).permutation(parts.train)[: round(whole * len(parts.train))]
    for i in np.sort(chosen):
        record = record_of(store, int(i))
        yield record._replace(id=f"{WHOLE}{record.id}", split="train")
    yield from store.skipped
    for i in range(0 if faces is None else len(faces)):
        record = record_of(cast(Store, faces), i)
        yield align_record(record._replace(id=f"{SYNTHETIC}{record.id}", split="train"), target, size)


def _like(store: Store, like: Path) -> Iterator[Record | Skipped]:
    """Faces of a store in the framing of a run; those without landmarks are their whole picture."""
    framed = FramedStore(store, kept_framing(Path(like) / "environment.json"))
    if not framed.placed():
        raise DataError(f"'{store.path}' has no landmarks to align its faces by; prepare it with --faces mediapipe.")
    for i in range(len(framed)):
        yield record_of(framed, i)
    yield from store.skipped


def align_record(record: Record, target: FloatArray, size: int) -> Record:
    """The face with its five points on `target` (5, 2) in a picture of `size`; as it is where its own are not all known."""
    if record.landmarks is None:
        return record
    matrix = similarity(five_points(record.landmarks), target)
    if matrix is None:
        return record
    pixels = warp(cast(ByteArray, record.image), matrix, size, replicate=True)
    return record._replace(image=pixels, landmarks=move_points(record.landmarks, matrix))


def shape(root: Path, like: Path | None = None) -> tuple[int, int]:
    """Size and channels of the first store, or of the run's."""
    if like is not None:
        framing = kept_framing(Path(like) / "environment.json")
        return framing.size, framing.channels
    info = open_store(Path(root)).info
    return info.size, info.channels


def notes(root: Path, synthetic: Path | None = None, like: Path | None = None) -> dict[str, str]:
    """What the first store was told of itself, its dataset and fingerprint, and the fingerprint of the synthetic faces."""
    store = open_store(Path(root))
    added = {} if synthetic is None else {"synthetic_source": open_synthetic(synthetic).fingerprint}
    if like is not None:
        added = {"like": Path(like).name}
    return {**store.info.notes, "source_dataset": store.info.dataset, "source": store.fingerprint, **added}
