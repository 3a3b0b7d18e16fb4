"""Attributions that can be trained: every path gives the same gradients, and settings that cannot work are refused."""

from functools import partial

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from small_nets import CLASSES, HEADS, LABELS, Mlp, model_of, pictures
from torch import Tensor, nn

from mien import maps
from mien.config import ModelConfig
from mien.errors import UsageError
from mien.losses.alignment import guidance_loss
from mien.losses.attribution import ATTRIBUTIONS, Request, attribute, backward_gradients, route, target_slope
from mien.losses.config import GuidanceConfig
from mien.models import Classifier, create_model
from mien.models.heads import GapHead
from mien.schema import Cue, Layers

TARGETS = ("label", "sum", "margin", "predicted", "logprob")


def cue_like(map_: Tensor, seed: int = 2) -> Cue:
    h, w = map_.shape[-2:]
    drawn = torch.rand(4, 1, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return Cue(drawn, torch.tensor([True, True, False, True]))


def pal(model: Classifier, layer: int = 1, images: Tensor | None = None, **settings: object) -> Tensor:
    """The guidance term alone, with pearson, at one layer."""
    config = GuidanceConfig(weight=1.0, **{"similarity": "pearson", "attribution": "grad_input", **settings})
    images = pictures() if images is None else images
    output = model(images, LABELS, partial(attribute, [Request(config, [layer])], LABELS, graph=True))
    return guidance_loss(output.attributions, [cue_like(output.attributions[0])], config)


def parameter_gradients(loss: Tensor, model: nn.Module) -> list[Tensor]:
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, model.parameters(), strict=True)]


# What the loss is (1, 2)


def test_pearson_of_a_map_with_itself_is_one_and_it_is_symmetric():
    a, b = torch.rand(2, 3, 1, 5, 6, dtype=torch.float64)
    assert torch.allclose(maps.pearson(a, a), torch.ones(3).double())
    assert torch.allclose(maps.pearson(a, b), maps.pearson(b, a))
    assert torch.allclose(maps.pearson(3 * a + 2, a), torch.ones(3).double())
    assert torch.allclose(maps.pearson(-3 * a + 2, a), -torch.ones(3).double())


def test_paper_form_is_n_times_std_of_the_heatmap_times_pearson():
    """PAL = - sum ((m - mean) / std) h, statistics over the population, is -N std(h) pearson."""
    m, h = torch.rand(2, 3, 1, 7, 7, dtype=torch.float64)
    standard = (m - m.mean((1, 2, 3), keepdim=True)) / m.std((1, 2, 3), keepdim=True, correction=0)
    published = -(standard * h).sum((1, 2, 3))
    assert torch.allclose(published, -49 * h.std((1, 2, 3), correction=0) * maps.pearson(m, h), atol=1e-12)
    assert torch.allclose(maps.paper(m, h), -published / 49, atol=1e-12)


def test_sum_and_mean_of_channels_are_the_same_loss():
    a, h = torch.rand(3, 6, 7, 7, dtype=torch.float64), torch.rand(3, 1, 7, 7, dtype=torch.float64)
    for similarity in (maps.pearson, maps.paper, maps.cosine):
        assert torch.allclose(similarity(a.sum(1, keepdim=True), h), similarity(a.mean(1, keepdim=True), h), atol=1e-12)


def test_all_channels_jointly_is_the_mean_times_a_penalty_of_diversity():
    a, h = torch.rand(3, 6, 7, 7, dtype=torch.float64), torch.rand(3, 1, 7, 7, dtype=torch.float64)
    mean = a.mean(1, keepdim=True)
    penalty = mean.std((1, 2, 3), correction=0) / a.std((1, 2, 3), correction=0)
    assert torch.allclose(maps.pearson(a, h.expand_as(a)), maps.pearson(mean, h) * penalty, atol=1e-12)
    assert (penalty < 1).all()


def test_the_form_with_sums_for_mean_and_variance_is_flat():
    """Why it is not offered: mu = sum and sigma^2 = sum say nearly the same of a perfect and an inverted map."""

    def with_sums(m: Tensor, h: Tensor) -> Tensor:
        off = m - m.sum((1, 2, 3), keepdim=True)
        return -(off / off.square().sum((1, 2, 3), keepdim=True).sqrt() * h).sum((1, 2, 3))

    h = torch.rand(5, 1, 7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    best, worst = with_sums(h, h), with_sums(1 - h, h)
    assert (best > 0).all()
    assert ((worst - best).abs() < 0.05 * best).all()
    assert (maps.pearson(h, h) - maps.pearson(1 - h, h)).min() > 1.9


# One gradient by several ways (3, 4, 7)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("attribution", ["grad", "grad_input", "grad_cam", "layer_cam"])
def test_closed_form_equals_double_backward(head, target, attribution):
    model = model_of(HEADS[head]())
    request = Request(GuidanceConfig(attribution=attribution, target=target, similarity="pearson"), [1])
    features = Layers(model.backbone(pictures()).features)
    assert route(request, model.head, features) == "closed form"
    closed = pal(model, attribution=attribution, target=target)
    model.head.chain = lambda features: None
    assert route(request, model.head, features) == "double backward"
    double = pal(model, attribution=attribution, target=target)
    assert closed.item() == pytest.approx(double.item(), abs=1e-12)
    if attribution == "grad" and head != "mlp":
        return  # flat maps, nothing to differentiate: refused before training
    for a, b in zip(parameter_gradients(closed, model), parameter_gradients(double, model), strict=True):
        assert torch.allclose(a, b, atol=1e-11)


@pytest.mark.parametrize("signed", [True, False])
def test_grad_input_is_the_cam_and_adds_up_to_the_logit(signed):
    """GAP + linear: the channel mean of signed Grad*Input of z_y is CAM_y / (N C), and its sum is z_y - bias."""
    model = model_of(GapHead(5, CLASSES))
    request = Request(GuidanceConfig(attribution="grad_input", signed=signed), [1])
    output = model(pictures(), LABELS, partial(attribute, [request], LABELS, graph=False))
    found = output.attributions[0]
    own = output.maps[torch.arange(4), LABELS]
    terms = own / (own.shape[-1] * own.shape[-2])
    if signed:
        assert torch.allclose(found.mean(1), terms / 5, atol=1e-15)
        score = output.logits.gather(1, LABELS[:, None])[:, 0]
        assert torch.allclose(found.sum((1, 2, 3)), score - model.head.bias[LABELS], atol=1e-14)
    else:
        assert (found.mean(1) >= terms.abs() / 5 - 1e-15).all()


def test_integrated_gradients():
    """Of a head without hidden layers it is Grad*Input; of any head it adds up to S(F) - S(0), up to the steps."""
    model = model_of(GapHead(5, CLASSES))
    ask = [Request(GuidanceConfig(attribution=name, signed=True), [1]) for name in ("integrated", "grad_input")]
    integrated, product = model(pictures(), LABELS, partial(attribute, ask, LABELS, graph=False)).attributions
    assert torch.allclose(integrated, product, atol=1e-14)
    model = model_of(Mlp(act=nn.Tanh()))
    output = model(pictures(), LABELS, partial(attribute, ask[:1], LABELS, graph=False))
    zero = model.head(Layers((torch.zeros_like(output.features[-1]),))).logits
    gain = (output.logits - zero).gather(1, LABELS[:, None])[:, 0]
    assert torch.allclose(output.attributions[0].sum((1, 2, 3)), gain, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("target", TARGETS)
def test_slope_is_the_derivative_of_the_score(target):
    logits = torch.randn(4, CLASSES, dtype=torch.float64, requires_grad=True)
    chosen = logits.argmax(1) if target == "predicted" else LABELS
    own = logits.gather(1, chosen[:, None])[:, 0]
    score = {
        "sum": logits.sum(1), "margin": own - logits.mean(1), "logprob": own - logits.logsumexp(1),
    }.get(target, own)  # fmt: skip
    (want,) = torch.autograd.grad(score.sum(), logits)
    assert torch.allclose(target_slope(logits, chosen, target), want, atol=1e-12)


def by_differences(model: Classifier, loss: partial, places: list[tuple[str, int]]) -> list[float]:
    """Central differences of a loss with respect to single weights."""
    found = []
    parameters = dict(model.named_parameters())
    for name, place in places:
        flat = parameters[name].data.view(-1)
        values = []
        for step in (1e-6, -1e-6):
            flat[place] += step
            values.append(loss().item())
            flat[place] -= step
        found.append((values[0] - values[1]) / 2e-6)
    return found


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("attribution", ["grad_input", "layer_cam", "grad_cam", "integrated"])
def test_gradients_of_backbone_and_head_equal_finite_differences(attribution, layer):
    if attribution == "integrated" and layer == 0:
        pytest.skip("exists at the last layer only")
    model = model_of(Mlp())
    loss = partial(pal, model, layer, attribution=attribution, target="margin")
    gradients = dict(zip(dict(model.named_parameters()), parameter_gradients(loss(), model), strict=True))
    names = ["backbone.first.weight", "backbone.second.weight", "head.hidden.weight", "head.last.weight"]
    assert all(gradients[name].abs().max() > 1e-6 for name in names)
    places = [(name, place) for name in names for place in (0, 7, 20)]
    want = by_differences(model, loss, places)
    assert [gradients[n].reshape(-1)[k].item() for n, k in places] == pytest.approx(want, abs=1e-7)


def test_a_detached_gradient_does_not():
    """The ablation keeps the pull through the features and loses the one through the gradient."""
    model = model_of(Mlp())
    whole, cut = pal(model), pal(model, detach=True)
    assert whole.item() == pytest.approx(cut.item(), abs=1e-12)
    full, part = (parameter_gradients(loss, model) for loss in (whole, cut))
    names = list(dict(model.named_parameters()))
    assert all(part[names.index(f"head.{name}")].abs().max() == 0 for name in ("hidden.weight", "last.weight"))
    assert part[0].abs().max() > 1e-6
    strongest = full[names.index("head.last.weight")].abs().argmax().item()
    places = [("head.last.weight", strongest), ("backbone.first.weight", 7)]
    want = by_differences(model, partial(pal, model), places)
    assert [full[names.index(n)].reshape(-1)[k].item() for n, k in places] == pytest.approx(want, abs=1e-7)
    assert abs(want[0]) > 1e-3


@pytest.mark.parametrize("layer", [0, 1])
def test_double_backward_equals_the_two_step_rule(layer):
    """Without a second graph: with v = dL/dg and w = dL/dF as constants, dL = d(directional derivative of S along v) + w dF."""
    model = model_of(Mlp(act=nn.Tanh()), smooth=True)
    double = parameter_gradients(pal(model, layer), model)

    def above(features: Tensor) -> Tensor:
        last = features if layer == 1 else model.backbone.act(model.backbone.second(features))
        return model.head(Layers((last,))).logits.gather(1, LABELS[:, None]).sum()

    f = model.backbone(pictures()).features[layer]
    leaf = f.detach().requires_grad_()
    (g,) = torch.autograd.grad(above(leaf), leaf)
    g.requires_grad_()
    config = GuidanceConfig(attribution="grad_input", similarity="pearson")
    loss = guidance_loss([(g * leaf).abs()], [cue_like(leaf)], config)
    v, w = torch.autograd.grad(loss, (g, leaf))
    with forward_ad.dual_level():
        along = forward_ad.unpack_dual(above(forward_ad.make_dual(f, v))).tangent
        two_step = parameter_gradients(along + (w * f).sum(), model)
    for a, b in zip(double, two_step, strict=True):
        assert torch.allclose(a, b, atol=1e-12)


def test_predicted_class_is_a_constant_and_labels_matter():
    model = model_of(Mlp())
    best = model(pictures()).logits.argmax(1)
    assert pal(model, target="predicted").item() != pytest.approx(pal(model).item())
    ask = [Request(GuidanceConfig(attribution="grad_input", target=t), [1]) for t in ("predicted", "label")]
    predicted = model(pictures(), LABELS, partial(attribute, ask[:1], LABELS, graph=False)).attributions[0]
    label = model(pictures(), LABELS, partial(attribute, ask[1:], best, graph=False)).attributions[0]
    assert torch.equal(predicted, label)


def test_several_requests_come_in_order():
    model = model_of(Mlp())
    ask = [
        Request(GuidanceConfig(attribution="grad_input"), [0, 1]),
        Request(GuidanceConfig(attribution="grad", target="sum"), [1]),
    ]
    found = model(pictures(), LABELS, partial(attribute, ask, LABELS, graph=True)).attributions
    assert [tuple(a.shape[1:]) for a in found] == [(4, 8, 8), (5, 4, 4), (5, 4, 4)]
    for a, (request, layer) in zip(found, [(ask[0], 0), (ask[0], 1), (ask[1], 1)], strict=True):
        alone = model(pictures(), LABELS, partial(attribute, [Request(request.config, [layer])], LABELS, graph=True))
        assert torch.allclose(a, alone.attributions[0])


# Traps (8, 10, 11, 13)


def test_in_place_relu_does_not_change_what_is_attributed():
    """The layer is what comes out of the ReLU, also where the ReLU works in place."""
    plain, inplace = model_of(Mlp()), model_of(Mlp(), inplace=True)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), inplace.parameters(), strict=True))
    assert (inplace(pictures()).features[0] >= 0).all()
    for layer in (0, 1):
        one, two = pal(plain, layer), pal(inplace, layer)
        assert one.item() == two.item()
        pairs = zip(parameter_gradients(one, plain), parameter_gradients(two, inplace), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("backbone", ["resnet10t", "vit_tiny_patch16_224"])
def test_layers_of_timm_nets_are_what_the_next_layer_reads(backbone):
    """No later layer changes a feature map in place, and a gradient to it is the change of the logits along it."""
    config = ModelConfig(backbone=backbone, size=64, channels=[8, 8, 8, 8] if backbone == "resnet10t" else None)
    torch.manual_seed(0)
    model = create_model(config, CLASSES).eval()
    images = torch.randn(2, 3, 64, 64)
    output = model(images)
    layers = [k for k, f in enumerate(output.features) if f.shape[-1] > 1 and k >= len(output.features) - 3]
    if backbone.startswith("vit"):
        layers = [len(output.features) - 1]
    versions = [f._version for f in output.features]
    gradients = backward_gradients(
        output.logits, [output.features[k] for k in layers], torch.ones_like(output.logits), graph=True
    )
    assert [f._version for f in output.features] == versions
    assert all(g.isfinite().all() and g.abs().max() > 0 for g in gradients)
    sums = [(g * output.features[k]).abs().sum() for g, k in zip(gradients, layers, strict=True)]
    torch.stack(sums).sum().backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in model.backbone.parameters())


def test_a_layer_off_the_path_and_a_forward_pass_without_labels_are_told():
    model = model_of(Mlp())
    output = model(pictures())
    with pytest.raises(UsageError, match="no gradient from the logits"):
        backward_gradients(output.logits, [output.features[0].clone()], torch.ones_like(output.logits), graph=True)
    with torch.no_grad():
        output = model(pictures())
    with pytest.raises(UsageError, match="no gradient from the logits"):
        backward_gradients(output.logits, [output.features[0]], torch.ones_like(output.logits), graph=True)


@pytest.mark.parametrize("head", HEADS)
def test_frozen_backbone(head):
    """Its head still trains, by either way, at the layer under the head."""
    model = model_of(HEADS[head]())
    whole = parameter_gradients(pal(model), model)[len(list(model.backbone.parameters())) :]
    model.backbone.requires_grad_(False)
    for chain in (model.head.chain, lambda features: None):
        model.head.chain = chain
        weights = list(model.head.parameters())
        found = torch.autograd.grad(pal(model), weights, allow_unused=True)
        for g, want in zip(found, whole, strict=True):
            assert torch.allclose(torch.zeros_like(want) if g is None else g, want, atol=1e-12)
    pal(model, 0, images=pictures().requires_grad_())
    with pytest.raises(UsageError, match="frozen"):
        pal(model, 0)


@pytest.mark.parametrize("attribution", ATTRIBUTIONS)
@pytest.mark.parametrize("similarity", ["cosine", "pearson", "paper", "l2", "kl"])
def test_dead_layers_and_empty_cues_stay_finite(attribution, similarity):
    model = model_of(Mlp())
    nn.init.zeros_(model.backbone.second.weight)
    nn.init.constant_(model.backbone.second.bias, -1.0)
    config = GuidanceConfig(weight=1.0, attribution=attribution, similarity=similarity)
    ask = [] if attribution == "activation" else [Request(config, [1])]
    for maps_, valid in (
        (torch.rand(4, 1, 4, 4), True),
        (torch.zeros(4, 1, 4, 4), False),
        (torch.zeros(4, 1, 4, 4), True),
    ):
        output = model(pictures(), LABELS, partial(attribute, ask, LABELS, graph=True))
        found = output.attributions or output.features[1:]
        loss = guidance_loss(found, [Cue(maps_.double(), torch.full((4,), valid))], config)
        assert loss.isfinite()
        assert all(g.isfinite().all() for g in parameter_gradients(loss, model))


@pytest.mark.parametrize("training", [True, False])
def test_logits_do_not_depend_on_the_attribution(training):
    model = model_of(Mlp(drop=0.5)).train(training)
    ask = partial(attribute, [Request(GuidanceConfig(attribution="grad_input"), [0])], LABELS, graph=True)
    logits = []
    for arguments in ((), (LABELS, ask)):
        torch.manual_seed(0)
        logits.append(model(pictures(), *arguments).logits)
    assert torch.equal(*logits)
    assert all(p.grad is None for p in model.parameters())


def test_dropout_of_the_head_counts_in_the_attribution():
    """The same mask serves logits and attribution: the parts still add up to the logit."""
    model = model_of(Mlp(act=nn.ReLU(), drop=0.5)).train()
    request = Request(GuidanceConfig(attribution="grad_input", signed=True), [1])
    nn.init.zeros_(model.head.hidden.bias)
    nn.init.zeros_(model.head.last.bias)
    output = model(pictures(), LABELS, partial(attribute, [request], LABELS, graph=True))
    score = output.logits.gather(1, LABELS[:, None])[:, 0]
    assert torch.allclose(output.attributions[0].sum((1, 2, 3)), score, atol=1e-12)
    assert route(request, model.head, Layers(output.features)) == "double backward"
    assert route(request, model.head.eval(), Layers(output.features)) == "closed form"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("layer", [0, 1])
def test_mixed_precision_is_finite_and_near_single(dtype, head, layer):
    model = model_of(HEADS[head]()).float()
    config = GuidanceConfig(weight=1.0, similarity="pearson", attribution="grad_input")
    ask = partial(attribute, [Request(config, [layer])], LABELS, graph=True)
    losses = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype, enabled=enabled):
            output = model(pictures().float(), LABELS, ask)
        assert output.attributions[0].dtype == torch.float32
        loss = guidance_loss(output.attributions, [cue_like(output.attributions[0])], config)
        assert all(g.isfinite().all() for g in parameter_gradients(loss, model))
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], abs=0.05)


def test_cells_as_many_as_a_large_map_do_not_vanish_in_half_precision():
    """1 / (h w) of 112 x 112 cells, with weights of 0.01."""
    head = GapHead(5, CLASSES)
    nn.init.constant_(head.weight, 0.01)
    features = torch.rand(2, 5, 112, 112).half().requires_grad_()
    logits = F.linear(features.mean((2, 3)), head.weight.half())
    (g,) = backward_gradients(logits, [features], torch.ones_like(logits), graph=False)
    assert torch.allclose(g, torch.full_like(g, CLASSES * 0.01 / 112**2), rtol=0.02)
