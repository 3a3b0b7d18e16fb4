"""Weights of others as a run folder, so that `mien evaluate` scores them like a run: `mien evaluate RECIPE --weights FILE`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from mien.config import load_recipe
from mien.data.observed import open_faces
from mien.errors import UsageError
from mien.files import file_sha256, read_json, write_json
from mien.models import create_model
from mien.models.weights import load_initial
from mien.schema import scheme_classes
from mien.training import checkpoint


def run_of_weights(recipe: Path, weights: Path, out: Path | None) -> Path:
    """A run folder of the recipe whose net has these weights, whole with its head; nothing in the file is run.

    The net is the recipe's: its backbone, head, transformer and classes must be those of the weights. The split is the
    recipe's too: which faces the weights were trained on is not known, and a line says so.

    Args:
        recipe: .yaml of the net and of the store to score.
        weights: .pt, .pth or .safetensors, names as Mien's or as published (`models.weights.load_initial`).
        out: the folder; by default runs/STEM of the weights.

    Raises:
        UsageError: a folder with other weights. DataError: weights that do not fit.

    """
    if recipe.suffix not in (".yaml", ".yml"):
        raise UsageError(f"--weights goes with a recipe, not '{recipe}': mien evaluate RECIPE.yaml --weights FILE.")
    wanted, place = load_recipe(recipe), out or Path("runs") / weights.stem
    model_config = replace(wanted.model, pretrained=False, weights=None, initial=None)
    classes = scheme_classes(wanted.data.scheme)
    model = create_model(
        model_config, len(classes), wanted.guidance.layers, wanted.transformer, wanted.data.targets == "both"
    )
    load_initial(model, weights, "keep")
    store = open_faces(wanted.data.store, wanted.data.action_units)
    own = {"file": weights.name, "sha256": file_sha256(weights)}
    file = place / "environment.json"
    if file.is_file() and read_json(file, "choose another --out").get("weights") != own:
        raise UsageError(f"'{place}' holds another run: choose another --out.")
    checkpoint.open_run(place, wanted)
    facts = checkpoint.environment(wanted, store.fingerprint, "none", {"dataset": store.info.dataset, "weights": own})
    write_json(file, facts)
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    checkpoint.save_tensors(place / "best.ckpt", tensors, {"epoch": 0, "score": None})
    print(
        f"mien: {weights.name} is scored as {place}, on the split of the recipe; whether its training knew these faces is not known.",
        file=sys.stderr,
    )
    return place
