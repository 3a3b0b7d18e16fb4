"""What training tells of its data, and the command that it names as the next one."""

import re
from pathlib import Path

import tiny
import yaml

from mien.cli import main
from mien.config import as_dict
from mien.data.store import write_store
from mien.training.loop import train


def trained(store: Path, folder: Path, **data) -> Path:
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(as_dict(tiny.recipe(store, optim={"epochs": 1}, data=data))))
    return train(recipe, out=folder / "run")


def test_classes_without_training_faces_are_named(tmp_path, capsys):
    two = [
        record for record in tiny.records() if record.split == "test" or record.expression in ("Neutral", "Happiness")
    ]
    trained(write_store(two, tmp_path / "two", dataset="toy", size=tiny.SIZE).path, tmp_path)
    told = capsys.readouterr()
    missing = ", ".join(name for name in tiny.NAMES if name not in ("Neutral", "Happiness"))
    lines = [line for line in told.err.splitlines() if "no training face" in line]
    assert len(lines) == 1
    named = re.search(r"labelled (.*): the net", lines[0])[1]
    assert sorted(named.split(", ")) == sorted(missing.split(", "))
    assert "left out as pictures" not in told.out


def test_faces_that_were_left_out_are_counted(tmp_path, capsys):
    faces = tiny.records()
    twins = [face._replace(id=f"twin-{face.id}", split="train", subject=None) for face in faces if face.split == "test"]
    trained(write_store([*faces, *twins[:5]], tmp_path / "store", dataset="toy", size=tiny.SIZE).path, tmp_path)
    told = capsys.readouterr()
    assert "test or validation part: 5 training faces (5 identical), 0 validation faces. " in told.out
    assert "no training face" not in told.err


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
