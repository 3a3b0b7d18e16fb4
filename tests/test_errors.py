"""Errors against slow twins; the report's sections on errors and folds from hand-made runs."""

import csv
from pathlib import Path

import numpy as np
import pytest

from mien.config import DataConfig, Recipe
from mien.errors import DataError
from mien.evaluation.tables import errors_csv, predictions_csv
from mien.metrics.errors import affect_matrices, by_group, common_errors, confusions
from mien.metrics.intervals import normal_interval
from mien.report import plots
from mien.report.errors import common_csv, common_of, errors_section
from mien.report.folds import folds_section
from mien.report.runs import Group, Run, choose_baseline, group_runs

CLASSES = ["Neutral", "Positive", "Negative"]


def answers(seed: int = 0, n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(3, size=n), rng.integers(3, size=n)


# ---------------------------------------------------------------- metrics


def test_published_intervals():
    """AffectNet's soft landmarks and FER-2013's saliency with transfer, in per cent."""
    for accuracy, n, half in ((70.72, 325_239, 0.156), (76.01, 31_885, 0.469)):
        interval = normal_interval(accuracy / 100, n)
        assert 100 * (interval.high - interval.value) == pytest.approx(half, abs=5e-4)
        assert interval.value - interval.low == pytest.approx(interval.high - interval.value)


def test_normal_interval_like_statsmodels_formula():
    share, n = 0.3, 77
    interval = normal_interval(share, n, level=0.9)
    assert interval.high == pytest.approx(share + 1.6448536 * np.sqrt(share * (1 - share) / n))
    assert normal_interval(1.0, 5)[:3] == (1, 1, 1)
    for bad in ((1.1, 5), (-0.1, 5), (0.5, 0), (float("nan"), 5)):
        with pytest.raises(DataError, match="has no interval"):
            normal_interval(*bad)


def test_confusions_are_those_of_the_matrix():
    predicted, labels = answers()
    found = confusions(predicted, labels, CLASSES)
    assert [pair["faces"] for pair in found] == sorted((pair["faces"] for pair in found), reverse=True)
    for pair in found:
        true, other = CLASSES.index(pair["true"]), CLASSES.index(pair["predicted"])
        slow = sum(a == other and b == true for a, b in zip(predicted, labels, strict=True))
        assert (pair["faces"], true == other) == (slow, False)
        assert pair["share"] == pytest.approx(slow / (labels == true).sum())
    assert sum(pair["faces"] for pair in found) == (predicted != labels).sum()
    assert confusions(labels, labels, CLASSES) == []


def test_by_group():
    right = np.array([True, False, True, True])
    found = by_group(right, np.array(["known", "unknown", "known", "unknown"]))
    assert found["known"] == {"faces": 2, "errors": 0, "accuracy": 1.0}
    assert found["unknown"] == {"faces": 2, "errors": 1, "accuracy": 0.5}
    with pytest.raises(DataError, match="must both be"):
        by_group(right, np.array(["a"]))


def test_affect_matrices_cell_by_cell():
    predicted, labels = answers(3, 30)
    values = np.random.default_rng(1).uniform(-1, 1, 30)
    values[::7] = np.nan
    found = affect_matrices(values, predicted, labels, 3)
    for true in range(3):
        for said in range(3):
            cell = values[(labels == true) & (predicted == said) & np.isfinite(values)]
            assert found["count"][true][said] == len(cell)
            for name, slow in (("mean", np.mean), ("std", np.std)):
                value = found[name][true][said]
                assert value is None if not len(cell) else value == pytest.approx(slow(cell))
    with pytest.raises(DataError, match="must all be"):
        affect_matrices(values[:4], predicted, labels, 3)


def test_no_affect_known_is_empty_not_nan():
    predicted, labels = answers(0, 5)
    found = affect_matrices(np.full(5, np.nan), predicted, labels, 3)
    assert found["mean"] == [[None] * 3] * 3
    assert np.sum(found["count"]) == 0


def test_common_errors_face_by_face():
    labels = answers()[1]
    predicted = np.stack([answers(seed)[0] for seed in range(3)])
    wrong, same = common_errors(predicted, labels)
    for k, label in enumerate(labels):
        said = set(predicted[:, k].tolist())
        assert wrong[k] == (label not in said)
        assert same[k] == (label not in said and len(said) == 1)
    with pytest.raises(DataError, match="must be"):
        common_errors(predicted[:, :4], labels)


# ---------------------------------------------------------------- hand-made runs


def made(name: str, seed: int, folds: int = 0, **facts: np.ndarray) -> Run:
    """A run on 60 faces, its answers drawn by seed."""
    rng = np.random.default_rng(seed)
    shares, labels = rng.dirichlet(np.ones(3), 60), answers()[1]
    faces = {"id": np.array([f"face-{k}" for k in range(60)]), "label": labels, "probabilities": shares, **facts}
    right = shares.argmax(1) == labels
    landmarks = by_group(right, np.where(np.arange(60) % 5, "known", "unknown"))
    affect = {name: affect_matrices(facts[name], shares.argmax(1), labels, 3) for name in facts if name == "valence"}
    results = {
        "store_fingerprint": "f", "store": "toy", "classes": CLASSES, "faces": 60, "split": "test",
        "errors": {"landmarks": landmarks, "affect": affect},
    }  # fmt: skip
    if folds:
        each = [
            {"fold": k, "accuracy": 0.5 + 0.01 * k, "balanced_accuracy": 0.4, "macro_f1": 0.3, "epoch": k + 1}
            for k in range(folds)
        ]
        mean = {"accuracy": np.mean([row["accuracy"] for row in each]), "balanced_accuracy": 0.4, "macro_f1": 0.3}
        deviation = {"accuracy": 0.01, "balanced_accuracy": 0.0, "macro_f1": 0.0}
        results["folds"] = {"k": 3, "each": each, "mean": mean, "deviation": deviation}
    data = DataConfig(folds=3 if folds else 0)
    return Run(Path(name), name, Recipe(data=data), {}, results, [], faces, {})


def test_common_errors_of_runs_in_another_order():
    """Faces are joined by id: the second run lists them backwards and lacks one."""
    first, second = made("first", 0), made("second", 1)
    back = {name: values[:0:-1] for name, values in second.faces.items()}
    found = common_of([Group("a", [first]), Group("b", [second._replace(faces=back)])])
    assert found is not None
    assert "face-0" not in found.ids
    assert len(found.ids) == 59
    plain = (~first.right & ~second.right)[1:]
    assert found.wrong.tolist() == plain.tolist()
    assert common_of([Group("a", [first])]) is None


def test_csv_of_common_errors():
    rng = np.random.default_rng(5)
    facts = {
        "expression": np.array(["Anger", "Fear"] * 30), "landmarks": np.arange(60) % 2 == 0,
        "valence": np.full(60, 0.3, np.float32), "arousal": np.full(60, 0.4, np.float32),
    }  # fmt: skip
    facts["valence"][rng.integers(60, size=20)] = np.nan
    groups = [Group(name, [made(name, seed, **facts)]) for seed, name in enumerate("ab")]
    common = common_of(groups)
    assert common is not None
    rows = list(csv.DictReader(common_csv(common).splitlines()))
    assert {row["id"] for row in rows} == set(common.ids[common.wrong])
    sure = [float(row["confidence"]) for row in rows]
    assert sure == sorted(sure, reverse=True)
    for row in rows:
        assert row["true"] not in (row["said:a"], row["said:b"])
        assert (row["same_answer"] == "yes") == (row["said:a"] == row["said:b"])
        assert row["intensity"] == ("0.5" if row["valence"] else "")
        assert row["landmarks"] == ("yes" if int(row["id"].split("-")[1]) % 2 == 0 else "no")


def test_section_on_errors():
    facts = {"expression": np.array(["Anger", "Fear"] * 30), "valence": np.linspace(-1, 1, 60)}
    groups = [Group(name, [made(name, seed, **facts)]) for seed, name in enumerate("ab")]
    section = errors_section(groups, None)
    common = section["common"]
    assert common["wrong"] == sum(row["wrong"] for row in common["tables"][0]["rows"])
    assert [table["title"] for table in common["tables"]] == ["true class", "expression in the data"]
    alone = [1 - group.first.right.mean() for group in groups]
    assert common["chance"] == pytest.approx(60 * alone[0] * alone[1])
    assert len(common["listed"]) == min(12, common["wrong"])
    assert common["pictures"] is None
    assert list(section["affect"]) == ["valence"]
    assert [row["name"] for row in section["landmarks"]] == ["a", "b"]


def test_runs_of_an_earlier_version_have_no_section():
    run = made("old", 0)
    run.results.pop("errors")
    assert errors_section([Group("old", [run])], None) == {"landmarks": [], "affect": {}, "common": None}
    assert plots.affect([Group("old", [run])], "valence") is None


def test_section_on_folds():
    crossed, plain = Group("a", [made("a", 0, folds=3)]), Group("b", [made("b", 1)])
    assert folds_section([plain]) is None
    section = folds_section([crossed, plain])
    assert section is not None
    assert section["names"] == ["a"]
    assert [row["title"] for row in section["rows"]] == ["fold 0", "fold 1", "fold 2"]
    assert [row["cells"][0][0] for row in section["rows"]] == ["0.500", "0.510", "0.520"]
    half = 1.96 * np.sqrt(0.51 * 0.49 / 60)
    means = {row["title"].split(":")[0]: row["cells"][0][0] for row in section["means"]}
    assert means["mean over folds"] == "0.510"
    assert means["as published"] == f"± {half:.4f}, n 60"
    assert means["mean epoch chosen"] == "2.0"
    assert section["overlap"] == section["incomplete"] == []


def test_folds_that_are_missing_and_intervals_that_overlap_are_said():
    groups = [Group("a", [made("a", 0, folds=3)]), Group("b", [made("b", 1, folds=2)])]
    section = folds_section(groups)
    assert section is not None
    assert section["incomplete"] == ["b: 2 of 3 folds"]
    assert section["rows"][2]["cells"][1] == ["–", "–", "–"]
    assert section["overlap"] == ["a and b overlap"]


def test_folds_of_one_crossval_are_not_compared_with_each_other():
    runs = []
    for fold in range(2):
        run = made(f"fold-{fold}", fold)
        own = {name: values[30 * fold : 30 * fold + 30] for name, values in run.faces.items()}
        recipe = Recipe(data=DataConfig(folds=2, fold=fold))
        runs.append(run._replace(path=Path("cv") / run.name, recipe=recipe, faces=own))
    with pytest.raises(Exception, match="folds of one cross-validation, whose scores together are in cv"):
        choose_baseline(group_runs(runs))


# ---------------------------------------------------------------- tables of single faces


def test_tables_of_faces():
    shares = np.array([[0.2, 0.7, 0.1], [0.5, 0.25, 0.25], [0.0, 0.1, 0.9]])
    faces = {
        "id": np.array(["a", 'b, "quoted"', "c"]), "label": np.array([0, 0, 1]), "probabilities": shares,
        "landmarks": np.array([True, False, True]), "valence": np.array([0.25, np.nan, -1], np.float32),
    }  # fmt: skip
    rows = list(csv.DictReader(predictions_csv(faces, CLASSES).splitlines()))
    assert [(row["id"], row["true"], row["predicted"]) for row in rows] == [
        ("a", "Neutral", "Positive"), ('b, "quoted"', "Neutral", "Neutral"), ("c", "Positive", "Negative"),
    ]  # fmt: skip
    assert [(row["landmarks"], row["valence"]) for row in rows] == [("yes", "0.25"), ("no", ""), ("yes", "-1")]
    assert float(rows[0]["confidence"]) == float(rows[0]["p_Positive"]) == 0.7
    assert [row["id"] for row in csv.DictReader(errors_csv(faces, CLASSES).splitlines())] == ["c", "a"]
