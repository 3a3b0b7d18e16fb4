"""Further terms of the loss: each against a twin of loops, its best and worst answers, finite values and slopes."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mien.errors import UsageError
from mien.losses import regularise, scores
from mien.losses.barrier import excess
from mien.schema import SCHEMES, class_positions

RANDOM = torch.Generator().manual_seed(0)
LOGITS = torch.randn(5, 4, generator=RANDOM, dtype=torch.float64)
LABELS = torch.tensor([0, 3, 1, 2, 1])
SOFT = torch.rand(5, 4, generator=RANDOM, dtype=torch.float64)
SOFT = SOFT / SOFT.sum(1, keepdim=True)
ORDER = [2, 0, 3, 1]
FEATURES = torch.randn(5, 9, generator=RANDOM, dtype=torch.float64)
MAPS = torch.rand(5, 1, 3, 4, generator=RANDOM, dtype=torch.float64)
T = 1.7


def psi(z: float, t: float = T) -> float:
    """The extended log barrier."""
    return -(1 / t) * math.log(-z) if z <= -1 / t**2 else t * z - (1 / t) * math.log(1 / t**2) + 1 / t


def penalty(z: float, barrier: bool) -> float:
    return psi(z) if barrier else max(0.0, z) ** 2


def softmax(row: list[float]) -> list[float]:
    total = sum(math.exp(v) for v in row)
    return [math.exp(v) / total for v in row]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def by_label(twin, soft: bool) -> float:
    """Mean over faces of twin(face, label); soft targets weigh the labels."""
    if not soft:
        return mean([twin(b, int(LABELS[b])) for b in range(5)])
    return mean([sum(SOFT[b, k].item() * twin(b, k) for k in range(4)) for b in range(5)])


def targets(soft: bool) -> torch.Tensor:
    return SOFT if soft else LABELS


def test_excess():
    z = torch.tensor([-2.0, 0.0, 3.0])
    assert excess(z, False).tolist() == [0, 0, 9]
    assert excess(z, True, T).tolist() == pytest.approx([psi(v) for v in z.tolist()], abs=1e-6)


# Order


def place(k: int) -> int:
    return ORDER.index(k)


def expected_place(p: list[float]) -> float:
    return sum(place(k) * p[k] for k in range(4))


@pytest.mark.parametrize("barrier", [False, True])
@pytest.mark.parametrize("soft", [False, True])
def test_ordinal_mean(soft, barrier):
    terms = []
    for b in range(5):
        m = expected_place(softmax(LOGITS[b].tolist()))
        y = expected_place(SOFT[b].tolist()) if soft else place(int(LABELS[b]))
        terms.append(penalty((m - y) ** 2 - 0.3, barrier))
    got = scores.ordinal_mean(LOGITS, targets(soft), ORDER, 0.3, barrier, T)
    assert got.item() == pytest.approx(mean(terms), abs=1e-9)


@pytest.mark.parametrize("barrier", [False, True])
def test_ordinal_variance(barrier):
    terms = []
    for b in range(5):
        p = softmax(LOGITS[b].tolist())
        m = expected_place(p)
        terms.append(penalty(sum(p[k] * (place(k) - m) ** 2 for k in range(4)) - 0.3, barrier))
    assert scores.ordinal_variance(LOGITS, ORDER, 0.3, barrier, T).item() == pytest.approx(mean(terms), abs=1e-9)


@pytest.mark.parametrize("soft", [False, True])
def test_unimodality(soft):
    def twin(b: int, label: int) -> float:
        s = [LOGITS[b, k].item() for k in ORDER]
        rises = [s[k] - s[k + 1] if k < place(label) else s[k + 1] - s[k] for k in range(3)]
        return mean([psi(z) for z in rises])

    got = scores.unimodality(LOGITS, targets(soft), ORDER, T)
    assert got.item() == pytest.approx(by_label(twin, soft), abs=1e-9)


def test_a_hill_at_the_label_is_the_best_order():
    hill = torch.tensor([[0.0, 2.0, 5.0, 1.0]])
    best = min(range(4), key=lambda k: scores.unimodality(hill, torch.tensor([k]), range(4)).item())
    assert best == 2
    sure = 100 * F.one_hot(LABELS, 4).double()
    assert scores.ordinal_mean(sure, LABELS, ORDER).item() == pytest.approx(0, abs=1e-12)
    assert scores.ordinal_variance(sure, ORDER).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_has_a_default_order(scheme):
    classes = tuple(SCHEMES[scheme])
    named = scores.default_order(classes)
    assert sorted(named) == sorted(classes)
    middle = named.index("Neutral")
    assert set(named[:middle]) <= {"Negative", "Sadness", "Disgust", "Anger", "Contempt", "Fear"}
    assert set(named[middle + 1 :]) <= {"Surprise", "Happiness", "Positive"}


def test_wrong_orders_are_told():
    classes = ("Neutral", "Positive", "Negative")
    assert class_positions(["Negative", "Neutral", "Positive"], classes, "order") == [2, 0, 1]
    with pytest.raises(UsageError, match=r"order: .*Did you mean 'Neutral'"):
        class_positions(["Negative", "Neutrol", "Positive"], classes, "order")
    for wrong in (["Negative", "Neutral"], ["Negative", "Neutral", "Positive", "Positive"]):
        with pytest.raises(UsageError, match=r"order: .* each of Neutral, Positive, Negative once"):
            class_positions(wrong, classes, "order")


# Margins and costs


@pytest.mark.parametrize("soft", [False, True])
def test_score_margin(soft):
    def twin(b: int, label: int) -> float:
        s = LOGITS[b].tolist()
        return mean([psi(-(s[label] - s[j] - 0.4)) for j in range(4) if j != label])

    got = scores.score_margin(LOGITS, targets(soft), 0.4, T)
    assert got.item() == pytest.approx(by_label(twin, soft), abs=1e-9)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("norm", ["none", "max", "sum", "mean"])
@pytest.mark.parametrize(
    ("confusion", "top", "reduce"), [("exp", None, "mean"), ("linear", 2, "sum"), ("exp", 1, "sum")]
)
def test_cost_sensitive(soft, norm, confusion, top, reduce):
    def divide(values: list[float]) -> list[float]:
        size = {"none": 1.0, "max": max(values), "sum": sum(values), "mean": mean(values)}[norm] if values else 1.0
        return [v / size for v in values]

    def twin(b: int, label: int) -> float:
        s = LOGITS[b].tolist()
        lead = [s[j] - s[label] for j in range(4) if j != label]
        lead = divide([d for d in lead if d > 0]) + [-d for d in divide([-d for d in lead if d < 0])]
        cost = sorted((math.exp(d) if confusion == "exp" else d for d in lead), reverse=True)[:top]
        return sum(cost) if reduce == "sum" else mean(cost)

    got = scores.cost_sensitive(LOGITS, targets(soft), norm, confusion, top, reduce)
    assert got.item() == pytest.approx(by_label(twin, soft), abs=1e-9)


def test_the_most_confused_class_gets_a_gradient():
    """It has none where the divisor is differentiated too, as in the published code."""
    logits = torch.tensor([[0.0, 3.0, 1.0]], requires_grad=True)
    loss = scores.cost_sensitive(logits, torch.tensor([0]), "max", "linear")
    (slope,) = torch.autograd.grad(loss, logits)
    assert slope[0, 1] > 0 > slope[0, 0]


def test_top_must_leave_the_label_out():
    assert scores.cost_sensitive(LOGITS, LABELS, top=3).isfinite()
    with pytest.raises(UsageError, match="top 4 must be less"):
        scores.cost_sensitive(LOGITS, LABELS, top=4)


# Entropy


def entropy(p: list[float]) -> float:
    return -sum(v * math.log(v) for v in p)


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize("kind", ["max_entropy", "kl_uniform", "generalised"])
def test_high_entropy(kind):
    u, a, terms = [0.25] * 4, 0.3, []
    for b in range(5):
        p = softmax(LOGITS[b].tolist())
        mixed = [(1 - a) * v + a * w for v, w in zip(u, p, strict=True)]
        family = (-(1 - a) * entropy(u) - a * entropy(p) + entropy(mixed)) / (a * (1 - a))
        terms.append({"max_entropy": -entropy(p), "kl_uniform": kl(u, p), "generalised": family}[kind])
    assert scores.high_entropy(LOGITS, kind, a).item() == pytest.approx(mean(terms), abs=1e-9)


def test_the_family_ends_in_the_confidence_penalty_and_in_the_divergence_from_uniform():
    """Meister et al. 2020, section 3."""
    to_uniform = scores.high_entropy(LOGITS, "max_entropy") + math.log(4)  # KL(p || u)
    assert torch.allclose(scores.high_entropy(LOGITS, "generalised", 1e-5), to_uniform, atol=1e-4)
    assert torch.allclose(
        scores.high_entropy(LOGITS, "generalised", 1 - 1e-5), scores.high_entropy(LOGITS, "kl_uniform"), atol=1e-4
    )


@pytest.mark.parametrize("kind", ["max_entropy", "kl_uniform", "generalised"])
def test_every_kind_has_a_gradient_away_from_sure_predictions(kind):
    logits = LOGITS.clone().requires_grad_()
    (slope,) = torch.autograd.grad(scores.high_entropy(logits, kind), logits)
    softer = LOGITS - 0.1 * slope
    assert (slope != 0).all()
    assert scores.high_entropy(softer, "max_entropy") < scores.high_entropy(LOGITS, "max_entropy")


# Weights


def gram_twin(w: np.ndarray, kind: str) -> float:
    """Bansal et al. 2018; of both Gram matrices the smaller for the two kinds that the larger one keeps at 1."""
    rows, columns = w.shape
    large, small = w.T @ w - np.eye(columns), w @ w.T - np.eye(rows)
    if kind == "soft":
        return float((large**2).sum())
    if kind == "double_soft":
        return float((large**2).sum() + (small**2).sum())
    least = small if rows <= columns else large
    return float(np.abs(least).max() if kind == "mutual_coherence" else np.linalg.norm(least, 2) ** 2)


@pytest.mark.parametrize("kind", ["soft", "double_soft", "mutual_coherence", "srip"])
@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (5, 5)])
def test_orthogonal(kind, shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert regularise.orthogonal(weight, kind, 200).item() == pytest.approx(gram_twin(weight.numpy(), kind), rel=1e-6)


@pytest.mark.parametrize("kind", ["soft", "double_soft", "mutual_coherence", "srip"])
def test_orthonormal_rows_are_the_minimum(kind):
    weight = torch.linalg.qr(torch.randn(9, 4, generator=RANDOM, dtype=torch.float64))[0].T
    least = {"soft": 5.0, "double_soft": 5.0}.get(kind, 0.0)
    assert regularise.orthogonal(weight, kind).item() == pytest.approx(least, abs=1e-9)
    assert regularise.orthogonal(1.1 * weight, kind) > least


def test_few_steps_of_the_power_iteration_stay_below_the_spectral_norm():
    matrix = FEATURES @ FEATURES.T - torch.eye(5)
    exact = torch.linalg.matrix_norm(matrix, 2)
    values = [regularise.spectral_norm(matrix, n) for n in (1, 3, 100)]
    assert values[0] <= values[1] <= values[2] <= exact + 1e-9
    assert torch.allclose(values[2], exact)
    assert regularise.spectral_norm(torch.zeros(3, 3)) == 0


def test_l1():
    parameters = [torch.tensor([[1.0, -2.0]]), torch.tensor(3.0)]
    assert regularise.l1(parameters) == 6


# Sparsity and attention


@pytest.mark.parametrize("norm", ["l1", "l2", "inf"])
@pytest.mark.parametrize(
    ("share", "limit", "average", "barrier"),
    [(1.0, 0.0, False, False), (0.4, 0.2, True, False), (0.01, 0.1, False, True)],
)
def test_lowest(norm, share, limit, average, barrier):
    terms = []
    for row in FEATURES.tolist():
        count = max(1, int(share * len(row)))
        low = sorted(abs(v) for v in row)[:count]
        size = {"l1": sum(low), "l2": math.sqrt(sum(v * v for v in low)), "inf": max(low)}[norm]
        terms.append(penalty(size / (count if average and norm != "inf" else 1) - limit, barrier))
    got = regularise.lowest(FEATURES, norm, share, limit, average, barrier, T)
    assert got.item() == pytest.approx(mean(terms), abs=1e-7)


def test_lowest_goes_by_absolute_value():
    rows = torch.tensor([[-9.0, 0.1, 5.0, -0.2]], requires_grad=True)
    (slope,) = torch.autograd.grad(regularise.lowest(rows, share=0.5), rows)
    assert (slope != 0).tolist() == [[False, True, False, True]]


@pytest.mark.parametrize("barrier", [False, True])
def test_attention_size(barrier):
    terms = []
    for map_ in MAPS.flatten(1).tolist():
        terms.append(penalty(0.45 - mean(map_), barrier) + penalty(mean(map_) - 0.5, barrier))
    got = regularise.attention_size(MAPS, 0.45, 0.5, barrier, T)
    assert got.item() == pytest.approx(mean(terms), abs=1e-9)


def test_two_barriers_cancel_until_t_is_large():
    """Why the squared excess is the default: the published schedule starts at t = 1 and adds a hundredth an epoch."""
    for t, moves in ((1.0, False), (1.2, False), (4.0, True)):
        leaf = MAPS.clone().requires_grad_()
        (slope,) = torch.autograd.grad(regularise.attention_size(leaf, 0.1, 0.9, True, t), leaf)
        assert (slope.abs().sum() > 1e-6).item() is moves


def test_attention_entropy():
    terms = [-(v * math.log(v) + (1 - v) * math.log(1 - v)) for v in MAPS.flatten().tolist()]
    assert regularise.attention_entropy(MAPS).item() == pytest.approx(mean(terms), abs=1e-9)
    assert regularise.attention_entropy(torch.full((1, 1, 2, 2), 0.5)).item() == pytest.approx(math.log(2))
    assert regularise.attention_entropy((MAPS > 0.5).double()).item() == pytest.approx(0, abs=1e-4)


# Features


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


@pytest.mark.parametrize("barrier", [False, True])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(("same", "different"), [(True, False), (False, True), (True, True)])
def test_orthogonal_features(same, different, soft, barrier):
    def alike(i: int, j: int) -> float:
        return float(SOFT[i] @ SOFT[j]) if soft else float(LABELS[i] == LABELS[j])

    total, rows = 0.0, FEATURES.tolist()
    pairs = [(i, j) for i in range(5) for j in range(5) if i != j]
    if same:
        value = {p: -cosine(rows[p[0]], rows[p[1]]) for p in pairs}
        weight = sum(alike(*p) for p in pairs)
        total += sum(alike(*p) * (psi(value[p]) if barrier else 1 + value[p]) for p in pairs) / weight
    if different:
        value = {p: abs(cosine(rows[p[0]], rows[p[1]])) for p in pairs}
        weight = sum(1 - alike(*p) for p in pairs)
        total += sum((1 - alike(*p)) * (psi(value[p]) if barrier else value[p]) for p in pairs) / weight
    got = regularise.orthogonal_features(FEATURES, targets(soft), same, different, barrier, T)
    assert got.item() == pytest.approx(total, abs=1e-7)


def test_a_batch_without_such_pairs_is_zero_with_a_gradient():
    leaf = FEATURES[:2].clone().requires_grad_()
    loss = regularise.orthogonal_features(leaf, torch.tensor([0, 1]))
    (slope,) = torch.autograd.grad(loss, leaf)
    assert loss == 0
    assert (slope == 0).all()


@pytest.mark.parametrize("barrier", [False, True])
@pytest.mark.parametrize("soft", [False, True])
def test_block_features(soft, barrier):
    blocks = {0: {0, 1}, 1: {2, 3}, 2: {4, 5}, 3: {6, 7, 8}}

    def twin(b: int, label: int) -> float:
        outside = [abs(FEATURES[b, c].item()) for c in range(9) if c not in blocks[label]]
        return mean([psi(v) if barrier else v for v in outside])

    got = regularise.block_features(FEATURES, targets(soft), 4, barrier, T)
    assert got.item() == pytest.approx(by_label(twin, soft), abs=1e-9)
    with pytest.raises(UsageError, match="3 channels cannot be split"):
        regularise.block_features(FEATURES[:, :3], LABELS, 4)


# All of them

PURE = {
    "ordinal_mean": lambda x, y: scores.ordinal_mean(x, y, ORDER, 0.1),
    "ordinal_mean_barrier": lambda x, y: scores.ordinal_mean(x, y, ORDER, 0.1, True, T),
    "ordinal_variance": lambda x, y: scores.ordinal_variance(x, ORDER, 0.1, True, T),
    "unimodality": lambda x, y: scores.unimodality(x, y, ORDER, T),
    "score_margin": lambda x, y: scores.score_margin(x, y, 0.1, T),
    "cost_sensitive": lambda x, y: scores.cost_sensitive(x, y, "none"),
    "kl_uniform": lambda x, y: scores.high_entropy(x, "kl_uniform"),
    "max_entropy": lambda x, y: scores.high_entropy(x),
    "generalised": lambda x, y: scores.high_entropy(x, "generalised"),
    "soft": lambda x, y: regularise.orthogonal(x, "double_soft"),
    "mutual_coherence": lambda x, y: regularise.orthogonal(x, "mutual_coherence"),
    "lowest_l1": lambda x, y: regularise.lowest(x, "l1", 0.5),
    "lowest_l2": lambda x, y: regularise.lowest(x, "l2", 0.5, 0.1, True, True, T),
    "attention_size": lambda x, y: regularise.attention_size(x[:, None, None], 0.2, 0.3, True, T),
    "orthogonal_features": lambda x, y: regularise.orthogonal_features(x, y, True, True),
    "block_features": lambda x, y: regularise.block_features(x, y, 4),
}


@pytest.mark.parametrize("name", PURE)
@pytest.mark.parametrize("soft", [False, True])
def test_gradcheck(name, soft):
    assert torch.autograd.gradcheck(lambda x: PURE[name](x, targets(soft)), (LOGITS.clone().requires_grad_(),))


def test_gradients_of_the_spectral_norm_and_of_the_attention_entropy():
    exact = torch.autograd.grad(regularise.orthogonal(leaf := LOGITS.clone().requires_grad_(), "srip", 500), leaf)[0]
    small = leaf if len(leaf) <= leaf.shape[1] else leaf.T
    norm = torch.linalg.matrix_norm(small @ small.T - torch.eye(4), 2).square()
    assert torch.allclose(exact, torch.autograd.grad(norm, leaf)[0], atol=1e-6)
    assert torch.autograd.gradcheck(regularise.attention_entropy, (MAPS.clone().requires_grad_(),))


@pytest.mark.parametrize("name", PURE)
@pytest.mark.parametrize("value", [0.0, 200.0, -200.0])
def test_finite_for_scores_of_any_size(name, value):
    leaf = torch.full((5, 4), value)
    leaf[:, 0] = -value
    leaf.requires_grad_()
    for y in (LABELS, SOFT.float()):
        loss = PURE[name](leaf, y)
        assert torch.isfinite(loss)
        assert torch.isfinite(torch.autograd.grad(loss, leaf)[0]).all()
