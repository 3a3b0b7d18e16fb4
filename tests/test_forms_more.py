"""More forms that circulate: marks, vectors of units, folds, lists in two files, tables of one video."""

import forms
import numpy as np
import pytest
import tiny
from test_forms_odd import WORDS, prepare, table

from mien.data.au_folds import BP4D_UNITS
from mien.data.au_scale import beside_marks, unit_of
from mien.data.folds import published_folds
from mien.datasets.words import fold_number
from mien.errors import UsageError
from mien.faces.frame_order import natural
from mien.schema import ACTION_UNITS

# --- action units -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mark", "no"), [("x", ""), (" X ", ""), ("yes", ""), ("TRUE", ""), ("✓", ""), ("x", "-"), ("x", "0")]
)
def test_marked_units(mark, no, tmp_path, capsys):
    """An x was no number, so that the face was skipped; yes beside empty cells gave units that are always there."""
    there = forms.intensities() >= 3
    there[4] = False
    rows = [[mark if one else no for one in row] for row in there]
    code, store, said = prepare(table(tmp_path, ["image", *forms.UNITS], rows), tmp_path, capsys)
    assert code == 0
    assert len(store) == forms.COUNT
    assert "marks" in said
    assert (store.action_units >= 2).sum() == there.sum()
    known = forms.COUNT if no == "0" else int(there.any(axis=1).sum())  # a row without any mark may not be coded at all
    assert np.isfinite(store.action_units).sum() == known * len(forms.UNITS)


def test_an_x_among_strengths_is_no_unit_that_is_there(tmp_path, capsys):
    rows = forms.intensities().tolist()
    rows[3][1] = "x"
    code, store, said = prepare(table(tmp_path, ["image", *forms.UNITS], rows), tmp_path, capsys)
    assert code == 0
    assert len(store) == forms.COUNT - 1
    assert "AU2 'x' is no number" in said


def test_marks_beside_each_other():
    nan = float("nan")
    assert beside_marks([5.0, nan, nan], ["marks", "marks", "intensity"])[:2] == [5.0, 0.0]
    assert np.isnan(beside_marks([5.0, nan, nan], ["marks", "marks", "intensity"])[2])
    assert np.isnan(beside_marks([nan, nan], ["marks", "marks"])).all()


def test_a_unit_that_is_never_absent_is_said(tmp_path, capsys):
    rows = [[1 if k % 2 else "" for _ in forms.UNITS] for k in range(forms.COUNT)]
    _, _, said = prepare(table(tmp_path, ["image", *forms.UNITS], rows), tmp_path, capsys)
    assert "never absent: AU1, AU2" in said
    words = [*table(tmp_path, ["image", *forms.UNITS], rows), "--au-scale", "marks", "--replace"]
    assert "never absent" in prepare(words, tmp_path, capsys)[2]  # rows without a mark stay unknown


def test_one_hot_marks_of_expressions(tmp_path, capsys):
    rows = [["x" if name == word else "" for name in forms.WORDS.values()] for word in WORDS]
    code, store, _ = prepare(table(tmp_path, ["image", *forms.WORDS.values()], rows), tmp_path, capsys)
    assert code == 0
    assert store.expression.tolist() == [forms.label(k) for k in range(forms.COUNT)]


@pytest.mark.parametrize("named", ["option", "header"])
def test_vectors_of_units(named, tmp_path, capsys):
    """[0, 1, 1, 0, 0] was read as a list of the units 0 and 1: AU1 was there on most faces."""
    values = (forms.intensities() >= 3).astype(int)
    values[:, 0] = 0
    header = "AUs" if named == "option" else ",".join(forms.UNITS)
    words = table(tmp_path, ["image", header], [[str(row)] for row in values.tolist()])
    if named == "option":
        code, _, said = prepare(words, tmp_path, capsys)
        assert code == 2
        assert "--units AU1,AU2,... (5 of them)" in said
        code, _, said = prepare([*words, "--units", "AU1,AU2"], tmp_path, capsys)
        assert code == 2
        assert "--units names 2 units" in said
        words += ["--units", ",".join(forms.UNITS)]
    code, store, said = prepare(words, tmp_path, capsys)
    assert code == 0
    assert np.isfinite(store.action_units).sum() == values.size
    assert (store.action_units >= 2).sum() == values.sum()
    assert "never active: AU1" in said


def test_twelve_units_are_those_of_disfa_or_bp4d(tmp_path, capsys):
    rows = [[str([0] * 11 + [1])]] * forms.COUNT
    _, _, said = prepare(table(tmp_path, ["image", "au"], rows), tmp_path, capsys)
    assert "AU25,AU26 (DISFA) or --units AU1,AU2,AU4,AU6," in said


def test_units_that_the_coder_was_not_sure_of(tmp_path, capsys):
    """One 12? left the whole column unread, which a line about columns told."""
    cells = ["1+2+5b", "6c+12d", "L12", "12?", "0", "1b+4c"] * 2
    code, store, _ = prepare(table(tmp_path, ["image", "FACS"], [[cell] for cell in cells]), tmp_path, capsys)
    assert code == 0
    units = store.action_units
    assert np.isfinite(units).any(axis=0).sum() == 6  # AU1, AU2, AU4, AU5, AU6, AU12
    assert np.isfinite(units).sum(axis=1).tolist() == [6, 6, 6, 5, 6, 6] * 2
    assert np.isnan(units[3, ACTION_UNITS.index("AU12")])
    assert units[0, ACTION_UNITS.index("AU5")] == 2


def test_cells_that_list_no_units_are_told(tmp_path, capsys):
    cells = [["smile"], ["frown"]] * 6
    _, _, said = prepare(table(tmp_path, ["image", "FACS"], cells), tmp_path, capsys)
    assert "column 'FACS' is not read as action units: 'smile' lists no units such as 1+2+12" in said


def test_the_name_of_a_vector_is_no_unit():
    assert unit_of("AU1,AU2,AU4") is None
    assert unit_of("face.AU12_r") == ("AU12", 0)


# --- folds ------------------------------------------------------------------------------------------------------------


def fold_of(k):
    return k % 3 + 1


@pytest.mark.parametrize("kind", ["folders", "files", "column", "folders and test"])
def test_folds_of_a_dataset(kind, tmp_path, capsys):
    """Folders of folds beside test were left out; a column or files of folds became one train part without a word."""
    if kind.startswith("folders"):
        for k, word in enumerate(WORDS):
            forms.picture(tmp_path / "in" / f"fold_{fold_of(k)}" / word / f"{k}.png", k)
        if kind == "folders and test":
            forms.picture(tmp_path / "in/test/happy/t.png", 99)
        words = ["prepare", "folder", "--root", str(tmp_path / "in")]
    else:
        names = forms.pictures(tmp_path / "in")
        rows = [[name, word, fold_of(k)] for k, (name, word) in enumerate(zip(names, WORDS, strict=True))]
        if kind == "column":
            forms.table(tmp_path / "in/all.csv", ["image", "emotion", "fold"], rows)
        else:
            for n in (1, 2, 3):
                forms.table(
                    tmp_path / f"in/fold{n}.csv", ["image", "emotion"], [row[:2] for row in rows if row[2] == n]
                )
        words = ["prepare", "table", "--root", str(tmp_path / "in")]
    code, store, said = prepare(words, tmp_path, capsys)
    assert code == 0
    assert "folds: 1 4, 2 4, 3 4; mien crossval RECIPE --folds 3 --protocol paper" in said
    assert (store.split == "test").sum() == (kind == "folders and test")
    tests = published_folds(store, k=3, scheme="basic-8")
    assert [len(rows) for rows in tests] == [4, 4, 4]
    for n, rows in enumerate(tests, 1):
        assert {store.attributes[row]["fold"] for row in rows} == {n}
    with pytest.raises(UsageError, match="was prepared with 3 folds, not 5"):
        published_folds(store, k=5, scheme="basic-8")


def test_lists_of_several_folds_are_refused(tmp_path, capsys):
    """Read together they were one train and one test part that share every face."""
    names = forms.pictures(tmp_path / "in")
    for n in (1, 2, 3):
        for split in ("train", "test"):
            rows = [
                [a, w]
                for k, (a, w) in enumerate(zip(names, WORDS, strict=True))
                if (fold_of(k) == n) == (split == "test")
            ]
            forms.table(tmp_path / f"in/fold{n}_{split}.csv", ["image", "emotion"], rows)
    code, _, said = prepare(["prepare", "table", "--root", str(tmp_path / "in")], tmp_path, capsys)
    assert code == 2
    assert "lists of 3 folds" in said
    assert "fold1_test.csv, fold1_train.csv" in said
    (tmp_path / "in/one").mkdir()
    for split in ("train", "test"):
        (tmp_path / f"in/fold1_{split}.csv").rename(tmp_path / f"in/one/fold1_{split}.csv")
    words = ["prepare", "table", "--root", str(tmp_path / "in/one"), "--pictures", str(tmp_path / "in")]
    code, store, _ = prepare(words, tmp_path, capsys)
    assert code == 0
    assert (store.split == "test").sum() == 4
    assert len(store) == forms.COUNT


@pytest.mark.parametrize(
    ("name", "number"), [("fold_1", 1), ("Fold-02", 2), ("kfold3", 3), ("5fold1", 1), ("folder1", None), ("fold", None)]
)
def test_names_of_folds(name, number):
    assert fold_number(name) == number


# --- frames and lists -------------------------------------------------------------------------------------------------


def sequence(at, pattern, first=1, count=forms.COUNT, names=None):
    """OpenFace's table of one video, points that tell the frames apart, and its pictures."""
    rows = []
    for k in range(forms.COUNT):
        points = POINTS + k
        rows.append([k + 1, 0, k / 30, 0.98, 1, *points[:, 0], *points[:, 1], *forms.intensities()[k]])
    head = ["frame", " face_id", " timestamp", " confidence", " success", *(f" {name}" for name in forms.HEADER68)]
    forms.table(at / "processed/clip.csv", [*head, *(f" AU{int(u[2:]):02d}_r" for u in forms.UNITS)], rows)
    for k in range(count):
        forms.picture(at / "in" / (names[k] if names else pattern.format(k + first)), k, 96)
    return at / "processed/clip.csv"


POINTS = tiny.points(80)


@pytest.mark.parametrize(
    ("pattern", "first", "names"),
    [
        ("happy/img_{:04d}.png", 1, None),
        ("happy/{}.png", 0, None),
        ("happy/f{}.png", 1, None),
        ("happy/{}.png", 100, None),
        ("", 0, [f"happy/{'abcdefghijkl'[k]}.png" for k in range(forms.COUNT)]),
    ],
)
def test_landmarks_of_one_video(pattern, first, names, tmp_path, capsys):
    """Pictures 0 to 11 got the points of frames 1 to 11, one face off, and the first none."""
    file = sequence(tmp_path, pattern, first, names=names)
    words = [
        "prepare",
        "folder",
        "--root",
        str(tmp_path / "in"),
        "--faces",
        "given",
        "--landmarks",
        str(file),
        "--size",
        "96",
    ]
    code, store, said = prepare(words, tmp_path, capsys)
    assert code == 0, said
    order = sorted(range(forms.COUNT), key=lambda row: natural(store.ids[row]))
    found = store.landmarks[order, 0, 0]
    np.testing.assert_allclose(found - found[0], np.arange(forms.COUNT) * (32 / 96), atol=1e-3)
    assert "landmarks: frame 1 of 'clip.csv' is 'happy/" in said


@pytest.mark.parametrize("kind", ["fewer", "two folders"])
def test_frames_that_fit_no_pictures_are_refused(kind, tmp_path, capsys):
    file = sequence(tmp_path, "happy/{}.png", 1, forms.COUNT - 1)
    if kind == "two folders":
        forms.picture(tmp_path / "in/sad/12.png", 11)
    words = ["prepare", "folder", "--root", str(tmp_path / "in"), "--faces", "given", "--landmarks", str(file)]
    code, _, said = prepare(words, tmp_path, capsys)
    assert code == 1
    assert "column 'image'" in said
    assert ("12 frames and 11 pictures" if kind == "fewer" else "in 2 folders (happy, sad)") in said


@pytest.mark.parametrize("asked", ["pictures", "root"])
def test_units_of_one_video(asked, tmp_path, capsys):
    file = sequence(tmp_path, "img_{:04d}.png", 0)
    words = (
        ["--root", str(file), "--pictures", str(tmp_path / "in")] if asked == "pictures" else ["--root", str(tmp_path)]
    )
    code, store, said = prepare(["prepare", "table", *words], tmp_path, capsys)
    assert code == 0, said
    at = [ACTION_UNITS.index(unit) for unit in forms.UNITS]
    np.testing.assert_array_equal(store.action_units[:, at], forms.intensities())
    assert [name[-8:] for name in store.ids] == [f"{k:04d}.png" for k in range(forms.COUNT)]
    assert said.count("frames: 'frame' 1 of") == 1


def test_a_column_frame_with_names_is_no_number(tmp_path, capsys):
    names = forms.pictures(tmp_path, "in/happy/{:03d}.png")
    rows = [[name.removeprefix("in/"), *POINTS[:, 0], *POINTS[:, 1]] for name in names]
    forms.table(tmp_path / "points.csv", ["frame", *forms.HEADER68], rows)
    words = [
        "prepare",
        "folder",
        "--root",
        str(tmp_path / "in"),
        "--faces",
        "given",
        "--landmarks",
        str(tmp_path / "points.csv"),
    ]
    code, store, _ = prepare([*words, "--landmark-frame", "96"], tmp_path, capsys)
    assert code == 0
    assert np.isfinite(store.landmarks).all()


def test_lists_in_two_files(tmp_path, capsys):
    names = forms.pictures(tmp_path / "in")
    forms.text(tmp_path / "in/images.txt", "\n".join(names))
    forms.text(tmp_path / "in/labels.txt", "\n".join(WORDS) + "\n")
    for root in (tmp_path / "in", tmp_path / "in/images.txt"):
        code, store, said = prepare(["prepare", "table", "--root", str(root), "--replace"], tmp_path, capsys)
        assert code == 0, said
        assert store.expression.tolist() == [forms.label(k) for k in range(forms.COUNT)]
    forms.text(tmp_path / "in/labels.txt", "\n".join(WORDS[1:]))
    code, _, said = prepare(["prepare", "table", "--root", str(tmp_path / "in"), "--replace"], tmp_path, capsys)
    assert code == 1
    assert "12 pictures" in said
    assert "11 lines" in said


@pytest.mark.parametrize("dataset", ["BP4D", "mine"])
def test_lists_of_jaa_net(dataset, tmp_path, capsys):
    names = forms.pictures(tmp_path / "in")
    values = np.random.default_rng(0).integers(0, 2, (forms.COUNT, 12))
    for split, rows in (("train1", range(8)), ("test1", range(8, 12))):
        forms.text(tmp_path / f"in/{dataset}_{split}_path.txt", "\n".join(names[k] for k in rows))
        lines = [" ".join(map(str, values[k])) for k in rows]
        forms.text(tmp_path / f"in/{dataset}_{split}_AUoccur.txt", "\n".join(lines))
        forms.text(tmp_path / f"in/{dataset}_{split}_land.txt", "\n".join(" ".join(["1.5"] * 98) for _ in rows))
    words = ["prepare", "table", "--root", str(tmp_path / "in")]
    code, store, said = prepare(words, tmp_path, capsys)
    if dataset == "mine":
        assert code == 2
        assert "--units" in said
        code, store, said = prepare([*words, "--units", ",".join(BP4D_UNITS)], tmp_path, capsys)
    assert code == 0, said
    order = sorted(range(len(store)), key=lambda row: store.ids[row][-7:])
    at = [ACTION_UNITS.index(unit) for unit in BP4D_UNITS]
    np.testing.assert_array_equal(store.action_units[order][:, at], 5 * values)
    assert (store.split[order] == "test").tolist() == [False] * 8 + [True] * 4
    for split in ("train2", "test2"):
        forms.text(tmp_path / f"in/{dataset}_{split}_path.txt", names[0])
        forms.text(tmp_path / f"in/{dataset}_{split}_AUoccur.txt", " ".join(map(str, values[0])))
    code, _, said = prepare([*words, "--replace"], tmp_path, capsys)
    assert code == 2
    assert "lists of 2 folds" in said
