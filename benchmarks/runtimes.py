"""The net of `mien predict` in several runtimes: is one worth a choice at load?

    python benchmarks/runtimes.py [--run RUN] [--rounds 5]

Processor time of one thread for 2 and 64 pictures (a face, and 32 faces, in two views each), medians over rounds in which all
take turns; the largest difference of a logit from plain torch; and what making the runtime ready takes. Needs the extra `export`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from mien.predict.model import load

COUNTS = (2, 64)
Answer = Callable[[Tensor], Tensor]


class Logits(nn.Module):
    """A net as its logits alone."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(images).logits
        return logits


def frozen(net: nn.Module, example: Tensor) -> Answer:
    """Traced TorchScript whose batch norms are part of the convolutions."""
    found: Answer = torch.jit.freeze(torch.jit.trace(net, example, check_trace=False).eval())
    return found


def onnx(net: nn.Module, example: Tensor) -> Answer:
    """onnxruntime on the processor."""
    import onnxruntime

    program = torch.onnx.export(net, (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},), verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    content = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: torch.from_numpy(session.run(None, {name: images.numpy()})[0])


WAYS: dict[str, Callable[[nn.Module, Tensor], Answer]] = {
    "torch": lambda net, example: net, "TorchScript, frozen": frozen, "onnxruntime": onnx,
}  # fmt: skip


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="run folder; by default the bundled model")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    model = load(args.run, faces="none", device="cpu")
    size = model.recipe.model.size
    pictures = {count: torch.rand(count, 3, size, size) for count in COUNTS}
    net, ready, answers = Logits(model.net).eval(), {}, {}
    for name, make in WAYS.items():
        began = time.process_time()
        answers[name] = make(net, pictures[2])
        ready[name] = time.process_time() - began
    times: dict[tuple[str, int], list[float]] = {(name, count): [] for name in WAYS for count in COUNTS}
    apart = dict.fromkeys(WAYS, 0.0)
    for name, answer in answers.items():
        for count in COUNTS:
            for _ in range(3):  # what is compiled at first use
                found = answer(pictures[count])
            apart[name] = max(apart[name], float((found - net(pictures[count])).abs().max()))
    for _ in range(args.rounds):
        for name, answer in answers.items():
            for count in COUNTS:
                began, calls = time.process_time(), 60 // count + 2
                for _ in range(calls):
                    answer(pictures[count])
                times[name, count].append((time.process_time() - began) / calls)
    print(
        "| runtime | ready, s | " + " | ".join(f"{count} pictures, ms" for count in COUNTS) + " | largest difference |"
    )
    print("| --- | ---: |" + " ---: |" * len(COUNTS) + " ---: |")
    for name in WAYS:
        cells = " | ".join(f"{1e3 * statistics.median(times[name, count]):.1f}" for count in COUNTS)
        print(f"| {name} | {ready[name]:.1f} | {cells} | {apart[name]:.0e} |")


if __name__ == "__main__":
    main()
