"""recipes/fer2013-polarity: one recipe for each published model and each control, which differ in guide and placing alone."""

import re
from pathlib import Path

import pytest
import tiny
import torch

from mien.config import as_dict, load_recipe
from mien.evaluation.evaluate import evaluate
from mien.training.loop import fit

ROOT = Path(__file__).parent.parent
RECIPES = {path.stem: path for path in sorted((ROOT / "recipes" / "fer2013-polarity").glob("*.yaml"))}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tiny.store(tmp_path_factory.mktemp("recipes") / "store", each=4).path


def test_they_differ_in_guide_and_placing_alone():
    trees = {name: as_dict(load_recipe(path)) for name, path in RECIPES.items()}
    first = trees["stn_binary"]
    for name, tree in trees.items():
        assert {section for section in tree if tree[section] != first[section]} <= {"cue", "transformer"}, name
        assert {key for key in tree["transformer"] if tree["transformer"][key] != first["transformer"][key]} <= {"kind"}
    told = [str((tree["cue"], tree["transformer"])) for tree in trees.values()]
    assert len(set(told)) == len(told)


def test_settings_are_the_published_ones():
    recipe = load_recipe(RECIPES["stn_binary"])
    assert (recipe.optim.name, recipe.optim.lr, recipe.optim.weight_decay) == ("adamw", 1e-3, 0)
    assert (recipe.optim.batch, recipe.optim.epochs, recipe.optim.patience) == (128, 500, 30)
    assert (recipe.optim.schedule, recipe.optim.gamma, recipe.data.balance) == ("step", 1, "weights")
    assert (recipe.model.size, recipe.model.drop, recipe.transformer.padding) == (48, 0.5, "zeros")


@pytest.mark.parametrize("name", RECIPES)
def test_promise_and_docs_say_the_same(name):
    promise = RECIPES[name].read_text(encoding="utf-8").splitlines()[0]
    row = re.findall(rf"^\| `{name}` \|.*$", (ROOT / "docs" / "stn.md").read_text(encoding="utf-8"), re.M)[-1]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    ours = re.search(r"(\d\d\.\d\d) % \(\+- (\d\.\d\d)\) on fold(?:s 0 to (\d)| 0) after 12 epochs", promise)
    assert cells[5] == f"{ours[1]} +- {ours[2]}, {f'{int(ours[3]) + 1} folds' if ours[3] else 'fold 0'}"
    published = re.search(r"(\d\d\.\d\d) % \(\+- (\d\.\d\d)\) on (FER-2013|AffectNet),", promise)
    assert (published is None) == name.startswith("control")
    if published:
        assert cells[2 if published[3] == "FER-2013" else 4] == f"{published[1]} +- {published[2]}"


@pytest.mark.parametrize("name", RECIPES)
def test_an_epoch(name, store, tmp_path):
    small = ["--data.store", str(store), "--model.size", "32", "--optim.epochs", "1", "--optim.batch", "8"]
    torch.set_num_threads(1)
    fit(
        load_recipe(RECIPES[name], [*small, "--run.accelerator", "cpu", "--data.valid_fraction", "0.2"]),
        tmp_path / "run",
    )
    if name == "weighted":
        assert evaluate(tmp_path / "run", methods="grad_cam")["faces"] == 24
