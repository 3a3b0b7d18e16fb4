"""Regions, shares, densities and effects, each against a loop written from its definition."""

import cv2
import numpy as np
import pytest
import tiny
import torch

from mien.config import ModelConfig
from mien.cues.config import FACE_REGIONS
from mien.cues.regions import anchors, face_regions, unit_maps, unit_names
from mien.errors import UsageError
from mien.explain import explain
from mien.metrics.faithfulness import blurred
from mien.models import create_model
from mien.predict.contrast import class_contrast, densities, effects, masked, runner_up, shares

SIZE = (64, 48)


def landmarks(count: int = 2) -> torch.Tensor:
    """Faces of several sizes and turns inside a picture of 64 x 48 pixels."""
    made = []
    for k in range(count):
        turn = 0.3 * k
        move = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) * (0.9 - 0.2 * k)
        made.append((tiny.points(48) - 24) @ move.T + [24, 32])
    return torch.from_numpy(np.stack(made)).float()


def test_a_place_has_the_region_of_its_nearest_anchor():
    points = landmarks()
    grid = 24
    regions, valid = face_regions(points, SIZE, grid)
    assert valid.tolist() == [True, True]
    assert torch.equal(regions.sum(1), torch.ones(2, grid, grid))
    places, owner = anchors(points)
    for k in range(2):
        rim = np.concatenate([points[k, :17].numpy(), places[k, :10].numpy()])
        hull = cv2.convexHull(rim.astype(np.float32))
        for i in range(grid):
            for j in range(grid):
                x, y = (j + 0.5) * SIZE[1] / grid - 0.5, (i + 0.5) * SIZE[0] / grid - 0.5
                distance = cv2.pointPolygonTest(hull, (x, y), True)
                if abs(distance) < 1e-3:
                    continue
                nearest = int(owner[np.hypot(*(places[k].numpy() - [x, y]).T).argmin()])
                expected = FACE_REGIONS[nearest] if distance > 0 else "elsewhere"
                assert regions[k, FACE_REGIONS.index(expected), i, j] == 1


def test_regions_lie_where_their_names_say():
    points = torch.from_numpy(tiny.points(56))[None]
    regions = face_regions(points, (56, 56))[0][0]
    heights = {
        name: float((regions[k].sum(1) * torch.arange(56)).sum() / regions[k].sum())
        for k, name in enumerate(FACE_REGIONS)
    }
    order = ["forehead", "brows", "eyes", "nose", "mouth", "chin"]
    assert sorted(order, key=heights.get) == order
    cheeks = regions[FACE_REGIONS.index("cheeks")].sum(0)
    assert cheeks[:20].sum() == pytest.approx(float(cheeks[36:].sum()), rel=0.1)
    assert cheeks[27:29].sum() == 0
    upside_down = torch.stack([points[..., 0], 55 - points[..., 1]], -1)
    turned = face_regions(upside_down, (56, 56))[0][0].flip(1)
    assert (turned != regions).float().mean() < 0.01


def test_unknown_landmarks_have_no_regions():
    points = landmarks()
    points[0, 36] = torch.nan
    points[1] = 1e12
    regions, valid = face_regions(points, SIZE)
    assert valid.tolist() == [False, True]
    assert torch.equal(regions.sum(1), torch.ones(2, 56, 56))
    drawn, known = unit_maps("corrected", points, SIZE, (8, 8))
    assert drawn.isfinite().all()
    assert not known[0].any()


@pytest.mark.parametrize("codebook", ["corrected", "paper"])
def test_unit_maps_are_the_cue_of_one_unit(codebook):
    names = unit_names(codebook)
    drawn, valid = unit_maps(codebook, landmarks(1), SIZE, (16, 12))
    assert drawn.shape == (1, len(names), 16, 12)
    assert valid.any()
    rows = torch.arange(16, dtype=torch.float32)
    height = {
        name: float((drawn[0, k].sum(1) * rows).sum() / drawn[0, k].sum())
        for k, name in enumerate(names)
        if valid[0, k]
    }
    assert height["AU4"] < height["AU12"] < 16


def test_runner_up():
    p = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [1.0, 0.0, 0.0]])
    assert runner_up(p, torch.tensor([0, 0, 0])).tolist() == [1, 2, 1]


def test_shares_by_a_loop():
    draws = torch.Generator().manual_seed(0)
    maps = torch.randn(3, 1, 4, 4, generator=draws)
    maps[2] = -1
    regions = (
        torch.nn.functional.one_hot(torch.randint(0, 5, (3, 8, 8), generator=draws), 5).permute(0, 3, 1, 2).float()
    )
    found = shares(maps, regions)
    for b in range(3):
        total = sum(max(float(v), 0) for v in maps[b].flatten())
        for r in range(5):
            mass = sum(
                max(float(maps[b, 0, i // 2, j // 2]), 0) / 4 for i in range(8) for j in range(8) if regions[b, r, i, j]
            )
            assert float(found[b, r]) == pytest.approx(mass / total if total else 0.0, abs=1e-5)
    assert found[:2].sum(1).tolist() == pytest.approx([1, 1])


def test_densities_by_a_loop():
    draws = torch.Generator().manual_seed(1)
    contrast, units = torch.randn(3, 1, 5, 4, generator=draws), torch.rand(3, 6, 5, 4, generator=draws)
    units[1, 2], contrast[2] = 0, 0
    found = densities(contrast, units)
    for b in range(3):
        c = contrast[b, 0].numpy()
        scale = np.abs(c).mean()
        for u in range(6):
            w = units[b, u].numpy()
            expected = (c * w).sum() / w.sum() / scale if w.sum() and scale else 0.0
            assert float(found[b, u]) == pytest.approx(float(expected), abs=1e-5)


def test_masking_and_its_effect_by_a_loop():
    draws = torch.Generator().manual_seed(2)
    images = torch.randn(2, 3, 16, 16, generator=draws)
    weight = torch.randn(3 * 16 * 16, 4, generator=draws) * 0.01
    regions = (
        torch.nn.functional.one_hot(torch.randint(0, 3, (2, 8, 8), generator=draws), 3).permute(0, 3, 1, 2).float()
    )
    target = torch.tensor([1, 3])

    def probability(pictures, rows):
        assert len(pictures) == len(rows)
        return (pictures.flatten(1) @ weight).softmax(1)

    whole = probability(images, range(2)).gather(1, target[:, None])[:, 0]
    found = effects(probability, images, regions, target, whole, chunk=4)
    soft = blurred(images)
    for b in range(2):
        before = float(probability(images[b : b + 1], [0])[0, target[b]])
        for r in range(3):
            changed = images[b].clone()
            for i in range(16):
                for j in range(16):
                    if regions[b, r, i // 2, j // 2]:
                        changed[:, i, j] = soft[b, :, i, j]
            assert torch.allclose(masked(images, regions)[b, r], changed)
            after = float(probability(changed[None], [0])[0, target[b]])
            assert float(found[b, r]) == pytest.approx(before - after, abs=1e-6)
    mean = masked(images, regions, "mean")
    assert torch.allclose(
        mean[0, 0][:, regions[0, 0].repeat_interleave(2, 0).repeat_interleave(2, 1) == 1].mean(1),
        images[0].mean((1, 2)),
        atol=1e-5,
    )


def net(**options):
    torch.manual_seed(0)
    config = ModelConfig(
        backbone="resnet10t", size=32, stem_pool=False, output_stride=8, channels=[8, 8, 8, 8], **options
    )
    return create_model(config, 7).eval()


def test_contrast_adds_up_to_the_difference_of_the_logits():
    model, images = net(), torch.randn(3, 3, 32, 32)
    first, second = torch.tensor([0, 1, 2]), torch.tensor([3, 0, 6])
    with torch.no_grad():
        output = model(images)
    contrast = class_contrast(model, images, output, first, second)
    rows, bias = torch.arange(3), model.head.bias.detach()
    difference = (output.logits - bias)[rows, first] - (output.logits - bias)[rows, second]
    assert torch.allclose(contrast.mean((1, 2, 3)), difference, atol=1e-5)
    assert torch.allclose(class_contrast(model, images, output, second, first), -contrast)


def test_contrast_of_a_head_without_class_maps():
    model, images = net(head="mlp", head_options={"hidden1": 8, "hidden2": 0}), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        output = model(images)
    first, second = torch.tensor([0, 1]), torch.tensor([2, 2])
    found = class_contrast(model, images, output, first, second)
    one, other = (explain(model, images, k, ("hires_cam",))["hires_cam"] for k in (first, second))
    assert torch.equal(found, one - other)


def test_no_contrast_where_no_gradient_reaches(monkeypatch):
    def refuse(*_, **__):
        raise UsageError("no gradient reaches this layer.")

    model, images = net(head="mlp"), torch.randn(1, 3, 32, 32)
    output = model(images)
    monkeypatch.setattr("mien.predict.contrast.explain", refuse)
    assert class_contrast(model, images, output, torch.tensor([0]), torch.tensor([1])) is None
