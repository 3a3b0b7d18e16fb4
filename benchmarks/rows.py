"""A line of the table of `run.py`, and how times are taken."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple


class Row(NamedTuple):
    """One comparison; a peer of None leaves the cell empty."""

    what: str
    ours: float
    peer: float | None
    ratio: float | None
    """How many times better ours is, or what the aim bounds."""
    aim: str
    digits: int = 2


def table(rows: list[Row]) -> str:
    """Markdown."""
    lines = ["| what | ours | peer | ratio | aim |", "| --- | ---: | ---: | ---: | ---: |"]
    for row in rows:
        peer = "-" if row.peer is None else f"{row.peer:.{row.digits}f}"
        ratio = "-" if row.ratio is None else f"{row.ratio:.{1 if row.ratio >= 10 else 2}f}"
        lines.append(f"| {row.what} | {row.ours:.{row.digits}f} | {peer} | {ratio} | {row.aim} |")
    return "\n".join(lines)


def round_times(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Wall-clock seconds of every call in each round, after one that is not counted. A round goes through all calls,
    every other one backwards, so that a busy moment of the machine hits them alike."""
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(repeats):
        for name in list(calls)[:: 1 if number % 2 == 0 else -1]:
            start = time.perf_counter()
            calls[name]()
            times[name].append(time.perf_counter() - start)
    return times


def best_times(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Least seconds of each call: other programs on the machine only ever add time."""
    return {name: min(values) for name, values in round_times(calls, repeats).items()}
