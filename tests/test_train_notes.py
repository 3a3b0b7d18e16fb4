"""What training tells of its data, and the command that it names as the next one."""

import re
from pathlib import Path

import tiny
import yaml

from mien.cli import main
from mien.config import as_dict
from mien.train import train


def trained(store: Path, folder: Path, **data) -> Path:
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(as_dict(tiny.recipe(store, optim={"epochs": 1}, data=data))))
    return train(recipe, out=folder / "run")


def test_the_next_command_works(tmp_path, capsys):
    for name, splits, data in (
        ("both", ("train", "test"), {}),
        ("train", ("train",), {}),
        ("all", ("train",), {"protocol": "complete"}),
    ):
        store, home = tiny.store(tmp_path / "stores" / name, splits=splits).path, tmp_path / name
        home.mkdir()
        run = trained(store, home, **data)
        line = re.search(r"Next: (mien evaluate .*?)( \(.*)?$", capsys.readouterr().out.strip())[1]
        options = {"both": "", "train": " --split valid", "all": " --store OTHER"}[name]
        assert line == f"mien evaluate {run}{options}"
        if name != "all":
            assert main(line.split()[1:]) == 0
