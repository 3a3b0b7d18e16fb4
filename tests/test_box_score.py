"""`mien box`: scores of a model end to end against loops, options that do not go together, packing of a run."""

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from mien.box import box, build, pack
from mien.box.hard import banded, hard_faces
from mien.box.join import join_runs
from mien.box.score import majority, score
from mien.cli import main
from mien.errors import DataError, UsageError
from mien.faces.quality import UNKNOWN, Quality
from mien.files import read_json, write_json
from mien.predict.model import load
from mien.schema import EXPRESSIONS, Record, scheme_classes
from mien.training.checkpoint import load_model
from mien.training.loop import fit

CLASSES = scheme_classes("basic-7")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tiny.store(tmp_path_factory.mktemp("data") / "store").path
    out = tmp_path_factory.mktemp("runs") / "run"
    fit(tiny.recipe(path, data={"targets": "both"}, optim={"epochs": 1}), out)
    return out


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """28 pictures of 7 people of two kinds."""
    folder = tmp_path_factory.mktemp("photos")
    with open(folder / "index.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "expression", "subject", "kind"])
        for k, record in enumerate(tiny.records(each=4, splits=("test",))):
            Image.fromarray(record.image).save(folder / f"{k}.png")
            writer.writerow([f"{k}.png", record.expression, f"person{k % 7}", "ab"[k % 2]])
    return folder / "index.csv"


def test_scores_against_loops(run, table, tmp_path, capsys):
    words = [
        "--root",
        str(table),
        "--dataset",
        "table",
        "--columns",
        "attr.kind=kind",
        "--run",
        str(run),
        "--faces",
        "none",
    ]
    assert main(["box", "score", *words, "--out", str(tmp_path / "s.json")]) == 0
    result = json.loads((tmp_path / "s.json").read_text())
    with open(table) as file:
        rows = list(csv.DictReader(file))
    faces = load(run, faces="none").predict([table.parent / row["image"] for row in rows]).faces
    right = [face.expression == row["expression"] for face, row in zip(faces, rows, strict=True)]
    assert result["labels"]["accuracy"][0] == pytest.approx(sum(right) / 28)
    assert result["crops"] == {"whole": 28}
    for name in CLASSES:
        own = [ok for ok, row in zip(right, rows, strict=True) if row["expression"] == name]
        assert result["labels"]["recall"][name][:2] == [4, pytest.approx(sum(own) / 4)]
    order = sorted(range(28), key=lambda k: -faces[k].confidence)
    most = [right[k] for k in order[: round(0.4 * 28)]]
    assert result["labels"]["accuracy_of_most_confident"]["0.4"] == pytest.approx(sum(most) / len(most))
    assert result["labels"]["hard"] == {"none of these": [28, *result["labels"]["accuracy"]]}
    for value in "ab":
        own = [ok for ok, row in zip(right, rows, strict=True) if row["kind"] == value]
        assert result["by kind"][value][:2] == [14, pytest.approx(sum(own) / 14)]
    assert "accuracy of the most confident share" in capsys.readouterr().out


def test_hard_faces_are_rows_of_their_own():
    fine = Quality(0, 0, 0, 40, 0.6, 0.5, 0.8, 0, 0)
    faces = [
        fine, fine._replace(yaw=-40), fine._replace(yaw=30, light=0.2), fine._replace(size=12, sharpness=0.2),
        fine._replace(pitch=21, roll=-20), fine._replace(contrast=0.4, cut=0.05, occlusion=0.1), UNKNOWN,
    ]  # fmt: skip
    rows = hard_faces(faces, [*["fitted"] * 6, "whole"])
    assert {name.split(",")[0]: list(np.flatnonzero(own)) for name, own in rows.items()} == {
        "turned": [1, 2], "raised or lowered": [4], "tilted": [4], "cut by the border": [5], "covered": [5], "small": [3],
        "blurred": [3], "dark": [2], "low contrast": [5], "not found": [6], "none of these": [0],
    }  # fmt: skip
    assert list(hard_faces([UNKNOWN] * 2, ["whole"] * 2)) == ["none of these"]  # no finder was asked


def test_ages_are_grouped_by_tens():
    for kind in (str, float):
        groups = [{"age": kind(age)} for age in range(18, 41, 2)] + [{"age": "NA"}, {}]
        assert banded(groups, "age")[:2] + banded(groups, "age")[-3:] == ["10-19", "20-29", "40-49", None, None]
    assert banded([{"side": 1.0}, {"side": "2"}], "side") == ["1", "2"]
    words = [{"place": str(k)} for k in range(20)] + [{"place": "elsewhere"}]
    assert banded(words, "place") == [word["place"] for word in words]


def test_majority_of_votes():
    index = {name: k for k, name in enumerate(CLASSES)}

    def of(**votes):
        shares = np.array([votes.get(name, 0.0) for name in EXPRESSIONS], np.float32)
        return majority(Record("a", b"", votes=shares), index)

    assert of(Fear=0.6, Anger=0.4) == CLASSES.index("Fear")
    assert of(Fear=0.5, Anger=0.5) == -1
    assert of(Contempt=1.0) == -1
    assert majority(Record("a", b""), index) == -1


def test_what_does_not_go_together(tmp_path):
    with pytest.raises(UsageError, match="takes no --split"):
        box("build", root=tmp_path, split="test")
    with pytest.raises(UsageError, match="takes no --photos"):
        box("score", root=tmp_path, photos=tmp_path)
    with pytest.raises(UsageError, match="not 'rafdb'"):
        score("rafdb", tmp_path)
    with pytest.raises(UsageError, match="for a table"):
        score("folder", tmp_path, columns="image=a")


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """Runs of two seeds, of a store with validation faces of its own, and of another width."""
    folder = tmp_path_factory.mktemp("seeds")
    store = tiny.store(folder / "store", splits=("train", "valid", "test")).path
    net = {"backbone": "small_resnet", "size": 32, "stem_pool": True, "output_stride": None, "preprocessing": "grey"}
    for seed, channels in ((0, [4, 6, 6]), (1, [4, 6, 6]), (2, [4, 6, 8])):
        run = {"seed": seed, "accelerator": "cpu"}
        changed = {
            "data": {"targets": "both"},
            "optim": {"epochs": 1},
            "model": {**net, "channels": channels},
            "run": run,
        }
        fit(tiny.recipe(store, **changed), folder / str(seed))
    return folder


def test_joined_nets_give_the_mean_of_their_logits(seeds):
    join_runs([seeds / "0", seeds / "1"], seeds / "joined")
    assert json.loads((seeds / "joined" / "environment.json").read_text())["joined_seeds"] == [0, 1]
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    one, other, both = (load_model(seeds / name)[0].eval()(images) for name in ("0", "1", "joined"))
    torch.testing.assert_close(both.logits, (one.logits + other.logits) / 2)
    torch.testing.assert_close(both.label_logits, (one.label_logits + other.label_logits) / 2)
    for k, layer in enumerate(both.features):
        torch.testing.assert_close(layer, torch.cat([one.features[k], other.features[k]], 1))
    assert not torch.allclose(one.logits, other.logits, atol=1e-3)


def test_a_student_learns_from_the_nets_of_all_seeds(seeds, tmp_path):
    net = {"backbone": "small_resnet", "size": 32, "stem_pool": True, "output_stride": None, "channels": [4, 6]}
    recipe = tiny.recipe(seeds / "store", data={"targets": "both"}, optim={"epochs": 1}, model=net)
    student = replace(recipe, model=replace(recipe.model, size=24, channels=[4, 5]))
    found = build.trained(recipe, tmp_path, 2, student)
    _, own, _ = load_model(found)
    assert own.model.channels == [4, 5]
    assert own.data.teachers == [tmp_path / "expression", tmp_path / "expression-seed1"]
    assert (found / "teachers.npz").is_file()


def test_nets_that_cannot_be_joined_are_told(seeds, run):
    with pytest.raises(UsageError, match=r"differ in run\.seed alone"):
        join_runs([seeds / "0", seeds / "2"], seeds / "no")
    with pytest.raises(UsageError, match=r"same run\.seed"):
        join_runs([seeds / "0", seeds / "0"], seeds / "no")
    with pytest.raises(UsageError, match="only nets of"):
        join_runs([run, run], seeds / "no")
    facts = read_json(seeds / "1" / "environment.json", "")
    drawn = {"split": {**facts["split"], "validation": "drawn"}}
    for change, said in (({"store_fingerprint": "other"}, "same faces"), (drawn, "were training")):
        for name in ("0", "1"):
            shutil.copytree(seeds / name, seeds / f"{name}-{said}")
            if name == "1" or "split" in change:
                write_json(seeds / f"{name}-{said}" / "environment.json", facts | change)
        with pytest.raises(DataError, match=said):
            join_runs([seeds / f"0-{said}", seeds / f"1-{said}"], seeds / "no")


def test_a_packed_run_predicts_and_is_summed_up(run, tmp_path, monkeypatch):
    out = tmp_path / "weights"
    pack.pack_run(run, out / "expression")
    (out / "expression" / "calibration.json").write_text("{}")
    pack.pack_run(run, out / "expression")  # what belongs to other weights goes
    assert {path.name for path in (out / "expression").iterdir()} == {"best.ckpt", "config.yaml", "environment.json"}
    image = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    one, other = (load(place, faces="none").predict(image).faces[0] for place in (run, out / "expression"))
    assert list(one.probabilities.values()) == pytest.approx(list(other.probabilities.values()), abs=0.02)
    pack.sum_up(out)
    assert len((out / "SHA256SUMS").read_text().splitlines()) == 3
    monkeypatch.setattr(pack, "LIMIT", 10)
    with pytest.raises(DataError, match="more than 10"):
        pack.sum_up(out)
