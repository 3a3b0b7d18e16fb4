"""recipes/rafdb and recipes/affectnet are what `mien reproduce` trains at the scale of the paper, and their nets exist."""

import functools
import importlib.util
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from mien.config import Recipe, as_dict, load_recipe
from mien.losses.alignment import resolve_layers
from mien.models import create_model
from mien.reproduce.grids import GUIDED, TABLES, recipe_of, shared_recipe
from mien.reproduce.methods import METHODS

ROOT = Path(__file__).parent.parent
RECIPES = ROOT / "recipes"
ROWS = [(dataset, entry) for dataset in ("rafdb", "affectnet") for entry in TABLES["methods"]]


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("write_recipes", ROOT / "tools" / "write_recipes.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def paper_recipe(dataset: str) -> Recipe:
    return shared_recipe("paper", "strict", Path("stores") / dataset, dataset, 1000)


def file_of(dataset: str, entry) -> Path:
    return RECIPES / dataset / f"{entry.row}-{'guided' if entry.column == GUIDED else 'unguided'}.yaml"


def test_committed_files_are_what_the_tool_writes(tool):
    files = {path.relative_to(RECIPES).as_posix(): path.read_text(encoding="utf-8") for path in RECIPES.rglob("*.yaml")}
    ours = {name: text for name, text in files.items() if name.split("/")[0] in tool.PREPARE}
    assert ours == tool.files(), "run `python tools/write_recipes.py`"


def test_a_row_is_what_the_grid_trains():
    for dataset, entry in ROWS:
        shared = paper_recipe(dataset)
        written = yaml.safe_load(file_of(dataset, entry).read_text(encoding="utf-8"))
        settings = {name: {**content, **written.get(name, {})} for name, content in as_dict(Recipe()).items()}
        assert settings == as_dict(recipe_of(entry, shared, "paper", 0)), (dataset, entry.row)


def test_privileged_attribution_has_the_weight_of_the_report():
    """The report sums over cells, similarity `paper` is their mean: weight = cells of the guided layer."""
    for dataset in ("rafdb", "affectnet"):
        for net in ("vgg16_fc", "vgg16_gap", "resnet50_fc", "resnet50_gap"):
            recipe = load_recipe(RECIPES / dataset / f"pal_{net}-guided.yaml")
            with torch.device("meta"):
                model = create_model(replace(recipe.model, pretrained=False), 7)
            (layer,) = resolve_layers(recipe.guidance.layers, len(model.backbone.channels))
            assert recipe.guidance.weight == model.backbone.sides[layer] ** 2, (dataset, net)


def test_the_recipe_in_the_documents_is_the_shipped_one(tmp_path):
    text = (ROOT / "docs" / "flags.md").read_text(encoding="utf-8")
    (tmp_path / "docs.yaml").write_text(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1], encoding="utf-8")
    paper = ["--data.protocol", "paper", "--cue.codebook", "paper"]
    shipped = load_recipe(RECIPES / "affectnet" / "cam-guided.yaml", paper)
    written = load_recipe(tmp_path / "docs.yaml")
    assert written.guidance.layers == [5]  # of five: the last
    assert replace(written, guidance=replace(written.guidance, layers=[-1])) == shipped


def test_every_published_row_sees_pictures_as_its_code_does():
    """The guided-AU code normalises by ImageNet's mean and deviation, for APViT too."""
    for dataset, entry in ROWS:
        assert load_recipe(file_of(dataset, entry)).model.preprocessing == "imagenet"


def test_the_promise_is_the_published_number():
    for dataset, entry in ROWS:
        promise = file_of(dataset, entry).read_text(encoding="utf-8").splitlines()[0]
        numbers = [float(number) for number in re.findall(r"\d+\.\d+", promise)]
        printed = METHODS[entry.row].published[dataset]
        pairs = [printed.accuracy, printed.cam_cos, printed.att_cos]
        expected = [pair[entry.column == GUIDED] for pair in pairs if pair is not None]
        assert numbers == [pytest.approx(100 * expected[0]), *expected[1:]]
        assert "not yet measured with Mien" in promise


def test_every_net_is_built_and_costs_what_the_header_says(tool):
    """On torch's meta device: shapes and operations without the arithmetic."""
    for cost, gmacs in tool.GMACS.items():
        recipe = load_recipe(RECIPES / "rafdb" / f"{cost}-guided.yaml")
        with torch.device("meta"):
            model = create_model(replace(recipe.model, pretrained=False), 7)
            face = torch.zeros(1, 3, recipe.model.size, recipe.model.size)
        with FlopCounterMode(display=False) as counter:
            model.train()(face)
        resolve_layers(recipe.guidance.layers, len(model.backbone.channels))
        assert counter.get_total_flops() / 2e9 == pytest.approx(gmacs, rel=0.02), cost
