"""Probes, dependency tests, swaps and collapse on embeddings whose content is known, beside slow twins."""

import json
import math

import numpy as np
import pytest
import torch

from mien.errors import DataError
from mien.metrics import disentangle as dis
from mien.metrics import permuted, probes, resampling
from mien.metrics.action_units import auc
from mien.metrics.resampling import person_blocks


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
        "AU": probes.Factor("units", units, "subjects"),
        "identity": probes.Factor("classes", people, "images"),
        "pose": probes.Factor("values", turn, "subjects"),
    }
    parts = {"z1": z1, "z2": z2, "z": np.concatenate([z1, z2], 1), "none": z1[:, :0]}
    found = probes.probe_matrix(parts, factors, people)
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
        "AU": probes.Factor("units", np.zeros_like(units), "subjects"),
        "identity": probes.Factor("classes", np.arange(24), "images"),
        "light": probes.Factor("values", np.full((24, 1), np.nan), "subjects"),
    }
    found = probes.probe_matrix({"z1": z1}, factors, people)
    assert "no action unit is active" in found["AU"]["skipped"]
    assert "fewer than two labels" in found["identity"]["skipped"]
    assert "no number varies" in found["light"]["skipped"]
    alone = probes.probe_matrix({"z1": z1}, {"AU": probes.Factor("units", units, "subjects")}, np.zeros(24))
    assert "1 subject cannot be split" in alone["AU"]["skipped"]


def test_splits_keep_subjects_apart_and_identities_together():
    people, *_ = known()
    fit, score = probes.unseen_subjects(people, 3)
    assert not set(people[fit]) & set(people[score])
    assert len(set(people[score])) == 4
    assert sorted([*fit, *score]) == list(range(len(people)))
    labels = np.array([0] * 10 + [1] * 2 + [2])
    fit, score = probes.unseen_recordings(labels)
    assert not set(fit) & set(score)
    assert set(labels[fit]) == set(labels[score]) == {0, 1}  # 2 has one picture only
    assert score.tolist() == [0, 1, 2, 3, 10]  # a stretch of each, not frames in between
    everything = [set(probes.unseen_recordings(labels, None, part)[1].tolist()) for part in range(3)]
    assert set.union(*everything) == set(range(12))
    tasks = np.array(["T1", "T2"] * 5 + ["T1", "T2", "T1"])
    for part in range(2):
        fit, score = probes.unseen_recordings(labels, tasks, part)
        assert not set(tasks[fit]) & set(tasks[score])


def test_class_probe_equals_scikit_learn_and_names_its_baselines():
    from sklearn.metrics import accuracy_score, balanced_accuracy_score

    people, _, _, z2 = known(60, 3)
    labels = np.where(people == 0, "a", "b")
    fit, score = np.arange(40), np.arange(40, 60)
    found = probes.probe_classes(z2, labels, fit, score).scores
    guess = probes.logistic_probe(z2[fit], labels[fit]).predict(z2[score])
    assert found["score"] == pytest.approx(balanced_accuracy_score(labels[score], guess))
    assert found["accuracy"] == pytest.approx(accuracy_score(labels[score], guess))
    assert (found["baseline"], found["majority"]) == (0.5, pytest.approx((labels[score] == "b").mean()))


def test_value_probe_is_r_squared_against_the_mean_of_the_fitted_rows():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(900, 3))
    y = x[:, 0] + rng.normal(0, 0.5, 900)
    fit, score = np.arange(500), np.arange(500, 900)
    found = probes.probe_values(x, y, fit, score).scores["score"]
    assert found == pytest.approx(0.8, abs=0.05)  # 1 of 1.25 of the variance can be known
    assert probes.probe_values(rng.normal(size=(900, 3)), y, fit, score).scores["score"] < 0.1


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


def people_alike(seed: int, people: int = 9, faces: int = 22):
    """Two parts that tell nothing of each other, but in which the faces of a person are alike."""
    rng = np.random.default_rng(seed)
    person = np.repeat(np.arange(people), faces)
    parts = (rng.normal(size=(people, 4))[person] + rng.normal(size=(len(person), 4)) for _ in range(2))
    return person, *(torch.from_numpy(part) for part in parts)


def test_people_that_look_like_themselves_are_no_dependency():
    """Nine people with 22 faces each under the null: exchanging single faces rejects every time."""
    measure = dis.MEASURES["cross_correlation"]
    faces, people = [], []
    for k in range(20):
        person, a, b = people_alike(k)
        faces.append(dis.dependence_test(measure, a, b, draws=19, seed=k).p <= 0.05)
        people.append(dis.dependence_test(measure, a, b, person, draws=19, seed=k).p <= 0.05)
    assert sum(faces) >= 19
    assert sum(people) <= 4
    tied = dis.dependence_test(measure, a, a[:, :2] + b[:, :2], person, draws=99)
    assert tied.p == pytest.approx(1 / 100)
    assert (tied.people, tied.faces_each) == (9, 22)
    few = dis.dependence_test(measure, *(part[:88] for part in (a, b)), person[:88])
    assert few.p is few.independent is None


def test_permutation_of_people_equals_its_twin():
    person, a, b = people_alike(1, 6, 5)
    measure, generator = dis.MEASURES["hsic"], torch.Generator().manual_seed(3)
    null = []
    for _ in range(30):
        order = torch.randperm(6, generator=generator).tolist()
        null.append(float(measure(a, torch.cat([b[person == g] for g in order]))))
    value = float(measure(a, b))
    found = dis.dependence_test(measure, a, b, person, draws=30, seed=3)
    assert found.p == pytest.approx((1 + sum(x >= value for x in null)) / 31)
    assert found.independent == pytest.approx(np.mean(null))


def test_blocks_of_people():
    groups = np.array([0] * 10 + [1] * 4 + [2] * 5 + [3])
    blocks = resampling.person_blocks(groups, 20)
    assert blocks.tolist() == [[0, 2, 5, 7], [10, 11, 12, 13], [14, 15, 16, 17]]
    assert resampling.person_blocks(groups, 20, most=6).shape == (3, 2)
    assert resampling.person_blocks(groups, 20, most=2).shape == (2, 1)
    assert resampling.person_blocks(None, 5, most=3).ravel().tolist() == [0, 1, 2]


def test_neighbouring_frames_do_not_give_an_identity_away():
    """Each recording has a drift of its own and there is no identity: frames dealt at random find their neighbours again."""
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(10), 30)
    drift = np.repeat(rng.normal(size=(30, 5)) * 3, 10, axis=0) + 0.1 * rng.normal(size=(300, 5))
    tasks = np.tile(np.repeat(["T1", "T2", "T3"], 10), 10)
    for recordings in (tasks, None):
        factor = probes.Factor("classes", person, "images", recordings)
        found = probes.probe_matrix({"z": drift}, {"identity": factor}, person)["identity"]["z"]
        assert found["score"] < 0.3
    dealt = rng.permutation(300)
    assert probes.probe_classes(drift, person, dealt[100:], dealt[:100]).scores["score"] > 0.4


def test_probes_are_tested_against_their_baseline():
    people, units, z1, z2 = known()
    factors = {
        "AU": probes.Factor("units", units, "subjects"),
        "identity": probes.Factor("classes", people, "images"),
        "pose": probes.Factor("values", z2[:, :1], "subjects"),
    }
    found = probes.probe_matrix({"z1": z1, "z2": z2}, factors, people)
    knows = {("AU", "z1"), ("identity", "z2"), ("pose", "z2")}
    for name, row in found.items():
        for part, cell in row.items():
            assert cell["p_corrected"] >= cell["p"] >= 0.5**12
            assert (cell["p_corrected"] < 0.05) == ((name, part) in knows), (name, part, cell)
            assert cell["people"] == 12


def test_pulls_and_exchanges_are_those_of_the_definitions():
    people, units, z1, _ = known()
    fit, held = probes.unseen_subjects(people, 0)
    for made in (probes.probe_classes(z1, people % 3, fit, held), probes.probe_values(z1, units, fit, held)):
        assert made.shares.sum() == pytest.approx(1)
        assert made.pulls.sum() == pytest.approx(0, abs=1e-12)


def test_labels_are_permuted_before_anything_is_fitted():
    from sklearn.linear_model import Ridge

    people, units, z1, _ = known()
    units = units.astype(float)
    units[3, 0] = np.nan
    parts = [probes.unseen_subjects(people, 0, k) for k in range(2)]
    found = permuted.unit_areas(z1, units, people, parts, seed=5, draws=6)
    blocks = person_blocks(people, len(people))
    rng, own = np.random.default_rng(5), blocks.ravel()
    orders = [np.arange(len(blocks))] + [rng.permutation(len(blocks)) for _ in range(6)]
    for area, order in zip(found, orders, strict=True):
        moved, each = np.full(units.shape, np.nan), []
        moved[own] = units[blocks[order].ravel()]
        for fit, score in parts:
            spread = (z1[fit] - z1[fit].mean(0)) / z1[fit].std(0), (z1[score] - z1[fit].mean(0)) / z1[fit].std(0)
            size = np.square(spread[0]).sum() / len(fit)
            for column in moved.T:
                label = np.where(np.isnan(column[fit]), np.nanmean(column[fit]), column[fit]) - np.nanmean(column[fit])
                guess = Ridge(alpha=size, fit_intercept=False).fit(spread[0], label).predict(spread[1])
                each.append(auc(guess[:, None], column[score][:, None])[0])
        assert area == pytest.approx(np.mean(each))
    assert found[0] > found[1:].max()  # z1 knows
    assert permuted.unit_areas(z1, np.ones((len(z1), 2)), people, parts, draws=3).tolist() == [0.5] * 4


@pytest.mark.slow
def test_a_probe_of_units_holds_its_level():
    """9 people with 22 alike faces each, whose parts tell nothing of their units: 5 % are rejected at 5 %, 10 % at 10 %."""
    runs, found = 400, []
    for k in range(1000, 1000 + runs):
        person, a, _ = people_alike(k)
        rng = np.random.default_rng(
            (k, 1)
        )  # with the seed of `people_alike` rates and features would share their draws
        rate = 0.2 + 0.6 * rng.random((9, 3))
        units = (rng.random((198, 3)) < rate[person]).astype(float)
        parts = [probes.unseen_subjects(person, k + 7777, part) for part in range(3)]
        null = permuted.unit_areas(a.numpy(), units, person, parts, seed=k + 7777)
        found.append((null >= null[0] - 1e-12).mean())
    below, tenth = ((np.array(found) < level).sum() for level in (0.05, 0.1))
    print(f"{below} of {runs} below .05, {tenth} below .1")
    assert 0.025 * runs <= below <= 0.08 * runs
    assert 0.065 * runs <= tenth <= 0.14 * runs


@pytest.mark.slow
def test_the_null_is_rejected_at_its_level():
    """Dependency and probes under the null, 9 people with 22 alike faces each: about 5 % are rejected, at most 9 %."""
    runs, rejected = 150, {}
    for k in range(runs):
        person, a, b = people_alike(k)
        for name in ("distance_correlation", "cross_correlation"):
            p = dis.dependence_test(dis.MEASURES[name], a, b, person, draws=39, seed=k).p
            rejected[name] = rejected.get(name, 0) + (p <= 0.05)
        rng = np.random.default_rng(
            (k, 1)
        )  # with the seed of `people_alike` rates and features would share their draws
        rate = 0.2 + 0.6 * rng.random((9, 3))
        factors = {
            "AU": probes.Factor("units", (rng.random((198, 3)) < rate[person]).astype(float), "subjects"),
            "pose": probes.Factor("values", b[:, :1].numpy(), "subjects"),
        }
        found = probes.probe_matrix({"z": a.numpy()}, factors, person, seed=runs + k)
        identity = {"identity": probes.Factor("classes", person, "images")}
        found |= probes.probe_matrix({"z": rng.normal(size=(198, 4))}, identity, person, seed=runs + k)
        for name, row in found.items():
            rejected[name] = rejected.get(name, 0) + (row["z"]["p"] < 0.05)
    print(rejected)
    assert all(count <= 0.09 * runs for count in rejected.values()), rejected
    assert rejected["distance_correlation"] + rejected["cross_correlation"] >= 0.04 * runs


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
