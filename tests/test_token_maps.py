"""Maps that transformers return: rollout against loops, TS-CAM by hand and at any batch size, clear refusals."""

import pytest
import torch
from torch import Tensor

from mien.config import ModelConfig
from mien.errors import UsageError
from mien.explain import explain
from mien.explain.tokens import TOKEN_MAPS, attention, rollout, ts_cam
from mien.models import Classifier, create_model
from mien.schema import Output

CONFIGS = {
    "ts_cam": ModelConfig(
        backbone="deit_tiny_distilled_patch16_224", head="ts_cam", size=32,
        backbone_options={"patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2},
    ),
    "apvit": ModelConfig(
        backbone="apvit", head="cls", size=48,
        backbone_options={"embed_dim": 24, "depth": 4, "num_heads": 2, "trunk_layers": 18, "trunk_width": 4},
    ),
}  # fmt: skip
TARGET = torch.tensor([2, 0, 6])


def made(name: str) -> tuple[Classifier, Tensor]:
    torch.manual_seed(0)
    model = create_model(CONFIGS[name], 7).eval()
    return model, torch.randn(3, 3, CONFIGS[name].size, CONFIGS[name].size)


def rollout_by_loops(output: Output) -> Tensor:
    """The whole product of all blocks, entry by entry, for the last face (Abnar and Zuidema 2020, section 3)."""
    count = output.token_attention[0].shape[-1]
    whole = [[float(i == j) for j in range(count)] for i in range(count)]
    for weights in output.token_attention:
        block = [[0.5 * float(weights[-1, i, j]) + 0.5 * (i == j) for j in range(count)] for i in range(count)]
        block = [[value / sum(row) for value in row] for row in block]
        columns = list(zip(*whole, strict=True))
        whole = [[sum(a * b for a, b in zip(row, column, strict=True)) for column in columns] for row in block]
    h, w = output.features[-1].shape[-2:]
    return torch.tensor(whole[0][count - h * w :]).view(1, h, w)


@pytest.mark.parametrize("name", CONFIGS)
def test_rollout_by_loops(name):
    model, images = made(name)
    with torch.no_grad():
        output = model(images)
    found = rollout(output, TARGET)
    assert torch.allclose(found[-1], rollout_by_loops(output), atol=1e-6)
    assert (found >= 0).all()
    assert (found.sum(dim=(2, 3)) <= 1).all()  # the rest is what the class token keeps


def test_rollout_of_uniform_attention():
    """Five tokens, each attends to all alike: after one block the class token takes 0.5 / 5 from each patch."""
    output = Output(torch.zeros(1, 2), (torch.zeros(1, 1, 2, 2),), None, token_attention=(torch.full((1, 5, 5), 0.2),))
    assert torch.allclose(rollout(output, TARGET[:1]), torch.full((1, 1, 2, 2), 0.1))


def test_ts_cam_by_hand():
    maps = torch.tensor([[[[1.0, -2.0]], [[3.0, 4.0]]], [[[5.0, 6.0]], [[7.0, 8.0]]]])
    looks = torch.tensor([[[[0.5, 0.1]]], [[[1.0, 2.0]]]])
    output = Output(torch.zeros(2, 2), (torch.zeros(2, 1, 1, 2),), maps, attention=looks)
    assert ts_cam(output, torch.tensor([0, 1])).tolist() == [[[[0.5, pytest.approx(-0.2)]]], [[[7.0, 16.0]]]]


@pytest.mark.parametrize("name", TOKEN_MAPS)
def test_a_batch_is_its_faces_one_by_one(name):
    """The published TS-CAM code keeps the map of one face only."""
    model, images = made("ts_cam")
    with torch.no_grad():
        whole = TOKEN_MAPS[name](model(images), TARGET)
        single = [
            TOKEN_MAPS[name](model(image[None]), label[None]) for image, label in zip(images, TARGET, strict=True)
        ]
    assert whole.shape == (3, 1, 4, 4)
    assert torch.allclose(whole, torch.cat(single), atol=1e-6)


def test_explain_takes_them_with_the_others():
    model, images = made("ts_cam")
    found = explain(model, images, TARGET, methods=("rollout", "grad_cam", "ts_cam", "attention"))
    output = model(images)
    assert list(found) == ["rollout", "grad_cam", "ts_cam", "attention"]
    for name in TOKEN_MAPS:
        assert torch.allclose(found[name], TOKEN_MAPS[name](output, TARGET), atol=1e-6)
    for layer in (1, 2, -2):  # every block is on the path to the logits
        inner = explain(model, images, TARGET, methods=("grad_cam", "layer_cam"), layer=layer)
        assert all(map_.abs().sum() > 0 for map_ in inner.values())


def test_one_line_where_they_do_not_exist():
    plain = create_model(ModelConfig(backbone="test_resnet", size=64), 7).eval()
    output = plain(torch.zeros(1, 3, 64, 64))
    for function in (attention, ts_cam, rollout):
        with pytest.raises(UsageError, match=r"needs? a transformer with a class token"):
            function(output, TARGET[:1])
    model, images = made("apvit")
    with pytest.raises(UsageError, match="no class activation maps"):
        explain(model, images, 0, ("ts_cam",))
    with pytest.raises(UsageError, match="layer"):
        explain(model, images, 0, ("grad_cam",), layer=9)
    model, images = made("ts_cam")
    with pytest.raises(UsageError, match="last layer only"):
        explain(model, images, 0, ("rollout",), layer=1)


def test_last_grid_behind_a_class_token_is_told():
    model, images = made("ts_cam")
    config = CONFIGS["ts_cam"]
    model = create_model(ModelConfig(config.backbone, backbone_options=config.backbone_options, head="cls", size=32), 7)
    with pytest.raises(UsageError, match="no gradient reaches this layer"):
        explain(model, images, 0, ("grad_cam",))
    assert explain(model, images, 0, ("grad_cam",), layer=-2)["grad_cam"].abs().sum() > 0
