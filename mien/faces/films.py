"""Annotated videos that keep the times, and where PyAV is installed the sound, of the video that they were drawn on."""

from __future__ import annotations

import fractions
import importlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mien.errors import DataError
from mien.faces.containers import cut_off
from mien.faces.video import FORMATS, frame_count, is_opened_by_opencv
from mien.files import writing
from mien.schema import ByteArray

TICKS = 90_000
"""Of a second: the clock of MPEG, in which the times of all usual frame rates are whole."""
COPIED = ("aac", "mp3", "ac3", "eac3", "opus", "flac", "alac")
"""Sound that an MP4 file may hold as it is; other sound is left out."""


class Film(Protocol):
    """A video that is being written."""

    def add(self, frame: ByteArray, moment: float) -> None:
        """Show an RGB frame from `moment` on, seconds; the first one is the beginning."""

    def close(self) -> None:
        """Finish the file."""


def writable(rate: float) -> float:
    """The nearest frame rate that MPEG-4 can hold: OpenCV notes it as a fraction of a power of ten, at most 65,535 / 10^n."""
    digits = 3 if rate < 65.5 else 2 if rate < 655 else 1
    return max(round(rate, digits), 0.01)


def has_av() -> bool:
    """Whether PyAV is installed."""
    return importlib.util.find_spec("av") is not None


def open_film(path: Path, source: str, rate: float, size: tuple[int, int]) -> Film | None:
    """A film of (width, height) pixels, both even, at `path`; None where it cannot be written.

    Args:
        path: of an .mp4 file.
        source: path of the video that is drawn on, whose sound is taken; a camera has none.
        rate: frames a second.
        size: (width, height).

    """
    if has_av():
        return AvFilm(path, Path(source), rate, size)
    if not is_opened_by_opencv(path):
        return None
    film = CvFilm(path, rate, size)
    return film if film.writer.isOpened() else None


class CvFilm:
    """By OpenCV: a constant rate, so that a frame stands until the next one's time; no sound."""

    def __init__(self, path: Path, rate: float, size: tuple[int, int]) -> None:
        import cv2

        self.rate, self.first, self.written, self.path = rate, 0.0, 0, path
        self.writer: Any = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), writable(rate), size)

    def add(self, frame: ByteArray, moment: float) -> None:
        """Write the frame as often as it takes to reach its time."""
        if not self.written:
            self.first = moment
        while self.written <= round((moment - self.first) * self.rate):
            self.writer.write(frame[:, :, ::-1])
            self.written += 1

    def close(self) -> None:
        """Finish the file; DataError where it is not whole. OpenCV does not say that a disk is full."""
        self.writer.release()
        if self.path.exists() and not cut_off(self.path) and frame_count(self.path) == self.written:
            return
        self.path.unlink(missing_ok=True)
        raise DataError(f"cannot write '{self.path}': the video is not whole; is the disk full?")


class AvFilm:
    """By PyAV: every frame has its own time, and the sound of the source goes along."""

    def __init__(self, path: Path, source: Path, rate: float, size: tuple[int, int]) -> None:
        self.av: Any = importlib.import_module("av")
        self.path, self.first, self.last = path, 0.0, -1
        with writing(path):
            self.file: Any = self.av.open(str(path), "w", format="mp4")
        codec = "libx264" if "libx264" in self.av.codecs_available else "mpeg4"
        pace = fractions.Fraction(rate).limit_denominator(1001)
        self.video: Any = self.file.add_stream(codec, rate=pace if pace > 0 else 1)
        self.video.width, self.video.height, self.video.pix_fmt = *size, "yuv420p"
        self.video.codec_context.time_base = self.video.time_base = fractions.Fraction(1, TICKS)
        self.source, self.sound = self.open_sound(source)
        self.packets: Iterator[tuple[float, Any]] | None = None
        self.waiting: tuple[float, Any] | None = None

    def open_sound(self, source: Path) -> tuple[Any, Any]:
        """The source and the stream of its sound in this file; None, None where there is none that can be copied."""
        if not source.is_file():
            return None, None
        try:
            opened = self.av.open(str(source), options={"protocol_whitelist": "file", "format_whitelist": FORMATS})
        except (self.av.FFmpegError, OSError, ValueError):
            return None, None
        if (
            not opened.streams.audio
            or not opened.streams.video
            or opened.streams.audio[0].codec_context.name not in COPIED
        ):
            opened.close()
            return None, None
        return opened, self.file.add_stream_from_template(opened.streams.audio[0])

    def add(self, frame: ByteArray, moment: float) -> None:
        """Write a frame at its time, and the sound until then."""
        if self.last < 0:
            self.first = moment
        shown = self.av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        self.last = max(round((moment - self.first) * TICKS), self.last + 1)
        shown.pts, shown.time_base = self.last, fractions.Fraction(1, TICKS)
        with writing(self.path):
            self.file.mux(self.video.encode(shown))
            self.hear(moment)

    def hear(self, until: float) -> None:
        """Copy the packets of the source's sound that come before `until`, seconds from its first frame."""
        if self.source is None:
            return
        if self.packets is None:
            self.packets = self.sounds()
        while True:
            self.waiting = self.waiting or next(self.packets, None)
            if self.waiting is None or self.waiting[0] >= until:
                return
            (moment, packet), self.waiting = self.waiting, None
            if moment >= self.first:
                shift = round(self.first / float(packet.time_base)) + self.origin(packet.time_base)
                packet.pts, packet.dts = packet.pts - shift, (packet.dts or packet.pts) - shift
                packet.stream = self.sound
                self.file.mux(packet)

    def origin(self, base: fractions.Fraction) -> int:
        """Where the source's first frame lies on the clock of its sound."""
        video = self.source.streams.video[0]
        return round(float((video.start_time or 0) * video.time_base) / float(base))

    def sounds(self) -> Iterator[tuple[float, Any]]:
        """Packets of the source's sound with their times in seconds from its first frame; a damaged rest is left out."""
        stream = self.source.streams.audio[0]
        try:
            for packet in self.source.demux(stream):
                if packet.pts is not None:
                    yield float((packet.pts - self.origin(packet.time_base)) * packet.time_base), packet
        except (self.av.FFmpegError, OSError):
            return

    def close(self) -> None:
        """Finish the file, with the sound of the last frame."""
        try:
            with writing(self.path):
                self.hear(self.first + self.last / TICKS + 1 / float(self.video.average_rate or 25))
                self.file.mux(self.video.encode())
                self.file.close()
        except DataError:
            self.path.unlink(missing_ok=True)
            raise
        finally:
            if self.source is not None:
                self.source.close()
