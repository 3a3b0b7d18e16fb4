"""Shapes of JSON files, ways to write a box, names of units and votes: what tables of others look like."""

import json
import re
import shlex
from collections import Counter

import cv2
import forms
import numpy as np
import pytest
import tiny

from mien.cli import main
from mien.data.au_scale import decide, intensity, unit_columns
from mien.data.store import open_store
from mien.datasets import json_tables, table_boxes
from mien.datasets.columns import resolve
from mien.errors import DataError
from mien.faces.landmark_files import read_landmarks

ROWS = [{"path": "a.png", "label": "happy"}, {"path": "b.png", "label": "sad"}]
SHAPES = {
    "list": ROWS,
    "inside": {"version": 1, "licence": {}, "data": ROWS},
    "pictures": {"a.png": "happy", "b.png": "sad"},
    "objects": {"a.png": {"label": "happy"}, "b.png": {"label": "sad"}},
    "classes": {"happy": ["a.png"], "sad": ["b.png"]},
    "columns": {"path": ["a.png", "b.png"], "label": ["happy", "sad"]},
    "pandas": {"path": {"0": "a.png", "1": "b.png"}, "label": {"0": "happy", "1": "sad"}},
    "pandas_split": {"columns": ["path", "label"], "index": [0, 1], "data": [["a.png", "happy"], ["b.png", "sad"]]},
    "pairs": [["a.png", "happy"], ["sad", "b.png"]],
    "nested": [{"path": "a.png", "face": {"label": "happy"}}, {"path": "b.png", "face": {"label": "sad"}}],
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_of_json(name):
    rows = json_tables.rows_of(SHAPES[name])
    assert [row.get("path", row.get("image")) for row in rows] == ["a.png", "b.png"]
    assert [row["label"] for row in rows] == ["happy", "sad"]


def test_shapes_of_json_with_splits_and_boxes():
    rows = json_tables.rows_of({"train": {"a.png": "happy"}, "val": [{"image": "b.png", "label": "sad"}]})
    assert [(row["split"], row["image"], row["label"]) for row in rows] == [
        ("train", "a.png", "happy"),
        ("val", "b.png", "sad"),
    ]
    coco = {
        "images": [{"id": 7, "file_name": "a.png"}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 2, "bbox": [1, 2, 3, 4]}],
        "categories": [{"id": 2, "name": "fear"}],
    }
    assert json_tables.rows_of(coco) == [{"image": "a.png", "label": "fear", "x": 1, "y": 2, "w": 3, "h": 4}]
    for content in (
        {"title": "x", "licences": [{"name": "CC0"}, 3], "more": [{"a": 1}]},
        {"0": "anger", "1": "fear"},
        7,
        {},
    ):
        with pytest.raises(ValueError, match="neither a list"):
            json_tables.rows_of(content)
    assert json_tables.flat({"label": 1, "face": {"label": 2, "box": 3}}) == {"label": 1, "face.label": 2, "box": 3}
    assert json_tables.flat({"image": {"bytes": 1, "path": 2}}) == {"image": {"bytes": 1, "path": 2}}


def test_boxes_in_one_cell():
    for cell in ("[50, 10, 82.5, 42]", "50 10 82.5 42", "(50;10;82.5;42)", [50, 10, 82.5, 42]):
        assert table_boxes.four(cell) == [50, 10, 82.5, 42]
    assert table_boxes.four("10, 20") is None
    assert [table_boxes.target_of(n) for n in ("bbox", "facebox", "boxxyxy", "bboxcoco", "boxer")] == [
        "box", "box", "box_xyxy", "box_xywh", None,
    ]  # fmt: skip
    sizes = [(90, 60)] * 4
    assert table_boxes.order([[50, 10, 82, 42]] * 4, sizes) == "box_xyxy"
    assert table_boxes.order([[50, 10, 32, 32]] * 4, sizes) == "box_xywh"
    assert table_boxes.order([[5, 5, 32, 32]] * 4, sizes) is None
    assert table_boxes.order([[0.5, 0.1, 0.9, 0.7]], [None]) == "box_xyxy"
    assert table_boxes.are_shares([0.2, 0.9, 1.0])
    assert not table_boxes.are_shares([0.0, 1.0])
    assert not table_boxes.are_shares([0.5, 33.0])


def photo_rows(at, *cells):
    """Bright faces at 50 to 81, 10 to 41 of photos of 90 x 60."""
    rows = []
    for k in range(6):
        picture = np.zeros((60, 90, 3), np.uint8)
        picture[10:42, 50:82] = 200
        forms.picture(at / f"{k}.png", k)
        cv2.imwrite(str(at / f"{k}.png"), picture)
        rows.append([f"{k}.png", forms.label(k), *cells])
    return rows


def prepared(at, capsys, *words, reader="table"):
    code = main([*forms.command(reader, at, *words), "--out", str(at / "store"), "--size", "32", "--workers", "1"])
    said = capsys.readouterr()
    return code, said.out + said.err


@pytest.mark.parametrize(
    ("names", "cells"),
    [
        (["x_min", "y_min", "x_max", "y_max"], [50 / 90, 10 / 60, 82 / 90, 42 / 60]),
        (["face_left", "face_top", "face_right", "face_bottom"], [50, 10, 82, 42]),
        (["bbox"], ["[50, 10, 82, 42]"]),
        (["bbox"], ["50 10 32 32"]),
    ],
)
def test_a_box_is_cut_out_however_it_is_written(names, cells, tmp_path, capsys):
    forms.table(tmp_path / "l.csv", ["image", "label", *names], photo_rows(tmp_path, *cells))
    code, said = prepared(tmp_path, capsys)
    assert code == 0, said
    store = open_store(tmp_path / "store")
    assert all(store.image(k)[8:24, 8:24].mean() > 190 for k in range(6))
    assert ("shares of the picture" in said) == (names[0] == "x_min")


def test_a_box_that_may_be_corners_or_sides_is_refused_with_the_option(tmp_path, capsys):
    forms.table(tmp_path / "l.csv", ["image", "label", "bbox"], photo_rows(tmp_path, "4 4 20 20"))
    code, said = prepared(tmp_path, capsys)
    assert code == 2
    assert "--columns box_xyxy=bbox or --columns box_xywh=bbox" in said
    assert prepared(tmp_path, capsys, "--columns", "box_xywh=bbox")[0] == 0


def test_a_json_of_pictures_and_labels_in_a_folder(tmp_path, capsys):
    names = forms.pictures(tmp_path, count=6)
    forms.text(tmp_path / "classes.json", json.dumps({"0": "anger", "1": "fear"}))
    forms.text(tmp_path / "l.json", json.dumps({p: forms.FER[forms.label(k)] for k, p in enumerate(names)}))
    code, said = prepared(tmp_path, capsys)
    assert code == 2
    assert "--labels fer2013 if" in said
    assert prepared(tmp_path, capsys, "--labels", "fer2013")[0] == 0
    assert open_store(tmp_path / "store").expression.tolist() == [forms.label(k) for k in range(6)]


def test_labels_beside_pictures_as_darknet_wants_them(tmp_path, capsys):
    names = list(forms.WORDS)
    forms.text(tmp_path / "obj.names", "\n".join(names))
    for split in ("train", "test"):
        folder = tmp_path / f"obj_{split}_data"
        photo_rows(folder)
        for k in range(6):
            line = f"{names.index(forms.label(k))} {66 / 90} {26 / 60} {32 / 90} {32 / 60}\n"
            forms.text(folder / f"{k}.txt", line)
    code, said = prepared(tmp_path, capsys, reader="folder")
    assert code == 0, said
    store = open_store(tmp_path / "store")
    assert sorted(store.split) == ["test"] * 6 + ["train"] * 6
    assert not store.skipped
    assert all(store.image(k)[8:24, 8:24].mean() > 190 for k in range(12))


def test_names_of_units_and_votes(tmp_path):
    names = ["'AU1'", "FAU_02", "Brow Lowerer", "lip_corner_puller", "AU25_presence"]
    assert unit_columns(names)[0] == dict(zip(["AU1", "AU2", "AU4", "AU12", "AU25"], names, strict=True))
    for pattern in ("p({})", "{} (%)", "soft_label_{}", "n_{}", "prob.{}", "{}_count"):
        columns = [pattern.format(word) for word in ("happy", "sad", "fear", "anger")]
        shares = resolve([], ["image", *columns], tmp_path).shares
        assert shares == dict(zip(["Happiness", "Sadness", "Fear", "Anger"], columns, strict=True))
    assert not resolve([], ["image", "happy face count", "sad eyes", "fear x", "anger y"], tmp_path).shares


def test_codes_of_units_not_coded_leave_the_rest_of_a_row(tmp_path, capsys):
    """One 888 among 0 and 1 made intensities of them: every unit was never active."""
    values = (forms.intensities() >= 2).astype(int)
    cells = [[str(n) for n in row] for row in values]
    for k, word in enumerate(["888", "-", "missing", "-2", "n.c."]):
        cells[k][k] = word
    forms.unit_table(tmp_path, cells)
    assert prepared(tmp_path, capsys)[0] == 0
    store = open_store(tmp_path / "store")
    assert not store.skipped
    assert np.isfinite(store.action_units).sum() == values.size - 5
    assert set(store.action_units[np.isfinite(store.action_units)].tolist()) == {0.0, 5.0}


def test_a_lone_slip_makes_no_intensities():
    counts = {"AU1": Counter({0.0: 7, 1.0: 5}), "AU2": Counter({0.0: 6, 1.0: 5, 7.0: 1})}
    assert decide(counts, {}, "x") == {"AU1": "occurrence", "AU2": "occurrence"}
    counts["AU2"] = Counter({0.0: 6, 1.0: 4, 3.0: 2})
    assert decide(counts, {}, "x") == {"AU1": "intensity", "AU2": "intensity"}
    assert intensity("83%", "percent") == 5.0


@pytest.mark.parametrize("pattern", ["{split}/{split}/{word}/{k}.png", "{split}ing_set/{word}/{k}.png"])
def test_split_folders_in_split_folders_and_other_names(pattern, tmp_path, capsys):
    truth = forms.two_splits(tmp_path, pattern)
    assert prepared(tmp_path, capsys, reader="folder")[0] == 0
    store = open_store(tmp_path / "store")
    assert {split: sum(store.split == split) for split in ("train", "test")} == {
        s: sum(n.values()) for s, n in truth.items()
    }


def test_folders_of_parts_with_other_words_are_not_people(tmp_path, capsys):
    truth = forms.two_splits(tmp_path, "my_{split}/{word}/{k}.png")
    assert prepared(tmp_path, capsys, reader="folder")[0] == 0
    assert Counter(open_store(tmp_path / "store").split) == {split: sum(n.values()) for split, n in truth.items()}


def test_labels_to_give_are_quoted_and_filled_in(tmp_path, capsys):
    words = {name: f"{word} mixed (300)" for name, word in forms.WORDS.items()}
    truth = forms.two_splits(tmp_path, words=words)
    _, said = prepared(tmp_path, capsys, reader="folder")
    found = re.search(r"--labels ('[^']+')", said)
    assert found, said
    assert prepared(tmp_path, capsys, "--labels", *shlex.split(found[1]), reader="folder")[0] == 0
    assert dict(Counter(open_store(tmp_path / "store").expression)) == {
        n: truth["train"][n] + truth["test"][n] for n in words
    }


def test_landmarks_of_json_arrays_by_name_and_paths_of_others(tmp_path):
    points = np.stack([tiny.points(32), tiny.points(32) + 1]).astype(np.float32)
    a, b = (face.tolist() for face in points)
    shapes = {
        "dict": {"a.png": a, "b.png": b},
        "objects": {"a.png": {"landmarks": a}, "b.png": {"points": np.ravel(b).tolist()}},
        "list": [{"file": "a.png", "keypoints": a}, {"file": "b.png", "keypoints": b}],
    }
    for name, content in shapes.items():
        forms.text(tmp_path / f"{name}.json", json.dumps(content))
    np.savez(tmp_path / "names.npz", points=points, filenames=np.array(["a.png", "b.png"]))
    np.savez(tmp_path / "keys.npz", **{"a.png": points[0], "b.png": points[1]})
    rows = [[f"D:\\u\\faces\\{n}.png", *face.T.ravel()] for n, face in zip("ab", points, strict=True)]
    forms.table(tmp_path / "t.csv", ["image", *forms.HEADER68], rows)
    for file in sorted(tmp_path.iterdir()):
        found = read_landmarks(file)
        assert list(found) == ["a.png", "b.png"], file
        np.testing.assert_allclose(np.stack([*found.values()]), points, atol=1e-3)
    forms.text(tmp_path / "one/a.json", json.dumps({"landmarks": a}))
    forms.text(tmp_path / "one/b.json", json.dumps({"landmarks": []}))
    found = read_landmarks(tmp_path / "one")
    assert np.isfinite(found["a"]).all()
    assert np.isnan(found["b"]).all()
    forms.text(tmp_path / "bad.json", json.dumps({"a.png": [[1, 2], [3]]}))
    with pytest.raises(DataError, match="no list of points"):
        read_landmarks(tmp_path / "bad.json")
