"""Weights of others, scored by a recipe: the same numbers as the net that they belong to, nothing run, nothing overwritten."""

import numpy as np
import pytest
import tiny
import torch
import yaml
from test_transformer import Harmful, Published

from mien.cli import main
from mien.data.store import open_store
from mien.training import checkpoint

CLASSES = 3


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A store of 48 px, a recipe of the guided net on it, and published weights."""
    folder = tmp_path_factory.mktemp("published")
    tiny.store(folder / "faces", each=2, size=48)
    sections = {
        "data": {"store": str(folder / "faces"), "scheme": "polarity-3", "valid_fraction": 0.3},
        "cue": {"kind": "landmark_mask", "jaw": "published"},
        "model": {"backbone": "simple_cnn", "head": "flat", "size": 48, "drop": 0.5, "preprocessing": "grey"},
        "transformer": {"kind": "guide"}, "run": {"accelerator": "cpu"},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(sections))
    torch.manual_seed(4)
    weights = Published().eval()
    torch.nn.init.normal_(weights.fc_loc[2].weight, std=0.02)
    torch.save(weights.state_dict(), folder / "others.pt")
    return folder


def test_published_weights_are_scored(place, capsys):
    words = ["evaluate", str(place / "recipe.yaml"), "--weights", str(place / "others.pt"), "--out", str(place / "run")]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "is not known" in said.err
    model, recipe, env = checkpoint.load_model(place / "run")
    state = torch.load(place / "others.pt", weights_only=True)
    assert torch.equal(model.state_dict()["backbone.net.conv1.weight"], state["conv1.weight"])
    assert env["weights"]["file"] == "others.pt"
    assert (recipe.transformer.kind, recipe.cue.jaw) == ("guide", "published")
    with np.load(place / "run" / "maps" / "faces.npz") as faces:
        assert faces["probabilities"].shape == (int((open_store(place / "faces").split == "test").sum()) - 2, CLASSES)
    assert main(words) == 0  # the same again


def test_other_files_are_refused(place, tmp_path, capsys):
    recipe = str(place / "recipe.yaml")
    torch.save({"conv1.weight": Harmful()}, tmp_path / "bad.pt")
    assert main(["evaluate", recipe, "--weights", str(tmp_path / "bad.pt"), "--out", str(tmp_path / "a")]) == 1
    said = capsys.readouterr()
    assert "cannot read weights" in said.err
    assert "code ran" not in said.out
    assert not (tmp_path / "a").exists()
    state = torch.load(place / "others.pt", weights_only=True)
    torch.save({name: value for name, value in state.items() if "fc2" not in name}, tmp_path / "part.pt")
    assert main(["evaluate", recipe, "--weights", str(tmp_path / "part.pt"), "--out", str(tmp_path / "b")]) == 1
    assert "tensors missing" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path), "--weights", str(place / "others.pt")]) == 2
    assert main(["evaluate", recipe, "--out", str(tmp_path / "c")]) == 2
