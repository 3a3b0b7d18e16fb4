"""Smaller ONNX files: weights of 16 or 8 bits, and what that costs in accuracy and calibration on labelled faces.

fp16: weights and arithmetic of the net are half precision, pixels, probabilities and maps stay as they were. int8: convolutions
and matrix products are quantised after training (Jacob et al. 2018, arXiv 1712.05877), weights by channel with seven bits, which do
not overflow on processors without VNNI, activations to the range that they take on faces of the store.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mien.data.labels import labels_of, voted_labels
from mien.data.store import Store, open_store
from mien.data.transforms import resize_faces
from mien.errors import DataError, UsageError, unknown_name
from mien.evaluation.evaluate import in_framing, parts_to_score, recipe_on
from mien.export.formats import quietly, read_onnx, write_onnx
from mien.export.graphs import Graph
from mien.metrics.classification import calibration_error
from mien.schema import IntArray

if TYPE_CHECKING:
    from mien.config import Recipe

PRECISIONS = ("float32", "fp16", "int8")
RANGE_FACES = 256
"""Faces on which the ranges of int8 are taken; more change little."""
LEAST_FACES = 20
"""Labelled faces from which an accuracy is told."""
BATCH = 32
WORSE = 0.01
"""Loss of accuracy from which a line warns."""

Call = Callable[[Tensor], dict[str, Tensor]]


class Known(NamedTuple):
    """Labelled faces of a store for a run."""

    store: Store
    size: int
    """Side of the net's input."""
    ranges: IntArray
    """Rows on which activations are looked at; none of `scored`."""
    scored: IntArray
    labels: IntArray
    """(N,) of all rows of the store."""
    split: str
    """Which part is scored."""

    def pixels(self, rows: IntArray) -> Tensor:
        """(B, 3, S, S) uint8 as the graph takes them."""
        images = torch.from_numpy(self.store.images(rows)).permute(0, 3, 1, 2)
        points = torch.from_numpy(self.store.landmarks_of(rows))
        return resize_faces(images, points, self.size)[0].contiguous()

    def batches(self, rows: IntArray) -> Iterator[tuple[IntArray, Tensor]]:
        """Rows, BATCH at a time, with their pixels."""
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            yield part, self.pixels(part)


def check_precision(precision: str, kind: str) -> None:
    """UsageError for an unknown precision, and for a smaller one of a format that is not ONNX."""
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    if precision != "float32" and kind != "onnx":
        raise UsageError(f"--precision {precision} is for --to onnx; {kind} files are float32.")


def known_faces(precision: str, recipe: Recipe, env: dict[str, Any], head: str, store: Path | None) -> Known | None:
    """Faces to measure on: of `store`, or of the run's own where it is still there; None for float32, and for fp16 without any.

    UsageError for int8 without faces: its ranges come from them.
    """
    if precision == "float32":
        if store is not None:
            raise UsageError("--store is for --precision fp16 or int8, which are measured on its faces.")
        return None
    place = store or recipe.data.store
    if store is None and not (place / "store.json").is_file():
        if precision == "int8":
            raise UsageError("--precision int8 takes its ranges from faces; name a prepared store by --store.")
        print("mien: accuracy and calibration are not measured; name a prepared store by --store.", file=sys.stderr)
        return None
    faces = open_store(place)
    recipe = recipe_on(faces, recipe, env)
    faces = in_framing(faces, env)
    labels = labels_of(faces, recipe.data.scheme)
    truth = voted_labels(faces, recipe.data.scheme) if recipe.data.targets == "both" and head == "votes" else labels
    parts = {name: rows[truth[rows] >= 0] for name, rows in parts_to_score(faces, recipe, labels).items()}
    split = "test" if len(parts["test"]) else "valid"
    scored, rest = parts[split], parts["train"]
    if not len(rest):  # nothing else is there: every second face is scored, the others give the ranges
        scored, rest = scored[1::2], scored[::2]
    if len(scored) < LEAST_FACES or not len(rest):
        raise DataError(f"{place} has {len(scored)} labelled faces to score; {LEAST_FACES} are the least.")
    few = rest[np.linspace(0, len(rest) - 1, min(len(rest), RANGE_FACES)).astype(int)]
    return Known(faces, recipe.model.size, few, scored, truth, split)


def reduce(file: Path, graph: Graph, precision: str, known: Known | None, faces: Tensor) -> dict[str, Any]:
    """Rewrite the float32 ONNX file of a graph in place; what changed, for its metadata.

    DataError where the smaller file gives something else than numbers, or other ones at another batch size.
    """
    before = read_onnx(file)
    scores, size = scores_of(before, known), file.stat().st_size
    speed = speed_of(before, faces)
    with quietly():
        write_half(file, graph, faces) if precision == "fp16" else write_bytes(file, known)
    after = read_onnx(file)
    check_batches(after, faces, precision)
    result = {
        "float32": {"bytes": size, **scores},
        precision: {"bytes": file.stat().st_size, **scores_of(after, known)},
        "faces": None if known is None else len(known.scored),
        "store": None if known is None else known.store.path.name,
        "split": None if known is None else known.split,
        "largest_probability_difference": float(
            (after(faces)["probabilities"] - before(faces)["probabilities"]).abs().max()
        ),
    }
    print_reduced(result, precision, {"float32": speed, precision: speed_of(after, faces)})
    return result


def write_half(file: Path, graph: Graph, faces: Tensor) -> None:
    """Weights and arithmetic of the net in half precision; pixels, probabilities and maps outside as they were."""
    with torch.no_grad():
        write_onnx(graph.halved(), faces[:2], file, {})


def write_bytes(file: Path, known: Known | None) -> None:
    """Weights and activations of convolutions and matrix products in 8 bits."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    assert known is not None
    batches = known.batches(known.ranges)

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, Any] | None:
            found = next(batches, None)
            return None if found is None else {"pixels": found[1].numpy()}

    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(file, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared, file, Reader(), nodes_to_quantize=nodes_with_weights(prepared), per_channel=True, reduce_range=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip


def nodes_with_weights(file: Path, output: str = "probabilities") -> list[str]:
    """Names of convolutions and matrix products with a constant matrix that an output comes from.

    Those that only maps come from stay float32: their products are of large matrices of few values.
    """
    import onnx

    graph = onnx.load(file).graph
    rank = {weight.name: len(weight.dims) for weight in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    wanted, seen, found = [output], set(), []
    while wanted:
        node = makers.get(wanted.pop())
        if node is None or node.name in seen:
            continue
        seen.add(node.name)
        wanted += node.input
        matrix = node.op_type in ("MatMul", "Gemm") and rank.get(node.input[1]) == 2
        if matrix or (node.op_type == "Conv" and node.input[1] in rank):
            found.append(node.name)
    return found


def scores_of(call: Call, known: Known | None) -> dict[str, float]:
    """Accuracy, calibration error (15 bins) and mean negative log-likelihood on the scored faces; nothing without some."""
    if known is None:
        return {}
    found = np.concatenate([call(pixels)["probabilities"].numpy() for _, pixels in known.batches(known.scored)])
    labels = known.labels[known.scored]
    own = np.maximum(found[np.arange(len(labels)), labels].astype(np.float64), 1e-12)
    return {
        "accuracy": float((found.argmax(1) == labels).mean()),
        "ece": float(calibration_error(found, labels)),
        "nll": float(-np.log(own).mean()),
    }


def speed_of(call: Call, faces: Tensor, repeats: int = 5) -> dict[int, float]:
    """Batch size -> milliseconds a face on this machine, the fastest of some calls."""
    found = {}
    for batch in (1, BATCH):
        taken = []
        for _ in range(repeats + 1):
            begin = time.perf_counter()
            call(faces[:batch])
            taken.append(time.perf_counter() - begin)
        found[batch] = 1000 * min(taken[1:]) / batch
    return found


def check_batches(call: Call, faces: Tensor, precision: str) -> None:
    """DataError unless every output is a number, and the first face gets the same answer alone and among others."""
    many, one = call(faces), call(faces[:1])
    for name, value in many.items():
        alone = float((value[:1] - one[name]).abs().max()) / max(float(value.abs().max()), 1e-6)
        if not (bool(value.isfinite().all()) and alone < 0.01):
            raise DataError(
                f"as {precision} the output {name} is no number, or another one at another batch size; nothing was kept. "
                "Export float32."
            )


def print_reduced(result: dict[str, Any], precision: str, speed: dict[str, dict[int, float]]) -> None:
    """The table beside float32, and a warning where accuracy is lost."""
    where = (
        f"{result['faces']} {result['split']} faces of {result['store']}" if result["faces"] else "no labelled faces"
    )
    print(f"beside float32, {where}, ms a face in onnxruntime on this machine:")
    print("             MB   accuracy     ECE     NLL   batch 1  batch 32")
    for name in ("float32", precision):
        row, ms = result[name], speed[name]
        scores = "".join(f"{row[key]:>{width}.3f}" if key in row else f"{'-':>{width}}" for key, width in
                         (("accuracy", 11), ("ece", 8), ("nll", 8)))  # fmt: skip
        print(f"  {name:<8}{row['bytes'] / 1e6:>6.2f}{scores}{ms[1]:>10.2f}{ms[BATCH]:>10.2f}")
    if result["faces"] and result["float32"]["accuracy"] - result[precision]["accuracy"] > WORSE:
        print(f"mien: {precision} loses more than {WORSE:.0%} of accuracy; float32 or fp16 keep it.", file=sys.stderr)
