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


class Cost(NamedTuple):
    """Of one call."""

    wall: float
    """Seconds."""
    cpu: float
    """Of all threads, seconds: what other programs do on the machine adds little to it."""


def round_costs(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[Cost]]:
    """What every call takes in each round, after one that is not counted. A round goes through all calls,
    every other one backwards, so that a busy moment of the machine hits them alike."""
    for call in calls.values():
        call()
    costs: dict[str, list[Cost]] = {name: [] for name in calls}
    for number in range(repeats):
        for name in list(calls)[:: 1 if number % 2 == 0 else -1]:
            wall, cpu = time.perf_counter(), time.process_time()
            calls[name]()
            costs[name].append(Cost(time.perf_counter() - wall, time.process_time() - cpu))
    return costs


def round_times(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Wall-clock seconds of `round_costs`."""
    return {name: [cost.wall for cost in costs] for name, costs in round_costs(calls, repeats).items()}


def best_times(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Least seconds of each call: other programs on the machine only ever add time."""
    return {name: min(values) for name, values in round_times(calls, repeats).items()}
