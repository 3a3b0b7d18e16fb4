"""`mien prepare`: read a dataset, find faces, cut and resize, and write a prepared store; resumable."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from mien.data.shards import Coding, made, once
from mien.data.store import Face, Skipped, Store, finished_ids, write_store
from mien.datasets import DATASETS, Reader, checked, reader_named
from mien.datasets.coded import with_twins
from mien.datasets.hints import remedy
from mien.datasets.names import people_line, with_names, with_text
from mien.datasets.points import as_shares, check_frame, laid_over, read_frame
from mien.datasets.replace import new_place, put_in_place
from mien.datasets.screen import check_limit, limit_landmarks
from mien.datasets.source import source_of
from mien.datasets.summary import summary
from mien.errors import DataError, MienError, UsageError, unknown_name
from mien.schema import ByteArray, FloatArray, Record

NAMED = 200
"""Faces whose names are looked at for people."""
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
    expression_pattern: str | None = None,
    subject_pattern: str | None = None,
    units: str | None = None,
    au_scale: str | None = None,
    fold: str | None = None,
    first_frame: int | None = None,
    subject_leak: bool = False,
    synthetic: Path | None = None,
    whole: float | None = None,
    like: Path | None = None,
    replace: bool = False,
    add: bool = False,
    workers: int | None = None,
    cluster: str | None = None,
) -> Store:
    """Read a dataset into a prepared store; the same command continues an interrupted run.

    Args:
        dataset: Kind of dataset: fer2013, rafdb, affectnet, affwild2, disfa, bp4d, audetnet (dataset folder of AUDetNet), folder
            (class folders), table (CSV or Parquet), synthetic (of mien synthesize), aligned (a prepared store, its aligned faces).
        root: Where the dataset lies: its folder, or the CSV or Parquet file; for synthetic and aligned the store to read.
        out: Folder of the store; new, empty, or one that this command began.
        size: Side of the stored square pictures in pixels; 48 for fer2013, 112 for synthetic, as it is for aligned,
            224 otherwise.
        channels: 1 grey or 3 colour; 1 for fer2013, as it is for aligned, 3 otherwise.
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
            box), our_aligned (crops of the published guided-AU preparation). disfa: left or right camera, or images. table: the
            folder that the paths in it start from; found around the table by default.
        folds: rafdb, affectnet only: folder with train, val, test lists of pictures, labels and landmarks, as published with
            the guided-AU code, or with train.csv, valid.csv, test.csv. fer2013, affectnet: fold file of mien folds, as published
            with the guided spatial transformers.
        polarity: affectnet only: label Positive above this valence, Negative below its negative, Neutral between; published 0.2.
        votes: fer2013 only: FER+ votes, fer2013new.csv; used by itself when beside fer2013.csv.
        columns: table only: target=column pairs, e.g. image=path,expression=emotion,AU12=AU12_r,attr.skin=tone.
        labels: folder, table: value=expression pairs for numbers and foreign words, e.g. 0=Anger,1=Disgust,8=skip; or whose
            numbers they are: fer2013, rafdb, affectnet, ferplus.
        expression_pattern: Regular expression with one group that finds the expression in an id (relative path), or a preset, which
            finds the subject too: jaffe, kdef, rafd, ckplus, nimstim, faces, ravdess, cremad, bu3dfe.
        subject_pattern: Regular expression with one group that finds the subject in an id (relative path), or a preset.
        units: audetnet, table: names of the action units in the order of vectors that have no names, e.g. AU1,AU2,AU4.
        au_scale: table, audetnet: what numbers of action units are: intensity (0-5), occurrence (0 and 1), letters (A-E), probability,
            percent or signed (1 and -1), or pairs such as AU1=occurrence,AU12=intensity; decided from all of them by default. bp4d:
            occurrence (all units), or intensity (five units).
        fold: disfa, bp4d, audetnet only: which subjects are test, literature-1 (used for disfa and bp4d), literature-2, ...,
            bp4d also published-1; none puts all into train (BP4D+ and other people outside the lists); audetnet also a number, for
            train_ids_1.csv and test_ids_1.csv.
        first_frame: disfa only: number of the first picture file, 0 or 1; told by all subjects together by default.
        subject_leak: audetnet only: read lists that have the same subjects in train and test.
        synthetic: aligned only: store of mien synthesize whose faces join the training part.
        whole: aligned only: share of the training faces that join it unaligned, too.
        like: aligned only: run folder of mien train; faces are laid where its training faces lie, and keep their splits.
        replace: Make the store anew where --out holds one that was prepared otherwise; it is replaced when the new one is finished.
        add: Read pictures that have come to lie under --root since the store was made, and those that were skipped, into it.
        workers: Processes; all cores by default, 1 stays in this one.
        cluster: Ray cluster whose workers do the work instead: HOST:PORT, or auto for that of RAY_ADDRESS or one of this machine's
            cores (docs/scale.md).

    """
    reader = _reader(dataset, align)
    own = _without_none({
        "pictures": pictures, "folds": folds, "polarity": polarity, "votes": votes, "columns": columns, "labels": labels,
        "expression_pattern": expression_pattern, "subject_pattern": subject_pattern, "units": units, "au_scale": au_scale,
        "fold": fold, "first_frame": first_frame, "subject_leak": subject_leak or None, "synthetic": synthetic,
        "whole": whole, "like": like,
    })  # fmt: skip
    brought = {"landmarks": landmarks, "landmark_order": landmark_order, "landmark_frame": landmark_frame}
    read = _bind(dataset, reader, root, own)
    first = _first(read, dataset, root, out, own)
    shape = _shape(reader, root, own, size, channels)
    options = _options(shape[0], faces, align, reader.landmarks, brought, landmark_model, landmark_limit)
    laid = _laid(read, options, reader, landmarks, landmark_order)
    notes = {"faces": faces, "align": str(align), **_shown(own, brought), **_notes(reader, root, own)}
    place = new_place(out, add) if replace else out
    by = _processes(workers, options, first), cluster
    faces_made, total = _made(laid, place, options, Coding(*shape, encoding), add, *by)
    store = write_store(
        faces_made, place, dataset=notes.get("source_dataset", dataset), size=shape[0], channels=shape[1], encoding=encoding,
        notes=notes, source=source_of(root, own | brought, out), add=add, total=total,
    )  # fmt: skip
    store = limit_landmarks(put_in_place(place, out) if replace else store, landmark_limit)
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
    if dataset == "aligned" and align:
        raise UsageError("aligned stores have every face aligned already: leave out --align.")
    return reader_named(dataset)


def _shape(
    reader: Reader, root: Path, given: dict[str, Any], size: int | None, channels: int | None
) -> tuple[int, int]:
    """Size and channels of the store: what was asked for, else what is usual for the dataset."""
    accepted = {} if reader.shape is None else inspect.signature(reader.shape).parameters
    taken = {name: value for name, value in given.items() if name in accepted}
    usual = (reader.size, reader.channels) if reader.shape is None else reader.shape(root, **taken)
    return size or usual[0], channels or usual[1]


def _shown(own: dict[str, Any], brought: dict[str, Any]) -> dict[str, str]:
    """Options as a store notes them: of files and folders the names only; those of landmarks where some are brought."""
    chosen = own | (_without_none(brought) if brought["landmarks"] else {})
    paths = {key: Path(value).name for key, value in chosen.items() if isinstance(value, Path) or key == "pictures"}
    return {key: str(value) for key, value in chosen.items()} | paths


def _made(
    read: Callable[[], Iterator[Record | Skipped]], place: Path, options: Options, coding: Coding, add: bool,
    processes: int | None, cluster: str | None,
) -> tuple[Iterator[Face], int | None]:  # fmt: skip
    """What the store does not hold yet, ready to be written; and how much that is, where it is known."""
    left, total = _left(read, place, options, add, cluster is not None)
    work = functools.partial(prepare_item, options)
    found = made(work, once(left), place, coding, workers=processes, cluster=cluster, chunk=CHUNK, total=total)
    return found, total


def _left(
    read: Callable[[], Iterator[Record | Skipped]], place: Path, options: Options, add: bool, shared: bool
) -> tuple[Iterator[Record | Skipped], int | None]:
    """What the store does not hold yet, and how much that is where a terminal waits for slow work or it is shared out."""
    done = finished_ids(place, add)
    if done:
        print(f"{len(done)} pictures are done already, going on after them.", file=sys.stderr)
    slow = (options.provider is not None or options.align) and sys.stderr is not None and sys.stderr.isatty()
    total = max(0, sum(1 for _ in read()) - len(done)) if slow or shared else None
    return (item for item in read() if item.id not in done), total


def _laid(
    read: Callable[[], Iterator[Record | Skipped]], options: Options, reader: Reader, landmarks: Path | None,
    order: Literal["row-col", "x-y"],
) -> Callable[[], Iterator[Record | Skipped]]:  # fmt: skip
    """What is read, with the landmarks of a file where there is one; `check_frame` where their frame is not known otherwise."""
    laid = read if landmarks is None else laid_over(read, landmarks, order)
    if options.provider is None and not reader.landmarks and options.frame is None:
        check_frame(laid())
    return laid


def _without_none(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _bind(dataset: str, reader: Reader, root: Path, given: dict[str, Any]) -> Callable[[], Iterator[Record | Skipped]]:
    """The records of a dataset with these options; patterns for names of files go with every dataset."""
    accepted = inspect.signature(reader.records).parameters
    patterns = ("expression_pattern", "subject_pattern")
    for name in given:
        if name not in accepted and name not in patterns:
            raise UsageError(f"--{name.replace('_', '-')} does not apply to dataset '{dataset}'.")
    taken = {name: value for name, value in given.items() if name in accepted}

    def read() -> Iterator[Record | Skipped]:
        records = checked(dataset, lambda: reader.records(root, **taken))
        named = with_names(with_text(records), *map(given.get, (*patterns, "labels")))
        return with_twins(named) if reader.videos else named

    return read


def _first(
    read: Callable[[], Iterator[Record | Skipped]], dataset: str, root: Path, out: Path, own: dict[str, Any]
) -> Record:
    """The first face; a line tells where names say whom they show. Without a face the error says which command would find some."""
    readers = {name: reader.records for name, reader in DATASETS.items()}
    skipped: list[Skipped] = []
    try:
        items = read()
        for item in items:
            if isinstance(item, Record):
                line = "" if "subject_pattern" in own else people_line(chain([item], islice(items, NAMED)))
                print(line, end="\n" if line else "", file=sys.stderr)
                return item
            skipped.append(item)
    except MienError as error:
        raise type(error)(f"{error}{remedy(str(error), dataset, root, out, own, readers)}") from error
    why = f" (first: {skipped[0].id}: {skipped[0].reason})" if skipped else ""
    text = f"no usable picture for the store '{out}': {len(skipped)} were skipped{why}."
    raise DataError(text + remedy(text, dataset, root, out, own, readers))


def _notes(reader: Reader, root: Path, given: dict[str, Any]) -> dict[str, str]:
    """What the reader wants remembered, told those of its options that matter for it."""
    if reader.notes is None:
        return {}
    accepted = inspect.signature(reader.notes).parameters
    return reader.notes(root, **{name: value for name, value in given.items() if name in accepted})


def _options(
    size: int,
    faces: str,
    align: bool,
    own_points: bool,
    brought: dict[str, Any],
    model: Path | None,
    limit: float | None,
) -> Options:
    """Check the face options before any work starts; `brought` are those of landmarks that the user brings."""
    check_limit(limit)
    if align and faces == "none" and not own_points:
        raise UsageError("--align needs landmarks: add --faces given or --faces mediapipe.")
    for name in (name for name, value in brought.items() if value not in (None, "row-col")):
        if brought["landmarks"] is None:
            raise UsageError(f"--{name.replace('_', '-')} goes with --landmarks.")
        if faces != "given":
            raise UsageError(f"--{name.replace('_', '-')} goes with --faces given.")
    frame = read_frame(brought["landmark_frame"]) if brought["landmark_frame"] is not None else None
    if faces in ("none", "given"):
        return Options(size, align, None, None, frame, faces == "given")
    from mien.faces.detect import PROVIDERS

    if faces not in PROVIDERS:
        raise unknown_name("face provider", faces, ("none", "given", *PROVIDERS))
    _provider(faces, model)  # a missing model is told now, not by a worker
    return Options(size, align, faces, model, None, True)


@functools.lru_cache(maxsize=1)
def _provider(name: str, model: Path | None) -> Callable[[ByteArray], list[Any]]:
    """The face provider, opened once per process."""
    from mien.faces.detect import open_provider

    return open_provider(name, model)


def _processes(workers: int | None, options: Options, first: Record) -> int | None:
    """Workers to use: pixels that need no decoding and no face search are faster in this process than on a journey."""
    if workers is not None or options.provider is not None:
        return workers
    return 1 if isinstance(first.image, np.ndarray) else None


def prepare_item(options: Options, item: Record | Skipped) -> Record | Skipped:
    """`prepare_record` of what a reader yields."""
    return prepare_record(item, options) if isinstance(item, Record) else item


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
    if points is not None and (options.frame == (1, 1) or (options.frame is None and as_shares(points))):
        points = (points * (image.shape[1], image.shape[0]) - 0.5).astype(np.float32)
    elif options.frame is not None and points is not None:
        points = rescale(points, options.frame, (image.shape[1], image.shape[0]))
    attributes = dict(record.attributes)
    if options.provider is not None:
        face, attributes = _main_face(image, options, box, attributes)
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


def _main_face(
    image: ByteArray, options: Options, box: Any, attributes: dict[str, str | float]
) -> tuple[Any, dict[str, str | float]]:
    """The provider's main face, or with a box from the dataset the one that overlaps it most (at least a tenth); and the attributes
    with which face that was, where there are several: how many, and the middle of the one that is taken as shares of the picture.
    """
    from mien.faces.provider import overlap

    colour = image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2)
    found = _provider(str(options.provider), options.model)(colour)
    boxes = np.array([face.box for face in found]).reshape(-1, 4)
    if box is None or not np.isfinite(box).all():
        taken = 0 if found else None
    else:
        overlaps = overlap(box, boxes)
        taken = int(overlaps.argmax()) if len(found) and overlaps.max() >= 0.1 else None
    if taken is None:
        return None, attributes
    if len(found) > 1:
        x, y = (boxes[taken, :2] + boxes[taken, 2:]) / 2 / (image.shape[1], image.shape[0])
        attributes = attributes | {"faces": len(found), "face_x": round(float(x), 3), "face_y": round(float(y), 3)}
    return found[taken], attributes
