"""Every CNN method of the guided-AU tables trains on every kind of CNN, guided and not; ADL, self-attention, dropout."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import narrow_nets
import pytest
import tiny
import torch

from mien.config import ModelConfig
from mien.errors import UsageError
from mien.losses.attribution import Request, attribute
from mien.losses.config import GuidanceConfig
from mien.models import HEADS, Backbone, create_model
from mien.models.attend import attention_dropout
from mien.training.checkpoint import load_model, load_tensors
from mien.training.loop import fit, train_epoch
from mien.training.session import prepare_session

assert narrow_nets  # its nets are timm names now
CNN_HEADS = [name for name in HEADS if name not in ("ts_cam", "cls")]
NETS = {
    "resnet": {},
    "vgg": {"backbone": "narrow_vgg", "output_stride": None},
    "inception": {"backbone": "narrow_inception", "output_stride": None},
    "convnext": {"backbone": "test_convnext", "output_stride": 8},
}
BIG = {name: {"backbone": name, "size": size} for name, size in (
    ("resnet18", 64), ("resnet34", 64), ("resnet50", 64), ("resnet101", 64), ("vgg16", 48), ("inception_v3", 112),
    ("efficientnet_b0", 64), ("densenet121", 64), ("regnetx_002", 64), ("convnext_atto", 64),
)}  # fmt: skip
OPTIONS = {"acol": {"width": 8}, "mlp": {"hidden1": 16, "hidden2": 8}}
RESNET = ModelConfig(backbone="resnet10t", size=32, stem_pool=False, output_stride=8, channels=[8, 8, 8, 8])


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.store(tmp_path_factory.mktemp("data") / "store", each=3).path


def recipe_of(faces: Path, head: str, net: dict):
    full = {} if "channels" in net or not net else {"stem_pool": True, "channels": None}
    sections = {"model": {**full, **net, "head": head, "head_options": OPTIONS.get(head, {})}}
    return tiny.recipe(faces, **sections, guidance={"weight": 2.0, "start_epoch": 2}, optim={"weight_decay": 0.0})


def two_steps_each(recipe, out: Path) -> None:
    """An epoch without and an epoch with guidance, two steps each: finite terms, and every convolution has moved."""
    session, _ = prepare_session(recipe, out)
    convolutions = [p for p in session.model.backbone.parameters() if p.dim() == 4]
    for epoch in (1, 2):
        before = [p.detach().clone() for p in convolutions]
        totals = train_epoch(recipe, session, epoch, session.split.train)
        assert all(torch.isfinite(torch.tensor(value)) for value in totals.values())
        assert ("guidance" in totals) == (epoch == 2)
        moved = [not torch.equal(old, new) for old, new in zip(before, convolutions, strict=True)]
        assert all(moved), f"{moved.count(False)} of {len(moved)} convolutions got no gradient"


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("head", CNN_HEADS)
def test_two_steps_guided_and_unguided(head: str, net: str, faces: Path, tmp_path: Path) -> None:
    two_steps_each(recipe_of(faces, head, NETS[net]), tmp_path / "run")


@pytest.mark.parametrize("head", CNN_HEADS)
def test_every_head_can_be_guided_by_its_gradients(head: str, faces: Path, tmp_path: Path) -> None:
    recipe = recipe_of(faces, head, {"spatial_drop": 0.2, "adl": 0.4, "stem_pool": False, "channels": [8, 8, 8, 8]})
    recipe = replace(recipe, guidance=replace(recipe.guidance, attribution="grad_input"))
    two_steps_each(recipe, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("net", BIG)
@pytest.mark.parametrize("head", CNN_HEADS)
def test_two_steps_on_real_backbones(head: str, net: str, faces: Path, tmp_path: Path) -> None:
    recipe = recipe_of(faces, head, {**BIG[net], "output_stride": None})
    two_steps_each(replace(recipe, optim=replace(recipe.optim, lr=1e-2)), tmp_path / "run")


def test_vgg_ends_at_its_last_relu_without_the_classifier() -> None:
    model = create_model(ModelConfig(backbone="narrow_vgg", size=64), 7)
    assert model.backbone.sides == [64, 32, 16, 8, 4]
    assert not [name for name, _ in model.backbone.named_parameters() if "features" not in name]
    images = torch.randn(2, 3, 64, 64)
    output = model(images)
    x = images
    for layer in model.backbone.net.features:  # without ReLU in place: what was kept is what went on
        x = torch.relu(x) if isinstance(layer, torch.nn.ReLU) else layer(x)
    assert isinstance(layer, torch.nn.ReLU)
    assert torch.allclose(output.features[-1], x)
    gradients = torch.autograd.grad(output.logits[:, 0].sum(), output.features)
    assert all(g.abs().sum() > 0 for g in gradients)


def adl_twin(features: torch.Tensor, drop: bool) -> torch.Tensor:
    out = torch.zeros_like(features)
    count, channels, h, w = features.shape
    for b in range(count):
        attention = [[sum(float(features[b, c, y, x]) for c in range(channels)) / channels for x in range(w)]
                     for y in range(h)]  # fmt: skip
        highest = max(max(row) for row in attention)
        for y in range(h):
            for x in range(w):
                if drop:
                    factor = 1.0 if attention[y][x] < 0.1 * highest else 0.0
                else:
                    factor = 1 / (1 + float(torch.tensor(-attention[y][x]).exp()))
                out[b, :, y, x] = features[b, :, y, x] * factor
    return out


@pytest.mark.parametrize("drop", [True, False], ids=["drop", "stress"])
def test_adl_twin(drop: bool) -> None:
    features = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(attention_dropout(features, torch.tensor(drop)), adl_twin(features, drop), atol=1e-5)


def test_adl_draws_in_training_only_and_by_its_rate() -> None:
    images = torch.randn(2, 3, 32, 32)
    torch.manual_seed(0)
    plain = create_model(RESNET, 7)
    for rate in (0.4, 1.0):
        torch.manual_seed(0)
        model = create_model(replace(RESNET, adl=rate), 7)
        assert torch.equal(model.eval()(images).logits, plain.eval()(images).logits)
        model.train()
        kept = []
        for _ in range(40):
            features = model.backbone(images).features[-1]
            kept.append(float((features.abs().sum(1) > 0).float().mean()))
        dropped = sum(share < 0.9 for share in kept) / len(kept)
        assert dropped == 1.0 if rate == 1.0 else 0 < dropped < 1


PLACES = [
    (RESNET, ["layer3.0", "layer4.0"]),
    (ModelConfig(backbone="test_resnet", size=64), ["layer3.0", "layer4.0"]),
    (ModelConfig(backbone="seresnet18", size=32, channels=[8, 8, 8, 8]), ["layer3.0", "layer4.0", "layer4.1"]),
    (ModelConfig(backbone="narrow_vgg", size=64), ["features.14", "features.19"]),
    (ModelConfig(backbone="narrow_inception", size=64), ["mixed_a", "mixed_b"]),
    (ModelConfig(backbone="test_convnext", size=64), ["stages.2", "stages.3"]),
]


@pytest.mark.parametrize(("config", "places"), PLACES, ids=lambda v: v.backbone if isinstance(v, ModelConfig) else "")
def test_adl_goes_where_the_paper_puts_it(config: ModelConfig, places: list[str]) -> None:
    net = create_model(replace(config, adl=0.5), 7).backbone.net
    assert [name for name, module in net.named_modules(remove_duplicate=False) if name.endswith("attend")] == [
        f"{place}.attend" for place in sorted(places)
    ]


def test_adl_keeps_pretrained_weights_in_their_blocks(tmp_path: Path) -> None:
    """The published code shifts the blocks and leaves the last ones random."""
    donor = create_model(replace(RESNET, backbone="resnet18"), 7)
    torch.save(donor.backbone.net.state_dict(), tmp_path / "w.pth")
    torch.manual_seed(1)
    config = replace(RESNET, backbone="resnet18", adl=0.4, weights=tmp_path / "w.pth")
    model = create_model(config, 7)
    images = torch.randn(2, 3, 32, 32)
    outputs = [m.eval()(images) for m in (donor, model)]
    assert all(torch.equal(a, b) for a, b in zip(*(o.features for o in outputs), strict=True))
    cam = torch.einsum("kc,bchw->bkhw", model.head.weight, outputs[1].features[-1])  # of the real last layer
    assert torch.allclose(outputs[1].maps, cam, atol=1e-5)


@pytest.mark.parametrize("net", ["narrow_vgg", "narrow_inception", "test_convnext", "test_efficientnet", "test_resnet"])
def test_self_attention_squares_the_attention_and_is_passed_on(net: str) -> None:
    config, images = ModelConfig(backbone=net, size=64), torch.randn(2, 3, 64, 64)
    models = {}
    for name, (on, layers) in {"off": (False, [2]), "inner": (True, [2]), "last": (True, [-1])}.items():
        torch.manual_seed(0)
        models[name] = create_model(replace(config, self_attention=on), 7, layers).eval()
    outputs = {name: model(images) for name, model in models.items()}
    plain, inner, last = outputs["off"].features, outputs["inner"].features, outputs["last"].features
    assert torch.equal(inner[0], plain[0])
    assert torch.allclose(inner[1], plain[1] * plain[1].mean(1, keepdim=True), atol=1e-6)
    assert torch.allclose(inner[1].mean(1), plain[1].mean(1) ** 2, atol=1e-6)
    assert not torch.equal(inner[2], plain[2])
    assert all(torch.equal(a, b) for a, b in zip(last[:-1], plain[:-1], strict=True))
    assert torch.allclose(last[-1].mean(1), plain[-1].mean(1) ** 2, atol=1e-6)
    assert not torch.equal(outputs["last"].logits, outputs["off"].logits)


def test_spatial_dropout_hides_whole_channels_from_the_head_only() -> None:
    torch.manual_seed(0)
    model = create_model(replace(RESNET, spatial_drop=0.5), 7).train()
    output = model(torch.randn(2, 3, 32, 32))
    gradient = torch.autograd.grad(output.logits.sum(), output.features[-1])[0]
    hidden = (gradient == 0).flatten(2).all(2)
    assert torch.equal(hidden, (gradient == 0).flatten(2).any(2))
    assert 0 < hidden.float().mean() < 1
    assert (output.features[-1].flatten(2).amax(2)[hidden] > 0).any()


def test_attributions_are_those_of_the_features_that_the_head_saw() -> None:
    """The closed form of a linear head knows nothing of the dropout before it; F g is the same on both sides of it."""
    torch.manual_seed(0)
    model = create_model(replace(RESNET, spatial_drop=0.5), 7).train()
    request = Request(GuidanceConfig(weight=1.0, attribution="grad_input", signed=True), [4])
    labels = torch.tensor([1, 3])
    output = model(torch.randn(2, 3, 32, 32), labels, partial(attribute, [request], labels, graph=True))
    features = output.features[-1]
    (gradient,) = torch.autograd.grad(output.logits[range(2), labels].sum(), features)
    assert torch.allclose(output.attributions[0], gradient * features, atol=1e-7)


def test_a_run_with_every_switch_is_rebuilt_from_its_folder(faces: Path, tmp_path: Path) -> None:
    switches = {"adl": 0.4, "self_attention": True, "spatial_drop": 0.2, "head": "wildcat", "preprocessing": "half"}
    recipe = tiny.recipe(faces, model=switches, guidance={"weight": 1.0, "layers": [2, -1]}, optim={"epochs": 1})
    fit(recipe, tmp_path / "run")
    model, back, _ = load_model(tmp_path / "run")
    assert back == recipe
    saved = load_tensors(tmp_path / "run" / "best.ckpt")[0]
    assert {f"model/{name}" for name in model.state_dict()} == set(saved)
    assert model.backbone.attend_last


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (ModelConfig(backbone="narrow_vgg", size=64, output_stride=8), "does not take model.output_stride 8"),
        (ModelConfig(backbone="inception_v3", size=128, output_stride=8), "does not take model.output_stride 8"),
        (ModelConfig(backbone="inception_v3", size=48), "model.size 48"),
        (ModelConfig(backbone="test_vit", size=64, adl=0.4), "model.adl needs a CNN"),
        (ModelConfig(backbone="test_mambaout", size=64, adl=0.4), "model.adl needs a CNN"),
        (ModelConfig(backbone="test_vit", size=64, self_attention=True), "model.self_attention needs a CNN"),
        (ModelConfig(backbone="test_vit", size=64, head="cls", spatial_drop=0.1), "model.spatial_drop"),
    ],
    ids=lambda v: v.backbone if isinstance(v, ModelConfig) else "",
)
def test_what_a_model_cannot_do_is_one_line(config: ModelConfig, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        create_model(config, 7)
    assert "\n" not in str(caught.value)


ROWS = [
    [cell.strip() for cell in line.split("|")[1:-1]]
    for line in (Path(__file__).parent.parent / "docs" / "models.md").read_text(encoding="utf-8").splitlines()
    if re.match(r"\| `\w+`.* x \d+x\d+ \|", line)
]


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_the_table_of_backbones(row: list[str]) -> None:
    for name in re.findall(r"`(\w+)`", row[0]):
        backbone = Backbone(ModelConfig(backbone=name, size=224, adl=0.4))
        channels, side = re.match(r"(\d+) x (\d+)x", row[2]).groups()
        assert (len(backbone.channels), backbone.channels[-1], backbone.sides[-1]) == (
            int(row[1]),
            int(channels),
            int(side),
        )
        if row[3] == "-":
            with pytest.raises(UsageError, match="output_stride"):
                Backbone(ModelConfig(backbone=name, output_stride=8))
        else:
            sides = Backbone(ModelConfig(backbone=name, size=224, output_stride=8)).sides
            assert row[3] == f"{sides[-1]}x{sides[-1]}"
        assert Backbone(ModelConfig(backbone=name, size=int(row[4]))).sides[-1] == 2
        behind = {name.removesuffix(".attend") for name, _ in backbone.net.named_modules(remove_duplicate=False)}
        assert all(place in behind for place in re.findall(r"`(\S+)`", row[5]))
