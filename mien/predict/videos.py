"""`FaceModel.predict_video`: a video, network stream or camera as one prediction after the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mien.errors import UsageError
from mien.faces.live import address_of
from mien.predict.results import PicturePrediction
from mien.predict.sources import frames
from mien.predict.tracks import followed


def predict_video(
    model: Any,
    source: str | Path | int,
    *,
    start: float = 0.0,
    seconds: float = 0.0,
    every: int = 1,
    smooth: float = 0.0,
    explain: str | None = None,
    batch: int = 8,
) -> Iterator[PicturePrediction]:
    """The frames of a video file, of a network stream (`rtsp://...`) or of a camera by its number, with the tracks of their faces.

    One after the other, so that a video of any length takes little memory; a stream has no end unless `seconds` is given.

    Args:
        model: a FaceModel, whose method this is.
        source: path, address or number.
        start: second at which to begin.
        seconds: length of the part that is taken; 0 goes to the end.
        every: take every n-th frame.
        smooth: time constant in seconds of the smoothing of probabilities.
        explain: as in `FaceModel.predict`, without trying what each region is worth.
        batch: faces at a time; a camera or stream is answered frame by frame.

    """
    if not (start >= 0 and seconds >= 0 and smooth >= 0 and every >= 1):
        raise UsageError("start, seconds and smooth must be at least 0, every at least 1.")
    address = address_of(str(source))
    live = isinstance(source, int) or address is not None
    place = source if isinstance(source, int) else address or Path(source)
    stream = model.stream(
        frames(place, every, seconds, start), explain=explain, masking=False, batch=1 if live else batch
    )
    return (found for _, found in followed(stream, smooth, model.calibration.threshold))
