"""Photos -> faces, cut as a run wants them, for `mien explain`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mien.errors import DataError, UsageError, unknown_name
from mien.files import file_sha256, name_of
from mien.progress import track
from mien.schema import ByteArray

if TYPE_CHECKING:
    from mien.config import Recipe
    from mien.data.framing import FramedFace, Framing
    from mien.faces.provider import Face


SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""Files that count as photos when a folder is given; a file that is named itself is always tried."""


class PhotoFace(NamedTuple):
    """One face of one photo, cut for the net."""

    file: Path
    sha256: str
    number: int
    """Face number in its photo from 1, the main one first."""
    face: Face | None
    """As found in the photo; None where the whole picture was taken as a face."""
    framed: FramedFace
    framed_for_units: FramedFace | None
    """Cut for the net of action units, where there is one."""
    outside: str
    """What of its quality lies beyond the limits (`mien.predict.limits`); empty for nothing."""


class Photos(NamedTuple):
    """What the finder of faces needs, and what it could not use."""

    provider: Callable[[ByteArray], list[Face]] | None
    framing: Framing
    display: int
    skipped: list[dict[str, str]]
    unit_framing: Framing | None
    """How faces lie in the pictures of the net of action units, where there is one."""


def refuse_foreign_guide(recipe: Recipe) -> None:
    """UsageError for a run whose guide is made of other faces, which a photo does not have."""
    from mien.config import GUIDED_KINDS
    from mien.cues.config import NEED_BATCH, NEED_MEANS

    if recipe.transformer.kind in GUIDED_KINDS and recipe.cue.control in (*NEED_MEANS, *NEED_BATCH):
        raise UsageError(
            f"this run was guided by a control (cue.control {recipe.cue.control}) that needs a data set; explain another run."
        )


def find_photos(paths: Sequence[Path]) -> list[Path]:
    """Files as named, pictures inside folders in name order; DataError for a missing path or an empty folder."""
    files: list[Path] = []
    for path in paths:
        if (path / "config.yaml").is_file():
            raise UsageError(f"{path} is a run folder, not a folder of photos; write --run {path}.")
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
            if not inside:
                raise DataError(f"{path} holds no pictures ({', '.join(SUFFIXES)}).")
            files += inside
        elif path.exists():
            files.append(path)
        else:
            raise DataError(f"photo not found: {path}.")
    if not files:
        raise UsageError("give at least one photo or folder of photos.")
    return list(dict.fromkeys(files))


def open_finder(faces: str, model: Path | None) -> tuple[Callable[[ByteArray], list[Face]] | None, str]:
    """Face provider and its name; with `auto`, no provider and a notice where mediapipe cannot be opened."""
    from mien.faces.detect import PROVIDERS, open_provider

    if faces == "none":
        return None, "none"
    if faces != "auto":
        if faces not in PROVIDERS:
            raise unknown_name("face provider", faces, ("auto", "none", *PROVIDERS))
        return open_provider(faces, model), faces
    try:
        return open_provider("mediapipe", model), "mediapipe"
    except DataError as error:
        if model is not None:
            raise
        print(f"mien: whole pictures are taken as faces: {error}", file=sys.stderr)
        return None, f"none ({error})"


def framing_of_run(env: dict[str, Any], recipe: Recipe) -> Framing:
    """How the run's training faces lie in their pictures; runs from before this was kept get the box of the face."""
    from mien.data.framing import Framing, read_framing

    kept = read_framing(env, "environment.json")
    return kept or Framing(recipe.model.size, 3, "unknown", False, None)


def find_faces(files: Sequence[Path], photos: Photos) -> Iterator[PhotoFace]:
    """Every face of every photo, cut for the net; what cannot be used goes into `photos.skipped` with its reason."""
    from mien.data.framing import frame_face
    from mien.draw import rgb
    from mien.errors import PictureError
    from mien.faces.pictures import load_picture
    from mien.faces.quality import quality_of
    from mien.predict.limits import outside

    for file in track(files, "photos", len(files)):
        try:
            image = rgb(load_picture(file))
        except PictureError as error:
            photos.skipped.append({"file": name_of(file), "reason": str(error)})
            continue
        found: list[Face | None] = [None] if photos.provider is None else list(photos.provider(image))
        if not found:
            photos.skipped.append({"file": name_of(file), "reason": "no face found"})
        digest = file_sha256(file)
        for number, face in enumerate(found, start=1):
            points, box = (None, None) if face is None else (face.landmarks, face.box)
            framed, for_units = (
                None if framing is None else frame_face(image, points, box, framing, photos.display)
                for framing in (photos.framing, photos.unit_framing)
            )
            assert framed is not None
            beyond = "" if face is None else outside(quality_of(image, face))
            yield PhotoFace(file, digest, number, face, framed, for_units, beyond)
