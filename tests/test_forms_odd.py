"""Odd forms that circulate: signed units, boxes without names, CK+ with FACS files, BP4D with strengths, Aff-Wild2, rows of points."""

import json
import shlex

import cv2
import forms
import numpy as np
import pytest
import tiny
from PIL import Image

from mien.cli import main
from mien.data.store import open_store
from mien.datasets.names import people_preset
from mien.datasets.picture_paths import other_spelling
from mien.errors import DataError
from mien.faces.landmark_files import read_landmarks
from mien.faces.landmarks import MESH_TO_68
from mien.faces.pictures import load_picture
from mien.faces.text_table import open_table
from mien.schema import ACTION_UNITS

LABELS = [forms.label(k) for k in range(forms.COUNT)]
WORDS = [forms.WORDS[name] for name in LABELS]


def prepare(words, tmp_path, capsys):
    """Exit code, store and everything that was said."""
    code = main([*words, "--out", str(tmp_path / "store"), "--size", "32", "--workers", "1"])
    said = capsys.readouterr()
    return code, open_store(tmp_path / "store") if code == 0 else None, said.out + said.err


def table(at, header, rows, name="t.csv", **how):
    names = forms.pictures(at)
    forms.table(at / name, header, [[picture, *row] for picture, row in zip(names, rows, strict=True)], **how)
    return ["prepare", "table", "--root", str(at / name)]


def follow(said, tmp_path, capsys):
    """The command that a message ends with."""
    words = shlex.split(said[said.index("Try: mien ") + 10 :].splitlines()[0])
    return prepare(words[: words.index("--out")], tmp_path, capsys)


# --- action units -----------------------------------------------------------------------------------------------------


def test_units_of_1_and_minus_1_are_there_and_absent(tmp_path, capsys):
    """-1 as "not coded" would leave units that are active wherever they are known."""
    values = np.where(forms.intensities() >= 2, 1, -1)
    code, store, said = prepare(table(tmp_path, ["image", *forms.UNITS], values), tmp_path, capsys)
    assert code == 0
    assert "signed" in said
    assert np.isfinite(store.action_units).sum() == values.size
    assert (store.action_units >= 2).sum() == (values == 1).sum()
    assert store.info.notes["au_scale"] == "occurrence"


def test_minus_1_beside_0_is_unknown_and_told(tmp_path, capsys):
    values = np.where(forms.intensities() >= 2, 1, 0)
    values[3, 1] = -1
    words = table(tmp_path, ["image", *forms.UNITS], values)
    _, store, said = prepare(words, tmp_path, capsys)
    assert np.isfinite(store.action_units).sum() == values.size - 1
    assert "--au-scale signed" in said
    _, store, _ = prepare([*words, "--au-scale", "signed", "--replace"], tmp_path, capsys)
    assert np.isfinite(store.action_units).sum() == (values != 0).sum()


@pytest.mark.parametrize("ends", ["LR", "AB"])
def test_units_coded_twice_name_the_columns(ends, tmp_path, capsys):
    """Left and right, or two coders: a store without a label would be wrong in silence."""
    names = [f"{unit}_{end}" for unit in forms.UNITS for end in ends]
    words = table(tmp_path, ["image", *names], np.repeat(forms.intensities(), 2, axis=1))
    code, _, said = prepare(words, tmp_path, capsys)
    assert code == 2
    option = said[said.index("--columns") :].split(".")[0].split()
    _, store, _ = prepare([*words, *option], tmp_path, capsys)
    assert (store.action_units >= 2).sum() == (forms.intensities() >= 2).sum()


def test_numbers_and_words_of_a_unit_in_one_name(tmp_path, capsys):
    header = [
        "image",
        "Action Unit 01 - Inner Brow Raiser",
        "AU12 (Lip Corner Puller)",
        "Action Unit 04 - Jaw Drop",
        "AU25.0",
    ]
    _, store, said = prepare(table(tmp_path, header, [[0.1, 0.9, 0.2, 0.3]] * forms.COUNT), tmp_path, capsys)
    known = np.isfinite(store.action_units).any(axis=0)
    assert [name for k, name in enumerate(ACTION_UNITS) if known[k]] == ["AU1", "AU12", "AU25"]
    assert "Action Unit 04 - Jaw Drop" in said  # the number and the words differ


# --- tables -----------------------------------------------------------------------------------------------------------


def test_words_for_no_label_keep_the_row(tmp_path, capsys):
    rows = [[word if k % 3 else ("NA", "None", "?", "-1")[k // 3]] for k, word in enumerate(WORDS)]
    _, store, _ = prepare(table(tmp_path, ["image", "label"], rows), tmp_path, capsys)
    assert store.expression.tolist() == [name if k % 3 else None for k, name in enumerate(LABELS)]


def test_one_hot_columns_of_true_and_false(tmp_path, capsys):
    rows = [[str(word == other) for other in forms.WORDS.values()] for word in WORDS]
    _, store, _ = prepare(table(tmp_path, ["image", *forms.WORDS.values()], rows), tmp_path, capsys)
    assert store.expression.tolist() == LABELS


def photos(at, count=forms.COUNT):
    """Black pictures of 120 x 80 with a bright face; gives left, top and side of each."""
    places = []
    for k in range(count):
        photo = np.zeros((80, 120, 3), np.uint8)
        left, top, side = 70 - k, 30 + k % 3, 40
        photo[top : top + side, left : left + side] = 200
        at.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(at / f"{k:03d}.png"), photo)
        places.append((left, top, side))
    return places


def bright(store):
    return np.stack([store.image(k) for k in range(len(store))]).mean() > 100  # whole photos have 33


@pytest.mark.parametrize("kind", ["corners", "sides", "expw", "via"])
def test_boxes_without_names_are_cut_out(kind, tmp_path, capsys):
    places = photos(tmp_path / "pics")
    rows = []
    for k, (x, y, side) in enumerate(places):
        name, label = f"pics/{k:03d}.png", WORDS[k]
        rows.append({
            "corners": [name, x, y, x + side, y + side, label],
            "sides": [name, x, y, side, side, label],
            "expw": [f"{k:03d}.png", 0, y, x, x + side, y + side, 60.5 + k, forms.FER[LABELS[k]]],
            "via": [name, json.dumps({"name": "rect", "x": x, "y": y, "width": side, "height": side}), label],
        }[kind])  # fmt: skip
    header = ["filename", "region_shape_attributes", "region_attributes"] if kind == "via" else None
    name = "label.lst" if kind == "expw" else "t.csv"
    forms.table(tmp_path / name, header, rows, " " if kind == "expw" else ",")
    more = ["--labels", "fer2013"] if kind == "expw" else []
    code, store, said = prepare(["prepare", "table", "--root", str(tmp_path / name), *more], tmp_path, capsys)
    assert code == 0, said
    assert store.expression.tolist() == LABELS
    assert bright(store)


def test_a_text_file_that_is_no_list_is_named(tmp_path, capsys):
    forms.pictures(tmp_path / "d")
    forms.text(tmp_path / "d/list/paths.txt", "pics/000.png\npics/001.png\n")
    code, _, said = prepare(["prepare", "table", "--root", str(tmp_path / "d")], tmp_path, capsys)
    assert code == 2
    assert "'list/paths.txt'" in said


def test_a_title_above_a_table(tmp_path):
    forms.text(tmp_path / "t.csv", "Labels of our study 2021\n\nimage;label\na.png;sad\nb.png;happy\nc.png;sad\n")
    read = open_table(tmp_path / "t.csv")
    assert read.header == ("image", "label")
    assert len(list(read.body())) == 3
    forms.text(tmp_path / "t.csv", "image,label\na.png,x;y\nb.png,x;y\nc.png,x;y\n")  # no title
    assert open_table(tmp_path / "t.csv").header == ("image", "label")


def test_accents_as_macs_write_them(tmp_path):
    written = forms.picture(tmp_path / "Mu\u0308ller.png", 0)
    assert other_spelling(tmp_path / "M\u00fcller.png").read_bytes() == written.read_bytes()


# --- folders ----------------------------------------------------------------------------------------------------------


def test_a_class_that_is_no_expression_among_those_that_are(tmp_path, capsys):
    """The command that helps keeps all of the set, in place of one of its folders."""
    truth = forms.two_splits(tmp_path / "d")
    forms.picture(tmp_path / "d/train/drunk/1.png", 90)
    code, _, said = prepare(["prepare", "folder", "--root", str(tmp_path / "d")], tmp_path, capsys)
    assert code == 2
    assert "Try:" not in said
    option = said[said.index("--labels drunk") :].split(",")[0].split()
    _, store, _ = prepare(["prepare", "folder", "--root", str(tmp_path / "d"), *option], tmp_path, capsys)
    assert len(store) == sum(truth["train"].values()) + sum(truth["test"].values())


def test_split_folders_that_hold_one_of_a_longer_name(tmp_path, capsys):
    forms.two_splits(tmp_path / "d", "{split}/{split}_Aligned_Faces/{word}/{k}.png")
    code, store, said = prepare(["prepare", "folder", "--root", str(tmp_path / "d")], tmp_path, capsys)
    assert code == 0, said
    assert (store.split == "train").sum() == 12
    assert (store.split == "test").sum() == 6


@pytest.mark.parametrize(
    ("pattern", "subjects"),
    [
        ("s{who}/session1/{word}/{k}.png", 3),
        ("part_{who}/{word}/{k}.png", 0),
        ("CK+48/{word}/S00{who}_001_{k:08d}.png", 3),
        ("{who}{k}_{word}_a.png", 0),
        ("Actor_0{who}/01-01-{ravdess}-01-01-01-0{who}.png", 3),
        ("100{who}_DFA_{crema}_XX.png", 3),
    ],
)
def test_names_of_folders_and_pictures_name_the_command(pattern, subjects, tmp_path, capsys):
    codes = dict(zip(forms.NAMES, ["01", "03", "08", "06", "05", "04"], strict=True))
    for k, name in enumerate(LABELS):
        more = {"ravdess": codes[name], "crema": {"Surprise": "DIS"}.get(name, name[:3].upper())}
        more["crema"] = {"SAD": "SAD", "ANG": "ANG", "FEA": "FEA", "HAP": "HAP", "NEU": "NEU"}.get(more["crema"], "DIS")
        forms.picture(tmp_path / "d" / pattern.format(who=k % 3, k=k, word=WORDS[k], **more), k)
    code, _, said = prepare(["prepare", "folder", "--root", str(tmp_path / "d")], tmp_path, capsys)
    assert code in (1, 2)
    code, store, said = follow(said, tmp_path, capsys)
    assert code == 0, said
    assert len(store) == len({path.name for path in (tmp_path / "d").rglob("*.png")})
    assert len(set(store.subject) - {None}) == subjects


def test_splits_in_class_folders_of_which_one_lacks_a_part(tmp_path, capsys):
    """PublicTest is the validation part where some class has a PrivateTest, also in a class that has none."""
    splits = ["Training", "PublicTest", "PrivateTest"]
    for k, word in enumerate(WORDS):
        forms.picture(tmp_path / f"d/{word}/{splits[k // 6]}/{k}.png", k)
    forms.picture(tmp_path / "d/sad/PrivateTest/99.png", 99)
    _, store, _ = prepare(["prepare", "folder", "--root", str(tmp_path / "d")], tmp_path, capsys)
    assert [(store.split == name).sum() for name in ("train", "valid", "test")] == [6, 6, 1]


def test_people_in_names_are_told(tmp_path, capsys):
    for k, word in enumerate(WORDS):
        forms.picture(tmp_path / f"d/{word}/S00{k % 3}_001_{k:08d}.png", k)
    _, _, said = prepare(["prepare", "folder", "--root", str(tmp_path / "d")], tmp_path, capsys)
    assert "--subject-pattern ckplus" in said
    assert people_preset([f"IMG_{k:04d}.png" for k in range(20)]) is None


def test_folders_of_polarity(tmp_path, capsys):
    for k, name in enumerate(["positive", "negative", "neutral"] * 4):
        forms.picture(tmp_path / f"d/{name}/{k}.png", k)
    _, store, _ = prepare(["prepare", "folder", "--root", str(tmp_path / "d")], tmp_path, capsys)
    assert sorted(row["polarity"] for row in store.attributes) == sorted(["Positive", "Negative", "Neutral"] * 4)
    assert set(store.expression) == {None}


def test_a_picture_without_a_suffix_says_rename(tmp_path, capsys):
    for k, word in enumerate(WORDS):
        forms.picture(tmp_path / f"d/{word}/{k}.png", k).rename(tmp_path / f"d/{word}/subject{k}.{word}")
    code, _, said = prepare(["prepare", "folder", "--root", str(tmp_path / "d")], tmp_path, capsys)
    assert code == 1
    assert "rename it" in said


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_grey_values_of_cameras_in_wider_files(bits, tmp_path):
    grey = forms.pixels(3)[:, :, 0].astype(np.uint16)
    Image.fromarray(grey << (bits - 8)).save(tmp_path / "a.png")
    assert np.array_equal(load_picture(tmp_path / "a.png"), grey)


# --- published sets ---------------------------------------------------------------------------------------------------


def ckplus(at, emotion=True):
    """Sequences of two frames; the last has a FACS file of AU12, AU4 without strength and AU13, and perhaps an emotion file."""
    for k in range(6):
        name = f"S{k % 3 + 5:03d}_{k:03d}"
        for frame in (1, 2):
            path = f"{name[:4]}/{name[5:]}/{name}_{frame:08d}"
            forms.picture(at / f"cohn-kanade-images/{path}.png", 2 * k + frame)
        forms.text(at / f"FACS/{path}_facs.txt", f"   1.2e+01   {k % 5 + 1}.0000000e+00\n   4.0e+00 0.0e+00\n   13 2\n")
        lines = "".join(f"   {x:.7e}   {y:.7e}\n" for x, y in tiny.points() / 3)
        forms.text(at / f"Landmarks/{path}_landmarks.txt", lines)
        if emotion and k != 4:
            forms.text(at / f"Emotion/{path}_emotion.txt", "   5.0000000e+00\n")
    return ["prepare", "folder", "--root", str(at)]


@pytest.mark.parametrize("emotion", [True, False])
def test_facs_files_of_ckplus(emotion, tmp_path, capsys):
    code, _, said = prepare(ckplus(tmp_path / "d", emotion), tmp_path, capsys)
    assert code == 2
    code, store, said = follow(said, tmp_path, capsys)
    assert code == 0, said
    assert [name is not None for name in store.expression] == [emotion and "_004_" not in name for name in store.ids]
    units = store.action_units[:, [ACTION_UNITS.index("AU4"), ACTION_UNITS.index("AU12")]]
    strengths = [int(name.split("_")[-2]) % 5 + 1 for name in store.ids]
    assert np.array_equal(units, np.stack([np.full(6, 5.0), strengths], axis=1))
    assert np.isfinite(store.action_units).sum() == 12
    assert np.isfinite(store.landmarks).all()
    assert len(set(store.subject)) == 3
    assert "6 units without a strength" in said


def test_archives_beside_pictures_are_named(tmp_path, capsys):
    words = ckplus(tmp_path / "d")
    for name in ("Emotion", "FACS", "Landmarks"):
        (tmp_path / f"d/{name}").rename(tmp_path / name)
    forms.text(tmp_path / "d/Emotion_labels.zip", "PK")
    _, _, said = prepare(words, tmp_path, capsys)
    assert "'Emotion_labels.zip' is not read: unpack it" in said


def bp4d(at, occurrence):
    """Frames 3 to 6 of one task; AU6 with the strengths 0 to 3 and 9 for unknown, AU12 always 4."""
    for k in range(5):
        forms.picture(at / f"2D+3D/F001/T1/{k + 3:04d}.jpg", k)
    forms.text(
        at / "AUCoding/AU_INT/AU06/F001_T1_AU06.csv", "".join(f"{k + 3},{(0, 1, 2, 3, 9)[k]}\n" for k in range(5))
    )
    forms.text(at / "AUCoding/AU_INT/AU12/F001_T1_AU12.csv", "".join(f"{k + 3},4\n" for k in range(5)))
    if occurrence:
        forms.table(at / "AUCoding/AU_OCC/F001_T1.csv", ["0", "1", "6"], [[k + 3, k % 2, 1] for k in range(5)])
    return ["prepare", "bp4d", "--root", str(at), "--fold", "none"]


def test_strengths_of_bp4d(tmp_path, capsys):
    _, store, _ = prepare(bp4d(tmp_path / "a", occurrence=False), tmp_path, capsys)
    six, twelve = (store.action_units[:, ACTION_UNITS.index(name)] for name in ("AU6", "AU12"))
    assert np.array_equal(six, [0, 1, 2, 3, np.nan], equal_nan=True)
    assert (twelve == 4).all()
    assert store.info.notes["au_scale"] == "intensity"
    both = bp4d(tmp_path / "b", occurrence=True)
    _, store, _ = prepare([*both, "--replace"], tmp_path, capsys)
    assert store.info.notes["au_scale"] == "occurrence"
    assert np.isfinite(store.action_units).sum() == 10
    _, store, _ = prepare([*both, "--replace", "--au-scale", "intensity"], tmp_path, capsys)
    assert np.isfinite(store.action_units).sum() == 9
    code, _, said = prepare([*both, "--replace", "--au-scale", "percent"], tmp_path, capsys)
    assert code == 2
    assert "occurrence" in said


def affwild2(at):
    """Two videos: the first with classes and units, the second with valence; frame 3 has no annotation, frame 2 no picture."""
    for video in ("a_left", "b"):
        for k in (1, 3, 4):
            forms.picture(at / f"cropped_aligned/{video}/{k:05d}.jpg", k)
    expr = "Annotations/EXPR_Classification_Challenge/Train_Set/a_left.txt"
    forms.text(at / expr, "Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise,Other\n4\n5\n-1\n7\n")
    forms.text(
        at / "Annotations/AU_Detection_Challenge/Train_Set/a_left.txt", "AU1,AU2,AU12\n1,0,1\n0,0,0\n-1,-1,-1\n0,1,0\n"
    )
    forms.text(
        at / "Annotations/VA_Estimation_Challenge/Validation_Set/b.txt",
        "valence,arousal\n0.5,-0.2\n0,0\n-5,-5\n0.1,0.3\n",
    )
    return ["prepare", "folder", "--root", str(at)]


def test_aff_wild2(tmp_path, capsys):
    code, _, said = prepare(affwild2(tmp_path / "d"), tmp_path, capsys)
    assert code == 2
    assert "mien prepare affwild2" in said
    code, store, said = follow(said, tmp_path, capsys)
    assert code == 0, said
    assert store.ids.tolist() == [f"cropped_aligned/{v}/{k:05d}.jpg" for v in ("a_left", "b") for k in (1, 4)]
    assert store.expression.tolist() == ["Happiness", None, None, None]
    assert store.split.tolist() == ["train", "train", "valid", "valid"]
    assert set(store.subject) == {"a", "b"}
    assert store.action_units[1][ACTION_UNITS.index("AU2")] == 5
    assert np.isfinite(store.action_units).sum() == 6
    assert store.attributes[2]["valence"] == 0.5
    assert "valence" not in store.attributes[0]
    assert len(store.skipped) == 2


def test_tables_of_videos_with_names_of_one_kind(tmp_path, capsys):
    """001A.csv and 002A.csv are two videos, no parts of one table."""
    for video in ("001A", "002A"):
        forms.table(
            tmp_path / f"d/labels/{video}.csv", ["frame_number", "AU1", "AU12"], [[k, k % 2, 1] for k in range(1, 5)]
        )
        for k in range(1, 5):
            forms.picture(tmp_path / f"d/frames/{video}/{k:06d}.png", k)
    code, store, said = prepare(["prepare", "table", "--root", str(tmp_path / "d")], tmp_path, capsys)
    assert code == 0, said
    assert len(store) == 8
    assert set(store.subject) == {"001A", "002A"}


def test_annotations_of_affectnet_in_another_form_are_refused(tmp_path, capsys):
    """Pictures without any label would be a store of nothing."""
    forms.picture(tmp_path / "d/train_set/images/0.jpg", 0)
    forms.text(tmp_path / "d/train_set/annotations/0.json", "{}")
    code, _, said = prepare(["prepare", "affectnet", "--root", str(tmp_path / "d")], tmp_path, capsys)
    assert code == 1
    assert "0.json" in said
    forms.table(
        tmp_path / "a/lists/automatically_annotated.csv", ["subDirectory_filePath", "expression"], [["1/a.jpg", 1]]
    )
    code, _, said = prepare(["prepare", "affectnet", "--root", str(tmp_path / "a")], tmp_path, capsys)
    assert "mien prepare table --root" in said


# --- landmarks --------------------------------------------------------------------------------------------------------


def mesh_points():
    mesh = np.tile([48.0, 48.0], (478, 1))
    mesh[list(MESH_TO_68)] = tiny.points()
    return mesh


@pytest.mark.parametrize("kind", ["long", "mesh json", "ends", "long mesh"])
def test_landmarks_of_a_row_a_point_and_of_lists_of_faces(kind, tmp_path):
    points = tiny.points()
    if kind.startswith("long"):
        some = mesh_points() if "mesh" in kind else points
        rows = [["a.png", k, x, y] for k, (x, y) in enumerate(some)]
        forms.table(tmp_path / "t.csv", ["image", "landmark_index", "x", "y"], rows)
        found = read_landmarks(tmp_path / "t.csv")["a.png"]
    elif kind == "ends":
        for name in "ab":
            forms.text(tmp_path / f"d/{name}_landmarks.txt", "".join(f"{x} {y}\n" for x, y in points))
        found = read_landmarks(tmp_path / "d", "x-y")["a"]
    else:
        faces = [[{"x": x * share, "y": y * share, "z": 0.1} for x, y in mesh_points()] for share in (0.2, 1)]
        forms.text(tmp_path / "d/a.json", json.dumps({"face_landmarks": faces}))
        found = read_landmarks(tmp_path / "d")["a"]
    assert np.allclose(found, points, atol=1e-3)


def test_points_from_minus_1_to_1_are_refused(tmp_path, capsys):
    """They would be read as shares, twice as wide."""
    names = [f"{WORDS[k]}/{k}.png" for k in range(forms.COUNT)]
    for k, name in enumerate(names):
        forms.picture(tmp_path / "d" / name, k)
    for low, code in ((-1, 1), (0, 0)):
        points = np.stack([low + tiny.points() / 96 * (1 - low)] * forms.COUNT)
        np.savez(tmp_path / "l.npz", landmarks=points, id=names)
        words = [
            "prepare",
            "folder",
            "--root",
            str(tmp_path / "d"),
            "--faces",
            "given",
            "--landmarks",
            str(tmp_path / "l.npz"),
        ]
        found, _, said = prepare(words, tmp_path, capsys)
        assert found == code, said


@pytest.mark.parametrize("count", [5, 49, 51, 106])
@pytest.mark.parametrize("kind", ["rows", "npy", "files"])
def test_points_of_other_schemes_name_the_cure(kind, count, tmp_path):
    points = np.resize(tiny.points(), (count, 2))
    if kind == "rows":
        path = tmp_path / "t.txt"
        forms.text(path, "".join(f"{name}.jpg {' '.join(f'{v:.1f}' for v in points.ravel())}\n" for name in "ab"))
    elif kind == "npy":
        path = tmp_path / "a.npy"
        np.save(path, points)
    else:
        path = tmp_path / "d"
        forms.text(path / "a.txt", "".join(f"{x} {y}\n" for x, y in points))
    with pytest.raises(DataError, match=f"{count} points a face.*--faces mediapipe"):
        read_landmarks(path)
