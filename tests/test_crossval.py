"""Cross-validation: every face scored once by a net that never saw it, stopped and failed folds, what lies in the folder."""

import csv
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import yaml

import mien.progress
import mien.training.loop
from mien.cli import main
from mien.crossval import crossval, fold_list, memory
from mien.crossval.gather import joined_faces, mean_maps
from mien.data.store import open_store, write_store
from mien.errors import DataError, UsageError
from mien.evaluation.evaluate import evaluate
from mien.metrics.intervals import normal_interval
from mien.report.places import first_net
from mien.report.runs import Group, load_run
from mien.training.session import split_rows

ROOT = Path(__file__).parent.parent


def faces_with_affect() -> list:
    """42 faces of six subjects; every eleventh has no landmarks, valence falls from class to class."""
    made = []
    for k, record in enumerate(tiny.records(each=3)):
        affect = {"valence": 0.9 - 0.3 * (k % 7), "arousal": 0.1} if k % 5 else {}
        points = None if k % 11 == 0 else record.landmarks
        made.append(record._replace(attributes=affect, landmarks=points))
    return made


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """A net this narrow is slower on two threads, and a busy machine makes them wait for one another."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mien.progress, "default_workers", lambda: 1)
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crossval")
    write_store(faces_with_affect(), folder / "store", dataset="toy", size=tiny.SIZE)
    return folder


@pytest.fixture(scope="module")
def recipe(root):
    path = root / "plain.yaml"
    settings = {
        "data": {"store": str(root / "store"), "valid_fraction": 0.3},
        "model": {"backbone": "resnet10t", "size": 32, "stem_pool": False, "channels": [4, 4, 8, 8]},
        "optim": {"epochs": 2, "batch": 14},
        "run": {"accelerator": "cpu"},
    }
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture(scope="module")
def whole(root, recipe):
    return crossval(recipe, folds=2, workers=1, out=root / "whole")


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


# ---------------------------------------------------------------- folds in a recipe


def parts(root: Path, protocol: str, folds: int = 3) -> list:
    store = open_store(root / "store")
    data = {"protocol": protocol, "folds": folds}
    return [split_rows(store, tiny.recipe(root / "store", data={**data, "fold": k})) for k in range(folds)]


@pytest.mark.parametrize("protocol", ["strict", "paper"])
def test_every_face_is_tested_once(root, protocol):
    splits = parts(root, protocol)
    assert np.array_equal(np.sort(np.concatenate([split.test for split in splits])), np.arange(42))
    for split in splits:
        assert not np.isin(split.train, split.test).any()


def test_strict_holds_people_out_and_selects_on_an_inner_part(root):
    subject = open_store(root / "store").subject
    for split in parts(root, "strict"):
        train, valid, test = (set(subject[rows]) for rows in (split.train, split.valid, split.test))
        assert not train & valid
        assert not test & (train | valid)


def test_paper_deals_faces_and_selects_on_the_test_fold(root):
    from sklearn.model_selection import StratifiedKFold

    labels = [tiny.NAMES.index(name) for name in open_store(root / "store").expression]
    published = StratifiedKFold(3, shuffle=True, random_state=2020).split(np.zeros(42), labels)
    for split, (train, test) in zip(parts(root, "paper"), published, strict=True):
        assert np.array_equal(split.test, test)
        assert np.array_equal(split.train, train)
        assert np.array_equal(split.valid, split.test)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"folds": 1}, "data.folds is 1"),
        ({"folds": -2}, "data.folds is -2"),
        ({"folds": 3, "fold": 3}, "must be 0 to 2"),
        ({"fold": 0}, "left out without data.folds"),
    ],
)
def test_folds_that_do_not_exist(root, data, words):
    with pytest.raises(UsageError, match=words):
        tiny.recipe(root / "store", data=data)


def test_folds_without_a_fold_are_not_trained(root):
    with pytest.raises(UsageError, match="mien crossval"):
        split_rows(open_store(root / "store"), tiny.recipe(root / "store", data={"folds": 3}))


# ---------------------------------------------------------------- the whole


def test_all_folds_are_one_scored_run(whole, root):
    found, store = results(whole), open_store(root / "store")
    run = load_run(whole, "whole")
    assert found["faces"] == 42
    assert set(run.faces["id"]) == set(store.ids)
    assert [row["test"] for row in found["folds"]["each"]] == [21, 21]
    singles = [load_run(whole / f"fold-{k}", "fold") for k in range(2)]
    for k, single in enumerate(singles):
        own = run.faces["fold"] == k
        assert np.array_equal(run.faces["probabilities"][own], single.faces["probabilities"])
    accuracy = [single.results["classification"]["accuracy"] for single in singles]
    assert found["classification"]["accuracy"] == pytest.approx(np.mean(accuracy))  # folds of one size
    assert found["classification"]["confusion"] == np.sum(
        [single.results["classification"]["confusion"] for single in singles], axis=0
    ).tolist()  # fmt: skip
    assert found["folds"]["deviation"]["accuracy"] == pytest.approx(np.std(accuracy, ddof=1))
    between = normal_interval(float(np.mean(accuracy)), 42)
    assert found["folds"]["accuracy_interval"] == pytest.approx([between.low, between.high])


def test_mean_maps_are_those_of_all_faces(whole):
    """Folds weighted by their faces: the same as one pass over all faces."""
    run = load_run(whole, "whole")
    singles = [load_run(whole / f"fold-{k}", "") for k in range(2)]
    counts = [np.bincount(single.faces["label"], minlength=7) for single in singles]
    folds = [single.means["attention"] for single in singles]
    slow = [sum(c[k] * m[k] for c, m in zip(counts, folds, strict=True)) / sum(c[k] for c in counts) for k in range(7)]
    assert np.allclose(run.means["attention"], slow, atol=1e-6)
    assert (run.means["cue"][0] == 0).all()
    assert set(mean_maps([run])) == set(run.means)


def test_nothing_in_the_frame_of_one_net_is_pooled(whole, tmp_path):
    """A theta is that of one net: the mean of two nets that turn the picture to and fro would describe neither."""
    copy = shutil.copytree(whole, tmp_path / "whole")
    for fold, turn in ((0, 1.0), (1, -1.0)):
        file = copy / f"fold-{fold}" / "maps" / "faces.npz"
        faces = dict(np.load(file))
        faces["theta"] = np.tile(np.float32([[0.5 * turn, 0, 0], [0, 0.5 * turn, 0]]), (len(faces["label"]), 1, 1))
        np.savez(file, **faces)
    folds = {fold: load_run(copy / f"fold-{fold}", "fold") for fold in (0, 1)}
    assert "theta" not in joined_faces(folds)
    old = load_run(copy, "whole")
    old.faces["theta"] = np.zeros((42, 2, 3), np.float32)  # as a gathered folder of an earlier version has it
    net = first_net(Group("whole", [old]))
    assert net.name == "whole, net of fold 0"
    assert net.first.faces["theta"].shape == (21, 2, 3)
    assert (net.first.faces["theta"][:, 0, 0] == 0.5).all()
    shutil.rmtree(copy / "fold-0")
    assert "theta" not in first_net(Group("whole", [old])).first.faces


def test_a_fold_is_an_ordinary_run(whole, tmp_path):
    before, copy = results(whole / "fold-1"), shutil.copytree(whole / "fold-1", tmp_path / "fold-1")
    assert evaluate(copy)["classification"] == before["classification"]
    other = tiny.store(tmp_path / "other", each=2, seed=5)
    assert evaluate(copy, store=other.path)["faces"] == 14  # other faces have splits of their own
    with pytest.raises(DataError, match="gathers the folds"):
        evaluate(whole)


def test_tables_of_single_faces(whole):
    run = load_run(whole, "whole")
    rows = list(csv.DictReader((whole / "predictions.csv").read_text().splitlines()))
    assert [row["id"] for row in rows] == run.faces["id"].tolist()
    assert [row["true"] == row["predicted"] for row in rows] == run.right.tolist()
    assert {row["fold"] for row in rows} == {"0", "1"}
    assert {row["landmarks"] for row in rows} == {"yes", "no"}
    by_id = {record.id: record for record in faces_with_affect()}
    for row in rows:
        assert sum(float(row[f"p_{name}"]) for name in run.classes) == pytest.approx(1, abs=1e-4)
        assert row["valence"] == (f"{by_id[row['id']].attributes.get('valence', ''):g}" if row["valence"] else "")
    errors = list(csv.DictReader((whole / "errors.csv").read_text().splitlines()))
    assert {row["id"] for row in errors} == {row["id"] for row in rows if row["true"] != row["predicted"]}
    sure = [float(row["confidence"]) for row in errors]
    assert sure == sorted(sure, reverse=True)


def test_errors_by_landmarks_and_affect(whole):
    found, run = results(whole)["errors"], load_run(whole, "whole")
    assert found["landmarks"]["unknown"]["faces"] == sum(record.landmarks is None for record in faces_with_affect())
    assert sum(part["errors"] for part in found["landmarks"].values()) == found["faces"] == (~run.right).sum()
    assert sum(pair["faces"] for pair in found["confusions"]) == found["faces"]
    valence = found["affect"]["valence"]
    assert np.sum(valence["count"]) == np.isfinite(run.faces["valence"]).sum() < 42
    for k, row in enumerate(valence["mean"]):
        for value in (value for value in row if value is not None):
            assert value == pytest.approx(0.9 - 0.3 * k, abs=1e-6)


# ---------------------------------------------------------------- stopped, failed, refused


def test_done_folds_are_not_trained_again(whole, recipe, capsys):
    before = {file: file.stat().st_mtime_ns for file in whole.rglob("best.ckpt")}
    crossval(recipe, folds=2, workers=1, out=whole)
    shown = capsys.readouterr().out
    assert "2 trainings, 2 of them done before" in shown
    assert "2 of 2 folds, 42 faces, protocol strict" in shown
    assert before == {file: file.stat().st_mtime_ns for file in whole.rglob("best.ckpt")}


def test_resumes_in_the_fold_and_epoch_where_it_stopped(whole, recipe, tmp_path, monkeypatch):
    keep, epochs = mien.training.loop.keep, itertools.count(1)

    def stop_in_the_third(*arguments):
        keep(*arguments)
        if next(epochs) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mien.training.loop, "keep", stop_in_the_third)
        with pytest.raises(KeyboardInterrupt):
            crossval(recipe, folds=2, workers=1, out=tmp_path / "whole")
    assert [(tmp_path / "whole" / f"fold-{k}" / "results.json").is_file() for k in range(2)] == [True, False]
    assert len((tmp_path / "whole" / "fold-1" / "log.jsonl").read_text().splitlines()) == 1
    crossval(recipe, folds=2, workers=1, out=tmp_path / "whole")
    assert results(tmp_path / "whole") == results(whole)


def test_one_failed_fold_does_not_lose_the_others(recipe, tmp_path, monkeypatch, capsys):
    fit = mien.training.loop.fit

    def fails_in_fold_0(settings, out):
        if settings.data.fold == 0:
            raise RuntimeError("CUDA out of\nmemory")
        return fit(settings, out)

    options = {"folds": 2, "workers": 1, "out": tmp_path, "overrides": ["--optim.epochs", "1"]}
    with monkeypatch.context() as patch:
        patch.setattr(mien.training.loop, "fit", fails_in_fold_0)
        with pytest.raises(DataError, match=r"1 of 2 folds failed; .* the same command resumes"):
            crossval(recipe, **options)
    found = results(tmp_path)
    assert found["folds"]["failed"] == {"fold-0": "RuntimeError: CUDA out of memory"}
    assert [row["fold"] for row in found["folds"]["each"]] == [1]
    assert (found["faces"], found["folds"]["deviation"]) == (21, None)
    assert "1 of 2 folds" in capsys.readouterr().out
    crossval(recipe, **options, only="0")
    assert results(tmp_path)["faces"] == 42
    assert results(tmp_path)["folds"]["failed"] == {}


def test_all_failed_is_one_line(recipe, tmp_path):
    with pytest.raises(DataError, match=r"every fold failed: .*output_stride"):
        crossval(recipe, folds=2, workers=1, out=tmp_path, overrides=["--model.output_stride", "5"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"folds": 1}, "--folds 1"),
        ({"workers": 0}, "--workers 0"),
        ({"only": "0,2"}, "'2' is no fold; they are numbered 0 to 1"),
        ({"only": "-1"}, "'-1' is no fold"),
        ({"overrides": ["--data.fold", "1"]}, "set by crossval"),
        ({"overrides": ["--optim.lr", "0.2"]}, r"other settings \(optim.lr"),
        ({"folds": 4}, r"other settings \(data.folds"),
        ({"protocol": "paper"}, r"other settings \(data.protocol"),
    ],
)
def test_refused_before_anything_is_trained(whole, recipe, options, words):
    before = {file: file.stat().st_mtime_ns for file in whole.rglob("*") if file.is_file()}
    with pytest.raises(UsageError, match=words):
        crossval(recipe, **{"folds": 2, "out": whole, **options})
    assert before == {file: file.stat().st_mtime_ns for file in whole.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--folds", "1"], "--folds 1: give at least 2"),
        (["--protocol", "papr"], "strict"),
        (["--fold", "2"], "Did you mean '--folds'"),
        (["--data.fold_sed", "1"], "Did you mean 'data.fold_seed'"),
    ],
)
def test_command_line(recipe, capsys, words, line):
    assert main(["crossval", str(recipe), *words]) == 2
    shown = capsys.readouterr().err
    assert line in shown
    assert shown.count("\n") == 1


def test_other_faces_are_refused(whole, recipe, tmp_path):
    other = tiny.store(tmp_path / "other", each=3, seed=5)
    with pytest.raises(DataError, match=r"fold-0.results.json is of other faces"):
        crossval(recipe, folds=2, out=whole, overrides=["--data.store", str(other.path)])


def test_fold_list():
    assert fold_list("", 3) == [0, 1, 2]
    assert fold_list(" 2,0,2", 3) == [0, 2]


def test_workers_follow_cores_and_memory(root, monkeypatch):
    small = tiny.recipe(root / "store", optim={"batch": 128}, model={"size": 48})  # about 2.2 GiB
    monkeypatch.setattr(memory, "default_workers", lambda: 4)
    for free, expected in ((2**40, 4), (5 * 2**30, 2), (2**20, 1)):
        monkeypatch.setattr(memory, "free_memory", lambda free=free: free)
        assert memory.workers_that_fit(small) == expected
    assert memory.workers_that_fit(replace(small, run=replace(small.run, accelerator="gpu"))) == 1


def test_free_memory_is_a_number_of_bytes():
    assert 0 < memory.free_memory() <= 2**62


@pytest.mark.slow
def test_a_killed_command_leaves_no_child_and_resumes(whole, recipe, tmp_path):
    """SIGKILL in the middle of two folds side by side: children end too, and the same command ends with the same numbers."""
    out = tmp_path / "whole"
    words = ["crossval", str(recipe), "--folds", "2", "--workers", "2", "--out", str(out)]
    command = [sys.executable, "-m", "mien.cli", *words]
    options = {"cwd": ROOT, "env": {**os.environ, "PYTHONPATH": str(ROOT)}, "stdout": subprocess.DEVNULL}
    process = subprocess.Popen(command, **options)
    while not list(out.glob("fold-*/last.ckpt")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(1)
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*") if file.is_file()}
    time.sleep(2)
    assert before == {file: file.stat().st_mtime_ns for file in out.rglob("*") if file.is_file()}
    assert not (out / "results.json").exists()
    subprocess.run(command, check=True, **options)
    assert results(out) == results(whole)
