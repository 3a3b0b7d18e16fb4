"""Network streams: the newest frame only, so that nothing waits and nothing grows, and a new connection where one is lost."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mien.errors import DataError
from mien.faces.video import Shot, open_capture, rate_of
from mien.schema import ByteArray

SCHEMES = ("rtsp", "rtsps", "http", "https", "rtmp", "udp", "tcp")
PAUSES = (0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds between attempts to connect again; the last is repeated."""


def address_of(words: str) -> str | None:
    """The address that somebody wrote where a path may stand, or None; a path that swallowed a slash is mended."""
    scheme, colon, rest = words.partition(":/")
    if colon and scheme.lower() in SCHEMES and rest.strip("/"):
        return f"{scheme.lower()}://{rest.lstrip('/')}"
    return None


def shown(address: str) -> str:
    """An address without the name and password that may stand in it."""
    scheme, _, rest = address.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


class Live:
    """Reads a stream in a thread of its own and keeps the newest frame; the one that was there before is dropped."""

    def __init__(
        self, address: str, capture: Any, connect: Callable[[str], Any], pause: Callable[[float], object]
    ) -> None:
        self.address, self.capture, self.connect, self.pause = address, capture, connect, pause
        self.news = threading.Condition()
        self.newest: tuple[int, float, ByteArray] | None = None
        self.number, self.began, self.stopped = 0, time.monotonic(), False
        self.rate = rate_of(capture)
        self.thread = threading.Thread(target=self.read, name="stream", daemon=True)
        self.thread.start()

    def read(self) -> None:
        """Read until `stop`; connect again where the stream ends."""
        while not self.stopped:
            done, pixels = self.capture.read()
            if not done:
                self.capture.release()
                self.again()
                continue
            with self.news:
                self.newest = (self.number, time.monotonic() - self.began, pixels)
                self.number += 1
                self.news.notify()

    def again(self) -> None:
        """Connect again, however long it takes."""
        print(f"mien: {shown(self.address)}: the stream ended; connecting again.", file=sys.stderr)
        for attempt in range(sys.maxsize):
            if self.stopped:
                return
            self.pause(PAUSES[min(attempt, len(PAUSES) - 1)])
            self.capture = self.connect(self.address)
            if self.stopped or self.capture.isOpened():
                return
            self.capture.release()

    def take(self, timeout: float) -> tuple[int, float, ByteArray] | None:
        """The newest frame that was not taken yet; None where none came in `timeout` seconds."""
        with self.news:
            if self.newest is None:
                self.news.wait(timeout)
            found, self.newest = self.newest, None
            return found

    def stop(self) -> None:
        """End the thread, and close the stream when it has ended."""
        self.stopped = True
        self.thread.join(timeout=1.0)
        if not self.thread.is_alive():
            self.capture.release()


def live_shots(
    address: str, every: int, start: float, end: float, connect: Callable[[str], Any] = open_capture,
    pause: Callable[[float], object] = time.sleep,
) -> Iterator[Shot]:  # fmt: skip
    """Frames of a stream between `start` and `end` seconds after it was opened, newest first where the caller is slow.

    Args:
        address: `rtsp://...`, `http://...` or another of SCHEMES.
        every: take frames that are at least so many apart.
        start: seconds.
        end: seconds; infinity goes on until the caller stops.
        connect: address -> cv2.VideoCapture.
        pause: waits between attempts to connect again.

    Raises:
        DataError: the stream cannot be opened at first. Later it is opened again, as often as needed.

    """
    capture = connect(address)
    if not capture.isOpened():
        raise DataError(f"{shown(address)} cannot be opened; is the address right, and does it play elsewhere?")
    stream = Live(address, capture, connect, pause)
    wanted = 0
    try:
        while (now := time.monotonic() - stream.began) < end:
            found = stream.take(min(0.5, end - now))
            if found is None:
                continue
            number, moment, pixels = found
            if number < wanted or moment < start:
                continue
            if moment >= end:
                return
            wanted = number + every
            yield Shot(number, moment, np.ascontiguousarray(pixels[:, :, ::-1]), stream.rate)
    finally:
        stream.stop()
