"""Error by region and readings of action units against the picture that a change should have made, by loops."""

import numpy as np
import pytest
import torch

from mien.errors import DataError
from mien.metrics.action_units import pearson
from mien.metrics.counterfactual import correlation_interval, face_texture, region_mean, region_psnr, ssim_map


def pictures(seed: int, batch: int = 2, size: int = 14) -> torch.Tensor:
    return (
        torch.rand(batch, 3, size, size + 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1
    )


def test_region_psnr_by_a_loop():
    one, other = pictures(0), pictures(1)
    mask = torch.zeros(2, 14, 16, dtype=torch.bool)
    mask[0, 3:7, 2:5] = True
    found = region_psnr(one, other, mask)
    errors = [
        float((one[0, c, y, x] - other[0, c, y, x]) ** 2) for c in range(3) for y in range(3, 7) for x in range(2, 5)
    ]
    assert float(found[0]) == pytest.approx(10 * np.log10(4 / np.mean(errors)))
    assert torch.isnan(found[1])  # an empty region
    assert float(region_psnr(one, one, mask)[0]) == pytest.approx(100)
    assert torch.isnan(region_mean(torch.ones(2, 14, 16, dtype=torch.float64), mask)[1])


def test_ssim_by_a_loop():
    one, other = pictures(2), 0.7 * pictures(2) + 0.3 * pictures(3)
    found = ssim_map(one, other)
    weights = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window = np.outer(weights, weights) / weights.sum() ** 2
    for b, y, x in ((0, 0, 0), (0, 7, 8), (1, 13, 2), (1, 5, 15)):
        each = []
        for c in range(3):
            a, t = (np.pad(p[b, c].numpy(), 5, mode="reflect")[y : y + 11, x : x + 11] for p in (one, other))
            ma, mt = (window * a).sum(), (window * t).sum()
            va, vt, both = (
                (window * a * a).sum() - ma**2,
                (window * t * t).sum() - mt**2,
                (window * a * t).sum() - ma * mt,
            )
            c1, c2 = 0.02**2, 0.06**2
            each.append((2 * ma * mt + c1) * (2 * both + c2) / ((ma**2 + mt**2 + c1) * (va + vt + c2)))
        assert float(found[b, y, x]) == pytest.approx(np.mean(each))
    assert torch.allclose(ssim_map(one, one), torch.ones(2, 14, 16, dtype=torch.float64))


def test_ssim_is_that_of_scikit_image():
    metrics = pytest.importorskip("skimage.metrics")
    one, other = pictures(4, 1, 24), 0.5 * pictures(4, 1, 24) + 0.5 * pictures(5, 1, 24)
    _, full = metrics.structural_similarity(
        one[0].numpy(), other[0].numpy(), channel_axis=0, data_range=2, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False, full=True,
    )  # fmt: skip
    inside = (slice(5, -5), slice(5, -5))
    np.testing.assert_allclose(ssim_map(one, other)[0].numpy()[inside], full.mean(0)[inside], atol=1e-3)


def test_correlation_is_the_mean_over_units_and_its_interval_over_people():
    rng = np.random.default_rng(0)
    truth = rng.uniform(0, 5, (60, 4))
    read = truth + rng.normal(0, 1, (60, 4))
    read[:, 3] = 2.0  # a unit that is never told apart
    people = np.repeat(np.arange(12), 5)
    found = correlation_interval(read, truth, people)
    assert found.value == pytest.approx(np.mean([pearson(read[:, k], truth[:, k]) for k in range(3)]))
    assert found.low < found.value < found.high < 1.05
    assert (found.clusters, found.grouped) == (12, True)
    drawn = []
    for _ in range(300):  # by a loop over drawn people
        rows = np.concatenate([np.flatnonzero(people == p) for p in rng.integers(0, 12, 12)])
        drawn.append(np.mean([pearson(read[rows, k], truth[rows, k]) for k in range(3)]))
    assert (found.high - found.low) / 2 == pytest.approx(2.2 * np.std(drawn) * (12 / 11) ** 0.5, rel=0.2)
    with pytest.raises(DataError, match="no action unit varies"):
        correlation_interval(np.ones((5, 2)), truth[:5, :2])


def test_a_texture_follows_the_eyes_and_forgets_the_light():
    picture = torch.nn.functional.interpolate(pictures(6, 1, 12), [96, 96], mode="bicubic")
    eyes = torch.tensor([[[0.4, 0.42], [0.6, 0.42]]], dtype=torch.float64)
    found = face_texture(picture, eyes)
    assert found.shape == (1, 3 * 24 * 24)
    assert float(found.mean()) == pytest.approx(0, abs=1e-9)
    torch.testing.assert_close(face_texture(0.5 * picture + 0.2, eyes), found)
    moved = picture.roll((8, -4), (2, 3))
    shift = torch.tensor([-4 / 96, 8 / 96], dtype=torch.float64)
    assert float((face_texture(moved, eyes + shift) - found).abs().max()) < 1e-6
    turned = picture.transpose(2, 3).flip(3)  # clockwise by a right angle: (x, y) -> (1 - y, x)
    there = torch.stack([1 - eyes[..., 1], eyes[..., 0]], -1)
    assert float((face_texture(turned, there) - found).abs().max()) < 1e-6
    assert torch.equal(face_texture(torch.zeros(1, 3, 9, 9), eyes.float()), torch.zeros(1, 1728))
