"""Cells in brackets or of many lines, pictures in rarer formats, and what a table says twice."""

import forms
import numpy as np
import pytest
import tiny
from PIL import Image
from test_forms_odd import WORDS, prepare, table

from mien.errors import PictureError
from mien.faces.pictures import load_picture


@pytest.mark.parametrize("form", ["['{}']", "('{}',)", "({},)", "{{{}}}", "[{}]"])
def test_a_label_in_brackets(form, tmp_path, capsys):
    """A tuple of one number was a word of its own, and --labels (0,)=... the advice."""
    code, store, _ = prepare(
        table(tmp_path, ["image", "label"], [[form.format(word)] for word in WORDS]), tmp_path, capsys
    )
    assert code == 0
    assert store.expression.tolist() == [forms.label(k) for k in range(forms.COUNT)]


def test_numbers_in_brackets(tmp_path, capsys):
    rows = [[f"({forms.FER[forms.label(k)]},)"] for k in range(forms.COUNT)]
    words = [*table(tmp_path, ["image", "label"], rows), "--labels", "fer2013"]
    code, store, _ = prepare(words, tmp_path, capsys)
    assert code == 0
    assert store.expression.tolist() == [forms.label(k) for k in range(forms.COUNT)]


def test_points_as_numpy_prints_them(tmp_path, capsys):
    """68 lines in one cell: each of them became a row without a picture."""
    rows = [[word, str(tiny.points(32).round(1))] for word in WORDS]
    words = [*table(tmp_path, ["image", "emotion", "landmarks"], rows), "--faces", "given"]
    code, store, _ = prepare(words, tmp_path, capsys)
    assert code == 0
    assert len(store) == forms.COUNT
    assert not store.skipped
    np.testing.assert_allclose(store.landmarks[0], tiny.points(32).round(1), atol=1e-4)


def test_a_list_with_a_sign_at_the_end_of_each_line(tmp_path, capsys):
    names = forms.pictures(tmp_path / "in")
    forms.text(tmp_path / "in/list.txt", "".join(f"{a}, {w} ;\n" for a, w in zip(names, WORDS, strict=True)))
    code, store, _ = prepare(["prepare", "table", "--root", str(tmp_path / "in")], tmp_path, capsys)
    assert code == 0
    assert store.expression.tolist() == [forms.label(k) for k in range(forms.COUNT)]


def test_a_picture_with_two_labels_is_told(tmp_path, capsys):
    names = forms.pictures(tmp_path / "in")
    rows = [[a, w] for a, w in zip(names, WORDS, strict=True)]
    forms.table(tmp_path / "in/t.csv", ["image", "emotion"], [*rows, [names[0], "sad"], rows[1]])
    code, store, said = prepare(["prepare", "table", "--root", str(tmp_path / "in")], tmp_path, capsys)
    assert code == 0
    assert len(store) == forms.COUNT + 2
    assert f"1 rows name a picture again, with another label (first: {names[0]})" in said


def test_jpeg_2000(tmp_path, capsys):
    for k, word in enumerate(WORDS):
        forms.picture(tmp_path / "in" / word / f"{k}.jp2", k)
    code, store, _ = prepare(["prepare", "folder", "--root", str(tmp_path / "in")], tmp_path, capsys)
    assert code == 0
    assert len(store) == forms.COUNT


@pytest.mark.parametrize(("most", "answer"), [(1.0, None), (255.0, "from 0 to 255"), (1.5, "from 0 to 1.5")])
def test_floating_point_grey(most, answer, tmp_path):
    values = np.linspace(0, most, 256, dtype=np.float32).reshape(16, 16)
    Image.fromarray(values).save(tmp_path / "a.tif")
    if answer is None:
        np.testing.assert_array_equal(load_picture(tmp_path / "a.tif"), np.arange(256).reshape(16, 16))
    else:
        with pytest.raises(PictureError, match=f"{answer}, whose range is not known; scale them to 0 to 1"):
            load_picture(tmp_path / "a.tif")


def test_a_folder_without_classes_names_both_ways_out(tmp_path, capsys):
    forms.picture(tmp_path / "in/images/P01_HA_1.png", 1)
    code, _, said = prepare(["prepare", "folder", "--root", str(tmp_path / "in")], tmp_path, capsys)
    assert code == 2
    assert "--expression-pattern finds it; a table of labels is read by mien prepare table" in said
