"""`mien explain`: photos -> faces -> predicted expressions, where the model looked, overlays and a manifest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mien.errors import DataError, UsageError, unknown_name
from mien.files import file_sha256, name_of, own_name, weights_file, write_atomic, write_npz
from mien.predict.calibration import Calibration, read_calibration
from mien.predict.units import PointUnits, spread
from mien.schema import Batch, ByteArray, FloatArray

if TYPE_CHECKING:
    from torch import Tensor

    from mien.audet.photos import UnitReader
    from mien.data.framing import FramedFace
    from mien.predict.opening import Opened

from mien.predict.photos import (
    PhotoFace,
    Photos,
    find_faces,
    find_photos,
    open_finder,
    refuse_foreign_guide,
)


def explain(
    *photos: Path,
    run: Path | None = None,
    out: Path | None = None,
    methods: str | None = None,
    expression: str | None = None,
    faces: str = "auto",
    landmark_model: Path | None = None,
    action_units: Path | None = None,
    size: int = 192,
    batch: int = 32,
    calibration: str | None = None,
    classes: str | None = None,
) -> dict[str, Any]:
    """Explain photos with a run or any other model: one strip and one .npz of raw maps a face, and one manifest.json for all.

    Returns the manifest; it lists damaged photos and those without a face as `skipped`. DataError when none is left.

    Args:
        photos: pictures, or folders that are searched for pictures.
        run: run folder of `mien train`; by default the bundled model. Also an ONNX file, or FILE.py:FUNCTION whose call returns a
            wrapped model (docs/compare.md).
        out: folder for the results (default RUN/explained; of all but run folders: explained, here).
        methods: maps to draw beside the attention, separated by commas (docs/explanations.md); by default those of cam,
            grad_cam_pp, layer_cam that fit the model, else those of tokens, else occlusion.
        expression: explained for every face instead of the predicted one.
        faces: auto, mediapipe, dlib, or none (the whole picture is a face). auto: mediapipe where it is installed.
        landmark_model: model file of the face provider; found by itself where the provider is installed.
        action_units: run folder of mien audet train; names the units of each face, and the cue au_observed is drawn from it. By
            default they come from mediapipe's points.
        size: side of each picture of a strip, pixels.
        batch: faces at a time.
        calibration: file of mien calibrate, or the name of one in the run folder; by default the run's calibration.json.
        classes: names of the classes of an ONNX file that does not bring them, separated by commas, in the order of the answers.

    """
    from mien import explain as explainers
    from mien.predict.opening import opened, refuse_of_runs, tell_photos

    if size < 32 or batch < 1:
        raise UsageError(f"--size {size} must be at least 32 and --batch {batch} at least 1.")
    names = None if methods is None else explainers.method_names(methods)
    files = find_photos(photos)
    folder = out or (run / "explained" if run is not None and run.is_dir() else Path("explained"))
    model = opened(run, classes=classes)
    refuse_of_runs(model, calibration=calibration)
    refuse_foreign_guide(model.recipe)
    names = names or usual_methods(model)
    check_methods(model, names)
    if expression is not None and expression not in model.classes:
        raise unknown_name("expression", expression, model.classes)
    calibrated = Calibration()
    if model.folder is not None:
        calibrated = read_calibration(model.folder, model.classes, calibration).apply(model.net)
    provider, found_by = open_finder(faces, landmark_model)
    tell_photos(model.name, model.wrapped, provider is not None)
    reader = open_units(action_units)
    finder = Photos(provider, model.framing, size, [], reader.framing if reader else None)
    entries: list[dict[str, Any]] = []
    found = find_faces(files, finder)
    while chunk := list(islice(found, batch)):
        units = read_action_units(reader, chunk, model)
        framed = [face.framed for face in chunk]
        seen = explain_faces(model, framed, names, expression, units.intensities, calibrated.temperature)
        entries += [write_face(face, k, seen, units, model, folder, size) for k, face in enumerate(chunk)]
    manifest = {
        **about(model),
        "framing": finder.framing._asdict(),
        "calibration": calibrated.as_json(),
        "faces_found_by": found_by,
        "methods": list(dict.fromkeys([*(["attention"] if model.has_layer else []), *names])),
        "action_units_by": units_by(action_units, entries),
        "photos": len(files),
        "faces": entries,
        "skipped": finder.skipped,
    }
    if not entries:
        first = "{file}: {reason}".format(**finder.skipped[0])
        raise DataError(f"none of {len(files)} photos shows a usable face; the first is {first}.")
    write_atomic(folder / "manifest.json", json.dumps(manifest, indent=1))
    print_table(manifest, folder)
    return manifest


def about(model: Opened) -> dict[str, Any]:
    """What the manifest says of a model, so that its maps can be made again."""
    from mien import __version__
    from mien.training import checkpoint

    if model.folder is None:
        kept = model.wrapped
        assert kept is not None
        return {
            "mien": __version__, "classes": list(model.classes), "run": model.name, "kind": kept.kind, "identity": kept.identity,
            "layer": kept.layer, "size": kept.size, "notes": list(kept.notes),
        }  # fmt: skip
    env = model.facts
    return {
        **{key: env.get(key) for key in ("mien", "python", "packages", "classes", "store_fingerprint", "dataset")},
        "run": model.folder.name,
        "run_version": checkpoint.RUN_VERSION,
        "checkpoint": {**env["checkpoint"], "sha256": file_sha256(weights_file(model.folder))},
    }


def usual_methods(model: Opened) -> list[str]:
    """CAMs; where none fits the model the maps of its tokens, else what needs answers alone."""
    from mien import explain as explainers

    image, guide = blank(model)
    for names in (("cam", "grad_cam_pp", "layer_cam"), tuple(explainers.TOKEN_MAPS), explainers.LAYERLESS):
        fit = explainers.fitting(model.net, image, names, guide)
        if fit:
            return fit
    raise UsageError(f"{model.name} cannot be explained by any usual method; name one by --methods.")


def check_methods(model: Opened, names: Sequence[str]) -> None:
    """UsageError for a method that does not fit, before any photo is read."""
    from mien import explain as explainers

    image, guide = blank(model)
    explainers.explain(model.net, image, 0, names, sampling=explainers.Sampling(samples=1), guide=guide)


def blank(model: Opened) -> tuple[Tensor, Tensor | None]:
    """A picture without a face for a trial, (1, 3, S, S), and what guides it there."""
    import torch

    image = torch.zeros(1, 3, model.recipe.model.size, model.recipe.model.size, device=model.device)
    return image, model.net.blank_guide(image)


class FaceUnits(NamedTuple):
    """Action units of a batch of faces, as far as they are known."""

    intensities: FloatArray
    """(B, A) 0-5 over schema.ACTION_UNITS, NaN unknown."""
    entries: list[dict[str, Any]]
    """What the manifest says of each face."""


def open_units(run: Path | None) -> UnitReader | None:
    """The net of a run folder of `mien audet train`, with the framing of its faces; None without a run."""
    from mien.audet.photos import open_reader

    return None if run is None else open_reader(run)


def read_action_units(reader: UnitReader | None, faces: Sequence[PhotoFace], model: Opened) -> FaceUnits:
    """Action units of faces, and what the codebook makes of them; without a net those of the finder's points, as in `mien predict`."""
    if reader is None:
        return measured_units(faces)
    from mien.audet.photos import intensities, reading_of, unit_strengths

    strengths = unit_strengths(reader, [face.framed_for_units for face in faces if face.framed_for_units is not None])
    entries = []
    for row in strengths:
        reading = reading_of(reader, row, model.recipe.cue.codebook, model.classes)
        named = {name: round(float(value), 3) for name, value in zip(reader.net.action_units, row, strict=True)}
        read = {"expression": reading.expression, "fit": round(reading.fit, 3), "text": reading.text}
        entries.append({"action_units": named, "reading": read})
    return FaceUnits(intensities(reader, strengths), entries)


def measured_units(faces: Sequence[PhotoFace]) -> FaceUnits:
    """Action units of the face provider's points, and those that are measured as present in words; nothing where it has none."""
    found = PointUnits().read([face.face for face in faces], [])
    entries: list[dict[str, Any]] = []
    for units in found:
        entry: dict[str, Any] = {}
        if units.looked_for:
            entry["action_units"] = {name: round(value, 3) for name, value in units.strengths.items()}
            entry["present"] = [column for columns in units.present.values() for column in columns]
        if units.reading:
            entry["reading"] = {"text": units.reading}
        entries.append(entry)
    return FaceUnits(spread(found), entries)


def units_by(run: Path | None, entries: Sequence[dict[str, Any]]) -> str | None:
    """Where the units of a manifest come from: the name of a run, the points of the face provider, or nowhere."""
    return run.name if run is not None else "points" if any("present" in entry for entry in entries) else None


class ExplainedFaces(NamedTuple):
    """What a model did with one batch of faces."""

    pictures: ByteArray
    """(B, S, S, 3) as the net saw them, before normalisation."""
    landmarks: FloatArray
    """(B, 68, 2) pixels of `pictures`."""
    probabilities: FloatArray
    """(B, K)."""
    target: np.ndarray
    """(B,) class that is explained."""
    cue: FloatArray
    """(B, S, S); zero where not valid."""
    valid: np.ndarray
    """(B,) bool."""
    raw: dict[str, FloatArray]
    """Map name -> (B, h, w)."""
    scores: dict[str, dict[str, FloatArray]]
    """Map name -> score name -> (B,), as in `mien evaluate`."""


def explain_faces(
    model: Opened, faces: Sequence[FramedFace], methods: Sequence[str], expression: str | None, units: FloatArray,
    temperature: float,
) -> ExplainedFaces:  # fmt: skip
    """One forward pass and the maps of a batch of faces; `units` (B, A) are what the cue au_observed is drawn from."""
    import torch

    from mien import explain as explainers
    from mien.cues import map_resize, render_cue
    from mien.data.transforms import normalise, resize_faces
    from mien.metrics.alignment import attention_scores, cam_scores
    from mien.predict.batches import attention_of, in_scheme
    from mien.training.cues import canvas_of
    from mien.training.steering import with_guide

    device, recipe, classes = model.device, model.recipe, model.classes
    pixels = [torch.tensor(face.pixels).permute(2, 0, 1).unsqueeze(0) for face in faces]
    marks = [torch.from_numpy(face.landmarks).unsqueeze(0) for face in faces]
    pairs = [resize_faces(*pair, recipe.model.size) for pair in zip(pixels, marks, strict=True)]
    pictures, points = (torch.cat(part) for part in zip(*pairs, strict=True))
    images = normalise(pictures.to(device), recipe.model.preprocessing)
    wanted = None if expression is None else classes.index(expression)
    unlabelled, rows = torch.full((len(images),), -1), torch.arange(len(images))
    batch = Batch(
        images, unlabelled, torch.from_numpy(units).to(device), points.to(device), rows, canvas=pixels[0].shape[-1]
    )
    guide = with_guide(recipe, batch, None, 0, 0).guide
    output, raw = explainers.explain_with_output(model.net, images, wanted, methods, guide=guide)
    target = explainers.resolve_target(output, wanted)
    frame = (recipe.model.size, recipe.model.size)
    cue = render_cue(
        replace(recipe.cue, control="none"), points.to(device), in_scheme(target, classes, recipe), scheme=recipe.data.scheme,
        image_size=frame, size=frame, images=pictures.to(device).float() / 255, action_units=torch.from_numpy(units),
        canvas=canvas_of(batch),
    )  # fmt: skip
    scores = {name: cam_scores(explainers.evidence(name, map_), cue.maps) for name, map_ in raw.items()}
    attention = attention_of(output)
    if attention is not None:
        scores = {"attention": attention_scores(attention, cue.maps, map_resize(recipe.cue)), **scores}
        raw = {"attention": attention, **raw}
    return ExplainedFaces(
        pictures.permute(0, 2, 3, 1).numpy(),
        points.numpy(),
        (output.logits.float() / temperature).softmax(1).cpu().numpy(),
        target.cpu().numpy(),
        cue.maps[:, 0].cpu().numpy(),
        cue.valid.cpu().numpy(),
        {name: map_[:, 0].float().cpu().numpy() for name, map_ in raw.items()},
        {name: {kind: values.cpu().numpy() for kind, values in kinds.items()} for name, kinds in scores.items()},
    )


def write_face(
    face: PhotoFace, k: int, seen: ExplainedFaces, units: FaceUnits, model: Opened, folder: Path, size: int
) -> dict[str, Any]:
    """Strip and raw maps of face `k` of a batch; returns its entry of the manifest."""
    classes, valid = model.classes, bool(seen.valid[k])
    stem = f"{own_name(face.file)}-face{face.number}"
    scores = {name: {kind: float(v[k]) for kind, v in kinds.items()} for name, kinds in seen.scores.items()}
    beyond = "" if model.wrapped is not None else face.outside
    entry: dict[str, Any] = {
        "file": name_of(face.file),
        "sha256": face.sha256,
        "face": face.number,
        "box": None if face.face is None else [round(float(v), 2) for v in face.face.box],
        "landmarks_found": face.face is not None,
        "crop": face.framed.rule,
        "expression": classes[int(seen.probabilities[k].argmax())],
        "probabilities": {name: float(p) for name, p in zip(classes, seen.probabilities[k], strict=True)},
        "explained_expression": classes[int(seen.target[k])],
        "outside": beyond or None,
        **(unnamed(units.entries[k]) if beyond else units.entries[k]),
        "cue": model.recipe.cue.kind if valid else None,
        "scores": scores if valid else None,
        "strip": f"{stem}.png",
        "maps": f"{stem}.npz",
    }
    raw = {name: values[k] for name, values in seen.raw.items()}
    draw_strip(folder / f"{stem}.png", entry, face.framed.display, seen.cue[k], raw, size)
    pixels = {"pixels": seen.pictures[k], "landmarks": seen.landmarks[k], "cue": seen.cue[k]}
    write_npz(folder / f"{stem}.npz", {**pixels, **raw})
    return entry


def unnamed(entry: dict[str, Any]) -> dict[str, Any]:
    """Units of a face beyond the limits: their strengths alone."""
    return {name: [] if name == "present" else value for name, value in entry.items() if name != "reading"}


def draw_strip(
    path: Path, entry: dict[str, Any], picture: ByteArray, cue: FloatArray, raw: dict[str, FloatArray], size: int
) -> None:
    """Face | cue of the explained expression, where there is one | attention | the positive part of each method's map."""
    import torch

    from mien import draw, maps
    from mien import explain as explainers

    cells = {"face": picture}
    if entry["cue"] is not None:
        cells[f"cue of {entry['explained_expression']}"] = draw.overlay(picture, cue)
    for name, map_ in raw.items():
        whole = torch.from_numpy(map_)[None, None]
        shown = whole if name == "attention" else explainers.evidence(name, whole).clamp_min(0)
        label = name if name == "attention" else f"{name} of {entry['explained_expression']}"
        cells[label] = draw.overlay(picture, maps.min_max(shown)[0, 0].numpy())
    share = entry["probabilities"][entry["expression"]]
    title = f"expression: {entry['expression']} ({share:.0%})   {Path(entry['file']).name}, face {entry['face']}"
    other = entry["explained_expression"]
    title += f"   explained: {other} ({entry['probabilities'][other]:.0%})" if other != entry["expression"] else ""
    title += f"   {entry['reading']['text']}" if "reading" in entry else ""
    title += f"   outside: {entry['outside']}" if entry["outside"] else ""
    draw.write_png(path, draw.strip(list(cells.values()), list(cells), cell=size, title=title))


def print_table(manifest: dict[str, Any], folder: Path) -> None:
    """One line a face, then what was skipped."""
    width = max(len(Path(e["file"]).name) for e in manifest["faces"])
    name = manifest["methods"][0]  # the attention, where the model has a layer
    print(f"{'photo':<{width}}  face  expression       p   cosine of {name} with the cue")
    for entry in manifest["faces"]:
        score = f"{entry['scores'][name]['cosine']:.2f}" if entry["scores"] else "-"
        shown, share = entry["expression"], entry["probabilities"][entry["expression"]]
        reading = f"   {entry['reading']['text']}" if "reading" in entry else ""
        reading += f"   outside: {entry['outside']}" if entry["outside"] else ""
        print(f"{Path(entry['file']).name:<{width}}  {entry['face']:>4}  {shown:<10}  {share:>6.2f}   {score}{reading}")
    for entry in manifest["skipped"]:
        print(f"skipped {entry['file']}: {entry['reason']}")
    counts = f"{len(manifest['faces'])} faces of {manifest['photos']} photos, {len(manifest['skipped'])} skipped"
    print(f"{counts}: {folder / 'manifest.json'}")
