"""More forms that circulate: marks, vectors of units, folds, lists in two files, tables of one video."""

import forms
import numpy as np
import pytest
from test_forms_odd import WORDS, prepare, table

from mien.data.au_scale import beside_marks, unit_of
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
