"""Mutated pictures, videos, landmark and label files: read, or refused in one line; nothing crashes, hangs or is out of range."""

import random
import zipfile

import cv2
import fake_datasets
import numpy as np
import pytest
import tiny
from fuzzing import damaged_bytes, damaged_text, refusals, spoiler
from PIL import Image

from mien.data.arrow import Skipped
from mien.data.au_table import read_unit_table
from mien.data.fold_files import read_fold_file
from mien.datasets import DATASETS
from mien.errors import DataError, PictureError
from mien.faces.landmark_files import read_landmarks
from mien.faces.pictures import load_picture
from mien.predict.sources import frames, pictures_at
from mien.schema import EXPRESSIONS

SMALL, LARGE = 4, 80
"""Damaged files of each form in the fast suite, and in the slow one."""
BOTH = pytest.mark.parametrize("count", [SMALL, pytest.param(LARGE, marks=pytest.mark.slow)])


def one_line(error):
    assert "\n" not in str(error)


PICTURES = {
    "jpg": {"quality": 80, "exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"},
    "png": {}, "gif": {}, "bmp": {}, "tif": {"compression": "tiff_lzw"}, "webp": {}, "ppm": {}, "avif": {}, "jp2": {},
}  # fmt: skip


@BOTH
@pytest.mark.parametrize("ending", PICTURES)
def test_mutated_pictures(tmp_path, ending, count):
    file = tmp_path / f"a.{ending}"
    try:
        Image.fromarray(cv2.cvtColor(fake_datasets.face(1, 64), cv2.COLOR_GRAY2RGB)).save(file, **PICTURES[ending])
    except (OSError, KeyError):
        pytest.skip(f"this Pillow writes no {ending}")
    draws, whole = random.Random(count), file.read_bytes()
    for _ in range(count):
        file.write_bytes(damaged_bytes(whole, draws))
        try:
            pixels = load_picture(file)
            assert pixels.dtype == np.uint8
            assert pixels.size
        except PictureError as error:
            one_line(error)
        (found,) = pictures_at(file)
        assert (found.image is None) == (found.reason is not None)


@BOTH
@pytest.mark.parametrize("form", ["mp4", "avi"])
def test_mutated_videos(tmp_path, form, count):
    file = tmp_path / f"a.{form}"
    code = cv2.VideoWriter.fourcc(*("mp4v" if form == "mp4" else "MJPG"))
    writer = cv2.VideoWriter(str(file), code, 10, (64, 64))
    for k in range(6):
        writer.write(cv2.cvtColor(fake_datasets.face(k, 64), cv2.COLOR_GRAY2BGR))
    writer.release()
    draws, whole = random.Random(count), file.read_bytes()
    for _ in range(count):
        file.write_bytes(damaged_bytes(whole, draws))
        for number, picture in enumerate(frames(file)):
            assert (picture.image is None) == (picture.reason is not None)
            assert number < 1000


def landmark_files(folder):
    """One file of every form that `read_landmarks` knows, with two faces where it can."""
    points = [tiny.points(64), tiny.points(64) + 1]
    flat = [",".join(f"{value:.2f}" for value in face.T.ravel()) for face in points]
    names = ",".join(f"{axis}{k}" for axis in "xy" for k in range(68))
    texts = {
        "published.txt": "".join(f"img{k}.png,{line}\n" for k, line in enumerate(flat)),
        "lines.txt": "".join(f"{y:.2f} {x:.2f}\n" for x, y in points[0]),
        "table.csv": f"id,confidence,{names}\n" + "".join(f"img{k}.png,0.9,{line}\n" for k, line in enumerate(flat)),
        "face.pts": "version: 1\nn_points: 68\n{\n" + "".join(f"{x:.2f} {y:.2f}\n" for x, y in points[0]) + "}\n",
        "faces.xml": "<dataset><images><image file='a.png'><box>"
        + "".join(f"<part name='{k:02d}' x='{x:.0f}' y='{y:.0f}'/>" for k, (x, y) in enumerate(points[0]))
        + "</box></image></images></dataset>",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    np.savez(folder / "faces.npz", landmarks=np.stack(points), id=np.array(["a.png", "b.png"]))
    np.savez_compressed(folder / "packed.npz", landmarks=np.stack(points), id=np.array(["a.png", "b.png"]))
    np.save(folder / "face.npy", points[0])
    return sorted(folder.iterdir())


FORMS = ("face.npy", "face.pts", "faces.npz", "faces.xml", "lines.txt", "packed.npz", "published.txt", "table.csv")


@BOTH
@pytest.mark.parametrize("form", FORMS)
def test_mutated_landmark_files(tmp_path, form, count):
    assert {file.name for file in landmark_files(tmp_path)} == set(FORMS)
    file = tmp_path / form

    def attempt():
        for points in read_landmarks(file).values():
            assert points.shape == (68, 2)
            assert not np.isinf(points).any()

    attempt()
    refusals(attempt, spoiler([file], damaged_bytes if file.suffix in (".npy", ".npz") else damaged_text), count * 2, 3)


def odd_arrays(folder):
    """numpy files of other types and shapes than points."""
    cases = {
        "text": np.array([["x"] * 2] * 68), "flat": np.zeros(136), "scalar": np.array(1.0), "complex": np.ones((68, 2), complex),
        "empty": np.zeros((0, 68, 2)), "records": np.zeros(68, dtype=[("x", "f4"), ("y", "f4")]), "dates": np.zeros((68, 2), "M8[s]"),
        "bool": np.ones((68, 2), bool), "four": np.zeros((2, 68, 2, 1)),
    }  # fmt: skip
    for name, array in cases.items():
        np.save(folder / f"{name}.npy", array)
        np.savez(folder / f"{name}.npz", landmarks=array, id=np.array(["a"]))
        np.savez(folder / f"{name}-id.npz", landmarks=np.zeros((1, 68, 2)), id=array)
    return sorted(folder.iterdir())


def test_arrays_that_are_no_points(tmp_path):
    for file in odd_arrays(tmp_path):
        try:
            found = read_landmarks(file)
        except DataError as error:
            one_line(error)
        else:
            assert all(points.shape == (68, 2) for points in found.values()), file.name


def test_a_member_of_an_archive_that_is_no_array(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("landmarks.npy", b"text")
        archive.writestr("id", b"text")
    with pytest.raises(DataError, match=r"a\.npz is damaged \(not all in it are arrays\)"):
        read_landmarks(tmp_path / "a.npz")


def made_dataset(name, root):
    """A small dataset and the files of it that hold labels."""
    if name == "fer2013":
        return root, [fake_datasets.fer2013_csv(root, rows=7), fake_datasets.fer_plus_csv(root, rows=7)]
    if name == "table":
        table = fake_datasets.table_csv(root)
        return table, [table]
    base = getattr(fake_datasets, name)(root)
    endings = (".txt", ".csv", ".pkl", ".npy", ".json")
    return base, [file for file in sorted(base.rglob("*")) if file.suffix in endings and file.stat().st_size]


@BOTH
@pytest.mark.parametrize(
    "name", ["fer2013", "table", "rafdb", "affectnet", "affectnet_lists", "disfa", "bp4d", "audetnet"]
)
def test_mutated_label_files(tmp_path, name, count):
    root, files = made_dataset(name, tmp_path / "data")
    reader = DATASETS[name.removesuffix("_lists")].records
    assert files

    def attempt():
        for item in reader(root):
            if isinstance(item, Skipped):
                continue
            assert item.expression is None or item.expression in EXPRESSIONS
            units = np.nan_to_num(np.zeros(1) if item.action_units is None else item.action_units)
            assert units.min() >= 0
            assert units.max() <= 5
            for values in (item.votes, item.landmarks):
                assert values is None or not np.isinf(values).any()

    attempt()
    mixed = lambda data, draws: (damaged_bytes if b"\0" in data else damaged_text)(data, draws)  # noqa: E731
    refusals(attempt, spoiler(files, mixed), count, 5)


@BOTH
def test_mutated_unit_and_fold_tables(tmp_path, count):
    units, folds = tmp_path / "units.csv", tmp_path / "folds.csv"
    units.write_text("id,AU1,AU12\na,0.5,3\nb,,5\nc,1,0\n")
    folds.write_text("path;emotion;fold\n" + "".join(f"a/{k}.png;{k % 3};{k % 5}\n" for k in range(9)))

    def read_units():
        values = read_unit_table(units).values
        assert np.nanmin(values, initial=0) >= 0
        assert np.nanmax(values, initial=0) <= 5

    read_units()
    refusals(read_units, spoiler([units], damaged_text), 4 * count, 7)
    read_fold_file(folds)
    refusals(lambda: read_fold_file(folds), spoiler([folds], damaged_text), 4 * count, 8)
