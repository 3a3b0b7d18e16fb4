"""Faces looked for by several threads while the nets work."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TypeVar

from mien.faces.detect import Face, Provider, open_provider
from mien.schema import ByteArray

Item = TypeVar("Item")
Result = TypeVar("Result")


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


def ahead(function: Callable[[Item], Result], items: Iterable[Item], workers: int, most: int) -> Iterator[Result]:
    """`function` of every item in order, by `workers` threads, at most `most` or two a thread ahead of the caller."""
    if workers == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= max(most, 2 * workers):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
