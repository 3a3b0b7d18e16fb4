"""Verb `mien export`: a run as one graph, from pixels to probabilities and maps, checked against PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch

from mien.audet.photos import open_reader
from mien.audet.run import CFG
from mien.config import GUIDED_KINDS, Recipe
from mien.errors import UsageError
from mien.export.check import BATCHES, TOLERANCE, drawn_faces, largest_difference, write_checked
from mien.export.facts import CROPPER, metadata, net_unit_metadata, unit_metadata
from mien.export.formats import WRITERS, format_of, need_onnx, quietly, set_metadata
from mien.export.graphs import Graph, NetUnitGraph, UnitGraph
from mien.export.reduced import check_precision, known_faces, reduce
from mien.faces.blendshapes import BLENDSHAPES
from mien.files import replacing, write_atomic
from mien.predict.bundled import bundled_run
from mien.predict.calibration import read_calibration
from mien.predict.fusion import FILE as FUSION
from mien.predict.fusion import read_fusion
from mien.predict.photos import framing_of_run
from mien.schema import scheme_classes
from mien.training import checkpoint
from mien.training.hub import fetched

__all__ = ["CROPPER", "Graph", "drawn_faces", "export", "format_of", "largest_difference", "quietly"]


def export(
    run: Path | None = None,
    *,
    to: Literal["onnx", "torchscript", "torch-export"] | None = None,
    out: Path | None = None,
    calibration: str | None = None,
    precision: Literal["float32", "fp16", "int8"] = "float32",
    store: Path | None = None,
    units: bool = False,
) -> Path:
    """Write a trained run as one graph: uint8 RGB faces in, logits, probabilities and maps out, any batch size.

    Beside it lies face_crop.py, which cuts faces out of photos as the graph wants them, with numpy alone. Normalisation (and grey,
    where the run's store was grey) lies inside the graph; names of classes and what the pictures must be travel in the file's
    metadata. The file is compared with PyTorch on synthetic faces at batch 1 and 32 before it is kept.

    Args:
        run: run folder of `mien train`, or of `mien audet train` for a graph of its action units; by default the bundled model.
        to: onnx (needs the extra `export`), torchscript or torch-export; by default what the ending of `out` stands for, or onnx.
        out: file to write; model.onnx, model.torchscript.pt or model.pt2 in the run folder (of the bundled model: here)
            unless given.
        calibration: file of mien calibrate, or the name of one in the run folder; by default the run's calibration.json.
        precision: float32, or for onnx fp16 or int8; size, accuracy and calibration beside float32 are printed and written into the
            metadata.
        store: prepared store whose faces that is measured on, and int8 takes its ranges from; by default the run's own.
        units: write the map from the Face Landmarker's blendshapes to action units instead, and what the run's fusion adds.

    """
    kind = format_of(to, out)
    check_precision(precision, kind)
    if kind == "onnx":
        need_onnx()
    net = run is not None and (run / CFG).is_file()
    if (units or net) and (precision != "float32" or calibration or store):
        raise UsageError("--precision, --store and --calibration are for graphs of expressions, not of action units.")
    if units and net:
        raise UsageError(f"{run} is a run of mien audet train, whose graph has its own units; leave out --units.")
    file = out or (run or Path()) / f"{'units' if units else 'model'}{WRITERS[kind][0]}"
    if units:
        return export_units(run, file, kind)
    if run is not None and net:
        return export_net_units(run, file, kind)
    return export_expressions(run, file, kind, calibration, precision, store)


def export_expressions(
    run: Path | None, file: Path, kind: str, calibration: str | None, precision: str, store: Path | None
) -> Path:
    """A run of `mien train`: pixels -> logits, probabilities and maps."""
    run = bundled_run() if run is None else fetched(run)
    model, recipe, env = checkpoint.load_model(run)
    refuse_guided(recipe)
    calibrated = read_calibration(run, scheme_classes(recipe.data.scheme), calibration).apply(model)
    known = known_faces(precision, recipe, env, calibrated.head, store)
    framing = framing_of_run(env, recipe)
    graph = Graph(model, recipe.model.preprocessing, framing.channels == 1, calibrated.temperature).eval()
    faces = drawn_faces(recipe.model.size)
    with torch.no_grad(), replacing(file) as temporary:
        outputs = graph(faces[:2])
        meta = metadata(run, recipe, framing, calibrated, outputs)
        worst = write_checked(graph, faces, temporary, kind, meta, str(run))
        if precision != "float32":
            meta |= {"precision": precision, "measured": reduce(temporary, graph, precision, known, faces)}
            set_metadata(temporary, meta)
    print_file(file, kind, f"{recipe.model.size} px, {precision}", list(outputs), worst, meta)
    write_cropper(file)
    if (run / FUSION).is_file() and calibrated.head == "votes":
        print(
            "the run's fusion is not in this graph, which sees pixels only; `mien export --units` writes what it adds."
        )
    return file


def export_units(run: Path | None, file: Path, kind: str) -> Path:
    """The map from blendshapes to action units, and the fusion of a run that has one."""
    run = bundled_run() if run is None else run
    _, recipe, _ = checkpoint.load_model(run)
    classes = scheme_classes(recipe.data.scheme)
    graph = UnitGraph(read_fusion(run, classes)).eval()
    shapes = torch.rand(max(BATCHES), len(BLENDSHAPES), generator=torch.Generator().manual_seed(1)) ** 3
    meta = unit_metadata(run, graph, classes)
    with replacing(file) as temporary:
        worst = write_checked(graph, shapes, temporary, kind, meta, "the map of action units")
    print_file(file, kind, f"{len(BLENDSHAPES)} blendshapes", list(meta["outputs"]), worst, meta)
    return file


def export_net_units(run: Path, file: Path, kind: str) -> Path:
    """A run of `mien audet train`: pixels -> strengths of its action units."""
    reader = open_reader(run)
    net = reader.net.cpu()
    graph, faces = NetUnitGraph(net).eval(), drawn_faces(net.size)
    meta = net_unit_metadata(run, reader)
    with replacing(file) as temporary:
        worst = write_checked(graph, faces, temporary, kind, meta, str(run))
    print_file(file, kind, f"{net.size} px", list(meta["outputs"]), worst, meta)
    write_cropper(file)
    return file


def print_file(file: Path, kind: str, what: str, outputs: list[str], worst: float, meta: dict[str, Any]) -> None:
    """What was written, and how it was checked; the metadata once more as a file, for readers that do not show them."""
    write_atomic(file.with_name(f"{file.name}.json"), json.dumps(meta, indent=1))
    opset = f", opset {meta['opset']}" if "opset" in meta else ""
    print(f"{file}: {kind}{opset}, {what}, {file.stat().st_size / 1e6:.1f} MB; outputs {', '.join(outputs)}")
    print(
        f"checked against PyTorch at batch {' and '.join(map(str, BATCHES))}, as float32: largest difference {worst:.1e} "
        f"of an output's largest value (allowed: {TOLERANCE:g})"
    )


def write_cropper(file: Path) -> None:
    """face_crop.py beside a graph."""
    cropper = file.with_name(CROPPER)
    write_atomic(cropper, (Path(__file__).parent / CROPPER).read_bytes())
    print(f"{cropper}: cuts faces out of photos as this graph wants them, from five points or 68; numpy only")


def refuse_guided(recipe: Recipe) -> None:
    """UsageError for a model that wants more than pixels."""
    kind = recipe.transformer.kind
    if kind in (*GUIDED_KINDS, "landmarks"):
        wanted = "landmarks" if kind == "landmarks" else "a guide image"
        raise UsageError(
            f"this run is steered by {wanted} (transformer.kind {kind}), which a graph of pixels alone does not have; "
            "export a run of transformer.kind none or image."
        )
