"""Backbones and heads: every kind of timm net gives feature maps on the graph and maps that average to the logits."""

from pathlib import Path

import pytest
import torch

from mien.config import ModelConfig
from mien.errors import DataError, UsageError
from mien.models import create_model

TINY = ["test_resnet", "test_convnext", "test_efficientnet", "test_vit"]


@pytest.mark.parametrize("name", TINY)
def test_output_contract(name: str) -> None:
    torch.manual_seed(0)
    model = create_model(ModelConfig(backbone=name, size=96), 7).eval()
    images = torch.randn(2, 3, 96, 96)
    output = model(images)
    assert output.logits.shape == (2, 7)
    assert output.maps is not None
    assert [f.shape[1] for f in output.features] == model.backbone.channels
    assert [f.shape[-1] for f in output.features] == model.backbone.sides
    mean = output.maps.mean(dim=(2, 3)) + model.head.bias
    assert torch.allclose(mean, output.logits, atol=1e-5)
    gradient = torch.autograd.grad(output.logits[:, 3].sum(), output.features[-1], retain_graph=True)[0]
    expected = model.head.weight[3].view(1, -1, 1, 1) / gradient[0, 0].numel()
    assert torch.allclose(gradient, expected.expand_as(gradient), atol=1e-6)
    for feature in output.features:  # guidance of any layer reaches the weights
        reached = torch.autograd.grad(
            feature.sum(), list(model.backbone.parameters()), retain_graph=True, allow_unused=True
        )
        assert any(g is not None and g.abs().sum() > 0 for g in reached)
    singles = torch.cat([model(image[None]).logits for image in images])
    assert torch.allclose(singles, output.logits, atol=1e-4)


def test_logits_equal_timm_forward() -> None:
    model = create_model(ModelConfig(backbone="test_resnet", size=64), 7).eval()
    images = torch.randn(2, 3, 64, 64)
    assert torch.allclose(model(images).features[-1], model.backbone.net.forward_features(images), atol=1e-6)


def test_stride_stem_and_widths() -> None:
    config = ModelConfig(backbone="resnet10t", size=48, stem_pool=False, output_stride=16, channels=[8, 8, 16, 16])
    model = create_model(config, 7)
    assert model.backbone.sides == [24, 24, 12, 6, 6]
    assert model.backbone.channels[1:] == [8, 8, 16, 16]


def test_small_resnet_layers_parameters_and_one_grey_channel() -> None:
    torch.manual_seed(0)
    config = ModelConfig(backbone="small_resnet", size=48, preprocessing="grey")
    model = create_model(config, 7, two_heads=True).eval()
    assert (model.backbone.channels, model.backbone.sides) == ([32, 32, 96, 192], [24, 24, 12, 6])
    kernels = 25 * 32 + 2 * 9 * 32 * 32 + 9 * (32 * 96 + 96 * 96) + 32 * 96 + 9 * (96 * 192 + 192 * 192) + 96 * 192
    norms = 2 * (32 + 2 * 32 + 3 * 96 + 3 * 192)
    assert sum(p.numel() for p in model.parameters()) == kernels + norms + 2 * 7 * (192 + 1)
    one = torch.randn(2, 1, 48, 48)
    output = model(one.expand(-1, 3, -1, -1))
    assert output.logits.shape == output.label_logits.shape == (2, 7)
    assert torch.equal(output.logits, model(torch.cat([one, torch.randn(2, 2, 48, 48)], 1)).logits)
    assert model(torch.zeros(1, 3, 32, 32)).maps.shape == (1, 7, 4, 4)  # any size
    wide = create_model(ModelConfig(backbone="small_resnet", size=48, channels=[8, 8, 8, 8, 8]), 7)
    assert wide.backbone.sides == [24, 24, 12, 6, 6, 6]
    with pytest.raises(UsageError, match="two or more widths"):
        create_model(ModelConfig(backbone="small_resnet", size=48, channels=[8]), 7)
    for branches in (0, 1.5, True):
        with pytest.raises(UsageError, match="branches is a whole number"):
            create_model(ModelConfig(backbone="small_resnet", size=48, backbone_options={"branches": branches}), 7)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (ModelConfig(backbone="resnet81"), "Did you mean"),
        (ModelConfig(backbone="test_vit", stem_pool=False, size=64), "stem"),
        (ModelConfig(backbone="test_vit", output_stride=8, size=64), "output_stride"),
        (ModelConfig(backbone="test_resnet", head="gapp"), "'gap'"),
    ],
)
def test_bad_model_settings(config: ModelConfig, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        create_model(config, 7)


def test_backbone_weights_by_name(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    donor = create_model(ModelConfig(backbone="test_resnet", size=64), 7)
    state = {name: tensor.contiguous() for name, tensor in donor.backbone.net.state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    torch.save({"state_dict": donor.backbone.net.state_dict()}, tmp_path / "w.pth")
    for file in ("w.safetensors", "w.pth"):
        model = create_model(ModelConfig(backbone="test_resnet", size=64, weights=tmp_path / file), 7)
        for own, given in zip(model.backbone.net.parameters(), donor.backbone.net.parameters(), strict=True):
            assert torch.equal(own, given)
    (tmp_path / "bad.safetensors").write_bytes(b"no weights")
    with pytest.raises(DataError, match="cannot read"):
        create_model(ModelConfig(backbone="test_resnet", size=64, weights=tmp_path / "bad.safetensors"), 7)
    with pytest.raises(DataError, match="do not fit"):
        create_model(ModelConfig(backbone="test_efficientnet", size=64, weights=tmp_path / "w.pth"), 7)
    with pytest.raises(DataError, match="not found"):
        create_model(ModelConfig(backbone="test_resnet", size=64, weights=tmp_path / "none.pth"), 7)
