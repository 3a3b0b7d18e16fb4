"""Subject-exclusive folds for action units: published lists, own ones, and leaks that stop the run."""

import numpy as np
import pytest

from mien.data.au_folds import SUBJECT_LISTS, dataset_of, split_of_subject, subject_of, unit_split
from mien.data.store import write_store
from mien.errors import DataError, UsageError
from mien.schema import Record


def store(path, names, splits=("train",)):
    """Four frames a subject; splits by turns of subjects."""
    rng = np.random.default_rng(0)
    rows = [
        Record(f"{name}_{n}", rng.integers(0, 255, (16, 16), dtype=np.uint8), splits[k % len(splits)], name)
        for k, name in enumerate(names)
        for n in range(4)
    ]
    return write_store(rows, path, dataset="disfa", size=16, channels=1)


@pytest.mark.parametrize(
    ("dataset", "protocol", "sizes"),
    [("disfa", "literature", (9, 9, 9)), ("bp4d", "literature", (14, 14, 13)), ("bp4d", "published", (13, 14, 14))],
)
def test_published_parts_are_all_subjects_once(dataset, protocol, sizes):
    parts = SUBJECT_LISTS[dataset].parts[protocol]
    assert tuple(map(len, parts)) == sizes
    everyone = [name for part in parts for name in part]
    disfa = [f"SN{n:03d}" for n in (*range(1, 14), 16, 17, 18, 21, *range(23, 33))]
    bp4d = [f"F{n:03d}" for n in range(1, 24)] + [f"M{n:03d}" for n in range(1, 19)]
    assert sorted(everyone) == sorted({"disfa": disfa, "bp4d": bp4d}[dataset])


def test_names_of_subjects():
    assert subject_of("F010_T3_113") == "F010"
    assert subject_of("frame7") is None
    assert dataset_of(["SN003"]) == "disfa"
    assert dataset_of(["F001", "M018"]) == "bp4d"
    assert dataset_of(["F001", "SN003"]) is None
    assert split_of_subject("bp4d", "published-1", "M018") == "test"
    assert split_of_subject("bp4d", "published-2", "M018") == "train"


def test_folds_by_published_lists(tmp_path):
    made = store(tmp_path / "s", ["SN001", "SN003", "SN013", "SN029"])
    for fold, test in (("literature-1", {"SN001"}), ("literature-2", {"SN013"}), ("literature-3", {"SN003", "SN029"})):
        split = unit_split(made, fold, fraction=0.3)
        assert set(made.subject[split.test]) == test
        parts = [set(made.subject[rows]) for rows in split[:3]]
        assert sum(map(len, parts)) == 4  # nobody is on two sides
        assert sum(map(len, split[:3])) == len(made)
        assert len(parts[1]) == 1
    with pytest.raises(UsageError, match="no fold 'published-1'"):
        unit_split(made, "published-1")


def test_own_folds_are_seeded_and_cover_all_subjects(tmp_path):
    made = store(tmp_path / "s", [f"p{k}" for k in range(7)])
    tests = [unit_split(made, f"subjects-{k}of3", seed=1, fraction=0).test for k in (1, 2, 3)]
    assert sorted(np.concatenate(tests)) == list(range(len(made)))
    assert [len(rows) for rows in tests] == [12, 8, 8]
    again = unit_split(made, "subjects-2of3", seed=1, fraction=0)
    np.testing.assert_array_equal(again.test, tests[1])
    assert len(again.valid) == 0
    for fold in ("subjects-4of3", "subjects-1of8", "subjects-1of1", "random"):
        with pytest.raises(UsageError):
            unit_split(made, fold)


def test_own_splits_of_a_store_are_kept_unless_subjects_leak(tmp_path):
    made = store(tmp_path / "s", ["a", "b", "c"], ("train", "valid", "test"))
    split = unit_split(made)
    assert [set(made.subject[rows]) for rows in split[:3]] == [{"a"}, {"b"}, {"c"}]
    leaky = store(tmp_path / "t", ["a", "b", "c", "d"], ("train", "test"))
    assert unit_split(leaky).report["test_subjects_also_in_train"] == 0
    rng = np.random.default_rng(0)
    rows = [
        Record(f"a_{n}", rng.integers(0, 255, (16, 16), dtype=np.uint8), ("train", "test")[n % 2], "a")
        for n in range(4)
    ]
    same = write_store(rows, tmp_path / "u", dataset="disfa", size=16, channels=1)
    with pytest.raises(DataError, match=r"1 subjects train and test \(a\).*subjects-1of3"):
        unit_split(same)
    assert unit_split(same, fraction=0, subject_leak=True).report["test_subjects_also_in_train"] == 1


def test_folds_need_subjects(tmp_path):
    rng = np.random.default_rng(0)
    rows = [Record(f"r{n}", rng.integers(0, 255, (16, 16), dtype=np.uint8)) for n in range(3)]
    made = write_store(rows, tmp_path / "s", dataset="x", size=16, channels=1)
    with pytest.raises(DataError, match="knows no subjects"):
        unit_split(made, "subjects-1of3")
