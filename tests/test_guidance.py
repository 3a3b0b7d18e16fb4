"""Guidance of a run: degenerate settings are refused with the reason; what was trained is what is scored."""

import inspect
import itertools
import math
from functools import partial

import pytest
import torch
from small_nets import CLASSES, LABELS, SIDE, Mlp, model_of, pictures
from torch import Tensor, nn

from mien import maps
from mien.config import ModelConfig, Recipe
from mien.errors import UsageError
from mien.losses.alignment import compared_map, guidance_loss
from mien.losses.attribution import Request, attribute, route
from mien.losses.config import GuidanceConfig
from mien.models import Classifier, create_model
from mien.models.heads import HEADS as MODEL_HEADS
from mien.models.heads import GapHead
from mien.schema import Cue, HeadOutput, Layers
from mien.training.guidance import guided_forward, trained_maps
from mien.training.guides import Guide, describe, guides_of
from mien.training.refusals import refuse_degenerate

# What is refused, and what is told (5, 6)


def guide_of(model: Classifier, **settings: object) -> Guide:
    recipe = Recipe(
        guidance=GuidanceConfig(weight=1.0, **{"attribution": "grad_input", "similarity": "pearson", **settings})
    )
    (guide,) = guides_of(recipe, model)
    return guide


class Softmaxed(nn.Module):
    """A head that ends in a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Mlp()

    def forward(self, layers: Layers, labels: Tensor | None = None) -> HeadOutput:
        return HeadOutput(self.inner(layers).logits.softmax(1), None)


@pytest.mark.parametrize(
    ("head", "settings", "words"),
    [
        (Softmaxed, {"target": "sum"}, "softmax"),
        (lambda: GapHead(5, CLASSES), {"attribution": "grad"}, "same at every cell"),
        (lambda: Mlp(pooled=True), {"attribution": "grad"}, "same at every cell"),
        (Mlp, {"attribution": "grad"}, "nothing into the backbone"),
        (lambda: Mlp(act=nn.LeakyReLU()), {"attribution": "grad"}, "nothing into the backbone"),
    ],
    ids=["softmax-sum", "grad-gap", "grad-pooled-mlp", "grad-relu", "grad-leaky-relu"],
)
def test_settings_that_cannot_work_are_refused(head, settings, words):
    model = model_of(head()).float()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UsageError, match=words) as caught:
        refuse_degenerate(guide_of(model, **settings), model, SIDE)
    assert "\n" not in str(caught.value)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("head", "settings"),
    [
        (lambda: GapHead(5, CLASSES), {}),
        (lambda: GapHead(5, CLASSES), {"attribution": "grad", "layers": [1]}),
        (Mlp, {"attribution": "grad", "layers": [1]}),
        (lambda: Mlp(act=nn.GELU()), {"attribution": "grad"}),
        (Mlp, {"attribution": "integrated"}),
        (Mlp, {"detach": True, "target": "logprob"}),
        (Mlp, {"target": "sum", "channels": "random", "fraction": 1e-6}),
    ],
)
def test_settings_that_work_are_not_refused(head, settings):
    model = model_of(head()).float()
    before = torch.get_rng_state()
    refuse_degenerate(guide_of(model, **settings), model, SIDE)
    assert torch.equal(before, torch.get_rng_state())


def test_grad_trains_the_head_of_a_frozen_backbone():
    model = model_of(Mlp()).float()
    model.backbone.requires_grad_(False)
    refuse_degenerate(guide_of(model, attribution="grad"), model, SIDE)
    assert not any(weight.requires_grad for weight in model.backbone.parameters())
    assert all(weight.grad is None for weight in model.parameters())


def test_a_net_without_second_derivatives_is_told():
    """Hard sigmoid, in squeeze-and-excitation of MobileNet V3, has none in torch; a constant gradient does without."""
    model = create_model(ModelConfig(backbone="mobilenetv3_small_050", size=64), CLASSES)
    with pytest.raises(UsageError, match="no second derivative"):
        refuse_degenerate(guide_of(model, layers=[-2]), model, 64)
    refuse_degenerate(guide_of(model, layers=[-2], detach=True), model, 64)
    refuse_degenerate(guide_of(model, layers=[-1]), model, 64)


def test_integrated_and_single_cells():
    model = model_of(Mlp()).float()
    with pytest.raises(UsageError, match="last layer only"):
        guide_of(model, attribution="integrated", layers=[1])
    with pytest.raises(UsageError, match=r"guidance.layers: 3 .*1 to 2"):
        guide_of(model, layers=[3])
    model.backbone.sides = (8, 1)
    with pytest.raises(UsageError, match="single cell"):
        guide_of(model)


def test_the_way_is_described():
    model = model_of(Mlp()).float()
    lines = [
        describe(guide_of(model, **settings), model)
        for settings in ({}, {"layers": [1]}, {"detach": True}, {"attribution": "activation", "similarity": "cosine"})
    ]
    assert "closed form" in lines[0]
    assert "double backward" in lines[1]
    assert "a constant" in lines[2]
    assert "gradient" not in lines[3]
    net = create_model(ModelConfig(backbone="resnet10t", size=64, channels=[8, 8, 8, 8]), CLASSES)
    assert "batch norms" in describe(guide_of(net, layers=[3]), net)
    assert "batch norms" not in describe(guide_of(net, layers=[-1]), net)


def test_batch_norm_in_training_mixes_faces_above_an_early_layer_only():
    """What the note is about: in training mode a face's logit depends on the others' features below a batch norm."""
    torch.manual_seed(0)
    net = create_model(ModelConfig(backbone="resnet10t", size=64, channels=[8, 8, 8, 8]), CLASSES)
    for training, layer in itertools.product((True, False), (3, 4)):
        output = net.train(training)(torch.randn(4, 3, 64, 64))
        (g,) = torch.autograd.grad(output.logits[0, 0], output.features[layer])
        assert (g[1:].abs().max() > 0) == (training and layer == 3)


# What was trained is what is scored


@pytest.mark.parametrize("channels", ["mean", "first_half", "random"])
def test_look_gives_the_trained_attribution_over_constrained_and_all_channels(channels):
    model = model_of(Mlp()).float().eval()
    guide = guide_of(
        model, channels=channels, fraction=0.5 if channels == "random" else 1.0, target="sum", layers=[1, 2]
    )
    looks = trained_maps(model, [guide], pictures().float(), LABELS)[1]
    names = ["guided:grad_input"] + (["guided:grad_input-all"] if channels == "first_half" else [])
    assert [seen.name for seen in looks] == names
    config = GuidanceConfig(attribution="grad_input")
    raw = model(
        pictures().float(), LABELS, partial(attribute, [Request(config, [1])], LABELS, graph=False)
    ).attributions[0]
    want = {names[0]: raw[:, :2] if channels == "first_half" else raw, "guided:grad_input-all": raw}
    for seen in looks:
        assert not seen.maps.requires_grad
        assert torch.allclose(seen.maps, maps.peak_one(want[seen.name].mean(1, keepdim=True)), atol=1e-6)
    with torch.no_grad():
        assert torch.equal(trained_maps(model, [guide], pictures().float(), LABELS)[1][0].maps, looks[0].maps)


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({}, []),
        ({"channels": "all_joint"}, []),
        ({"channels": "second_half"}, ["guided:activation", "guided:activation-all"]),
        ({"cue": "landmarks"}, ["guided:activation"]),
    ],
    ids=str,
)
def test_an_activation_is_scored_by_itself_where_the_layers_rows_do_not_tell(settings, names):
    """Over some channels, or against another cue than cue.kind."""
    model = model_of(Mlp()).float()
    output, looks = trained_maps(
        model, [guide_of(model, attribution="activation", **settings)], pictures().float(), LABELS
    )
    assert [seen.name for seen in looks] == names
    for seen in looks:
        channels = (
            output.features[1][:, 2:] if "-all" not in seen.name and "channels" in settings else output.features[1]
        )
        assert torch.equal(seen.maps, channels.mean(1, keepdim=True))
        assert seen.cue.kind == settings.get("cue", "au")


class Told(Mlp):
    """Notes whether it was told the labels."""

    def forward(self, layers: Layers, labels: Tensor | None = None) -> HeadOutput:
        self.told = labels is not None
        return super().forward(layers)


@pytest.mark.parametrize("attribution", ["activation", "grad_input"])
def test_heads_are_told_the_labels_in_training_only(attribution):
    model = model_of(Told()).float()
    guide = guide_of(model, attribution=attribution)
    guided_forward(model, [guide], pictures().float(), LABELS)
    assert model.head.told
    trained_maps(model, [guide], pictures().float(), LABELS)
    assert not model.head.told


SMALL_HEADS = {"mlp": {"hidden1": 8, "hidden2": 6}, "acol": {"width": 8}}


@pytest.mark.parametrize("name", [name for name in MODEL_HEADS if name not in ("ts_cam", "cls")])
@pytest.mark.parametrize("attribution", ["grad_input", "integrated"])
def test_every_head_of_a_cnn_can_be_trained_by_attribution(name, attribution):
    known = inspect.signature(MODEL_HEADS[name]).parameters
    options = {key: value for key, value in SMALL_HEADS.get(name, {}).items() if key in known}
    config = ModelConfig(
        backbone="resnet10t", size=48, channels=[8, 8, 8, 8], output_stride=8, head=name, head_options=options
    )
    torch.manual_seed(0)
    model = create_model(config, CLASSES)
    guide = guide_of(model, attribution=attribution)
    refuse_degenerate(guide, model, 48)
    images = torch.randn(4, 3, 48, 48)
    output = guided_forward(model, [guide], images, LABELS)
    found = output.attributions[0]
    cue = Cue(torch.rand(4, 1, *found.shape[-2:]), torch.ones(4, dtype=torch.bool))
    guidance_loss([found], [cue], guide.config).backward()
    assert model.backbone.net.conv1[0].weight.grad.abs().max() > 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("options", [{}, {"flatten": True}, {"hidden2": 0}], ids=str)
def test_closed_form_of_the_mlp_head_equals_double_backward(options):
    torch.manual_seed(0)
    head = MODEL_HEADS["mlp"](5, CLASSES, **{"hidden1": 8, "hidden2": 6, **options}).double()
    features = torch.rand(4, 5, 7, 7, dtype=torch.float64, requires_grad=True)
    found = []
    for chain in (head.chain, lambda features: None):
        head.chain = chain
        request = Request(GuidanceConfig(attribution="grad_input"), [0])
        assert route(request, head, Layers((features,))) == ("double backward" if found else "closed form")
        logits = head(Layers((features,))).logits
        (a,) = attribute([request], LABELS, head, Layers((features,)), logits, graph=True)
        weights = [p for p in head.parameters() if p.dim() > 1]
        found.append((a, *torch.autograd.grad((a * torch.arange(7.0)).sum(), (features, *weights))))
    assert all(torch.allclose(x, y, atol=1e-12) for x, y in zip(*found, strict=True))


def test_both_attributions_together():
    """AU alignment of the activation and PAL beside it: one forward pass, both terms."""
    model = model_of(Mlp()).float()
    recipe = Recipe(
        guidance=GuidanceConfig(weight=1.0),
        second=GuidanceConfig(weight=1.0, attribution="grad_input", similarity="pearson", cue="landmarks"),
    )
    guides = guides_of(recipe, model)
    assert [(g.section, g.cue.kind, g.by_gradient) for g in guides] == [
        ("guidance", "au", False), ("second", "landmarks", True),
    ]  # fmt: skip
    output = guided_forward(model, guides, pictures().float(), LABELS)
    assert len(output.attributions) == 1


def test_scale_to_cue_and_softmax_of_a_small_attribution():
    """Attributions are brought to size 1 first, so that a softmax sees them."""
    model = model_of(GapHead(5, CLASSES))
    nn.init.normal_(model.head.weight, std=1e-7)
    config = GuidanceConfig(attribution="grad_input", normalise="softmax", scale="to_cue")
    output = model(pictures(), LABELS, partial(attribute, [Request(config, [1])], LABELS, graph=True))
    seen = compared_map(output.attributions[0], config, (16, 16))
    assert seen.shape == (4, 1, 16, 16)
    assert torch.allclose(seen.sum((1, 2, 3)), torch.ones(4).double())
    assert (seen.flatten(1).amax(1) / seen.flatten(1).amin(1) > 1.3).all()
    assert math.isfinite(guidance_loss(output.attributions, [Cue(seen.detach(), torch.ones(4) > 0)], config).item())
