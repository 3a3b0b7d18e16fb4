"""The bundled model: built from FER-2013, and scored end to end. Verb `mien box`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mien.errors import UsageError

__all__ = ["box"]

TAKES = {
    "build": {"work", "out", "recipe", "photos", "columns", "seeds", "student"},
    "score": {"dataset", "run", "calibration", "split", "columns", "labels", "views", "faces", "out"},
}
"""Action -> options that mean something to it, beside root."""


def box(
    action: Literal["build", "score"],
    *,
    root: Path,
    work: Path | None = None,
    out: Path | None = None,
    recipe: Path | None = None,
    photos: Path | None = None,
    columns: str | None = None,
    labels: str | None = None,
    dataset: str | None = None,
    run: Path | None = None,
    calibration: str | None = None,
    split: str | None = None,
    views: int | None = None,
    faces: str | None = None,
    seeds: int | None = None,
    student: Path | None = None,
) -> None:
    """Build the bundled expression model from FER-2013, or score a model end to end: finder, net, fusion and calibration.

    build prepares, aligns, trains, packs, calibrates, fits the fusion, scores and writes the card; what is there already is
    not done again. score finds the faces of labelled pictures and tells accuracy, recall, calibration error, the accuracy of
    the most confident answers and that of hard faces (turned, small, dark and others). A picture without a face that is found
    counts as wrong.

    Args:
        action: build or score.
        root: build: FER-2013, fer2013.csv beside FER+'s fer2013new.csv. score: what --dataset reads.
        work: build: folder for stores and run (default box).
        out: build: folder of the model (default box/weights; mien/weights in a clone makes it the bundled one). score: JSON file.
        recipe: build: recipe of the net (default recipes/box/expression.yaml).
        photos: build: labelled photos of people on which the fusion is fitted too, CSV or Parquet with image, expression, subject.
        columns: names of the columns of --photos or of a table, e.g. image=file,subject=person.
        seeds: build: nets that are trained, each with a seed of its own, and joined into one that averages them (default 1).
        student: build: recipe of another net that learns from the nets of --recipe (data.teachers) and is packed in their place.
        labels: score: meaning of the values in the column of expressions, e.g. 0=Anger,1=Disgust.
        dataset: score: fer2013 (used unless said otherwise), table or folder.
        run: score: run folder of mien train; by default the bundled model.
        calibration: score: file of mien calibrate, or the name of one in the run folder.
        split: score: of fer2013, test unless said otherwise.
        views: score: 1, 2 or 4 of each face (2 unless said otherwise).
        faces: score: mediapipe (used unless said otherwise), dlib, or none (whole pictures are faces).

    """
    given = {
        "work": work, "out": out, "recipe": recipe, "photos": photos, "columns": columns, "labels": labels, "dataset": dataset,
        "run": run, "seeds": seeds, "student": student, "calibration": calibration, "split": split, "views": views, "faces": faces,
    }  # fmt: skip
    for name, value in given.items():
        if value is not None and name not in TAKES[action]:
            raise UsageError(f"mien box {action} takes no --{name}; see `mien box --help`.")
    if action == "build":
        from mien.box.build import build

        place = work or Path("box")
        net = recipe or Path("recipes/box/expression.yaml")
        build(root, place, out or place / "weights", net, photos, columns, 1 if seeds is None else seeds, student)
        return
    from mien.box.score import score

    score(
        dataset or "fer2013", root, run=run, calibration=calibration, split=split or "test", columns=columns, labels=labels,
        views=views or 2, faces=faces or "mediapipe", out=out,
    )  # fmt: skip
