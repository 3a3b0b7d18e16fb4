"""The leaderboard file: checked rows, and tables that never mix faces or cues."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from other_nets import WORDS, Small

import mien
from mien.audit.compare import compare
from mien.audit.row import audit_row
from mien.audit.run import audit
from mien.cli import main
from mien.errors import DataError
from mien.report.rows import COLUMNS, FACTS, add_row, read_rows, row_of, rows_page, tables_of_rows
from mien.wrapped.classes import labels_for


def row(model: str = "a", accuracy: float = 0.5, **facts: str) -> dict[str, str]:
    plain = dict.fromkeys(FACTS, "x") | {"model": model, "weights": f"w{model}", "faces": "10", "date": "2026-01-01"}
    return row_of({**plain, **facts}, {"accuracy": accuracy, "att_cos": None})


def test_rows_are_kept_replaced_and_checked(tmp_path):
    file = tmp_path / "rows.csv"
    assert add_row(file, row()) == "added"
    assert add_row(file, row(date="2026-02-02")) == "unchanged"
    assert add_row(file, row(accuracy=0.6)) == "replaced"
    assert add_row(file, row("b")) == "added"
    assert [(one["model"], one["accuracy"], one["att_cos"]) for one in read_rows(file)] == [
        ("a", "0.600000", ""),
        ("b", "0.500000", ""),
    ]
    file.write_text(file.read_text().replace("0.600000", "0.900000"))
    with pytest.raises(DataError, match="line 2: the row was changed"):
        read_rows(file)
    with pytest.raises(DataError, match="line 2"):
        add_row(file, row("c"))


def test_rows_of_other_faces_or_cues_stand_apart():
    rows = [
        row(),
        row("b", 0.7),
        row("c", data="other"),
        row("d", cue="other"),
        row("e", split="valid"),
        row("f", protocol="p"),
    ]
    tables = tables_of_rows(rows)
    assert [[one["model"] for one in table] for table in tables] == [["b", "a"], ["c"], ["d"], ["e"], ["f"]]
    page = rows_page(rows, "board <1>")
    assert page.count("<table>") == 5
    assert "<1>" not in page
    assert "do not compare" in page


def test_no_row_without_its_facts_and_no_number_that_is_none(tmp_path):
    with pytest.raises(DataError, match="needs cue"):
        row_of({name: "x" for name in FACTS if name != "cue"}, {})
    with pytest.raises(DataError, match="has no column speed"):
        row_of(dict.fromkeys(FACTS, "x"), {"speed": 1.0})
    with pytest.raises(DataError, match="nan, which is no score"):
        row(accuracy=float("nan"))
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="is no file of rows"):
        read_rows(tmp_path / "other.csv")
    with pytest.raises(DataError, match="there is no file"):
        read_rows(tmp_path / "gone.csv")


def test_the_row_of_an_audit(tmp_path):
    store = tiny.store(tmp_path / "toy", each=2)
    model = mien.wrap(Small(), WORDS, size=32, name="one")
    rows = np.flatnonzero(store.split == "test")
    labels = labels_for(store, model.classes)[rows]
    shares = model.probabilities(store.images(rows))
    row = audit_row(model, store, rows, labels, shares, "test", {"deletion": 0.25})
    assert add_row(tmp_path / "board.csv", row) == "added"
    assert float(row["accuracy"]) == pytest.approx((shares.argmax(1) == labels).mean(), abs=1e-6)
    assert (row["deletion"], row["insertion"], row["att_cos"], row["faces"]) == ("0.250000", "", "", "14")
    told = audit(
        model, store=store.path, out=tmp_path / "a", parts="right,explanation", explained=3, faces=14, row=tmp_path / "own.csv"
    )  # fmt: skip
    (own,) = read_rows(tmp_path / "own.csv")
    assert (own["accuracy"], own["data"], own["cue"]) == (row["accuracy"], row["data"], row["cue"])
    scores = {line["name"]: line["value"] for line in told["parts"][1]["tables"][0]["rows"]}
    assert float(own["deletion"]) == pytest.approx(scores["deletion"], abs=1e-6)
    fewer = audit_row(model, store, rows[:7], labels[:7], shares[:7], "test")
    assert len(tables_of_rows([row, fewer])) == 2, "other faces"


def test_compare_writes_rows_that_report_shows(tmp_path, capsys):
    tiny.store(tmp_path / "toy", each=2)
    names = []
    for name in ("one", "two"):
        torch.manual_seed(len(names))
        mien.evaluate_model(mien.wrap(Small(), WORDS, size=32, name=name), tmp_path / "toy", out=tmp_path / name)
        names.append(str(tmp_path / name))
    compare(*names, store=tmp_path / "toy", out=tmp_path / "out", rows=tmp_path / "board.csv")
    rows = read_rows(tmp_path / "board.csv")
    results = json.loads((tmp_path / "one" / "results-on-toy.json").read_text())
    assert [one["model"] for one in rows] == ["one", "two"]
    assert float(rows[0]["accuracy"]) == pytest.approx(results["classification"]["accuracy"], abs=1e-6)
    assert float(rows[0]["att_cos"]) == pytest.approx(results["alignment"]["layer-1"]["cosine"]["class_mean"], abs=1e-6)
    assert rows[0]["weights"] == results["weights"][:16]
    assert len(tables_of_rows(rows)) == 1
    page = tmp_path / "board.html"
    assert main(["report", "--rows", str(tmp_path / "board.csv"), "--out", str(page)]) == 0
    assert "2 rows in 1 tables" in capsys.readouterr().out
    assert "two" in Path(page).read_text()
    assert main(["report", str(tmp_path / "one"), "--rows", str(tmp_path / "board.csv")]) == 2
    assert COLUMNS[-1] == "check"
