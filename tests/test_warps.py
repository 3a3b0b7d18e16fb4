"""Pictures of spatial transformers: geometry against a loop, drawings by what must be seen in them."""

import numpy as np
import pytest
import test_errors
import torch

from mien.errors import DataError
from mien.report import warps
from mien.report.places import class_picture, face_picture, places_section
from mien.report.runs import Group

IDENTITY = torch.eye(2, 3)[None]


def some(batch: int = 3, seed: int = 0) -> torch.Tensor:
    noise = torch.randn(batch, 2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return IDENTITY.double() + 0.2 * noise


def test_identity_sees_the_picture():
    images = torch.rand(2, 3, 9, 7)
    assert torch.allclose(warps.sampled(images, IDENTITY.repeat(2, 1, 1)), images, atol=1e-6)


def test_places_like_a_loop():
    theta, (height, width), lines = some(), (11, 17), 4
    found = warps.places(theta, (height, width), lines)
    for b in range(3):
        for r in range(lines):
            for c in range(lines):
                u, v = -1 + 2 * c / (lines - 1), -1 + 2 * r / (lines - 1)
                x, y = theta[b].numpy() @ np.array([u, v, 1])
                slow = ((x + 1) * width / 2 - 0.5, (y + 1) * height / 2 - 0.5)
                assert found[b, r, c].numpy() == pytest.approx(slow)


def test_places_are_where_the_samples_come_from():
    """A picture that says its own x and y: the sample in the middle of each pixel is the place that is drawn."""
    size = 12
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    pictures = torch.stack((x, y)).double()[None].repeat(3, 1, 1, 1)
    theta = some() * 0.5  # well inside, where nothing is padded
    seen = warps.sampled(pictures, theta)
    edges = warps.places(theta, (size, size), size + 1)
    middles = (edges[:, :-1, :-1] + edges[:, 1:, 1:]) / 2
    assert torch.allclose(seen.permute(0, 2, 3, 1), middles)


def test_outside_is_grey():
    seen = warps.sampled(torch.ones(1, 3, 8, 8), 3 * IDENTITY, outside=0.25)
    assert seen[0, :, 0, 0].tolist() == [0.25] * 3
    assert seen[0, :, 4, 4].tolist() == [1.0] * 3


def test_sheets_show_what_a_masked_net_and_a_border_give():
    images, guides = torch.rand(2, 3, 16, 16), torch.zeros(2, 1, 16, 16)
    theta, labels = 1.5 * IDENTITY.repeat(2, 1, 1), torch.tensor([0, 1])
    black, plain = (warps.sheet(images, theta, guides, masked=way, padding="border", cell=64) for way in (True, False))
    counts = [int((picture == 0).all(-1).sum()) for picture in (black, plain)]
    assert counts[0] - counts[1] > 0.9 * 2 * 64**2  # what the net sees of two faces behind a black guide
    grey, border = (warps.class_sheet(images, theta, labels, ["a", "b"], padding=way) for way in ("zeros", "border"))
    assert not np.array_equal(grey, border)
    seen = warps.sampled(torch.ones(1, 3, 8, 8), 3 * IDENTITY, "border")
    assert torch.allclose(seen, torch.ones_like(seen))


def test_parts():
    angle, side = np.deg2rad(20), 0.7
    cos, sin = side * np.cos(angle), side * np.sin(angle)
    theta = torch.tensor([[[cos, -sin, 0.1], [sin, cos, -0.2]], [[2.0, 0, 0], [0, 0.5, 0]]])
    found = warps.parts(theta)
    assert found["side"].tolist() == pytest.approx([0.7, 1])
    assert found["turn"].tolist() == pytest.approx([20, 0], abs=1e-4)
    assert found["stretch"].tolist() == pytest.approx([1, 4], abs=1e-5)
    assert (found["right"][0].item(), found["down"][0].item()) == pytest.approx((0.1, -0.2))
    top = warps.places(theta[:1], (9, 9), 2)[0, 0]
    assert top[1, 1] > top[0, 1]  # a positive turn is clockwise on the screen


def test_mean_theta_class_by_class():
    theta, labels = some(5), torch.tensor([0, 2, 0, 2, 2])
    mean, spread = warps.mean_theta(theta, labels, 3)
    for k in (0, 2):
        assert torch.allclose(mean[k], theta[labels == k].mean(0))
        assert torch.allclose(spread[k], theta[labels == k].std(0, correction=0))
    assert mean[1].isnan().all()


def test_in_words():
    assert warps.in_words(torch.eye(2, 3)) == "side 1.00\nturn +0°\nright +0.00\ndown +0.00"
    assert "right −0.25" in warps.in_words(torch.tensor([[1.0, 0, -0.25], [0, 1, 0]]))
    assert warps.in_words(torch.full((2, 3), float("nan"))) == "not finite"
    assert warps.in_words(torch.zeros(2, 3)).startswith("side 0.00")


def test_the_grid_lies_where_theta_reads():
    """Half the picture, shifted right and down by half of it: ink in the lower right quarter only."""
    picture = np.zeros((40, 40, 3), np.uint8)
    theta = torch.tensor([[[0.5, 0, 0.5], [0, 0.5, 0.5]]])
    drawn = warps.with_grid(picture, warps.places(theta, (40, 40))[0].numpy(), 200)
    start = round(warps.MARGIN * 200)
    inside = drawn[start : start + 200, start : start + 200].astype(int)
    red = inside[..., 0] > 100
    assert red[95:105, 150].any()
    assert red[150, 95:105].any()
    assert not red[:95, :].any()
    assert not red[:, :95].any()


@pytest.mark.parametrize("guided", [True, False])
def test_sheets(guided):
    images, theta = torch.rand(5, 3, 24, 24), some(5).float()
    theta[0] = float("nan")
    theta[1] = 1e9
    guides = torch.rand(5, 1, 24, 24) if guided else None
    rows = 3 if guided else 2
    names = ["Neutral", "Positive", "Negative"]
    for sheet in (
        warps.sheet(images, theta, guides, [f"face {k}" for k in range(5)], cell=40),
        warps.class_sheet(images, theta, torch.tensor([0, 0, 1, 1, 1]), names, guides, cell=40),
    ):
        assert sheet.dtype == np.uint8
        assert sheet.shape[0] > rows * 40
        assert sheet.std() > 10


def test_mean_of_a_class_is_over_all_faces_though_some_are_drawn():
    images, theta, labels = torch.rand(6, 3, 24, 24), some(6).float(), torch.tensor([0, 1, 0, 1, 0, 1])
    rows, names = torch.tensor([0, 1]), ["Neutral", "Positive"]
    part = warps.class_sheet(images[rows], theta, labels, names, rows=rows, cell=40)
    other = theta.clone()
    other[5] += 0.5
    assert (part != warps.class_sheet(images[rows], other, labels, names, rows=rows, cell=40)).any()
    whole = warps.class_sheet(images, theta, labels, names, cell=40)
    assert (whole == warps.class_sheet(images, theta, labels, names, rows=torch.arange(6), cell=40)).all()
    with pytest.raises(DataError, match="must be"):
        warps.class_sheet(images, theta, labels, names, rows=rows)


class DrawnFaces:
    """What the report reads from a store."""

    def images(self, which: np.ndarray) -> np.ndarray:
        return np.repeat(which.astype(np.uint8)[:, None, None, None] * 4, 24, 1).repeat(24, 2).repeat(3, 3)

    def cues(self, which: np.ndarray) -> np.ndarray:
        return np.full((len(which), 24, 24), 0.5)


def test_pictures_of_the_report():
    """Typical face of a class: the median by the distance of its theta from the class's mean."""
    theta = np.repeat(np.eye(2, 3)[None], 60, axis=0)
    theta[:, 0, 2] = np.linspace(-0.5, 0.5, 60)
    run = test_errors.made("stn", 0, theta=theta)
    group, faces = Group("stn", [run]), DrawnFaces()
    assert class_picture(group, faces).std() > 10
    assert face_picture(group, faces).std() > 10
    assert places_section([group]) == []  # no store where the recipe says: no pictures
    assert places_section([Group("plain", [test_errors.made("plain", 0)])]) == []


def test_grey_pictures_are_taken():
    assert warps.sheet(torch.rand(2, 1, 20, 20), IDENTITY.repeat(2, 1, 1), cell=32).ndim == 3


def test_wrong_shapes_are_one_line():
    with pytest.raises(DataError, match=r"theta \(1, 2, 3\) and images \(2, 3, 8, 8\)"):
        warps.sheet(torch.rand(2, 3, 8, 8), IDENTITY)
