"""Guidance: loop twin, invalid faces, layers, gradients."""

import math

import pytest
import torch
from torch import Tensor

from mien import maps
from mien.errors import UsageError
from mien.losses.alignment import (
    CHANNELS,
    DISTANCES,
    SIMILARITIES,
    alignment_loss,
    compared_map,
    guidance_loss,
    resolve_layers,
)
from mien.losses.config import GuidanceConfig
from mien.schema import Cue


def setup(batch: int = 5, seed: int = 0) -> tuple[Tensor, Cue]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(batch, 6, 4, 5, generator=generator)
    valid = torch.tensor([True, False, True, True, False])[:batch]
    cue = torch.rand(batch, 1, 4, 5, generator=generator) * valid.view(-1, 1, 1, 1)
    return features, Cue(cue, valid)


def loss_of(a: list[float], t: list[float], similarity: str) -> float:
    """Loss of one map against one cue, written from the papers with plain numbers."""
    n = len(a)
    if similarity in ("l1", "l2"):
        return sum(abs(p - q) ** (1 if similarity == "l1" else 2) for p, q in zip(a, t, strict=True)) / n
    if similarity == "kl":
        share = [math.exp(v) / sum(math.exp(u) for u in a) for v in a]
        pairs = [(q, s) for q, s in zip(t, share, strict=True)] + [
            (1 - q, 1 - s) for q, s in zip(t, share, strict=True)
        ]
        return sum(q * math.log(q / s) for q, s in pairs if q > 0) / n
    if similarity == "paper":
        std = math.sqrt(sum((v - sum(a) / n) ** 2 for v in a) / n)
        return 1 - sum((v - sum(a) / n) / std * q for v, q in zip(a, t, strict=True)) / n
    if similarity != "cosine":
        a = [v - sum(a) / n for v in a]
    if similarity == "pearson":
        t = [v - sum(t) / n for v in t]
    dot = sum(p * q for p, q in zip(a, t, strict=True))
    return 1 - dot / (math.sqrt(sum(p * p for p in a)) * math.sqrt(sum(q * q for q in t)))


def twin(features: Tensor, cue: Cue, similarity: str) -> float:
    """The loss of the channel mean, averaged over valid faces, with loops only."""
    terms = []
    for b in range(len(features)):
        if not cue.valid[b]:
            continue
        a, t = [], []
        for y in range(features.shape[2]):
            for x in range(features.shape[3]):
                a.append(sum(features[b, c, y, x].item() for c in range(features.shape[1])) / features.shape[1])
                t.append(cue.maps[b, 0, y, x].item())
        terms.append(loss_of(a, t, similarity))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_twin(similarity):
    features, cue = setup()
    assert alignment_loss(maps.channel_mean(features), cue, similarity).item() == pytest.approx(
        twin(features, cue, similarity), abs=1e-6
    )


def test_what_is_trained_is_what_is_measured():
    from mien.metrics.alignment import SCORES

    assert {name: getattr(maps, name) for name in SIMILARITIES} == SIMILARITIES
    assert all(SCORES[name] is SIMILARITIES[name] for name in ("cosine", "pearson"))


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_invalid_faces_have_no_influence(similarity):
    features, cue = setup()
    leaf = features.clone().requires_grad_()
    loss = alignment_loss(maps.channel_mean(leaf), cue, similarity)
    (gradient,) = torch.autograd.grad(loss, leaf)
    assert (gradient[~cue.valid] == 0).all()
    assert (gradient[cue.valid] != 0).any()
    other = features.clone()
    other[~cue.valid] = 1e3
    assert torch.equal(alignment_loss(maps.channel_mean(other), cue, similarity), loss.detach())
    kept = Cue(cue.maps[cue.valid], cue.valid[cue.valid])
    assert torch.allclose(alignment_loss(maps.channel_mean(features[cue.valid]), kept, similarity), loss)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_all_invalid_is_zero_with_finite_gradients(similarity):
    features, cue = setup()
    leaf = features.clone().requires_grad_()
    loss = alignment_loss(maps.channel_mean(leaf), Cue(cue.maps * 0, torch.zeros(5, dtype=torch.bool)), similarity)
    loss.backward()
    assert loss.item() == 0
    assert (leaf.grad == 0).all()


def test_best_and_worst():
    _, cue = setup()
    assert alignment_loss(3 * cue.maps, cue).item() == pytest.approx(0, abs=1e-6)
    assert alignment_loss(-cue.maps, cue).item() == pytest.approx(2, abs=1e-6)
    assert alignment_loss(0 * cue.maps, cue).item() == 1
    assert alignment_loss(torch.ones_like(cue.maps), cue, "pearson").item() == 1
    assert alignment_loss(cue.maps + 8, cue, "pearson").item() == pytest.approx(0, abs=1e-5)


def test_layers_are_averaged():
    features, cue = setup()
    small, large = features, torch.randn(5, 3, 8, 10)
    cues = [cue, Cue(maps.resize(cue.maps, (8, 10)), cue.valid)]
    parts = [alignment_loss(maps.channel_mean(f), c) for f, c in zip((small, large), cues, strict=True)]
    assert torch.allclose(guidance_loss([small, large], cues, GuidanceConfig()), (parts[0] + parts[1]) / 2)
    with pytest.raises(ValueError, match="zip"):
        guidance_loss([small, large], cues[:1], GuidanceConfig())


def test_resolve_layers():
    assert resolve_layers([1, 2, -1, -5], 5) == [0, 1, 4, 0]
    for bad in (0, 6, -6):
        with pytest.raises(UsageError, match=f"guidance.layers: {bad} .*1 to 5"):
            resolve_layers([1, bad], 5)


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("channels", ["mean", "all_joint", "all_per_channel"])
def test_gradcheck(similarity, channels):
    features, cue = setup()
    double = Cue(cue.maps.double(), cue.valid)
    config = GuidanceConfig(similarity=similarity, channels=channels)
    assert torch.autograd.gradcheck(
        lambda a: guidance_loss([a], [double], config), (features.double().requires_grad_(),)
    )


def test_gradient_pulls_attention_to_the_cue():
    features, cue = setup()
    leaf = features.clone().requires_grad_()
    before = alignment_loss(maps.channel_mean(leaf), cue)
    before.backward()
    assert alignment_loss(maps.channel_mean(features - 5 * leaf.grad), cue) < before


@pytest.mark.parametrize("similarity", [name for name in SIMILARITIES if name not in DISTANCES])
def test_scale_and_sign(similarity):
    """Attributions of 1e-6 count like those of size 1; a map turned over turns the score over."""
    attention, cue = (t.double() for t in (maps.channel_mean(setup()[0]), setup()[1].maps))
    score = SIMILARITIES[similarity]
    assert torch.allclose(score(attention * 1e-12, cue), score(attention, cue), atol=1e-12)
    assert torch.allclose(score(attention.float() * 1e-6, cue.float()).double(), score(attention, cue), atol=1e-6)
    assert torch.allclose(score(-attention, cue), -score(attention, cue), atol=1e-12)
    if similarity != "cosine":
        assert torch.allclose(score(attention + 3, cue), score(attention, cue), atol=1e-12)


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("value", [0.0, 0.1, 1e-6, -3.7e4])
def test_flat_maps_are_finite_and_pull_nowhere(similarity, value):
    flat = torch.full((2, 1, 5, 5), value, requires_grad=True)
    cue = torch.rand(2, 1, 5, 5)
    score = SIMILARITIES[similarity](flat, cue)
    (pull,) = torch.autograd.grad(score.sum(), flat)
    assert score.isfinite().all()
    assert pull.isfinite().all()
    if similarity in ("pearson", "standardised_cosine", "paper"):
        assert (score == 0).all()
        assert (pull == 0).all()
        assert (SIMILARITIES[similarity](torch.rand(2, 1, 5, 5), flat.detach()).abs() < 1e-6).all() or similarity[
            0
        ] == "s"


def test_standardised_cosine_is_pearson_times_a_constant_of_the_cue():
    attention, cue = (t.double() for t in (maps.channel_mean(setup()[0]), setup()[1].maps + 0.1))
    flat = cue.flatten(1)
    constant = (flat - flat.mean(1, keepdim=True)).norm(dim=1) / flat.norm(dim=1)
    assert torch.allclose(maps.standardised_cosine(attention, cue), maps.pearson(attention, cue) * constant)


@pytest.mark.parametrize("channels", CHANNELS)
def test_channels_twin(channels):
    """Six channels: which of them the compared map holds."""
    features, _ = setup()
    chosen = compared_map(
        features, GuidanceConfig(channels=channels, fraction=0.4 if channels == "fraction" else 1.0), (4, 5)
    )
    kept = {"first_half": [0, 1, 2], "second_half": [3, 4, 5], "fraction": [0, 1]}.get(channels, list(range(6)))
    want = features if channels.startswith("all") else sum(features[:, c : c + 1] for c in kept) / len(kept)
    assert torch.allclose(chosen, want, atol=1e-6)


@pytest.mark.parametrize("channels", ["first_half", "second_half", "fraction"])
def test_one_channel_is_enough(channels):
    lone = torch.rand(2, 1, 4, 4)
    config = GuidanceConfig(channels=channels, fraction=0.1 if channels == "fraction" else 1.0)
    assert torch.equal(compared_map(lone, config, (4, 4)), lone)


def test_random_channels_are_drawn_for_each_face_and_repeat():
    features = torch.rand(1, 64, 4, 4).expand(3, -1, -1, -1)
    config = GuidanceConfig(channels="random", fraction=0.5)
    first, again = (compared_map(features, config, (4, 4), torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.allclose(first[0], first[1])
    none = compared_map(features, GuidanceConfig(channels="random", fraction=1e-9), (4, 4))
    assert (none == 0).all()


def test_joint_and_per_channel_losses():
    features, cue = setup()
    single = [SIMILARITIES["pearson"](features[:, c : c + 1], cue.maps) for c in range(6)]
    weight = cue.valid.float() / cue.valid.sum()
    per_channel = guidance_loss([features], [cue], GuidanceConfig(similarity="pearson", channels="all_per_channel"))
    assert per_channel.item() == pytest.approx(sum((1 - torch.stack(single).mean(0)) * weight).item(), abs=1e-6)
    joint = guidance_loss([features], [cue], GuidanceConfig(similarity="pearson", channels="all_joint"))
    whole = maps.pearson(features, cue.maps.expand_as(features))
    assert joint.item() == pytest.approx(sum((1 - whole) * weight).item(), abs=1e-6)


def test_scale_to_the_cue_and_softmax():
    features, _ = setup()
    big = compared_map(features, GuidanceConfig(scale="to_cue", normalise="softmax"), (12, 15))
    want = maps.resize(maps.channel_mean(features), (12, 15)).flatten(1).softmax(1)
    assert torch.allclose(big.flatten(1), want, atol=1e-6)
    assert maps.spatial_softmax(torch.full((1, 1, 2, 2), 1e4)).tolist() == [[[[0.25, 0.25], [0.25, 0.25]]]]


@pytest.mark.parametrize("t", [1.0, 1.3])
def test_barrier_takes_the_place_of_one_minus_similarity(t):
    from mien.losses.barrier import log_barrier

    features, cue = setup()
    with_barrier = guidance_loss([features], [cue], GuidanceConfig(barrier=True), t)
    score = maps.cosine(maps.channel_mean(features), cue.maps)[cue.valid]
    assert torch.allclose(with_barrier, log_barrier(-score, t).mean())
    if t == 1:
        assert torch.allclose(with_barrier, guidance_loss([features], [cue], GuidanceConfig()))
