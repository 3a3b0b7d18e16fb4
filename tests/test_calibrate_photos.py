"""Class offsets against a grid search and their definition; the verb on photos of a tiny run, scored on people left out."""

import json

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

import mien
from mien.calibrate import calibrate
from mien.calibrate import photos as photos_module
from mien.calibrate.photos import Judged, judge, leave_people_out
from mien.cli import main
from mien.errors import DataError, UsageError
from mien.explain.builtin import gap_weight
from mien.export import drawn_faces, export
from mien.faces.detect import points_box
from mien.faces.provider import Face
from mien.metrics.calibration import fit_offsets, lift_to_recall, scaled
from mien.predict.calibration import Calibration, read_calibration
from mien.predict.explain import explain
from mien.schema import Record
from mien.training.loop import fit


def drawn(hidden: np.ndarray, count: int = 6000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores, and labels that are drawn from softmax(scores + hidden)."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 2, (count, len(hidden)))
    labels = np.array([rng.choice(len(hidden), p=row) for row in scaled(scores + hidden, 1.0)])
    return scores, labels


def test_two_classes_by_a_grid_search():
    scores, labels = drawn(np.array([0.0, 1.5]), 300)
    counts = [int((labels == k).sum()) for k in range(2)]
    losses = []
    grid = np.linspace(-4, 4, 801)
    for border in grid:
        loss = 0.0
        for (a, b), label in zip(scores, labels, strict=True):
            p = 1 / (1 + np.exp(a - b - border))
            loss -= np.log(p if label == 1 else 1 - p) / counts[label]
        losses.append(loss)
    found = fit_offsets(scores, labels)
    assert found[1] - found[0] == pytest.approx(grid[int(np.argmin(losses))], abs=0.02)
    assert found.sum() == pytest.approx(0, abs=1e-6)


def test_each_class_is_expected_as_often_as_the_others():
    scores, labels = drawn(np.array([0.3, -1.0, 0.0, 2.0]))
    p = scaled(scores + fit_offsets(scores, labels), 1.0)
    weight = 1 / (4 * np.bincount(labels)[labels])
    assert weight @ p == pytest.approx(np.full(4, 0.25), abs=1e-4)


def test_hidden_offsets_are_found_where_classes_are_as_frequent():
    hidden = np.array([0.8, -1.1, 0.3])
    scores, labels = drawn(hidden, 30_000)
    keep = np.concatenate([np.flatnonzero(labels == k)[: np.bincount(labels).min()] for k in range(3)])
    prior = np.log(np.bincount(labels) / len(labels))  # taking as many of each class moves the odds by that
    wanted = hidden - prior
    assert fit_offsets(scores[keep], labels[keep]) == pytest.approx(wanted - wanted.mean(), abs=0.06)


def test_classes_that_are_not_shown_keep_their_mean_probability():
    scores, labels = drawn(np.array([0.0, 2.0, 0.0, 0.0, 0.0]))
    some = labels < 2
    scores, labels = scores[some], labels[some]
    found = fit_offsets(scores, labels)
    assert found[2:].tolist() == [0, 0, 0]
    weight = 1 / (2 * np.bincount(labels)[labels])
    before, after = scaled(scores, 1.0)[:, 2:].sum(1), scaled(scores + found, 1.0)[:, 2:].sum(1)
    assert weight @ after == pytest.approx(weight @ before, abs=1e-6)


@pytest.mark.parametrize("recall", [0.3, 0.9, 1.0])
def test_the_lift_is_the_smallest_that_does(recall):
    scores, labels = drawn(np.array([0.0, -1.0, 0.5]), 200)

    def found(lift: float) -> float:
        hits = [
            np.argmax(row + np.array([0, lift, 0])) == 1
            for row, label in zip(scores, labels, strict=True)
            if label == 1
        ]
        return sum(hits) / len(hits)

    lift = lift_to_recall(scores, labels, 1, recall)
    assert found(lift) >= recall
    assert lift == 0 or found(lift - 0.11) < found(lift)
    least = next(step for step in np.linspace(0, 20, 4001) if found(step) >= recall)
    assert found(least) == found(lift)


def test_scores_that_have_no_offsets():
    with pytest.raises(DataError, match="at least two"):
        fit_offsets(np.zeros((3, 2)), np.zeros(3, np.int64))
    with pytest.raises(DataError, match="not finite"):
        fit_offsets(np.full((2, 2), np.inf), np.arange(2))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tiny.store(tmp_path_factory.mktemp("data") / "store", each=12).path
    out = tmp_path_factory.mktemp("runs") / "run"
    fit(tiny.recipe(path, optim={"epochs": 6}), out)
    return out


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A table of six people, each neutral and happy, and what cannot be used."""
    folder = tmp_path_factory.mktemp("photos")
    rows = ["file,expression,who"]
    for record in tiny.records(each=6, seed=3, splits=("test",)):
        for word, name in (("neutral", "Neutral"), ("smiling", "Happiness")):
            if record.expression == name:
                file = f"{word}{record.subject[-1]}.png"
                Image.fromarray(record.image).save(folder / file)
                rows.append(f"{file},{word},p{record.subject[-1]}")
    (folder / "broken.png").write_bytes(b"")
    rows += ["broken.png,neutral,p9", "neutral0.png,contempt,p9", "neutral0.png,,p9", "neutral0.png,odd,p9"]
    (folder / "index.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_the_verb(run, photos, tmp_path, capsys):
    out = tmp_path / "mine.json"
    words = ["--photos", str(photos / "index.csv"), "--columns", "image=file,subject=who", "--faces", "none"]
    assert main(["calibrate", str(run), *words, "--out", str(out), "--accuracy", "0.1"]) == 0
    told = capsys.readouterr()
    result = json.loads(out.read_text())
    assert (result["photos"], result["people"], result["fitted_on"]) == (12, 6, "photos")
    assert result["left_out"] == {
        "not readable": 1, "the model has no Contempt": 1, "no expression": 1, "row or file of no use": 1,
    }  # fmt: skip
    assert result["run"] == run.name
    assert "4 left out" in told.out
    assert f"--run {run} --calibration {out}" in told.out
    assert "offsets of other people" in told.out
    assert "broken.png: empty file; left out." in told.err
    plain = mien.load(run, faces="none")
    names = [photos / f"{word}{person}.png" for person in range(6) for word in ("neutral", "smiling")]
    p = np.array([list(face.probabilities.values()) for face in plain.predict(names).faces])
    labels = np.tile([0, 1], 6)
    moved = np.array(list(result["offsets"].values())) / result["temperature"]
    assert moved == pytest.approx(fit_offsets(np.log(p), labels), abs=1e-4)
    right = 0.0
    for k in range(12):
        others = np.arange(12) // 2 != k // 2
        own = fit_offsets(np.log(p[others]), labels[others])
        right += (np.log(p[k]) + own).argmax() == labels[k]
    assert result["held_out"]["accuracy"] == pytest.approx(right / 12)
    mine = mien.load(run, faces="none", calibration=str(out))
    q = np.array([list(face.probabilities.values()) for face in mine.predict(names).faces])
    assert q == pytest.approx(scaled(np.log(p) + moved, 1.0), abs=1e-5)
    assert result["fitted"]["accuracy"] == pytest.approx((q.argmax(1) == labels).mean())
    assert mine.calibration.threshold == result["threshold"]


def test_nobody_takes_part_in_the_offsets_that_judge_him():
    """Where all others are told apart by far, the loss is flat: the one wrong photo must not have moved its own border."""
    scores = np.tile([[20.0, -20.0], [-20.0, 20.0]], (20, 1))
    scores[1] = [3.0, 0.0]
    judged = Judged(scores, np.tile([0, 1], 20), np.arange(40) // 2, 0, {})
    offsets = leave_people_out(judged)
    for person in (0, 7):
        others = judged.people != person
        own = fit_offsets(scores[others], judged.labels[others])
        assert offsets[2 * person : 2 * person + 2] == pytest.approx(np.tile(own, (2, 1)))
    assert (scores + offsets)[1].argmax() == 0


def test_many_people_are_left_out_in_groups(monkeypatch):
    monkeypatch.setattr(photos_module, "MOST_FITS", 5)
    scores, labels = drawn(np.array([0.0, 1.0]), 60)
    people = np.arange(60) // 3
    offsets = leave_people_out(Judged(scores, labels, people, 0, {}))
    for row in range(60):
        others = people % 5 != people[row] % 5
        assert offsets[row] == pytest.approx(fit_offsets(scores[others], labels[others]))


def test_a_recall_that_is_asked_for(run, photos, tmp_path):
    words = {"photos": photos / "index.csv", "columns": "image=file,subject=who", "faces": "none", "accuracy": 0.1}
    plain = calibrate(run, **words, out=tmp_path / "plain.json")
    lifted = calibrate(run, **words, recall="Happiness=1", out=tmp_path / "lifted.json")
    assert lifted["recall_asked_for"] == {"Happiness": 1.0}
    assert lifted["fitted"]["recall"]["Happiness"] == 1
    assert lifted["offsets"]["Happiness"] >= plain["offsets"]["Happiness"]
    assert lifted["offsets"]["Neutral"] == plain["offsets"]["Neutral"]
    for wrong, reason in (
        ("Hapiness=0.9", "Did you mean 'Happiness'"),
        ("Happiness", "EXPRESSION=SHARE"),
        ("Fear=2", "up to 1"),
    ):
        with pytest.raises(UsageError, match=reason):
            calibrate(run, **words, recall=wrong, out=tmp_path / "x.json")
    with pytest.raises(DataError, match="no photo that can be used shows Fear"):
        calibrate(run, **words, recall="Fear=0.5", out=tmp_path / "x.json")


def test_an_accuracy_out_of_reach_keeps_the_offsets(run, photos, tmp_path, capsys):
    table = photos / "wrong.csv"  # half of the labels are wrong
    names = [f"{word}{person}.png" for person in range(4) for word in ("neutral", "smiling")]
    rows = [f"{name},{('happy', 'sad')[k % 2 ^ k // 4]}" for k, name in enumerate(names)]
    table.write_text("image,expression\n" + "\n".join(rows))
    out = tmp_path / "own.json"
    result = calibrate(run, photos=table, faces="none", accuracy=1.0, out=out)
    assert (result["threshold"], result["photos_without_subject"], result["held_out"]["kept"]) == (1.0, 8, 0.0)
    told = capsys.readouterr()
    assert "do not say who it is" in told.err
    assert "every face will be marked as unsure" in told.err
    assert "8 photos;" in told.out
    assert mien.load(run, faces="none", calibration=str(out)).predict(photos / "neutral0.png").faces[0].abstained


def test_photos_with_several_faces_are_left_out(run, photos, monkeypatch):
    faces = [Face(points_box(tiny.points()), tiny.points(), 1.0, "test")]
    model = mien.load(run, faces=lambda image: faces * (2 if image[0, 0, 0] == 7 else 1))
    images = [np.full((40, 40, 3), 7, np.uint8), np.full((40, 40, 3), 9, np.uint8)]
    records = [Record(f"r{k}", image, "train", "p", "Neutral") for k, image in enumerate(images)]
    judged = judge(model, iter(records), 8)
    assert (len(judged.labels), judged.left_out) == (1, {"several faces": 1})


def test_what_is_explained_is_what_the_offsets_make_of_it(run, photos):
    classes = mien.load(run, faces="none").classes
    offsets = {name: 50.0 if name == "Fear" else 0.0 for name in classes}
    (run / "afraid.json").write_text(json.dumps({"temperature": 2.0, "threshold": 0.5, "offsets": offsets}))
    face = mien.load(run, faces="none", calibration="afraid").predict(photos / "neutral0.png", explain="auto").faces[0]
    assert (face.expression, face.explanation.expression) == ("Fear", "Fear")
    assert face.confidence > 0.99
    (entry,) = explain(photos / "neutral0.png", run=run, faces="none", calibration="afraid")["faces"]
    assert entry["expression"] == "Fear"
    assert entry["probabilities"] == pytest.approx(face.probabilities, abs=1e-4)


def test_offsets_keep_the_closed_forms(run, photos):
    model = mien.load(run, faces="none")
    images = torch.rand(2, 3, tiny.SIZE, tiny.SIZE)
    model.net.offsets = torch.arange(7.0)
    output = model.net(images)
    assert gap_weight(model.net, output) is not None
    model.net.offsets = None
    assert torch.equal(model.net(images).logits + torch.arange(7.0), output.logits)


def test_both_verbs_take_the_name(run, photos, capsys):
    (run / "glad.json").write_text(
        json.dumps(
            {"temperature": 1, "threshold": 0, "offsets": {name: 99 * (name == "Happiness") for name in tiny.NAMES}}
        )
    )
    photo = str(photos / "neutral0.png")
    assert main(["predict", photo, "--run", str(run), "--faces", "none", "--calibration", "glad"]) == 0
    assert "Happiness 100%" in capsys.readouterr().out
    assert main(["predict", photo, "--run", str(run), "--faces", "none", "--calibration", "gald"]) == 1
    assert "no calibration 'gald'" in capsys.readouterr().err


def test_an_exported_graph_has_the_offsets(run, photos, tmp_path):
    offsets = {name: float(k) for k, name in enumerate(mien.load(run, faces="none").classes)}
    (run / "rising.json").write_text(json.dumps({"temperature": 1.5, "threshold": 0.5, "offsets": offsets}))
    pixels, found = drawn_faces(tiny.SIZE)[:3], []
    for name in (None, "rising"):
        file = export(run, to="torchscript", out=tmp_path / f"{name}.pt", calibration=name)
        found.append({key: value.detach().numpy() for key, value in torch.jit.load(file)(pixels).items()})
    assert found[1]["logits"] - found[0]["logits"] == pytest.approx(np.tile(np.arange(7.0), (3, 1)), abs=1e-4)
    assert found[1]["probabilities"] == pytest.approx(scaled(found[1]["logits"], 1.5), abs=1e-5)


def test_files_that_are_no_calibration(run, tmp_path):
    classes = ("Neutral", "Happiness")
    good = {"temperature": 1.0, "threshold": 0.0, "offsets": {"Happiness": 2.0, "Neutral": -1.0}}
    file = tmp_path / "own.json"
    file.write_text(json.dumps(good))
    assert read_calibration(tmp_path, classes, "own") == Calibration(1.0, 0.0, (-1.0, 2.0))
    assert read_calibration(run, classes, str(file)) == Calibration(1.0, 0.0, (-1.0, 2.0))
    for change, reason in (
        ({"offsets": {"Happiness": 2.0}}, "offsets of Happiness, the run has Neutral"),
        ({"offsets": {"Happiness": 2.0, "Neutral": float("nan")}}, "out of range"),
        ({"offsets": [1, 2]}, "damaged"),
        ({"temperature": 0}, "out of range"),
        ({"temperature": 1e-300}, "out of range"),
        ({"temperature": 10**400}, "damaged"),
        ({"offsets": {"Happiness": 1e300, "Neutral": 0}}, "out of range"),
        ({"threshold": 2}, "out of range"),
    ):
        file.write_text(json.dumps(good | change))
        with pytest.raises(DataError, match=reason):
            read_calibration(tmp_path, classes, "own")
    other = good | {"run": "another", "checkpoint_sha256": "0" * 64}
    (run / "other.json").write_text(json.dumps(other))
    with pytest.raises(DataError, match="belongs to other weights, those of run 'another'"):
        read_calibration(run, classes, "other")
    with pytest.raises(DataError, match="no calibration 'their'"):
        read_calibration(tmp_path, classes, "their")


def test_photos_that_do_not_do(run, photos, tmp_path):
    with pytest.raises(UsageError, match="--out"):
        calibrate(run, photos=photos)
    with pytest.raises(UsageError, match="name a run folder"):
        calibrate()
    with pytest.raises(UsageError, match="are for --photos"):
        calibrate(run, columns="image=file")
    with pytest.raises(DataError, match="does not exist"):
        calibrate(run, photos=tmp_path / "none", out=tmp_path / "x.json")
    with pytest.raises(UsageError, match=r"must be a file that ends in \.json"):
        calibrate(run, photos=photos / "index.csv", out=photos / "index.csv")
    with pytest.raises(UsageError, match="--columns is for a table"):
        calibrate(run, photos=photos, columns="image=file", out=tmp_path / "x.json")
    table = photos / "few.csv"
    for rows, reason in (
        ("neutral0.png,neutral\nneutral1.png,neutral", "all photos that can be used show Neutral"),
        ("neutral0.png,neutral\nneutral1.png,neutral\nsmiling0.png,happy", "only one person shows Happiness"),
        ("broken.png,neutral", r"no photo could be used \(1 not readable\)"),
        ("neutral0.png,\nneutral1.png,", "--columns expression=NAME"),
        ("", "names no photo"),
    ):
        table.write_text(f"image,expression\n{rows}\n")
        with pytest.raises(DataError, match=reason):
            calibrate(run, photos=table, faces="none", out=tmp_path / "x.json")
    assert not (tmp_path / "x.json").exists()


def test_a_folder_for_each_expression(run, photos, tmp_path):
    for word in ("neutral", "happy"):
        (tmp_path / "sorted" / word).mkdir(parents=True)
    for person in range(4):
        for word, source in (("neutral", "neutral"), ("happy", "smiling")):
            picture = Image.open(photos / f"{source}{person}.png")
            picture.save(tmp_path / "sorted" / word / f"p{person}_a.png")
    out = tmp_path / "mine.json"
    result = calibrate(run, photos=tmp_path / "sorted", subject_pattern=r"(p\d)_", faces="none", accuracy=0.1, out=out)
    assert (result["photos"], result["people"]) == (8, 4)
    assert set(result["held_out"]["recall"]) == {"Neutral", "Happiness"}


def test_offsets_that_worsen_people_left_out_are_warned_of(run, photos, tmp_path, capsys, monkeypatch):
    better = {"accuracy": 0.8, "balanced_accuracy": 0.8, "ece": 0.1}
    worse = {"accuracy": 0.7, "balanced_accuracy": 0.8, "ece": 0.2}
    assert photos_module.worse_on_others(better, worse) == [
        "accuracy 0.800 to 0.700",
        "calibration error 0.100 to 0.200",
    ]
    assert photos_module.worse_on_others(worse, better) == []
    out = tmp_path / "mine.json"
    words = ["--photos", str(photos / "index.csv"), "--columns", "image=file,subject=who", "--faces", "none"]
    wrong = np.zeros((12, len(tiny.NAMES)))
    wrong[:, 3] = 50  # everybody shows Fear
    monkeypatch.setattr(photos_module, "leave_people_out", lambda judged, wanted=None: wrong)
    assert main(["calibrate", str(run), *words, "--out", str(out)]) == 0
    assert "WARNING: on people left out these offsets are worse than none" in capsys.readouterr().err
    assert json.loads(out.read_text())["worse"]
    assert "worse than none on people left out" in read_calibration(run, tiny.NAMES, str(out)).fitted_on
    with pytest.raises(DataError, match=r"no calibration 'x'.*"):
        read_calibration(run, tiny.NAMES, "x")
