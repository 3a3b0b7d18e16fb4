"""Progress bars with an estimate on a terminal, silence in a pipe, and an ordered map over processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

from mien.errors import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")


def track(
    items: Iterable[Item], description: str, total: int | None = None, count: Callable[[Item], int] = lambda _: 1
) -> Iterator[Item]:
    """Yield `items` with a bar, count, speed and time left on stderr; nothing is printed when stderr is no terminal.

    `count` says for how many of `total` an item counts.
    """
    if sys.stderr is None or not sys.stderr.isatty():  # None: it was closed
        yield from items
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=total)
        for item in items:
            yield item
            bar.advance(task, count(item))


def default_workers() -> int:
    """Processes to use when the user names none: the cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None, chunk: int = 8
) -> Iterator[Result]:
    """`map` over `workers` spawned processes, results in input order; 0 or 1 workers run in this process.

    `function` and the items must be picklable. Spawned, not forked, so that threads of torch or OpenCV in the parent
    cannot dead-lock a child. Items are drawn a few chunks ahead, so memory stays flat. The processes end with this one,
    however it ends.

    Raises:
        DataError: a process was killed, for example for want of memory.

    """
    workers = default_workers() if workers is None else workers
    if workers <= 1:
        yield from map(function, items)
        return
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), begin_worker)
    waiting: deque[Future[list[Result]]] = deque()
    try:
        source = iter(items)
        while group := list(islice(source, chunk)):
            with _interrupts_held_back():  # a process is started here, and inherits that
                waiting.append(pool.submit(_map_group, function, group))
            if len(waiting) > AHEAD * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
        pool.shutdown()
    except BrokenProcessPool as error:
        raise DataError(
            "a worker process was killed, often for want of memory: what was finished is kept; run the same command again "
            "with fewer --workers."
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()


AHEAD = 3
"""Chunks for each process that are under way or wait for one."""


def _map_group(function: Callable[[Item], Result], group: list[Item]) -> list[Result]:
    return [function(item) for item in group]


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Ctrl-C waits for the end of the block; processes that are started in it never get one, this one ends them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def begin_worker(number: int = 0) -> None:
    """First call in a worker process, whose `number` is not looked at: Ctrl-C is its parent's matter, and it ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    follow_parent()


def follow_parent() -> None:
    """From now on this process ends with the one that started it, even one that was killed: nothing runs on without an owner."""
    parent, number = multiprocessing.parent_process(), os.getppid()

    def wait() -> None:
        if parent is not None:
            parent.join()
        while parent is None and os.getppid() == number:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
