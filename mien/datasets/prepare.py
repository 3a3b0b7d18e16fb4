"""`mien prepare`: read a dataset, find faces, cut and resize, and write a prepared store; resumable."""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from mien.data.store import Skipped, Store, finished_ids, write_store
from mien.datasets import DATASETS, Reader
from mien.datasets.inventory import label_table, text_table
from mien.datasets.screen import face_share, limit_landmarks, share_line
from mien.errors import DataError, UsageError, unknown_name
from mien.progress import ordered_map
from mien.schema import ByteArray, FloatArray, Record

CHUNK = 16
"""Pictures per task of a worker process."""


def prepare(
    dataset: str,
    *,
    root: Path,
    out: Path,
    size: int | None = None,
    channels: int | None = None,
    encoding: Literal["raw", "png", "jpeg"] = "raw",
    faces: str = "none",
    align: bool = False,
    landmarks: Path | None = None,
    landmark_order: Literal["row-col", "x-y"] = "row-col",
    landmark_frame: str | None = None,
    landmark_limit: float | None = None,
    landmark_model: Path | None = None,
    pictures: str | None = None,
    folds: Path | None = None,
    polarity: float | None = None,
    votes: Path | None = None,
    columns: str | None = None,
    labels: str | None = None,
    subject_pattern: str | None = None,
    units: str | None = None,
    au_scale: Literal["intensity", "occurrence"] | None = None,
    fold: str | None = None,
    subject_leak: bool = False,
    synthetic: Path | None = None,
    whole: float | None = None,
    workers: int | None = None,
) -> Store:
    """Read a dataset into a prepared store; the same command continues an interrupted run.

    Args:
        dataset: Kind of dataset: fer2013, rafdb, affectnet, disfa, bp4d, audetnet (dataset folder of AUDetNet), folder (class
            folders), table (CSV or Parquet), synthetic (of mien synthesize), aligned (a prepared store, its aligned faces).
        root: Where the dataset lies: its folder, or the CSV or Parquet file; for synthetic and fitted the store to read.
        out: Folder of the store; new, empty, or one that this command began.
        size: Side of the stored square pictures in pixels; 48 for fer2013, 112 for synthetic, as it is for fitted,
            224 otherwise.
        channels: 1 grey or 3 colour; 1 for fer2013, as it is for fitted, 3 otherwise.
        encoding: How pictures are kept: raw is fastest, png smaller, jpeg (quality 95) smallest.
        faces: Where landmarks come from: none (what the dataset has), given (those, or --landmarks), mediapipe, dlib.
        align: Turn and scale each face to the standard position; needs --faces (not synthetic). Without a face: its box or centre.
        landmarks: File or folder with 68 points per picture (.txt, .csv, .npz, .npy, .pts), for --faces given.
        landmark_order: The two numbers of a line in text files of 68 lines: row-col (y x) or x-y.
        landmark_frame: Size of the frame that --landmarks live in, 100 or 120x100 (width x height); points are scaled from
            it to each picture. Otherwise they are pixels of the picture.
        landmark_limit: Drop the landmarks of faces whose shape lies further than this from the median shape, in eye
            distances (0.25 is a start; see mien check); the faces stay. The same command with another limit only applies that.
        landmark_model: Model file of the face provider; found by itself where the provider is installed.
        pictures: rafdb: aligned (official 100 px crops, used unless said otherwise), original (whole photos with a face
            box), our_aligned (crops of the published guided-AU preparation). disfa: left or right camera, or images.
        folds: rafdb, affectnet only: folder with train, val, test lists of pictures, labels and landmarks, as published with
            the guided-AU code, or with train.csv, valid.csv, test.csv. fer2013, affectnet: fold file of mien folds, as published
            with the guided spatial transformers.
        polarity: affectnet only: label Positive above this valence, Negative below its negative, Neutral between; published 0.2.
        votes: fer2013 only: FER+ votes, fer2013new.csv; used by itself when beside fer2013.csv.
        columns: table only: target=column pairs, e.g. image=path,expression=emotion,AU12=AU12_r,attr.skin=tone.
        labels: table only: value=expression pairs, e.g. 0=Anger,1=Disgust.
        subject_pattern: folder only: regular expression with one group that finds the subject in a relative path.
        units: audetnet only: names of the action units in the order of pickled vectors, e.g. AU1,AU2,AU4.
        au_scale: audetnet only: what its numbers are, intensity (0-5) or occurrence (0 and 1); told by the numbers by default.
        fold: disfa, bp4d, audetnet only: which subjects are test, literature-1 (used for disfa and bp4d), literature-2, ...,
            bp4d also published-1; audetnet also a number, for train_ids_1.csv and test_ids_1.csv.
        subject_leak: audetnet only: read lists that have the same subjects in train and test.
        synthetic: fitted only: store of mien synthesize whose faces join the training part.
        whole: aligned only: share of the training faces that join it unaligned, too.
        workers: Processes; all cores by default, 1 stays in this one.

    """
    reader = _reader(dataset, align)
    own = _without_none({
        "pictures": pictures, "folds": folds, "polarity": polarity, "votes": votes, "columns": columns,
        "labels": labels, "subject_pattern": subject_pattern, "units": units, "au_scale": au_scale, "fold": fold,
        "subject_leak": subject_leak or None, "synthetic": synthetic, "whole": whole,
    })  # fmt: skip
    brought = {"landmarks": landmarks, "landmark_order": landmark_order, "landmark_frame": landmark_frame}
    read = _bind(dataset, reader, root, own)
    shape = _shape(reader, root, size, channels)
    options = _options(shape[0], faces, align, reader.landmarks, brought, landmark_model)
    if landmark_limit is not None and not landmark_limit > 0:
        raise UsageError(f"--landmark-limit {landmark_limit:g} must be above 0; 0.25 is a start.")
    notes = {"faces": faces, "align": str(align), **_notes(reader, root, own)}
    chosen = own | _without_none(brought) if landmarks else own
    notes |= {key: value.name if isinstance(value, Path) else str(value) for key, value in chosen.items()}
    done = finished_ids(out)
    if done:
        print(f"{len(done)} pictures are done already, going on after them.", file=sys.stderr)
    slow = options.provider is not None or align
    total = sum(1 for _ in read()) - len(done) if slow and sys.stderr.isatty() else None
    items = read() if landmarks is None else _with_points(read, landmarks, landmark_order)
    left = (item for item in items if item.id not in done)
    store = write_store(
        _prepare_all(left, options, _processes(workers, options, read)), out,
        dataset=notes.get("source_dataset", dataset), size=shape[0], channels=shape[1], encoding=encoding, notes=notes, total=total,
    )  # fmt: skip
    store = limit_landmarks(store, landmark_limit)
    print(summary(store))
    return store


class Options(NamedTuple):
    """What a worker process has to know; picklable."""

    size: int
    align: bool
    provider: str | None
    model: Path | None
    frame: tuple[int, int] | None
    """Width and height that the landmarks of a file are given in; None for those of each picture."""
    counted: bool
    """Whether finding a face is part of the job and noted in the attributes."""


def _reader(dataset: str, align: bool) -> Reader:
    """The reader by name; UsageError where there is none, or faces would be laid twice."""
    if dataset not in DATASETS:
        raise unknown_name("dataset", dataset, DATASETS)
    if dataset == "aligned" and align:
        raise UsageError("fitted lays every face already: leave out --align.")
    return DATASETS[dataset]


def _shape(reader: Reader, root: Path, size: int | None, channels: int | None) -> tuple[int, int]:
    """Size and channels of the store: what was asked for, else what is usual for the dataset."""
    usual = (reader.size, reader.channels) if reader.shape is None else reader.shape(root)
    return size or usual[0], channels or usual[1]


def _without_none(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _bind(dataset: str, reader: Reader, root: Path, given: dict[str, Any]) -> Callable[[], Iterator[Record | Skipped]]:
    accepted = inspect.signature(reader.records).parameters
    for name in given:
        if name not in accepted:
            raise UsageError(f"--{name.replace('_', '-')} does not apply to dataset '{dataset}'.")
    return functools.partial(reader.records, root, **given)


def _notes(reader: Reader, root: Path, given: dict[str, Any]) -> dict[str, str]:
    """What the reader wants remembered, told those of its options that matter for it."""
    if reader.notes is None:
        return {}
    accepted = inspect.signature(reader.notes).parameters
    return reader.notes(root, **{name: value for name, value in given.items() if name in accepted})


def _options(
    size: int, faces: str, align: bool, own_points: bool, brought: dict[str, Any], model: Path | None
) -> Options:
    """Check the face options before any work starts; `brought` are those of landmarks that the user brings."""
    if align and faces == "none" and not own_points:
        raise UsageError("--align needs landmarks: add --faces given or --faces mediapipe.")
    for name in (name for name, value in brought.items() if value not in (None, "row-col")):
        if brought["landmarks"] is None:
            raise UsageError(f"--{name.replace('_', '-')} goes with --landmarks.")
        if faces != "given":
            raise UsageError(f"--{name.replace('_', '-')} goes with --faces given.")
    frame = _frame(brought["landmark_frame"]) if brought["landmark_frame"] is not None else None
    if faces in ("none", "given"):
        return Options(size, align, None, None, frame, faces == "given")
    from mien.faces.detect import PROVIDERS

    if faces not in PROVIDERS:
        raise unknown_name("face provider", faces, ("none", "given", *PROVIDERS))
    _provider(faces, model)  # a missing model is told now, not by a worker
    return Options(size, align, faces, model, None, True)


def _frame(text: str) -> tuple[int, int]:
    """Width and height of "100" or "120x100"."""
    found = re.fullmatch(r"(\d+)(?:x(\d+))?", text.strip().lower())
    sides = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if min(sides) < 1:
        raise UsageError(f"--landmark-frame '{text}' is no size in pixels: write 100, or 120x100 (width x height).")
    return sides


@functools.lru_cache(maxsize=1)
def _provider(name: str, model: Path | None) -> Callable[[ByteArray], list[Any]]:
    """The face provider, opened once per process."""
    from mien.faces.detect import open_provider

    return open_provider(name, model)


def _with_points(
    read: Callable[[], Iterator[Record | Skipped]], landmarks: Path, order: Literal["row-col", "x-y"]
) -> Iterator[Record | Skipped]:
    """Records with the landmarks of a user's file; a picture that it does not list has no face, but some must fit."""
    from mien.faces.detect import open_given

    look_up = open_given(landmarks, order)

    def find(item: Record) -> list[Any] | None:
        return look_up(item.id, item.image if isinstance(item.image, Path) else None)

    records = (item for item in read() if isinstance(item, Record))
    if (first := next(records, None)) is not None and all(find(item) is None for item in chain([first], records)):
        raise DataError(f"'{landmarks}' lists no picture of this dataset, whose first is '{first.id}'.")
    for item in read():
        if isinstance(item, Record):
            found = find(item)
            yield item._replace(landmarks=found[0].landmarks if found else None)
        else:
            yield item


def _processes(workers: int | None, options: Options, read: Callable[[], Iterator[Record | Skipped]]) -> int | None:
    """Workers to use: pixels that need no decoding and no face search are faster in this process than on a journey."""
    if workers is not None or options.provider is not None:
        return workers
    first = next((item for item in read() if isinstance(item, Record)), None)
    return 1 if first is not None and isinstance(first.image, np.ndarray) else None


def _prepare_all(
    items: Iterator[Record | Skipped], options: Options, processes: int | None
) -> Iterator[Record | Skipped]:
    for chunk in ordered_map(functools.partial(_prepare_chunk, options), _chunks(items), processes, chunk=1):
        yield from chunk


def _chunks(items: Iterator[Record | Skipped]) -> Iterator[list[Record | Skipped]]:
    while chunk := list(islice(items, CHUNK)):
        yield chunk


def _prepare_chunk(options: Options, items: list[Record | Skipped]) -> list[Record | Skipped]:
    return [prepare_record(item, options) if isinstance(item, Record) else item for item in items]


def prepare_record(record: Record, options: Options) -> Record | Skipped:
    """Decode, find the face, cut or align, resize; what cannot be decoded becomes a Skipped."""
    from mien.errors import PictureError
    from mien.faces.align import move_points
    from mien.faces.pictures import box_square, centre_square, cut_square, load_picture, outside, rescale, whole_square

    try:
        image = load_picture(record.image)
    except PictureError as error:
        return Skipped(record.id, str(error))
    points, box = record.landmarks, record.box
    if box is not None and outside(box, *image.shape[:2]):
        return Skipped(record.id, "the face box lies mostly outside the picture")
    if options.frame is not None and points is not None:
        points = rescale(points, options.frame, (image.shape[1], image.shape[0]))
    attributes = dict(record.attributes)
    if options.provider is not None:
        face = _main_face(image, options, box)
        points = None if face is None else np.asarray(face.landmarks, dtype=np.float32)
    usable = points is not None and bool(np.isfinite(points).all(axis=1).any())
    if options.counted:
        attributes["face"] = "found" if usable else "not found"
    aligned = _align(image, points, options.size) if options.align and points is not None else None
    if aligned is not None:
        pixels, points = aligned
        crop = "aligned"
    else:
        if box is not None and np.isfinite(box).all():
            square, crop = box_square(box), "box"
        else:
            square, crop = (centre_square if options.align else whole_square)(*image.shape[:2]), "centre"
        pixels, matrix = cut_square(image, square, options.size)
        points = None if points is None else move_points(points, matrix)
    if options.align:
        attributes["crop"] = crop
    return record._replace(image=pixels, landmarks=points, box=None, attributes=attributes)


def _align(image: ByteArray, points: FloatArray, size: int) -> tuple[ByteArray, FloatArray] | None:
    """Aligned pixels and points; None when a point that alignment needs is unknown."""
    from mien.faces.align import align

    found = align(image, points, size)
    return None if found is None else (found[0], found[1])


def _main_face(image: ByteArray, options: Options, box: Any) -> Any:
    """The provider's main face, or with a box from the dataset the one that overlaps it most (at least a tenth)."""
    from mien.faces.provider import overlap

    colour = image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2)
    found = _provider(str(options.provider), options.model)(colour)
    if box is None or not np.isfinite(box).all():
        return found[0] if found else None
    overlaps = overlap(box, np.array([face.box for face in found]).reshape(-1, 4))
    return found[int(overlaps.argmax())] if len(found) and overlaps.max() >= 0.1 else None


def summary(store: Store) -> str:
    """Counts per class and split, landmark coverage, what was skipped and why, and whether faces are small."""
    known = np.isfinite(store.landmarks).all(axis=(1, 2))
    megabytes = sum(part["bytes"] for part in store.info.parts) / 2**20
    lines = [
        f"{store.path}: {len(store)} faces, {store.info.size} px, {store.info.channels} channel(s), "
        f"{store.info.encoding}, {megabytes:.0f} MiB",
        text_table(*label_table(store)),
        f"all 68 landmarks: {known.sum()} of {len(store)} faces ({known.mean():.1%})",
    ]
    if store.info.landmark_limit is not None:
        lines.append(
            f"landmarks dropped: {len(store.info.landmarks_dropped)}, beyond {store.info.landmark_limit:g} eye distances "
            "from the median shape"
        )
    for name in ("face", "crop", "polarity"):
        counts = Counter(str(row[name]) for row in store.attributes if name in row)
        if counts:
            lines.append(f"{name}: " + ", ".join(f"{word} {count}" for word, count in counts.most_common()))
    if store.skipped:
        lines.append(f"skipped {len(store.skipped)} (all in {store.path / 'skipped.csv'}):")
        kinds: dict[str, list[Skipped]] = {}
        for entry in store.skipped:
            kinds.setdefault(re.sub(r"'[^']*'|\d+", "_", entry.reason), []).append(entry)
        for entries in sorted(kinds.values(), key=len, reverse=True)[:10]:
            lines.append(f"  {len(entries)} x {entries[0].reason} (first: {entries[0].id})")
    lines.append(share_line(face_share(store)))
    if any(store.expression) and not (store.split == "test").any():
        lines.append(
            "no test split: mien crossval scores every face; mien evaluate --split valid scores the faces that select the epoch"
        )
    return "\n".join(line for line in lines if line)
