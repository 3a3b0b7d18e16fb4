"""Videos and cameras: opened in one place, frames with the times of the stream, and single frames by number."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mien.errors import DataError, PictureError
from mien.faces.containers import cut_off, mirrored, trimmed
from mien.schema import ByteArray, Frame

VIDEO_SUFFIXES = (
    ".3gp", ".asf", ".avi", ".dv", ".flv", ".h264", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf",
    ".ogv", ".ts", ".vob", ".webm", ".wmv",
)  # fmt: skip
"""Files that count as videos in a folder; a file that is named itself is told by its first bytes, too."""
FORMATS = "3gp,asf,avi,dv,flv,gif,h264,hevc,ivf,m4v,matroska,mjpeg,mov,mp4,mpeg,mpegts,mpegvideo,mxf,ogg,webm"
"""What FFmpeg may take a file for, whatever its name. Its playlists are left out: they make it open other files, or ask hosts."""
ASKED = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
"""OpenCV hands these options to FFmpeg; it reads them from the environment when it opens a video."""
OPEN_MS, READ_MS = 10_000, 10_000
"""A network stream that is silent for so long is taken for gone."""
WIDEST = 4.0
"""A pixel that is said to be wider or higher than this is taken for a square one."""
RATE = 25.0
"""Frames a second where a video does not say."""
BACK = 0.5
"""A clock that goes back by more seconds than this was set anew."""
SHORT = 0.9
"""An MP4 file with fewer of the frames that its index lists is damaged."""
_opening = threading.Lock()


class Shot(NamedTuple):
    """One frame of a video or camera."""

    number: int
    """From 0, also counting those that were not taken."""
    time: float
    """Seconds: of a file from its first frame, by presentation timestamps; of a camera or network stream since it was opened."""
    pixels: ByteArray
    """RGB (H, W, 3)."""
    rate: float
    """Frames a second that the video announces."""


class End(NamedTuple):
    """Why a video ended before its end."""

    number: int
    time: float
    reason: str


@contextmanager
def quiet() -> Iterator[None]:
    """What OpenCV and FFmpeg have to say of a damaged video is not printed: the reason is in the rows."""
    import cv2

    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # read when the first video is opened
    before = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(before)


@contextmanager
def _options(words: str) -> Iterator[None]:
    before = os.environ.get(ASKED)
    os.environ[ASKED] = words
    try:
        yield
    finally:
        if before is None:
            del os.environ[ASKED]
        else:
            os.environ[ASKED] = before


def is_opened_by_opencv(path: Path) -> bool:
    """Whether a path is UTF-8; with another OpenCV would end the process."""
    return str(path).encode("utf-8", "ignore").decode() == str(path)


def open_capture(source: Path | str | int) -> Any:
    """cv2.VideoCapture of a file, an address (`rtsp://...`) or a camera's number; it may not be opened.

    A file is read as one of FORMATS only and from this computer only.
    """
    import cv2

    if isinstance(source, int):
        with quiet():
            return cv2.VideoCapture(source)
    with _opening, quiet():
        if isinstance(source, Path):
            with _options(f"protocol_whitelist;file|format_whitelist;{FORMATS}"):
                return cv2.VideoCapture(str(source), cv2.CAP_FFMPEG)
        times = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, READ_MS]
        with _options(os.environ.get(ASKED, "rtsp_transport;tcp")):
            return cv2.VideoCapture(source, cv2.CAP_FFMPEG, times)


def rate_of(capture: Any) -> float:
    """Frames a second that a video announces; RATE where it announces nothing that can be."""
    import cv2

    rate = float(capture.get(cv2.CAP_PROP_FPS))
    return rate if 0 < rate < 1000 else RATE


def as_shown(capture: Any, source: Path | int) -> Callable[[ByteArray], ByteArray]:
    """What makes of a decoded RGB frame the picture that players show: square pixels, and not in a mirror where the file says so.

    OpenCV turns frames upright, but takes a mirror for half a turn, and leaves pixels that are not square (HDV, DV, DVD).
    """
    import cv2

    wide = capture.get(cv2.CAP_PROP_SAR_NUM) / (capture.get(cv2.CAP_PROP_SAR_DEN) or 1)
    wide = wide if 1 / WIDEST < wide < WIDEST else 1.0
    matrix = mirrored(source) if isinstance(source, Path) else None
    if matrix is not None:
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
        return lambda pixels: turned(stretched(pixels, wide), matrix)
    if capture.get(cv2.CAP_PROP_ORIENTATION_META) % 180:
        wide = 1 / wide
    return lambda pixels: stretched(pixels, wide)


def stretched(pixels: ByteArray, wide: float) -> ByteArray:
    """A picture of pixels that are `wide` times as wide as high, in square ones; it only ever grows."""
    import cv2

    if abs(wide - 1) < 0.01:
        return pixels
    height, width = pixels.shape[:2]
    size = (round(width * max(wide, 1.0)), round(height * max(1 / wide, 1.0)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def turned(pixels: ByteArray, matrix: tuple[int, int, int, int]) -> ByteArray:
    """A picture by the signs of an MP4's matrix a, b, c, d (x' = a x + c y, y' = b x + d y); half-way angles count as none."""
    a, b, c, d = matrix
    if not a and not d:
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def moment_of(position: float, number: int, rate: float, before: float) -> float:
    """Time of frame `number` in seconds from the video's presentation timestamp `position`; times never go back.

    A stream without timestamps stays at 0; its frames are counted by the announced rate.
    """
    if not math.isfinite(position) or (position <= 0 and number > 0 and before <= (number - 1) / rate):
        return number / rate
    return max(position, before, 0.0)


def shots(source: Path | int, every: int = 1, start: float = 0.0, end: float = math.inf) -> Iterator[Shot | End]:
    """Every `every`-th frame of a video file or camera whose time lies in [start, end), in the order in which it is shown.

    Turned upright, and its pixels made square, as the file says. The last thing is an `End` where a file holds less than it says.
    Nothing at all comes from a file that cannot be opened; a camera that cannot is a DataError.
    """
    import cv2

    capture = open_capture(source)
    try:
        if isinstance(source, int) and not capture.isOpened():
            raise DataError(f"no camera {source} can be opened here; give a video file, or another number.")
        rate, number, moment, began = rate_of(capture), 0, 0.0, time.monotonic()
        show, shift, last = as_shown(capture, source), 0.0, 0.0
        while capture.grab():
            if isinstance(source, int):
                moment = time.monotonic() - began
            else:
                position = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                if position < last - BACK:  # files that were joined: the clock of the next one begins anew
                    shift = moment + 1 / rate - position
                last, moment = position, moment_of(position + shift, number, rate, moment)
            if moment >= end:
                return
            if number % every == 0 and moment >= start:
                done, pixels = capture.retrieve()
                if not done:
                    break
                upright = show(np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), dtype=np.uint8))
                yield Shot(number, moment, upright, rate)
            number += 1
        if isinstance(source, Path) and number:
            reason = lacking(source, number, capture.get(cv2.CAP_PROP_FRAME_COUNT))
            if reason:
                yield End(number, moment, reason)
    finally:
        capture.release()


def lacking(path: Path, number: int, announced: float) -> str | None:
    """Why a file of which `number` frames could be read is damaged; None for a whole one.

    Numbers that a container announces are mostly estimates, and a trimmed video shows fewer frames than it holds; so a file
    is damaged only if its own sizes say that bytes are missing, or an MP4 index lists more frames and no edit hides them.
    """
    if cut_off(path):
        return f"the video ends here, after {number} frames, for the file is cut off; it is damaged"
    if number < SHORT * announced and trimmed(path) is False:
        return f"the video ends here, though it announces {announced:.0f} frames; it is damaged"
    return None


def frame_count(file: Path) -> int:
    """Frames that a video file announces; 0 where it does not."""
    import cv2

    if not is_opened_by_opencv(file):
        return 0
    capture = open_capture(file)
    count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    capture.release()
    return int(min(max(count, 0), 1e9))


class _Video:
    """An open video and the number of its next frame. Frames in between are decoded and dropped: jumps are not exact."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise PictureError("video file does not exist")
        if not is_opened_by_opencv(path):
            raise PictureError("OpenCV opens no video whose path is not UTF-8; rename it")
        self.path = path
        self.capture: Any = open_capture(path)
        self.next = 0

    def read(self, number: int) -> ByteArray:
        """RGB (H, W, 3) pixels of a frame that lies ahead; PictureError where the video has none."""
        while self.next < number:
            if not self.capture.grab():
                raise PictureError(f"frame {number} is beyond the end of the video, or the video is damaged")
            self.next += 1
        done, pixels = self.capture.read()
        if not done:
            raise PictureError(f"frame {number} is beyond the end of the video, or the video is damaged")
        self.next += 1
        return np.ascontiguousarray(pixels[:, :, ::-1])


_open = lru_cache(maxsize=1)(_Video)
"""The video that this process reads from."""


def read_frame(frame: Frame) -> ByteArray:
    """RGB (H, W, 3) uint8 pixels of a frame; PictureError when the video has no such frame.

    The video stays open until another is read. Going back begins anew, so that frame n is always the n-th.
    """
    video = _open(frame.video)
    if video.next > frame.number:
        _open.cache_clear()
        video = _open(frame.video)
    return video.read(frame.number)
