"""`mien calibrate`: probabilities that mean what they say, and the confidence below which a run should abstain."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from mien.errors import UsageError
from mien.predict.calibration import FILE, check_out


def calibrate(
    run: Path | None = None,
    *,
    accuracy: float = 0.8,
    store: Path | None = None,
    photos: Path | None = None,
    columns: str | None = None,
    labels: str | None = None,
    subject_pattern: str | None = None,
    recall: str | None = None,
    head: Literal["votes", "labels"] | None = None,
    views: int = 2,
    faces: str = "mediapipe",
    out: Path | None = None,
    batch: int = 128,
) -> dict[str, Any]:
    """Fit a run's temperature and abstain threshold on its validation faces, or its class offsets on one's own photos.

    Without --photos calibration.json goes into the run folder. The test faces, if there are any, are measured before and
    after, and take no part in the choice. `mien predict` and `mien.load` use the file; scores of `mien evaluate` stay those
    of temperature 1.

    With --photos the border between the expressions that they show is moved to where these photos have it; what that is
    worth is told by people left out. --out is used by `mien predict --calibration OUT`. The temperature stays.

    Args:
        run: run folder of mien train; with --photos by default the bundled model.
        accuracy: the threshold is the lowest confidence from which on these faces reach this accuracy.
        store: another place of the run's prepared store.
        photos: CSV or Parquet file with columns image, expression and subject (who it is), or a folder with a folder for each
            expression; one face a photo.
        columns: names of the columns, e.g. image=file,subject=person.
        labels: meaning of numbers and foreign words among the labels, e.g. 0=Anger,1=Disgust.
        subject_pattern: regular expression with one group that finds who it is in the path, or a preset.
        recall: expression and the share of its photos that must be found at least, e.g. Happiness=0.9; its offset is raised
            until they are, at the cost of the others. Only with --photos.
        head: of a run with two (data.targets both): votes, measured by the annotators' majority, or labels; by default votes.
            Those of the labels go into RUN/labels.json, and `mien predict --calibration labels` answers by them.
        views: of each face of the store, whose logits are averaged: 1, 2 (as `mien predict` does) or 4. Only without --photos.
        faces: who finds faces in photos: mediapipe, dlib, or none (whole pictures are faces).
        out: calibration file to write; must be given with --photos, RUN/calibration.json without.
        batch: faces at a time.

    """
    if not 0 < accuracy <= 1 or batch < 1:
        raise UsageError(f"--accuracy {accuracy} must be above 0 and up to 1, --batch {batch} at least 1.")
    if photos is not None:
        from mien.calibrate.photos import calibrate_photos, labelled_photos

        if head is not None:
            raise UsageError("--head is for the faces of a store, not for --photos.")
        if out is None or store is not None:
            raise UsageError("with --photos name the file to write by --out, and no --store.")
        check_out(out)
        shown = labelled_photos(photos, columns, labels, subject_pattern)
        return calibrate_photos(run, shown, faces, accuracy, recall, out, batch)
    if run is None:
        raise UsageError("name a run folder, or --photos (then the bundled model is meant).")
    if columns or labels or subject_pattern or recall or faces != "mediapipe":
        raise UsageError("--columns, --labels, --subject-pattern, --recall and --faces are for --photos.")
    from mien.calibrate.faces import calibrate_faces
    from mien.predict.views import check_views

    check_views(views)

    file = out or run / ("labels.json" if head == "labels" else FILE)
    check_out(file)
    return calibrate_faces(run, accuracy, store, file, batch, head, views)
