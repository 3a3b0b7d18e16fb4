"""Scores from changed pictures: loop twins, other libraries where they overlap, answers known beforehand."""

import numpy as np
import pytest
import torch

from mien.compat import ensure_torchvision
from mien.errors import UsageError
from mien.metrics.perturbed import (
    adcc,
    drop_and_increase,
    entropy,
    gini,
    imputed,
    infidelity,
    localisation,
    max_sensitivity,
    rank_correlation,
    region_effects,
    region_shares,
    relative_infidelity,
    removals,
    road,
    sensitivity_n,
)

ensure_torchvision()  # pytorch-grad-cam imports it

SIDE = 16


def pictures(count=3, seed=0):
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def corner(images):
    """Class 1 as far as the upper left quarter is bright."""
    bright = images[:, :, : SIDE // 2, : SIDE // 2].mean((1, 2, 3)).clamp(0, 1)
    return torch.stack((1 - bright, bright), 1)


def corner_map(count=3):
    maps = torch.zeros(count, 1, SIDE, SIDE)
    maps[:, :, : SIDE // 2, : SIDE // 2] = 1
    return maps + 0.01 * torch.rand(maps.shape, generator=torch.Generator().manual_seed(1))


ONES = torch.ones(3, dtype=torch.int64)


def test_imputation_is_that_of_pytorch_grad_cam():
    road_module = pytest.importorskip("pytorch_grad_cam.metrics.road")
    images = pictures(2)
    kept = (torch.rand(2, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(3)) > 0.8).float()
    found = imputed(images, kept, residual=1e-6)
    for image, mask, own in zip(images, kept, found, strict=True):
        theirs = road_module.NoisyLinearImputer(noise=0)(image, mask[0])
        torch.testing.assert_close(own, theirs, atol=1e-4, rtol=0)
    assert (imputed(images, kept) - found).abs().max() < 5e-3  # the residual that is usual


def test_road_is_that_of_pytorch_grad_cam(monkeypatch):
    road_module = pytest.importorskip("pytorch_grad_cam.metrics.road")
    images, maps = pictures(), corner_map()
    maps += torch.rand(maps.shape, generator=torch.Generator().manual_seed(5)) * 0.2

    class Silent:
        def __call__(self, img, mask):
            return imputed(img[None], mask[None, None].float(), residual=1e-6)[0]

    monkeypatch.setattr(road_module, "NoisyLinearImputer", lambda *_: Silent())
    combined = road_module.ROADCombined(percentiles=[20, 40, 60, 80])
    targets = [lambda out: out[1]] * 3
    theirs = combined(images, maps[:, 0].numpy(), targets, _Net())
    ours = road(corner, images, maps, ONES, shares=(0.2, 0.4, 0.6, 0.8), noise=0)
    np.testing.assert_allclose(ours["road"].numpy(), np.asarray(theirs).ravel(), atol=0.01)


class _Net(torch.nn.Module):
    def forward(self, images):
        return corner(images)


def test_road_of_the_right_map_is_above_that_of_the_wrong_one():
    lit = pictures() * 0.1 + 0.8 * corner_map().clamp_max(1)
    assert (road(corner, lit, corner_map(), ONES)["road"] > 0.1).all()
    assert (road(corner, lit, 1 - corner_map(), ONES)["road"] < -0.1).all()


def test_drop_and_increase_are_their_loop_and_those_of_pytorch_grad_cam():
    images, maps = pictures(), torch.rand(3, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    found = drop_and_increase(corner, images, maps, ONES)
    for k in range(3):
        low, high = maps[k].min(), maps[k].max()
        before = float(corner(images[k : k + 1])[0, 1])
        after = float(corner(images[k : k + 1] * (maps[k] - low) / (high - low))[0, 1])
        assert found["average_drop"][k] == pytest.approx(max(0, before - after) / before, abs=1e-6)
        assert found["increase"][k] == float(after > before)
    cam = pytest.importorskip("pytorch_grad_cam.metrics.cam_mult_image")
    scaled = np.stack([(one - one.min()) / (one.max() - one.min()) for one in maps[:, 0].numpy()])
    theirs = cam.DropInConfidence()(images, scaled, [lambda out: out[1]] * 3, _Net())
    np.testing.assert_allclose(found["average_drop"], np.ravel(theirs) / before_of(images), atol=1e-4)


def before_of(images):
    return corner(images)[:, 1].numpy()


def test_adcc_is_the_harmonic_mean():
    maps, masked = torch.rand(2, 1, 4, 4), torch.rand(2, 1, 4, 4)
    drop = torch.tensor([0.2, 1.0])
    found = adcc(drop, maps, masked)
    a, b = maps[0].flatten().numpy(), masked[0].flatten().numpy()
    coherency = (np.corrcoef(a, b)[0, 1] + 1) / 2
    complexity = ((a - a.min()) / (a.max() - a.min())).mean()
    assert found["adcc"][0] == pytest.approx(3 / (1 / coherency + 1 / (1 - complexity) + 1 / 0.8), rel=1e-4)
    assert found["adcc"][1] == 0


def test_removals_sensitivity_and_infidelity_are_their_loops():
    images, maps = pictures(), torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(7))
    fill = torch.full_like(images, 0.5)
    found = removals(corner, images, ONES, fill, draws=10)
    assert found.cells.sum((2, 3)).unique().tolist() == [13]
    for k in range(3):
        sums, drops = [], []
        for cells in found.cells[k]:
            picture = images[k].clone()
            for y in range(SIDE):
                for x in range(SIDE):
                    if cells[y * 8 // SIDE, x * 8 // SIDE]:
                        picture[:, y, x] = 0.5
            sums.append(float(maps[k, 0][cells].sum()))
            drops.append(float((corner(images[k : k + 1]) - corner(picture[None]))[0, 1]))
        np.testing.assert_allclose(found.drops[k], drops, atol=1e-6)
        assert sensitivity_n(maps, found)[k] == pytest.approx(np.corrcoef(sums, drops)[0, 1], abs=1e-4)
        sums, drops = np.array(sums), np.array(drops)
        scale = (sums * drops).sum() / (sums**2).sum()
        twin = ((scale * sums - drops) ** 2).mean() / (drops**2).mean()
        assert infidelity(maps, found)[k] == pytest.approx(twin, rel=1e-3)
    assert infidelity(torch.zeros_like(maps), found).tolist() == pytest.approx([1, 1, 1])
    assert sensitivity_n(torch.zeros_like(maps), found).isnan().all()


def test_infidelity_is_that_of_captum():
    captum = pytest.importorskip("captum.metrics")
    images = pictures(2)
    maps = torch.rand(images.shape, generator=torch.Generator().manual_seed(9))
    steps = [torch.rand(images.shape[1:], generator=torch.Generator().manual_seed(k)) * 0.3 for k in range(6)]
    calls = iter([torch.stack([step for _ in range(2) for step in steps]).view(2, 6, *images.shape[1:]).flatten(0, 1)])

    def change(inputs):
        moved = next(calls)
        return moved, inputs - moved

    theirs = captum.infidelity(
        lambda x: corner(x)[:, 1], change, images, maps, n_perturb_samples=6, normalize=True, max_examples_per_batch=100
    )
    evidence = torch.stack([(maps * step).flatten(1).sum(1) for step in steps], 1)
    drops = torch.stack([corner(images)[:, 1] - corner(images - step)[:, 1] for step in steps], 1)
    ours = relative_infidelity(evidence, drops) * drops.square().mean(1)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-7)


def test_max_sensitivity_is_its_loop():
    images = pictures(2)

    def look(x):
        return x.square().mean(1, keepdim=True)

    generator, worst = torch.Generator().manual_seed(4), np.zeros(2)
    for _ in range(5):
        shift = (2 * torch.rand(images.shape[1:], generator=generator) - 1) * 0.02
        for k in range(2):
            away = (look(images[k : k + 1] + shift) - look(images[k : k + 1])).norm() / look(images[k : k + 1]).norm()
            worst[k] = max(worst[k], float(away))
    ours = max_sensitivity(look, images, look(images), radius=0.02, draws=5, seed=4)
    np.testing.assert_allclose(ours, worst, rtol=1e-4)
    assert max_sensitivity(lambda x: x[:, :1] * 0, images, torch.zeros(2, 1, 4, 4), radius=1, draws=0).isnan().all()


def test_regions_share_and_effect():
    images, maps = pictures(), corner_map()
    regions = torch.zeros(3, 4, SIDE, SIDE, dtype=torch.bool)
    half = SIDE // 2
    regions[:, 0, :half, :half] = regions[:, 1, :half, half:] = regions[:, 2, half:, :half] = True
    shares = region_shares(maps, regions)
    effects = region_effects(corner, images, regions, ONES, torch.zeros_like(images))
    torch.testing.assert_close(effects[:, 0], corner(images)[:, 1])
    assert effects[:, 1:3].abs().max() == 0
    assert effects[:, 3].isnan().all()
    assert shares[:, 3].isnan().all()
    assert (shares[:, 0] > 0.9).all()
    assert region_shares(torch.zeros(3, 1, 4, 4), regions).isnan().all()


def test_rank_correlation_is_that_of_scipy():
    from scipy.stats import spearmanr

    a, b = torch.rand(4, 9), torch.rand(4, 9)
    a[0, 3] = a[0, 4] = a[0, 5]
    b[1, 2] = torch.nan
    found = rank_correlation(a, b)
    for k in range(4):
        known = (a[k].isfinite() & b[k].isfinite()).numpy()
        assert found[k] == pytest.approx(spearmanr(a[k].numpy()[known], b[k].numpy()[known]).statistic, abs=1e-5)
    assert rank_correlation(torch.ones(1, 5), torch.rand(1, 5)).isnan().all()
    assert rank_correlation(torch.rand(1, 2), torch.rand(1, 2)).isnan().all()


def test_complexity_is_that_of_quantus():
    maps = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    shares = (maps / maps.sum((1, 2, 3), keepdim=True)).flatten(1).numpy()
    np.testing.assert_allclose(entropy(maps), [-(s * np.log(s)).sum() for s in shares], rtol=1e-4)
    for values, found in zip(maps.flatten(1).numpy(), gini(maps), strict=True):
        twin = np.abs(values[:, None] - values[None]).sum() / (2 * 64**2 * values.mean())
        assert found == pytest.approx(twin, rel=1e-4)
    assert entropy(torch.zeros(1, 1, 2, 2)).isnan().all()
    quantus = pytest.importorskip("quantus")
    options = {"disable_warnings": True, "normalise": False}
    images, labels = pictures().numpy(), np.ones(3, int)
    scores = {"entropy": (quantus.Complexity, entropy), "gini": (quantus.Sparseness, gini)}
    for theirs, ours in scores.values():
        found = theirs(**options)(
            model=None, x_batch=images[..., :8, :8], y_batch=labels, a_batch=maps.numpy(), device="cpu"
        )
        np.testing.assert_allclose(ours(maps), found, rtol=1e-3)


def test_localisation_is_that_of_scikit_learn():
    from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score

    maps = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    region = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1)) > 0.6
    found = localisation(maps, region, 0.5)
    for k in range(2):
        values = maps[k].flatten().numpy()
        said = (values - values.min()) / (values.max() - values.min()) >= 0.5
        true = region[k].flatten().numpy()
        for name, score in (
            ("iou", jaccard_score),
            ("precision", precision_score),
            ("recall", recall_score),
            ("f1", f1_score),
        ):
            assert found[name][k] == pytest.approx(score(true, said))
    assert localisation(maps, region & False, 0.5)["iou"].isnan().all()
    with pytest.raises(UsageError, match="cut is 0"):
        localisation(maps, region, 0)
