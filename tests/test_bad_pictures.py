"""Damaged, odd and hostile files: one clear line each, the others are still done, and no mutation of a file crashes."""

import io
import os
import struct
import tracemalloc
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import predict_parts as parts
import pytest
import tiny
from PIL import Image

from mien.errors import PictureError
from mien.faces import pictures
from mien.faces.pictures import cut_square, load_picture, picture_size, whole_square
from mien.predict.model import load
from mien.predict.sources import pictures_at, pictures_in
from mien.training.loop import fit
from mien.web.page import read_photo


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tiny.store(tmp_path_factory.mktemp("data") / "store", each=2).path
    out = tmp_path_factory.mktemp("runs") / "run"
    fit(tiny.recipe(path, optim={"epochs": 1}), out)
    return load(out, faces=parts.find)


def encoded(image: np.ndarray, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


def huge_png(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes that announces this many pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 100)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


PHOTO = parts.picture((20, 20))
JPEG = encoded(PHOTO, "JPEG", quality=90)
REFUSED = {
    "truncated.jpg": (JPEG[: len(JPEG) // 3], "damaged picture (image file is truncated"),
    "bomb.png": (huge_png(50_000, 50_000), "more than 100,000,000 pixels are too many"),
    "large.png": (huge_png(11_000, 10_000), "11000 x 10000 pixels are too many"),
    "long.png": (huge_png(40_000, 10), "40000 x 10 pixels: a side is longer than 32766"),
    "zero.jpg": (b"", "empty file"),
    "text.jpg": (b"just some text\n", "a text file, not a picture"),
    "apple.heic": (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(100), "HEIC picture"),
    "apple.jpg": (b"\x00\x00\x00\x18ftypmif1\x00\x00\x00\x00mif1heic" + bytes(100), "HEIC picture"),
    "paper.png": (b"%PDF-1.7\n" + bytes(50), "a PDF document, not a picture"),
    "noise.png": (bytes(range(256)), "not a picture, or a damaged one"),
    "cut.png": (encoded(PHOTO, "PNG")[:60], "damaged picture"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_file_is_one_clear_line(name, tmp_path, model):
    content, words = REFUSED[name]
    (tmp_path / name).write_bytes(content)
    parts.save(tmp_path / "zz.png", PHOTO)
    bad, good = model.predict(tmp_path)
    assert words in bad.reason
    assert "\n" not in bad.reason
    assert (bad.faces, bad.width, bad.height) == ((), 0, 0)
    assert len(good.faces) == 1


DEEP = (np.arange(96 * 160).reshape(96, 160) * 4).astype(np.uint16)
ACCEPTED = {
    "cmyk.jpg": lambda path: Image.fromarray(PHOTO).convert("CMYK").save(path, quality=95),
    "deep.png": lambda path: Image.fromarray(DEEP).save(path),
    "deep.tif": lambda path: Image.fromarray(DEEP).save(path),
    "moving.gif": lambda path: Image.fromarray(PHOTO).save(
        path, save_all=True, append_images=[Image.fromarray(PHOTO[::-1])]
    ),
    "moving.png": lambda path: Image.fromarray(PHOTO).save(
        path, save_all=True, append_images=[Image.fromarray(PHOTO[::-1])]
    ),
    "palette.png": lambda path: Image.fromarray(PHOTO).quantize(64).save(path),
    "clear.png": lambda path: Image.fromarray(np.dstack([PHOTO, PHOTO[..., :1]])).save(path),
    "bit.png": lambda path: Image.fromarray(PHOTO).convert("1").save(path),
    "really_a_png.jpg": lambda path: path.write_bytes(encoded(PHOTO, "PNG")),
    "no_ending": lambda path: path.write_bytes(JPEG),
    "one.png": lambda path: Image.fromarray(PHOTO[:1, :1]).save(path),
    "line.png": lambda path: Image.fromarray(PHOTO[:1]).save(path),
}


DEEP_FORMS = {
    "PNG": lambda: encoded(DEEP, "PNG"),
    "TIFF of 32 bits": lambda: encoded(DEEP.astype(np.int32), "TIFF"),
    "PGM": lambda: b"P5 160 96 65535\n" + DEEP.astype(">u2").tobytes(),
    "PIL picture": lambda: Image.fromarray(DEEP),
}


@pytest.mark.parametrize("form", DEEP_FORMS)
def test_16_bits_become_8(form):
    assert np.array_equal(load_picture(DEEP_FORMS[form]()), DEEP >> 8)


def test_8_bits_in_a_wider_file_are_not_black():
    shallow = (DEEP >> 8).astype(np.uint16)
    for wide in (shallow, shallow.astype(np.int32)):
        assert np.array_equal(load_picture(encoded(wide, "TIFF")), shallow)


@pytest.mark.parametrize("form", ["bytes", "PIL picture"])
def test_pixels_of_unknown_range_are_refused(form, model):
    for values, words in (
        (DEEP.astype(np.float32), "floating-point pixels"),
        (DEEP.astype(np.int32) * 3, "pixels outside 0 to 65535"),
        (DEEP.astype(np.int32) - 1, "pixels outside 0 to 65535"),
    ):
        given = encoded(values, "TIFF") if form == "bytes" else Image.fromarray(values)
        assert words in model.predict(given)[0].reason


def test_pil_pictures_are_read_as_files_are(model):
    stored = Image.fromarray(PHOTO).rotate(90, expand=True)
    stored.getexif()[0x0112] = 6
    assert np.array_equal(load_picture(stored), PHOTO)
    assert stored.size == (96, 160)  # the caller's picture stays as it is
    assert "a side is longer than" in model.predict(Image.open(io.BytesIO(huge_png(40_000, 10))))[0].reason
    assert "damaged picture" in model.predict(Image.open(io.BytesIO(JPEG[: len(JPEG) // 3])))[0].reason
    assert model.predict(Image.new("RGB", (0, 5)))[0].reason == "a picture without pixels"


@pytest.mark.parametrize("name", ACCEPTED)
def test_an_odd_file_is_read(name, tmp_path, model):
    ACCEPTED[name](tmp_path / name)
    (picture,) = pictures_at(tmp_path / name)
    assert picture.reason is None
    assert picture.image.dtype == np.uint8
    assert picture.image.shape == (picture.size[1], picture.size[0], 3)
    assert (model.predict(tmp_path / name)[0].reason or "no face found").startswith("no face found")


def test_sixteen_bits_and_first_frames(tmp_path):
    for name in ("deep.png", "deep.tif"):
        ACCEPTED[name](tmp_path / name)
        assert np.array_equal(load_picture(tmp_path / name), DEEP >> 8)
    ACCEPTED["moving.png"](tmp_path / "moving.png")
    assert np.array_equal(load_picture(tmp_path / "moving.png"), PHOTO)


def test_arrays_of_other_kinds_are_refused(model):
    for wrong in (PHOTO.astype(np.float32), PHOTO[..., :2], np.zeros((0, 4, 3), np.uint8)):
        assert "no picture" in model.predict([wrong])[0].reason
    with pytest.raises(PictureError, match="empty file"):
        load_picture(b"")


def test_what_opencv_refuses_is_a_reason(model, monkeypatch):
    import cv2

    def refuse(*_):
        raise cv2.error("OpenCV(4)\nassertion failed")

    monkeypatch.setattr("mien.predict.model.frame_face", refuse)
    found = model.predict([PHOTO])[0]
    assert (found.faces, found.reason) == ((), "cannot be processed (OpenCV(4) assertion failed)")


def seeds(folder: Path) -> list[bytes]:
    """Whole files of every kind that is read."""
    small = parts.picture((8, 8), size=(80, 72))
    made = [encoded(small, kind) for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")]
    for name in ("cmyk.jpg", "deep.tif", "moving.gif", "palette.png"):
        ACCEPTED[name](folder / name)
        made.append((folder / name).read_bytes())
    frames = [parts.frame((8, 8), size=(96, 80))] * 4
    for name, codec in (("a.avi", "MJPG"), ("a.mp4", "mp4v")):
        made.append(parts.write_video(folder / name, frames, codec=codec).read_bytes())
    return made


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """One to eight of: a byte changed, a bit turned, a piece lost, doubled, zeroed or filled with noise, the end cut off."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 9))):
        if not data:
            break
        # half of the damage goes where the headers are
        at = int(rng.integers(min(len(data), 64) if rng.random() < 0.5 else len(data)))
        long = int(rng.integers(1, 1 + min(64, len(data) - at)))
        match int(rng.integers(7)):
            case 0:
                data[at] = int(rng.integers(256))
            case 1:
                data[at] ^= 1 << int(rng.integers(8))
            case 2:
                del data[at : at + long]
            case 3:
                data[at:at] = data[at : at + long]
            case 4:
                data[at : at + long] = bytes(long)
            case 5:
                data[at : at + long] = rng.bytes(long)
            case 6:
                del data[max(at, 1) :]
    return bytes(data)


@pytest.mark.parametrize("count", [50, pytest.param(1500, marks=pytest.mark.slow)])
def test_no_mutation_of_a_file_crashes(model, tmp_path, count):
    rng = np.random.default_rng(count)
    whole, file, kinds = seeds(tmp_path), tmp_path / "fuzz.jpg", Counter()
    for number in range(count):
        file.write_bytes(mutated(whole[number % len(whole)], rng))
        for _, found in model.stream(pictures_in(file, None), explain="auto", masking=False):
            assert found.faces or found.reason  # a small picture that is taken as a face itself has both
            assert found.reason is None or (found.reason and "\n" not in found.reason and len(found.reason) < 300)
            assert all(np.isfinite(list(face.probabilities.values())).all() for face in found.faces)
            kinds["faces" if found.faces else found.reason.split("(")[0]] += 1
    print(dict(kinds.most_common()))
    assert kinds["faces"] > 0
    assert sum(kinds.values()) >= count


EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 40 40
%%EndComments
{ } loop
"""


@pytest.fixture
def recording_gs(tmp_path, monkeypatch):
    """A Ghostscript first in the path that writes down that it was started."""
    if os.name != "posix":
        pytest.skip("a script that is a program")
    folder, note = tmp_path / "bin", tmp_path / "started.txt"
    folder.mkdir()
    (folder / "gs").write_text(f"#!/bin/sh\necho started >> '{note}'\nexit 1\n")
    (folder / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    return note


@pytest.mark.parametrize("name", ["photo.jpg", "photo.eps", "photo.png"])
@pytest.mark.parametrize(
    "content", [EPS, b"\xc5\xd0\xd3\xc6\x20\0\0\0" + (len(EPS)).to_bytes(4, "little") + bytes(20) + EPS]
)
def test_a_photo_that_is_a_program_is_not_run(name, content, tmp_path, model, recording_gs):
    file = tmp_path / name
    file.write_bytes(content)
    ways = [
        lambda: load_picture(file), lambda: load_picture(content), lambda: picture_size(file),
        lambda: read_photo(bytearray(content)),
    ]  # fmt: skip
    for way in ways:
        with pytest.raises(PictureError, match="a PostScript program, not a picture"):
            way()
    assert model.predict(file)[0].reason == "a PostScript program, not a picture"
    assert not recording_gs.exists()


def exploding(error: Exception):
    def load(self, *arguments):
        raise error

    return load


@pytest.mark.parametrize("error", [TypeError("float"), KeyError(270), struct.error("unpack"), RuntimeError("avif"), MemoryError(),
                                   ZeroDivisionError("division"), AssertionError(), RecursionError("deep")])  # fmt: skip
def test_whatever_a_decoder_raises_is_one_row(error, tmp_path, model, monkeypatch):
    parts.save(tmp_path / "a.png", PHOTO)
    parts.save(tmp_path / "b.bmp", PHOTO)
    from PIL import PngImagePlugin

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", exploding(error))
    bad, good = model.predict(tmp_path)
    assert bad.reason.startswith(("damaged picture (", "there is not enough memory"))
    assert len(good.faces) == 1


def test_the_square_of_a_panorama_takes_little_memory():
    image = np.zeros((1500, 30_000, 3), np.uint8)
    image[:, 15_000:] = 200
    tracemalloc.start()
    small, matrix = cut_square(image, whole_square(*image.shape[:2]), 96)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6  # of 2.7 GB
    assert small.shape == (96, 96, 3)
    assert small[47, 80].min() > 180
    assert small[47, 30].max() == 0
    assert small[10].max() == 0
    np.testing.assert_allclose(matrix @ [14_999.5, 749.5, 1], [47.5, 47.5], atol=1e-3)


def test_a_large_square_is_cut_as_if_it_were_whole(monkeypatch):
    image = np.kron(
        np.random.default_rng(0).integers(0, 255, (8, 40, 3), dtype=np.uint8), np.ones((25, 25, 1), np.uint8)
    )
    for square in (whole_square(*image.shape[:2]), (-300, 20, 900), (100, -50, 400)):
        whole, matrix = cut_square(image, square, 50)
        with monkeypatch.context() as patch:
            patch.setattr(pictures, "MAX_SQUARE", 1)
            patch.setattr(pictures, "MAX_SIDE", 8 * 250)
            small, same = cut_square(image, square, 50)
        np.testing.assert_array_equal(matrix, same)
        assert np.abs(whole.astype(int) - small).mean() < 8


def test_heic_is_read_where_its_extra_is_installed(tmp_path):
    """Colour, grey, turned by its tag, and under a wrong suffix."""
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    pictures.formats.cache_clear()
    y, x = np.mgrid[:40, :60]
    pixels = np.stack([4 * x, 6 * y, 255 - 2 * x - 3 * y], axis=-1).astype(np.uint8)
    turned = Image.Exif()
    turned[0x112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.heic", quality=95)
    Image.fromarray(pixels).convert("L").save(tmp_path / "b.heif", quality=95)
    Image.fromarray(pixels).rotate(90, expand=True).save(tmp_path / "c.jpg", "HEIF", quality=95, exif=turned.tobytes())
    grey = np.asarray(Image.fromarray(pixels).convert("L"), dtype=float)
    for name in ("a.heic", "b.heif", "c.jpg"):
        found = load_picture(tmp_path / name)
        assert found.shape[:2] == (40, 60)
        assert abs(np.asarray(Image.fromarray(found).convert("L")) - grey).mean() < 6, name


def test_a_folder_of_mien_s_own_pictures_says_why_nothing_is_read(tmp_path):
    from mien import draw
    from mien.predict.sources import pictures_at

    (tmp_path / "below").mkdir()
    draw.write_png(tmp_path / "below" / "sheet.png", np.zeros((8, 8, 3), np.uint8))
    (found,) = pictures_at(tmp_path)
    assert found.reason is not None
    assert found.reason.endswith("; 1 that Mien itself has drawn are left out, name each to take it")
    (tmp_path / "below" / "sheet.png").unlink()
    (found,) = pictures_at(tmp_path)
    assert "drawn" not in str(found.reason)
