import csv
import os
from collections import Counter
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest

from mien.data.duplicates import components, exact_groups, near_pairs, of_one_person
from mien.data.folds import carve, fold_numbers, k_folds, official, row_groups, strict
from mien.data.store import write_store
from mien.errors import DataError, UsageError
from mien.schema import Record

SIZE = 24
NAMES = ("Happiness", "Sadness", "Anger")


def picture(seed):
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6), dtype=np.uint8)
    return cv2.resize(noise, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)


def toy(out, rows):
    """Rows of (picture number or pixels, split, expression, subject)."""
    records = [
        Record(f"r{k}", picture(image) if isinstance(image, int) else image, split, subject, expression)
        for k, (image, split, expression, subject) in enumerate(rows)
    ]
    return write_store(records, out, dataset="toy", size=SIZE, channels=1)


def plain(count=60, split=lambda k: "test" if k % 6 == 5 else "train", subject=lambda k: None):
    return [(k, split(k), NAMES[k % 3], subject(k)) for k in range(count)]


def disjoint(split):
    parts = [set(part.tolist()) for part in split[:3]]
    assert not any(a & b for a, b in combinations(parts, 2))
    return parts


# --- duplicates ---


def test_groups_and_components():
    assert exact_groups(np.array([b"b", b"a", b"b", b"c"])).tolist() == [0, 1, 0, 3]
    found = components(5, np.array([[0, 3], [3, 4]]))
    assert found[0] == found[3] == found[4]
    assert len(set(found.tolist())) == 3


def test_near_pairs_finds_edited_copies_only(tmp_path):
    edited = np.clip(picture(0) * 0.8 + 25, 0, 255).astype(np.uint8)
    marked = picture(1).copy()
    marked[-4:, :8] = 255
    flat = np.full((SIZE, SIZE), 7, np.uint8)
    images = [0, 1, 2, 3, edited, marked, 2, flat, flat + 1]
    store = toy(tmp_path / "s", [(image, "train", "Fear", None) for image in images])
    assert near_pairs(store).tolist() == [[0, 4], [1, 5], [7, 8]]
    groups = row_groups(store)
    assert groups[0] == groups[4]
    assert groups[2] == groups[6]
    assert len(set(row_groups(store, near=False).tolist())) == 8


def edited(seed, by):
    """The picture a little darker: a near-duplicate."""
    return np.clip(picture(seed) * (1 - by) + 100 * by, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("one", "other", "alike"), [("ann", "ben", 0), ("ann", "ann", 1), ("ann", None, 1), (None, None, 1)]
)
def test_two_known_people_are_no_near_duplicates(tmp_path, one, other, alike):
    store = toy(tmp_path / "s", [(0, "train", "Fear", one), (edited(0, 0.2), "test", "Fear", other)])
    assert len(near_pairs(store)) == alike
    assert (row_groups(store)[0] == row_groups(store)[1]) == bool(alike)


def test_people_are_not_joined_through_an_unknown_picture(tmp_path):
    """Rows 1 and 2 show nobody known and go to ann, whom row 1 resembles most; ben stays apart, his exact copy does not."""
    pairs, subjects = np.array([[0, 1], [1, 2], [2, 3]]), np.array(["ann", None, None, "ben"], dtype=object)
    likeness, own = np.array([0.99, 0.95, 0.92], dtype=np.float32), np.arange(4)
    assert of_one_person(pairs, likeness, own, subjects).tolist() == [[0, 1], [1, 2]]
    assert of_one_person(pairs, likeness[::-1], own, subjects).tolist() == [[1, 2], [2, 3]]
    assert of_one_person(pairs, likeness, own, np.full(4, None)).tolist() == pairs.tolist()
    same = np.array([0, 1, 2, 0])  # rows 0 and 3 are one picture with two names
    assert of_one_person(pairs, likeness, same, subjects).tolist() == pairs.tolist()
    rows = [(0, "test", "Fear", "ann"), (0, "train", "Fear", "ben"), (edited(0, 0.2), "train", "Fear", "carl")]
    store = toy(tmp_path / "s", rows + plain(12, split=lambda k: "train", subject=lambda k: f"p{k}")[1:])
    assert strict(store).report["dropped_from_train"] == 1, "ben's exact copy goes, carl stays"


# --- splits ---


def test_official_is_untouched(tmp_path):
    store = toy(tmp_path / "s", [(0, "train", "Fear", None), (0, "test", "Fear", None), (1, "valid", None, None)])
    split = official(store)
    assert [part.tolist() for part in split[:3]] == [[0], [2], [1]]
    assert split.report["test_pictures_also_in_train"] == 1


def test_strict_carves_stratified_and_repeatable(tmp_path):
    store = toy(tmp_path / "s", plain(240))
    split = strict(store, seed=3, fraction=0.2)
    train, valid, test = disjoint(split)
    assert train | valid | test == set(range(240))
    assert test == set(np.flatnonzero(store.split == "test").tolist())
    shares = Counter(store.expression[split.valid])
    totals = Counter(store.expression[store.split == "train"])
    for name, count in totals.items():
        assert shares[name] == round(0.2 * count)
    again = strict(store, seed=3, fraction=0.2)
    assert again.valid.tolist() == split.valid.tolist()
    assert strict(store, seed=4, fraction=0.2).valid.tolist() != split.valid.tolist()
    assert split.report["validation"] == "carved, seed 3, fraction 0.2"


def test_strict_drops_test_pictures_from_train(tmp_path):
    rows = [*plain(60), (5, "train", "Fear", None), (11, "train", "Fear", None)]
    edited = np.clip(picture(17) * 0.8 + 25, 0, 255).astype(np.uint8)
    rows.append((edited, "train", "Fear", None))
    store = toy(tmp_path / "s", rows)
    split = strict(store)
    disjoint(split)
    used = {*split.train.tolist(), *split.valid.tolist()}
    assert not used & {60, 61, 62}
    assert split.report["identical_dropped_from_train"] == 2
    assert split.report["dropped_from_train"] == 3
    assert split.report["test_pictures_also_in_train"] == 0
    exact = strict(store, near=False)
    assert exact.report["dropped_from_train"] == 2


def test_strict_keeps_subjects_and_duplicates_together(tmp_path):
    rows = plain(120, split=lambda k: "train", subject=lambda k: f"p{k % 12}" if k < 96 else None)
    rows += [(100, "train", "Anger", None), (3, "train", "Anger", "other")]  # picture 3 joins subjects p3 and other
    store = toy(tmp_path / "s", rows)
    split = strict(store, fraction=0.25)
    sides = {row: "valid" if row in set(split.valid.tolist()) else "train" for row in range(len(store))}
    for name in set(store.subject) - {None}:
        assert len({sides[row] for row in np.flatnonzero(store.subject == name)}) == 1
    assert sides[100] == sides[120]
    assert sides[3] == sides[121]
    assert 0.1 * len(store) < len(split.valid) < 0.4 * len(store)


def test_strict_keeps_the_official_validation(tmp_path):
    rows = plain(60, split=lambda k: ("train", "train", "valid", "test")[k % 4])
    rows += [(2, "train", "Fear", None), (3, "train", "Fear", None), (7, "valid", "Fear", None)]
    store = toy(tmp_path / "s", rows)
    split = strict(store)
    disjoint(split)
    assert 60 not in split.train
    assert 61 not in split.train
    assert 62 not in split.valid
    assert set(split.valid.tolist()) == set(range(2, 60, 4))
    assert split.report["validation"] == "official"
    assert (split.report["dropped_from_train"], split.report["dropped_from_valid"]) == (2, 1)


def test_carve_corners(tmp_path):
    labels, groups = np.array(["a"] * 6), np.array([0, 0, 0, 0, 1, 1])
    rest, chosen = carve(np.arange(6), labels, groups, 0, 0.1)
    assert rest.tolist() == [0, 1, 2, 3]  # no group is small enough: the smallest
    assert chosen.tolist() == [4, 5]
    with pytest.raises(DataError, match="1 group"):
        carve(np.arange(4), labels, groups, 0, 0.1)
    store = toy(tmp_path / "s", [(k, "test", "Fear", None) for k in range(3)])
    with pytest.raises(DataError, match="no training rows"):
        strict(store)
    with pytest.raises(UsageError, match="between 0 and 1"):
        strict(store, fraction=1.0)


def test_k_folds_cover_each_row_once(tmp_path):
    rows = plain(60, subject=lambda k: f"p{k // 5}")
    rows += [(70, "train", None, None), (71, "train", "Contempt", None)]
    store = toy(tmp_path / "s", rows)
    for grouped in (True, False):
        splits = k_folds(store, k=4, seed=1, grouped=grouped, scheme="basic-7", fraction=0.2)
        assert sorted(np.concatenate([split.test for split in splits]).tolist()) == list(range(60))
        for split in splits:
            train, valid, test = disjoint(split)
            assert train | valid | test == set(range(60))
            assert split.report["left_out_of_scheme"] == 2
            if grouped:
                names = [set(store.subject[part]) for part in split[:3]]
                assert not any(a & b for a, b in combinations(names, 2))
        again = k_folds(store, k=4, seed=1, grouped=grouped, scheme="basic-7", fraction=0.2)
        assert [split.test.tolist() for split in again] == [split.test.tolist() for split in splits]


def test_folds_that_cannot_be(tmp_path):
    with pytest.raises(UsageError, match="5 folds are not possible with 3 rows"):
        fold_numbers(np.array([0, 1, 0]), 5, 0)
    with pytest.raises(UsageError, match="2 groups"):
        fold_numbers(np.zeros(6), 3, 0, np.array([0, 0, 0, 1, 1, 1]))
    with pytest.raises(UsageError, match="no class has 3 rows"):
        fold_numbers(np.array([0, 0, 1, 1]), 3, 0)
    with pytest.raises(UsageError, match="label scheme"):
        k_folds(toy(tmp_path / "s", plain(12)), scheme="basic-9")


GOLDEN = """0:3 1:4 2:3 3:1 4:3 5:2 6:4 7:4 8:2 9:1 10:4 11:2 12:3 13:0 14:4 16:0 17:0 18:1 19:2 20:2 21:4 22:3 23:1
24:0 25:3
27:3 28:1 30:0 31:4 32:4 33:2 34:1 35:0 36:1 37:4 38:3 40:3 41:0 42:1 43:1"""


def test_published_fer2013_folds():
    """The fold file of Luna-Jimenez et al. 2021 comes out exactly: row number -> fold of FER-2013 without Surprise."""
    path = Path(os.environ.get("MIEN_SHARED_DATA", "")) / "fer2013" / "labels_all.csv"
    if not path.is_file():
        pytest.skip("MIEN_SHARED_DATA/fer2013/labels_all.csv is not there")
    polarity = {0: 2, 1: 2, 2: 2, 3: 1, 4: 2, 6: 0}
    with open(path, newline="") as file:
        labels = np.array([polarity.get(int(row["emotion"]), -1) for row in csv.DictReader(file)])
    rows = np.flatnonzero(labels >= 0)
    folds = dict(zip(rows.tolist(), fold_numbers(labels[rows], 5, 2020).tolist(), strict=True))
    assert set(Counter(folds.values()).values()) == {6377}
    for pair in GOLDEN.split():
        row, fold = map(int, pair.split(":"))
        assert folds[row] == fold
