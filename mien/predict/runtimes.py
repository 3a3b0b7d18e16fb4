"""The net of `mien predict` in several runtimes; the fastest at hand is found by measuring, and gives the same answers."""

from __future__ import annotations

import copy
import io
import os
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from mien.errors import UsageError, unknown_name
from mien.schema import Output

Answer = Callable[[Tensor], Tensor]
"""(B, 3, S, S) normalised pictures -> (B, K) logits."""

TOLERANCE = 1e-4
"""Largest difference from torch's logits, as a share of the largest of them where that is above 1."""
WAIT = 512
"""Pictures (256 faces in two views) after which `auto` measures: getting runtimes ready takes about a second."""
WORTH = 2000
"""Files from which on `auto` measures before the first: it takes 1.0 to 1.5 s, and wins 0.7 to 1.2 ms a face."""
FEW = 4
"""Pictures of a batch up to which it is one face's; one face and many may have different fastest runtimes."""
TURNS, WARM = 3, 2
"""Timed and untimed calls of each runtime; the best counts."""
TIMED = 16
"""Pictures of a batch that is timed, at most."""
AUTO, FASTEST = "auto", "fastest"


class Logits(nn.Module):
    """A net as its logits alone, without the offsets of a calibration, which may be exchanged later."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, K)."""
        output: Output = self.net(images)
        offsets = offsets_of(self.net)
        return output.logits.float() - (0.0 if offsets is None else offsets)


def offsets_of(net: nn.Module) -> Tensor | None:
    """(K,) that a calibration adds to the logits of a net."""
    return cast("Tensor | None", net.offsets)


def as_it_is(net: nn.Module, example: Tensor) -> Answer:
    """PyTorch, layer by layer."""
    return net


def channels_last(net: nn.Module, example: Tensor) -> Answer:
    """PyTorch with its weights in channels_last, as the pictures are."""
    return copy.deepcopy(net).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def frozen(net: nn.Module, example: Tensor) -> Answer:
    """TorchScript whose batch norms are part of the convolutions."""
    found: Answer = torch.jit.freeze(torch.jit.trace(net, example, check_trace=False).eval())
    return found


def compiled(net: nn.Module, example: Tensor) -> Answer:
    """torch.compile, for any number of pictures; takes a compiler, and minutes."""
    found: Answer = torch.compile(net, dynamic=True)
    return found


def graph_of(net: nn.Module, example: Tensor) -> bytes:
    """ONNX by the exporter that traces: a third of a second, where that of `mien export` takes several."""
    file: Any = io.BytesIO()  # which the exporter takes, though its annotation does not say so
    axes = {"images": {0: "count"}, "logits": {0: "count"}}
    torch.onnx.export(
        net, (example,), file, dynamo=False, input_names=["images"], output_names=["logits"], dynamic_axes=axes, verbose=False
    )  # fmt: skip
    return bytes(file.getvalue())


def in_onnxruntime(net: nn.Module, example: Tensor) -> Answer:
    """ONNX Runtime on the processor, with as many threads as PyTorch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    if os.environ.get("OMP_WAIT_POLICY", "").lower() == "passive":  # then others want the cores
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(graph_of(net, example), options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.contiguous().numpy()})[0])


def in_openvino(net: nn.Module, example: Tensor) -> Answer:
    """OpenVINO on the processor, in float32 also where it could do less, with as many threads as PyTorch has."""
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    # The graph is read, not converted by OpenVINO's own tools, which report to its makers.
    request = core.compile_model(core.read_model(graph_of(net, example)), "CPU", settings).create_infer_request()
    lock = threading.Lock()  # a request answers one caller at a time

    def answer(images: Tensor) -> Tensor:
        with lock:
            return torch.from_numpy(request.infer([images.contiguous().numpy()])[0].copy())

    return answer


RUNTIMES: dict[str, Callable[[nn.Module, Tensor], Answer]] = {
    "torch": as_it_is, "channels_last": channels_last, "frozen": frozen, "compiled": compiled, "onnxruntime": in_onnxruntime,
    "openvino": in_openvino,
}  # fmt: skip
"""Name -> how a net and an example of its input become an answer."""
ON_PROCESSOR = ("onnxruntime", "openvino")
"""Those that answer on the processor alone."""
UNASKED = tuple(name for name in RUNTIMES if name != "compiled")
"""Those that are measured: compiling takes longer than most commands."""
EXTRAS = {"onnxruntime": "export", "openvino": "openvino"}


def check_runtime(name: str, device: torch.device, half: bool, guided: bool) -> None:
    """UsageError for a name that is none, or a runtime that cannot be where it is asked for.

    Args:
        name: key of RUNTIMES, auto or fastest.
        device: of the net.
        half: whether it calculates in half precision.
        guided: whether it wants more than pictures.

    """
    if name not in (AUTO, FASTEST, *RUNTIMES):
        raise unknown_name("runtime", name, (AUTO, FASTEST, *RUNTIMES))
    if name in (AUTO, "torch"):
        return
    reasons = {
        "calculates in float32: take precision 32-true": half,
        "takes pictures alone, and this model is steered by a guide": guided,
        f"is for the processor, and the device is {device}": name in ON_PROCESSOR and device.type != "cpu",
    }
    for reason, holds in reasons.items():
        if holds:
            raise UsageError(f"runtime {name} {reason}, or leave runtime at auto.")


def made(name: str, net: nn.Module, example: Tensor) -> Answer:
    """A runtime, ready and compared with PyTorch; `example` is one or two pictures.

    Raises:
        UsageError: its package is missing, it cannot take this net, or answers otherwise.

    """
    trial = torch.cat([example, example.flip(-1), example * 0.5])[:3]  # not as many as were traced
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of tracing and of what is to go one day
            answer = RUNTIMES[name](net, example)
            found, expected = answer(trial), net(trial)
    except ImportError as error:
        extra = f": pip install 'mien[{EXTRAS[name]}]'" if name in EXTRAS else ""
        raise UsageError(f"runtime {name} needs the package '{error.name}'{extra}.") from error
    except Exception as error:  # converters raise nearly anything for a net that they cannot take
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UsageError(f"runtime {name} cannot take this net ({reason}); take torch.") from error
    apart = float((found - expected).abs().max())
    if not apart <= TOLERANCE * max(1.0, float(expected.abs().max())):
        raise UsageError(f"runtime {name} answers otherwise than torch for this net (by {apart:.1e}); take torch.")
    return answer


class Answers:
    """A net as `predict.views.logits_of` calls it: its logits by PyTorch, or by the runtime that is chosen.

    Args:
        net: mien.models.Classifier in evaluation mode.
        runtime: a name; `fastest` for the one that is measured to be, now; `auto` for the same after WAIT pictures, or
            with the first where many are expected.
        size: side of its pictures.
        device: of the net.
        half: whether it calculates in half precision; then `auto` is torch.

    """

    def __init__(self, net: nn.Module, runtime: str, size: int, device: torch.device, half: bool = False) -> None:
        self.net, self.logits = net, Logits(net).eval()
        self.lock, self.wait = threading.Lock(), WAIT
        self.names = [name for name in UNASKED if device.type == "cpu" or name not in ON_PROCESSOR]
        self.ready: dict[str, Answer] = {}
        self.chosen: dict[bool, str] = {}
        """Whether a batch is many pictures -> its runtime."""
        if runtime == "torch" or half:
            self.chosen = dict.fromkeys((False, True), "torch")
        elif runtime == FASTEST:
            for count in (1, 32):
                self.choose(torch.rand(count, 3, size, size, device=device))
        elif runtime != AUTO:
            self.ready[runtime] = made(runtime, self.logits, torch.rand(2, 3, size, size, device=device))
            self.chosen = dict.fromkeys((False, True), runtime)

    @property
    def named(self) -> str:
        """Runtime of one face and of many, once where they are the same; torch while nothing is measured."""
        return " and ".join(dict.fromkeys(self.chosen.get(many, "torch") for many in (False, True)))

    def expect(self, files: int | None) -> None:
        """So many files will come; from WORTH on `auto` measures with the first batch of many, and waits for no more."""
        if files is not None and files >= WORTH:
            self.wait = 0

    def choose(self, images: Tensor) -> None:
        """Measure all that are at hand on a batch, and keep the fastest for batches of its kind."""
        for name in self.names if not self.ready else ():
            try:
                self.ready[name] = made(name, self.logits, images[:1].repeat(2, 1, 1, 1))
            except UsageError:  # not at hand, or not for this net
                continue
        times = measured(self.ready, images[:TIMED])
        self.chosen[len(images) > FEW] = min(times, key=lambda name: times[name])
        if len(self.chosen) == 2:  # nothing is left to measure
            self.ready = {name: self.ready[name] for name in self.chosen.values()}

    def __call__(self, images: Tensor, guide: Tensor | None = None) -> Output:
        """The net's Output; by another runtime than PyTorch its logits alone."""
        with self.lock:
            many = len(images) > FEW
            self.wait -= len(images)
            if guide is None and self.wait < 0 and many not in self.chosen:
                self.choose(images)
            name = self.chosen.get(many, "torch")
        if guide is not None or name == "torch" or not len(images):
            output: Output = self.net(images) if guide is None else self.net(images, guide=guide)
            return output
        logits, offsets = self.ready[name](images), offsets_of(self.net)
        return Output(logits if offsets is None else logits + offsets, (), None)


@torch.no_grad()
def measured(ready: dict[str, Answer], images: Tensor) -> dict[str, float]:
    """Name -> seconds of a batch of images, the best of TURNS in which all take turns."""
    times = dict.fromkeys(ready, float("inf"))
    for turn in range(-WARM, TURNS):
        for name in times:
            began = time.perf_counter()
            ready[name](images).cpu()
            if turn >= 0:
                times[name] = min(times[name], time.perf_counter() - began)
    return times


def as_answers(net: Any, runtime: str, size: int, device: torch.device, half: bool, guided: bool) -> Answers:
    """`Answers` of a net; UsageError for a runtime that cannot be."""
    check_runtime(runtime, device, half, guided)
    return Answers(net, runtime, size, device, half)
