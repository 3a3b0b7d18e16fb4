"""Guidance: loop twin, invalid faces, layers, gradients."""

import math

import pytest
import torch
from torch import Tensor

from mien import maps
from mien.errors import UsageError
from mien.losses.alignment import SIMILARITIES, alignment_loss, guidance_loss, resolve_layers
from mien.schema import Cue


def setup(batch: int = 5, seed: int = 0) -> tuple[Tensor, Cue]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(batch, 6, 4, 5, generator=generator)
    valid = torch.tensor([True, False, True, True, False])[:batch]
    cue = torch.rand(batch, 1, 4, 5, generator=generator) * valid.view(-1, 1, 1, 1)
    return features, Cue(cue, valid)


def twin(features: Tensor, cue: Cue, similarity: str) -> float:
    """1 - similarity of the channel mean, averaged over valid faces, with loops only."""
    terms = []
    for b in range(len(features)):
        if not cue.valid[b]:
            continue
        a, t = [], []
        for y in range(features.shape[2]):
            for x in range(features.shape[3]):
                a.append(sum(features[b, c, y, x].item() for c in range(features.shape[1])) / features.shape[1])
                t.append(cue.maps[b, 0, y, x].item())
        if similarity == "pearson":
            a, t = [v - sum(a) / len(a) for v in a], [v - sum(t) / len(t) for v in t]
        dot = sum(p * q for p, q in zip(a, t, strict=True))
        terms.append(1 - dot / (math.sqrt(sum(p * p for p in a)) * math.sqrt(sum(q * q for q in t))))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_twin(similarity):
    features, cue = setup()
    assert alignment_loss(maps.channel_mean(features), cue, similarity).item() == pytest.approx(
        twin(features, cue, similarity), abs=1e-6
    )


def test_what_is_trained_is_what_is_measured():
    assert {"cosine": maps.cosine, "pearson": maps.pearson} == SIMILARITIES


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
    assert torch.allclose(guidance_loss([small, large], cues, "cosine"), (parts[0] + parts[1]) / 2)
    with pytest.raises(ValueError, match="zip"):
        guidance_loss([small, large], cues[:1], "cosine")


def test_resolve_layers():
    assert resolve_layers([1, 2, -1, -5], 5) == [0, 1, 4, 0]
    for bad in (0, 6, -6):
        with pytest.raises(UsageError, match=f"guidance.layers: {bad} .*1 to 5"):
            resolve_layers([1, bad], 5)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_gradcheck(similarity, monkeypatch):
    """In float64: the similarities work in float32 by design, so their cast is lifted for the check."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    features, cue = setup()
    attention = maps.channel_mean(features).double().requires_grad_()
    double = Cue(cue.maps.double(), cue.valid)
    assert torch.autograd.gradcheck(lambda a: alignment_loss(a, double, similarity), (attention,))


def test_gradient_pulls_attention_to_the_cue():
    features, cue = setup()
    leaf = features.clone().requires_grad_()
    before = alignment_loss(maps.channel_mean(leaf), cue)
    before.backward()
    assert alignment_loss(maps.channel_mean(features - 5 * leaf.grad), cue) < before
