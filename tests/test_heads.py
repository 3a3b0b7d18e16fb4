"""Heads: every pooling against loops written from the papers, options, labels, corners."""

import math

import pytest
import torch
from torch import Tensor

from mien.config import ModelConfig
from mien.errors import UsageError
from mien.models import HEADS, create_model
from mien.models.heads import AcolHead, MlpHead, WildcatHead
from mien.models.pooling import log_sum_exp, max_pool, peak_pool, wildcat_pool
from mien.schema import Layers

CHANNELS, CLASSES = 6, 4
MAP_HEADS = [name for name in HEADS if name != "cls"]  # those that read the last layer
SMALL = {"acol": {"width": 8}, "mlp": {"hidden1": 16, "hidden2": 8}}


def make(name: str, drop: float = 0.0, cells: int = 20) -> torch.nn.Module:
    torch.manual_seed(0)
    return HEADS[name](CHANNELS * (cells if name == "flat" else 1), CLASSES, drop, **SMALL.get(name, {}))


def features(batch: int = 3, side: tuple[int, int] = (5, 4), seed: int = 1) -> Tensor:
    return torch.randn(batch, CHANNELS, *side, generator=torch.Generator().manual_seed(seed)).relu()


def each_map(maps: Tensor, pool) -> Tensor:
    """(B, K) of a function of one map as a list of rows."""
    rows = [[pool(map_.tolist()) for map_ in sample] for sample in maps]
    return torch.tensor(rows, dtype=torch.float64)


def lse_loop(rows: list[list[float]]) -> float:
    values = [value for row in rows for value in row]
    return math.log(sum(math.exp(10 * v) for v in values) / len(values)) / 10


def wildcat_loop(rows: list[list[float]]) -> float:
    values = sorted((value for row in rows for value in row), reverse=True)
    top, low = round(0.5 * len(values)), round(0.1 * len(values))
    return (sum(values[:top]) / top + 0.6 * sum(values[-low:]) / low) / 2


def peak_loop(rows: list[list[float]]) -> float:
    height, width, total = len(rows) - 2, len(rows[0]) - 2, 0.0
    for y in range(height):
        for x in range(width):
            total += max(rows[y + i][x + j] for i in range(3) for j in range(3))
    return total / (height * width)


@pytest.mark.parametrize(
    ("pool", "loop"),
    [
        (max_pool, lambda rows: max(max(row) for row in rows)),
        (lambda maps: log_sum_exp(maps, 10.0), lse_loop),
        (lambda maps: wildcat_pool(maps, 0.5, 0.1, 0.6), wildcat_loop),
        (peak_pool, peak_loop),
    ],
    ids=["max_pool", "lse", "wildcat", "prm"],
)
def test_pooling_twins(pool, loop) -> None:
    maps = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(pool(maps).double(), each_map(maps, loop), atol=1e-6)


def test_lse_lies_between_mean_and_maximum_and_does_not_overflow() -> None:
    maps = torch.randn(2, 3, 5, 4)
    assert torch.allclose(log_sum_exp(maps, 1e-3), maps.mean((2, 3)), atol=1e-2)
    assert torch.allclose(log_sum_exp(maps, 1e3), maps.amax((2, 3)), atol=1e-2)
    assert torch.isfinite(log_sum_exp(1e4 * maps, 10.0)).all()


def test_the_lowest_pixels_count_in_wildcat() -> None:
    """The term that the published code computes and loses."""
    maps = torch.randn(1, 1, 4, 4)
    lower = maps - 5 * (maps == maps.amin()).float()
    assert wildcat_pool(lower, 0.5, 0.1, 0.6) < wildcat_pool(maps, 0.5, 0.1, 0.6)
    assert torch.equal(wildcat_pool(lower, 0.5, 0.0, 0.6), wildcat_pool(maps, 0.5, 0.1, 0.0))


def test_wildcat_maps_are_the_mean_over_the_maps_of_a_class() -> None:
    head = WildcatHead(CHANNELS, CLASSES, maps=3)
    out = head(Layers((features(),)))
    every = head.classifier(features())
    for k in range(CLASSES):
        assert torch.allclose(out.maps[:, k], sum(every[:, 3 * k + m] for m in range(3)) / 3, atol=1e-6)


@pytest.mark.parametrize("side", [(7, 7), (3, 2), (1, 1)], ids=str)
@pytest.mark.parametrize("name", MAP_HEADS)
def test_contract(name: str, side: tuple[int, int]) -> None:
    """Shapes, finite, a batch is its faces one by one, the gradient reaches the features; constant features too."""
    head = make(name, cells=math.prod(side)).eval()
    for given in (torch.zeros(3, CHANNELS, *side), features(side=side)):
        given.requires_grad_()
        out = head(Layers((given,)))
        assert out.logits.shape == (3, CLASSES)
        assert out.maps is None or out.maps.shape == (3, CLASSES, *side)
        for tensor in (out.logits, *out.branches, *([] if out.maps is None else [out.maps])):
            assert torch.isfinite(tensor).all()
        (slope,) = torch.autograd.grad(out.logits.sum() + sum(b.sum() for b in out.branches), given)
        assert torch.isfinite(slope).all()
        singles = torch.cat([head(Layers((one[None],))).logits for one in given])
        assert torch.allclose(singles, out.logits, atol=1e-5)
    assert slope.abs().sum() > 0


@pytest.mark.parametrize("name", MAP_HEADS)
def test_only_acol_uses_labels_and_none_needs_them(name: str) -> None:
    head, given = make(name).eval(), Layers((features(),))
    without, *by_class = (head(given, labels) for labels in (None, *torch.arange(CLASSES)[:, None].expand(-1, 3)))
    assert all(torch.equal(out.logits, without.logits) for out in by_class)
    changed = any(not torch.equal(a, b) for o in by_class for a, b in zip(o.branches, without.branches, strict=True))
    assert changed == (name == "acol")


@pytest.mark.parametrize("name", MAP_HEADS)
def test_dropout_works_in_training_only(name: str) -> None:
    head, given = make(name, drop=0.5), Layers((features(),))
    assert not torch.equal(head(given).logits, head(given).logits)
    assert torch.equal(head.eval()(given).logits, make(name).eval()(given).logits)


def test_acol_twin() -> None:
    """Sample by sample, pixel by pixel: erase where the normalised true-class map of A reaches the threshold."""
    head = AcolHead(CHANNELS, CLASSES, threshold=0.6, width=8).eval()
    given, labels = features(), torch.tensor([2, 0, -1])
    out = head(Layers((given,)), labels)
    for b in range(3):
        first = head.branch_a(given[b : b + 1])[0]
        label = int(labels[b]) if labels[b] >= 0 else int(first.mean((1, 2)).argmax())
        erased = given[b].clone()
        low, high = first[label].min(), first[label].max()
        for y in range(5):
            for x in range(4):
                if (first[label, y, x] - low) / (high - low) >= 0.6:
                    erased[:, y, x] = 0
        second = head.branch_b(erased[None])[0]
        assert torch.allclose(out.logits[b], first.mean((1, 2)), atol=1e-6)
        assert torch.allclose(out.branches[0][b], second.mean((1, 2)), atol=1e-6)
        for k in range(CLASSES):
            both = [(m[k] - m[k].min()) / (m[k].max() - m[k].min()) for m in (first, second)]
            assert torch.allclose(out.maps[b, k], torch.maximum(*both), atol=1e-5)


def test_mlp_flattens_like_vgg_and_differentiates_twice() -> None:
    head = MlpHead(CHANNELS, CLASSES, hidden1=16, hidden2=0, flatten=True).eval()
    given = features(side=(14, 14))
    pool5 = torch.nn.functional.max_pool2d(given, 2, 2).flatten(1)
    assert torch.equal(head(Layers((given,))).logits, head.layers(pool5))
    assert [tuple(p.shape) for p in head.layers.parameters()] == [(16, CHANNELS * 49), (16,), (CLASSES, 16), (CLASSES,)]
    given.requires_grad_()
    logits = head(Layers((given,))).logits
    (slope,) = torch.autograd.grad(logits[:, 1].sum(), given, create_graph=True)
    (slope * given).sum().backward()
    assert head.layers[0].weight.grad.abs().sum() > 0
    published = create_model(ModelConfig(backbone="test_resnet", size=32, head="mlp"), 7).head.layers
    assert [layer.out_features for layer in published if isinstance(layer, torch.nn.Linear)] == [4096, 4096, 7]


@pytest.mark.parametrize(("flatten", "side"), [(False, (5, 4)), (True, (7, 7)), (True, (14, 14))])
def test_the_chain_of_an_mlp_is_its_gradient(flatten: bool, side: tuple[int, int]) -> None:
    from mien.losses.attribution import chain_gradient

    head = MlpHead(CHANNELS, CLASSES, drop=0.5, hidden1=8, hidden2=8, flatten=flatten)
    given = features(side=side).requires_grad_()
    assert head.chain(given) is None  # dropout
    chain = head.eval().chain(given)
    if side == (14, 14):  # pooling to 7x7 is none of the linear layers
        assert chain is None
        return
    logits = head(Layers((given,))).logits
    (expected,) = torch.autograd.grad(logits[:, 2].sum(), given)
    slope = torch.eye(CLASSES)[[2, 2, 2]]
    assert torch.allclose(chain_gradient(chain, given, slope), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("head", "option", "value"),
    [
        ("wildcat", "maps", 0), ("wildcat", "maps", 2.5), ("wildcat", "kmax", 0), ("wildcat", "kmax", 1.5),
        ("wildcat", "kmin", -0.1), ("wildcat", "alpha", -1), ("lse", "r", 0), ("acol", "threshold", 0),
        ("acol", "threshold", 2), ("acol", "width", 0), ("mlp", "hidden1", 0), ("mlp", "hidden2", -1),
        ("lse", "r", math.nan), ("prm", "r", 1), ("acol", "treshold", 0.5),
    ],
)  # fmt: skip
def test_bad_options_are_one_line(head: str, option: str, value: float) -> None:
    with pytest.raises(UsageError) as caught:
        create_model(ModelConfig(backbone="test_resnet", size=32, head=head, head_options={option: value}), 7)
    assert option in str(caught.value)
    assert "\n" not in str(caught.value)
