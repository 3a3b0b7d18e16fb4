"""RAF-DB and AffectNet: readers, published folds, and landmark files over small trees in the true layouts."""

import shutil
from pathlib import Path

import cv2
import fake_datasets as fake
import numpy as np
import pytest
import tiny

from mien.data.store import Skipped, open_store
from mien.datasets import affectnet, rafdb
from mien.datasets.prepare import prepare
from mien.datasets.published_folds import read_folds
from mien.errors import DataError, UsageError
from mien.faces.landmark_files import picture_keys
from mien.faces.pictures import outside, rescale
from mien.schema import Record

CODES = {1: "Surprise", 2: "Fear", 3: "Disgust", 4: "Happiness", 5: "Sadness", 6: "Anger", 7: "Neutral"}


def split_up(items):
    items = list(items)
    return [x for x in items if isinstance(x, Record)], {x.id: x.reason for x in items if isinstance(x, Skipped)}


def prepared(dataset, root, out, **options):
    return prepare(dataset, root=root, out=out, **{"size": 40, "workers": 0, **options})


def reasons(store):
    return {entry.id: entry.reason for entry in store.skipped}


# --- RAF-DB ---


@pytest.mark.parametrize("where", ["", "basic", ".."])
def test_rafdb_labels_and_splits_by_name(tmp_path, where):
    root = fake.rafdb(tmp_path) / where
    records, skipped = split_up(rafdb.records(root))
    expected = {name: CODES[code] for name, code in fake.RAFDB_CODES.items() if code in CODES}
    assert {record.id: record.expression for record in records} == expected
    assert skipped == {"train_00005.jpg": "label '9' is no code from 1 to 7"}
    assert all(record.split == record.id.split("_")[0] for record in records)
    assert all(record.image.is_file() and record.image.parent.name == "aligned" for record in records)
    assert records[0].attributes == {"gender": "female", "race": "Asian", "age": "40-69"}


def test_rafdb_original_photos_come_with_their_boxes(tmp_path):
    root = fake.rafdb(tmp_path)
    records, skipped = split_up(rafdb.records(root, pictures="original"))
    assert "no readable box file" in skipped["train_00003.jpg"]
    for record in records:
        np.testing.assert_allclose(record.box, fake.rafdb_face(list(fake.RAFDB_CODES).index(record.id))[0])


def test_rafdb_crop_is_the_box_and_fifteen_percent_a_side(tmp_path):
    store = prepared("rafdb", fake.rafdb(tmp_path), tmp_path / "s", pictures="original", size=60, channels=1)
    assert set(reasons(store)) == {"train_00003.jpg", "train_00004.jpg", "train_00005.jpg"}
    assert "damaged" in reasons(store)["train_00004.jpg"]
    photo = cv2.imread(str(tmp_path / "RAF-DB/basic/Image/original/train_00001.jpg"), cv2.IMREAD_GRAYSCALE)
    x0, y0, x1, y1 = fake.rafdb_face(0)[0]
    side = round(1.3 * max(x1 - x0, y1 - y0))
    left, top = round((x0 + x1 - side) / 2), round((y0 + y1 - side) / 2)
    assert (left, top, side) == (50, 4, 59)
    np.testing.assert_array_equal(
        store.image(0)[..., 0], cv2.resize(photo[4:63, 50:109], (60, 60), interpolation=cv2.INTER_CUBIC)
    )
    assert store.info.notes["pictures"] == "original"


@pytest.mark.parametrize("reading", ["y0 x0 y1 x1", "x0 y0 width height"])
def test_rafdb_boxes_in_another_order_are_noticed(tmp_path, reading):
    root = fake.rafdb(tmp_path)
    for path in (root / "basic/Annotation/boundingbox").iterdir():
        x0, y0, x1, y1 = map(float, path.read_text().split())
        numbers = (y0, x0, y1, x1) if reading.startswith("y0") else (x0, y0, x1 - x0, y1 - y0)
        path.write_text(" ".join(map(str, numbers)))
    with pytest.raises(DataError, match=f"should read x0 y0 x1 y1, but of 6 these fit.*{reading}: 6"):
        list(rafdb.records(root, pictures="original"))


def test_rafdb_box_order_of_square_photos_is_told_by_the_annotated_points():
    box, points = fake.rafdb_face(0)
    fits = [rafdb._fits(read(box), (120, 120), points[:5]) for read in rafdb.BOX_READINGS.values()]
    assert fits == [True, False, False]
    assert rafdb._fits(box[[1, 0, 3, 2]], (120, 120), np.empty((0, 2)))  # without points both orders would fit


def test_rafdb_what_is_missing_is_named(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        rafdb.records(tmp_path / "no")
    with pytest.raises(DataError, match="is not RAF-DB"):
        rafdb.records(tmp_path)
    root = fake.rafdb(tmp_path)
    with pytest.raises(UsageError, match="Did you mean 'original'"):
        rafdb.records(root, pictures="orginal")
    shutil.rmtree(root / "basic/Annotation/boundingbox")
    with pytest.raises(DataError, match=r"unzip boundingbox\.zip"):
        list(rafdb.records(root, pictures="original"))
    shutil.rmtree(root / "basic/Image/aligned")
    with pytest.raises(DataError, match=r"unzip aligned\.zip"):
        list(rafdb.records(root))
    nested = root / "basic/Image/original/original"
    nested.mkdir()
    assert next(rafdb.records(root, pictures="our_aligned")).image.is_file()


def test_a_box_off_the_picture_is_skipped(tmp_path):
    assert not outside(np.array([-10, 0, 30, 20]), 20, 30)
    assert outside(np.array([-40, 0, 30, 20]), 20, 30)
    assert not outside(np.full(4, np.nan), 20, 30)
    root = fake.rafdb(tmp_path)
    (root / "basic/Annotation/boundingbox/train_00001_boundingbox.txt").write_text("100 10 170 60")
    store = prepared("rafdb", root, tmp_path / "s", pictures="original")
    assert reasons(store)["train_00001.jpg"] == "the face box lies mostly outside the picture"


# --- AffectNet ---


def test_affectnet_arrays(tmp_path):
    fake.affectnet(tmp_path / "AffectNet")
    records, skipped = split_up(affectnet.records(tmp_path))  # the parent of the folder
    by_id = {record.id: record for record in records}
    assert {name: record.expression for name, record in by_id.items()} == {
        "train_set/images/0.jpg": "Neutral", "train_set/images/1.jpg": "Happiness", "train_set/images/2.jpg": "Sadness",
        "train_set/images/6.jpg": "Anger", "train_set/images/7.jpg": "Contempt", "train_set/images/12.jpg": "Neutral",
        "val_set/images/0.jpg": "Neutral", "val_set/images/1.jpg": "Happiness", "val_set/images/2.jpg": "Sadness",
    }  # fmt: skip
    assert {record.split for record in records} == {"train", "test"}
    assert by_id["val_set/images/0.jpg"].split == "test"
    assert skipped == {
        "train_set/images/3.jpg": "3_exp.npy is no array of plain numbers (pickled arrays are not read)",
        "train_set/images/4.jpg": "4_lnd.npy holds 134 numbers, expected 136 (68 points)",
        "train_set/images/5.jpg": "no annotation 5_exp.npy",
        "train_set/images/8.jpg": "labelled None (code 8)",
        "train_set/images/9.jpg": "labelled Uncertain (code 9)",
        "train_set/images/10.jpg": "labelled No-Face (code 10)",
        "train_set/images/11.jpg": "expression code 11 is none of 0 to 10",
    }
    assert by_id["train_set/images/0.jpg"].attributes == {"valence": -0.25, "arousal": 0.5}
    assert by_id["train_set/images/1.jpg"].attributes == {"arousal": 0.5}
    np.testing.assert_allclose(by_id["train_set/images/0.jpg"].landmarks, tiny.points(64))
    outer = by_id["train_set/images/1.jpg"].landmarks
    np.testing.assert_allclose(outer, tiny.points(64) - 39, atol=1e-5)  # neither clipped nor wrapped
    assert by_id["train_set/images/2.jpg"].landmarks is None
    ids = [record.id for record in records]
    assert ids.index("train_set/images/7.jpg") < ids.index("train_set/images/12.jpg")  # 9 before 10


def test_affectnet_prepared(tmp_path):
    store = prepared("affectnet", fake.affectnet(tmp_path / "a"), tmp_path / "s", faces="given", align=True)
    assert reasons(store)["train_set/images/12.jpg"] == "picture file does not exist"
    assert "not a picture" in reasons(store)["train_set/images/6.jpg"]
    assert [row["crop"] for row in store.attributes][:3] == ["aligned", "aligned", "centre"]
    assert store.attributes[0]["valence"] == -0.25


def test_affectnet_lists(tmp_path):
    root = fake.affectnet_lists(tmp_path)
    records, skipped = split_up(affectnet.records(root))
    assert [(r.id, r.split, r.expression) for r in records] == [
        (f"{k}/{n}.jpg", split, name)
        for k, split in enumerate(("train", "test"))
        for n, name in enumerate(("Contempt", "Anger"))
    ]
    assert skipped["0/2.jpg"] == "facial_landmarks holds 134 numbers, expected 136 (68 points)"
    assert skipped["1/3.jpg"] == "labelled No-Face (code 10)"
    assert records[0].box.tolist() == [20, 30, 60, 74]
    np.testing.assert_allclose(records[0].landmarks, np.add(tiny.points(40), (20, 30)), atol=1e-5)
    assert records[1].attributes == {"valence": 0.1, "arousal": -0.5}
    assert records[0].image.is_file()
    store = prepared("affectnet", root, tmp_path / "s", faces="given")
    np.testing.assert_allclose(np.nanmean(store.landmarks[0], 0), [19, 21], atol=5)  # cut to the box


def test_affectnet_lists_that_are_none(tmp_path):
    with pytest.raises(DataError, match="is not AffectNet"):
        affectnet.records(tmp_path)
    (tmp_path / "training.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="2 columns and no header"):
        list(affectnet.records(tmp_path))
    (tmp_path / "training.csv").write_text(
        f"{','.join(affectnet.COLUMNS)}\na.jpg,x,1,1,1,,0,0,0\nb.jpg,1,1,1,1,1;q,0,0,0\n"
    )
    _, skipped = split_up(affectnet.records(tmp_path))
    assert skipped == {"a.jpg": "face_x 'x' is no number", "b.jpg": "facial_landmarks that are no numbers"}
    (tmp_path / "b" / "train_set" / "images").mkdir(parents=True)
    with pytest.raises(DataError, match="annotations' does not exist"):
        list(affectnet.records(tmp_path / "b"))


# --- published folds ---

RAFDB_FOLDS = {
    "train": {f"basic/Image/our_aligned/train_{n:05d}.jpg": CODES[n] for n in (1, 2, 3)},
    "test": {f"basic/Image/our_aligned/test_{n:04d}.jpg": CODES[code] for n, code in ((1, 7), (2, 5), (3, 1))},
}


def test_folds_give_splits_labels_and_landmarks(tmp_path, capsys):
    root = fake.rafdb(tmp_path)
    folds = fake.folds(tmp_path / "folds", RAFDB_FOLDS, tiny.points(224) - 60)
    store = prepared("rafdb", root, tmp_path / "s", folds=folds, faces="given", size=224)
    told = capsys.readouterr()
    assert told.err.count("3 of 3 pictures of valid are test pictures too") == 1
    assert "published habit" in told.err
    assert store.info.notes["pictures"] == "our_aligned"  # what the folds name
    assert store.ids.tolist() == [
        "train_00001.jpg",
        "train_00002.jpg",
        "train_00003.jpg",
        "test_0001.jpg",
        "test_0002.jpg",
    ]
    assert store.split.tolist() == ["train"] * 3 + ["test"] * 2
    np.testing.assert_allclose(store.landmarks[0], tiny.points(224) - 60, atol=1e-3)
    assert [row["face"] for row in store.attributes] == ["found", "found", "not found", "found", "found"]
    assert (
        reasons(store)["basic/Image/our_aligned/test_0003.jpg"] == "in the folds, but no usable picture of the dataset"
    )
    assert "not in the folds" in reasons(store)["train_00006.jpg"]


def test_folds_keep_a_validation_split_of_their_own(tmp_path, capsys):
    folds = fake.folds(tmp_path / "f", RAFDB_FOLDS)
    (folds / "val" / "image_ids.txt").write_text("own.jpg\nbasic/Image/our_aligned/train_00001.jpg\n")
    found = read_folds(folds)
    assert found["own.jpg"].split == found["basic/Image/our_aligned/train_00001.jpg"].split == "valid"
    assert found["own.jpg"].landmarks is None
    assert "1 of 3 pictures of train are valid pictures too" in capsys.readouterr().err


def test_folds_of_other_pictures_fit_nothing(tmp_path):
    folds = fake.folds(tmp_path / "f", RAFDB_FOLDS)
    with pytest.raises(DataError, match=r"no usable picture.*not in the folds.*our_aligned/train_00001"):
        prepared("rafdb", fake.rafdb(tmp_path), tmp_path / "s", folds=folds, pictures="aligned")


def test_folds_lie_over_affectnet(tmp_path):
    names = {f"train_set/images/{n}.jpg": name for n, name in enumerate(("Neutral", "Happiness", "Sadness"))}
    folds = fake.folds(tmp_path / "f", {"train": names, "test": {"val_set/images/1.jpg": "Happiness"}}, tiny.points(64))
    records, skipped = split_up(affectnet.records(fake.affectnet(tmp_path / "a"), folds=folds))
    assert [record.id for record in records] == [*names, "val_set/images/1.jpg"]
    np.testing.assert_allclose(records[1].landmarks, tiny.points(64), atol=1e-4)  # not AffectNet's own
    assert records[2].landmarks is None  # inf
    assert "not in the folds" in skipped["train_set/images/7.jpg"]


def test_manifests_give_splits_only(tmp_path):
    folder = tmp_path / "lists"
    folder.mkdir()
    (folder / "train.csv").write_text("image,label\ntrain_00001_aligned.jpg,0\ntrain_00002_aligned,1\n")
    (folder / "valid.csv").write_text("image,label\ntrain_00006_aligned.jpg,5\n")
    (folder / "test.csv").write_text("image,label\ntest_0001_aligned.jpg,6\n")
    records, _ = split_up(rafdb.records(fake.rafdb(tmp_path), folds=folder))
    found = {record.id: (record.split, record.expression) for record in records}
    assert found == {
        "train_00001.jpg": ("train", "Surprise"), "train_00002.jpg": ("train", "Fear"),
        "train_00006.jpg": ("valid", "Anger"), "test_0001.jpg": ("test", "Neutral"),
    }  # fmt: skip


def test_folds_that_cannot_be_used(tmp_path):
    def fails(message, folder=tmp_path / "f"):
        read_folds.cache_clear()
        with pytest.raises(DataError, match=message):
            read_folds(folder)

    fails("does not exist", tmp_path / "no")
    fails("no folds in", tmp_path)
    folds = fake.folds(tmp_path / "f", RAFDB_FOLDS)
    (folds / "train" / "class_labels.txt").write_text("x,12\n")
    fails("line 1: class '12' has no name")
    (folds / "class_id.yaml").unlink()
    fails("class '0' has no name")
    (folds / "class_id.yaml").write_text("Joyness: 1\n")
    fails("'Joyness: 1' is not 'expression: integer'")
    (folds / "class_id.yaml").write_text("- a\n")
    fails("holds no")
    (folds / "class_id.yaml").write_text("a: [\n")
    fails("no readable YAML")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "train.csv").write_text("a,b\n1,2\n")
    fails("no picture column", tmp_path / "m")


def test_folds_with_other_label_integers_are_refused(tmp_path):
    folds = fake.folds(tmp_path / "f", RAFDB_FOLDS)
    (folds / "class_id.yaml").write_text("".join(f"{name}: {6 - k}\n" for k, name in enumerate(fake.PAPER_CLASSES)))
    with pytest.raises(DataError, match=r"but Surprise in the dataset; class_id\.yaml does not belong"):
        list(rafdb.records(fake.rafdb(tmp_path), folds=folds))


# --- landmarks that the user brings ---


def landmark_folder(folder: Path, order: str = "row-col") -> Path:
    """One file of 68 lines a picture, integers in a 100 px frame, as of the PAL authors; one file has 67 lines."""
    folder.mkdir()
    for name in fake.RAFDB_CODES:
        points = np.round(tiny.points(100) - (0, 40)).astype(int)
        rows = [f"{y} {x}" if order == "row-col" else f"{x} {y}" for x, y in points]
        short = rows[1:] if name == "train_00006.jpg" else rows
        (folder / f"{Path(name).stem}_aligned.txt").write_text("\n".join(short) + "\n")
    return folder


@pytest.mark.parametrize("order", ["row-col", "x-y"])
def test_text_files_of_68_lines_in_their_own_frame(tmp_path, capsys, order):
    folder = landmark_folder(tmp_path / "points", order)
    options = {"landmarks": folder, "landmark_order": order, "landmark_frame": "100"}
    root = fake.rafdb(tmp_path)
    cv2.imwrite(str(root / "basic/Image/aligned/train_00001_aligned.jpg"), fake.face(1, 200))  # a larger copy
    store = prepared("rafdb", root, tmp_path / "s", faces="given", size=100, **options)
    expected = np.round(tiny.points(100) - (0, 40))
    assert expected.min() < 0  # above the picture, neither clipped nor wrapped
    np.testing.assert_allclose(store.landmarks[:2], [expected, expected], atol=1e-3)
    assert [row["face"] for row in store.attributes].count("not found") == 1
    assert "1 of 8 files count as 'no face', the first" in capsys.readouterr().err
    assert (store.info.notes["landmarks"], store.info.notes["landmark_frame"]) == ("points", "100")


def test_swapped_coordinates_are_noticed(tmp_path):
    folder = landmark_folder(tmp_path / "points", "x-y")
    with pytest.raises(DataError, match=r"7 of 7 faces are mirror images.*--landmark-order"):
        prepared("rafdb", fake.rafdb(tmp_path), tmp_path / "s", faces="given", landmarks=folder)


def test_landmarks_of_other_pictures_fit_nothing(tmp_path):
    """The points of the aligned crops must not be laid over the whole photos."""
    folder = landmark_folder(tmp_path / "points")
    with pytest.raises(DataError, match=r"lists no picture of this dataset, whose first is 'train_00001\.jpg'"):
        prepared("rafdb", fake.rafdb(tmp_path), tmp_path / "s", faces="given", landmarks=folder, pictures="original")


def test_one_entry_never_serves_two_pictures(tmp_path):
    (tmp_path / "points").mkdir()
    np.save(tmp_path / "points" / "0.npy", tiny.points(64))
    with pytest.raises(DataError, match=r"entry '0' fits the pictures 'train_set/images/0\.jpg' and 'val_set"):
        prepared(
            "affectnet", fake.affectnet(tmp_path / "a"), tmp_path / "s", faces="given", landmarks=tmp_path / "points"
        )
    folder = tmp_path / "own" / "train_set" / "images"
    folder.mkdir(parents=True)
    shutil.move(tmp_path / "points" / "0.npy", folder / "0.npy")
    store = prepared("affectnet", tmp_path / "a", tmp_path / "s", faces="given", landmarks=tmp_path / "own", size=64)
    np.testing.assert_allclose(store.landmarks[0], tiny.points(64), atol=1e-4)
    assert np.isnan(store.landmarks[1:]).all()


def test_picture_keys():
    assert list(picture_keys("a/b.jpg")) == ["a/b.jpg", "a/b"]
    assert list(picture_keys("7")) == ["7"]
    assert list(picture_keys("b.jpg", Path("r/a/b_aligned.jpg")))[2:] == [
        "r/a/b_aligned.jpg", "r/a/b_aligned", "a/b_aligned.jpg", "a/b_aligned", "b_aligned.jpg", "b_aligned",
    ]  # fmt: skip


def test_rescale_about_pixel_centres():
    """The corners of the frame, not the centres of its corner pixels, come to lie on the corners of the picture."""
    corners = np.array([[-0.5, -0.5], [99.5, 49.5], [np.nan, 3], [-20.5, 120]], dtype=np.float32)
    moved = rescale(corners, (100, 50), (224, 112))
    np.testing.assert_allclose(moved[:2], [[-0.5, -0.5], [223.5, 111.5]])
    assert np.isnan(moved[2, 0])
    assert moved[3, 0] < 0
    assert moved[3, 1] > 112


def test_landmark_options_are_checked(tmp_path):
    root = fake.rafdb(tmp_path)
    folder = landmark_folder(tmp_path / "points")
    for message, options in (
        ("--landmark-frame goes with --landmarks", {"landmark_frame": "100"}),
        ("--landmark-order goes with --landmarks", {"landmark_order": "x-y", "faces": "given"}),
        ("--landmarks goes with --faces given", {"landmarks": folder}),
        ("--landmark-frame 'big' is no size", {"landmarks": folder, "faces": "given", "landmark_frame": "big"}),
        ("--landmark-frame '0' is no size", {"landmarks": folder, "faces": "given", "landmark_frame": "0"}),
        ("--landmark-limit 0 must be above 0", {"landmark_limit": 0.0}),
        ("--votes does not apply to dataset 'rafdb'", {"votes": tmp_path}),
    ):
        with pytest.raises(UsageError, match=message):
            prepared("rafdb", root, tmp_path / "s", **options)
    with pytest.raises(UsageError, match="--pictures does not apply to dataset 'affectnet'"):
        prepared("affectnet", root, tmp_path / "s", pictures="aligned")


def test_landmark_limit_drops_and_takes_back(tmp_path, capsys):
    folder = landmark_folder(tmp_path / "points")
    rng = np.random.default_rng(0)
    odd = folder / "train_00002_aligned.txt"
    odd.write_text("\n".join(f"{y:.0f} {x:.0f}" for x, y in rng.uniform(0, 99, (68, 2))))
    root = fake.rafdb(tmp_path)
    options = {"faces": "given", "landmarks": folder}
    whole = prepared("rafdb", root, tmp_path / "s", **options)
    assert np.isfinite(whole.landmarks[1]).all()
    limited = prepared(
        "rafdb", root, tmp_path / "s", **options, landmark_limit=0.25
    )  # the finished store, no second pass
    assert "landmarks dropped: 1, beyond 0.25" in capsys.readouterr().out
    assert np.isnan(limited.landmarks[1]).all()
    assert not limited.visible[1].any()
    np.testing.assert_array_equal(limited.landmarks[0], whole.landmarks[0])
    assert limited.fingerprint != whole.fingerprint
    assert open_store(tmp_path / "s").fingerprint == limited.fingerprint
    again = prepared("rafdb", root, tmp_path / "t", **options, landmark_limit=0.25)
    assert again.fingerprint == limited.fingerprint
    back = prepared("rafdb", root, tmp_path / "s", **options)
    assert back.fingerprint == whole.fingerprint
    np.testing.assert_array_equal(back.landmarks[1], whole.landmarks[1])
