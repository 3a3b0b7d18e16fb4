"""Files of a graph: how each format is written and read back, and what a converter's failure says."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mien.errors import UsageError, unknown_name


class Written(nn.Module):
    """What the writers take: a module with one input, which has a name and any batch size."""

    input_name: str


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


def need_onnx() -> None:
    """UsageError that names the extra where ONNX is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(f"--to onnx needs '{error.name}': pip install 'mien[export]'.") from error


def traced(graph: Written, example: Tensor) -> Any:
    """The graph as torch.export sees it, any batch size."""
    return torch.export.export(
        graph, (example,), dynamic_shapes={graph.input_name: {0: torch.export.Dim("batch", min=1)}}
    )


def write_onnx(graph: Written, example: Tensor, file: Path, meta: dict[str, Any]) -> None:
    """One .onnx file, weights inside."""
    import onnx

    names = list(graph(example))
    program = torch.onnx.export(
        traced(graph, example), input_names=[graph.input_name], output_names=names, verbose=False
    )
    assert program is not None
    onnx.checker.check_model(program.model_proto)
    onnx.save(program.model_proto, file)
    set_metadata(file, meta)


def set_metadata(file: Path, meta: dict[str, Any]) -> None:
    """Put metadata, and the opset, which is added to them, into an ONNX file in the place of what it has."""
    import onnx

    model = onnx.load(file)
    meta["opset"] = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    del model.metadata_props[:]
    kept = {"mien": json.dumps(meta), **({"classes": ",".join(meta["classes"])} if "classes" in meta else {})}
    for key, value in kept.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.save(model, file)


def read_onnx(file: Path) -> Callable[[Tensor], dict[str, Tensor]]:
    """The file as a function, by onnxruntime on the processor."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
    names, wanted = [output.name for output in session.get_outputs()], session.get_inputs()[0].name

    def call(values: Tensor) -> dict[str, Tensor]:
        found = session.run(names, {wanted: values.numpy()})
        return dict(zip(names, map(torch.from_numpy, found), strict=True))

    return call


def write_torchscript(graph: Written, example: Tensor, file: Path, meta: dict[str, Any]) -> None:
    """A traced module; `torch.jit.load(file, _extra_files={"mien.json": ""})` has the metadata."""
    module = torch.jit.trace(graph, (example,), strict=False, check_trace=False)
    content = io.BytesIO()  # on a full disk torch's own writer would abort the process
    torch.jit.save(module, content, _extra_files={"mien.json": json.dumps(meta)})
    file.write_bytes(content.getbuffer())


def read_torchscript(file: Path) -> Callable[[Tensor], dict[str, Tensor]]:
    """The file as a function."""
    with quietly():
        return torch.jit.load(str(file))


def write_torch_export(graph: Written, example: Tensor, file: Path, meta: dict[str, Any]) -> None:
    """An exported program; `torch.export.load(file, extra_files={"mien.json": ""})` has the metadata."""
    with open(file, "wb") as stream:
        torch.export.save(traced(graph, example), stream, extra_files={"mien.json": json.dumps(meta)})


def read_torch_export(file: Path) -> Callable[[Tensor], dict[str, Tensor]]:
    """The file as a function."""
    with open(file, "rb") as stream, quietly():
        return torch.export.load(stream).module()


Writer = Callable[[Written, Tensor, Path, dict[str, Any]], None]
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
