"""Every shipped recipe says what it promises and with which commands; those without a licensed dataset train and evaluate."""

import functools
import inspect
import re
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch

from mien.cli import VERBS
from mien.config import as_dict, load_recipe
from mien.evaluation.evaluate import evaluate
from mien.training.loop import fit

FOLDER = Path(__file__).parent.parent / "recipes"
RECIPES = sorted(FOLDER.rglob("*.yaml"))
SMALL = [path for path in RECIPES if path.parent.name not in ("rafdb", "affectnet", "fer2013-polarity")]
"""tests/test_paper_recipes.py and tests/test_polarity_recipes.py have the others."""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tiny.store(tmp_path_factory.mktemp("recipes") / "store", each=5).path


read = functools.cache(load_recipe)


def named(path: Path) -> str:
    return path.relative_to(FOLDER).as_posix()


@pytest.mark.parametrize("path", RECIPES, ids=named)
def test_header(path):
    """A promise first, then commands that exist and name this very file and its store."""
    head = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    assert head[0].startswith("# Promise: ")
    commands = [
        part.strip() for line in head for part in line.lstrip("# ").split("&&") if part.strip().startswith("mien ")
    ]
    assert any(command.startswith(f"mien train recipes/{named(path)}") for command in commands)
    assert all(command.split()[1] in VERBS for command in commands)
    out = re.search(r"mien train \S+ --out (\S+)", "\n".join(head))
    wrote = out.group(1) if out else f"runs/{path.stem}-seed0"
    assert all(command.split()[2] == wrote for command in commands if command.startswith("mien evaluate"))
    assert any(f"--out {read(path).data.store}" in command for command in commands)


@pytest.mark.parametrize("path", SMALL, ids=named)
def test_two_steps(path, store, tmp_path):
    small = ["--data.store", str(store), "--model.size", "32", "--optim.epochs", "1", "--optim.batch", "14"]
    recipe = load_recipe(path, [*small, "--run.accelerator", "cpu", "--data.valid_fraction", "0.2"])
    torch.set_num_threads(1)
    if recipe.data.teachers:
        alone = replace(recipe, data=replace(recipe.data, teachers=[], teacher_share=0.5))
        fit(alone, tmp_path / "teacher")
        recipe = replace(recipe, data=replace(recipe.data, teachers=[tmp_path / "teacher"]))
    best = fit(recipe, tmp_path / "run")
    assert best["epoch"] == 1
    results = evaluate(tmp_path / "run")
    assert results["faces"] == 35
    assert results["guidance"]["weight"] == recipe.guidance.weight


def test_pairs_differ_in_guidance_only():
    pairs = [
        (path, path.with_name(path.name.replace("unguided", "guided"))) for path in RECIPES if "unguided" in path.name
    ]
    for unguided, guided in pairs:
        a, b = (as_dict(read(path)) for path in (unguided, guided))
        assert {key for key in a if a[key] != b[key]} == {"guidance"}, guided
    assert len(pairs) >= 32


@pytest.mark.parametrize("name", ["guided", "unguided"])
def test_synthetic_recipes_are_those_of_the_demo(name):
    from mien.demo import demo, demo_recipe

    recipe = load_recipe(FOLDER / "synthetic" / f"{name}.yaml", ["--run.accelerator", "cpu"])
    usual = {name: value.default for name, value in inspect.signature(demo).parameters.items()}
    weight = recipe.guidance.weight
    expected = demo_recipe(recipe.data.store, size=usual["size"], epochs=usual["epochs"], seed=0, weight=weight)
    assert recipe == replace(expected, data=recipe.data)
    assert weight == (usual["weight"] if name == "guided" else 0)
