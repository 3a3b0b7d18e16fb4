"""APViT: both poolings against loops, token counts, independence of the batch, and weights under published names."""

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mien.compat import ensure_torchvision
from mien.config import ModelConfig
from mien.errors import DataError, UsageError
from mien.models import create_model
from mien.models.apvit import APViT, PoolingTransformer, Unit, largest, placed, token_counts
from mien.models.apvit_weights import PUBLISHED

ensure_torchvision()

OPTIONS: dict[str, bool | int | float] = {
    "embed_dim": 24, "depth": 4, "num_heads": 2, "trunk_layers": 18, "trunk_width": 4,
}  # fmt: skip


def net(size: int = 48, **options: float) -> APViT:
    torch.manual_seed(0)
    return APViT(size, **{**OPTIONS, **options}).eval()


def pictures(count: int = 3, size: int = 48) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def transformer(patches: int = 196, depth: int = 8) -> PoolingTransformer:
    torch.manual_seed(0)
    made = PoolingTransformer(5, patches, 16, depth, 2, 3.0, 160 / 196, 0.9).eval()
    torch.nn.init.normal_(made.cls_pos_embed)
    return made


def test_token_counts():
    assert token_counts(196, 8) == [160, 160, 160, 160, 160, 144, 129, 116, 104]
    assert token_counts(64, 8)[0] == round(64 * 160 / 196)
    assert token_counts(4, 2, 0.01, 0.01) == [1, 1, 1]


def test_tokens_that_each_block_sees():
    """Read off the attention: the class token and the patches that are left have rows that sum to 1, the others to 0."""
    _, attention, blocks = transformer()(torch.randn(2, 5, 14, 14))
    assert attention.shape == (2, 1, 14, 14)
    for weights, count in zip(blocks, (160, 160, 160, 160, 160, 144, 129, 116), strict=True):
        sums = weights.sum(-1)
        assert weights.shape == (2, 197, 197)
        assert torch.allclose(sums, sums.round(), atol=1e-5)
        assert sums.round().sum(-1).tolist() == [count + 1, count + 1]
        assert torch.allclose(sums[:, 0], torch.ones(()))
    for before, after in itertools.pairwise(blocks):
        assert (after.sum(-1) <= before.sum(-1) + 1e-5).all()  # what was dropped does not come back


@torch.no_grad()
def by_loops(vit: PoolingTransformer, features: Tensor) -> Tensor:
    """The class token of one face (C, h, w), written from the paper: lists of tokens, no batch."""
    projected = vit.projs[0](features[None])[0].flatten(1).T
    order = sorted(range(len(projected)), key=lambda i: -float(projected[i].abs().sum()))
    patches = [projected[i] + vit.patch_pos_embed[0, i] for i in sorted(order[: round(len(order) * 160 / 196)])]
    tokens = [vit.cls_token[0, 0] + vit.cls_pos_embed[0, 0], *patches]
    for number, block in enumerate(vit.blocks):
        qkv = block.attn.qkv(block.norm1(torch.stack(tokens)))
        heads, side, width = block.attn.num_heads, qkv.shape[1] // 3 // block.attn.num_heads, qkv.shape[1] // 3
        mixed, importance = torch.zeros(len(tokens), width), torch.zeros(len(tokens))
        for head in range(heads):
            cut = slice(head * side, (head + 1) * side)
            query, key, value = qkv[:, :width][:, cut], qkv[:, width : 2 * width][:, cut], qkv[:, 2 * width :][:, cut]
            scores = query @ key.T / side**0.5
            importance += scores[0]
            mixed[:, cut] = scores.softmax(1) @ value
        tokens = list(torch.stack(tokens) + block.attn.proj(mixed))
        if number >= len(vit.blocks) // 2:
            ranked = sorted(range(1, len(tokens)), key=lambda i: -float(importance[i]))
            kept = sorted(ranked[: int(0.9 * (len(tokens) - 1))])
            tokens = [tokens[0], *(tokens[i] for i in kept)]
        tokens = [token + block.mlp(block.norm2(token)) for token in tokens]
    return vit.norm(tokens[0])


@pytest.mark.parametrize(("side", "depth"), [(6, 4), (14, 8)])
def test_poolings_by_loops(side, depth):
    vit = transformer(side * side, depth)
    features = torch.randn(2, 5, side, side)
    expected = torch.stack([by_loops(vit, face) for face in features])
    assert torch.allclose(vit(features)[0], expected, atol=1e-5)


def test_largest_and_placed():
    values = torch.tensor([[0.1, 5.0, -2.0, 3.0], [4.0, 1.0, 2.0, 3.0]])
    assert largest(values, 2).tolist() == [[1, 3], [0, 3]]
    whole = placed(torch.tensor([[[0.2, 0.8], [0.6, 0.4]]]), torch.tensor([[0, 2]]), 3)
    assert torch.equal(whole, torch.tensor([[[0.2, 0, 0.8], [0, 0, 0], [0.6, 0, 0.4]]]))


def test_published_shape():
    """IR-50 without its last stage has 256 channels at an eighth of the side; 65.2 million parameters in all."""
    made = APViT(112)
    assert made.vit.patch_pos_embed.shape == (1, 196, 768)
    assert [len(stage) for stage in made.extractor.body] == [3, 4, 14]
    assert made.vit.projs[0].weight.shape == (768, 256, 1, 1)
    assert round(sum(p.numel() for p in made.parameters()) / 1e6, 1) == 65.2
    assert Unit(4, 8, 2)(torch.zeros(1, 4, 9, 9)).shape == (1, 8, 5, 5)


def test_output():
    model = create_model(ModelConfig(backbone="apvit", backbone_options=OPTIONS, head="cls", size=48), 7).eval()
    images = pictures()
    output = model(images)
    assert [tuple(f.shape[1:]) for f in output.features] == [(4, 24, 24), (8, 12, 12), (16, 6, 6)]
    assert model.backbone.sides == [24, 12, 6]
    assert output.maps is None
    assert torch.equal(
        output.attention, model.backbone.net.vit.projs[0](output.features[-1]).abs().sum(1, keepdim=True)
    )
    single = [model(image[None]) for image in images]
    for name in ("logits", "attention"):
        assert torch.allclose(getattr(output, name), torch.cat([getattr(s, name) for s in single]), atol=1e-5)
    slopes = torch.autograd.grad(output.logits[:, 1].sum(), output.features, create_graph=True)
    assert all(slope.abs().sum() > 0 for slope in slopes)
    second = torch.autograd.grad(slopes[-1].square().sum(), model.backbone.net.extractor.body[0][0].res_layer[1].weight)
    assert second[0].isfinite().all()
    assert second[0].abs().sum() > 0


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (ModelConfig(backbone="apvit", head="gap"), "use model.head cls"),
        (ModelConfig(backbone="apvit", head="cls", backbone_options={"trunk_layers": 51}), "trunk_layers is 51"),
        (ModelConfig(backbone="apvit", head="cls", backbone_options={"keep_tokens": 0}), "shares"),
        (ModelConfig(backbone="apvit", head="cls", backbone_options={"width": 8}), "width"),
        (
            ModelConfig(backbone="apvit", head="cls", backbone_options=OPTIONS, size=48, pretrained=True),
            "model.weights",
        ),
        (ModelConfig(backbone="apvit", head="cls", backbone_options=OPTIONS, size=48, stem_pool=False), "stem"),
        (ModelConfig(backbone="apvitt"), "Did you mean 'apvit'"),
    ],
)
def test_bad_settings(config, words):
    with pytest.raises(UsageError, match=words):
        create_model(config, 7)


# weights, on files that are made here under the published names


def trunk_file(donor: APViT) -> dict[str, Tensor]:
    """An IR net: its units numbered through, a fourth stage and an output layer behind."""
    state, number = {}, 0
    for name, value in donor.extractor.input_layer.state_dict().items():
        state[f"input_layer.{name}"] = value
    for stage in donor.extractor.body:
        for unit in stage:
            state |= {f"body.{number}.{name}": value for name, value in unit.state_dict().items()}
            number += 1
    fourth = {f"body.{number}.res_layer.1.weight": torch.zeros(2, 2, 3, 3), "output_layer.3.weight": torch.zeros(2, 2)}
    return {name: value for name, value in {**state, **fourth}.items() if "num_batches" not in name}


def transformer_file(donor: APViT, blocks: int = 4) -> dict[str, Tensor]:
    """timm's ViT of that time: positions of class token and patches in one tensor, patch embedding and head beside."""
    state = {name: value for name, value in donor.vit.state_dict().items() if name.startswith(("cls_token", "norm."))}
    state |= {f"blocks.{name}": value for name, value in donor.vit.blocks[:blocks].state_dict().items()}
    state["pos_embed"] = torch.cat((donor.vit.cls_pos_embed, donor.vit.patch_pos_embed), 1).detach()
    return {**state, "patch_embed.proj.weight": torch.zeros(24, 3, 16, 16), "head.weight": torch.zeros(9, 24)}


def loaded(path: Path, size: int = 48) -> APViT:
    config = ModelConfig(backbone="apvit", backbone_options=OPTIONS, head="cls", size=size, weights=path)
    return create_model(config, 7).backbone.net


def same(first: APViT, second: APViT, start: str, *, but: str = "nothing") -> bool:
    own, other = first.state_dict(), second.state_dict()
    names = [name for name in own if name.startswith(start) and but not in name]
    return bool(names) and all(torch.equal(own[name], other[name]) for name in names)


def test_weights_of_each_part_and_of_all(tmp_path):
    donor = net()
    for layer in donor.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(layer.running_mean)
    torch.nn.init.normal_(donor.vit.cls_pos_embed)
    torch.manual_seed(5)
    torch.save({"module." + name: value for name, value in trunk_file(donor).items()}, tmp_path / PUBLISHED["trunk"])
    torch.save({"model": transformer_file(donor)}, tmp_path / PUBLISHED["transformer"])
    torch.save({"state_dict": {**donor.state_dict(), "head.fc.weight": torch.zeros(7, 24)}}, tmp_path / "apvit.pth")

    trunk = loaded(tmp_path / PUBLISHED["trunk"])
    assert same(trunk, donor, "extractor.")
    assert not same(trunk, donor, "vit.blocks.")
    vit = loaded(tmp_path / PUBLISHED["transformer"])
    assert same(vit, donor, "vit.", but="projs")
    assert not same(vit, donor, "extractor.body")
    both = loaded(tmp_path)
    assert same(both, donor, "extractor.")
    assert same(both, donor, "vit.", but="projs")
    assert not same(both, donor, "vit.projs")
    assert same(loaded(tmp_path / "apvit.pth"), donor, "")


def test_positions_are_resized(tmp_path):
    donor = net(size=64)
    torch.save(transformer_file(donor), tmp_path / "vit.pth")
    made = loaded(tmp_path / "vit.pth")
    grid = donor.vit.patch_pos_embed.transpose(1, 2).unflatten(2, (8, 8))
    expected = torch.nn.functional.interpolate(grid, (6, 6), mode="bilinear").flatten(2).transpose(1, 2)
    assert torch.equal(made.vit.patch_pos_embed, expected)


def test_weights_that_do_not_fit_are_one_line(tmp_path):
    donor = net()
    torch.save(transformer_file(donor, blocks=2), tmp_path / "short.pth")
    torch.save(trunk_file(net(trunk_width=8)), tmp_path / "wide.pth")
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pth")
    torch.save(torch.nn.Linear(1, 1), tmp_path / "code.pth")
    for file, words in {
        "short.pth": r"short.pth do not fit APViT: .* missing \(vit.blocks.2",
        "wide.pth": "wide.pth do not fit APViT: .* another shape .*backbone_options",
        "other.pth": "of no layout that APViT knows",
        "code.pth": "cannot read",
        "none.pth": "weights not found: .*none.pth",
        "": f"weights not found: .*{PUBLISHED['trunk']}. APViT starts from",
    }.items():
        with pytest.raises(DataError, match=words) as caught:
            loaded(tmp_path / file)
        assert "\n" not in str(caught.value)
