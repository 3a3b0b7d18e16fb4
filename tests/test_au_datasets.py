"""Readers of action-unit datasets over small trees in the true layouts, each with broken samples; labels never run code."""

import os
import pickle

import fake_datasets as fake
import numpy as np
import pytest
import tiny

from mien.data.au_table import read_unit_table, unit_name, write_unit_table
from mien.data.store import Skipped
from mien.datasets import audetnet, bp4d, disfa
from mien.datasets.label_pickle import read_label_pickle
from mien.datasets.prepare import prepare
from mien.errors import DataError, PictureError, UsageError
from mien.faces.pictures import load_picture
from mien.schema import ACTION_UNITS, Frame, Record


def split_up(items):
    items = list(items)
    return {x.id: x for x in items if isinstance(x, Record)}, {x.id: x.reason for x in items if isinstance(x, Skipped)}


def column(record, unit):
    return record.action_units[ACTION_UNITS.index(unit)]


# --- DISFA ---


def test_disfa_frames_labels_and_splits(tmp_path):
    records, skipped = split_up(disfa.records(fake.disfa(tmp_path)))
    assert list(records) == [f"SN001_{n}" for n in range(6)] + [f"SN002_{n}" for n in range(6)]
    assert skipped == {"SN003": "no pictures in Videos_LeftCamera"}
    assert np.isnan(column(records["SN002_3"], "AU12"))  # a 9 is unknown in its cell, the other units stay
    assert np.isfinite(column(records["SN002_3"], "AU1"))
    row = records["SN001_4"]
    assert [column(row, name) for name in ("AU1", "AU2", "AU12", "AU26")] == [4, 5, 4, 3]
    assert np.isnan(column(row, "AU7"))  # not coded in DISFA
    assert (row.subject, row.split, row.image.number) == ("SN001", "test", 4)
    train = split_up(disfa.records(tmp_path, fold="literature-3"))[0]
    assert {record.split for record in train.values()} == {"train"}


def test_disfa_landmarks_gain_the_inner_mouth_corners_and_follow_the_frames(tmp_path):
    records, _ = split_up(disfa.records(fake.disfa(tmp_path)))
    expected = tiny.points(60) + 4
    for name in ("SN001_4", "SN002_4"):  # SN001 has a landmark file before the first frame
        points = records[name].landmarks
        others = [k for k in range(68) if k not in (60, 64)]
        np.testing.assert_allclose(points[others], expected[others], atol=1e-4)
        np.testing.assert_allclose(points[[60, 64]], expected[[60, 64]], atol=0.15)
    assert records["SN002_2"].landmarks is None  # a broken .mat file


def test_disfa_videos_are_read_frame_by_frame_in_any_order(tmp_path):
    video = fake.disfa(tmp_path) / "Videos_LeftCamera" / "LeftVideoSN001_comp.avi"
    for number in (3, 0, 1, 5):
        pixels = load_picture(Frame(video, number))
        assert pixels.shape == (60, 80, 3)
        assert abs(float(pixels.mean()) - (40 + 30 * number)) < 2
    with pytest.raises(PictureError, match="frame 6 is beyond the end"):
        load_picture(Frame(video, 6))
    with pytest.raises(PictureError, match="does not exist"):
        load_picture(Frame(tmp_path / "no.avi", 0))
    odd = tmp_path / "\udce9.avi"
    odd.write_bytes(video.read_bytes())
    with pytest.raises(PictureError, match="not UTF-8"):
        load_picture(Frame(odd, 0))


@pytest.mark.parametrize("pictures", ["images", "right"])
def test_disfa_other_pictures(tmp_path, pictures):
    records, _ = split_up(disfa.records(fake.disfa(tmp_path, pictures=pictures)))
    assert len(records) == 12
    assert (records["SN001_0"].landmarks is None) == (pictures == "right")  # points belong to the left camera
    assert abs(float(load_picture(records["SN002_5"].image).mean()) - 190) < 2


def test_disfa_becomes_a_store_and_resumes(tmp_path, capsys):
    root, out = fake.disfa(tmp_path / "disfa"), tmp_path / "store"
    for _ in range(2):
        store = prepare("disfa", root=root, out=out, size=40, faces="given", align=True, workers=0)
        assert len(store) == 12
    assert {entry.id for entry in store.skipped} == {"SN003"}
    assert store.info.notes["au_scale"] == "intensity"
    assert np.isfinite(store.landmarks[0]).all()
    assert "face: found 11, not found 1" in capsys.readouterr().out


def test_disfa_what_is_wrong_is_named(tmp_path):
    with pytest.raises(DataError, match="no ActionUnit_Labels"):
        list(disfa.records(tmp_path))
    root = fake.disfa(tmp_path / "d")
    with pytest.raises(UsageError, match="Did you mean 'left'"):
        list(disfa.records(root, pictures="lef"))
    with pytest.raises(DataError, match="no folder images"):
        list(disfa.records(root, pictures="images"))
    with pytest.raises(UsageError, match="Valid: literature-1, literature-2, literature-3"):
        list(disfa.records(root, fold="published-1"))
    (root / "ActionUnit_Labels/SN001/SN001_au1.txt").write_text("1;0\n")
    with pytest.raises(DataError, match=r"SN001_au1.txt', line 1: '1;0' is not 'frame,intensity'"):
        list(disfa.records(root))
    (root / "ActionUnit_Labels/SN001").rename(root / "ActionUnit_Labels/SN099")
    (root / "ActionUnit_Labels/SN002").rename(root / "ActionUnit_Labels/SN098")
    with pytest.raises(DataError, match="'SN098' is in no list"):
        list(disfa.records(root))


# --- BP4D ---


def test_bp4d_frames_labels_and_splits(tmp_path):
    records, skipped = split_up(bp4d.records(fake.bp4d(tmp_path), fold="published-3"))
    assert skipped == {
        "F001_T1_2441": "AU12 is 'x', none of 0, 1, 9",
        "F001_T1_2442": "no picture F001/T1/2442",
        "F001_T1_2443": "no action unit is coded",
    }
    first, last = records["F001_T1_2440"], records["M001_T2_0008"]
    assert list(records) == ["F001_T1_2440", "M001_T2_0007", "M001_T2_0008"]
    assert [column(first, name) for name in ("AU1", "AU2", "AU12")] == [5, 0, 5]
    assert np.isnan(column(first, "AU6"))
    assert column(last, "AU24") == 5
    assert (first.split, first.subject, first.attributes) == ("test", "F001", {"task": "T1"})
    assert {r.split for r in split_up(bp4d.records(tmp_path, fold="published-1"))[0].values()} == {"train"}


def test_bp4d_becomes_a_store(tmp_path):
    store = prepare("bp4d", root=fake.bp4d(tmp_path / "b"), out=tmp_path / "s", size=40, workers=0)
    assert len(store) == 3
    assert (store.info.notes["au_scale"], store.info.notes["fold"]) == ("occurrence", "literature-1")


def test_bp4d_what_is_wrong_is_named(tmp_path):
    with pytest.raises(DataError, match="is not BP4D"):
        list(bp4d.records(tmp_path))
    root = fake.bp4d(tmp_path / "b")
    path = root / "AUCoding/AU_OCC/F001_T1.csv"
    path.write_text("frame,smile\n1,1\n")
    with pytest.raises(DataError, match="needs the header 0,1,2,4"):
        list(bp4d.records(root))
    path.write_text("0,1\nlast,1\n")
    with pytest.raises(DataError, match="line 2: 'last' is no frame number"):
        list(bp4d.records(root))
    (root / "2D+3D").rename(root / "pictures")
    with pytest.raises(DataError, match="has no pictures"):
        list(bp4d.records(root))


# --- the folder of AUDetNet ---


def test_audetnet_folder(tmp_path):
    records, skipped = split_up(audetnet.records(fake.audetnet(tmp_path)))
    assert skipped == {"SN003_6": "5 labels, expected 12", "SN003_7": "no label"}
    assert {name: (r.split, r.subject) for name, r in records.items()} == {
        "SN001_0": ("train", "SN001"), "SN001_1": ("train", "SN001"), "SN013_2": ("train", "SN013"),
        "SN003_5": ("test", "SN003"),
    }  # fmt: skip
    assert [column(records["SN013_2"], name) for name in ("AU1", "AU2", "AU4", "AU26")] == [2, 3, 4, 1]


def test_audetnet_store_skips_a_missing_picture_and_tells_the_scale(tmp_path):
    store = prepare("audetnet", root=fake.audetnet(tmp_path / "a", scale=1), out=tmp_path / "s", size=40, workers=0)
    assert {entry.id: entry.reason for entry in store.skipped}["SN001_1"] == "picture file does not exist"
    assert set(np.unique(store.action_units[:, ACTION_UNITS.index("AU5")])) <= {0, 5}
    assert store.info.notes["au_scale"] == "occurrence"
    assert store.info.notes["units"].startswith("AU1,AU2,AU4,AU5,AU6,AU9,AU12")


def test_audetnet_named_labels_take_the_place_of_the_pickle(tmp_path):
    root = fake.audetnet(tmp_path)
    (root / "aus.csv").write_text("id,AU12,au06\nSN001_0,3,\nSN003_5,0.5,5\n")
    records, skipped = split_up(audetnet.records(root))
    assert set(records) == {"SN001_0", "SN003_5"}
    assert len(skipped) == 4
    assert (column(records["SN001_0"], "AU12"), column(records["SN003_5"], "AU6")) == (3, 5)
    assert np.isnan(column(records["SN001_0"], "AU6"))
    with pytest.raises(UsageError, match=r"header of .* names"):
        list(audetnet.records(root, units="AU1,AU2"))


def test_audetnet_subjects_on_both_sides_stop_the_run(tmp_path):
    leak = {"train": ("SN001_0", "SN003_1"), "test": ("SN003_5", "SN001_9")}
    root = fake.audetnet(tmp_path, ids=leak)
    with pytest.raises(DataError, match=r"2 subjects train and test \(SN001, SN003\).*--subject-leak"):
        list(audetnet.records(root))
    records, _ = split_up(audetnet.records(root, subject_leak=True))
    assert [r.split for r in records.values()] == ["train", "train", "test", "test"]
    records, _ = split_up(audetnet.records(root, fold="literature-3"))
    assert {name: r.split for name, r in records.items()} == {
        "SN001_0": "train", "SN003_1": "test", "SN003_5": "test", "SN001_9": "train",
    }  # fmt: skip


def test_audetnet_numbered_lists_and_oversampled_ids(tmp_path, capsys):
    root = fake.audetnet(tmp_path)
    (root / "train_ids_2.csv").write_text("SN001_0\nSN001_0\nSN013_2\nSN001_0\n")
    records, _ = split_up(audetnet.records(root, fold="2"))
    assert list(records) == ["SN001_0", "SN013_2"]
    assert "2 ids are listed more than once" in capsys.readouterr().err


def test_audetnet_what_is_wrong_is_named(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        list(audetnet.records(tmp_path / "no"))
    with pytest.raises(DataError, match="no label file"):
        list(audetnet.records(tmp_path))
    ids = {"train": ("a1_0", "a1_1"), "test": ("b_1",)}
    root = fake.audetnet(tmp_path / "a", ids=ids)
    with pytest.raises(UsageError, match="which 12 action units it holds: name them"):
        list(audetnet.records(root))
    with pytest.raises(UsageError, match=r"names 2 action units, the vectors of .* have 12"):
        list(audetnet.records(root, units="AU1,AU2"))
    names = "1,2,4,5,6,7,9,10,12,14,15,16"
    assert len(split_up(audetnet.records(root, units=names))[0]) == 3
    with pytest.raises(UsageError, match="--fold literature-1 needs ids"):
        list(audetnet.records(root, units=names, fold="literature-1"))
    assert split_up(audetnet.records(root, units=names, au_scale="occurrence"))[1]["a1_0"].startswith(
        "AU4 is 2.0, a label outside"
    )
    (root / "test_ids.csv").write_text("a1_0\n")
    with pytest.raises(DataError, match="'a1_0' is in the lists of train and test"):
        list(audetnet.records(root, units=names))
    (root / "other.pkl").write_bytes(b"")
    with pytest.raises(DataError, match="2 label files"):
        list(audetnet.records(root))
    with pytest.raises(DataError, match=r"other\.pkl' is damaged \(EOFError"):
        list(audetnet.records(root / "other.pkl"))


# --- labels are data, not programs ---


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("hacked",)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "vector",
    [
        np.arange(3.0),
        np.arange(3),
        np.arange(3, dtype=">f4"),
        np.array([True, False]),
        [np.float64(1), 2.5, True],
        (1, 2),
    ],
    ids=["float64", "int64", "big-endian", "bool", "list", "tuple"],
)
def test_pickled_vectors_of_every_protocol_are_read(tmp_path, protocol, vector):
    path = tmp_path / "aus.pkl"
    path.write_bytes(pickle.dumps({"SN001_0": vector, "SN001_1": vector}, protocol))
    found = read_label_pickle(path)
    assert list(found) == ["SN001_0", "SN001_1"]
    np.testing.assert_array_equal(found["SN001_1"], np.asarray(vector, dtype=np.float64))


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (Hostile(), "mkdir, which is not run"),
        ({"a": Hostile()}, "mkdir, which is not run"),
        ({"a": np.array([Hostile()])}, "array of type 'O8'|not run"),
        ({"a": np.zeros(2, dtype=[("x", "f4")])}, "array of type 'V4'"),
        ({"a": np.eye(2)}, r"shape \(2, 2\)"),
        ({"a": "text"}, "no vector of numbers"),
        ({7: [1.0]}, "a key is int"),
        ([1.0], "no dictionary"),
        ({}, "no dictionary"),
    ],
)
def test_pickles_of_anything_else_are_refused_and_nothing_is_run(tmp_path, monkeypatch, protocol, content, reason):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "aus.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(DataError, match=reason):
        read_label_pickle(path)
    assert not (tmp_path / "hacked").exists()


def test_a_pickle_that_claims_a_huge_array_is_refused(tmp_path):
    class Huge:
        def __reduce__(self):
            return np.core.multiarray._reconstruct if hasattr(np, "core") else None, (np.ndarray, (10**12,), b"b")

    path = tmp_path / "aus.pkl"
    path.write_bytes(pickle.dumps({"a": Huge()}, 2))
    assert read_label_pickle(path)["a"].size == 0  # no memory is misclassified as what the file only claims
    good = pickle.dumps({"a": np.arange(4.0)}, 2)
    path.write_bytes(good[:-20])
    with pytest.raises(DataError, match="damaged"):
        read_label_pickle(path)
    with pytest.raises(DataError, match="does not exist"):
        read_label_pickle(tmp_path / "no.pkl")


# --- action units by name in a CSV ---


@pytest.mark.parametrize("reader", [disfa, bp4d, audetnet], ids=lambda module: module.__name__.split(".")[-1])
def test_what_systems_leave_behind_and_marks_change_nothing(reader, tmp_path):
    name = reader.__name__.split(".")[-1]
    plain, odd = ({} for _ in range(2))
    for found, folder in ((plain, tmp_path / "plain"), (odd, tmp_path / "odd")):
        root = getattr(fake, name)(folder)
        if found is odd:
            labels = [path for path in root.rglob("*") if path.suffix in (".txt", ".csv", ".pkl")]
            for path in labels:
                (path.parent / f"._{path.name}").write_bytes(b"\0\5\x16\7")
                if path.suffix != ".pkl":
                    path.write_text(path.read_text(encoding="utf-8"), encoding="utf-8-sig")
            for place in {path.parent for path in labels} | {root}:
                (place / "__MACOSX").mkdir()
        records, skipped = split_up(reader.records(root))
        found |= {key: (record.split, record.action_units.tolist()) for key, record in records.items()} | skipped
    assert str(plain) == str(odd)  # NaN is equal to NaN here


def test_unit_table_comes_back_as_it_was_written(tmp_path):
    values = np.array([[0.25, np.nan], [5, 0]], dtype=np.float32)
    write_unit_table(tmp_path / "aus.csv", ["a", "b,c"], ["AU12", "AU6"], values)
    table = read_unit_table(tmp_path / "aus.csv")
    assert (table.ids, table.units) == (("a", "b,c"), ("AU12", "AU6"))
    np.testing.assert_array_equal(table.values, values)
    assert [unit_name(word) for word in ("AU06", "au6", "6", " AU6")] == ["AU6"] * 4


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name,AU1\n", "needs the header id,AU1"),
        ("id,AU13\n", "line 1: unknown action unit 'AU13'"),
        ("id,AU1,au01\n", "named twice"),
        ("id,AU1\na,1,2\n", "line 2: 3 cells"),
        ("id,AU1\na,much\n", "'a': 'much' is not a number"),
        ("id,AU1\na,9\n", "'a': 9 is outside 0 to 5"),
        ("id,AU1\na,nan\n", "'a': nan is outside 0 to 5"),
        ("id,AU1\na,1\na,2\n", "'a' occurs twice"),
    ],
)
def test_unit_table_what_is_wrong_is_named(tmp_path, text, reason):
    (tmp_path / "aus.csv").write_text(text)
    with pytest.raises(DataError, match=reason):
        read_unit_table(tmp_path / "aus.csv")
