"""Wall-clock time until `mien --help` and `import mien` are done, in a fresh process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.rows import Row

ROOT = Path(__file__).resolve().parent.parent


def seconds(arguments: list[str], repeats: int) -> float:
    """Best of several runs of the interpreter."""
    search = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": search},
        )
        times.append(time.perf_counter() - start)
    return min(times)


def measure(quick: bool = False) -> list[Row]:
    """Against an interpreter that does nothing."""
    repeats = 1 if quick else 5
    bare = seconds(["-c", "pass"], repeats)
    cases = {
        "`mien --help`, s": (["-m", "mien", "--help"], "< 0.5 s"),
        "`import mien`, s": (["-c", "import mien"], "-"),
    }
    return [
        Row(f"{name}, against an empty program", own := seconds(words, repeats), bare, own / bare, aim)
        for name, (words, aim) in cases.items()
    ]
