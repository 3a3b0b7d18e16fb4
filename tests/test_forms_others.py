"""Further forms: cells with several things, lists without names, videos, words of splits, landmarks of other schemes."""

import base64
import json
import shlex
from collections import Counter
from pathlib import Path

import forms
import numpy as np
import pytest
import tiny

from mien.cli import main
from mien.data.store import open_store
from mien.datasets.spread import numbers_of, units_of
from mien.datasets.words import find_expression, find_split, split_in_name, splits_of
from mien.faces.landmark_files import read_landmarks
from mien.faces.landmark_layouts import WFLW_TO_68, as_68, in_pairs
from mien.schema import ACTION_UNITS

LABELS = [forms.label(k) for k in range(forms.COUNT)]
WORDS = [forms.WORDS[name] for name in LABELS]
ORDER = list(forms.FER)
SHARES = [[0.7 if name == label else 0.05 for name in ORDER] for label in LABELS]


def prepare(words, tmp_path, capsys):
    """Exit code, store and everything that was said."""
    code = main([*words, "--out", str(tmp_path / "store"), "--size", "32", "--workers", "1"])
    said = capsys.readouterr()
    return code, open_store(tmp_path / "store") if code == 0 else None, said.out + said.err


def table(at, header, rows, name="t.csv", **how):
    names = forms.pictures(at)
    forms.table(at / name, header, [[picture, *row] for picture, row in zip(names, rows, strict=True)], **how)
    return ["prepare", "table", "--root", str(at / name)]


def found_units(store):
    known = np.isfinite(store.action_units)
    names = [name for k, name in enumerate(ACTION_UNITS) if known[:, k].any()]
    return names, int(known.sum()), int((store.action_units >= 2).sum())


@pytest.mark.parametrize(
    ("cell", "units"),
    [
        ("1+2+12", {"AU1": "", "AU2": "", "AU12": ""}),
        ("AU1 AU12", {"AU1": "", "AU12": ""}),
        ("[1, 12]", {"AU1": "", "AU12": ""}),
        ("['AU01', 'AU4']", {"AU1": "", "AU4": ""}),
        ([1, 12], {"AU1": "", "AU12": ""}),
        ("1.0;12.0", {"AU1": "", "AU12": ""}),
        ("4D+R12B, 25", {"AU4": "d", "AU12": "b", "AU25": ""}),
        ("0", {}),
        ("none", {}),
        ("1+smile", None),
        ("1234", None),
    ],
)
def test_units_of_a_cell(cell, units):
    assert units_of(cell) == units


@pytest.mark.parametrize("sign", ["+", " AU", ", ", "|au0"])
def test_several_units_in_one_cell(sign, tmp_path, capsys):
    cells = ["0", "", *([f"1{sign}2", f"2{sign}4", "4"] * 4)[:10]]
    code, store, said = prepare(table(tmp_path, ["image", "AUs"], [[cell] for cell in cells]), tmp_path, capsys)
    assert code == 0, said
    active = sum(len(units_of(cell) or ()) for cell in cells)
    assert found_units(store) == (["AU1", "AU2", "AU4"], 33, active)  # the empty cell is unknown, 0 is not
    assert "as occurrence" in said


def test_letters_in_one_cell_are_intensities(tmp_path, capsys):
    rows = [["1B+12D"], ["1A+4"], *([["12C"]] * 10)]
    _, store, said = prepare(table(tmp_path, ["image", "FACS"], rows), tmp_path, capsys)
    at = [ACTION_UNITS.index(name) for name in ("AU1", "AU4", "AU12")]
    assert store.action_units[:3, at].tolist() == [[2, 0, 4], [1, 5, 0], [0, 0, 3]]
    assert "letters A to E" in said


SOFT = {
    "list": lambda at: table(at, None, SHARES, "t.txt", sep=" "),
    "numbered": lambda at: table(at, ["image", *(f"prob_{k}" for k in range(7))], SHARES),
    "numbers": lambda at: table(at, ["image", *range(7)], SHARES),
    "one_cell": lambda at: table(at, ["image", "soft_label"], [[str(row)] for row in SHARES]),
    "votes": lambda at: table(at, None, [[round(20 * n) for n in row] for row in SHARES], "t.lst", sep="\t"),
}


@pytest.mark.parametrize("kind", SOFT)
def test_shares_without_names_go_by_the_order_of_labels(kind, tmp_path, capsys):
    words = SOFT[kind](tmp_path)
    code, _, said = prepare(words, tmp_path, capsys)
    assert (code, "--labels fer2013" in said) == (2, True)
    code, store, said = prepare([*words, "--labels", "fer2013"], tmp_path, capsys)
    assert code == 0, said
    assert store.expression.tolist() == LABELS
    assert np.isfinite(store.votes).all()
    assert np.allclose(store.votes.max(axis=1), 0.7)
    assert not np.isfinite(store.action_units).any()  # columns 1 to 7 are no action units


def test_one_column_for_each_of_three_expressions(tmp_path, capsys):
    rows = [[int(k % 3 == n) for n in range(3)] for k in range(12)]
    _, store, _ = prepare(table(tmp_path, ["image", "happy", "sad", "neutral"], rows), tmp_path, capsys)
    assert store.expression.tolist() == ["Happiness", "Sadness", "Neutral"] * 4


def test_polarity_words_are_polarity(tmp_path, capsys):
    rows = [[("positive", "neutral", "Negative")[k % 3]] for k in range(12)]
    _, store, _ = prepare(table(tmp_path, ["image", "label"], rows), tmp_path, capsys)
    assert [values["polarity"] for values in store.attributes[:3]] == ["Positive", "Neutral", "Negative"]


def test_several_columns_of_numbers_without_a_header_are_refused(tmp_path, capsys):
    """Face number, box, confidence and label behind the name."""
    rows = [[k % 2, 2, 2, 30, 30, 60.5 + k, forms.FER[name]] for k, name in enumerate(LABELS)]
    words = [*table(tmp_path, None, rows, "label/faces.lst", sep=" "), "--labels", "fer2013"]
    code, _, said = prepare(words, tmp_path, capsys)
    assert code == 2
    assert "--columns image=1,expression=8" in said
    more = ["--columns", "image=1,top=3,left=4,right=5,bottom=6,expression=8"]
    _, store, _ = prepare([*words, *more], tmp_path, capsys)
    assert store.expression.tolist() == LABELS


def test_labels_that_are_mostly_foreign_are_refused(tmp_path, capsys):
    french = dict(zip(forms.NAMES, ["neutre", "joie", "surprise", "peur", "colère", "tristesse"], strict=True))
    words = table(tmp_path, ["fichier", "émotion"], [[french[name]] for name in LABELS])
    code, _, said = prepare(words, tmp_path, capsys)
    assert (code, "--labels joie=...,peur=..." in said) == (2, True)


def test_what_cells_hold_counts_where_names_say_nothing(tmp_path, capsys):
    rows = [[k, word, "train" if k < 8 else "test"] for k, word in enumerate(WORDS)]
    names = forms.pictures(tmp_path)
    lines = [[k, word, split, name] for (k, word, split), name in zip(rows, names, strict=True)]
    forms.table(tmp_path / "t.csv", ["", "was", "teil", "pfad"], lines)
    _, store, said = prepare(["prepare", "table", "--root", str(tmp_path / "t.csv")], tmp_path, capsys)
    assert store.expression.tolist() == LABELS
    assert Counter(store.split.tolist()) == {"train": 8, "test": 4}
    assert "image = pfad" in said


@pytest.mark.parametrize(
    ("header", "content"),
    [
        ("sep=;\n", "image;label\n{}"),
        ("# made by hand, 2021\n# two columns\n", "image,label\n{}"),
        ("", "# image label\n{}"),
        ("", "{}"),
    ],
)
def test_lines_above_a_table_and_labels_in_front(header, content, tmp_path, capsys):
    names = forms.pictures(tmp_path)
    sign = ";" if ";" in content else "," if "," in content else " "
    pairs = zip(names, WORDS, strict=True)
    body = "".join(f"{word}{sign}{name}\n" if content == "{}" else f"{name}{sign}{word}\n" for name, word in pairs)
    forms.text(tmp_path / "t.txt", header + content.format(body))
    code, store, said = prepare(["prepare", "table", "--root", str(tmp_path / "t.txt")], tmp_path, capsys)
    assert code == 0, said
    assert store.expression.tolist() == LABELS
    assert not store.skipped


def test_words_of_splits():
    for word, split in {
        "Evaluation": "test", "hold-out": "test", "trn": "train", "train set": "train", "val2017": "valid", "Private Test": "test",
        "FER2013Train": "train", "Validation Images": "valid", "entraînement": "train", "happy": None, "tr": None, "T1": None,
    }.items():  # fmt: skip
        assert find_split(word) == split, word
    assert splits_of(["train", "eval"]) == {"train": "train", "eval": "test"}
    assert splits_of(["train", "eval", "test"]) == {"train": "train", "eval": "valid", "test": "test"}
    assert splits_of(["Training", "PublicTest"]) == {"Training": "train", "PublicTest": "test"}
    assert splits_of(["tr", "te"]) == {"tr": "train", "te": "test"}
    assert splits_of(["tr", "other"]) == {}
    assert split_in_name("FacesTest") == "test"
    assert split_in_name("train_and_test") is None
    names = {"angry faces": "Anger", "sad_4": "Sadness", "emotion_happy": "Happiness", "an 4": None, "train": None}
    assert {name: find_expression(name) for name in names} == names


@pytest.mark.parametrize("column", ["is_train", "subset"])
def test_columns_of_splits(column, tmp_path, capsys):
    split = ("train split", "test split") if column == "subset" else ("True", "False")
    rows = [[word, split[k >= 8]] for k, word in enumerate(WORDS)]
    _, store, _ = prepare(table(tmp_path, ["image", "label", column], rows), tmp_path, capsys)
    assert Counter(store.split.tolist()) == {"train": 8, "test": 4}


def test_folders_of_splits_with_other_words(tmp_path, capsys):
    forms.two_splits(tmp_path / "a", "Expression{split}/{word}/{k}.png")
    forms.two_splits(tmp_path / "b", "{split} images/{word}/{k}.png")
    for name in ("a", "b"):
        words = [
            "prepare",
            "folder",
            "--root",
            str(tmp_path / name),
            "--out",
            str(tmp_path / f"s{name}"),
            "--size",
            "32",
        ]
        assert main([*words, "--workers", "1"]) == 0
        assert Counter(open_store(tmp_path / f"s{name}").split.tolist()) == {"train": 12, "test": 6}


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("pattern", ["images/{video}/{k}.png", "{video}_aligned/frame_det_00_{k:06d}.png"])
def test_tables_of_videos(pattern, first, tmp_path, capsys):
    for n, video in enumerate(("001A", "001B")):
        for k in range(6):
            forms.picture(tmp_path / pattern.format(video=video, k=k + first), 6 * n + k)
        rows = [[k + 1, int(k >= 4), int(n == 0)] for k in range(6)]
        forms.table(tmp_path / f"codes/{video}.csv", ["Frame", "AU1", "AU12"], rows)
    code, store, said = prepare(["prepare", "table", "--root", str(tmp_path)], tmp_path, capsys)
    assert code == 0, said
    assert found_units(store) == (["AU1", "AU12"], 24, 10)
    assert Counter(store.subject.tolist()) == {"001A": 6, "001B": 6}
    active = store.action_units[:, ACTION_UNITS.index("AU1")] >= 2
    fifth = pattern.format(video="001A", k=4 + first)
    assert any(str(name).endswith(fifth) for name in store.ids[active])


def test_pictures_in_base64_and_arrow(tmp_path, capsys):
    import pyarrow as pa

    names = forms.pictures(tmp_path / "x")
    encoded = [(tmp_path / "x" / name).read_bytes() for name in names]
    lines = [[base64.b64encode(code).decode(), word] for code, word in zip(encoded, WORDS, strict=True)]
    forms.table(tmp_path / "a.csv", ["image", "label"], lines)
    rows = pa.table({"image": [{"bytes": code, "path": None} for code in encoded], "label": list(range(12))})
    kind = {"info": {"features": {"label": {"names": WORDS, "_type": "ClassLabel"}}}}
    (tmp_path / "b/train").mkdir(parents=True)
    path = tmp_path / "b/train/data-00000-of-00001.arrow"
    rows = rows.replace_schema_metadata({"huggingface": json.dumps(kind)})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, rows.schema) as stream:
        stream.write_table(rows)
    for root in ("a.csv", "b"):
        words = [
            "prepare",
            "table",
            "--root",
            str(tmp_path / root),
            "--out",
            str(tmp_path / f"s{root}"),
            "--size",
            "32",
        ]
        assert main([*words, "--workers", "1"]) == 0
        store = open_store(tmp_path / f"s{root}")
        assert store.expression.tolist() == LABELS
        assert np.array_equal(store.image(3), forms.pixels(3))


def test_archives_and_compound_expressions_are_named(tmp_path, capsys):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/faces.zip").write_bytes(b"PK\x03\x04")
    rows = [[k, " ".join(["7"] * 2304), "Training"] for k in range(7)]  # another dataset above is not meant
    forms.table(tmp_path / "fer2013.csv", ["emotion", "pixels", "Usage"], rows)
    for reader in ("folder", "table", "fer2013"):
        _, _, said = prepare(["prepare", reader, "--root", str(tmp_path / "a")], tmp_path, capsys)
        assert "'faces.zip' is not read: unpack it" in said
    for k in range(12):
        forms.picture(tmp_path / f"R/compound/Image/aligned/train_{k}_aligned.jpg", k)
    lines = "".join(f"train_{k}.jpg {k % 11 + 1}\n" for k in range(12))
    forms.text(tmp_path / "R/compound/EmoLabel/list_patition_label.txt", lines)
    code, _, said = prepare(["prepare", "rafdb", "--root", str(tmp_path / "R")], tmp_path, capsys)
    assert (code, "compound expressions" in said) == (1, True)


def test_ferplus_with_labels_apart_from_pictures(tmp_path, capsys):
    for split, numbers in (("Train", range(8)), ("Test", range(8, 12))):
        rows = []
        for k in numbers:
            forms.picture(tmp_path / f"FER2013Plus/Images/FER2013{split}/fer{k:07d}.png", k)
            rows.append([f"fer{k:07d}.png", "(0, 0, 48, 48)", 1, 8, *[0] * 7, 1])
        forms.table(tmp_path / f"FER2013Plus/Labels/FER2013{split}/label.csv", None, rows)
    code, store, said = prepare(["prepare", "fer2013", "--root", str(tmp_path)], tmp_path, capsys)
    assert code == 0, said
    assert Counter(zip(store.split, store.expression, strict=True)) == {
        ("train", "Happiness"): 8,
        ("test", "Happiness"): 4,
    }


def scheme(count):
    """Points of another scheme, those at the 68 in their places."""
    points = np.full((count, 2), 5.0)
    points[list(WFLW_TO_68) if count == 98 else slice(68)] = tiny.points()
    return points


def test_points_of_other_schemes_and_bare_numbers():
    face = tiny.points()
    for points in (scheme(98), scheme(98)[None], np.c_[face, face[:, 0]], face.T, face.ravel(), face.T.ravel()):
        found = as_68(points)
        assert found is not None
        assert np.allclose(found.reshape(68, 2), face)
    assert as_68(np.zeros((106, 2))) is None
    assert in_pairs(np.stack([face.ravel()] * 3))
    assert numbers_of("[0.5, 1]") == [0.5, 1.0]


def _points(path, points):
    if path.suffix == ".npy":
        np.save(path, points[None])
    elif path.suffix == ".mat":
        __import__("scipy.io").io.savemat(path, {"pt2d": points.T + 1})
    elif path.suffix == ".json":
        shapes = [{"label": str(k), "points": [point.tolist()]} for k, point in enumerate(points)]
        forms.text(path, json.dumps({"imagePath": f"{path.stem}.png", "shapes": shapes}))
    else:
        numbers = " ".join(f"{value:.2f}" for value in points.ravel())
        tail = " 1 1 30 30 0 0 0 0 0 0" if len(points) == 98 else ""
        lines = [
            f"{numbers}{tail} a.png" if tail else f"a.png {numbers}",
            f"{numbers}{tail} b.png" if tail else f"b.png {numbers}",
        ]
        forms.text(path, "\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("name", "count"), [("a.npy", 98), ("a.mat", 68), ("a.json", 68), ("list.txt", 98), ("list.csv", 68)]
)
def test_landmark_files_of_others(name, count, tmp_path):
    _points(tmp_path / name, scheme(count))
    found = read_landmarks(tmp_path / name)
    assert set(found) == ({"a"} if name.startswith("a") else {"a.png", "b.png"})
    for points in found.values():
        assert np.allclose(points, tiny.points(), atol=0.01)


def test_landmarks_in_one_cell(tmp_path, capsys):
    cell = ";".join(f"{value:.1f}" for value in tiny.points().ravel())
    rows = [[word, cell] for word in WORDS]
    _, store, _ = prepare(table(tmp_path, ["image", "label", "facial_landmarks"], rows), tmp_path, capsys)
    assert np.allclose(store.landmarks, tiny.points(), atol=0.06)


@pytest.mark.parametrize(
    ("preset", "pattern", "subjects"),
    [("jaffe", "K{who}-{code}{k}-{k}.jpg", 2), ("kdef", "af0{k}{code}s_1.jpg", 12)],
)
def test_names_of_studios_in_lower_case(preset, pattern, subjects, tmp_path, capsys):
    codes = dict(zip(forms.NAMES, ["ne", "ha", "su", "af", "an", "sa"], strict=True))
    names = [
        pattern.format(who="AM"[k % 2], code=codes[name], k=k % 10) for k, name in enumerate(LABELS) if name != "Fear"
    ]
    for k, name in enumerate(names):
        forms.picture(tmp_path / f"x{k}" / name, k)
    words = ["prepare", "folder", "--root", str(tmp_path), "--expression-pattern", preset]
    code, store, said = prepare(words, tmp_path, capsys)
    assert code == 0, said
    assert store.expression.tolist() == [name for name in LABELS if name != "Fear"] or len(store) == len(names)
    assert len(set(store.subject)) <= subjects


def test_labels_of_several_annotators_in_one_cell_and_in_rows(tmp_path, capsys):
    one = table(tmp_path, ["image", "labels"], [[f"{word};{word};sad"] for word in WORDS])
    names = forms.pictures(tmp_path)
    rows = [
        [name, who, word if who < 3 else "sad"] for name, word in zip(names, WORDS, strict=True) for who in (1, 2, 3)
    ]
    forms.table(tmp_path / "rows.csv", ["image", "rater", "label"], rows)
    for root in (one[3], str(tmp_path / "rows.csv")):
        words = ["prepare", "table", "--root", root, "--out", f"{root}.store", "--size", "32", "--workers", "1"]
        assert main(words) == 0
        store = open_store(Path(f"{root}.store"))
        assert store.expression.tolist() == LABELS
        most = np.where(np.array(LABELS) == "Sadness", 1, 2 / 3)
        assert np.allclose(store.votes.max(axis=1), most)
    assert "36 rows of 12 pictures" in capsys.readouterr().err


def test_values_of_units_in_one_cell(tmp_path, capsys):
    rows = [["AU6:2.5,AU12:1"], ["{'AU12': 4.0}"], *([["AU6=1"]] * 10)]
    _, store, _ = prepare(table(tmp_path, ["image", "aus"], rows), tmp_path, capsys)
    at = [ACTION_UNITS.index(name) for name in ("AU6", "AU12")]
    assert store.action_units[:3, at].tolist() == [[2.5, 1], [0, 4], [1, 0]]


def test_a_list_of_pictures_and_units_without_a_header(tmp_path, capsys):
    """RAF-AU."""
    for k in range(12):
        forms.picture(tmp_path / f"aligned/{k:04d}_aligned.png", k)
    forms.text(tmp_path / "RAFAU_label.txt", "".join(f"{k:04d}.jpg 1+2+{'5+' * (k % 2)}25\n" for k in range(12)))
    code, store, said = prepare(["prepare", "table", "--root", str(tmp_path)], tmp_path, capsys)
    assert code == 0, said
    assert found_units(store) == (["AU1", "AU2", "AU5", "AU25"], 48, 42)


def test_boxes_as_pascal_voc_wants_them(tmp_path, capsys):
    for k, word in enumerate(WORDS):
        box = "<xmin>0</xmin><ymin>0</ymin><xmax>31</xmax><ymax>31</ymax>"
        xml = f"<annotation><object><name>{word}</name><bndbox>{box}</bndbox></object></annotation>"
        folder = "train" if k < 8 else "valid"
        forms.picture(tmp_path / f"{folder}/{k}.png", k)
        forms.text(tmp_path / f"{folder}/{k}.xml", xml)
    _, store, _ = prepare(["prepare", "folder", "--root", str(tmp_path)], tmp_path, capsys)
    assert sorted(store.expression) == sorted(LABELS)
    assert Counter(store.split.tolist()) == {"train": 8, "valid": 4}


@pytest.mark.parametrize(
    "pattern", ["VL/P00{who}/{word}/{k}.png", "00{who}/{word}/take0/{k}.png", "train/s{who}/{word}/{k}.png"]
)
def test_people_around_class_folders_name_the_patterns(pattern, tmp_path, capsys):
    for k, word in enumerate(WORDS):
        forms.picture(tmp_path / "d" / pattern.format(who=k % 3, word=word, k=k), k)
    code, _, said = prepare(["prepare", "folder", "--root", str(tmp_path / "d")], tmp_path, capsys)
    assert code == 2
    words = shlex.split(said[said.index("Try: mien ") + 10 :])
    code, store, said = prepare(words[: words.index("--out")], tmp_path, capsys)
    assert code == 0, said
    assert sorted(store.expression) == sorted(LABELS)
    assert len(set(store.subject)) == 3


def test_affectnet_with_valence_alone(tmp_path, capsys):
    for k in range(4):
        forms.picture(tmp_path / f"train_set/images/{k}.jpg", k)
        (tmp_path / "train_set/annotations").mkdir(exist_ok=True)
        np.save(tmp_path / f"train_set/annotations/{k}_val.npy", np.array("0.25"))
    code, store, said = prepare(["prepare", "affectnet", "--root", str(tmp_path)], tmp_path, capsys)
    assert code == 0, said
    assert store.expression.tolist() == [None] * 4
    assert all(values["valence"] == 0.25 for values in store.attributes)


def test_one_annotation_in_lists_of_json(tmp_path, capsys):
    """Label Studio."""
    names = forms.pictures(tmp_path)
    rows = [
        {
            "data": {"image": f"/data/upload/1/{name}"},
            "annotations": [{"result": [{"value": {"choices": [word.title()]}}]}],
        }
        for name, word in zip(names, WORDS, strict=True)
    ]
    forms.text(tmp_path / "export.json", json.dumps(rows))
    _, store, _ = prepare(["prepare", "table", "--root", str(tmp_path)], tmp_path, capsys)
    assert store.expression.tolist() == LABELS
