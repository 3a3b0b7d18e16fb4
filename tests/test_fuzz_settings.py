"""Mutated codebooks, tables of predictions, leaderboards and lists that a command goes on from: read, or refused in one line."""

import json
import math

import pyarrow.csv
import pyarrow.parquet
import pytest
from fuzzing import damaged_bytes, damaged_text, refusals, spoiler

from mien.cues.codebook import HERE, load_codebook
from mien.cues.folder import read_valid
from mien.cues.guides import begin, read_lost
from mien.predict.summarize import read_rows as read_predictions
from mien.predict.summarize import summary_of
from mien.report.rows import FACTS, add_row, read_rows, row_of

BOTH = pytest.mark.parametrize("count", [12, pytest.param(300, marks=pytest.mark.slow)])


@BOTH
@pytest.mark.parametrize("name", ["corrected", "paper"])
def test_mutated_codebooks(tmp_path, name, count):
    file = tmp_path / "book.json"
    file.write_bytes((HERE / f"codebook_{name}.json").read_bytes())

    def attempt():
        book = load_codebook(str(file))
        assert all(set(units) <= set(book.action_units) for units in book.expressions.values())

    attempt()
    refusals(attempt, spoiler([file], damaged_text), count, 1)


@pytest.mark.parametrize(
    "content", ["[1]", "[" * 100_000, '{"expressions": {}, "expressions": {}, "action_units": {}}']
)
def test_json_that_is_no_codebook(tmp_path, content):
    (tmp_path / "book.json").write_text(content)
    assert refusals(lambda: load_codebook(str(tmp_path / "book.json")), lambda draws: content[:20], 1, 0)[0] == 1


def test_a_unit_of_a_codebook_that_is_no_name(tmp_path):
    book = json.loads((HERE / "codebook_corrected.json").read_text(encoding="utf-8"))
    book["expressions"]["Happiness"] = [["AU6"], {"AU12": 1}]
    (tmp_path / "book.json").write_text(json.dumps(book))
    count, told = refusals(lambda: load_codebook(str(tmp_path / "book.json")), lambda draws: "", 1, 0)
    assert count == 1
    assert "which 'action_units' does not draw" in told[0]


@BOTH
@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_mutated_tables_of_predictions(tmp_path, ending, count):
    rows = [
        {"source": "a.mp4", "time": k / 10, "track": 1, "expression": "Fear", "abstained": False, "confidence": 0.5, "AU45": 0.1,
         "face": 1, "Fear": 0.6, "Anger": 0.4, "present": "AU45"}
        for k in range(6)
    ]  # fmt: skip
    table, file = pyarrow.Table.from_pylist(rows), tmp_path / f"rows.{ending}"
    if ending == "csv":
        pyarrow.csv.write_csv(table, file)
    elif ending == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pyarrow.parquet.write_table(table, file)

    def attempt():
        for person in summary_of(read_predictions(file)):
            assert all(0 <= share <= 1 + 1e-9 for share in person.shares.values())
            assert not math.isinf(person.seconds)

    attempt()
    refusals(attempt, spoiler([file], damaged_bytes if ending == "parquet" else damaged_text), count, 2)


@BOTH
def test_mutated_lists_that_a_command_goes_on_from(tmp_path, count):
    rows, valid, lost, settings = (tmp_path / name for name in ("rows.csv", "index.csv", "lost.csv", "guides.json"))
    for name in "ab":
        add_row(rows, row_of({**dict.fromkeys(FACTS, "x"), "model": name}, {"accuracy": 0.5}))
    valid.write_text("id,valid\na,1\nb,0\n")
    lost.write_text("path\na\nb\n")
    settings.write_text(json.dumps({"size": 48, "kind": "image"}))
    for file, attempt in (
        (rows, lambda: read_rows(rows)), (valid, lambda: read_valid(valid)), (lost, lambda: read_lost(lost)),
        (settings, lambda: begin(tmp_path, {"size": 48, "kind": "image"})),
    ):  # fmt: skip
        attempt()
        refusals(attempt, spoiler([file], damaged_text), count, 3)
