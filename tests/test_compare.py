"""`mien compare`: the same faces, paired; models of others beside runs."""

import csv
import json

import numpy as np
import pytest
import tiny
import torch
from other_nets import WORDS, Small

import mien
from mien.audit.compare import compare
from mien.audit.evaluate import evaluate_model
from mien.audit.paired import brier, compare_models, over_class_mean
from mien.cli import main
from mien.errors import DataError, UsageError
from mien.metrics.intervals import mcnemar, paired_bootstrap
from mien.metrics.resampling import people
from mien.report.numbers import possible
from mien.report.runs import group_runs, load_run
from mien.report.tables import p_value

NET = """
import torch, mien
from other_nets import WORDS, Small

def make():
    torch.manual_seed(5)
    return mien.wrap(Small(), WORDS, size=32, name="mine")
"""


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    out = tmp_path_factory.mktemp("compare") / "toy"
    tiny.store(out, each=4)
    return out


def folder(out, faces, name, seed, **options):
    torch.manual_seed(seed)
    evaluate_model(mien.wrap(Small(**options), WORDS, size=32, name=name), faces, out=out / name)
    return str(out / name)


def table_of(file, title):
    """Rows of one table of compare.csv, head first."""
    part = file.read_text().split(f"# {title}\n")[1].split("\n\n")[0].split("\n# ")[0]
    return list(csv.reader(part.strip().splitlines()))


def test_two_nets_and_their_tests(faces, tmp_path, capsys):
    names = [folder(tmp_path, faces, "one", 0), folder(tmp_path, faces, "two", 1)]
    compare(*names, store=faces, out=tmp_path / "out")
    told = capsys.readouterr().out
    assert "two against one on 28 shared faces" in told
    assert "one net each" in told
    head, *body = table_of(tmp_path / "out" / "compare.csv", "two minus one")
    rows = {row[0]: row for row in body}
    assert {"accuracy", "balanced accuracy", "Brier score (lower is better)", "recall of Anger"} <= set(rows)
    assert "excess of ATT-COS over the class-mean cue" in rows
    first, second = (load_run(tmp_path / name, name, "test", faces) for name in ("one", "two"))
    order = [list(second.faces["id"]).index(one) for one in first.faces["id"]]
    hits = first.right.astype(float), second.right[order].astype(float)
    slow = paired_bootstrap(*hits, people(first.faces["subject"]))
    assert float(rows["accuracy"][1]) == pytest.approx(slow.difference, abs=1e-6)
    assert float(rows["accuracy"][2]) == pytest.approx(slow.low, abs=1e-4)
    assert rows["accuracy"][head.index("McNemar p corrected")] == p_value(mcnemar(*hits))
    assert "\\begin{table}" in (tmp_path / "out" / "compare.tex").read_text()
    assert json.loads((tmp_path / "out" / "compare.json").read_text())["tables"][0]["rows"][0][0] == "one"


def test_rows_are_the_differences_of_their_scores(faces, tmp_path):
    for name, seed in (("one", 0), ("two", 1)):
        folder(tmp_path, faces, name, seed)
    runs = [load_run(tmp_path / name, name, "test", faces) for name in ("one", "two")]
    base, other = group_runs(runs)
    found = compare_models(base, other, 0).differences
    shares = [run.faces["probabilities"] for run in runs]
    for run, p in zip(runs, shares, strict=True):  # the definition, a loop
        slow = [sum((p[i, k] - (k == label)) ** 2 for k in range(7)) for i, label in enumerate(run.faces["label"])]
        np.testing.assert_allclose(brier(run), slow, atol=1e-6)
    means = [float(brier(run).mean()) for run in runs]
    assert found["brier"].test.difference == pytest.approx(means[1] - means[0], abs=1e-6)
    own = [run.right[run.faces["label"] == 3].mean() for run in runs]
    assert found[f"recall:{runs[0].classes[3]}"].test.difference == pytest.approx(own[1] - own[0], abs=1e-6)
    values = []
    for run in runs:
        valid, excess = run.faces["valid"], over_class_mean(run)
        labels = run.faces["label"]
        values.append(np.mean([excess[valid & (labels == k)].mean() for k in np.unique(labels[valid])]))
    assert found["excess"].test.difference == pytest.approx(values[1] - values[0], abs=1e-6)


def test_seeds_are_the_unit_where_there_are_several(faces, tmp_path, capsys):
    names = [
        folder(tmp_path, faces, f"{net}-seed{seed}", seed + add)
        for net, add in (("plain", 0), ("other", 7))
        for seed in (0, 1)
    ]
    compare(*names, store=faces, out=tmp_path / "out")
    told = capsys.readouterr().out
    assert "other against plain" in told
    assert "more seeds to rule out" in told or "seeds are enough" in told
    head = table_of(tmp_path / "out" / "compare.csv", "other minus plain")[0]
    assert "over 2 seeds" in head
    assert "over both" in head
    with pytest.raises(UsageError, match="runs of one recipe"):
        compare(*names[:2], store=faces, out=tmp_path / "out")


def test_a_file_of_code_and_scores_that_are_kept(faces, tmp_path, capsys):
    (tmp_path / "my_net.py").write_text(NET)
    one = folder(tmp_path, faces, "one", 0)
    options = ["--store", str(faces), "--out", str(tmp_path / "out")]
    assert main(["compare", one, f"{tmp_path / 'my_net.py'}:make", *options]) == 0
    assert "classes matched by name" in capsys.readouterr().out
    assert main(["compare", one, f"{tmp_path / 'my_net.py'}:make", *options, "--robustness", "3"]) == 0
    told = capsys.readouterr().out
    assert "classes matched by name" not in told, "scored once"
    assert "one: its folder holds scores alone" in told


def test_accuracy_under_corruptions_is_paired_too(faces, tmp_path, capsys):
    for name, seed in (("a", 5), ("b", 6)):
        (tmp_path / f"{name}.py").write_text(NET.replace("(5)", f"({seed})").replace('"mine"', f'"{name}"'))
    models = [f"{tmp_path / name}.py:make" for name in "ab"]
    compare(*models, store=faces, out=tmp_path / "out", robustness=4)
    rows = {row[0]: row for row in table_of(tmp_path / "out" / "compare.csv", "b minus a")}
    torch.manual_seed(6)
    again = mien.wrap(Small(), WORDS, size=32, name="b")  # the net itself, from Python
    mien.compare(models[0], again, store=faces, out=tmp_path / "again", robustness=4)
    assert (tmp_path / "again" / "compare.csv").read_text() == (tmp_path / "out" / "compare.csv").read_text()
    assert "accuracy under corruptions" in rows
    assert -1 <= float(rows["accuracy under corruptions"][1]) <= 1


def test_a_trained_run_beside_a_net_with_fewer_classes(faces, tmp_path, capsys):
    from mien.training.loop import fit

    fit(tiny.recipe(faces, optim={"epochs": 1}), tmp_path / "run")
    torch.manual_seed(0)
    few = mien.wrap(Small(classes=3), ("happy", "sad", "angry"), size=32, name="few")
    evaluate_model(few, faces, out=tmp_path / "few")
    compare(str(tmp_path / "run"), str(tmp_path / "few"), store=faces, out=tmp_path / "out")
    assert "few against run on 12 shared faces" in capsys.readouterr().out
    eight = mien.wrap(Small(classes=8), "affectnet", size=32, name="eight")
    evaluate_model(eight, faces, out=tmp_path / "eight")
    compare(str(tmp_path / "run"), str(tmp_path / "eight"), store=faces, out=tmp_path / "out")
    titles = [row[0] for row in table_of(tmp_path / "out" / "compare.csv", "eight minus run")]
    assert {"ATT-COS, last layer", "excess of ATT-COS over the class-mean cue"} <= set(titles), "one cue, a class more"


def test_mistakes_are_one_line(faces, tmp_path, capsys):
    one = folder(tmp_path, faces, "one", 0)
    with pytest.raises(UsageError, match="at least two models"):
        compare(one, store=faces)
    with pytest.raises(DataError, match="no model at"):
        compare(one, str(tmp_path / "gone"), store=faces, out=tmp_path / "out")
    other = tiny.store(tmp_path / "else", each=1)
    two = folder(tmp_path, other, "two", 1)
    with pytest.raises(DataError, match="has no scores on these test faces"):
        compare(one, two, store=faces, out=tmp_path / "out")
    capsys.readouterr()
    assert main(["compare", one, "--store", str(faces)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_difference_of_shares_stays_in_its_range():
    hits = np.array([[1.0, 0, 1, 0, 1, 1], [0, 0, 0, 0, 0, 1]])
    test = paired_bootstrap(hits[0], hits[1], np.array([0, 0, 0, 0, 1, 1]))
    assert test.low < -1, "two people: the t goes far"
    assert possible(test, hits)[:4] == (test.difference, -1.0, test.high, test.p)
    assert possible(test, 2 * hits) == test
    unknown = test._replace(low=float("nan"), high=float("nan"))
    assert np.isnan(possible(unknown, hits).low)
