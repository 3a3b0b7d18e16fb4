import json

import cv2
import numpy as np
import pytest
import tiny

from mien.data.store import open_store, write_store
from mien.datasets.check import check
from mien.datasets.inventory import audit, picture_sheet, text_table
from mien.datasets.screen import limit_landmarks
from mien.errors import DataError, UsageError
from mien.schema import ACTION_UNITS, EXPRESSIONS, Record

SIZE = 32


def picture(seed):
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6), dtype=np.uint8)
    return cv2.resize(noise, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def store(tmp_path):
    """Ten rows with one fault of each kind."""
    points = np.tile(np.linspace(2, 28, 68, dtype=np.float32)[:, None], (1, 2))
    outside = points.copy()
    outside[0, 0] = -3
    some = points.copy()
    some[5] = np.nan
    units = np.full(len(ACTION_UNITS), np.nan, np.float32)
    units[ACTION_UNITS.index("AU12")] = 3
    idle = units * 0
    votes = np.zeros(8, np.float32)
    votes[EXPRESSIONS.index("Happiness")] = 1
    edited = np.clip(picture(7) * 0.8 + 20, 0, 255).astype(np.uint8)
    happy, sad = "Happiness", "Sadness"
    records = [
        Record("0", picture(0), "train", "anna", happy, landmarks=points, votes=votes, attributes={"skin": "II"}),
        Record("1", picture(0), "train", "anna", sad, landmarks=outside, votes=votes, attributes={"skin": "V"}),
        Record("2", picture(2), "train", "ben", happy, landmarks=some, action_units=units, attributes={"light": 0.2}),
        Record("3", picture(3), "train", "ben", sad, action_units=idle, attributes={"skin": "V"}),
        Record("4", picture(2), "test", "carl", happy),
        Record("5", picture(5), "test", "anna", sad),
        Record("6", picture(6), "test", None, None),
        Record("7", picture(7), "train", None, happy),
        Record("8", edited, "test", None, sad),
        Record("9", picture(9), "valid", None, happy),
    ]
    return write_store(records, tmp_path / "s", dataset="toy", size=SIZE, channels=1)


def test_audit_finds_every_fault(store):
    found = audit(store)
    assert found["labels"]["Happiness"] == {"train": 3, "valid": 1, "test": 1}
    assert found["labels"]["unlabelled"] == {"train": 0, "valid": 0, "test": 1}
    same = found["identical"]
    assert (same["groups"], same["rows"], same["surplus"], same["largest"]) == (2, 4, 2, 2)
    assert same["groups_across_splits"] == 1
    assert same["test rows also in train"] == 1
    assert same["valid rows also in train"] == 0
    assert same["conflicts"] == {"Happiness / Sadness": 1}
    assert same["rows_with_label_conflict"] == 2
    assert same["examples"] == [["2", "4"]]
    alike = found["near_duplicates"]
    assert (alike["pairs"], alike["groups"], alike["test rows also in train"]) == (1, 3, 2)
    assert alike["rows_with_label_conflict"] == 4
    people = found["subjects"]
    assert (people["known"], people["rows_without_subject"], people["in_several_splits"]) == (3, 4, 1)
    assert people["examples"] == ["anna"]
    points = found["landmarks"]
    assert (points["all_68"], points["some"], points["none"], points["faces_with_points_outside"]) == (2, 1, 7, 1)
    assert points["coverage_per_class"] == {"Happiness": 0.2, "Sadness": 0.25, "unlabelled": 0.0}
    assert found["action_units"] == {"AU12": {"labelled": 2, "active": 1}}
    assert found["votes"] == {"faces": 2, "mean_share_of_first": 1.0, "first_equals_label": 0.5}
    assert found["groups"] == {
        "skin": {
            "II": {"Happiness": 1, "Sadness": 0, "unlabelled": 0},
            "V": {"Happiness": 0, "Sadness": 2, "unlabelled": 0},
        }
    }
    assert "near_duplicates" not in audit(store, near=False)


def test_label_conflicts_of_one_person_are_listed_apart(tmp_path, capsys):
    """Two expressions of one person may look alike; two labels of a photo of nobody known are worth a look."""
    dark = [np.clip(picture(k) * 0.8 + 20, 0, 255).astype(np.uint8) for k in range(4)]
    faces = [("anna", "anna", "Sadness"), (None, None, "Fear"), (None, "ben", "Fear"), ("carl", "dora", "Fear")]
    records = []
    for k, (one, other, label) in enumerate(faces):
        records += [
            Record(f"{k}a", picture(k), "train", one, "Neutral"),
            Record(f"{k}b", dark[k], "train", other, label),
        ]
    write_store(records, tmp_path / "s", dataset="toy", size=SIZE, channels=1)
    found = check(tmp_path / "s")["near_duplicates"]
    assert (found["groups"], found["conflicts_of_one_person"]) == (3, {"Neutral / Sadness": 1})
    assert found["conflicts"] == {"Fear / Neutral": 2, "Neutral / Sadness": 1}
    text = capsys.readouterr().out
    assert "with different labels: 6 rows in 3 groups\n" in text
    assert "one known person: 2 rows in 1 groups (Neutral / Sadness: 1)\n" in text
    assert "person not known, or several: 4 rows in 2 groups (Fear / Neutral: 2)" in text


def test_odd_landmark_shapes_are_listed_worst_first(tmp_path, capsys):
    rng = np.random.default_rng(0)
    shapes = [tiny.points(SIZE) + rng.normal(0, 0.3, (68, 2)) for _ in range(8)]
    shapes[2], shapes[5] = rng.uniform(0, SIZE, (68, 2)), tiny.points(SIZE) * np.nan
    records = [Record(f"r{k}", picture(k), landmarks=shape.astype(np.float32)) for k, shape in enumerate(shapes)]
    write_store(records, tmp_path / "s", dataset="toy", size=SIZE)
    found = check(tmp_path / "s", landmark_limit=0.3)["landmarks"]["shape"]
    assert (found["measured"], found["limit"], found["beyond"], found["dropped"]) == (7, 0.3, 1, 0)
    assert found["worst"][0] == ["r2", found["largest"]]
    assert [distance for _, distance in found["worst"]] == sorted((d for _, d in found["worst"]), reverse=True)
    assert found["median"] < 0.05 < 0.3 < found["largest"]
    assert "beyond 0.3: 1 faces, dropped: 0\n  oddest: r2 0." in capsys.readouterr().out
    limit_landmarks(open_store(tmp_path / "s"), 0.3)
    again = audit(open_store(tmp_path / "s"), near=False)["landmarks"]
    assert (again["shape"]["beyond"], again["shape"]["dropped"], again["all_68"]) == (1, 1, 6)
    with pytest.raises(UsageError, match="--landmark-limit -1 must be above 0"):
        check(tmp_path / "s", landmark_limit=-1)


def test_check_prints_and_writes(store, tmp_path, capsys):
    report = check(store.path, sheet=tmp_path / "deep" / "sheet.png", out=tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text()) == report
    sheet = cv2.imread(str(tmp_path / "deep" / "sheet.png"))
    assert sheet.shape[1] == 12 * 96
    text = capsys.readouterr().out
    for words in (
        "10 faces of toy",
        "1 test rows also in train",
        "LEAK: the strict split",
        "Happiness / Sadness: 1",
        "LEAK: 1 are in several splits, e.g. anna",
        "AU12",
        "all 68 on 2 faces",
        "votes: 2 faces",
    ):
        assert words in text
    assert not list(tmp_path.rglob("*.tmp"))


def test_check_of_a_clean_store(tmp_path, capsys):
    records = [Record(str(k), picture(k), "train", None, "Fear") for k in range(3)]
    write_store(records, tmp_path / "s", dataset="toy", size=SIZE)
    report = check(tmp_path / "s", exact_only=True)
    assert report["identical"]["groups"] == 0
    text = capsys.readouterr().out
    assert "identical pictures: none" in text
    assert "LEAK" not in text
    assert "subjects: none known" in text


def test_sheet_is_repeatable(store):
    first = picture_sheet(store, seed=1, columns=2)
    np.testing.assert_array_equal(first, picture_sheet(store, seed=1, columns=2))
    assert first.shape == (3 * (22 + 96) + 3 * (22 + 192), 2 * 96, 3)


def test_check_bad_input(store, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        check(tmp_path / "gone")
    with pytest.raises(UsageError, match="--bits 13"):
        check(store.path, bits=13)
    with pytest.raises(UsageError, match=r"must end in \.png"):
        check(store.path, sheet=tmp_path / "sheet.jpg")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write"):
        check(store.path, out=tmp_path / "file" / "out.json")


def test_text_table():
    assert text_table(["a", "n"], [["long", "1"], ["b", "100"]]) == "a       n\nlong    1\nb     100"
