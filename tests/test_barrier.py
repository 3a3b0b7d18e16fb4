"""Extended log barrier: loop twin, smooth join, limits, schedule."""

import math

import pytest
import torch

from mien.losses.barrier import log_barrier
from mien.losses.options import LossConfig

POINTS = [-50.0, -3.0, -1.0, -0.25, -1e-3, 0.0, 0.5, 40.0]


def twin(z: float, t: float) -> float:
    """Kervadec et al. 2022, one number at a time."""
    if z <= -1 / t**2:
        return -(1 / t) * math.log(-z)
    return t * z - (1 / t) * math.log(1 / t**2) + 1 / t


@pytest.mark.parametrize("t", [0.5, 1.0, 2.0, 10.0])
def test_twin(t):
    z = torch.tensor(POINTS, dtype=torch.float64)
    assert log_barrier(z, t).tolist() == pytest.approx([twin(v, t) for v in POINTS], abs=1e-12)


@pytest.mark.parametrize("t", [1.0, 3.0])
def test_pieces_meet_with_equal_slope_and_every_slope_is_finite(t):
    z = torch.tensor([-1 / t**2 - 1e-9, -1 / t**2 + 1e-9, 0.0, 1e6], dtype=torch.float64, requires_grad=True)
    value = log_barrier(z, t)
    (slope,) = torch.autograd.grad(value.sum(), z)
    assert value[0].item() == pytest.approx(value[1].item(), abs=1e-6)
    assert slope[0].item() == pytest.approx(slope[1].item(), abs=1e-6)
    assert slope[2:].tolist() == [t, t]
    assert torch.autograd.gradcheck(lambda v: log_barrier(v, t), torch.tensor(POINTS).double().requires_grad_())


def test_at_t_1_it_is_one_minus_cosine():
    c = torch.linspace(0, 1, 11)
    assert torch.allclose(log_barrier(-c, 1.0), 1 - c)


def test_a_sharp_barrier_is_nearly_the_hard_constraint():
    assert log_barrier(torch.tensor(-1.0), 1e4).abs() < 1e-3
    assert log_barrier(torch.tensor(0.1), 1e4) > 900


def test_schedule():
    published = LossConfig()
    assert published.sharpness(1) == 1
    assert published.sharpness(3) == pytest.approx(1.01**2)
    assert published.sharpness(232) < 10 == published.sharpness(233) == published.sharpness(1000)
    steep = LossConfig(barrier_start=2.0, barrier_factor=2.0, barrier_most=5.0)
    assert [steep.sharpness(epoch) for epoch in (1, 2, 3)] == [2, 4, 5]
