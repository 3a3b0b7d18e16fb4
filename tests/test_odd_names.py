"""Names that are no text, too long, or lead nowhere: a row with a reason each, and the rest is read."""

import os

import cv2
import fake_datasets
import pytest
import tiny

from mien.cli import main
from mien.data.store import open_store
from mien.errors import DataError
from mien.files import name_of, own_name, walk
from mien.models.weights import read_state
from mien.training.loop import fit

PNG = cv2.imencode(".png", fake_datasets.face(1, 64))[1].tobytes()


@pytest.fixture
def photos(tmp_path):
    """A folder of class folders with one sound picture, and others whose names are odd."""
    folder = tmp_path / "photos" / "happy"
    folder.mkdir(parents=True)
    for name in (b"a.png", b"\xff.png", b"two\nlines.png", b"n" * 240 + b".png", "😀.png".encode()):
        with open(os.fsencode(folder) + b"/" + name, "wb") as file:
            file.write(PNG)
    (folder / "itself.png").symlink_to("itself.png")
    (folder / "nowhere.png").symlink_to("gone.png")
    (folder / "up").symlink_to("..")
    return tmp_path / "photos"


def test_a_store_of_odd_names(photos, tmp_path):
    words = ["prepare", "folder", "--root", str(photos), "--out", str(tmp_path / "s"), "--size", "32", "--workers", "0"]
    assert main(words) == 0
    store = open_store(tmp_path / "s")
    assert len(store) == 4
    reasons = dict(store.skipped)
    assert reasons[r"happy/\udcff.png"] == "its name is not UTF-8; rename it"
    assert reasons["happy/itself.png"] == reasons["happy/nowhere.png"] == "picture file does not exist"
    assert main(words) == 0  # finished: nothing is done twice
    assert len(open_store(tmp_path / "s").skipped) == len(reasons) == 3


def test_explanations_of_odd_names(photos, tmp_path):
    fit(tiny.recipe(tiny.store(tmp_path / "faces", each=2).path, optim={"epochs": 1}), tmp_path / "run")
    words = ["explain", str(photos / "happy"), "--run", str(tmp_path / "run"), "--faces", "none", "--methods", "cam"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    assert len(list((tmp_path / "out").glob("*.npz"))) == 5


def test_names_of_files_about_a_source():
    assert own_name("a/b.png") != own_name("b.png")
    assert own_name("b.png") == own_name("b.png")
    assert own_name("b.png").startswith("b-")
    assert len(own_name("é" * 200 + ".png").encode()) <= 207
    assert name_of("\udcff") == r"\udcff"


def test_links_to_themselves_are_files(tmp_path):
    (tmp_path / "x").symlink_to("x")
    assert list(walk(tmp_path)) == [tmp_path / "x"]
    assert main(["prepare", "folder", "--root", str(tmp_path), "--out", str(tmp_path / "x")]) == 1
    assert main(["check", str(tmp_path / "x")]) == 1


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_empty_weights_are_one_line(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"cannot read weights .*: .+"):
        read_state(tmp_path / name)
