import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import fake_datasets as fake
import numpy as np
import pytest
from PIL import Image

from mien.data import store as store_module
from mien.data.store import open_store
from mien.datasets.check import check
from mien.datasets.prepare import prepare
from mien.errors import DataError, PictureError, UsageError
from mien.faces import detect
from mien.faces.align import move_points
from mien.faces.pictures import box_square, centre_square, cut_square, load_picture, whole_square
from mien.faces.provider import Face

POINTS = np.stack([np.linspace(20, 40, 68), np.linspace(15, 45, 68)], axis=1).astype(np.float32)


# --- pictures ---


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_load_picture_kinds(tmp_path):
    grey = fake.face(1)
    colour = np.stack([grey, 255 - grey, grey // 2], axis=2)
    np.testing.assert_array_equal(load_picture(encoded(Image.fromarray(colour))), colour)
    np.testing.assert_array_equal(load_picture(encoded(Image.fromarray(grey))), grey)
    np.testing.assert_array_equal(load_picture(grey), grey)
    alpha = np.dstack([colour, np.full_like(grey, 9)])
    np.testing.assert_array_equal(load_picture(encoded(Image.fromarray(alpha))), colour)
    deep = Image.fromarray(grey.astype(np.uint16) * 256 + 3)
    np.testing.assert_array_equal(load_picture(encoded(deep)), grey)
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees
    Image.fromarray(colour[:, :30]).save(path, exif=exif)
    assert load_picture(path).shape == (30, 48, 3)


def test_pictures_that_cannot_be_loaded(tmp_path):
    whole = encoded(Image.fromarray(fake.face(1)), "JPEG")
    bad = {
        "does not exist": tmp_path / "gone.png",
        "not a picture": b"hello",
        "damaged": whole[: len(whole) // 2],
        "no picture": np.zeros((4, 4, 4), np.uint8),
        "type float64": np.zeros((4, 4)),
    }
    for words, image in bad.items():
        with pytest.raises(PictureError, match=words):
            load_picture(image)
    with pytest.raises(PictureError, match="48 x 48 pixels are too many"):
        load_picture(whole, most_pixels=100)


def test_squares():
    assert whole_square(10, 20) == (0, -5, 20)
    assert centre_square(10, 20) == (5, 0, 10)
    assert box_square(np.array([10, 10, 30, 20]), 0.0) == (10, 5, 20)
    assert box_square(np.array([10, 10, 30, 20]), 0.15) == (7, 2, 26)


@pytest.mark.parametrize(
    ("square", "size"), [((4, 6, 32), 64), ((4, 6, 32), 16), ((-8, -2, 64), 64), ((-8, 5, 40), 20)]
)
def test_points_follow_the_pixels(square, size):
    """A bright blob is found again where the matrix says."""
    image = np.zeros((48, 48), np.uint8)
    spot = np.array([20.0, 25.0], np.float32)
    y, x = np.mgrid[:48, :48]
    image[:] = 250 * np.exp(-((x - spot[0]) ** 2 + (y - spot[1]) ** 2) / 18)
    cut, matrix = cut_square(image, square, size)
    assert cut.shape == (size, size)
    y, x = np.mgrid[:size, :size]
    centre = [(cut.astype(float) * x).sum() / cut.sum(), (cut.astype(float) * y).sum() / cut.sum()]
    np.testing.assert_allclose(move_points(spot[None], matrix)[0], centre, atol=0.06 * size / square[2] + 0.05)
    assert np.isnan(move_points(np.array([[np.nan, 1.0]], np.float32), matrix)[0, 0])


def test_cut_is_exact_without_scaling_and_black_outside():
    image = fake.face(2)
    cut, matrix = cut_square(image, (-4, 0, 48), 48)
    np.testing.assert_array_equal(cut[:, 4:], image[:, :44])
    assert not cut[:, :4].any()
    np.testing.assert_array_equal(move_points(np.zeros((1, 2), np.float32), matrix), [[4, 0]])
    assert not cut_square(image, (100, 100, 10), 5)[0].any()


# --- the verb ---


def test_prepare_fer2013(tmp_path, capsys):
    fake.fer2013_csv(tmp_path / "fer")
    fake.fer_plus_csv(tmp_path / "fer")
    store = prepare("fer2013", root=tmp_path / "fer", out=tmp_path / "s")
    assert (len(store), store.info.size, store.info.channels) == (19, 48, 1)
    np.testing.assert_array_equal(store.image(0)[:, :, 1], fake.face(0))
    assert store.info.notes["splits"] == "Training = train, PublicTest = valid, PrivateTest = test"
    text = capsys.readouterr().out
    assert "skipped 2" in text
    assert "not a face" in text
    assert "0 of 19 faces" in text


def test_prepare_folder_with_a_corrupt_picture(tmp_path, capsys):
    fake.class_folders(tmp_path / "f", size=60)
    serial = prepare("folder", root=tmp_path / "f", out=tmp_path / "one", size=32, workers=0)
    assert (len(serial), len(serial.skipped), serial.info.channels) == (28, 2, 3)
    assert {entry.id for entry in serial.skipped} == {"train/angry/broken.png", "train/angry/readme.txt"}
    assert "2 (all in" in capsys.readouterr().out
    parallel = prepare("folder", root=tmp_path / "f", out=tmp_path / "two", size=32, workers=2)
    assert parallel.fingerprint == serial.fingerprint
    smaller = prepare("folder", root=tmp_path / "f", out=tmp_path / "png", size=32, encoding="png", workers=0)
    assert smaller.fingerprint == serial.fingerprint


@pytest.mark.parametrize("splits", [[""], ["train", "valid"], ["train", "test"]])
def test_a_missing_test_split_is_told(tmp_path, capsys, splits):
    for split in splits:
        (tmp_path / "f" / split / "happy").mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "f" / split / "happy" / "a.png"), fake.face(1, 60))
    prepare("folder", root=tmp_path / "f", out=tmp_path / "s", size=32, workers=0)
    assert ("no test split: mien crossval scores every face" in capsys.readouterr().out) == ("test" not in splits)


def test_prepare_table_scales_landmarks(tmp_path):
    path = fake.table_csv(tmp_path / "t")
    columns = "image=path,expression=label,subject=person,split=set,attr.skin=skin"
    store = prepare("table", root=path, out=tmp_path / "s", size=32, columns=columns, faces="given", workers=0)
    assert [entry.reason for entry in store.skipped] == [
        "row 4: AU12 'strong' is no number",
        "picture file does not exist",
    ]
    np.testing.assert_allclose(store.landmarks[0, :, 0], (np.linspace(10, 54, 68) + 0.5) / 2 - 0.5, atol=0.01)
    assert store.attributes[0] == {"face": "found", "skin": "II"}


def toy_provider(image):
    """One face with POINTS, and a smaller one in the corner; none in a dark picture."""
    if image.mean() < 20:
        return []
    corner = (POINTS / 10).astype(np.float32)
    return [Face(detect.points_box(points), points, 0.9, "toy") for points in (POINTS, corner)]


@pytest.fixture
def toy_faces(monkeypatch):
    from mien.datasets.prepare import _provider

    monkeypatch.setitem(detect.PROVIDERS, "toy", lambda model: toy_provider)
    _provider.cache_clear()


def photos(folder: Path) -> Path:
    (folder / "happy").mkdir(parents=True)
    cv2.imwrite(str(folder / "happy" / "a.png"), fake.face(1, 60))
    cv2.imwrite(str(folder / "happy" / "dark.png"), np.zeros((60, 60), np.uint8))
    return folder


@pytest.mark.usefixtures("toy_faces")
def test_prepare_finds_faces_and_keeps_pictures_without(tmp_path, capsys):
    root = photos(tmp_path / "f")
    store = prepare("folder", root=root, out=tmp_path / "s", size=30, faces="toy", workers=0)
    assert [row["face"] for row in store.attributes] == ["found", "not found"]
    np.testing.assert_allclose(store.landmarks[0], (POINTS + 0.5) / 2 - 0.5, atol=1e-4)
    assert np.isnan(store.landmarks[1]).all()
    said = capsys.readouterr().out
    assert "face: found 1, not found 1" in said
    assert "several faces in 1 pictures" in said
    assert "happy/a.png, 2 faces" in said
    middle = (POINTS.min(axis=0) + POINTS.max(axis=0)) / 2 / 60
    kept = [store.attributes[0][key] for key in ("faces", "face_x", "face_y")]
    np.testing.assert_allclose(kept, [2, *middle], atol=0.05)
    assert "faces" not in store.attributes[1]
    aligned = prepare("folder", root=root, out=tmp_path / "a", size=40, faces="toy", align=True, workers=0)
    assert [row["crop"] for row in aligned.attributes] == ["aligned", "centre"]
    from mien.faces.align import align

    pixels, points, _ = align(cv2.imread(str(root / "happy" / "a.png"))[:, :, ::-1], POINTS, 40)
    np.testing.assert_array_equal(aligned.image(0), pixels)
    np.testing.assert_allclose(aligned.landmarks[0], points, atol=1e-4)


@pytest.mark.usefixtures("toy_faces")
@pytest.mark.parametrize(("side", "percent"), [(40, 75), (100, 30)])
def test_small_faces_are_told_unless_aligned(tmp_path, capsys, side, percent):
    """The face of the toy provider spans 30 pixels; `side` is the longer one of the photo."""
    root = photos(tmp_path / "f")
    cv2.imwrite(str(root / "happy" / "a.png"), np.full((side // 2, side), 128, np.uint8))
    prepare("folder", root=root, out=tmp_path / "s", size=30, faces="toy", workers=0)
    prepared = capsys.readouterr().out
    check(tmp_path / "s")
    for text in (prepared, capsys.readouterr().out):
        assert f"landmarks span {percent} % of the picture's longer side" in text
        assert ("faces fill 30 % of the pictures; mien prepare --align" in text) == (percent == 30)
    prepare("folder", root=root, out=tmp_path / "a", size=40, faces="toy", align=True, workers=0)
    prepare("folder", root=root, out=tmp_path / "n", size=40, workers=0)
    assert "span" not in capsys.readouterr().out


@pytest.mark.usefixtures("toy_faces")
def test_prepare_takes_the_face_in_the_box(tmp_path):
    root = photos(tmp_path / "f")
    table = tmp_path / "t.csv"
    table.write_text(f"image,left,top,right,bottom\n{root}/happy/a.png,2,1,5,5\n{root}/happy/a.png,50,50,58,58\n")
    store = prepare("table", root=table, out=tmp_path / "s", size=30, faces="toy", workers=0)
    assert [row["face"] for row in store.attributes] == ["found", "not found"]
    inside = (store.landmarks[0] > -4) & (store.landmarks[0] < 34)  # cut to the box, so the small face fills it
    assert inside.all()
    assert np.ptp(store.landmarks[0][:, 1]) > 15


def test_prepare_with_a_landmark_file(tmp_path):
    root = photos(tmp_path / "f")
    np.savez(tmp_path / "points.npz", id=np.array(["happy/a.png"]), landmarks=POINTS[None])
    store = prepare(
        "folder", root=root, out=tmp_path / "s", size=60, faces="given", landmarks=tmp_path / "points.npz", workers=0
    )
    np.testing.assert_allclose(store.landmarks[0], POINTS)
    assert store.attributes[1]["face"] == "not found"


def test_prepare_usage_errors(tmp_path):
    root = photos(tmp_path / "f")
    where = {"root": root, "out": tmp_path / "s", "workers": 0}
    for message, error, options in (
        ("--align needs landmarks", UsageError, {"align": True}),
        ("goes with --faces given", UsageError, {"landmarks": tmp_path / "p.csv"}),
        ("unknown face provider 'mediapip'. Did you mean 'mediapipe'", UsageError, {"faces": "mediapip"}),
        ("--votes does not apply to dataset 'folder'", UsageError, {"votes": tmp_path}),
        ("channels 2", UsageError, {"channels": 2}),
        ("does not exist", DataError, {"root": tmp_path / "gone"}),
    ):
        with pytest.raises(error, match=message):
            prepare("folder", **{**where, **options})
    with pytest.raises(UsageError, match=r"unknown dataset 'fer2012'\. Did you mean 'fer2013'"):
        prepare("fer2012", **where)
    (root / "happy" / "a.png").write_bytes(b"")
    (root / "happy" / "dark.png").unlink()
    with pytest.raises(DataError, match=r"no usable picture.*empty file"):
        prepare("folder", **where)


def test_prepare_continues_without_redoing(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "PART_ROWS", 5)
    root = fake.class_folders(tmp_path / "f")
    from mien.faces import pictures

    loaded = []
    real = pictures.load_picture

    def counted(image):
        loaded.append(image)
        if len(loaded) == 20:
            raise KeyboardInterrupt
        return real(image)

    monkeypatch.setattr(pictures, "load_picture", counted)
    with pytest.raises(KeyboardInterrupt):
        prepare("folder", root=root, out=tmp_path / "s", size=24, workers=0)
    kept = json.loads((tmp_path / "s" / "progress.json").read_text())["parts"]
    done = sum(part["rows"] + len(part["skipped"]) for part in kept)
    assert done == 20  # 19 faces, and a file that its reader skipped
    loaded.clear()
    monkeypatch.setattr(pictures, "load_picture", lambda image: (loaded.append(image), real(image))[1])
    store = prepare("folder", root=root, out=tmp_path / "s", size=24, workers=0)
    assert len(loaded) == 29 - 19
    assert store.fingerprint == prepare("folder", root=root, out=tmp_path / "w", size=24, workers=0).fingerprint


def test_a_corrected_command_may_use_the_same_folder(tmp_path):
    path = fake.table_csv(tmp_path / "t")
    for columns, error in (("image=pat", UsageError), ("image=label", DataError)):
        with pytest.raises(error):
            prepare("table", root=path, out=tmp_path / "s", size=32, columns=columns, workers=0)
        assert not (tmp_path / "s").exists()
    assert len(prepare("table", root=path, out=tmp_path / "s", size=32, columns="image=path", workers=0)) == 4


@pytest.mark.slow
def test_killed_process_continues(tmp_path):
    """SIGKILL in the middle of a parallel run; the rerun gives the same store as a whole run."""
    root = fake.class_folders(tmp_path / "f", each=60, size=200)
    code = (
        "import sys; from pathlib import Path; from mien.data import store; from mien.datasets.prepare import prepare\n"
        "if __name__ == '__main__':\n"
        "    store.PART_ROWS = 50\n"
        f"    prepare('folder', root=Path({str(root)!r}), out=Path(sys.argv[1]), size=64, workers=2)\n"
    )
    script = tmp_path / "run.py"
    script.write_text(code)
    process = subprocess.Popen([sys.executable, str(script), str(tmp_path / "s")], stdout=subprocess.DEVNULL)
    while len(list((tmp_path / "s").glob("part-*.arrow"))) < 3:
        time.sleep(0.02)
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    with pytest.raises(DataError, match="not finished"):
        open_store(tmp_path / "s")
    for name in ("s", "whole"):
        subprocess.run([sys.executable, str(script), str(tmp_path / name)], check=True, stdout=subprocess.DEVNULL)
    assert open_store(tmp_path / "s").fingerprint == open_store(tmp_path / "whole").fingerprint


def test_command_line_can_read_the_signatures():
    import inspect
    import typing

    from docstring_parser import parse

    from mien.datasets.check import check

    for verb in (prepare, check):
        hints = typing.get_type_hints(verb)
        told = {entry.arg_name for entry in parse(verb.__doc__).params}
        assert told == set(inspect.signature(verb).parameters) <= set(hints)
