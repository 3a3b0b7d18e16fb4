import csv
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import cv2
import fake_datasets as fake
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mien.data.duplicates import exact_groups
from mien.data.store import Skipped, write_store
from mien.datasets import fer2013, folder, table
from mien.datasets.names import with_names
from mien.errors import DataError, UsageError
from mien.schema import ACTION_UNITS, EXPRESSIONS, Record


def split_up(items):
    items = list(items)
    return [x for x in items if isinstance(x, Record)], [x for x in items if isinstance(x, Skipped)]


# --- FER-2013 ---


@pytest.mark.parametrize("header", [("emotion", "pixels", "Usage"), ("emotion", " Usage", " pixels")])
def test_fer2013_csv(tmp_path, header):
    path = fake.fer2013_csv(tmp_path, header=header)
    records, skipped = split_up(fer2013.records(path))
    assert [record.id for record in records[:6]] == [f"row-{k:05d}" for k in (0, 1, 2, 3, 4, 6)]
    assert skipped == [Skipped("row-00005", "100 pixels, expected 2304")]
    words = [folder.find_expression(word) for word in fake.FER_WORDS]
    for record in records:
        row = int(record.id[4:])
        assert record.expression == words[row % 7]
        np.testing.assert_array_equal(record.image, fake.face(row))
    assert Counter(record.split for record in records) == {"train": 13, "valid": 3, "test": 4}
    assert records[-1].attributes == {"usage": "PrivateTest"}
    assert records[0].votes is None


def test_fer2013_public_test_is_test_without_private(tmp_path):
    fake.fer2013_csv(tmp_path, private=False)
    records, _ = split_up(fer2013.records(tmp_path))
    assert {record.split for record in records} == {"train", "test"}
    assert records[-1].attributes["usage"] == "PublicTest"
    assert "PublicTest = test" in fer2013.notes(tmp_path)["splits"]


def test_fer2013_votes(tmp_path):
    fake.fer2013_csv(tmp_path)
    fake.fer_plus_csv(tmp_path)
    records, skipped = split_up(fer2013.records(tmp_path))  # found beside the CSV
    assert skipped[0] == Skipped("row-00002", "not a face (10 of 10 FER+ votes)")
    by_id = {record.id: record for record in records}
    assert by_id["row-00003"].votes is None
    assert by_id["row-00003"].attributes["ferplus"] == "unknown"
    split = by_id["row-00004"]
    assert split.expression == "Sadness"  # the dataset's own label stays
    assert split.attributes["ferplus"] == "Happiness"
    expected = {"Happiness": 0.6, "Fear": 0.4}
    np.testing.assert_allclose(split.votes, [expected.get(name, 0) for name in EXPRESSIONS], rtol=1e-6)


def test_fer2013_challenge_files(tmp_path):
    fake.fer2013_csv(tmp_path, header=("emotion", "pixels"))
    records, _ = split_up(fer2013.records(tmp_path))
    assert {record.split for record in records} == {"train"}
    fake.fer2013_csv(tmp_path / "b", header=("pixels",))
    records, _ = split_up(fer2013.records(tmp_path / "b"))
    assert {record.expression for record in records} == {None}


def test_fer2013_folders(tmp_path):
    fake.class_folders(tmp_path)
    records, skipped = split_up(fer2013.records(tmp_path))
    assert len(records) == 2 * 7 * 2 + 1  # the corrupt picture is found out when it is decoded
    assert skipped == [Skipped("train/angry/readme.txt", "not a picture file ('.txt')")]
    with pytest.raises(UsageError, match="go by row"):
        list(fer2013.records(tmp_path, votes=tmp_path / "fer2013new.csv"))


def test_fer2013_bad_files(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        list(fer2013.records(tmp_path / "nowhere"))
    (tmp_path / "empty.csv").touch()
    with pytest.raises(DataError, match="is empty"):
        list(fer2013.records(tmp_path / "empty.csv"))
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="no 'pixels' column"):
        list(fer2013.records(tmp_path / "other.csv"))
    (tmp_path / "binary.npz").write_bytes(bytes(range(256)) * 9)
    with pytest.raises(DataError, match=r"no 'pixels' column|not a readable CSV"):
        list(fer2013.records(tmp_path / "binary.npz"))
    (tmp_path / "long.csv").write_text("pixels\n" + "1 " * 100_000)
    with pytest.raises(DataError, match="not a readable CSV"):
        list(fer2013.records(tmp_path / "long.csv"))
    path = fake.fer2013_csv(tmp_path)
    with pytest.raises(DataError, match=r"votes file .* does not exist"):
        list(fer2013.records(path, votes=tmp_path / "no.csv"))
    with pytest.raises(DataError, match="no column 'Usage'"):
        list(fer2013.records(path, votes=tmp_path / "other.csv"))
    with pytest.raises(DataError, match="disagree at row 17"):  # another file's usage
        list(fer2013.records(path, votes=fake.fer_plus_csv(tmp_path, private=False)))
    more = fake.fer_plus_csv(tmp_path)
    more.write_text(more.read_text() + "Training,fer0000021.png,10,0,0,0,0,0,0,0,0,0\n")
    with pytest.raises(DataError, match="22 rows"):
        list(fer2013.records(path, votes=more))


def test_fer2013_bad_rows(tmp_path):
    pixels = " ".join(["7"] * 2304)
    bright, letters = pixels.replace("7", "300", 1), pixels.replace("7", "a", 1)
    rows = [("9", pixels, "Training"), ("x", pixels, "Training"), ("0", bright, "Training")]
    rows += [("0", letters, "Training"), ("0", pixels, "Nobody"), ("0",), ("0", pixels, "Training")]
    with open(tmp_path / "fer2013.csv", "w", newline="") as file:
        csv.writer(file).writerows([("emotion", "pixels", "Usage"), *rows])
    records, skipped = split_up(fer2013.records(tmp_path))
    assert [record.id for record in records] == ["row-00006"]
    words = ["'9' is no integer", "'x' is no integer", "outside 0..255", "no integers", "unknown Usage", "0 pixels"]
    assert len(skipped) == len(words)
    for entry, word in zip(skipped, words, strict=True):
        assert word in entry.reason


@pytest.mark.slow
def test_fer2013_real_rows(tmp_path):
    """The official layout of the public rows: pixels, labels, not-a-face rows, identical pictures."""
    folder_ = Path(os.environ.get("MIEN_SHARED_DATA", "")) / "fer2013"
    if not (folder_ / "unpack.py").is_file():
        pytest.skip("MIEN_SHARED_DATA/fer2013/unpack.py is not there")
    subprocess.run([sys.executable, str(folder_ / "unpack.py"), str(tmp_path), "--no-folders"], check=True)
    truth = np.load(folder_ / "fer2013_train_public.npz")
    faces = ~truth["not_a_face"]
    store = write_store(fer2013.records(tmp_path), tmp_path / "s", dataset="fer2013", size=48, channels=1)
    assert len(store.skipped) == (~faces).sum()
    assert [int(name[4:]) for name in store.ids] == np.flatnonzero(faces).tolist()
    np.testing.assert_array_equal(store.images(range(len(store)))[:, :, :, 0], truth["images"][faces])
    assert store.expression.tolist() == [fer2013.LABELS[k] for k in truth["label"][faces]]
    groups = np.unique(np.stack([exact_groups(store.digest), truth["dup_group"][faces]]), axis=1)
    assert groups.shape[1] == len(np.unique(groups[0])) == len(np.unique(groups[1]))


# --- class folders ---


def test_folder_names_and_splits(tmp_path):
    words = ("Happy", "SAD", "angry", "disgusted", "fearful", "surprised", "03_neutral", "contempt")
    fake.class_folders(tmp_path, words=words, splits=("training", "val", "Testing"))
    records, _ = split_up(folder.records(tmp_path))
    assert {record.expression for record in records} == set(EXPRESSIONS)
    assert Counter(record.split for record in records) == {"train": 17, "valid": 16, "test": 16}
    ids = [record.id for record in records]
    assert len(set(ids)) == len(ids)
    assert ids == [record.id for record in split_up(folder.records(tmp_path))[0]]


def test_folder_without_splits_and_with_subjects(tmp_path):
    fake.class_folders(tmp_path, splits=())
    records, skipped = split_up(with_names(folder.records(tmp_path), None, r"(S\d+)_"))
    assert {record.split for record in records} == {"train"}
    assert Counter(record.subject for record in records) == {"S00": 7, "S01": 7}
    assert Skipped("angry/broken.png", "the subject pattern '(S\\d+)_' does not match") in skipped


@pytest.mark.parametrize(
    ("word", "message"), [("hapy", "did you mean 'happy'"), ("3", "is a number"), ("dogs", "names: Neutral")]
)
def test_folder_unknown_class(tmp_path, word, message):
    fake.class_folders(tmp_path, words=("sad", word))
    with pytest.raises(UsageError, match=message):
        list(folder.records(tmp_path))


def test_folder_bad_roots(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        list(folder.records(tmp_path / "no"))
    with pytest.raises(DataError, match="no class folders"):
        list(folder.records(tmp_path))
    for pattern, word in (("(", "no regular expression"), ("S", "exactly one group")):
        with pytest.raises(UsageError, match=word):
            list(with_names(folder.records(tmp_path), None, pattern))


def test_expression_words():
    assert folder.find_expression(" Joy ") == "Happiness"
    assert folder.find_expression("06-sad") == "Sadness"
    assert folder.find_expression("4") is None


# --- tables ---

OWN_NAMES = "image=path,expression=label,subject=person,split=set,AU6=AU06_r,attr.skin=skin,attr.light=light"


def test_table(tmp_path):
    path = fake.table_csv(tmp_path)
    records, skipped = split_up(table.records(path, columns=OWN_NAMES))
    assert [record.id for record in records] == ["0.png", "1.png", "2.png", "gone.png", "5.png"]
    assert skipped == [Skipped("3.png", "row 4: AU12 'strong' is no number")]
    first = records[1]
    assert (first.image, first.split, first.subject, first.expression) == (tmp_path / "1.png", "test", "p0", "Sadness")
    assert records[2].expression is None
    assert first.attributes == {"skin": "II", "light": 0.5}
    assert first.action_units[ACTION_UNITS.index("AU12")] == 0.5
    assert np.isnan(first.action_units[ACTION_UNITS.index("AU6")])  # an empty cell
    np.testing.assert_allclose(first.landmarks[:, 0], np.linspace(10, 54, 68), atol=0.01)
    np.testing.assert_allclose(first.landmarks[:, 1], np.linspace(5, 59, 68), atol=0.01)


def test_table_parquet_with_bytes(tmp_path):
    rows = [{"image": {"bytes": b"jpeg", "path": "a.jpg"}, "label": 3, "yaw": 10.0, "pitch": None, "roll": 1.0}]
    rows += [{"image": {"bytes": None, "path": None}, "label": 3, "yaw": None, "pitch": None, "roll": None}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    records, skipped = split_up(table.records(tmp_path, columns="expression=label", labels="3=happy"))
    assert records[0].image == b"jpeg"
    assert records[0].expression == "Happiness"
    np.testing.assert_array_equal(records[0].pose, [10, np.nan, 1])
    assert skipped == [Skipped("row-2", "row 2: no picture")]


def test_table_rows_that_cannot_be_used(tmp_path):
    for name in "abcd":
        cv2.imwrite(str(tmp_path / f"{name}.png"), fake.face(1))
    (tmp_path / "t.csv").write_text(
        "image,expression,split,AU4,px0\na.png,hapy,,1,\nb.png,sad,later,1,\nc.png,sad,val,6,\nd.png,3,,1,\na.png,,,,\na.png,,,,\n"
    )
    records, skipped = split_up(table.records(tmp_path))
    assert [record.id for record in records] == ["a.png#5", "a.png#6"]
    words = ["did you mean 'happy'", "split 'later'", "AU4 6 is outside 0..1", "--labels 0=Anger"]
    for entry, word in zip(skipped, words, strict=True):
        assert word in entry.reason
    assert skipped[0].reason.startswith("row 1:")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("image=pth", "no column 'pth' for image. Did you mean 'path'"),
        ("image=path,emotion=label", "unknown column target 'emotion'"),
        ("image=path,expresion=label", "Did you mean 'expression'"),
        ("image", "not target=column"),
        ("image=path,landmarks_x=lx_{}", "no column 'lx_0'"),
        ("image=path,x0=path", "landmarks without 'x1'"),
    ],
)
def test_table_bad_columns(tmp_path, columns, message):
    (tmp_path / "t.csv").write_text("path,label\na.png,sad\n")
    with pytest.raises(UsageError, match=re.escape(message)):
        list(table.records(tmp_path / "t.csv", columns=columns))


def test_table_bad_files(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        list(table.records(tmp_path / "t.csv"))
    with pytest.raises(UsageError, match="holds 0"):
        list(table.records(tmp_path))
    (tmp_path / "t.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match="not a readable Parquet"):
        list(table.records(tmp_path))
    (tmp_path / "t.parquet").unlink()
    (tmp_path / "t.csv").write_text("image\na.png\n")
    with pytest.raises(UsageError, match="label pair '0=rage'"):
        list(table.records(tmp_path, labels="0=rage"))


def test_a_column_named_set_without_words_of_a_split_is_no_split(tmp_path, capsys):
    """Portraits list the collection that they come from in a column `set`; every row was left out."""
    cv2.imwrite(str(tmp_path / "a.png"), fake.face(1))
    cv2.imwrite(str(tmp_path / "b.png"), fake.face(2))
    (tmp_path / "index.csv").write_text("image,expression,set\na.png,neutral,london\nb.png,happy,london\n")
    found = list(table.records(tmp_path / "index.csv"))
    assert [record.split for record in found] == ["train", "train"]
    assert "columns that are not taken: set" in capsys.readouterr().err
    (tmp_path / "other.csv").write_text("image,expression,set\na.png,neutral,test\nb.png,happy,train\n")
    assert [record.split for record in table.records(tmp_path / "other.csv")] == ["test", "train"]
