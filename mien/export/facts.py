"""What a user of an exported file must know: JSON under the key `mien` of its metadata."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mien.config import Recipe
from mien.cues import load_codebook
from mien.data.framing import Framing
from mien.export.graphs import OUTPUTS, UnitGraph
from mien.faces import units as measured
from mien.faces.blendshapes import BLENDSHAPES
from mien.files import file_sha256, weights_file
from mien.predict.calibration import Calibration
from mien.predict.fusion import LEAST_WIDTH
from mien.schema import SCHEMES, scheme_classes

if TYPE_CHECKING:
    from mien.audet.photos import UnitReader

FORMAT_VERSION = 1
CROPPER = "face_crop.py"
"""Written beside a graph: what Mien does around its nets, for people who have numpy only."""
POINTS = (
    "eye on the left of the picture, eye on its right, nose tip, mouth corner on the left, on the right; framing.points are theirs "
    f"in a picture of framing.size, pixels with centres at .0; {CROPPER} cuts faces so"
)
NOTICE = "Recognises expressions, not what a person feels. Prohibited in the EU at work and in education."


def about(kind: str, run: Path) -> dict[str, Any]:
    """What every file says."""
    from mien import __version__

    return {"format": FORMAT_VERSION, "kind": kind, "mien": __version__, "run": run.resolve().name,
            "checkpoint_sha256": file_sha256(weights_file(run)), "precision": "float32", "notice": NOTICE}  # fmt: skip


def picture(size: int, grey: bool) -> dict[str, Any]:
    """What the pixels are."""
    return {"name": "pixels", "type": "uint8", "shape": ["B", 3, size, size], "channels": "RGB", "size": size,
            "normalised": "inside the graph", "grey": "inside the graph" if grey else None}  # fmt: skip


def metadata(
    run: Path, recipe: Recipe, framing: Framing, calibration: Calibration, outputs: dict[str, Tensor]
) -> dict[str, Any]:
    """Of a graph of expressions."""
    classes = scheme_classes(recipe.data.scheme)
    book, parts = load_codebook(recipe.cue.codebook).expressions, SCHEMES[recipe.data.scheme]
    return {
        **about("expressions", run),
        "classes": list(classes),
        "action_units": {
            name: sorted({unit for part in parts[name] for unit in book.get(part, ())}) for name in classes
        },
        "input": picture(recipe.model.size, framing.channels == 1),
        "framing": framing._asdict(),
        "points": POINTS,
        "calibration": calibration.as_json(),
        "outputs": {name: {"shape": ["B", *value.shape[1:]], "what": OUTPUTS[name]} for name, value in outputs.items()},
    }


def unit_metadata(run: Path, graph: UnitGraph, classes: tuple[str, ...]) -> dict[str, Any]:
    """Of a graph from blendshapes to action units."""
    columns, rest = measured.unit_columns(), measured.unit_weights().rest
    outputs = {
        "intensities": {"shape": ["B", len(columns)], "what": "over `columns`, 0 to 5 where they are clipped"},
        "present": {"shape": ["B", len(columns)], "what": "1 where a proven unit reaches its cut, else 0"},
    }
    if graph.fusion is not None:
        outputs["added"] = {
            "shape": ["B", len(classes)],
            "what": f"added to the logits of the run's graph before the temperature, for faces of {LEAST_WIDTH:g} px and more",
        }
    return {
        **about("action units of blendshapes", run),
        **({} if graph.fusion is None else {"classes": list(classes), "least_width": LEAST_WIDTH}),
        "input": {
            "name": graph.input_name,
            "type": "float32",
            "shape": ["B", len(BLENDSHAPES)],
            "names": list(BLENDSHAPES),
        },
        "columns": list(columns),
        "sides": "the person's own",
        "units": {
            unit.name: {
                "columns": list(unit.columns),
                "cut": unit.cut,
                "proven": unit.proven,
                "regions": list(unit.regions),
            }
            for unit in measured.read_units()
        },
        "rest": dict(zip(columns, rest.round(3).tolist(), strict=True)),
        "neutral": "relative to a person's neutral face: subtract its intensities, and add `rest` before the cut",
        "outputs": outputs,
    }


def net_unit_metadata(run: Path, reader: UnitReader) -> dict[str, Any]:
    """Of a graph of a run of `mien audet train`."""
    net = reader.net
    what = "a fifth of the intensity" if net.regresses else "probability"
    return {
        **about("action units of a net", run),
        "units": list(net.action_units),
        "cut": reader.cut,
        "input": picture(net.size, False),
        "framing": reader.framing._asdict(),
        "points": POINTS,
        "outputs": {"strengths": {"shape": ["B", len(net.action_units)], "what": f"{what}, present from `cut` on"}},
    }
