"""What the page answers: synthetic faces, photos, frames of a camera or video, a report. Each answer needs its question only."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mien import draw
from mien import explain as explainers
from mien.errors import DataError, MienError, PictureError, UsageError, unknown_name
from mien.faces.pictures import load_picture
from mien.predict.bundled import BUNDLED, bundled_run
from mien.predict.calibration import FILE, calibrations_of, read_calibration
from mien.predict.finders import Finders
from mien.predict.fusion import read_fusion
from mien.predict.model import LEAST_FACE, FaceModel, load
from mien.predict.opening import tell_photos
from mien.predict.results import PicturePrediction
from mien.predict.rows import Layout
from mien.predict.units import PointUnits
from mien.predict.writers import csv_text
from mien.schema import ByteArray
from mien.training.hub import fetched
from mien.web import cards, synthetic
from mien.web import swap as swaps
from mien.web.guard import JSON
from mien.web.server import Answer, Question, Server, as_json, forget_freed_memory

PREDICTED = "predicted"
LEFT_OUT = ("grad_cam_pp_as_coded",)
DISPLAY = 224
MEGAPIXELS = 50
LONGEST = 1600
"""Longer side, pixels, to which a photo is made smaller before faces are looked for."""
NO_FINDER = (
    "no model that finds faces in photos is here; run `mien models get face_landmarker` and start the page again"
)
FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}


@dataclass(frozen=True)
class Served:
    """What answers on the page."""

    model: FaceModel
    found_by: str
    """Who finds faces, in words."""
    methods: tuple[str, ...]
    """Maps that one or two passes give, the first is the default."""
    photos: bool = True
    """Whether faces are found in photos; else photos, videos and the camera are refused with NO_FINDER."""
    models: Mapping[str, FaceModel] = field(default_factory=dict)
    """Name of a calibration that a question may ask for -> the model with it; the first is `model`. Empty where there is no choice."""

    def asked(self, question: Question) -> FaceModel:
        """The model with the calibration that a question names; UsageError for an unknown one."""
        if not self.models:
            return self.model
        name = question.fields.get("calibration", next(iter(self.models)))
        if name not in self.models:
            raise unknown_name("calibration", name, self.models)
        # One thread answers, so that the net may be told at each question by which head and offsets it answers.
        chosen = self.models[name]
        chosen.calibration.apply(chosen.net)
        return chosen


class Looked(NamedTuple):
    """A picture, what was found in it, and what its card is called."""

    image: ByteArray
    found: PicturePrediction
    method: str
    drawn: bool


def open_model(
    run: Path | str | None, action_units: Path | None, faces: str, landmark_model: Path | None, device: str,
    calibration: str | None = None, classes: str | None = None,
) -> Served:  # fmt: skip
    """Load the model with every calibration of its run, and a finder of faces; with `auto` photos are refused where there is none.

    `run` and `classes` as `mien.load` takes them.

    Raises:
        UsageError: unknown provider or device. DataError: no run, or a named provider that cannot be opened.

    """
    run = fetched(run) if run is not None and str(run).startswith("hf:") else run
    model = load(run, action_units=action_units, device=device, faces="none", calibration=calibration, classes=classes)
    served = with_finder(model, faces, landmark_model)
    tell_photos(model.name, model.wrapped, served.model.provider is not None)
    return replace(served, models=models_for(served.model, run, calibration))


def with_finder(model: FaceModel, faces: str, landmark_model: Path | None) -> Served:
    """The model with a finder of faces."""
    methods = methods_of(model)
    if faces == "none":
        return Served(model, "whole pictures are taken as faces (--faces none)", methods)
    name = "mediapipe" if faces == "auto" else faces
    try:
        finders = Finders(name, landmark_model)
    except DataError as error:
        if faces != "auto" or landmark_model is not None:
            raise
        print(f"mien: photos are refused, synthetic faces work: {error}", file=sys.stderr)
        return Served(model, f"not in photos: {error}", methods, photos=False)
    units = PointUnits() if name == "mediapipe" and model.units is None else model.units
    model = replace(model, provider=finders, least_face=LEAST_FACE.get(name, float("-inf")), units=units)
    return Served(model, f"found by {name}", methods)


def models_for(model: FaceModel, run: Path | str | None, chosen: str | None) -> dict[str, FaceModel]:
    """The model with the calibrations that a visitor may choose among, its own first; none where that is alone."""
    if model.wrapped is not None:
        return {}
    folder = bundled_run() if run is None or str(run) == BUNDLED else Path(run)
    own, fusion = Path(chosen or FILE).stem, read_fusion(folder, model.classes)
    found = {own: model}
    for name in calibrations_of(folder):
        if name != own:
            with suppress(DataError):  # of other weights, say
                one = read_calibration(folder, model.classes, name)
                found[name] = replace(model, calibration=one, fusion=fusion if one.head == "votes" else None)
    return found if len(found) > 1 else {}


def methods_of(model: FaceModel) -> tuple[str, ...]:
    """Explainers that fit the model and need no changed pictures, which would take too long for a page; of a model without a
    layer those that its answers alone allow.
    """
    size = model.recipe.model.size
    image = torch.zeros(1, 3, size, size, device=model.device)
    names = [name for name, row in explainers.EXPLAINERS.items() if row.kind != "perturbation" and name not in LEFT_OUT]
    guide = model.net.blank_guide(image)
    return tuple(explainers.fitting(model.net, image, names, guide)) or explainers.LAYERLESS


def settings(served: Served, max_bytes: int) -> dict[str, Any]:
    """What the page needs to know to draw its controls."""
    return {
        "title": cards.TITLE, "notice": cards.NOTICE, "model": served.model.title, "faces": served.found_by,
        "photos": served.photos, "no_finder": NO_FINDER, "max_bytes": max_bytes, "methods": served.methods,
        "classes": served.model.classes, "predicted": PREDICTED, "people": synthetic.PEOPLE, "yaw": synthetic.YAW,
        "pitch": synthetic.PITCH, "strongest": synthetic.STRONGEST, "groups": synthetic.UNIT_GROUPS,
        "start": synthetic.START, "presets": {name: synthetic.preset(name) for name in synthetic.PRESETS},
        "examples": synthetic.EXAMPLES, "swaps": swaps.swapper_of(served.model) is not None,
        "calibrations": {name: one.calibration.fitted_on or "nothing" for name, one in served.models.items()},
    }  # fmt: skip


def answer(served: Served, max_bytes: int, question: Question) -> Answer:
    """The answer to a question that passed the guard; what is wrong with a photo is told as a message (422)."""
    try:
        if question.path in FILES:
            name, kind = FILES[question.path]
            return Answer(f"{kind}; charset=utf-8", (Path(__file__).parent / name).read_bytes())
        if question.path == "/settings":
            return as_json(settings(served, max_bytes))
        return QUESTIONS[question.path](served, question)
    except PictureError as error:
        return as_json({"message": f"This file cannot be used: {error}."}, 422)
    except MienError as error:
        return as_json({"message": str(error)}, 422)
    except Exception as error:  # a library that fails on a visitor's file must not end the page, nor answer nothing
        print(f"mien: a question could not be answered ({type(error).__name__}).", file=sys.stderr)
        return as_json({"message": f"This could not be answered ({type(error).__name__})."}, 500)


def look(served: Served, question: Question) -> Answer:
    """Cards of a synthetic face or a photo, its picture with boxes, and its rows."""
    one = looked_at(served, question)
    if one.drawn:
        shown = cards.card(one.found.faces[0], one.method, "Synthetic face")
    else:
        shown = cards.photo_page(one.image, one.found, one.method)
    return as_json(
        {"html": shown, "csv": csv_text([one.found], layout_of(served, True)), "faces": len(one.found.faces)}
    )


def frame(served: Served, question: Question) -> Answer:
    """Faces of one frame of a camera or video, without maps: boxes in shares of the frame, probabilities, rows."""
    need_finder(served)
    image = smaller(read_photo(question.body))
    moment = number_in(question.fields, "time", 0.0)
    found = replace(
        served.asked(question).predict(image, batch=8)[0], source=name_in(question.fields), time=moment,
        frame=int(number_in(question.fields, "frame", 0)),
    )  # fmt: skip
    faces = [
        {"box": [v / s for v, s in zip(face.box or (0, 0, found.width, found.height), (found.width, found.height) * 2, strict=True)],
         "expression": face.expression, "confidence": face.confidence, "doubt": face.doubt,
         "probabilities": face.probabilities}
        for face in found.faces
    ]  # fmt: skip
    return as_json({"faces": faces, "reason": found.reason, "csv": csv_text([found], layout_of(served, False))})


def report(served: Served, question: Question) -> Answer:
    """One page as PDF: the picture, every expression's probability, the map, and the words."""
    from mien.web.report import pdf_of

    one = looked_at(served, question)
    return Answer("application/pdf", pdf_of(one.image, one.found, one.method, served.model.title))


def swap(served: Served, question: Question) -> Answer:
    """Pictures for the slider between the expressions of two photos."""
    need_finder(served)
    first = number_in(question.fields, "first", 0)
    return as_json(swaps.strips(served.asked(question), question.body, first, lambda half: smaller(read_photo(half))))


QUESTIONS: dict[str, Callable[[Served, Question], Answer]] = {
    "/look": look, "/frame": frame, "/report": report, "/swap": swap,
}  # fmt: skip
"""Path of guard.ROUTES -> what answers it."""


def looked_at(served: Served, question: Question) -> Looked:
    """The synthetic face (JSON) or photo (bytes) of a question, explained."""
    method = question.fields.get("method", served.methods[0])
    if method not in served.methods:
        raise unknown_name("map", method, served.methods)
    asked = question.fields.get("expression", PREDICTED)
    wanted, own = None if asked == PREDICTED else asked, served.asked(question)
    if question.kind == JSON:
        face = drawn_face(question.body)
        model = replace(own, provider=synthetic.finder_of(face))
        found = model.predict(face.image, explain=method, expression=wanted, display=DISPLAY)[0]
        return Looked(face.image, replace(found, source="synthetic face"), method, drawn=True)
    need_finder(served)
    image = smaller(read_photo(question.body))
    found = own.predict(image, explain=method, expression=wanted, display=DISPLAY)[0]
    return Looked(image, replace(found, source=name_in(question.fields)), method, drawn=False)


def drawn_face(body: bytearray) -> Any:
    """The face that a JSON object {units, person, yaw, pitch} describes; UsageError for another."""
    try:
        asked = json.loads(bytes(body))
        units = {str(name): float(value) for name, value in dict(asked["units"]).items()}
        person, yaw, pitch = int(asked["person"]), float(asked["yaw"]), float(asked["pitch"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        raise UsageError("a synthetic face is asked for with units, person, yaw and pitch as numbers.") from None
    return synthetic.draw_face(units, person, yaw, pitch)


def need_finder(served: Served) -> None:
    """DataError where no faces are found in photos."""
    if not served.photos:
        raise DataError(f"{NO_FINDER[0].upper()}{NO_FINDER[1:]}.")


def layout_of(served: Served, explained: bool) -> Layout:
    """Columns of the page's rows: those of `mien predict`."""
    return Layout(served.model.classes, served.model.action_units, explained)


def name_in(fields: Mapping[str, str]) -> str:
    """What the browser calls the file, shortened; it stands in the rows only."""
    return fields.get("name", "photo")[:200] or "photo"


def number_in(fields: Mapping[str, str], name: str, default: float) -> float:
    """A number of a question, at least 0; UsageError for anything else."""
    try:
        value = float(fields.get(name, default))
    except ValueError:
        value = float("nan")
    if not 0 <= value < 1e9:
        raise UsageError(f"{name} must be a number of at least 0.")
    return value


def read_photo(data: bytearray) -> ByteArray:
    """RGB pixels of an encoded photo, upright by its EXIF note; PictureError for what is none, or above MEGAPIXELS."""
    if not data:
        raise PictureError("empty file")
    return draw.rgb(load_picture(bytes(data), most_pixels=MEGAPIXELS * 1_000_000))


def smaller(image: ByteArray) -> ByteArray:
    """A picture whose longer side is at most LONGEST."""
    import cv2
    import numpy as np

    height, width = image.shape[:2]
    scale = LONGEST / max(height, width)
    if scale >= 1:
        return np.ascontiguousarray(image)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def launch(served: Served, host: str, port: int, max_bytes: int, rate: int, origin: str = "") -> Server:
    """Start the server in a thread. A photo may have `max_bytes`."""
    return Server(host, port, lambda question: answer(served, max_bytes, question), max_bytes, rate, origin).start()


def run_page(
    served: Served, host: str, port: int, *, max_bytes: int, rate: int, origin: str, warn: Callable[[], None]
) -> None:
    """Serve until Ctrl-C."""
    forget_freed_memory()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C
    try:
        page = launch(served, host, port, max_bytes, rate, origin)
    except OSError as error:
        raise UsageError(f"cannot listen at {host}:{port} ({error}); choose another --port.") from error
    warn()
    try:
        print(f"{page.url} recognises expressions with {served.model.title}; Ctrl-C ends it.", flush=True)
        page.thread.join()
    except KeyboardInterrupt:
        pass
    finally:
        page.close()
