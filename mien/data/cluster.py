"""One ordered map for every verb: over processes of this machine, or over a Ray cluster (`--cluster`).

What a worker or a node took with it when it ended is done again, in its place: the caller sees every result once and in
order, however many were lost on the way.
"""

from __future__ import annotations

import logging
import os
import platform
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from functools import cache
from itertools import islice
from typing import Any, NamedTuple, Protocol, TypeVar

from mien import __version__, progress
from mien.errors import DataError, MienError, UsageError

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 2
"""Groups for each worker of a cluster that are under way, wait for a worker or for their turn."""
TRIES = 4
"""Times that a group is given to a worker; the last loss ends the command."""
RECOUNT = 5.0
"""Seconds after which the workers of a cluster are counted anew."""


class Lost(Exception):
    """The worker that had a group ended before its answer was here; the group may be given to another one."""


class Executor(Protocol):
    """What carries groups to workers: Ray, or a stand-in of a test."""

    def slots(self) -> int:
        """Workers there are just now."""
        ...

    def submit(self, function: Callable[[list[Any]], Any], group: list[Any]) -> Future[Any]:
        """`function` of a group by some worker; the future raises `Lost` where the worker ended."""
        ...


class Place(NamedTuple):
    """Where the command runs; a worker must run the same Mien and see the same folder."""

    version: str
    folder: str


def ordered_map(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int | None = None,
    chunk: int = 8,
    cluster: str | None = None,
) -> Iterator[Result]:
    """`map` in input order over `workers` processes of this machine, or over the workers of a Ray `cluster`.

    The cluster is `auto` or HOST:PORT (`executor`). Items are drawn a few groups of `chunk` ahead, so memory stays flat.
    `function` and the items must be picklable. With a cluster, `workers` is not looked at.

    Raises:
        DataError: a process of this machine was killed; a worker of a cluster ended TRIES times at the same items; a node
            has another Mien, or does not see the folder that the command was started in.
        UsageError: Ray is not installed, or `cluster` is no address.

    """
    if cluster is None:
        yield from progress.ordered_map(function, items, workers, chunk)
    else:
        yield from in_order(executor(cluster), function, items, chunk)


def slots(cluster: str) -> int:
    """Workers that a cluster has just now."""
    return executor(cluster).slots()


def in_order(
    carrier: Executor, function: Callable[[Item], Result], items: Iterable[Item], chunk: int
) -> Iterator[Result]:
    """`map` by the workers of an executor: in order, at most AHEAD groups a worker under way, lost groups given out again."""
    job, source = _Job(function, Place(__version__, os.getcwd())), iter(items)
    waiting: deque[_Task] = deque()
    try:
        while group := list(islice(source, chunk)):
            waiting.append(_Task(carrier, job, group))
            while len(waiting) > AHEAD * carrier.slots():
                yield from _first(waiting)
        while waiting:
            yield from _first(waiting)
    finally:
        for task in waiting:
            task.future.cancel()


class _Job:
    """What a worker does with a group; errors that a user can act on come back as values."""

    def __init__(self, function: Callable[[Any], Any], place: Place) -> None:
        self.function, self.place = function, place

    def __call__(self, group: list[Any]) -> tuple[list[Any], MienError | None]:
        try:
            self.settle()
            return [self.function(item) for item in group], None
        except MienError as error:
            return [], error

    def settle(self) -> None:
        """DataError where this worker cannot stand in for the command's own machine."""
        version, folder = self.place
        if version != __version__:
            raise DataError(f"node {platform.node()} has Mien {__version__}, this is {version}: install the same one.")
        if os.getcwd() == folder:
            return
        try:
            os.chdir(folder)
        except OSError as error:
            raise DataError(
                f"node {platform.node()} cannot enter '{folder}' ({error.strerror}): start mien in a folder, with data and --out on "
                "a file system, that every node sees."
            ) from error


class _Task:
    """A group on its way, however often it has to be given out."""

    def __init__(self, carrier: Executor, job: _Job, group: list[Any]) -> None:
        self.carrier, self.job, self.group, self.tries = carrier, job, group, 0
        self.submit()

    def submit(self) -> None:
        if self.tries == TRIES:
            raise DataError(
                f"a worker of the cluster ended {TRIES} times at {_named(self.group)}, often for want of memory: what was finished "
                "is kept; leave them out, or run the same command again on nodes with more memory."
            )
        self.tries += 1
        self.future = self.carrier.submit(self.job, self.group)

    def lost(self) -> bool:
        """Whether its worker ended; False while that is not known."""
        return self.future.done() and isinstance(self.future.exception(), Lost)


def _first(waiting: deque[_Task]) -> list[Any]:
    """Answers of the first group; all that are lost meanwhile are given out again, not only the first."""
    while not waiting[0].future.done() or waiting[0].lost():
        gone = [task for task in waiting if task.lost()]
        for task in gone:
            task.submit()
        if gone:
            print(f"mien: a worker of the cluster ended; {len(gone)} of its groups are done again.", file=sys.stderr)
        wait([task.future for task in waiting if not task.future.done()], return_when=FIRST_COMPLETED)
    found, error = waiting.popleft().future.result()
    if error is not None:
        raise error
    return list(found)


def _named(group: Sequence[Any]) -> str:
    """The ends of a group, for a person who looks for the item at fault."""
    first, last = (str(getattr(item, "id", item))[:120] for item in (group[0], group[-1]))
    return f"'{first}'" if len(group) == 1 else f"'{first}' to '{last}'"


@cache
def executor(cluster: str) -> Executor:
    """Ray at `cluster`, joined once per process: HOST:PORT of a running one, or `auto`.

    `auto` is the cluster of the environment variable RAY_ADDRESS; without that variable, a Ray of its own with a worker for each core,
    which listens on the loopback interface alone and ends with the command. Nothing is reported to anybody.
    """
    if cluster == "auto" and os.environ.get("RAY_ADDRESS"):
        cluster = os.environ["RAY_ADDRESS"]
    host, _, port = cluster.rpartition(":")
    if cluster != "auto" and not (host and port.isdigit() and "/" not in host):
        raise UsageError(f"--cluster '{cluster}' must be auto, or HOST:PORT of a running Ray cluster.")
    return _Ray(None if cluster == "auto" else cluster)


class _Ray:
    """Ray as an `Executor`. Retrying is `in_order`'s matter, so Ray's own is off."""

    def __init__(self, address: str | None) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        if address is None:
            os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # Ray binds to 127.0.0.1, not to every interface
        try:
            import ray
        except ImportError as error:
            raise UsageError("--cluster needs the extra `cluster`: pip install 'mien[cluster]'.") from error
        self.ray = ray
        logging.getLogger("ray").setLevel(logging.ERROR)
        own = {"num_cpus": progress.default_workers(), "include_dashboard": False} if address is None else {}
        try:
            with _sigterm_kept():
                ray.init(
                    address=address or "local",
                    log_to_driver=False,
                    logging_level="error",
                    configure_logging=False,
                    **own,
                )
        except (ConnectionError, RuntimeError, OSError, ValueError, TimeoutError) as error:
            where, remedy = "Ray does not start here", ""
            if address is not None:
                where = f"no Ray cluster that can be joined at {address}"
                remedy = (
                    ": does `ray start` run there, with the same version, and with its token where RAY_AUTH_MODE=token"
                )
            raise DataError(f"{where} ({' '.join(str(error).split())[:300]}){remedy}.") from error
        # Ray prints losses, which `in_order` makes good, into standard output, where rows of results belong.
        if hasattr(ray._private.worker, "print_to_stdstream"):
            ray._private.worker.print_to_stdstream = _say_nothing
        self._carry = ray.remote(max_retries=0, num_cpus=1)(_carry)
        self._kept: tuple[Any, Any] = None, None
        self._counted, self._slots = -RECOUNT, 1.0

    def slots(self) -> int:
        """Processors of the cluster, at least 1; nodes may come and go."""
        if time.monotonic() - self._counted > RECOUNT:
            self._counted, self._slots = time.monotonic(), self.ray.cluster_resources().get("CPU", 1)
        return max(1, int(self._slots))

    def submit(self, function: Callable[[list[Any]], Any], group: list[Any]) -> Future[Any]:
        """The future of a group."""
        if self._kept[0] is not function:  # sent once, not with every group
            self._kept = function, self.ray.put(function)
        answer: Future[Any] = Future()
        reference = self._carry.remote(self._kept[1], group)
        answer.add_done_callback(lambda ended: self.ray.cancel(reference) if ended.cancelled() else None)
        reference.future().add_done_callback(lambda done: self._pass_on(done, answer))
        return answer

    def _pass_on(self, done: Future[Any], answer: Future[Any]) -> None:
        """Answer or error of Ray's future, with its system errors as `Lost`."""
        if not answer.set_running_or_notify_cancel():
            return
        error = done.exception()
        if error is None:
            answer.set_result(done.result())
        elif isinstance(error, self.ray.exceptions.RayTaskError):
            answer.set_exception(_from_task(error))
        elif isinstance(error, self.ray.exceptions.RayError):
            answer.set_exception(Lost(str(error)))
        else:
            answer.set_exception(error)


def _say_nothing(*words: Any, ignore_prefix: bool = False) -> None:
    """In the place of a printer."""


def _carry(function: Callable[[list[Any]], Any], group: list[Any]) -> Any:
    """The remote task."""
    return function(group)


def _from_task(error: Any) -> BaseException:
    """What a task raised; a node without Mien is a person's matter and one line."""
    text = str(error)
    if "No module named 'mien" in text:
        return DataError("a worker of the cluster cannot import mien: install the same one on every node.")
    return error.cause if isinstance(error.cause, Exception) else RuntimeError(text)


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Ray's own handler of SIGTERM would end the process before anything is tidied up."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():  # which alone has handlers
            signal.signal(signal.SIGTERM, before)
