"""`mien.load`: a trained run as one object that finds faces in pictures and names their expressions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from mien import explain as explainers
from mien.config import Recipe
from mien.data.framing import FramedFace, Framing, frame_face
from mien.errors import UsageError, unknown_name
from mien.faces.detect import PROVIDERS
from mien.faces.provider import Face, Provider
from mien.faces.quality import UNKNOWN, Quality, quality_of
from mien.predict.batches import batch_of, classify, explain_faces
from mien.predict.bundled import BUNDLED
from mien.predict.calibration import Calibration, read_calibration
from mien.predict.finders import Finders, ahead, counted, heavy
from mien.predict.found import Found, Seen, pixels
from mien.predict.fusion import Fusion, added_by, read_fusion
from mien.predict.limits import outside
from mien.predict.neutral import units_from_neutral
from mien.predict.opening import opened, refuse_of_runs, tell_photos
from mien.predict.photos import refuse_foreign_guide
from mien.predict.predictions import Predictions
from mien.predict.results import Explanation, FacePrediction, PicturePrediction
from mien.predict.runtimes import Answers, as_answers
from mien.predict.sources import Picture, pictures_of
from mien.predict.units import NOT_KNOWN, PointUnits, UnitSource, net_units, spread, unnamed
from mien.predict.videos import predict_video
from mien.predict.views import check_views
from mien.progress import default_workers
from mien.schema import SCHEMES, ByteArray, class_index
from mien.wrapped.model import WrappedModel

LEAST_FACE = {"mediapipe": 0.7}
"""Face provider -> confidence from which a face counts: a flower reached 0.64, faces of portraits have 1.0."""
PRECISIONS = {"32-true": None, "bf16-mixed": torch.bfloat16}
"""As `run.precision` of training -> what convolutions and matrix products are calculated in."""
PREFERRED = ("cam", "layer_cam", "ts_cam", "rollout", "attention", *explainers.LAYERLESS)
"""What `auto` takes, the first that fits the model; the last ones need no layer, and many passes a face."""


@dataclass(frozen=True, eq=False, repr=False)
class FaceModel:
    """A model, the finder of its faces, and what its run folder says about them. Made by `load`."""

    name: str
    """Of the run or wrapped model, or BUNDLED."""
    net: Any
    """In evaluation mode: images -> Output."""
    classes: tuple[str, ...]
    """Expressions in logit order."""
    recipe: Recipe
    facts: dict[str, Any]
    """environment.json and the checkpoint's metadata."""
    framing: Framing
    provider: Provider | None
    """None: whole pictures are faces."""
    least_face: float
    """Faces whose provider is less sure than this do not count."""
    device: torch.device
    calibration: Calibration
    units: UnitSource | None
    """Where action units come from; None where they are not known."""
    precision: str = "32-true"
    """Of the nets: a key of PRECISIONS."""
    any_quality: bool = False
    """Name expressions of faces beyond the limits of `mien.predict.limits`, too."""
    views: int = 1
    """Of each face, whose logits are averaged: one of mien.predict.views.VIEWS."""
    fusion: Fusion | None = None
    """What blendshapes add to the logits, where the run has it."""
    answers: Answers | None = None
    """The net in the runtime that answers where nothing is explained; None for the net itself."""
    wrapped: WrappedModel | None = None
    """What `mien.wrap` made of a model of others; None for a run."""

    def __repr__(self) -> str:
        units = f", {len(self.action_units)} action units" if self.action_units else ""
        return f"FaceModel({self.name}: {', '.join(self.classes)}{units}; {self.device})"

    @property
    def title(self) -> str:
        """What it is called where people read it."""
        kind = "run" if self.wrapped is None else "model"
        return "the bundled model" if self.name == BUNDLED and kind == "run" else f"{kind} {self.name}"

    @property
    def index(self) -> dict[str, int]:
        """Expression of a dataset -> its place in `classes`, where the model has a class for it."""
        scheme = list(SCHEMES[self.recipe.data.scheme])
        named = {name: scheme[k] for name, k in class_index(self.recipe.data.scheme).items()}
        return {name: self.classes.index(own) for name, own in named.items() if own in self.classes}

    @property
    def action_units(self) -> tuple[str, ...]:
        """Action units that are looked for."""
        return () if self.units is None else self.units.names

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """Explainers that fit the model (docs/explanations.md)."""
        return tuple(name for name in explainers.EXPLAINERS if self._fits(name) is None)

    def method(self, name: str) -> str:
        """An explainer by name, or the one that `auto` stands for; UsageError where it does not fit the model."""
        if name != "auto" and name not in explainers.EXPLAINERS:
            raise unknown_name("explainer", name, ("auto", *explainers.EXPLAINERS))
        if name == "auto":
            first = next((one for one in PREFERRED if self._fits(one) is None), None)
            if first is None:
                raise UsageError(
                    f"none of {', '.join(PREFERRED)} fits this model; name one of {', '.join(self.methods)}."
                )
            return first
        error = self._fits(name)
        if error is not None:
            raise error
        return name

    @cached_property
    def _tried(self) -> dict[str, UsageError | None]:
        return {}

    def _fits(self, name: str) -> UsageError | None:
        """Why an explainer does not fit the model, found by trying it once on a blank picture."""
        if name not in self._tried:
            image = torch.zeros(1, 3, self.recipe.model.size, self.recipe.model.size, device=self.device)
            guide, one = self.net.blank_guide(image), explainers.Sampling(samples=1)
            try:
                explainers.explain(self.net, image, 0, (name,), sampling=one, guide=guide)
                self._tried[name] = None
            except UsageError as error:
                self._tried[name] = error
        return self._tried[name]

    def predict(
        self,
        images: Any,
        *,
        explain: str | bool | None = None,
        expression: str | None = None,
        masking: bool = True,
        batch: int = 32,
        display: int = 112,
    ) -> Predictions:
        """Faces, expressions and action units of pictures; a picture that cannot be used keeps its place, with the reason.

        Args:
            images: one or several of: path of a picture or of a folder of them, its encoded bytes, a PIL picture, RGB
                (H, W, 3) or grey (H, W) uint8 array.
            explain: key of mien.explain.EXPLAINERS, or auto (or True) for the first that fits; None for no explanation.
            expression: that is explained for every face, instead of the predicted one; with it `explain` is auto where not given.
            masking: try what each region of the face is worth, which takes eight more passes a face.
            batch: faces at a time.
            display: side of `FacePrediction.display`, pixels.

        """
        told = "auto" if explain is True or (expression and not explain) else explain or None
        stream = self.stream(
            pictures_of(images), explain=told, expression=expression, masking=masking, batch=batch, display=display
        )
        return Predictions(tuple(found for _, found in stream), self.classes, self.action_units, told is not None)

    def stream(
        self,
        pictures: Iterable[Picture],
        *,
        explain: str | None = None,
        expression: str | None = None,
        masking: bool = True,
        batch: int = 32,
        display: int = 112,
        workers: int | None = None,
        keep_images: bool = False,
    ) -> Iterator[tuple[Picture, PicturePrediction]]:
        """As `predict` for any number of pictures, which are taken and answered in order; few are held at a time.

        Args:
            pictures: where they come from; `mien.predict.sources` has readers of files, videos and cameras.
            explain: as in `predict`, like the other arguments that are not named here.
            expression: see there.
            masking: see there.
            batch: see there. About twice as many pictures are held, fewer of large ones; 1 looks at a picture before it
                takes the next.
            display: see there.
            workers: threads that look for faces while the net works; by default one for each core.
            keep_images: hand back each `Picture` with its image.

        """
        if batch < 1 or display < 8 or (workers or 1) < 1:
            raise UsageError(f"batch {batch} and workers {workers} must be at least 1, display {display} at least 8.")
        if expression is not None and expression not in self.classes:
            raise unknown_name("expression", expression, self.classes)
        method = None if explain is None else self.method(explain)
        alone = batch == 1 or not isinstance(self.provider, Finders)
        workers = 1 if alone else workers or default_workers()
        find = partial(self._find, display=display, keep_image=keep_images)
        return self._stream(
            ahead(find, pictures, workers, batch, pixels),
            partial(self._judge, method=method, expression=expression, masking=masking, batch=batch),
            batch,
        )

    predict_video = predict_video

    @staticmethod
    def _stream(
        pictures: Iterable[Found],
        judge: Callable[[list[Found]], Iterator[tuple[Picture, PicturePrediction]]],
        batch: int,
    ) -> Iterator[tuple[Picture, PicturePrediction]]:
        held: list[Found] = []
        for found in pictures:
            held.append(found)
            full = sum(len(one.faces) for one in held) >= batch or len(held) >= batch
            if full or heavy(pixels(one.picture) for one in held):
                yield from judge(held)
                held = []
        yield from judge(held)

    def _find(self, picture: Picture, display: int, keep_image: bool) -> Found:
        """Faces of a picture, cut for the nets; one that OpenCV or the memory is no match for gets a reason."""
        import cv2

        try:
            return self._cut(picture, display, keep_image)
        except (cv2.error, MemoryError) as error:
            words = " ".join(str(error).split())[:160] or "not enough memory"
            return Found(picture._replace(image=None, reason=f"cannot be processed ({words})"), [], [], [], [])

    def _cut(self, picture: Picture, display: int, keep_image: bool) -> Found:
        if picture.image is None:
            return Found(picture, [], [], [], [])
        image = picture.image
        seen: list[Face | None] = [None] if self.provider is None else list(self.provider(image))
        faces, reason = counted(image, seen, self.least_face)

        def cut(framing: Framing) -> list[FramedFace]:
            found = [(None, None) if face is None else (face.landmarks, face.box) for face in faces]
            return [frame_face(image, points, box, framing, display) for points, box in found]

        qualities = [UNKNOWN if face is None else quality_of(image, face) for face in faces]
        wanted = None if self.units is None else self.units.framing
        units = [] if wanted is None else cut(wanted)
        return Found(
            picture if keep_image else picture._replace(image=None), faces, cut(self.framing), units, qualities, reason
        )

    def _judge(
        self, held: Sequence[Found], method: str | None, expression: str | None, masking: bool, batch: int
    ) -> Iterator[tuple[Picture, PicturePrediction]]:
        """Run the nets on the faces of some pictures, at most `batch` at a time."""
        faces = [face for found in held for face in found.faces]
        framed = [face for found in held for face in found.framed]
        for_units = [face for found in held for face in found.for_units]
        beyond = [self._outside(quality) for found in held for quality in found.qualities]
        seen: list[Seen] = []
        for start in range(0, len(framed), batch):
            part = slice(start, start + batch)
            with self.autocast():
                seen += self._see(faces[part], framed[part], for_units[part], beyond[part], method, expression, masking)
        rest = iter(seen)
        for found in held:
            picture, (width, height) = found.picture, found.picture.size
            rows = zip(found.faces, found.framed, found.qualities, rest, strict=False)  # takes as many of `rest`
            told = tuple(self._face(number, *row) for number, row in enumerate(rows, start=1))
            reason = picture.reason or found.reason
            yield (
                picture,
                PicturePrediction(picture.source, width, height, told, reason, picture.frame, picture.time),
            )

    def autocast(self) -> torch.autocast:
        """The context in which its nets work, for whoever calls them directly."""
        kind = PRECISIONS[self.precision]
        return torch.autocast(self.device.type, dtype=kind, enabled=kind is not None)

    def _see(
        self, faces: Sequence[Face | None], framed: Sequence[FramedFace], for_units: Sequence[FramedFace], beyond: Sequence[str],
        method: str | None, expression: str | None, masking: bool,
    ) -> list[Seen]:  # fmt: skip
        units = [NOT_KNOWN] * len(framed) if self.units is None else self.units.read(faces, for_units)
        units = [unnamed(one) if words else one for one, words in zip(units, beyond, strict=True)]
        batch = batch_of(self.recipe, self.classes, framed, spread(units), self.device, added_by(self.fusion, faces))
        temperature, views = self.calibration.temperature, self.views
        found: list[Explanation] | list[None] = [None] * len(framed)
        if method is None:
            probabilities = classify(self.answers or self.net, batch, temperature, views)
        else:
            probabilities, found = explain_faces(
                self.net, self.recipe, batch, temperature, method, expression, masking, units, views
            )
        return [Seen(*rows) for rows in zip(probabilities.cpu().tolist(), units, found, strict=True)]

    def _outside(self, quality: Quality) -> str:
        return "" if self.any_quality or self.wrapped is not None else outside(quality)

    def _face(self, number: int, face: Face | None, cut: FramedFace, quality: Quality, seen: Seen) -> FacePrediction:
        named = dict(zip(self.classes, seen.probabilities, strict=True))
        expression = max(named, key=lambda name: named[name])
        box = None if face is None else tuple(float(value) for value in face.box)
        beyond = self._outside(quality)
        return FacePrediction(
            face=number, box=box, landmarks=None if face is None else face.landmarks,  # type: ignore[arg-type]
            landmark_confidence=None if face is None else float(face.score), probabilities=named, expression=expression,
            confidence=named[expression], abstained=named[expression] < self.calibration.threshold or bool(beyond), crop=cut.rule,
            display=cut.display, placement=cut.placement, action_units=seen.units.strengths, present_units=seen.units.present,
            reading=seen.units.reading, explanation=seen.explanation, quality=quality, outside=beyond,
            blendshapes=None if face is None else face.blendshapes,
        )  # fmt: skip


def load(
    run: Any = None,
    *,
    action_units: Path | str | None = None,
    device: str = "auto",
    faces: str | Callable[[ByteArray], list[Face]] = "mediapipe",
    landmark_model: Path | str | None = None,
    least_face: float | None = None,
    precision: str = "32-true",
    calibration: str | None = None,
    any_quality: bool = False,
    neutral: Path | str | ByteArray | None = None,
    views: int | None = None,
    runtime: str = "auto",
    classes: Any = None,
) -> FaceModel:
    """Open a trained run, or any other expression model, for pictures.

    Args:
        run: run folder of `mien train`, or hf://OWNER/NAME@REVISION of one that `mien publish` wrote; None takes the bundled model.
            Also what `mien.wrap` made or takes, an ONNX file, or FILE.py:FUNCTION whose call returns a wrapped model.
        action_units: run folder of `mien audet train`; by default action units come from the points of mediapipe, and are not
            known with another finder of faces.
        device: auto (a GPU where there is one), cpu, cuda, cuda:1, ...; UsageError where it is not there.
        faces: provider of faces (mediapipe, dlib; docs/faces.md), none (whole pictures are faces), or a function from an RGB
            picture to its faces.
        landmark_model: model file of the provider; found by itself where the provider is installed.
        least_face: confidence of the provider from which a face counts; by default 0.7 for mediapipe, else any.
        precision: of the nets: 32-true, or bf16-mixed, which is faster on most GPUs and on processors with AMX, and moves
            probabilities by less than 0.01.
        calibration: file of `mien calibrate`, or the name of one in the run folder (of the bundled model: labels);
            by default the run's calibration.json. Wrapped models have none.
        any_quality: name expressions also of faces whose pose, size, sharpness, light or cover lies beyond the limits within which
            accuracy was measured (docs/confidence.md); by default a run abstains on these. A wrapped model never does.
        neutral: photo of the neutral face of the one person in the pictures, or a video whose quietest two seconds stand for it;
            their action units are then relative to it.
        views: of each face, whose logits are averaged: 1 (as it is), 2 (and mirrored) or 4 (both, also a little closer); by
            default 2, of a wrapped model 1.
        runtime: of the net where nothing is explained: a name (docs/predict-speed.md), fastest (of those at hand, measured now), or
            auto (the same after 256 faces, PyTorch until then). Wrapped models run as they are.
        classes: names of the classes of an ONNX file, net or function that does not bring them, in the order of its answers.

    """
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    found = opened(run, classes=classes, device=device)
    views = views if views is not None else 2 if found.wrapped is None else 1
    check_views(views)
    refuse_of_runs(found, device, calibration, precision, runtime)
    refuse_foreign_guide(found.recipe)
    provider: Provider | None
    if isinstance(faces, str):
        if faces not in (*PROVIDERS, "none"):
            raise unknown_name("face provider", faces, (*PROVIDERS, "none"))
        file = None if landmark_model is None else Path(landmark_model)
        provider = None if faces == "none" else Finders(faces, file)
    else:
        provider = faces
    units: UnitSource | None = PointUnits() if faces == "mediapipe" else None
    if neutral is not None:
        by_points = faces == "mediapipe" and action_units is None
        units = units_from_neutral(neutral, provider if by_points else None)
    if action_units is not None:
        units = net_units(Path(action_units), found.device, found.recipe.cue.codebook, found.classes)
    if least_face is None:
        least_face = LEAST_FACE.get(faces, float("-inf")) if isinstance(faces, str) else float("-inf")
    tell_photos(found.name, found.wrapped, provider is not None)
    model = FaceModel(
        found.name, found.net, found.classes, found.recipe, found.facts, found.framing, provider, least_face, found.device,
        Calibration(), units, precision, any_quality, views, wrapped=found.wrapped,
    )  # fmt: skip
    if found.folder is None:
        return model
    calibrated = read_calibration(found.folder, found.classes, calibration).apply(found.net)
    fusion = read_fusion(found.folder, found.classes) if calibrated.head == "votes" else None
    guided = found.net.blank_guide(torch.zeros(1, 3, 8, 8)) is not None
    half = PRECISIONS[precision] is not None
    answers = as_answers(found.net, runtime, found.recipe.model.size, found.device, half, guided)
    return replace(model, calibration=calibrated, fusion=fusion, answers=answers)
