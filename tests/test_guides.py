"""`mien guides`: files named as published, what faces without landmarks get, resuming, refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

from mien.cues import CueConfig
from mien.cues.guides import GUIDES, draw_guides, file_names, guides, levels, product
from mien.data.store import open_store, write_store
from mien.errors import DataError, UsageError
from mien.schema import EXPRESSIONS, Record

SIZE = 64


def make_store(path: Path, ids=("row-00003", "7/a.jpg", "7/b.bmp", "flat")):
    """Four faces: two with landmarks, one without, and a flat picture."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) for _ in ids[:-1]] + [
        np.full((SIZE, SIZE, 3), 90, np.uint8)
    ]
    points = tiny.points(SIZE)
    records = [
        Record(name, image, expression=EXPRESSIONS[k], landmarks=None if k == 2 else points)
        for k, (name, image) in enumerate(zip(ids, images, strict=True))
    ]
    return write_store(records, path, dataset="toy", size=SIZE).path


def read(path: Path):
    with Image.open(path) as image:
        assert image.mode == "L"
        return np.asarray(image)


def published_grey(store, row, size=48):
    """Published: mode LA, resized with Pillow's default filter; its grey channel."""
    return np.asarray(Image.fromarray(store.image(row)).convert("LA").resize((size, size)))[..., 0]


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("guides") / "s")


@pytest.mark.parametrize("kind", GUIDES)
def test_every_kind(faces, tmp_path, kind, capsys):
    guides(faces, kind=kind, out=tmp_path / "out")
    store = open_store(faces)
    files = {str(path.relative_to(tmp_path / "out")): read(path) for path in (tmp_path / "out").rglob("*.png")}
    assert set(files) == {"3.png", "7/a.png", "7/b.png", "flat.png"}
    assert all(image.shape == (48, 48) for image in files.values())
    grey = published_grey(store, 0)
    mask = {"patches": "landmark_mask", "weighted": "landmark_soft"}.get(kind, kind)
    if kind == "image":
        assert np.array_equal(files["3.png"], grey)
    else:
        expected = draw_guides(store, np.array([0]), mask, CueConfig(mask), 48, "white")[0][0]
        assert np.array_equal(files["3.png"], product(grey, expected) if mask != kind else expected)
    lost = (tmp_path / "out" / "without_guide.csv").read_text().split()
    without = {"image": [], "saliency": ["flat"]}.get(kind, ["7/b.bmp"])
    assert lost == ["path", *without]
    if kind == "landmark_soft":
        assert set(np.unique(files["3.png"])) == {127, 255}
        assert set(np.unique(files["7/b.png"])) == {255}
    if kind in ("patches", "weighted"):
        assert np.array_equal(files["7/b.png"], published_grey(store, 2))
    assert "4 written" in capsys.readouterr().out


@pytest.mark.parametrize("missing", ["white", "black", "image", "skip"])
def test_faces_without_landmarks(faces, tmp_path, missing, capsys):
    guides(faces, out=tmp_path / "out", missing=missing)
    path = tmp_path / "out" / "7" / "b.png"
    if missing == "skip":
        assert not path.exists()
    else:
        value = {"white": 255, "black": 0, "image": published_grey(open_store(faces), 2)}[missing]
        assert (read(path) == value).all()
    said = capsys.readouterr().out
    assert "1 faces have none" in said
    guides(faces, out=tmp_path / "out", missing=missing)
    assert "0 written" in capsys.readouterr().out
    assert (tmp_path / "out" / "without_guide.csv").read_text().split() == ["path", "7/b.bmp"]


def test_patches_of_black_faces_are_black_and_of_others_the_picture(faces):
    store = open_store(faces)
    row, config = np.array([2]), CueConfig("landmark_mask")
    for missing, expected in (
        ("black", np.zeros((48, 48))),
        ("white", published_grey(store, 2)),
        ("image", published_grey(store, 2)),
    ):
        images, valid = draw_guides(store, row, "patches", config, 48, missing)
        assert not valid[0]
        assert np.array_equal(images[0], expected)


def test_product_and_levels():
    assert levels(np.array([0, 0.5, 38 / 255, 1.0])).tolist() == [0, 127, 38, 255]
    picture, mask = np.array([255, 200, 99, 7], np.uint8), np.array([255, 127, 127, 0], np.uint8)
    assert product(picture, mask).tolist() == [255, 99, 49, 0]  # 200 * 127 / 255 = 99.6, truncated
    every = np.arange(256, dtype=np.uint8)
    assert np.array_equal(product(every, np.full(256, 255, np.uint8)), every)


def test_an_interrupted_run_goes_on(faces, tmp_path, capsys):
    guides(faces, out=tmp_path / "out")
    (tmp_path / "out" / "7" / "a.png").unlink()
    stamp = (tmp_path / "out" / "3.png").stat().st_mtime_ns
    guides(faces, out=tmp_path / "out")
    assert (tmp_path / "out" / "3.png").stat().st_mtime_ns == stamp
    assert "3 guides were there, 1 written" in capsys.readouterr().out
    assert not list(tmp_path.rglob("*.tmp"))
    with pytest.raises(UsageError, match=r"files made with another size \(48\)"):
        guides(faces, out=tmp_path / "out", size=24)
    with pytest.raises(UsageError, match="another jaw"):
        guides(faces, out=tmp_path / "out", jaw=False)
    (tmp_path / "out" / "guides.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        guides(faces, out=tmp_path / "out")


def test_settings_are_written_down(faces, tmp_path):
    guides(faces, kind="landmark_dilation", out=tmp_path / "out", dilation="published", size=24)
    settings = json.loads((tmp_path / "out" / "guides.json").read_text())
    assert settings["store"] == open_store(faces).fingerprint
    assert (settings["kind"], settings["dilation"], settings["size"]) == ("landmark_dilation", "published", 24)


def test_file_names():
    assert file_names(["row-00017", "a/b.c.jpg", "x.jpg", "x.png"]) == ["17.png", "a/b.c.png", "x.jpg.png", "x.png.png"]
    for name in ("../x.jpg", "/etc/x.jpg", "a\\..\\x.jpg"):
        with pytest.raises(DataError, match="leads out of the folder"):
            file_names([name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "landmark_masks"}, "Did you mean 'landmark_mask'"),
        ({"kind": "landmarks"}, "unknown guide"),
        ({"missing": "grey"}, "--missing"),
        ({"size": 4}, "--size 4 is too small"),
        ({"out": None}, "nothing to write"),
        ({"sheet": Path("sheet.jpg")}, r"ends in \.png"),
        ({"groups": {"chin": 1.0}}, "unknown landmark group"),
        ({"saliency": "weights.pth"}, "saliency"),
    ],
)
def test_wrong_options(faces, tmp_path, options, message):
    with pytest.raises(UsageError, match=message) as caught:
        guides(faces, **{"out": tmp_path / "out", **options})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_other_folders_are_left_alone(faces, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds something else"):
        guides(faces, out=tmp_path)
    with pytest.raises(DataError, match="no prepared store"):
        guides(tmp_path / "none", out=tmp_path / "out")
    with pytest.raises(DataError, match="weights of MSI-Net not found"):
        guides(faces, kind="saliency", out=tmp_path / "out", saliency="none.safetensors")


def test_sheet(faces, tmp_path, capsys):
    guides(faces, sheet=tmp_path / "sheet.png", missing="skip")
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.width > 700
    assert not (tmp_path / "guides.json").exists()
    assert "every kind of guide" in capsys.readouterr().out
