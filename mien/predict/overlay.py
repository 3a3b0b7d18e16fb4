"""Pictures and videos with boxes, labels, maps and the notice that Mien puts on all of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np

from mien import draw
from mien.errors import DataError
from mien.faces.align import invert
from mien.faces.films import Film, open_film
from mien.files import name_of, own_name, writing
from mien.predict.results import NOTICE, FacePrediction, PicturePrediction
from mien.predict.sources import Picture
from mien.schema import ByteArray, FloatArray

Box = tuple[int, int, int, int]
"""Left, top, right, bottom, pixels."""
SHORTEST = 480
"""A picture with a smaller longer side is enlarged by a whole number, so that its labels can be read."""
BOX = (255, 196, 0)
UNSURE = (150, 150, 150)
STRENGTH = 0.5


def annotated(image: ByteArray, prediction: PicturePrediction) -> ByteArray:
    """Copy of a picture with the map, box and label of each face, and the notice; small pictures are enlarged."""
    import cv2

    height, width = image.shape[:2]
    scale = max(1, -(-SHORTEST // max(height, width)))
    canvas = np.ascontiguousarray(image)
    if scale > 1:
        canvas = cv2.resize(canvas, (width * scale, height * scale), interpolation=cv2.INTER_CUBIC)
    canvas = canvas.copy()
    size = max(12, min(28, max(canvas.shape[:2]) // 36))
    for face in prediction.faces:
        if face.explanation is not None:
            canvas = with_map(canvas, face, scale)
    boxes: list[Box] = []
    for face in prediction.faces:
        box = np.array(face.box or (0, 0, width - 1, height - 1))
        x0, y0, x1, y1 = (int(v) for v in np.rint((box + 0.5) * scale - 0.5))
        boxes.append((x0, y0, x1, y1))
        cv2.rectangle(canvas, (x0, y0), (x1, y1), ink_of(face), max(1, size // 8), cv2.LINE_AA)
    for face, (text, place) in zip(
        prediction.faces, labels(prediction.faces, boxes, canvas.shape[:2], size), strict=True
    ):
        draw.plate(canvas, text, place, size, draw.INK, ink_of(face))
    small = max(12, size * 3 // 4)
    draw.plate(canvas, legend(prediction), (0, canvas.shape[0]), small)
    if any(face.explanation is not None for face in prediction.faces):
        bar(canvas, small)
    return canvas


def ink_of(face: FacePrediction) -> draw.Colour:
    """Colour of a face's box."""
    return UNSURE if face.abstained else BOX


def labels(
    faces: Sequence[FacePrediction], boxes: Sequence[Box], shape: tuple[int, int], size: int
) -> list[tuple[str, tuple[int, int]]]:
    """What is written at each face, and the lower left corner of its plate in a picture of (height, width).

    Over the box or under it, where it hides no other face and no label. Where not all find such a place all are shortened, to a word
    and at last to the number; only then labels may overlap.
    """
    told: list[tuple[str, tuple[int, int]]] = []
    for short in (label, shortened, lambda face, several: str(face.track or face.face)):
        taken: list[Box] = []
        told, fits = [], True
        for number, (face, box) in enumerate(zip(faces, boxes, strict=True)):
            text = short(face, len(faces))
            plate = draw.plate_box(shape, text, (0, shape[0]), size)
            others = [*taken, *boxes[:number], *boxes[number + 1 :]]
            places = [at for at in beside(box, plate) if free(draw.plate_box(shape, text, at, size), others)]
            fits = fits and bool(places)
            told.append((text, places[0] if places else box[:2]))
            taken.append(draw.plate_box(shape, *told[-1], size))
        if fits:
            break
    return told


def beside(box: Box, plate: Box) -> list[tuple[int, int]]:
    """Lower left corners for a plate over a box and under it, in line with its left and its right side."""
    wide, tall = plate[2] - plate[0], plate[3] - plate[1]
    return [(x, y) for y in (box[1], box[3] + tall) for x in (box[0], box[2] - wide)]


def free(plate: Box, others: Sequence[Box]) -> bool:
    """Whether a plate overlaps none of the others."""
    return not any(plate[0] < x1 and x0 < plate[2] and plate[1] < y1 and y0 < plate[3] for x0, y0, x1, y1 in others)


def shortened(face: FacePrediction, several: int) -> str:
    """The label in a word: the expression, or "unsure", or "outside"."""
    return numbered(face, several) + (face.doubt.split(":")[0] or face.expression)


def numbered(face: FacePrediction, several: int) -> str:
    """The number of a face's track, or its own where a picture has several; else empty."""
    return f"#{face.track} " if face.track is not None else f"{face.face}: " if several > 1 else ""


def label(face: FacePrediction, several: int = 1) -> str:
    """What is written at a face: its number where a picture has several, or its track, expression, confidence.

    Where the model abstains it stands there why. The numbers are those of the rows.
    """
    name = f"{face.expression} {face.confidence:.0%}"
    name = f"{face.doubt} ({name})" if face.doubt else name
    return numbered(face, several) + name


def legend(prediction: PicturePrediction) -> str:
    """The line at the foot of a picture: the notice, and what is drawn."""
    if not prediction.faces:
        return f"{NOTICE}: {prediction.reason or 'no face found'}"
    told = next((face.explanation for face in prediction.faces if face.explanation is not None), None)
    return NOTICE if told is None else f"{NOTICE}; map: {told.method}, each face in its own range"


def bar(canvas: ByteArray, size: int) -> None:
    """One colour bar for the maps of all faces, low to high, into the lower right corner, in place."""
    height, width = canvas.shape[:2]
    wide, tall = 6 * size, size + size // 2
    if width < 3 * wide or height < 4 * tall:
        return
    ramp = draw.colour(np.linspace(0, 1, wide, dtype=np.float32)[None].repeat(size // 2, 0))
    top = height - 2 * tall
    canvas[top + size // 2 : top + size // 2 + len(ramp), width - wide :] = ramp
    draw.plate(canvas, "low", (width - wide, top + size // 2), size)
    draw.plate(canvas, "high", (width, top + size // 2), size)


def with_map(canvas: ByteArray, face: FacePrediction, scale: int) -> ByteArray:
    """The positive part of the explanation's map, stretched to its own range, laid over the part of the picture that the net saw.

    `canvas` is the picture enlarged by `scale`.
    """
    import cv2

    assert face.explanation is not None
    side = face.display.shape[0]
    values = cv2.resize(unit_range(face.explanation.map.clip(0)), (side, side), interpolation=cv2.INTER_LINEAR)
    back = invert(face.placement) * scale
    back[:, 2] += 0.5 * scale - 0.5
    height, width = canvas.shape[:2]
    shape = (width, height)
    level = cv2.warpAffine(values, back, shape, flags=cv2.INTER_LINEAR)
    inside = cv2.warpAffine(np.ones((side, side), np.float32), back, shape, flags=cv2.INTER_LINEAR)[..., None]
    share = inside * STRENGTH * (1 + 2 * level[..., None]) / 3
    mixed = canvas * (1 - share) + draw.colour(np.clip(level, 0, 1)) * share
    return np.rint(mixed).astype(np.uint8)


def unit_range(values: FloatArray) -> FloatArray:
    """Min-max to [0, 1]; a constant map becomes zero."""
    spread = float(values.max() - values.min())
    return np.asarray((values - values.min()) / (spread if spread > 0 else 1.0), dtype=np.float32)


class Video(NamedTuple):
    """A video that is being written."""

    film: Film
    target: Path
    temporary: Path
    """Its name until it is whole, NAME.part.mp4."""
    size: tuple[int, int]
    """(width, height) of all its frames."""


def fitting(frame: ByteArray, size: tuple[int, int]) -> ByteArray:
    """A frame in a video of (width, height): as it is, or, where its stream changed its size, shrunk or grown to that."""
    import cv2

    if frame.shape[1::-1] == size:
        return frame
    return np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


class Album:
    """A folder of annotated pictures and videos; a video takes its name when it is whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source, self.frame, self.begun = "", 0, False
        self.video: Video | None = None
        """Of the present source; None before its first frame, and where it cannot be written."""

    def __enter__(self) -> Album:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        elif self.video is not None:
            with suppress(DataError):  # what stopped it is told
                self.video.film.close()

    def add(self, picture: Picture, prediction: PicturePrediction) -> None:
        """Draw one picture, or append one frame to its video."""
        if picture.source != self.source or picture.frame <= self.frame:
            self.finish()
            self.begun = False
        self.source, self.frame = picture.source, picture.frame
        if picture.image is None:
            return
        drawn = annotated(picture.image, prediction)
        if picture.time is None:
            draw.write_png(self.path(".png"), drawn)
            return
        # MPEG-4 wants even sides
        drawn = np.pad(drawn, ((0, drawn.shape[0] % 2), (0, drawn.shape[1] % 2), (0, 0)), mode="edge")
        if not self.begun:
            self.video, self.begun = self.opened(drawn, picture), True
        if self.video is not None:
            self.video.film.add(fitting(drawn, self.video.size), picture.time)

    def opened(self, frame: ByteArray, picture: Picture) -> Video | None:
        """The video of the present source for frames like this one; None, and a line, where it cannot be written."""
        target = self.path(".mp4")
        with writing(target):
            self.folder.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{target.stem}.part.mp4")
        film = open_film(temporary, picture.source, picture.rate, (frame.shape[1], frame.shape[0]))
        if film is not None:
            return Video(film, target, temporary, (frame.shape[1], frame.shape[0]))
        print(f"mien: {name_of(target)}: OpenCV cannot write this video; it is left out.", file=sys.stderr)
        return None

    def path(self, ending: str) -> Path:
        """File of the present source: its name, and a few letters that tell files of one name in two folders apart."""
        return self.folder / f"{own_name(self.source)}{ending}"

    def finish(self) -> None:
        """Close the video of the present source."""
        if self.video is not None:
            video, self.video = self.video, None
            video.film.close()
            with writing(video.target):
                os.replace(video.temporary, video.target)
