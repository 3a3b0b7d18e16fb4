"""Polarity from valence, and the fold files published with the guided spatial transformers."""

import csv

import cv2
import fake_datasets as fake
import numpy as np
import pytest

from mien.data.fold_files import published_name, read_fold_file
from mien.data.folds import grouped_folds, k_folds, published_folds
from mien.data.labels import labels_of, published_order
from mien.data.store import Skipped, write_store
from mien.datasets import affectnet, fer2013
from mien.datasets.affectnet import polarity_of
from mien.datasets.folds import folds
from mien.datasets.prepare import prepare
from mien.errors import DataError, UsageError
from mien.schema import Record


def polarity_lists(root, valences, suffixes=()):
    """AffectNet's `training.csv` with the given valences; pictures with odd suffixes."""
    with open(root / "training.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(affectnet.COLUMNS)
        for n, (valence, code) in enumerate(valences):
            name = f"{n % 3}/{n}{dict(suffixes).get(n, '.jpg')}"
            path = root / "Manually_Annotated_Images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), fake.face(n, 64))
            writer.writerow([name, 0, 0, 64, 64, "", code, valence, 0.1])
    return root


def records_of(items):
    return [item for item in items if isinstance(item, Record)]


def reasons_of(items):
    return {item.id: item.reason for item in items if isinstance(item, Skipped)}


@pytest.mark.parametrize(
    ("valence", "expected"),
    [(-1, "Negative"), (-0.2000001, "Negative"), (-0.2, "Neutral"), (0, "Neutral"), (0.2, "Neutral"),
     (0.2000001, "Positive"), (1, "Positive"), (-2, None), (1.001, None), (float("nan"), None)],
)  # fmt: skip
def test_polarity_of_a_valence(valence, expected):
    assert polarity_of(valence) == expected


def test_another_limit():
    assert [polarity_of(v, 0.5) for v in (-0.6, -0.5, 0.4, 0.51)] == ["Negative", "Neutral", "Neutral", "Positive"]
    assert polarity_of(0.0, 0.0) == "Neutral"


def test_affectnet_by_valence(tmp_path):
    root = polarity_lists(tmp_path, [(0.5, 4), (-0.2000001, 1), (0.1, 8), (-2, 9), (-2, 0)])
    items = list(affectnet.records(root, polarity=0.2))
    kept = records_of(items)
    assert [r.attributes["polarity"] for r in kept] == ["Positive", "Negative", "Neutral"]
    assert [r.expression for r in kept] == ["Fear", "Happiness", None]  # None has no expression, but a valence
    assert reasons_of(items) == {"0/3.jpg": "labelled Uncertain (code 9)", "1/4.jpg": "valence -2 has no polarity"}
    assert len(records_of(affectnet.records(root))) == 3  # without polarity: code 8 goes, unknown valence stays
    for limit in (-0.1, 1.0):
        with pytest.raises(UsageError, match=r"0\.2 is the published limit"):
            affectnet.records(root, polarity=limit)


def test_affectnet_arrays_in_single_precision(tmp_path):
    root = fake.affectnet(tmp_path / "AffectNet")
    np.save(root / "train_set" / "annotations" / "0_val.npy", np.float32(-0.2))
    by_id = {r.id: r for r in records_of(affectnet.records(root, polarity=0.2))}
    assert by_id["train_set/images/0.jpg"].attributes["polarity"] == "Neutral"
    assert by_id["train_set/images/8.jpg"].attributes["polarity"] == "Negative"  # code 8
    assert "train_set/images/1.jpg" not in by_id


def test_odd_formats_and_the_excluded_picture(tmp_path):
    root = polarity_lists(
        tmp_path, [(0.5, 1), (-0.5, 2), (0.0, 0), (0.5, 1)], {0: ".bmp", 1: ".TIF", 2: ".tiff"}.items()
    )
    picture = root / "Manually_Annotated_Images" / "1" / "1.TIF"
    cv2.imwrite(str(picture.with_suffix(".jpg")), cv2.imread(str(picture)))
    picture.unlink()  # as the published preparation leaves it
    (root / "training.csv").write_text(
        (root / "training.csv").read_text() + f"{affectnet.LEFT_OUT},0,0,9,9,,1,0.5,0.5\n"
    )
    store = prepare("affectnet", root=root, out=tmp_path / "s", size=32, workers=0, polarity=0.2)
    assert store.ids.tolist() == ["0/0.bmp", "1/1.TIF", "2/2.tiff", "0/3.jpg"]
    assert {s.id: s.reason for s in store.skipped} == {affectnet.LEFT_OUT: "left out of the published polarity set"}
    assert store.info.notes["polarity"] == "0.2"


def test_own_polarity_wins_over_the_expression(tmp_path):
    root = polarity_lists(tmp_path, [(0.5, 3), (-0.5, 1), (0.0, 8)])
    store = prepare("affectnet", root=root, out=tmp_path / "s", size=32, workers=0, polarity=0.2)
    assert labels_of(store, "polarity-3").tolist() == [1, 2, 0]
    assert labels_of(store, "basic-7").tolist() == [2, 1, -1]
    image = np.zeros((8, 8), np.uint8)
    odd = write_store([Record("a", image, attributes={"polarity": "good"})], tmp_path / "t", dataset="toy", size=8)
    with pytest.raises(DataError, match=r"'a' .* polarity 'good': none of Neutral, Positive, Negative"):
        labels_of(odd, "polarity-3")


def test_published_order_is_positive_neutral_negative():
    labels = np.array([0, 2, 1, 0, 1, -1, 2])
    assert published_order(labels, [0, 1, 2, 3, 4, 6]).tolist() == [2, 4, 0, 3, 1, 6]


def test_affectnet_folds_are_dealt_in_the_published_order(tmp_path):
    """A twin of the published steps: select each class, put them under one another, split."""
    from sklearn.model_selection import StratifiedKFold

    rng = np.random.default_rng(3)
    valences = [
        (round(float(v), 3), int(c)) for v, c in zip(rng.uniform(-1, 1, 40), rng.integers(0, 9, 40), strict=True)
    ]
    root = polarity_lists(tmp_path, valences, {5: ".bmp"}.items())
    store = prepare("affectnet", root=root, out=tmp_path / "s", size=16, channels=1, workers=0, polarity=0.2)
    table = [(row, 1) for row, (v, _) in enumerate(valences) if v > 0.2]
    table += [(row, 0) for row, (v, _) in enumerate(valences) if -0.2 <= v <= 0.2]
    table += [(row, 2) for row, (v, _) in enumerate(valences) if v < -0.2]
    deal = StratifiedKFold(n_splits=5, shuffle=True, random_state=2020)
    parts = deal.split(np.zeros(40), np.array([label for _, label in table]))
    expected = [sorted(table[k][0] for k in test) for _, test in parts]
    assert [part.tolist() for part in published_folds(store)] == expected

    out = folds(tmp_path / "s", out=tmp_path / "polarity_complete_5folds.csv")
    lines = out.read_text().splitlines()
    assert lines[0] == "path;emotion;fold"
    assert [line.split(";")[1] for line in lines[1:]] == [str(label) for _, label in table]
    assert "2/5.jpg;" in out.read_text()  # the .bmp, as the published file calls it

    again = prepare("affectnet", root=root, out=tmp_path / "t", size=16, channels=1, workers=0, folds=out)
    assert [part.tolist() for part in published_folds(again)] == expected
    assert [part.tolist() for part in published_folds(again, seed=7)] == expected  # listed folds need no seed
    with pytest.raises(UsageError, match="with 5 folds, not 10"):
        published_folds(again, k=10)
    with pytest.raises(DataError, match="another limit"):
        prepare("affectnet", root=root, out=tmp_path / "u", size=16, workers=0, folds=out, polarity=0.6)


def fer_folds(folder, rows):
    path = folder / "labels.csv"
    path.write_text("emotion;path;in_set;fold\n" + "".join(f"{e};{n}.png;Training;{f}\n" for n, e, f in rows))
    return path


def test_fer2013_with_the_fold_file(tmp_path, capsys):
    table = fake.fer2013_csv(tmp_path)  # emotion = row % 7; row 5 has too few pixels
    polarity = {0: 2, 1: 2, 2: 2, 3: 1, 4: 2, 6: 0}
    listed = [(n, polarity[n % 7], n % 5) for n in range(21) if n % 7 != 5]
    file = fer_folds(tmp_path, [*listed, (99, 1, 0)])
    store = prepare("fer2013", root=table, out=tmp_path / "s", folds=file, workers=0)
    assert "row-00019" not in store.ids  # Surprise is not in the file
    reasons = {s.id: s.reason for s in store.skipped}
    assert reasons["99"] == "in the fold file, but not in the dataset"
    assert reasons["row-00012"] == "not in the fold file (it lists e.g. '0')"
    assert "100 pixels" in reasons["row-00005"]
    names = [[int(store.ids[row][4:]) for row in part] for part in published_folds(store)]
    assert names == [[n for n in range(21) if n % 5 == fold and n % 7 != 5] for fold in range(5)]
    assert [s.test.tolist() for s in k_folds(store, 5, 2020, False, "polarity-3")] == [
        part.tolist() for part in published_folds(store)
    ]
    again = folds(tmp_path / "s", out=tmp_path / "again.csv")
    rows = [line.split(";") for line in again.read_text().splitlines()]
    assert rows[0] == ["emotion", "path", "in_set", "fold"]
    assert [(int(p[:-4]), int(e), int(f)) for e, p, _, f in rows[1:]] == listed
    assert {row[2] for row in rows[1:]} == {"Training", "PublicTest", "PrivateTest"}
    assert "18 faces in 5 folds" in capsys.readouterr().out


def test_fold_files_that_do_not_fit(tmp_path, capsys):
    table = fake.fer2013_csv(tmp_path)
    with pytest.raises(DataError, match=r"'0' is Positive, but Negative in the dataset"):
        list(fer2013.records(table, folds=fer_folds(tmp_path, [(0, 1, 0)])))
    with pytest.raises(UsageError, match="folds need the official"):
        list(fer2013.records(fake.class_folders(tmp_path / "c"), folds=fer_folds(tmp_path, [(0, 2, 0)])))
    path = tmp_path / "other.csv"
    for text, message in (
        ("path,emotion,fold\n", "no column 'path'"),
        ("path;emotion;fold\n", "lists no picture"),
        ("path;emotion;fold\na.jpg;7;0\n", "line 2: emotion '7'"),
        ("path;emotion;fold\na.jpg;1;-1\n", "fold '-1'"),
        ("path;emotion;fold\na.jpg;1\n", "fold 'None'"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            read_fold_file(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_fold_file(tmp_path / "none.csv")
    path.write_text("path;emotion;fold\na.jpg;1;0\na.jpg;1;3\n")
    assert read_fold_file(path) == {"a": ("Positive", 0)}
    assert "1 pictures are listed twice" in capsys.readouterr().err


def test_grouped_folds_keep_copies_together(tmp_path):
    names = ("Happiness", "Sadness", "Neutral")
    rows = [Record(f"r{k}", fake.face(k % 30), expression=names[k % 3]) for k in range(60)]
    store = write_store(rows, tmp_path / "s", dataset="toy", size=48, channels=1)
    tests = grouped_folds(store, seed=1)
    assert sorted(np.concatenate(tests).tolist()) == list(range(60))
    for part in tests:
        assert set(part[part >= 30] - 30) == set(part[part < 30])
    assert any(set(part[part >= 30] - 30) != set(part[part < 30]) for part in published_folds(store))
    assert [p.tolist() for p in tests] == [p.test.tolist() for p in k_folds(store, 5, 1, True, "polarity-3")]


def test_published_names():
    assert [published_name(n) for n in ("row-00017", "103/ab.jpg", "a/b.c.png", "7")] == ["17", "103/ab", "a/b.c", "7"]


def test_tables_with_semicolons(tmp_path):
    (tmp_path / "0.png").write_bytes(cv2.imencode(".png", fake.face(0))[1].tobytes())
    (tmp_path / "list.csv").write_text("emotion;path\n3;0.png\n")
    store = prepare(
        "table", root=tmp_path / "list.csv", out=tmp_path / "s", size=16, workers=0,
        columns="image=path,expression=emotion", labels="3=Happiness",
    )  # fmt: skip
    assert store.expression.tolist() == ["Happiness"]
