"""Every ratio of one run, as one Markdown table: about ten minutes on two idle cores.

    python benchmarks/run.py [--quick]

`--quick` takes sizes that only show that everything runs. docs/benchmarks.md says what each row compares.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick

    import torch

    from benchmarks import audet, cams, cues, evaluation, guidance, loading, memory, methods, startup, stn
    from benchmarks.rows import table

    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    print(f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, load before {load}\n")
    print(table([]))
    for part in (startup, cues, cams, evaluation, guidance, methods, stn, audet, loading, memory):
        start = time.perf_counter()
        print("\n".join(table(part.measure(quick)).splitlines()[2:]), flush=True)
        print(f"{part.__name__}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
