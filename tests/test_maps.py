"""The scale of maps and their similarities: corner answers, twins, and other libraries."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from mien import maps
from mien.compat import ensure_torchvision

ensure_torchvision()
from torchmetrics.functional import cosine_similarity, pearson_corrcoef  # noqa: E402

ZERO, ONE = torch.zeros(1, 1, 5, 6), torch.ones(1, 1, 5, 6)


def noise(batch: int = 4, h: int = 5, w: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(batch, 1, h, w, generator=torch.Generator().manual_seed(seed))


def test_channel_mean_twin():
    features = torch.randn(2, 3, 4, 5)
    mean = maps.channel_mean(features)
    assert mean.shape == (2, 1, 4, 5)
    for b in range(2):
        for y in range(4):
            for x in range(5):
                assert mean[b, 0, y, x] == pytest.approx(
                    sum(float(features[b, c, y, x]) for c in range(3)) / 3, abs=1e-6
                )


def test_min_max():
    scaled = maps.min_max(noise() * 7 - 3)
    assert torch.equal(scaled.flatten(1).amin(1), torch.zeros(4))
    assert torch.allclose(scaled.flatten(1).amax(1), torch.ones(4))
    assert torch.equal(maps.min_max(5 * ONE), ZERO)
    assert torch.equal(maps.min_max(ZERO), ZERO)
    tiny_spread = torch.tensor([[[[0.0, 1e-30]]]])
    assert maps.min_max(tiny_spread).flatten().tolist() == [0, 1]
    mixed = torch.cat([ONE, noise(1)])
    assert torch.allclose(maps.min_max(mixed)[1], maps.min_max(noise(1))[0])  # samples do not mix


def test_shift_to_zero():
    negative, positive = torch.tensor([[[[-2.0, 3.0]]]]), torch.tensor([[[[2.0, 3.0]]]])
    assert maps.shift_to_zero(negative).flatten().tolist() == [0, 5]
    assert torch.equal(maps.shift_to_zero(positive), positive)
    assert torch.equal(maps.shift_to_zero(torch.cat([negative, positive])), torch.tensor([[[[0.0, 5]]], [[[2, 3]]]]))


@pytest.mark.parametrize("size", [(11, 9), (3, 2), (5, 6), (1, 1)])
def test_resize_stays_in_range_and_keeps_constants(size):
    source = noise()
    out = maps.resize(source, size)
    assert out.shape == (4, 1, *size)
    assert (out.flatten(1).amax(1) <= source.flatten(1).amax(1) + 1e-6).all()
    assert (out.flatten(1).amin(1) >= source.flatten(1).amin(1) - 1e-6).all()
    assert torch.allclose(maps.resize(ONE, size), torch.ones(1, 1, *size))
    assert torch.equal(maps.resize(source, (5, 6)), source)


def test_resize_is_centred():
    """Corners are not aligned: halving is the mean of 2 x 2 blocks away from the border."""
    ramp = torch.arange(16.0).view(1, 1, 1, 16).expand(1, 1, 16, 16)
    half = maps.resize(ramp, (8, 8))[0, 0, 4]
    assert half[2:6].tolist() == pytest.approx([4.5, 6.5, 8.5, 10.5], abs=1e-4)


def test_similarities_agree_with_torchmetrics_and_scipy():
    first, second = noise(seed=1), noise(seed=2) + 2
    a, b = first.flatten(1), second.flatten(1)
    assert torch.allclose(maps.cosine(first, second), cosine_similarity(a, b, reduction="none"), atol=1e-6)
    assert torch.allclose(maps.pearson(first, second), pearson_corrcoef(a.T, b.T), atol=1e-5)
    for k in range(4):
        assert float(maps.pearson(first, second)[k]) == pytest.approx(stats.pearsonr(a[k], b[k]).statistic, abs=1e-5)


def twin_cosine(first: Tensor, second: Tensor) -> float:
    a, b = first.flatten().tolist(), second.flatten().tolist()
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    norms = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(y * y for y in b))
    return dot / norms if norms else 0.0


def test_twins():
    first, second = noise(seed=3), noise(seed=4)
    for k in range(4):
        assert float(maps.cosine(first, second)[k]) == pytest.approx(twin_cosine(first[k], second[k]), abs=1e-6)
        centred = twin_cosine(first[k] - first[k].mean(), second[k] - second[k].mean())
        assert float(maps.pearson(first, second)[k]) == pytest.approx(centred, abs=1e-6)
        inside = sum(
            max(0.0, v)
            for v, c in zip(first[k].flatten().tolist(), second[k].flatten().tolist(), strict=True)
            if c >= 0.5
        )
        total = sum(max(0.0, v) for v in first[k].flatten().tolist())
        assert float(maps.energy_in_mask(first, second)[k]) == pytest.approx(inside / total, abs=1e-6)


def test_corner_answers():
    some = noise(1).abs()
    assert maps.cosine(ZERO, some) == maps.cosine(some, ZERO) == maps.cosine(ZERO, ZERO) == 0
    assert maps.pearson(ONE, some) == maps.pearson(some, 3 * ONE) == maps.pearson(ZERO, ZERO) == 0
    assert maps.energy_in_mask(ZERO, ONE) == maps.energy_in_mask(some, ZERO) == 0
    assert maps.energy_in_mask(some, ONE) == pytest.approx(1)
    assert maps.energy_in_mask(-some, ONE) == 0
    assert maps.cosine(some, some) == pytest.approx(1)
    assert maps.pearson(some, 5 - 2 * some) == pytest.approx(-1)


def test_free_of_scale_and_offset():
    first, second = noise(seed=5), noise(seed=6)
    assert torch.allclose(maps.cosine(9 * first, second), maps.cosine(first, second), atol=1e-6)
    assert torch.allclose(maps.pearson(9 * first + 4, second), maps.pearson(first, second), atol=1e-5)


def test_a_constant_map_scores_high_in_cosine_and_nothing_in_pearson():
    """Why baselines stand beside every cosine: the cue's share of the area alone decides, sqrt(share)."""
    cue = ZERO.clone()
    cue[..., :1, :] = 1
    assert maps.cosine(ONE, cue).item() == pytest.approx(math.sqrt(1 / 5))
    assert maps.pearson(ONE, cue).item() == 0


@pytest.mark.parametrize("function", [maps.cosine, maps.pearson])
def test_gradients_are_finite_in_the_corners_and_half_precision_is_scored_in_float32(function):
    for start in (ZERO, ONE, noise(1)):
        leaf = start.clone().requires_grad_()
        function(leaf, noise(1, seed=9)).sum().backward()
        assert torch.isfinite(leaf.grad).all()
    big = (300 * noise(seed=7)).half()  # its sum of squares overflows half precision
    score = function(big, noise(seed=8).half())
    assert score.dtype == torch.float32
    assert np.isfinite(score.numpy()).all()
    assert torch.allclose(score, function(big.float(), noise(seed=8).half().float()))
