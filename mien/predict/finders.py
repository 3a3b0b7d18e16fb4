"""Faces looked for by several threads while the nets work."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import chain, islice
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TypeVar

from mien.faces.detect import open_provider
from mien.faces.provider import Face, Provider
from mien.schema import ByteArray

MOST_PIXELS = 32_000_000
"""Of the pictures that wait for the finder, and of those that wait for the nets; a picture may be larger."""
Item = TypeVar("Item")
Result = TypeVar("Result")


CROP = 128
"""Longer side in pixels up to which a picture without a face that can be found counts as the crop of one, as in FER-2013."""


def counted(image: ByteArray, seen: Sequence[Face | None], least: float) -> tuple[list[Face | None], str | None]:
    """The faces that count, of confidence `least` at least, and why none was found; a small picture is a face itself then.

    None among `seen` stands for the whole picture.
    """
    faces = [face for face in seen if face is None or face.score >= least]
    if faces:
        return faces, None
    reason = "no face found"
    if seen:
        best = max(face.score for face in seen if face is not None)
        reason = f"no face found (best confidence {best:.2f}, under {least})"
    if max(image.shape[:2]) <= CROP:
        return [None], f"{reason}; so small a picture was taken as a face itself"
    return [], reason


class Finders:
    """A face provider that several threads may call: each call borrows one that is idle, or opens another."""

    def __init__(self, name: str, model: Path | None) -> None:
        self._open = partial(open_provider, name, model)
        self._idle: SimpleQueue[Provider] = SimpleQueue()
        self._idle.put(self._open())

    def __call__(self, image: ByteArray) -> list[Face]:
        """Faces of an RGB picture, the main one first."""
        try:
            provider = self._idle.get_nowait()
        except Empty:
            provider = self._open()
        try:
            return provider(image)
        finally:
            self._idle.put(provider)


def heavy(counts: Iterable[int]) -> bool:
    """Whether pictures of so many pixels are as many as may be held."""
    return sum(counts) >= MOST_PIXELS


def ahead(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    most: int,
    pixels: Callable[[Item], int] = lambda _: 0,
) -> Iterator[Result]:
    """`function` of every item in order, by `workers` threads, at most `most` or two a thread ahead of the caller.

    Items of MOST_PIXELS `pixels` in all are enough, too, where each thread has one.
    """
    if workers == 1:
        yield from map(function, items)
        return
    items = iter(items)
    first = list(islice(items, 2))
    if len(first) < 2:  # a pool for one picture would be threads made and ended for each question of a page
        yield from map(function, first)
        return
    items = chain(first, items)
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[tuple[Future[Result], int]] = deque()
        for item in items:
            waiting.append((pool.submit(function, item), pixels(item)))
            while len(waiting) >= max(most, 2 * workers) or (
                len(waiting) >= workers and heavy(count for _, count in waiting)
            ):
                yield waiting.popleft()[0].result()
        while waiting:
            yield waiting.popleft()[0].result()
