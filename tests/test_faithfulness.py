"""Deletion, insertion and randomised models: loop twins, answers known beforehand, and the model left alone."""

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

from mien.errors import UsageError
from mien.metrics.faithfulness import (
    FILLS,
    blurred,
    deletion_insertion,
    importance_rank,
    map_similarity,
    mean_colour,
    randomised,
)


class Corner(nn.Module):
    """Says class 1 as far as the upper left quarter of the image is bright."""

    def forward(self, images: Tensor) -> Tensor:
        bright = images[:, :, :4, :4].mean(dim=(1, 2, 3)).clamp(0, 1)
        return torch.stack((1 - bright, bright), 1)


def face(batch: int = 2) -> Tensor:
    images = torch.zeros(batch, 3, 8, 8)
    images[:, :, :4, :4] = 1
    return images


def twin(images: Tensor, maps: Tensor, target: Tensor, steps: int) -> dict[str, list[float]]:
    """Pixel by pixel, for maps without ties at the size of the image."""
    scores: dict[str, list[float]] = {"deletion": [], "insertion": []}
    for image, map_, k in zip(images, maps, target, strict=True):
        order = sorted(range(64), key=lambda p, m=map_: -float(m.flatten()[p]))
        for name, start, end in (
            ("deletion", image, mean_colour(image[None])[0]),
            ("insertion", blurred(image[None])[0], image),
        ):
            curve = []
            for step in range(steps + 1):
                picture = start.clone()
                for pixel in order[: -(-step * 64 // steps)]:
                    picture[:, pixel // 8, pixel % 8] = end[:, pixel // 8, pixel % 8]
                curve.append(float(Corner()(picture[None])[0, k]))
            area = sum((a + b) / 2 for a, b in itertools.pairwise(curve)) / steps
            scores[name].append(area)
    return scores


@pytest.mark.parametrize("steps", [1, 3, 64])
def test_loop_twin(steps):
    generator = torch.Generator().manual_seed(0)
    images, maps = torch.rand(3, 3, 8, 8, generator=generator), torch.rand(3, 1, 8, 8, generator=generator)
    target = torch.tensor([0, 1, 1])
    ours = deletion_insertion(Corner(), images, maps, target, steps=steps)
    for name, values in twin(images, maps, target, steps).items():
        torch.testing.assert_close(ours[name], torch.tensor(values))


def test_the_right_map_beats_its_inverse_and_chance():
    images, right = face(), face()[:, :1]
    target = torch.ones(2, dtype=torch.int64)
    scores = {
        name: {k: float(v[0]) for k, v in deletion_insertion(Corner(), images, m, target).items()}
        for name, m in {"right": right, "wrong": -right, "random": torch.rand(2, 1, 8, 8)}.items()
    }
    assert scores["right"]["deletion"] < scores["random"]["deletion"] < scores["wrong"]["deletion"]
    assert scores["right"]["insertion"] > scores["random"]["insertion"] > scores["wrong"]["insertion"]


def test_one_image_alone_scores_the_same():
    images, maps = torch.rand(3, 3, 8, 8), torch.rand(3, 1, 2, 2).round()  # resized, with ties
    target = torch.tensor([0, 1, 0])
    whole = deletion_insertion(Corner(), images, maps, target, steps=5)
    for i in range(3):
        alone = deletion_insertion(Corner(), images[i : i + 1], maps[i : i + 1], target[i : i + 1], steps=5)
        assert all(torch.allclose(alone[name], whole[name][i]) for name in whole)


def test_rank():
    assert importance_rank(torch.tensor([[[[3.0, 9.0], [1.0, 4.0]]]])).flatten().tolist() == [2, 0, 3, 1]
    flat = importance_rank(torch.zeros(2, 1, 4, 4))
    assert sorted(flat[0].flatten().tolist()) == list(range(16))
    assert flat[0].flatten().tolist() != list(range(16))  # ties do not run from top to bottom
    assert torch.equal(flat[0], flat[1])
    assert torch.equal(flat, importance_rank(torch.full((2, 1, 4, 4), float("nan"))))


def test_fills():
    images = torch.rand(2, 3, 20, 30)
    assert torch.allclose(mean_colour(images)[1, 2], images[1, 2].mean())
    constant = torch.full((1, 3, 20, 30), 0.4)
    for fill in FILLS.values():
        assert fill(images).shape == images.shape
        assert torch.allclose(fill(constant), constant, atol=1e-6)
        assert torch.allclose(fill(images).flip(3), fill(images.flip(3)), atol=1e-6)
    assert blurred(images).std() < images.std() / 5
    spike = torch.zeros(1, 1, 21, 21)
    spike[..., 10, 10] = 1
    distance = (torch.arange(21.0) - 10) ** 2
    kernel = (-distance / (2 * 2.1**2)).exp() * (distance <= 49)
    kernel = kernel / kernel.sum()
    assert torch.allclose(blurred(spike)[0, 0], kernel[:, None] * kernel, atol=1e-6)


def test_bad_requests():
    images, maps, target = face(), face()[:, :1], torch.ones(2, dtype=torch.int64)
    with pytest.raises(UsageError, match="steps is 0"):
        deletion_insertion(Corner(), images, maps, target, steps=0)
    with pytest.raises(UsageError, match="Did you mean 'blur'"):
        deletion_insertion(Corner(), images, maps, target, insertion_fill="blurr")
    with pytest.raises(UsageError, match="unknown part"):
        randomised(nn.Linear(2, 2), "tail")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.LayerNorm([8, 6, 6]))
        self.head = nn.Linear(8, 4)


def test_similarity_to_a_flat_map_is_undefined():
    """A random net without evidence has proved nothing: an empty or constant map on either side is no passed test."""
    own, twin = torch.rand(4, 1, 6, 6), torch.rand(4, 1, 6, 6)
    own[1], twin[2], twin[3] = 0, 0, 0.3 + 1e-9 * torch.rand(1, 6, 6)
    found = map_similarity(own, twin)
    assert found.isnan().tolist() == [False, True, True, True]
    a, b = own[0].flatten().double().numpy(), twin[0].flatten().double().numpy()
    top = sum((x - a.mean()) * (y - b.mean()) for x, y in zip(a, b, strict=True))
    below = sum((x - a.mean()) ** 2 for x in a) * sum((y - b.mean()) ** 2 for y in b)
    assert found[0].item() == pytest.approx(top / below**0.5, abs=1e-5)
    assert map_similarity(own[:1] * 1e-20, twin[:1])[0].item() == pytest.approx(found[0].item(), abs=1e-5)


def test_randomised():
    torch.manual_seed(0)
    model = Net()
    model.backbone[1].running_mean += 3
    before = copy.deepcopy(model.state_dict())
    for part in ("head", "all"):
        twin, again, other = randomised(model, part), randomised(model, part), randomised(model, part, seed=1)
        assert not torch.equal(twin.head.weight, model.head.weight)
        assert torch.equal(twin.head.weight, again.head.weight)
        assert not torch.equal(twin.head.weight, other.head.weight)
        assert sorted(twin.head.bias.tolist()) == sorted(model.head.bias.tolist())
        kept = torch.equal(twin.backbone[0].weight, model.backbone[0].weight)
        assert kept == (part == "head")
        assert float(twin.backbone[1].running_mean.abs().max()) == (0 if part == "all" else 3)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
