"""Data sets in the forms that circulate: a right store with one command, or a message with the command."""

import json
import re
import shlex
from collections import Counter
from functools import partial

import forms
import numpy as np
import pytest

from mien.cli import main
from mien.data.store import open_store
from mien.schema import ACTION_UNITS


def prepared(words, out, capsys, *more):
    """Run `mien prepare` in this process: exit code and everything that it says."""
    code = main([*words, "--out", str(out), "--size", str(forms.SIZE), "--workers", "1", *more])
    said = capsys.readouterr()
    return code, said.out + said.err


def compare(store, truth, said):
    found = {}
    for split, name in zip(store.split, store.expression, strict=True):
        found.setdefault(split, Counter())[name or "none"] += 1
    assert {split: dict(names) for split, names in found.items()} == truth["faces"]
    people = set(store.subject) - {None}
    assert len(people) == truth.get("subjects", len(people))
    assert people == truth.get("subject_names", people)
    if "units" in truth:
        known = np.isfinite(store.action_units)
        assert [name for k, name in enumerate(ACTION_UNITS) if known[:, k].any()] == truth["units"]["names"]
        assert (known.sum(), (store.action_units >= 2).sum()) == (truth["units"]["known"], truth["units"]["active"])
    if "landmarks" in truth:
        valid = np.isfinite(store.landmarks).all(axis=(1, 2))
        spans = np.ptp(store.landmarks[valid], axis=1).max(axis=1)
        assert valid.sum() == truth["landmarks"]
        assert spans.min() > 0.4 * store.info.size
    if "votes" in truth:
        assert np.isfinite(store.votes).all(axis=1).sum() == truth["votes"]
    if "skipped" in truth:
        assert len(store.skipped) == truth["skipped"], store.skipped
    if "bright" in truth:
        assert all(store.image(k)[8:24, 8:24].mean() > truth["bright"] for k in range(len(store)))
    for word in truth.get("told", []):
        assert word in said


VARIANTS = {
    "parquet_bytes": partial(forms.parquet_shards, kind="bytes"),
    "parquet_list": partial(forms.parquet_shards, kind="list"),
    "yolo_ultralytics": partial(forms.yolo, ultralytics=True),
    "disfa_from_1": partial(forms.disfa_numbers, first=1, missing=5),
}


@pytest.mark.parametrize(
    "form", [*forms.FORMS, *VARIANTS.values()], ids=[*(f.__name__ for f in forms.FORMS), *VARIANTS]
)
def test_form(form, tmp_path, capsys):
    words, truth = form(tmp_path / "data")
    code, said = prepared(words, tmp_path / "store", capsys)
    assert code == 0, said
    compare(open_store(tmp_path / "store"), truth, said)


def refused(words, tmp_path, capsys):
    code, said = prepared(words, tmp_path / "store", capsys)
    assert code in (1, 2)
    assert "Traceback" not in said
    assert not (tmp_path / "store").exists()
    return said


def follow(said, tmp_path, capsys):
    """Run the command that a message names."""
    found = re.search(r"Try: mien (prepare .*?--out \S+)", said)
    assert found, said
    words = shlex.split(found[1])
    return prepared(words[: words.index("--out")], tmp_path / "store", capsys)


@pytest.mark.parametrize(
    ("write", "user"),
    [
        (lambda at: forms.two_splits(at / "archive/images"), "folder"),
        (lambda at: forms.rafdb_kaggle(at)[1]["faces"], "folder"),
        (lambda at: forms.jaffe(at)[1]["faces"], "folder"),
        (lambda at: forms.utf16(at)[1]["faces"], "folder"),
        (lambda at: forms.ckplus(at)[1]["faces"], "folder"),
        (lambda at: forms.two_splits(at), "table"),
    ],
)
def test_a_wrong_root_or_reader_names_the_command(write, user, tmp_path, capsys):
    truth = write(tmp_path / "data")
    said = refused(forms.command(user, tmp_path / "data"), tmp_path, capsys)
    code, said = follow(said, tmp_path, capsys)
    assert code == 0, said
    compare(open_store(tmp_path / "store"), {"faces": truth}, said)


def test_a_root_that_is_too_deep_names_the_one_above(tmp_path, capsys):
    _, truth = forms.rafdb_list(tmp_path / "RAF-DB")
    said = refused(forms.command("rafdb", tmp_path / "RAF-DB/raf-basic/Image/aligned"), tmp_path, capsys)
    code, said = follow(said, tmp_path, capsys)
    assert code == 0, said
    compare(open_store(tmp_path / "store"), truth, said)


def test_people_above_class_folders_name_the_patterns(tmp_path, capsys):
    for k in range(12):
        forms.picture(tmp_path / f"data/p{k % 2}/{forms.WORDS[forms.label(k)]}/{k}.png", k)
    code, said = follow(refused(forms.command("folder", tmp_path / "data"), tmp_path, capsys), tmp_path, capsys)
    assert code == 0, said
    compare(open_store(tmp_path / "store"), {"faces": forms.faces(), "subjects": 2}, said)


def test_numbers_are_never_guessed(tmp_path, capsys):
    truth = forms.two_splits(tmp_path / "data", words=forms.FER)
    said = refused(forms.command("folder", tmp_path / "data"), tmp_path, capsys)
    assert "--labels fer2013 if 0 is Anger" in said
    assert "--labels affectnet if 0 is Neutral" in said
    assert "--labels rafdb" not in said
    code, said = prepared(forms.command("folder", tmp_path / "data", "--labels", "fer2013"), tmp_path / "store", capsys)
    assert code == 0
    compare(open_store(tmp_path / "store"), {"faces": truth}, said)
    forms.table(tmp_path / "t/l.csv", ["image", "label"], [[p, 3] for p in forms.pictures(tmp_path / "t")])
    assert "--labels fer2013 if" in refused(forms.command("table", tmp_path / "t"), tmp_path / "x", capsys)


def test_landmarks_of_another_frame_are_refused_with_the_option(tmp_path, capsys):
    for name, scale, frame in (("large", 7, "224x224"), ("small", 0.4, "13x13")):
        rows = []

        def write(k, name, points, rows=rows, scale=scale):
            rows.append([name, *forms.flat((points + 0.5) * scale - 0.5)])

        words, truth = forms.laid(tmp_path / name, write, tmp_path / f"{name}.csv")
        forms.table(tmp_path / f"{name}.csv", ["id", *forms.HEADER68], rows)
        assert "--landmark-frame" in refused(words, tmp_path / f"{name}-no", capsys)
        code, said = prepared(words, tmp_path / f"{name}-s", capsys, "--landmark-frame", frame)
        assert code == 0, said
        compare(open_store(tmp_path / f"{name}-s"), truth, said)


def test_frames_that_may_count_from_0_or_1_are_refused(tmp_path, capsys):
    words, _ = forms.disfa_numbers(tmp_path / "data", first=1, missing=5)
    for subject in ("SN003", "SN005"):
        (tmp_path / f"data/images/{subject}/6.png").unlink()
    assert "--first-frame 0 or --first-frame 1" in refused(words, tmp_path, capsys)
    code, _ = prepared(words, tmp_path / "store", capsys, "--first-frame", "1")
    assert code == 0
    assert np.nanmax(open_store(tmp_path / "store").action_units) == 4


def test_codes_without_a_header_are_refused(tmp_path, capsys):
    forms.bp4d_plus(tmp_path / "data")
    for path in (tmp_path / "data/AUCoding/AU_OCC").glob("*.csv"):
        path.write_text(path.read_text().split("\n", 1)[1])
    assert "header" in refused(forms.command("bp4d", tmp_path / "data", "--fold", "none"), tmp_path, capsys)


def test_a_subject_outside_the_lists_names_the_option(tmp_path, capsys):
    forms.bp4d_plus(tmp_path / "data")
    assert "--fold none" in refused(forms.command("bp4d", tmp_path / "data"), tmp_path, capsys)


def test_replace(tmp_path, capsys):
    words, truth = forms.occurrence(tmp_path / "data")
    code, _ = prepared(words, tmp_path / "store", capsys, "--au-scale", "intensity")
    assert code == 0
    assert not (open_store(tmp_path / "store").action_units >= 2).any()
    code, said = prepared(words, tmp_path / "store", capsys)
    assert code == 2
    assert "--replace" in said
    code, said = prepared(words, tmp_path / "store", capsys, "--replace")
    assert code == 0
    compare(open_store(tmp_path / "store"), truth, said)
    assert not (tmp_path / "store.new").exists()
    (tmp_path / "store/mine.txt").write_text("keep")
    code, said = prepared(words, tmp_path / "store", capsys, "--replace")
    assert code == 2
    assert (tmp_path / "store/mine.txt").read_text() == "keep"


def test_a_unit_that_is_never_active_is_said(tmp_path, capsys):
    values = forms.intensities()
    values[:, 2] = np.minimum(values[:, 2], 1)
    values[2:, 2] = 0
    words, _ = forms.unit_table(tmp_path / "data", values)
    code, said = prepared(words, tmp_path / "store", capsys)
    assert code == 0
    assert "never active: AU4" in said
    assert "--au-scale AU4=occurrence" in said
    code, said = prepared(words, tmp_path / "store", capsys, "--replace", "--au-scale", "AU4=occurrence")
    assert code == 0
    assert (open_store(tmp_path / "store").action_units[:, ACTION_UNITS.index("AU4")] == 5).sum() == 2


def test_a_scale_that_is_none_is_refused(tmp_path, capsys):
    words, _ = forms.unit_table(tmp_path / "data", forms.intensities() + 3)
    assert "--au-scale" in refused(words, tmp_path, capsys)


def test_pictures_that_are_nowhere_name_the_option(tmp_path, capsys):
    forms.table(tmp_path / "data/l.csv", ["image", "label"], [["a/b.png", "happy"]])
    assert "--pictures ROOT" in refused(forms.command("table", tmp_path / "data"), tmp_path, capsys)


def test_two_paths_that_lead_to_one_picture_are_refused(tmp_path, capsys):
    forms.pictures(tmp_path / "data", "pics/{}.png", 2)
    rows = [[f"/srv/{split}/{k}.png", "happy", split] for split in ("train", "test") for k in range(2)]
    forms.table(tmp_path / "data/l.csv", ["image", "label", "split"], rows)
    words = forms.command("table", tmp_path / "data", "--pictures", tmp_path / "data/pics")
    assert "would both be" in refused(words, tmp_path, capsys)


def test_a_broken_line_of_json_is_one_skipped_row(tmp_path, capsys):
    lines = [
        json.dumps({"file_name": p, "label": "happy"}) for p in forms.pictures(tmp_path / "data/train", "{}.png", 6)
    ]
    lines[1:1] = ['{"file_name": "1.png", "label":', "[1, 2]", ""]
    forms.text(tmp_path / "data/train/metadata.jsonl", "\n".join(lines) + "\n")
    code, said = prepared(forms.command("table", tmp_path / "data"), tmp_path / "store", capsys)
    assert code == 0, said
    store = open_store(tmp_path / "store")
    assert len(store) == 6
    assert sorted(row.reason.split(" (")[0] for row in store.skipped) == [
        "row 2: broken line of JSON",
        "row 3: no JSON object",
    ]
    for count in (3, 400):
        forms.text(tmp_path / "data/train/metadata.jsonl", "no JSON at all\n" * count)
        words = forms.command("table", tmp_path / "data")
        code, said = prepared(words, tmp_path / f"x{count}", capsys)
        assert code == 1
        assert "no readable file of JSON lines" in said


@pytest.mark.parametrize("remark", ['"5 inch', 'he said "no', '" open'])
def test_a_quote_that_is_never_closed_swallows_no_row(remark, tmp_path, capsys):
    rows = [f"{p},{forms.label(k)},note" for k, p in enumerate(forms.pictures(tmp_path / "data"))]
    rows[3] = rows[3].replace("note", remark)
    rows[6] = rows[6].replace("note", '"two\nlines, and a ""quote"""')
    forms.text(tmp_path / "data/l.csv", "image,expression,remark\n" + "\n".join(rows) + "\n")
    code, said = prepared(forms.command("table", tmp_path / "data"), tmp_path / "store", capsys)
    assert code == 0, said
    compare(open_store(tmp_path / "store"), {"faces": forms.faces(), "skipped": 0}, said)


def test_json_lines_in_latin_1(tmp_path, capsys):
    lines = [
        json.dumps(
            {"file_name": p, "label": forms.label(k), "subject": "Müller" if k % 2 else "Möller"}, ensure_ascii=False
        )
        for k, p in enumerate(forms.pictures(tmp_path / "data", "{}.png"))
    ]
    forms.text(tmp_path / "data/metadata.jsonl", "\n".join(lines), "latin-1")
    code, said = prepared(forms.command("table", tmp_path / "data"), tmp_path / "store", capsys)
    assert code == 0, said
    compare(open_store(tmp_path / "store"), {"faces": forms.faces(), "subject_names": {"Müller", "Möller"}}, said)


def test_words_for_nobody_known_are_no_person(tmp_path, capsys):
    people = ["anna", "unknown", "N/A", "?", "none", "-", "", "nan", "Unknown ", "bert", "anna", "NULL"]
    rows = [[p, forms.label(k), people[k]] for k, p in enumerate(forms.pictures(tmp_path / "data"))]
    forms.table(tmp_path / "data/l.csv", ["image", "expression", "subject"], rows)
    code, said = prepared(forms.command("table", tmp_path / "data"), tmp_path / "store", capsys)
    assert code == 0, said
    compare(open_store(tmp_path / "store"), {"faces": forms.faces(), "subject_names": {"anna", "bert"}}, said)
    assert "9 faces without" in said


def test_an_odd_byte_in_a_table_is_one_skipped_row(tmp_path, capsys):
    rows = [f"{p},{forms.label(k)}" for k, p in enumerate(forms.pictures(tmp_path / "data"))]
    rows[3] = rows[3].replace("Fear", "Fe\0ar")
    forms.text(tmp_path / "data/l.csv", "image,expression\n" + "\n".join(rows) + "\n")
    code, said = prepared(forms.command("table", tmp_path / "data"), tmp_path / "store", capsys)
    assert code == 0, said
    store = open_store(tmp_path / "store")
    assert len(store) == forms.COUNT - 1
    assert [row.id for row in store.skipped] == ["pics/003.png"]
