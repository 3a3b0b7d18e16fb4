"""Dependence of two samples: closed forms of Gaussians, loop twins, critics against the known mutual information."""

import math

import numpy as np
import pytest
import torch

from mien.audet import dependency as dep
from mien.audet.options import CRITIC_KINDS, DEPENDENCY_KINDS
from mien.losses.adversarial import gradient_penalty, mixed, reverse_gradient
from mien.metrics.dependence import cross_correlation, distance_correlation, hsic

FUNCTIONS = {"xcov": cross_correlation, "dcor": distance_correlation, "hsic": hsic}


def gaussians(rho: float, count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Jointly Gaussian scalars of correlation rho; their mutual information is -ln(1 - rho^2) / 2 nats."""
    random = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, count, 1, generator=random)
    return x, rho * x + math.sqrt(1 - rho**2) * noise


def dcor_of_gaussians(rho: float) -> float:
    """Squared distance correlation of a bivariate normal (Szekely et al. 2007, theorem 7)."""
    top = rho * math.asin(rho) + math.sqrt(1 - rho**2) - rho * math.asin(rho / 2) - math.sqrt(4 - rho**2) + 1
    return top / (1 + math.pi / 3 - math.sqrt(3))


def hsic_of_gaussians(rho: float, width: float) -> float:
    """E kk' + E k E k' - 2 E(E k E k') of Gaussian kernels of that width, from determinants of 2x2 normals."""
    s = width**2

    def mean(off: float) -> float:
        return ((1 + 2 / s) ** 2 - (off / s) ** 2) ** -0.5

    return mean(2 * rho) + mean(0) - 2 * mean(rho)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("unbiased", [True, False])
def test_gaussian_oracles(rho, unbiased):
    x, y = gaussians(rho, 1500)
    assert float(cross_correlation(x, y)) == pytest.approx(rho**2, abs=0.04)
    assert float(distance_correlation(x, y, unbiased)) == pytest.approx(dcor_of_gaussians(rho), abs=0.04)
    assert float(hsic(x, y, unbiased, (1.0, 1.0))) == pytest.approx(hsic_of_gaussians(rho, 1.0), abs=0.006)


def centred_slowly(matrix: np.ndarray, unbiased: bool) -> np.ndarray:
    n = len(matrix)
    out = np.zeros_like(matrix)
    for i in range(n):
        for j in range(n):
            if not unbiased:
                out[i, j] = matrix[i, j] - matrix[i].mean() - matrix[:, j].mean() + matrix.mean()
            elif i != j:
                rows = sum(matrix[i, k] for k in range(n) if k != i) / (n - 2)
                columns = sum(matrix[k, j] for k in range(n) if k != j) / (n - 2)
                whole = sum(matrix[k, m] for k in range(n) for m in range(n) if k != m) / ((n - 1) * (n - 2))
                out[i, j] = matrix[i, j] - rows - columns + whole
    return out


@pytest.mark.parametrize("unbiased", [True, False])
def test_loop_twins(unbiased):
    random = np.random.default_rng(0)
    x, y = random.normal(size=(9, 3)), random.normal(size=(9, 2))
    distances = [np.array([[np.linalg.norm(a - b) for b in z] for a in z]) for z in (x, y)]
    a, b = (centred_slowly(d, unbiased) for d in distances)
    expected = (a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum())
    tensors = torch.from_numpy(x), torch.from_numpy(y)
    assert float(distance_correlation(*tensors, unbiased)) == pytest.approx(expected, abs=1e-6)
    widths = [torch.from_numpy(d)[~torch.eye(9, dtype=torch.bool)].median().item() for d in distances]
    a, b = (centred_slowly(np.exp(-d * d / (2 * w * w)), unbiased) for d, w in zip(distances, widths, strict=True))
    assert float(hsic(*tensors, unbiased)) == pytest.approx((a * b).sum() / (9 * 6 if unbiased else 81), abs=1e-6)
    pairs = [np.corrcoef(x[:, i], y[:, j])[0, 1] ** 2 for i in range(3) for j in range(2)]
    assert float(cross_correlation(*tensors)) == pytest.approx(np.mean(pairs), abs=1e-6)


def test_independent_wide_parts_of_a_small_batch():
    """The unbiased form does not take 400 columns in 16 rows for dependence; the plain one does."""
    z1, z2 = torch.randn(2, 16, 400, generator=torch.Generator().manual_seed(0))
    assert abs(float(distance_correlation(z1, z2))) < 0.3
    assert float(distance_correlation(z1, z2, unbiased=False)) > 0.9


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_finite_for_constant_and_equal_rows_and_differentiable(function):
    constant, ramp = torch.ones(6, 2, requires_grad=True), torch.arange(6.0).repeat(1, 1).T
    for one, other in ((constant, ramp), (ramp, constant), (constant, constant)):
        value = function(one, other)
        assert value.item() == pytest.approx(0, abs=1e-6)
        (slope,) = torch.autograd.grad(value, constant, allow_unused=True)
        assert slope is None or torch.isfinite(slope).all()
    x = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    y = torch.randn(6, 3, dtype=torch.float64)
    if function is hsic:  # the width of its kernels is a constant to the gradient
        assert torch.autograd.gradcheck(lambda v: hsic(v, y, bandwidths=(1.0, 1.0)), (x,))
    else:
        assert torch.autograd.gradcheck(lambda v: function(v, y), (x,), atol=1e-4)


# ---- critics


class Pairs(torch.nn.Module):
    """A critic of scalars whose features can express the log density ratio of Gaussians."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(5, 32), torch.nn.LeakyReLU(), torch.nn.Linear(32, 1))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        x, y = z.flatten(1).T
        return self.net(torch.stack([x, y, x * y, x * x, y * y], 1)).squeeze(1)


def trained(kind: str, rho: float, steps: int, batch: int) -> float:
    torch.manual_seed(0)
    critic, generator = Pairs(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(critic.parameters(), lr=1e-2)
    for step in range(steps):
        z = torch.cat(gaussians(rho, batch, seed=step), 1)[..., None, None]
        order = dep.shuffled_order("derangement", batch, generator)
        estimate = dep.critic_estimate(kind, critic, z, 1, order, torch.rand(batch, generator=generator), 10.0)
        optimizer.zero_grad()
        estimate.loss.backward()
        optimizer.step()
    values = []
    for seed in range(20):
        z = torch.cat(gaussians(rho, batch, seed=10_000 + seed), 1)[..., None, None]
        order = dep.shuffled_order("derangement", batch, generator)
        values.append(dep.dependency(kind, critic, z, 1, order, through_shuffled=False).item())
    return float(np.mean(values))


@pytest.mark.parametrize(
    ("kind", "rho"), [("logistic", 0.0), ("logistic", 0.5), ("logistic", 0.9), ("infonce", 0.0), ("infonce", 0.9)]
)
def test_critics_of_mutual_information(kind, rho):
    value = trained(kind, rho, 220, 128) if kind == "logistic" else trained(kind, rho, 80, 48)
    assert value == pytest.approx(-0.5 * math.log(1 - rho**2), abs=0.12)


def test_wasserstein_critic_grows_with_dependence_and_stays_below_the_distance():
    """W1 of joint and product is at most the mean cost of the coupling that keeps x: E|y - y'| = 2 / sqrt(pi)."""
    values = [trained("wgan", rho, 60, 128) for rho in (0.0, 0.9)]
    assert abs(values[0]) < 0.15
    assert values[0] + 0.2 < values[1] < 2 / math.sqrt(math.pi) + 0.1


def test_scores_by_hand():
    real, other = torch.tensor([1.0, 3.0]), torch.tensor([0.0, 1.0])
    assert dep.wasserstein(real, other).dependency == pytest.approx(-1.5)
    assert dep.wasserstein(real, other).loss == pytest.approx(1.5)
    softplus = [math.log1p(math.exp(v)) for v in (-1, -3, 0, 1)]
    assert dep.logistic(real, other).loss == pytest.approx(sum(softplus) / 2)
    assert dep.logistic(real, other).dependency == pytest.approx(2.0)
    scores = torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    expected = (2 - math.log(math.exp(2) + 1) + 1 - math.log(2 * math.e)) / 2 + math.log(2)
    assert dep.infonce(scores).dependency == pytest.approx(expected)


def test_gradients_of_critics_and_encoder_stay_apart():
    torch.manual_seed(0)
    critic = Pairs()
    z = torch.randn(8, 2, 1, 1, requires_grad=True)
    order = dep.shuffled_order("roll", 8, torch.Generator())
    for kind in CRITIC_KINDS:
        dep.critic_estimate(kind, critic, z, 1, order, torch.rand(8), 1.0).loss.backward()
        assert z.grad is None
    published = torch.autograd.grad(dep.dependency("wgan", critic, z, 1, order, through_shuffled=False), z)[0]
    by_hand = torch.autograd.grad(-critic(z).mean(), z)[0]
    assert torch.allclose(published, by_hand)
    whole = torch.autograd.grad(dep.dependency("wgan", critic, z, 1, order, through_shuffled=True), z)[0]
    assert not torch.allclose(published, whole)


@pytest.mark.parametrize("kind", DEPENDENCY_KINDS)
def test_every_estimator_tells_a_gradient(kind):
    torch.manual_seed(0)
    z = torch.randn(8, 2, 1, 1, requires_grad=True)
    critic = Pairs() if kind in CRITIC_KINDS else None
    order = dep.shuffled_order("derangement", 8, torch.Generator())
    value = dep.dependency(kind, critic, z, 1, order, through_shuffled=True)
    assert torch.isfinite(torch.autograd.grad(value, z)[0]).all()


def test_tables_agree():
    assert {*dep.CRITICS, "infonce", *dep.CLOSED_FORMS} == set(DEPENDENCY_KINDS)


# ---- pairs


@pytest.mark.parametrize("pairing", ["derangement", "roll", "other_subject"])
@pytest.mark.parametrize("count", [2, 3, 16])
def test_nobody_is_paired_with_itself(pairing, count):
    generator = torch.Generator().manual_seed(0)
    subjects = torch.arange(count) % 2
    for _ in range(20):
        order = dep.shuffled_order(pairing, count, generator, subjects)
        assert sorted(order.tolist()) == list(range(count))
        assert (order != torch.arange(count)).all()


def test_other_subjects_wherever_possible():
    generator = torch.Generator().manual_seed(0)
    subjects = torch.tensor([0, 0, 0, 1, 1, 2, 3, 3])
    for _ in range(50):
        assert (subjects[dep.shuffled_order("other_subject", 8, generator, subjects)] != subjects).all()
    crowd = torch.tensor([0, 0, 0, 0, 0, 1])
    dep.shuffled_order("other_subject", 6, generator, crowd)
    dep.shuffled_order("other_subject", 6, generator, torch.zeros(6, dtype=torch.int64))


def test_all_scores_are_z1_by_z2():
    z = torch.randn(3, 2, 1, 1)
    scores = dep.all_scores(lambda pair: pair[:, 0, 0, 0] * 10 + pair[:, 1, 0, 0], z, 1)
    assert torch.allclose(scores, z[:, 0, 0, 0][:, None] * 10 + z[:, 1, 0, 0][None])


# ---- adversarial parts


def test_penalty_by_hand_is_sample_by_sample():
    """|gradient| of 3 x + 4 y summed over 2 pixels is 5 a pixel, 5 sqrt(2) a sample."""
    inputs = torch.randn(3, 2, 1, 2, requires_grad=True)
    scores = (inputs[:, 0] * 3 + inputs[:, 1] * 4).flatten(1).sum(1)
    assert gradient_penalty(scores, inputs).item() == pytest.approx((5 * math.sqrt(2) - 1) ** 2, rel=1e-5)


def test_penalty_of_a_constant_critic_is_one_with_a_finite_slope():
    weight = torch.zeros(4, requires_grad=True)
    inputs = torch.randn(3, 4, requires_grad=True)
    penalty = gradient_penalty(inputs @ weight, inputs)
    penalty.backward()
    assert penalty.item() == pytest.approx(1)
    assert torch.isfinite(weight.grad).all()


def test_mixed_is_a_leaf_between_its_ends():
    one, other = torch.zeros(2, 3, 1, 1, requires_grad=True), torch.ones(2, 3, 1, 1)
    between = mixed(one, other, torch.tensor([0.25, 1.0]))
    assert between.flatten(1).tolist() == [[0.75] * 3, [0.0] * 3]
    assert between.is_leaf
    assert between.requires_grad


def test_reversed_gradient():
    value = torch.tensor([1.0, 2.0], requires_grad=True)
    out = reverse_gradient(value, 0.5)
    assert torch.equal(out, value)
    (out * torch.tensor([3.0, 4.0])).sum().backward()
    assert value.grad.tolist() == [-1.5, -2.0]
