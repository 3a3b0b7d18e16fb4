"""Classification losses: loop twins, torch and scikit-learn where they overlap, weights, smoothing, soft targets."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mien.losses.classification import (
    CLASSIFICATION,
    absolute,
    cross_entropy,
    focal,
    over_targets,
    soft_targets,
    squared,
)

LOGITS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2, 3, 1, 1])
SOFT = torch.rand(6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
SOFT = SOFT / SOFT.sum(1, keepdim=True)
WEIGHT = torch.tensor([0.5, 2.0, 1.0, 3.0], dtype=torch.float64)


def probabilities(row: list[float]) -> list[float]:
    total = sum(math.exp(v) for v in row)
    return [math.exp(v) / total for v in row]


def targets_of(b: int, soft: bool, smoothing: float) -> list[float]:
    plain = SOFT[b].tolist() if soft else [float(k == LABELS[b]) for k in range(4)]
    return [y * (1 - smoothing) + smoothing / 4 for y in plain]


def focal_twin(soft: bool, smoothing: float, weighted: bool, alpha: float, gamma: float) -> float:
    """Lin et al. 2017, one face and one class at a time."""
    total, scale = 0.0, 0.0
    w = WEIGHT.tolist() if weighted else [1.0] * 4
    for b in range(6):
        p = probabilities(LOGITS[b].tolist())
        y = targets_of(b, soft, smoothing)
        total += -alpha * sum(w[k] * y[k] * (1 - p[k]) ** gamma * math.log(p[k]) for k in range(4))
        scale += 1 if soft else w[int(LABELS[b])]
    return total / scale


def error_twin(power: int, soft: bool, smoothing: float, weighted: bool) -> float:
    total, scale = 0.0, 0.0
    for b in range(6):
        p, y = probabilities(LOGITS[b].tolist()), targets_of(b, soft, smoothing)
        w = sum(v * c for v, c in zip(targets_of(b, soft, 0), WEIGHT.tolist(), strict=True)) if weighted else 1.0
        total += w * sum(abs(p[k] - y[k]) ** power for k in range(4)) / 4
        scale += w
    return total / scale


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_twins(soft, smoothing, weighted):
    targets, weight = SOFT if soft else LABELS, WEIGHT if weighted else None
    for alpha, gamma in ((1.0, 2.0), (0.25, 0.5), (1.0, 0.0)):
        expected = focal_twin(soft, smoothing, weighted, alpha, gamma)
        assert focal(LOGITS, targets, weight, smoothing, alpha, gamma).item() == pytest.approx(expected, abs=1e-9)
    for power, loss in ((1, absolute), (2, squared)):
        expected = error_twin(power, soft, smoothing, weighted)
        assert loss(LOGITS, targets, weight, smoothing).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("targets", [LABELS, SOFT], ids=["labels", "soft"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weighted"])
def test_focal_without_focus_is_torchs_cross_entropy(targets, smoothing, weight):
    expected = F.cross_entropy(LOGITS, targets, weight, label_smoothing=smoothing)
    assert torch.allclose(focal(LOGITS, targets, weight, smoothing, 1.0, 0.0), expected)
    assert torch.allclose(cross_entropy(LOGITS, targets, weight, smoothing), expected, rtol=1e-12, atol=0)


def test_squared_is_the_brier_score_of_scikit_learn():
    from sklearn.metrics import brier_score_loss

    probabilities = LOGITS.softmax(1).numpy()
    parts = [brier_score_loss(LABELS.eq(k).numpy(), probabilities[:, k]) for k in range(4)]
    assert squared(LOGITS, LABELS).item() == pytest.approx(np.mean(parts))


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_finite_values_and_slopes_where_the_net_is_sure(name):
    """Float32 probabilities of exactly 0 and 1, right and wrong."""
    logits = torch.tensor([[200.0, -200.0, 0.0], [-200.0, 200.0, 0.0]], requires_grad=True)
    for targets in (torch.tensor([0, 0]), torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0]])):
        loss = CLASSIFICATION[name](logits, targets, None, 0.1)
        (slope,) = torch.autograd.grad(loss, logits)
        assert torch.isfinite(loss)
        assert torch.isfinite(slope).all()
    if name == "focal":
        for gamma in (0.0, 0.5, 5.0):
            assert torch.isfinite(torch.autograd.grad(focal(logits, targets, gamma=gamma), logits)[0]).all()


@pytest.mark.parametrize("name", CLASSIFICATION)
@pytest.mark.parametrize("targets", [LABELS, SOFT], ids=["labels", "soft"])
def test_gradcheck(name, targets):
    logits = LOGITS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: CLASSIFICATION[name](x, targets, WEIGHT, 0.1), (logits,))


def test_one_hot_targets_are_labels_without_class_weights():
    one_hot = F.one_hot(LABELS, 4).double()
    for loss in CLASSIFICATION.values():
        assert torch.allclose(loss(LOGITS, one_hot, None, 0.1), loss(LOGITS, LABELS, None, 0.1))


def test_targets_choose_or_weigh_the_columns_of_a_table():
    table = torch.arange(24.0).view(6, 4)
    assert over_targets(table, LABELS).item() == pytest.approx(table[range(6), LABELS].mean().item())
    mixed = 0.25 * F.one_hot(LABELS, 4) + 0.75 * F.one_hot((LABELS + 1) % 4, 4)
    both = 0.25 * over_targets(table, LABELS) + 0.75 * over_targets(table, (LABELS + 1) % 4)
    assert torch.allclose(over_targets(table, mixed), both)
    assert torch.allclose(soft_targets(LABELS, table, 0.2).sum(1), torch.ones(6))
