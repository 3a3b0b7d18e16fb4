"""`mien predict`: photos and videos -> faces, expressions, action units and explanations, as a table and as pictures."""

from __future__ import annotations

import io
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mien.errors import DataError, UsageError

if TYPE_CHECKING:
    from mien.predict.model import FaceModel
    from mien.predict.results import FacePrediction, PicturePrediction
    from mien.predict.shared import Opening
    from mien.predict.sources import Picture

TOLD = 20
"""Pictures without a result that are named one by one; the others are counted, and in the table."""


def predict(
    *photos: Path,
    run: Path | None = None,
    action_units: Path | None = None,
    out: Path | None = None,
    format: str = "mien",
    overlay: Path | None = None,
    explain: str = "auto",
    fast: bool = False,
    smooth: float = 0.0,
    every: int = 1,
    start: float = 0.0,
    seconds: float = 0.0,
    camera: int | None = None,
    device: str = "auto",
    faces: str = "mediapipe",
    landmark_model: Path | None = None,
    least_face: float | None = None,
    batch: int = 32,
    precision: str = "32-true",
    calibration: str | None = None,
    any_quality: bool = False,
    neutral: Path | None = None,
    views: int | None = None,
    runtime: str = "auto",
    cluster: str | None = None,
    classes: str | None = None,
) -> dict[str, int]:
    """Recognise the expressions of all faces in photos, folders and videos, or from a camera.

    One row a face, and one for each picture or frame without a face, with the reason. A file that cannot be used is named in
    one line, and the others are still done; the exit code is 1 only where no file could be used at all. The columns are in
    docs/predict.md.

    Args:
        photos: pictures, videos, folders of them, addresses of streams (rtsp://, http://), or - for standard input (a
            list of paths, one a line, or one picture).
        run: run folder of mien train; by default the bundled model. Also an ONNX file, or FILE.py:FUNCTION whose call returns a
            wrapped model (docs/compare.md).
        action_units: run folder of mien audet train; by default action units come from mediapipe's points.
        out: table of all rows: .csv, .jsonl or .parquet. Without it the faces are printed.
        format: columns of the table: mien, or those of other tools, as CSV: openface (OpenFace 2), py-feat.
        overlay: folder for pictures and videos with boxes, labels and maps.
        explain: map that is explained and drawn: a name of docs/explanations.md, auto for the first that fits, or none.
        fast: leave out what blurring each region of a face does, which takes eight passes more a face.
        smooth: time constant in seconds of the smoothing of a video's probabilities; 0 leaves them alone.
        every: take every n-th frame of a video.
        start: begin a video at this second.
        seconds: length of the part of a video or camera that is taken; 0 goes to the end, of a camera or stream until Ctrl-C.
        camera: number of a camera to read from, 0 is the first.
        device: auto, cpu, cuda or cuda:1.
        faces: mediapipe, dlib, or none (whole pictures are faces).
        landmark_model: model file of the face provider; found by itself where the provider is installed.
        least_face: confidence of the face provider from which a face counts; by default 0.7 for mediapipe, else any.
        batch: faces at a time; 1 answers at once, more is faster.
        precision: of the nets: 32-true, or bf16-mixed, faster where the processor calculates in bfloat16.
        calibration: file of mien calibrate, or the name of one in the run folder (of the bundled model: labels); by
            default the run's calibration.json.
        any_quality: name the expression also of faces beyond the measured limits of pose, size, sharpness, light or cover.
        neutral: photo of the neutral face of the one person in all pictures, or a video whose quietest two seconds stand for it;
            action units are then relative to it.
        views: of each face, whose logits are averaged: 1 (as it is), 2 (and mirrored) or 4 (both, also a little closer); by
            default 2, for a camera and for a model that is no run 1.
        runtime: of the net where nothing is explained: torch, channels_last, frozen, compiled, onnxruntime, openvino, fastest (of
            those at hand, measured at the start), or auto (the same at 2,000 files or after 256 faces).
        cluster: Ray cluster whose workers answer, for files alone and without --overlay: HOST:PORT, or auto for that of RAY_ADDRESS
            or one of this machine's cores (docs/scale.md).
        classes: names of the classes of an ONNX file that does not bring them, separated by commas, in the order of the answers.

    Returns:
        How many pictures, faces, without_face and unreadable there were.

    """
    from mien.faces.live import address_of
    from mien.predict.writers import check_out

    check_options(photos, camera, smooth, every, start, seconds, batch)
    check_out(out, format)
    if batch > 1 and camera is None:
        # Threads of the nets that wait for work would spin, and take the cores from those that look for faces. OpenMP
        # asks once, when torch is imported. Picture by picture nobody else wants the cores, and waking takes time.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from mien.predict.shared import Asked, Opening, refuse_unshared, shared_out

    refuse_unshared(photos, camera, overlay, cluster)
    opening = Opening(
        run, action_units, device, faces, landmark_model, least_face, precision, calibration, any_quality,
        neutral, views or (1 if camera is not None else None), runtime, classes,
    )  # fmt: skip
    model, files, total = begun(opening, photos)
    method = None if explain == "none" else model.method(explain)
    live = camera is not None or any(address_of(str(photo)) for photo in photos)
    if cluster is None:
        stream = model.stream(
            opened(files, total, camera, every, start, seconds), explain=method, masking=not fast, batch=1 if live else batch,
            display=224 if overlay else 32, keep_images=overlay is not None,
        )  # fmt: skip
    else:
        stream = shared_out(opening, Asked(method, not fast, batch, every, seconds, start), files, total, cluster)
    counts: Counter[str] = Counter()
    write_all(model, stream, counts, out, format, overlay, smooth, method is not None, live)
    print_summary(model, counts, out, overlay)
    if counts["pictures"] and counts["pictures"] == counts["unreadable"]:
        raise DataError(f"none of {counts['pictures']} pictures could be read.")
    return {name: counts[name] for name in ("pictures", "faces", "without_face", "unreadable")}


def check_options(
    photos: tuple[Path, ...], camera: int | None, smooth: float, every: int, start: float, seconds: float, batch: int
) -> None:
    """UsageError for what cannot be meant."""
    if bool(photos) == (camera is not None):
        raise UsageError("give photos, videos or folders, or --camera 0, one of the two.")
    finite = all(0 <= value < 1e9 for value in (smooth, start, seconds))
    if not (finite and every >= 1 and batch >= 1 and (camera or 0) >= 0):
        raise UsageError(
            "--smooth, --start and --seconds must be at least 0 and under 1e9, --camera at least 0, --every and --batch at least 1."
        )


def begun(
    opening: Opening, photos: tuple[Path, ...]
) -> tuple[FaceModel, Iterable[tuple[Path | bytes, str | None]], int | None]:
    """The model, every file in order and how many, which its runtime is chosen by."""
    model, (files, total) = opening.open(), named(photos)
    if model.answers is not None:
        model.answers.expect(total)
    return model, files, total


def named(photos: tuple[Path, ...]) -> tuple[Iterable[tuple[Path | bytes, str | None]], int | None]:
    """Every file in order, and how many; of standard input nobody knows."""
    from mien.predict.sources import files_of

    if not photos:  # a camera
        return [], None
    if any(str(path) == "-" for path in photos):
        return files_of(photos, io.BytesIO() if sys.stdin is None else sys.stdin.buffer), None
    files = list(files_of(photos))
    return files, len(files)


def opened(
    named_files: Iterable[tuple[Path | bytes, str | None]],
    total: int | None,
    camera: int | None,
    every: int,
    start: float,
    seconds: float,
) -> Iterator[Picture]:
    """Every picture and frame in order, with a bar on a terminal."""
    from mien.faces.video import frame_count
    from mien.predict.sources import frames, is_video, pictures_in
    from mien.progress import track

    if camera is not None:
        yield from frames(camera, every, seconds, start)
        return
    files = list(named_files) if total is not None else []
    if total is None or total > 1:
        for file, reason in track(files or named_files, "files", total):
            yield from pictures_in(file, reason, every, seconds, start)
    elif isinstance(file := files[0][0], Path) and files[0][1] is None and is_video(file):
        yield from track(pictures_in(file, None, every, seconds, start), "frames", frame_count(file) // every or None)
    else:
        yield from pictures_in(*files[0], every, seconds, start)


def write_all(
    model: FaceModel,
    stream: Iterator[tuple[Picture, PicturePrediction]],
    counts: Counter[str],
    out: Path | None,
    format: str,
    overlay: Path | None,
    smooth: float,
    explained: bool,
    endless: bool,
) -> None:
    """Take the pictures as they come: track, write, draw, print. `counts` is filled on the way; Ctrl-C ends what is `endless`."""
    from mien.predict.overlay import Album
    from mien.predict.rows import Layout
    from mien.predict.tracks import followed
    from mien.predict.writers import open_writer

    with ExitStack() as stack:
        layout = Layout(model.classes, model.action_units, explained)
        writer = stack.enter_context(open_writer(out, layout, format)) if out is not None else None
        album = stack.enter_context(Album(overlay)) if overlay is not None else None
        if endless:
            stack.enter_context(suppress(KeyboardInterrupt))
        for picture, found in followed(stream, smooth, model.calibration.threshold):
            count(counts, found, picture.reason is not None)
            if writer is not None:
                writer.write(found)
            else:
                for face in found.faces:
                    print(line_of(found, face))
            if album is not None:
                album.add(picture, found)


def count(counts: Counter[str], found: PicturePrediction, unreadable: bool) -> None:
    """Count a picture, and name it where it has no face."""
    counts.update(pictures=1, faces=len(found.faces), without_face=int(not found.faces), unreadable=int(unreadable))
    counts.update(abstained=sum(face.abstained for face in found.faces))
    if found.faces or (found.time is not None and not unreadable):
        return
    counts["told"] += 1
    if counts["told"] <= TOLD:
        print(f"mien: {found.source}: {found.reason}.", file=sys.stderr)
    elif counts["told"] == TOLD + 1:
        print("mien: further pictures without a face are counted, and listed in the table of --out.", file=sys.stderr)


def line_of(found: PicturePrediction, face: FacePrediction) -> str:
    """One face for a person who reads it on the terminal."""
    place = found.source if found.time is None else f"{found.source} {found.time:.2f} s"
    who = f"face {face.face}" if face.track is None else f"track {face.track}"
    text = f"{place}  {who}  {face.expression} {face.confidence:.0%}{face.doubt and f' ({face.doubt})'}"
    text += f"  {face.reading}" if face.reading else ""
    return text + (f"  {face.explanation.words}" if face.explanation else "")


def print_summary(model: FaceModel, counts: Counter[str], out: Path | None, overlay: Path | None) -> None:
    """What was done, and where it lies."""
    from mien.files import name_of
    from mien.predict.results import counted

    parts = [f"{counted(counts['faces'], 'face')} in {counted(counts['pictures'], 'picture')}"]
    parts += [f"{counts['abstained']} unsure"] if counts["abstained"] else []
    parts += [f"{counts['without_face']} without a face"] if counts["without_face"] else []
    parts += [f"{counts['unreadable']} of them unreadable"] if counts["unreadable"] else []
    places = " and ".join(name_of(place) for place in (out, overlay) if place is not None)
    fitted = f"; probabilities fitted on {model.calibration.fitted_on}" if model.calibration.fitted_on else ""
    told = f"{', '.join(parts)}{f': {places}' if places else ''} ({model.title}, {model.device}{fitted})"
    # Without a table the rows themselves are on standard output.
    print(told, file=sys.stdout if out is not None else sys.stderr)
