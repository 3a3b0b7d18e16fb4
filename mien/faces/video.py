"""Single frames of a video file, fast when they are asked for in order."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from mien.errors import PictureError
from mien.schema import ByteArray, Frame

VIDEO_SUFFIXES = (".avi", ".mp4", ".mkv", ".mov", ".mpg", ".webm")


class _Video:
    """An open video and the number of its next frame. Frames in between are decoded and dropped: jumps are not exact."""

    def __init__(self, path: Path) -> None:
        import cv2

        if not path.is_file():
            raise PictureError("video file does not exist")
        if str(path).encode("utf-8", "ignore").decode() != str(path):  # OpenCV would end the process
            raise PictureError("OpenCV opens no video whose path is not UTF-8; rename it")
        self.path = path
        self.capture: Any = cv2.VideoCapture(str(path))
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
