"""Verb `mien export`: a run as one graph, from pixels to probabilities and maps, checked against PyTorch."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from mien import maps
from mien.config import GUIDED_KINDS, Recipe
from mien.data.framing import Framing
from mien.data.transforms import luma, normalise
from mien.errors import DataError, UsageError, unknown_name
from mien.explain import GRADIENT_MAPS, rollout
from mien.files import file_sha256, replacing, write_atomic
from mien.losses.attribution import chain_gradient, chain_of
from mien.predict.bundled import bundled_run
from mien.predict.calibration import Calibration, read_calibration
from mien.predict.photos import framing_of_run
from mien.schema import Output, scheme_classes
from mien.training import checkpoint

if TYPE_CHECKING:
    from mien.models import Classifier

FORMAT_VERSION = 1
CROPPER = "face_crop.py"
"""Written beside a graph: what Mien does around its nets, for people who have numpy only."""
INPUT = "pixels"
BATCHES = (1, 3)
"""Batch sizes at which a written file is checked; the graph is traced at another."""
TOLERANCE = 1e-4
"""Largest difference from PyTorch, as a share of the largest value of the output."""
LEAST_PEAK = 0.01
"""Outputs that stay below this are measured against it: relative to noise around zero, any rounding is large."""
CHAIN_MAPS = ("grad_cam", "grad_cam_pp", "layer_cam")
"""Gradient maps that a head of linear layers gives without back-propagation."""

OUTPUTS = {
    "logits": "B x K, with the offsets of the calibration",
    "probabilities": "B x K, softmax of logits / temperature",
    "attention": "B x 1 x h x w, mean over the channels of the last layer",
    "token_attention": "B x 1 x h x w, attention that the net itself computes (docs/explanations.md, attention)",
    "rollout": "B x 1 x h x w, attention rolled out over the blocks",
    "segmentation": "B x 1 x h x w, logits of the cue's region",
    "cam": "B x K x h x w, class activation map of every class",
    "ts_cam": "B x K x h x w, token attention times the class map of every class",
    "grad_cam": "B x K x h x w, of every class, before its ReLU",
    "grad_cam_pp": "B x K x h x w, of every class, before its ReLU",
    "layer_cam": "B x K x h x w, of every class, before its ReLU",
}
"""Name of an output -> what it is. A graph has those that its model gives by a forward pass alone; maps are raw."""


def export(
    run: Path | None = None,
    *,
    to: Literal["onnx", "torchscript", "torch-export"] | None = None,
    out: Path | None = None,
    calibration: str | None = None,
) -> Path:
    """Write a trained run as one graph: uint8 RGB faces in, logits, probabilities and maps out, any batch size.

    Beside it lies face_crop.py, which cuts faces out of photos as the graph wants them, with numpy alone. Normalisation (and grey,
    where the run's store was grey) lies inside the graph; names of classes and what the pictures must be travel in the file's
    metadata. The file is compared with PyTorch on synthetic faces at batch 1 and 3 before it is kept.

    Args:
        run: run folder of `mien train`; by default the bundled model.
        to: onnx (needs the extra `export`), torchscript or torch-export; by default what the ending of `out` stands for, or onnx.
        out: file to write; model.onnx, model.torchscript.pt or model.pt2 in the run folder (of the bundled model: here)
            unless given.
        calibration: file of mien calibrate, or the name of one in the run folder; by default the run's calibration.json.

    """
    kind = format_of(to, out)
    suffix, write, read = WRITERS[kind]
    if kind == "onnx":
        need_onnx()
    file = out or (run or Path()) / f"model{suffix}"
    run = bundled_run() if run is None else run
    model, recipe, env = checkpoint.load_model(run)
    refuse_guided(recipe)
    calibrated = read_calibration(run, scheme_classes(recipe.data.scheme), calibration).apply(model)
    framing = framing_of_run(env, recipe)
    graph = Graph(model, recipe.model.preprocessing, framing.channels == 1, calibrated.temperature).eval()
    faces = drawn_faces(recipe.model.size)
    with torch.no_grad(), replacing(file) as temporary:
        meta = metadata(run, recipe, framing, calibrated, graph(faces[:2]))
        try:
            with quietly():
                write(graph, faces[:2], temporary, meta)
        except Exception as error:  # whatever a converter raises: its kinds change from version to version
            raise DataError(f"{run} cannot be written as {kind}: {reason_of(error)}.{other_formats(kind)}") from error
        worst = largest_difference(graph, read(temporary), faces)
        if max(worst.values()) > TOLERANCE:
            name = max(worst, key=lambda key: worst[key])
            raise DataError(
                f"{run} as {kind} differs from PyTorch by {worst[name]:.1e} of the largest {name} (allowed: {TOLERANCE:g}); "
                f"nothing was kept.{other_formats(kind)}"
            )
    cropper = file.with_name(CROPPER)
    write_atomic(cropper, (Path(__file__).parent / CROPPER).read_bytes())
    print(f"{cropper}: cuts faces out of photos as this graph wants them, from five points or 68; numpy only")
    print(f"{file}: {kind}, {recipe.model.size} px, {file.stat().st_size / 1e6:.1f} MB; outputs {', '.join(worst)}")
    print(
        f"checked against PyTorch on synthetic faces at batch {' and '.join(map(str, BATCHES))}: largest difference "
        f"{max(worst.values()):.1e} of an output's largest value (allowed: {TOLERANCE:g})"
    )
    return file


def format_of(to: str | None, out: Path | None) -> str:
    """The format that is meant; UsageError for an unknown one, and where the file's ending says another."""
    if to is not None and to not in WRITERS:
        raise unknown_name("format", to, WRITERS)
    if out is None:
        return to or "onnx"
    if out.suffix not in ENDINGS:
        raise UsageError(f"--out {out}: the ending must be one of {', '.join(ENDINGS)}.")
    meant = ENDINGS[out.suffix]
    if to not in (None, meant):
        raise UsageError(f"--out {out} ends as files of {meant} do, but --to is {to}; change one of them.")
    return meant


class Graph(nn.Module):
    """Pixels -> named outputs, of a model in evaluation mode.

    Args:
        model: of a run.
        preprocessing: key of schema.PREPROCESSING.
        grey: make the picture grey first, as the store of the run was.
        temperature: logits are divided by it before the softmax (Guo et al. 2017, arXiv 1706.04599).

    """

    def __init__(self, model: Classifier, preprocessing: str, grey: bool, temperature: float) -> None:
        super().__init__()
        self.model, self.preprocessing, self.grey, self.temperature = model, preprocessing, grey, temperature

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """(B, 3, S, S) uint8 RGB -> those of OUTPUTS that the model gives, in that order."""
        if self.grey:
            pixels = luma(pixels).expand(-1, 3, -1, -1)
        output: Output = self.model(normalise(pixels, self.preprocessing))
        found = {"logits": output.logits, "probabilities": (output.logits / self.temperature).softmax(1)}
        found |= {name: maps.to_input(map_, output.theta) for name, map_ in forward_maps(self.model, output).items()}
        return {name: found[name].contiguous() for name in OUTPUTS if name in found}


def forward_maps(model: nn.Module, output: Output) -> dict[str, Tensor]:
    """Every map that needs no backward pass, raw, (B, 1, h, w), or (B, K, h, w) where it is of a class.

    A head that is a chain of linear layers gives its gradients in closed form; then the gradient maps are here for every
    class. They equal `mien.explain` of that class.
    """
    found = {"attention": maps.channel_mean(output.features[-1])}
    if output.segmentation is not None:
        found["segmentation"] = output.segmentation
    if output.attention is not None:
        found["token_attention"] = output.attention
    if output.token_attention:
        found["rollout"] = rollout(output, output.logits.argmax(1))
    if output.maps is not None:
        found["cam"] = output.maps
    if output.maps is not None and output.attention is not None:
        found["ts_cam"] = output.attention * output.maps
    return found | chain_maps(getattr(model, "head", None), output)


def chain_maps(head: nn.Module | None, output: Output) -> dict[str, Tensor]:
    """CHAIN_MAPS of every class, (B, K, h, w) each; none for a head that is no chain of linear layers."""
    features, classes = output.features[-1], output.logits.shape[1]
    chain = None if head is None else chain_of(head, features)
    if chain is None:
        return {}
    own = torch.eye(classes, dtype=features.dtype, device=features.device)
    slopes = own.expand(features.shape[0], -1, -1).flatten(0, 1)
    every = features.unsqueeze(1).expand(-1, classes, -1, -1, -1).flatten(0, 1)
    gradient = chain_gradient(chain, every, slopes)
    return {name: GRADIENT_MAPS[name](every, gradient).unflatten(0, (-1, classes)).squeeze(2) for name in CHAIN_MAPS}


def refuse_guided(recipe: Recipe) -> None:
    """UsageError for a model that wants more than pixels."""
    kind = recipe.transformer.kind
    if kind in (*GUIDED_KINDS, "landmarks"):
        wanted = "landmarks" if kind == "landmarks" else "a guide image"
        raise UsageError(
            f"this run is steered by {wanted} (transformer.kind {kind}), which a graph of pixels alone does not have; "
            "export a run of transformer.kind none or image."
        )


def metadata(
    run: Path, recipe: Recipe, framing: Framing, calibration: Calibration, outputs: dict[str, Tensor]
) -> dict[str, Any]:
    """What a user of the file must know; JSON under the key `mien` of the file's metadata."""
    from mien import __version__

    return {
        "format": FORMAT_VERSION,
        "mien": __version__,
        "run": run.resolve().name,
        "checkpoint_sha256": file_sha256(run / "best.ckpt"),
        "classes": list(scheme_classes(recipe.data.scheme)),
        "input": {
            "name": INPUT, "type": "uint8", "shape": ["B", 3, recipe.model.size, recipe.model.size], "channels": "RGB",
            "size": recipe.model.size, "normalised": "inside the graph", "grey": "inside the graph" if framing.channels == 1 else None,
        },
        "framing": framing._asdict(),
        "points": "eye on the left of the picture, eye on its right, nose tip, mouth corner on the left, on the right; framing.points "
                  f"are theirs in a picture of framing.size; {CROPPER} cuts faces so",
        "calibration": calibration.as_json(),
        "outputs": {name: {"shape": ["B", *value.shape[1:]], "what": OUTPUTS[name]} for name, value in outputs.items()},
        "notice": "Recognises expressions, not what a person feels. Prohibited in the EU at work and in education.",
    }  # fmt: skip


def drawn_faces(size: int) -> Tensor:
    """(3, 3, size, size) uint8 RGB: synthetic faces, as many as the largest batch of the check."""
    from mien.synthetic.sample import faces

    drawn = [record.image for record in faces(max(BATCHES), size=max(size, 32), seed=1)]
    pixels = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2)  # type: ignore[arg-type]
    return maps.resize(pixels.float(), (size, size)).round().to(torch.uint8).contiguous()


def largest_difference(graph: Graph, call: Callable[[Tensor], dict[str, Tensor]], faces: Tensor) -> dict[str, float]:
    """Output name -> largest difference from PyTorch over BATCHES, as a share of its largest value there.

    Infinite where a name or a shape differs, or a value is no number.
    """
    worst: dict[str, float] = {}
    for batch in BATCHES:
        wanted, found = graph(faces[:batch]), call(faces[:batch])
        for name, value in wanted.items():
            other = found.get(name)
            if other is None or other.shape != value.shape:
                share = float("inf")
            else:
                share = float((other - value).abs().max() / value.abs().max().clamp_min(LEAST_PEAK))
            worst[name] = max(worst.get(name, 0.0), share if np.isfinite(share) else float("inf"))
    return worst


def need_onnx() -> None:
    """UsageError that names the extra where ONNX is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(f"--to onnx needs '{error.name}': pip install 'mien[export]'.") from error


def traced(graph: Graph, example: Tensor) -> Any:
    """The graph as torch.export sees it, any batch size."""
    return torch.export.export(graph, (example,), dynamic_shapes={INPUT: {0: torch.export.Dim("batch", min=1)}})


def write_onnx(graph: Graph, example: Tensor, file: Path, meta: dict[str, Any]) -> None:
    """One .onnx file, weights inside."""
    import onnx

    names = list(graph(example))
    program = torch.onnx.export(traced(graph, example), input_names=[INPUT], output_names=names, verbose=False)
    assert program is not None
    model = program.model_proto
    for key, value in {"mien": json.dumps(meta), "classes": ",".join(meta["classes"])}.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.checker.check_model(model)
    onnx.save(model, file)


def read_onnx(file: Path) -> Callable[[Tensor], dict[str, Tensor]]:
    """The file as a function, by onnxruntime on the processor."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def call(pixels: Tensor) -> dict[str, Tensor]:
        found = session.run(names, {INPUT: pixels.numpy()})
        return dict(zip(names, map(torch.from_numpy, found), strict=True))

    return call


def write_torchscript(graph: Graph, example: Tensor, file: Path, meta: dict[str, Any]) -> None:
    """A traced module; `torch.jit.load(file, _extra_files={"mien.json": ""})` has the metadata."""
    module = torch.jit.trace(graph, (example,), strict=False, check_trace=False)
    torch.jit.save(module, str(file), _extra_files={"mien.json": json.dumps(meta)})


def read_torchscript(file: Path) -> Callable[[Tensor], dict[str, Tensor]]:
    """The file as a function."""
    with quietly():
        return torch.jit.load(str(file))


def write_torch_export(graph: Graph, example: Tensor, file: Path, meta: dict[str, Any]) -> None:
    """An exported program; `torch.export.load(file, extra_files={"mien.json": ""})` has the metadata."""
    with open(file, "wb") as stream:
        torch.export.save(traced(graph, example), stream, extra_files={"mien.json": json.dumps(meta)})


def read_torch_export(file: Path) -> Callable[[Tensor], dict[str, Tensor]]:
    """The file as a function."""
    with open(file, "rb") as stream, quietly():
        return torch.export.load(stream).module()


Writer = Callable[[Graph, Tensor, Path, dict[str, Any]], None]
Reader = Callable[[Path], Callable[[Tensor], dict[str, Tensor]]]
WRITERS: dict[str, tuple[str, Writer, Reader]] = {
    "onnx": (".onnx", write_onnx, read_onnx),
    "torchscript": (".torchscript.pt", write_torchscript, read_torchscript),
    "torch-export": (".pt2", write_torch_export, read_torch_export),
}
"""Format -> suffix, writer, reader."""
ENDINGS = {".onnx": "onnx", ".pt": "torchscript", ".pt2": "torch-export"}
"""Ending of a file -> format."""


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without the converters' warnings and log lines, which speak to authors of models."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def reason_of(error: BaseException) -> str:
    """What a converter could not do, in one line: the operation that has no counterpart, else the last cause's own words."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split())
    missing = re.search(r"No ONNX function found for.*?'([\w:.]+)'", text)
    return f"ONNX has no counterpart of {missing[1]}" if missing else f"{type(error).__name__} {text[:200].rstrip('.')}"


def other_formats(to: str) -> str:
    """The remedy: what to try instead."""
    return " Try --to torchscript or --to torch-export." if to == "onnx" else " Try another --to."
