"""Vision transformers: timm's numbers, every block on the path to the logits, attention as a return value, their heads."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from mien import maps
from mien.compat import ensure_torchvision
from mien.config import ModelConfig
from mien.data.labels import labels_of
from mien.data.loader import Loader
from mien.data.store import open_store
from mien.errors import DataError, UsageError
from mien.models import Classifier, create_model
from mien.models.tokens import attend, token_layers
from mien.training import checkpoint
from mien.training.cues import cues_for
from mien.training.loop import fit
from mien.training.optim import make_optimizer

ensure_torchvision()
import timm  # noqa: E402

SMALL: dict[str, bool | int | float] = {"embed_dim": 24, "depth": 3, "num_heads": 2}
VITS = {
    "deit_tiny_patch16_224": 1,
    "deit_tiny_distilled_patch16_224": 2,
    "deit3_small_patch16_224": 1,
    "vit_base_patch16_clip_224": 1,
    "vit_small_patch16_dinov3_qkvb": None,
    "vit_base_patch16_reg4_gap_256": 4,
    "vit_base_patch16_18x2_224": 1,
    "test_vit": 1,
}
"""Kinds of ViT -> tokens in front of the patches; None: another class of timm, which takes the general way."""


def small(head: str = "ts_cam", backbone: str = "deit_tiny_patch16_224", size: int = 32) -> Classifier:
    torch.manual_seed(0)
    options = {**SMALL, "patch_size": 8}
    return create_model(ModelConfig(backbone=backbone, backbone_options=options, head=head, size=size), 7).eval()


def pictures(count: int = 3, size: int = 32) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("name", "prefix"), VITS.items())
def test_numbers_are_those_of_timm(name, prefix):
    torch.manual_seed(0)
    options = {} if name == "test_vit" else SMALL
    backbone = create_model(ModelConfig(backbone=name, backbone_options=options, size=64), 7).eval().backbone
    pool = {} if "distilled" in name else {"global_pool": ""}
    theirs = timm.create_model(name, num_classes=0, img_size=64, **pool, **options).eval()
    theirs.load_state_dict(backbone.net.state_dict())
    images = pictures(2, 64)
    layers, expected = backbone(images), theirs.forward_features(images)
    grid = layers.features[-1]
    assert backbone.is_token_net == (prefix is not None)
    assert torch.allclose(grid.flatten(2).transpose(1, 2), expected[:, -16:], atol=1e-5)
    inner = theirs.forward_intermediates(images)[1]
    assert len(inner) == len(layers.features)
    for own, their in zip(layers.features[:-1], inner[:-1], strict=True):
        assert torch.allclose(own, their, atol=1e-5)
    if layers.class_token is not None:
        assert torch.allclose(layers.class_token, expected[:, 0], atol=1e-5)
    for weights in layers.token_attention:
        assert weights.shape == (2, prefix + 16, prefix + 16)
        assert torch.allclose(weights.sum(-1), torch.ones(()))


def test_attention_by_loops():
    """One head after the other, one pair of tokens after the other."""
    block = small().backbone.net.blocks[0].attn
    tokens = torch.randn(2, 5, 24)
    with torch.no_grad():
        change, scores, weights = attend(block, tokens)
    b, qkv, side = 1, block.qkv(tokens[1]).detach(), 12
    rows, mean = torch.zeros(5, 24), torch.zeros(5, 5)
    for head in range(2):
        cuts = [slice(part * 24 + head * side, part * 24 + (head + 1) * side) for part in range(3)]
        query, key, value = (qkv[:, cut] for cut in cuts)
        for i in range(5):
            row = torch.tensor([float(query[i] @ key[j]) / side**0.5 for j in range(5)])
            assert torch.allclose(scores[b, head, i], row, atol=1e-5)
            share = row.exp() / row.exp().sum()
            mean[i] += share / 2
            rows[i, head * side : (head + 1) * side] = sum(share[j] * value[j] for j in range(5))
    assert torch.allclose(weights[b], mean, atol=1e-6)
    assert torch.allclose(change[b], block.proj(rows), atol=1e-5)
    assert torch.allclose(change, block(tokens), atol=1e-6)


def test_attention_map_sums_the_class_tokens_rows():
    output = small()(pictures())
    row = sum(weights[:, 0, 1:] for weights in output.token_attention)
    assert torch.equal(output.attention.flatten(1), row)
    assert output.attention.shape == (3, 1, 4, 4)


@pytest.mark.parametrize("head", ["gap", "ts_cam", "cls"])
def test_every_layer_is_on_the_path(head):
    """First and second derivatives of a logit at every layer; only the class token passes by the last grid."""
    model = small(head)
    output = model(pictures())
    used = output.features[:-1] if head == "cls" else output.features
    slopes = torch.autograd.grad(output.logits[:, 2].sum(), used, create_graph=True)
    for slope in slopes:
        assert slope.abs().sum() > 0
    total = sum(slope.square().sum() for slope in slopes)
    second = torch.autograd.grad(total, list(model.backbone.net.blocks.parameters()), allow_unused=True)
    assert any(g is not None and g.abs().sum() > 0 for g in second)
    assert all(g is None or g.isfinite().all() for g in second)


def test_a_change_of_a_grid_changes_the_logits():
    """The gradient at an inner layer is right: compared with a difference quotient through the rest of the net."""
    model = small().double()
    net, images = model.backbone.net, pictures().double()
    output = model(images)
    slope = torch.autograd.grad(output.logits[:, 2].sum(), output.features[0])[0]
    nudge = torch.randn_like(output.features[0])

    class Nudged(torch.nn.Module):
        def __init__(self, block: torch.nn.Module, step: float) -> None:
            super().__init__()
            self.block, self.step = block, step

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            tokens = self.block(tokens)
            return torch.cat((tokens[:, :1], tokens[:, 1:] + self.step * nudge.flatten(2).transpose(1, 2)), 1)

    first, scores = net.blocks[0], []
    for step in (1e-5, -1e-5):
        net.blocks[0] = Nudged(first, step)
        scores.append(model.head(token_layers(net, images)._replace(attention=None)).logits[:, 2].sum())
    assert ((scores[0] - scores[1]) / 2e-5).item() == pytest.approx((slope * nudge).sum().item(), rel=1e-5)


@pytest.mark.parametrize("head", ["gap", "ts_cam", "cls"])
def test_a_batch_is_its_pictures_one_by_one(head):
    model, images = small(head), pictures()
    whole, single = model(images), [model(image[None]) for image in images]
    for name in ("logits", "attention"):
        assert torch.allclose(getattr(whole, name), torch.cat([getattr(s, name) for s in single]), atol=1e-5)
    if whole.maps is not None:
        assert torch.allclose(whole.maps, torch.cat([s.maps for s in single]), atol=1e-5)


def test_ts_cam_head_averages_its_maps():
    output = small()(pictures())
    assert output.maps.shape == (3, 7, 4, 4)
    assert torch.allclose(output.maps.mean(dim=(2, 3)), output.logits, atol=1e-6)


def test_cls_head_reads_the_class_token():
    model = small("cls")
    layers = model.backbone(pictures())
    assert torch.equal(model(pictures()).logits, model.head.classifier(layers.class_token))
    assert model(pictures()).maps is None


def test_positions_of_another_size_are_resized(tmp_path: Path):
    donor = small(size=64)
    torch.save({"model": donor.backbone.net.state_dict()}, tmp_path / "w.pth")
    config = ModelConfig(
        backbone="deit_tiny_patch16_224",
        backbone_options={**SMALL, "patch_size": 8},
        size=32,
        weights=tmp_path / "w.pth",
    )
    own = create_model(config, 7).backbone.net
    donor.backbone.net.set_input_size((32, 32))
    for name, value in own.state_dict().items():
        assert torch.equal(value, donor.backbone.net.state_dict()[name]), name
    with pytest.raises(DataError, match="do not fit"):
        create_model(ModelConfig(backbone="deit_tiny_patch16_224", size=32, weights=tmp_path / "w.pth"), 7)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (ModelConfig(backbone="test_resnet", size=64, head="ts_cam"), "head 'ts_cam' needs a transformer"),
        (ModelConfig(backbone="test_resnet", size=64, head="cls"), "'test_resnet' has none"),
        (ModelConfig(backbone="test_vit2", size=64, head="ts_cam"), "'test_vit2' has none"),
        (
            ModelConfig(backbone="test_vit", size=72),
            "model.size 72 is not a multiple of the 16 px patches.*use 64 or 80",
        ),
        (ModelConfig(backbone="test_vit", size=64, backbone_options={"patches": 8}), "patches"),
        (ModelConfig(backbone="test_vit", size=64, backbone_options={"patch_drop_rate": 0.5}), "patch_drop_rate"),
        (ModelConfig(backbone="test_vit", size=64, backbone_options={"embed_dim": 30, "num_heads": 4}), "divisible"),
    ],
)
def test_bad_settings_are_one_line(config, words):
    with pytest.raises(UsageError, match=words) as caught:
        create_model(config, 7)
    assert "\n" not in str(caught.value)


def test_guidance_of_a_fresh_last_layer_has_a_sane_gradient():
    """With all gains of the final norm at 1 its channel mean is zero up to rounding, and the gradient millions."""

    def steepness(model: Classifier) -> float:
        attention = maps.channel_mean(model(pictures(4)).features[-1])
        cue = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(2))
        loss = (1 - maps.cosine(attention, cue)).mean()
        slopes = torch.autograd.grad(loss, list(model.backbone.parameters()), allow_unused=True)
        return max(float(slope.norm()) for slope in slopes if slope is not None)

    model = small()
    assert steepness(model) < 100
    torch.nn.init.ones_(model.backbone.net.norm.weight)
    assert steepness(model) > 1e4


def test_no_weight_decay_on_tokens_and_positions():
    model = small()
    free = {id(p) for p in make_optimizer(model, tiny.recipe(Path("none")).optim).param_groups[1]["params"]}
    named = dict(model.named_parameters())
    assert {id(named["backbone.net.cls_token"]), id(named["backbone.net.pos_embed"])} <= free
    assert id(named["backbone.net.patch_embed.proj.weight"]) not in free


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.store(tmp_path_factory.mktemp("data") / "store", each=3).path


NETS = {
    "ts_cam": {"backbone": "deit_tiny_patch16_224", "backbone_options": {**SMALL, "patch_size": 8}, "head": "ts_cam"},
    "cls": {"backbone": "deit_tiny_patch16_224", "backbone_options": {**SMALL, "patch_size": 8}, "head": "cls"},
    "apvit": {
        "backbone": "apvit",
        "backbone_options": {"embed_dim": 24, "depth": 4, "num_heads": 2, "trunk_layers": 18, "trunk_width": 4},
        "head": "cls",
    },
}


@pytest.mark.parametrize("name", NETS)
def test_training(name, faces, tmp_path):
    """Two epochs, unguided and guided at a shallow and the last layer: guidance turns the attention to the cue."""
    changes = {"output_stride": None, "stem_pool": True, "channels": None, **NETS[name]}
    cosines = []
    for weight in (0.0, 4.0):
        guidance = {"weight": weight, "layers": [1, -1]}
        recipe = tiny.recipe(faces, model=changes, optim={"name": "adamw", "lr": 0.003}, guidance=guidance)
        fit(recipe, tmp_path / str(weight))
        log = [json.loads(line) for line in (tmp_path / str(weight) / "log.jsonl").read_text().splitlines()]
        assert ("train_guidance" in log[0]) == (weight > 0)
        cosines.append(guided_cosine(tmp_path / str(weight)))
    assert cosines[1] > cosines[0] + 0.05


def guided_cosine(run) -> float:
    """What guidance pulls: mean cosine of the last layer's attention with the cue at the layer's size, on the test faces.

    Features of a transformer are negative in places. ATT-COS shifts such attention, and two epochs do not move it yet.
    """
    model, recipe, _ = checkpoint.load_model(run)
    store = open_store(recipe.data.store)
    rows = np.flatnonzero(store.split == "test")
    loader = Loader(store, rows, labels_of(store, "basic-7"), size=tiny.SIZE, batch=64, device=torch.device("cpu"))
    batch = next(iter(loader))
    with torch.no_grad():
        attention = maps.channel_mean(model(batch.images).features[-1])
    cue = cues_for(recipe, batch, [attention.shape[-2:]], [None], 0, 0)[0]
    return float(maps.cosine(attention, cue.maps)[cue.valid].mean())


def test_attribution_loss_reaches_an_inner_block(faces, tmp_path):
    """The privileged attribution loss needs second derivatives through the blocks above its layer."""
    changes = {"output_stride": None, "stem_pool": True, "channels": None, **NETS["cls"]}
    guidance = {"weight": 1.0, "layers": [2], "attribution": "grad_input", "similarity": "pearson"}
    recipe = tiny.recipe(faces, model=changes, optim={"name": "adamw", "lr": 0.003, "epochs": 1}, guidance=guidance)
    fit(recipe, tmp_path / "run")
    line = json.loads((tmp_path / "run" / "log.jsonl").read_text())
    assert 0 < line["train_guidance"] < 2
