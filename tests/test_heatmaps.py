"""Landmark heatmaps: exact cells, equivariance, points outside, and weights of groups."""

import itertools
import math

import pytest
import tiny
import torch
from torch import Tensor

from mien.cues import CueConfig, render_cue
from mien.cues.config import LANDMARK_GROUPS
from mien.cues.heatmaps import cell_integral, gaussians, point_weights
from mien.errors import UsageError
from mien.faces.landmarks import GROUPS

FACE = torch.from_numpy(tiny.points(56)).double()[None]
SIGMA = torch.tensor([3.0], dtype=torch.float64)


def draw(points: Tensor, size: int, **settings: object) -> Tensor:
    config = CueConfig("landmarks", **settings)
    return render_cue(config, points.float(), torch.tensor([1]), image_size=(56, 56), size=(size, size)).maps


def test_separable_equals_brute_force():
    """Every cell is the double integral of a normal density, here as a mean over 60 x 60 places in it."""
    points = torch.tensor([[[10.0, 30.0], [33.3, 8.1], [60.0, -2.0]]], dtype=torch.float64)
    mine = gaussians(points, SIGMA, (56, 56), (7, 7), "sum")[0, 0]
    want = torch.zeros(7, 7, dtype=torch.float64)
    place = (torch.arange(60, dtype=torch.float64) + 0.5) / 60 * 8 - 0.5
    for (i, j), (x, y) in itertools.product(itertools.product(range(7), range(7)), points[0].tolist()):
        squares = (place + 8 * j - x)[None] ** 2 + (place + 8 * i - y)[:, None] ** 2
        want[i, j] += torch.exp(-squares / 18).mean() * 64 / (2 * math.pi * 9)
    assert torch.allclose(mine, want / want.max(), atol=1e-4)


@pytest.mark.parametrize("cells", [7, 14, 28])
def test_a_coarse_sum_is_the_area_average_of_the_fine_one(cells):
    fine = gaussians(FACE, SIGMA, (56, 56), (56, 56), "sum")
    pooled = torch.nn.functional.avg_pool2d(fine, 56 // cells)
    coarse = gaussians(FACE, SIGMA, (56, 56), (cells, cells), "sum")
    assert torch.allclose(coarse, pooled / pooled.max(), atol=1e-12)


@pytest.mark.parametrize("merge", ["sum", "max"])
def test_flip_and_quarter_turn_move_the_map_with_the_points(merge):
    plain = gaussians(FACE, SIGMA, (56, 56), (14, 14), merge)
    x, y = FACE.unbind(-1)
    flipped = gaussians(torch.stack([55 - x, y], -1), SIGMA, (56, 56), (14, 14), merge)
    turned = gaussians(torch.stack([y, 55 - x], -1), SIGMA, (56, 56), (14, 14), merge)  # counter-clockwise
    assert torch.allclose(flipped, plain.flip(-1), atol=1e-12)
    assert torch.allclose(turned, plain.rot90(1, (2, 3)), atol=1e-12)
    swapped = gaussians(torch.stack([y, x], -1), SIGMA, (56, 56), (14, 14), merge)  # (row, column) read as (x, y)
    assert torch.allclose(swapped, plain.transpose(2, 3), atol=1e-12)
    assert not torch.allclose(swapped, plain, atol=0.1)


def test_points_outside_leave_their_tail_at_the_near_border_only():
    outside = gaussians(torch.tensor([[[-3.0, 28.0]]], dtype=torch.float64), SIGMA, (56, 56), (14, 14))[0, 0]
    assert outside.argmax() % 14 == 0
    assert outside[:, 7:].max() < 1e-12
    mass = cell_integral(torch.tensor([-3.0], dtype=torch.float64), SIGMA, 56, 14).sum()
    assert 0.15 < mass < 0.3


def test_two_points_in_one_place_count_twice_in_a_sum_and_once_in_a_maximum():
    two = torch.tensor([[[10.0, 10.0], [10.0, 10.0], [40.0, 40.0]]], dtype=torch.float64)
    total, highest = (gaussians(two, SIGMA, (56, 56), (56, 56), merge)[0, 0] for merge in ("sum", "max"))
    assert total[40, 40].item() == pytest.approx(0.5, abs=1e-6)
    assert highest[40, 40].item() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("merge", ["sum", "max"])
def test_group_weights_twin(merge):
    """Each point by itself, times the factor of its group, summed or the largest taken, divided by the peak."""
    groups = {"mouth": 2.0, "eyes": 0.5, "nose": 0.0}
    mine = draw(FACE, 14, merge=merge, groups=groups, jaw=True)
    distance = torch.linalg.vector_norm(FACE[0, 45] - FACE[0, 36])
    parts = []
    for name, members in GROUPS.items():
        for k in members:
            across, down = (cell_integral(FACE[0, k, axis], 0.06 * distance, 56, 14) for axis in (0, 1))
            parts.append(groups.get(name, 1.0) * down[:, None] * across)
    whole = torch.stack(parts).sum(0) if merge == "sum" else torch.stack(parts).amax(0)
    assert torch.allclose(mine[0, 0].double(), whole / whole.max(), atol=1e-5)


def test_a_group_that_is_left_out_need_not_be_known():
    unknown = FACE.clone()
    unknown[0, 27:36] = float("nan")
    config = CueConfig("landmarks", groups={"nose": 0.0})
    cue = render_cue(config, unknown.float(), torch.tensor([1]), image_size=(56, 56), size=(7, 7))
    assert cue.valid.all()
    assert torch.equal(cue.maps, draw(FACE, 7, groups={"nose": 0.0}))
    assert not render_cue(
        CueConfig("landmarks"), unknown.float(), torch.tensor([1]), image_size=(56, 56), size=(7, 7)
    ).valid.any()


def test_without_groups_nothing_changes():
    assert torch.equal(draw(FACE, 14), draw(FACE, 14, groups=dict.fromkeys(("brows", "nose", "eyes", "mouth"), 1.0)))
    assert {name: tuple(range(*ends)) for name, ends in LANDMARK_GROUPS.items()} == GROUPS
    assert point_weights(CueConfig("landmarks")) == [0.0] * 17 + [1.0] * 51


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"groups": {"mouht": 2.0}}, "Did you mean 'mouth'"),
        ({"groups": {"mouth": -1.0}}, "must be 0 or more"),
        ({"groups": {"mouth": float("nan")}}, "must be 0 or more"),
        ({"groups": {"jaw": 1.0}}, "cue.jaw"),
        ({"groups": dict.fromkeys(("brows", "nose", "eyes", "mouth"), 0.0)}, "nothing is drawn"),
    ],
)
def test_wrong_groups_are_told(settings, words):
    with pytest.raises(UsageError, match=words):
        CueConfig("landmarks", **settings)
