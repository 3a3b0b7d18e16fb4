"""Train and score the cells of a grid: side by side, resumed where they were stopped, one failure not losing the others."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, NamedTuple

from mien.config import Recipe
from mien.errors import MienError
from mien.files import read_json
from mien.progress import begin_worker

FAILED = "failed.txt"
"""In the folder of a cell that failed: the reason, one line."""


class Cell(NamedTuple):
    """One training with its scores: a run folder."""

    folder: Path
    recipe: Recipe

    @property
    def done(self) -> bool:
        """Trained and scored."""
        return (self.folder / "results.json").is_file()

    def results(self) -> dict[str, Any]:
        """Content of results.json; one clear line where it is damaged."""
        file = self.folder / "results.json"
        return read_json(file, "delete it, the same command scores the run again")


def run_cells(cells: Sequence[Cell], workers: int, threads: int) -> dict[str, str]:
    """Run what is not done yet; one line a cell with an estimate of the time left. Returns folder name -> reason of failure.

    A cell is `mien train` and `mien evaluate`; its output lies in `cell.log` in its folder. Several workers are processes
    of their own, one for each cell, so that even one that is killed takes nothing along.
    """
    todo, failures = [cell for cell in cells if not cell.done], {}
    print(f"{len(cells)} trainings, {len(cells) - len(todo)} of them done before", flush=True)
    began = time.perf_counter()
    finished = (
        side_by_side(todo, workers, threads) if workers > 1 else ((cell, run_cell(cell, threads)) for cell in todo)
    )
    for count, (cell, reason) in enumerate(finished, start=1):
        if reason:
            failures[cell.folder.name] = reason
        left = (time.perf_counter() - began) / count * (len(todo) - count)
        state = f"FAILED: {reason}" if reason else summary(cell)
        estimate = f"; about {duration(left)} left" if count < len(todo) else ""
        print(f"[{count}/{len(todo)}] {cell.folder.name}: {state}{estimate}", flush=True)
    return failures


def side_by_side(cells: Sequence[Cell], workers: int, threads: int) -> Iterator[tuple[Cell, str]]:
    """Each cell in a process of its own, `workers` at a time, in the order in which they end, with the reason of a failure."""
    context = multiprocessing.get_context("spawn")  # not forked: threads of torch in the parent would dead-lock a child
    waiting = list(reversed(cells))
    running: dict[Any, tuple[SpawnProcess, Cell]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                cell = waiting.pop()
                process = context.Process(target=run_alone, args=(cell, threads))
                process.start()
                running[process.sentinel] = process, cell
            for sentinel in wait(list(running)):
                process, cell = running.pop(sentinel)
                process.join()
                yield cell, "" if cell.done else reason_of(cell, process.exitcode)
    finally:
        for process, _ in running.values():
            process.terminate()
            process.join()


def run_alone(cell: Cell, threads: int) -> None:
    """`run_cell` as a process of its own. It ends with its parent, even one that was killed: the same command, given
    again, must not find the cell still in training.
    """
    begin_worker()
    run_cell(cell, threads)


def run_cell(cell: Cell, threads: int) -> str:
    """Train and score one cell in this process; the reason of a failure, empty when all went well."""
    import torch

    from mien.evaluation.evaluate import evaluate
    from mien.training.loop import fit

    cell.folder.mkdir(parents=True, exist_ok=True)
    (cell.folder / FAILED).unlink(missing_ok=True)
    torch.set_num_threads(min(threads, torch.get_num_threads()))  # OMP_NUM_THREADS may ask for fewer
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # would write past the log file
    with open(cell.folder / "cell.log", "a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        try:
            fit(cell.recipe, cell.folder)
            evaluate(cell.folder)
        except Exception as error:
            reason = str(error) if isinstance(error, MienError) else f"{type(error).__name__}: {error}"
            reason = " ".join(reason.split()) or type(error).__name__
            (cell.folder / FAILED).write_text(reason)
            return reason
    return ""


def reason_of(cell: Cell, exit_code: int | None) -> str:
    """Why a cell's process left nothing to read."""
    file = cell.folder / FAILED
    if file.is_file():
        return file.read_text()
    if exit_code is not None and exit_code < 0:
        return f"its process was killed by signal {-exit_code} (9: often too little memory; try fewer --workers)"
    return f"its process ended with code {exit_code}; see {cell.folder / 'cell.log'}"


def summary(cell: Cell) -> str:
    """Accuracy and duration of a finished cell."""
    from mien.training.checkpoint import read_log

    accuracy = cell.results()["classification"]["accuracy"]
    seconds = sum(line.get("seconds", 0) for line in read_log(cell.folder / "log.jsonl"))
    return f"accuracy {accuracy:.3f}, trained in {duration(seconds)}"


def duration(seconds: float) -> str:
    """Seconds in words: 45 s, 12 min, 3.4 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
