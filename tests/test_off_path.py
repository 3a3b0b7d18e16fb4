"""Guidance by a gradient that does not exist is refused by key, layer and remedy; surplus weights are told."""

import json

import pytest
import tiny
import torch

from mien.config import ModelConfig
from mien.errors import UsageError
from mien.models import create_model
from mien.training.loop import fit
from mien.training.refusals import layers_on_the_path
from mien.training.session import prepare_session

VIT = {
    "backbone": "vit_tiny_patch16_224", "size": 32, "channels": None, "output_stride": None, "stem_pool": True,
    "backbone_options": {"patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2},
}  # fmt: skip
COPIES = {
    "swin_tiny_patch4_window7_224": {"embed_dim": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)},
    "mambaout_femto": {"dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1)},
    "eva02_tiny_patch14_224": {"embed_dim": 24, "depth": 3, "num_heads": 2},
}
SIZES = {"eva02_tiny_patch14_224": 56}


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return tiny.store(tmp_path_factory.mktemp("data") / "store").path


def refused(recipe, out, *words):
    with pytest.raises(UsageError) as caught:
        fit(recipe, out)
    text = str(caught.value)
    assert "\n" not in text
    assert all(word in text for word in words), text
    assert not out.exists()


@pytest.mark.parametrize("attribution", ["grad", "grad_input", "grad_cam", "layer_cam"])
@pytest.mark.parametrize("section", ["guidance", "second"])
def test_class_token_at_the_last_layer(faces, tmp_path, section, attribution):
    guidance = {section: {"weight": 1.0, "attribution": attribution, "layers": [-1]}}
    recipe = tiny.recipe(faces, model={**VIT, "head": "cls"}, **guidance)
    refused(
        recipe, tmp_path / "run", f"{section}.layers", "layer 3 of 3", "class token", "take", f"{section}.layers [2]"
    )


def test_the_remedy_works(faces, tmp_path):
    guidance = {"guidance": {"weight": 1.0, "attribution": "grad_input", "layers": [2]}}
    fit(tiny.recipe(faces, model={**VIT, "head": "cls"}, optim={"epochs": 1}, **guidance), tmp_path / "run")
    (line,) = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert json.loads(line)["train_guidance"] > 0


@pytest.mark.parametrize("name", COPIES)
def test_nets_that_hand_on_copies(faces, tmp_path, name):
    size = SIZES.get(name, 64)
    model = {**VIT, "backbone": name, "size": size, "backbone_options": {}, "head": "gap"}
    recipe = tiny.recipe(faces, model=model, guidance={"weight": 1.0, "attribution": "grad_input", "layers": [-2]})
    try:
        net = create_model(recipe.model, 7)
    except UsageError as error:
        pytest.skip(str(error))
    count = len(net.backbone.channels)
    assert count - 2 not in layers_on_the_path(net, size)
    assert count - 1 in layers_on_the_path(net, size)
    refused(
        recipe, tmp_path / "run", "guidance.layers", f"layer {count - 1} of {count}", name, "copy", f"guidance.layers [{count}]"
    )  # fmt: skip


def test_activation_at_such_a_layer_trains(faces, tmp_path):
    session, _ = prepare_session(
        tiny.recipe(faces, model={**VIT, "head": "cls"}, guidance={"weight": 1.0}), tmp_path / "run"
    )
    assert session.guides


def test_every_layer_of_a_cnn_is_on_the_path(faces):
    model = create_model(tiny.recipe(faces).model, 7)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert layers_on_the_path(model, tiny.SIZE) == list(range(len(model.backbone.channels)))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_surplus_tensors_are_told(tmp_path, capsys):
    config = ModelConfig("resnet10t", size=32, channels=[8, 8, 8, 8])
    net = create_model(config, 7)
    state = {f"backbone.net.{key}": value for key, value in net.backbone.net.state_dict().items()}
    torch.save(state, tmp_path / "whole.pth")
    create_model(ModelConfig("resnet10t", size=32, channels=[8, 8, 8, 8], weights=tmp_path / "whole.pth"), 7)
    assert "no place" not in capsys.readouterr().err
    more = {"fc.weight": torch.zeros(7, 8), "layer9.conv.weight": torch.zeros(1)}
    torch.save({**state, **{f"backbone.net.{key}": value for key, value in more.items()}}, tmp_path / "more.pth")
    create_model(ModelConfig("resnet10t", size=32, channels=[8, 8, 8, 8], weights=tmp_path / "more.pth"), 7)
    told = capsys.readouterr().err
    assert "2 tensors have no place in the net and were left out (fc.weight, layer9.conv.weight)" in told
    torch.save(net.state_dict(), tmp_path / "run.pth")
    create_model(ModelConfig("resnet10t", size=32, channels=[8, 8, 8, 8], weights=tmp_path / "run.pth"), 7)
    assert "(head." in capsys.readouterr().err
    torch.save({**net.state_dict(), "extra.weight": torch.zeros(1)}, tmp_path / "initial.pth")
    create_model(ModelConfig("resnet10t", size=32, channels=[8, 8, 8, 8], initial=tmp_path / "initial.pth"), 7)
    assert "1 tensors have no place in the net and were left out (extra.weight)" in capsys.readouterr().err


def test_a_single_validation_face_is_told(tmp_path, capsys):
    made = tiny.records(splits=("train", "test"))
    one = [record._replace(split="valid") for record in tiny.records(each=1, seed=5, splits=("valid",))[:1]]
    from mien.data.store import write_store

    path = write_store([*made, *one], tmp_path / "store", dataset="toy", size=tiny.SIZE).path
    fit(tiny.recipe(path, optim={"epochs": 1}), tmp_path / "run")
    assert "1 validation face chooses the epoch, and one face is 100 % of what chooses" in capsys.readouterr().err
    fit(tiny.recipe(path, optim={"epochs": 1, "select": "last"}), tmp_path / "last")
    assert "chooses the epoch" not in capsys.readouterr().err
