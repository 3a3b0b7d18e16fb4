"""Probes, dependency tests, swaps and collapse on embeddings whose content is known, beside slow twins."""

import json
import math

import numpy as np
import pytest
import torch

from mien.errors import DataError
from mien.metrics import disentangle as dis


def known(n=240, subjects=12, seed=0):
    """z1 holds two action units, z2 the subject; the units do not depend on the subject."""
    rng = np.random.default_rng(seed)
    people = np.arange(n) % subjects
    units = rng.integers(0, 2, (n, 2)).astype(float)
    z1 = np.concatenate([3 * units, np.zeros((n, 2))], 1) + rng.normal(0, 0.7, (n, 4))
    z2 = 3 * rng.normal(size=(subjects, 6))[people] + rng.normal(0, 0.7, (n, 6))
    return people, units, z1, z2


def test_probe_matrix_finds_what_each_part_holds():
    people, units, z1, z2 = known()
    turn = z2[:, :1] + 0.1 * np.random.default_rng(1).normal(size=(len(z2), 1))
    factors = {
        "AU": dis.Factor("units", units, "subjects"),
        "identity": dis.Factor("classes", people, "images"),
        "pose": dis.Factor("values", turn, "subjects"),
    }
    parts = {"z1": z1, "z2": z2, "z": np.concatenate([z1, z2], 1), "none": z1[:, :0]}
    found = dis.probe_matrix(parts, factors, people)
    assert set(found["AU"]) == {"z1", "z2", "z"}
    assert found["AU"]["z1"]["score"] > 0.97
    assert abs(found["AU"]["z2"]["score"] - 0.5) < 0.1
    assert found["identity"]["z2"]["score"] > 0.9
    assert found["identity"]["z1"]["score"] < 0.25
    assert found["identity"]["z1"]["baseline"] == pytest.approx(1 / 12)
    assert found["pose"]["z2"]["score"] > 0.9
    assert found["pose"]["z1"]["score"] < 0.1
    assert found["AU"]["z1"]["f1"] > 0.9 > found["AU"]["z1"]["always_active"]
    json.dumps(found, allow_nan=False)


def test_a_factor_that_cannot_be_probed_says_why():
    people, units, z1, _ = known(24, 2)
    factors = {
        "AU": dis.Factor("units", np.zeros_like(units), "subjects"),
        "identity": dis.Factor("classes", np.arange(24), "images"),
        "light": dis.Factor("values", np.full((24, 1), np.nan), "subjects"),
    }
    found = dis.probe_matrix({"z1": z1}, factors, people)
    assert "no action unit is active" in found["AU"]["skipped"]
    assert "fewer than two labels" in found["identity"]["skipped"]
    assert "no number varies" in found["light"]["skipped"]
    alone = dis.probe_matrix({"z1": z1}, {"AU": dis.Factor("units", units, "subjects")}, np.zeros(24))
    assert "1 subject cannot be split" in alone["AU"]["skipped"]


def test_splits_keep_subjects_apart_and_identities_together():
    people, *_ = known()
    fit, score = dis.unseen_subjects(people, 3)
    assert not set(people[fit]) & set(people[score])
    assert len(set(people[score])) == 4
    assert sorted([*fit, *score]) == list(range(len(people)))
    labels = np.array([0] * 10 + [1] * 2 + [2])
    fit, score = dis.unseen_images(labels, 0)
    assert not set(fit) & set(score)
    assert set(labels[fit]) == set(labels[score]) == {0, 1}  # 2 has one picture only
    assert len(score) == 3 + 1


def test_class_probe_equals_scikit_learn_and_names_its_baselines():
    from sklearn.metrics import accuracy_score, balanced_accuracy_score

    people, _, _, z2 = known(60, 3)
    labels = np.where(people == 0, "a", "b")
    fit, score = np.arange(40), np.arange(40, 60)
    found = dis.probe_classes(z2, labels, fit, score)
    guess = dis.logistic_probe(z2[fit], labels[fit]).predict(z2[score])
    assert found["score"] == pytest.approx(balanced_accuracy_score(labels[score], guess))
    assert found["accuracy"] == pytest.approx(accuracy_score(labels[score], guess))
    assert (found["baseline"], found["majority"]) == (0.5, pytest.approx((labels[score] == "b").mean()))


def test_value_probe_is_r_squared_against_the_mean_of_the_fitted_rows():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(900, 3))
    y = x[:, 0] + rng.normal(0, 0.5, 900)
    fit, score = np.arange(500), np.arange(500, 900)
    found = dis.probe_values(x, y, fit, score)["score"]
    assert found == pytest.approx(0.8, abs=0.05)  # 1 of 1.25 of the variance can be known
    assert dis.probe_values(rng.normal(size=(900, 3)), y, fit, score)["score"] < 0.1


def test_dependence_test_tells_dependent_from_independent():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(80, 3, generator=generator) for _ in range(2))
    for name, measure in dis.MEASURES.items():
        tied = dis.dependence_test(measure, a, a @ torch.ones(3, 2) + 0.5 * b[:, :2], draws=39)
        free = dis.dependence_test(measure, a, b, draws=39)
        assert tied.p == pytest.approx(1 / 40), name
        assert free.p > 0.05, name
        assert tied.value > 3 * abs(free.value), name


def test_permutation_p_is_uniform_under_independence():
    """A circle has no correlation but depends; independent pairs give p values spread over (0, 1)."""
    generator = torch.Generator().manual_seed(1)
    angle = torch.rand(100, generator=generator) * 2 * math.pi
    circle = dis.dependence_test(dis.MEASURES["hsic"], angle.cos()[:, None], angle.sin()[:, None], draws=39)
    assert circle.p == pytest.approx(1 / 40)
    values = [
        dis.dependence_test(
            dis.MEASURES["distance_correlation"],
            torch.randn(20, 2, generator=generator), torch.randn(20, 2, generator=generator), draws=19, seed=k,
        ).p
        for k in range(40)
    ]  # fmt: skip
    assert 0.3 < np.mean(values) < 0.7


def test_effective_rank_equals_the_twin():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 5)) * [3, 2, 1, 0.5, 0]
    sizes = np.sqrt(np.clip(np.linalg.eigvalsh(np.cov(x.T) * 39), 0, None))
    entropy = -sum(s / sizes.sum() * math.log(s / sizes.sum()) for s in sizes if s > 1e-9)
    found = dis.spread(x)
    assert found["effective_rank"] == pytest.approx(math.exp(entropy))
    assert found["dead"] == pytest.approx(1 / 5)
    assert found["variance"] == pytest.approx(x.var(axis=0).mean())
    line = dis.spread(np.outer(rng.normal(size=30), [1, 2, 3]))
    assert line["effective_rank"] == pytest.approx(1, abs=1e-3)


def test_collapsed_parts_are_finite():
    assert dis.spread(np.ones((5, 3))) == {"dimensions": 3, "variance": 0, "dead": 1, "effective_rank": 0}
    assert dis.spread(np.ones((5, 0)))["dead"] == 0
    flat = dis.dependence_test(dis.MEASURES["distance_correlation"], torch.ones(8, 2), torch.randn(8, 2), draws=9)
    assert (flat.value, flat.p) == (0, 1)


def test_psnr():
    a = torch.zeros(2, 3, 4, 4)
    b = torch.stack([a[0], a[1] + 0.2])
    np.testing.assert_allclose(dis.psnr(a, b), [100, 10 * math.log10(4 / 0.04)], rtol=1e-5)


def test_whose_units_a_swapped_face_shows():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 2, (2, 60, 3)).astype(float)
    first[:5, 0] = np.nan
    assert dis.units_followed(np.nan_to_num(first), first, second) == 1
    assert dis.units_followed(second, first, second) == 0
    assert dis.units_followed(rng.random((60, 3)), first, second) == pytest.approx(0.5, abs=0.2)
    noise = rng.random((60, 3))
    assert dis.units_followed(noise, first, second) == pytest.approx(1 - dis.units_followed(noise, second, first))
    assert math.isnan(dis.units_followed(noise, first, first))


def test_whose_identity_a_swapped_face_shows():
    found = dis.identity_followed(["a", "b", "b", "c"], ["a", "a", "a", "a"], ["b", "b", "b", "b"])
    assert found == {"z1": 0.25, "z2": 0.5}
    with pytest.raises(DataError, match="two different subjects"):
        dis.identity_followed(["a"], ["a"], ["a"])
