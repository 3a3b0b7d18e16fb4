"""Kinds of videos and pictures that people have and tools forget: camcorders, mirrors, pixels that are not square, animations."""

import struct
from pathlib import Path

import numpy as np
import predict_parts as parts
import pytest
from PIL import Image

from mien.faces.animated import is_animated
from mien.faces.containers import mirrored, only_sound
from mien.faces.pictures import load_picture
from mien.faces.video import as_shown, stretched, turned
from mien.predict.overlay import Album
from mien.predict.results import PicturePrediction
from mien.predict.sources import Picture, files_of, frames, is_video, pictures_in


def reasons(path: Path) -> list[str | None]:
    return [picture.reason for picture in pictures_in(path, None)]


@pytest.mark.parametrize(("head", "name"), [
    (b"\x47" + bytes(187) + b"\x47" + bytes(187) + b"\x47" + bytes(200), "a.dat"),  # transport stream
    (bytes(4) + (b"\x47" + bytes(191)) * 3, "a.dat"),  # of a camcorder
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11" + bytes(20), "a.dat"), (b"FLV\x01" + bytes(20), "a.dat"), (b"OggS" + bytes(20), "a.dat"),
    (b"\x00\x00\x00\x01", "a.h264"), (b"anything", "A.MTS"), (b"anything", "a.wmv"), (b"anything", "a.mpeg"),
])  # fmt: skip
def test_videos_of_all_kinds(tmp_path, head, name):
    (tmp_path / name).write_bytes(head)
    assert is_video(tmp_path / name)
    if name != "a.dat":
        assert list(files_of([tmp_path])) == [(tmp_path / name, None)]


@pytest.mark.parametrize("ending", ["ts", "mts", "flv", "wmv", "ogv", "m4v"])
def test_frames_of_camcorders_and_old_encoders(tmp_path, ending):
    av = pytest.importorskip("av")
    codec = {"wmv": "wmv2", "ogv": "libtheora", "flv": "flv"}.get(ending, "mpeg4")
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    path, form = tmp_path / f"v.{ending}", {"mts": "mpegts", "wmv": "asf", "ogv": "ogg", "m4v": "mp4"}.get(ending)
    with av.open(str(path), "w", format=form) as file:
        stream = file.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for k in range(6):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((96, 160, 3), 30 * k, np.uint8), format="rgb24")))
        file.mux(stream.encode())
    found = list(pictures_in(path, None))
    assert [picture.reason for picture in found] == [None] * 6
    np.testing.assert_allclose([picture.time for picture in found], np.arange(6) / 10, atol=0.002)


def test_joined_recordings_go_on_in_time(tmp_path):
    """As camcorders' files are joined, one behind the other: the second one's clock begins at 0 again."""
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "a.mts"), "w", format="mpegts") as file:
        stream = file.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for k in range(25):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((96, 160, 3), 9 * k, np.uint8), format="rgb24")))
        file.mux(stream.encode())
    joined = tmp_path / "joined.mts"
    joined.write_bytes(2 * (tmp_path / "a.mts").read_bytes())
    times = np.array([picture.time for picture in frames(joined)])
    assert len(times) >= 48
    np.testing.assert_allclose(np.diff(times), 0.04, atol=0.005)


LENGTHS = [100, 250, 40, 0]


def animation(path: Path, kind: str) -> Path:
    shades = [Image.new("RGB", (40, 30), (50 * k, 90, 200 - 50 * k)) for k in range(4)]
    options = {"save_all": True, "append_images": shades[1:], "duration": LENGTHS, "loop": 0}
    shades[0].save(path, kind, **options, **({"lossless": True} if kind == "WEBP" else {}))
    return path


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_an_animation_is_a_video(tmp_path, kind):
    """Times by hand; a frame of 0 ms stands 100 ms, as in browsers, so that a further one would come at 0.49."""
    path = animation(tmp_path / f"a.{kind.lower()}", kind)
    assert is_animated(path)
    found = list(pictures_in(path, None))
    np.testing.assert_allclose([picture.time for picture in found], [0, 0.1, 0.35, 0.39])
    levels = np.array([picture.image.mean(axis=(0, 1)) for picture in found])
    np.testing.assert_allclose(levels, [[50 * k, 90, 200 - 50 * k] for k in range(4)], atol=2)
    assert [p.frame for p in frames(path, every=2)] == [0, 2]
    assert [p.frame for p in frames(path, start=0.2, seconds=0.16)] == [2]
    assert [p.reason for p in frames(path, start=9)] == ["the video ends before --start 9"]


def test_what_is_no_animation(tmp_path):
    still = parts.save(tmp_path / "a.png", parts.picture())
    pages = [Image.new("RGB", (40, 30)), Image.new("RGB", (40, 30))]
    pages[0].save(tmp_path / "b.tif", save_all=True, append_images=pages[1:])
    (tmp_path / "c.gif").write_bytes(b"GIF89a broken")
    whole = animation(tmp_path / "d.gif", "GIF").read_bytes()
    assert not any(is_animated(path) for path in (still, tmp_path / "b.tif", tmp_path / "c.gif", tmp_path / "gone.gif"))
    assert len(list(pictures_in(tmp_path / "b.tif", None))) == 1
    (tmp_path / "d.gif").write_bytes(whole[: len(whole) * 2 // 3])
    assert all("damaged" in str(reason) for reason in reasons(tmp_path / "d.gif") if reason)


@pytest.mark.parametrize("signs", [(-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)])
def test_a_mirror_is_no_half_turn(tmp_path, signs):
    """Front cameras: x' = a x + c y, y' = b x + d y, by a loop over pixels."""
    image = parts.frame((8, 8))
    path = parts.write_video(tmp_path / "v.mp4", [image] * 2, codec="mp4v")
    content, (a, b, c, d) = bytearray(path.read_bytes()), (65536 * sign for sign in signs)
    struct.pack_into(">9i", content, content.index(b"tkhd") + 4 + 40, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    assert mirrored(path) == (a, b, c, d)
    height, width = image.shape[:2]
    spots = {
        (x, y): (signs[0] * x + signs[2] * y, signs[1] * x + signs[3] * y) for x in range(width) for y in range(height)
    }
    left, top = (min(place[axis] for place in spots.values()) for axis in (0, 1))
    wanted = np.zeros((*(image.shape[:2] if signs[0] else image.shape[1::-1]), 3), int)
    for (x, y), (u, v) in spots.items():
        wanted[v - top, u - left] = image[y, x]
    found = next(frames(path)).image
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).mean() < 12


def test_upright_videos_have_no_mirror(tmp_path):
    path = parts.write_video(tmp_path / "v.mp4", [parts.frame((8, 8))] * 2, codec="mp4v")
    assert mirrored(path) is None
    assert mirrored(parts.save(tmp_path / "a.png", parts.picture())) is None
    image = parts.picture()
    np.testing.assert_array_equal(turned(image, (65536, 0, 0, 65536)), image)


class Capture:
    """What OpenCV says of a video."""

    def __init__(self, wide: tuple[float, float], turn: float = 0.0) -> None:
        import cv2

        self.said = {cv2.CAP_PROP_SAR_NUM: wide[0], cv2.CAP_PROP_SAR_DEN: wide[1], cv2.CAP_PROP_ORIENTATION_META: turn}

    def get(self, name: int) -> float:
        return self.said[name]


@pytest.mark.parametrize(("wide", "turn", "size"), [
    ((4, 3), 0, (40, 80)), ((4, 3), 90, (53, 60)), ((8, 9), 0, (45, 60)), ((0, 1), 0, (40, 60)), ((1, 1), 0, (40, 60)),
    ((1, 0), 0, (40, 60)), ((100, 1), 0, (40, 60)),
])  # fmt: skip
def test_pixels_that_are_not_square(wide, turn, size):
    image = np.zeros((40, 60, 3), np.uint8)
    assert as_shown(Capture(wide, turn), 0)(image).shape == (*size, 3)
    assert stretched(image, 1.0) is image


def sound_file(path: Path) -> Path:
    def box(name: bytes, *content: bytes) -> bytes:
        return struct.pack(">I4s", 8 + sum(map(len, content)), name) + b"".join(content)

    track = box(b"trak", box(b"mdia", box(b"hdlr", bytes(8), b"soun", bytes(12))))
    path.write_bytes(box(b"ftyp", b"isom", bytes(4)) + box(b"moov", track) + box(b"mdat", bytes(64)))
    return path


def test_what_holds_no_pictures_is_told(tmp_path):
    video = parts.write_video(tmp_path / "v.mp4", [parts.frame((8, 8))] * 9, codec="mp4v")
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(video.read_bytes()[:-200])
    assert only_sound(sound_file(tmp_path / "s.mp4"))
    assert not only_sound(video)
    for name, content, words in (
        ("a.mp4", b"", "empty file"), ("b.mp4", b"%PDF-1.7\n", "a PDF document, not a picture"), ("c.mp4", b"hello", "a text file"),
        ("d.wav", b"RIFF\x00\x00\x00\x00WAVEfmt ", "only sound"), ("e.mp3", b"ID3\x03\x00", "only sound"),
        ("f.webm", bytes(99), "video without a readable frame: only sound, pictures of a kind that is not known, or damaged"),
        ("g.psd", b"8BPS\x00\x01", "a Photoshop document"), ("h.cr3", b"\x00\x00\x00\x18ftypcrx ", "a camera's raw picture"),
    ):  # fmt: skip
        (tmp_path / name).write_bytes(content)
        assert str(reasons(tmp_path / name)[0]).startswith(words), name
    assert reasons(tmp_path / "s.mp4") == ["only sound, without pictures"]
    assert reasons(cut) == ["a damaged video: the file is cut off, and no frame can be read"]


@pytest.mark.parametrize("note", [{254: 1}, {50706: b"\x01\x04\x00\x00"}])
def test_the_preview_of_a_raw_picture_is_not_taken_for_it(tmp_path, note):
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    notes = ImageFileDirectory_v2()
    for number, value in note.items():
        notes.tagtype[number] = 4 if isinstance(value, int) else 1
        notes[number] = value
    Image.fromarray(parts.picture()).save(tmp_path / "a.tif", tiffinfo=notes)
    assert str(reasons(tmp_path / "a.tif")[0]).startswith("a camera's raw picture")
    Image.fromarray(parts.picture()).save(tmp_path / "b.tif")
    assert load_picture(tmp_path / "b.tif").shape == parts.picture().shape


def test_a_stream_that_changes_its_size_is_drawn(tmp_path):
    with Album(tmp_path / "drawn") as album:
        for k, size in enumerate([(160, 96), (160, 96), (320, 192), (160, 96)]):
            picture = Picture("v.ts", parts.frame((8, 8), size=size), None, k, k / 10, size, 10.0)
            album.add(picture, PicturePrediction("v.ts", *size, (), "no face found", k, k / 10))
    (drawn,) = (tmp_path / "drawn").iterdir()
    assert [found.size for found in frames(drawn)] == [(480, 288)] * 4


def test_photos_of_browsers_and_old_cameras_are_found_in_a_folder(tmp_path):
    for name in ("a.jfif", "b.jpe", "c.mpo", "d.ppm"):
        Image.fromarray(parts.picture()).save(tmp_path / name, "PPM" if name == "d.ppm" else "JPEG")
    assert [path.name for path, _ in files_of([tmp_path])] == ["a.jfif", "b.jpe", "c.mpo", "d.ppm"]
