"""`mien predict --cluster`: files shared out among the workers of a Ray cluster, answers in the order of the files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from mien.data.cluster import ordered_map
from mien.errors import UsageError
from mien.faces.live import address_of
from mien.predict.model import FaceModel, load
from mien.predict.results import PicturePrediction
from mien.predict.sources import Picture, is_video, pictures_in
from mien.progress import track

GROUP = 64
"""Photos that a worker answers at a time; of a video it answers all frames."""

File = tuple[Path | bytes, str | None]
"""A file, and why it cannot be read."""


class Opening(NamedTuple):
    """Arguments of `mien.predict.model.load`; picklable."""

    run: Path | None
    action_units: Path | None
    device: str
    faces: str
    landmark_model: Path | None
    least_face: float | None
    precision: str
    calibration: str | None
    any_quality: bool
    neutral: Path | None
    views: int | None
    runtime: str
    classes: str | None

    def open(self) -> FaceModel:
        """The model."""
        return load(**self._asdict())


class Asked(NamedTuple):
    """What is asked of every picture: arguments of `FaceModel.stream` and of `pictures_in`."""

    explain: str | None
    masking: bool
    batch: int
    every: int
    seconds: float
    start: float


class Answers(NamedTuple):
    """Of a group of files."""

    files: int
    pictures: list[tuple[Picture, PicturePrediction]]


opened = lru_cache(maxsize=1)(Opening.open)
"""The model of a worker, which stays open."""


def refuse_unshared(photos: tuple[Path, ...], camera: int | None, overlay: Path | None, cluster: str | None) -> None:
    """UsageError where a cluster shall do what only the command's own machine can do."""
    if cluster is None:
        return
    if camera is not None or any(address_of(str(photo)) is not None for photo in photos):
        raise UsageError("a camera or stream is read by one machine: leave out --cluster.")
    if overlay is not None:
        raise UsageError("--overlay draws on one machine: leave it out, or --cluster.")


def shared_out(
    opening: Opening, asked: Asked, files: Iterable[File], total: int | None, cluster: str
) -> Iterator[tuple[Picture, PicturePrediction]]:
    """Answers to all files in order, as `FaceModel.stream` gives them, without the pictures themselves."""
    answers = ordered_map(partial(answer, opening, asked), groups(files), chunk=1, cluster=cluster)
    for group in track(answers, "files", total, lambda group: group.files):
        yield from group.pictures


def groups(files: Iterable[File]) -> Iterator[list[File]]:
    """GROUP photos each, a video alone; in order."""
    held: list[File] = []
    for file in files:
        alone = isinstance(file[0], Path) and file[1] is None and is_video(file[0])
        if held and (alone or len(held) == GROUP):
            yield held
            held = []
        if alone:
            yield [file]
        else:
            held.append(file)
    if held:
        yield held


def answer(opening: Opening, asked: Asked, files: list[File]) -> Answers:
    """What the model says of some files; in a worker."""
    pictures = chain.from_iterable(
        pictures_in(file, reason, asked.every, asked.seconds, asked.start) for file, reason in files
    )
    stream = opened(opening).stream(
        pictures, explain=asked.explain, masking=asked.masking, batch=asked.batch, display=32, workers=1
    )
    return Answers(len(files), list(stream))
