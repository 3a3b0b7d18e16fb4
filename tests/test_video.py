"""Videos as they are: times of the stream, damage only where there is some, streams that break, files that are playlists."""

import fractions
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import predict_parts as parts
import pytest

from mien.errors import DataError, UsageError
from mien.faces import films, live, video
from mien.faces.containers import cut_off, only_sound, tracks_of, trimmed
from mien.faces.live import address_of, live_shots, shown
from mien.faces.video import End, Shot, moment_of, shots
from mien.predict.overlay import Album
from mien.predict.results import PicturePrediction
from mien.predict.sources import files_of, frames, pictures_in

MILLISECONDS = [0, 100, 150, 400, 1000, 1040, 1500, 1501, 2000, 2300]


def encode(path: Path, milliseconds: list[int], b_frames: int = 0, start: int = 0) -> Path:
    """A video whose frames are shown at given times; frame k is grey 20 k."""
    av = pytest.importorskip("av")
    base = fractions.Fraction(1, 1000)
    with av.open(str(path), "w") as file:
        stream = file.add_stream(
            "libx264" if b_frames else "mpeg4", rate=10, options={"bf": str(b_frames)} if b_frames else {}
        )
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        stream.codec_context.time_base = stream.time_base = base
        for k, moment in enumerate(milliseconds):
            frame = av.VideoFrame.from_ndarray(np.full((96, 160, 3), 20 * k, np.uint8), format="rgb24")
            frame.pts, frame.time_base = moment + start, base
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


@pytest.mark.parametrize("ending", ["mp4", "mkv", "mov", "avi", "ts"])
@pytest.mark.parametrize(("b_frames", "start"), [(0, 0), (3, 0), (3, 2000)])
def test_times_are_those_of_the_stream(tmp_path, ending, b_frames, start):
    if ending == "avi" and (b_frames or start):
        pytest.skip("AVI has no timestamps")
    moments = MILLISECONDS if ending != "avi" else list(range(0, 1000, 100))
    path = encode(tmp_path / f"v.{ending}", moments, b_frames, start)
    found = list(frames(path))
    assert [picture.reason for picture in found] == [None] * 10
    np.testing.assert_allclose([picture.time for picture in found], np.array(moments) / 1000, atol=0.0015)
    levels = [picture.image.mean() for picture in found]
    assert np.abs(np.array(levels) - 20 * np.arange(10)).max() < 6  # in the order in which they are shown


def test_constant_rates_keep_their_times_and_nothing_is_said_to_be_damaged(tmp_path):
    for name, codec in (("v.avi", "MJPG"), ("v.mp4", "mp4v"), ("v.webm", "VP80"), ("v.mkv", "MJPG")):
        path = parts.write_video(tmp_path / name, [parts.frame((4 + k, 4)) for k in range(9)], rate=12.5, codec=codec)
        found = list(frames(path))
        assert [picture.reason for picture in found] == [None] * 9, name
        np.testing.assert_allclose([picture.time for picture in found], np.arange(9) / 12.5, atol=0.0015, err_msg=name)


def test_a_part_of_a_video(tmp_path):
    path = parts.write_video(tmp_path / "v.mp4", [parts.frame((4 + k, 4)) for k in range(30)], codec="mp4v")
    assert [p.frame for p in frames(path, 1, 0.5, 1.0)] == [10, 11, 12, 13, 14]
    assert [p.frame for p in frames(path, 7, 0.0, 1.0)] == [14, 21, 28]
    assert [p.reason for p in frames(path, 1, 0.0, 9.0)] == ["the video ends before --start 9"]
    for every, seconds, start in ((100, 0.0, 1.0), (1, 0.01, 1.02)):  # between two frames that are taken
        reasons = [p.reason for p in frames(path, every, seconds, start)]
        assert reasons == ["no frame of this video lies in the part that --start, --seconds and --every take"]


@pytest.mark.parametrize(("position", "number", "rate", "before", "wanted"), [
    (0.0, 0, 25.0, 0.0, 0.0), (0.04, 1, 25.0, 0.0, 0.04), (0.5, 1, 25.0, 0.0, 0.5),  # as the stream says
    (0.0, 3, 25.0, 0.08, 0.12), (float("nan"), 5, 10.0, 0.4, 0.5),  # it says nothing: counted
    (0.4, 9, 25.0, 0.5, 0.5), (0.0, 9, 25.0, 0.9, 0.9), (-0.1, 0, 25.0, 0.0, 0.0),  # never back
])  # fmt: skip
def test_a_moment(position, number, rate, before, wanted):
    assert moment_of(position, number, rate, before) == pytest.approx(wanted)


def boxes_of(content: bytes, name: bytes) -> int:
    return content.index(name) - 4


def test_rotated_videos_are_turned_upright(tmp_path):
    image = parts.frame((8, 8))
    path = parts.write_video(tmp_path / "v.mp4", [image] * 3, codec="mp4v")
    content = bytearray(path.read_bytes())
    place = boxes_of(content, b"tkhd") + 8 + 40
    assert struct.unpack(">I", content[place : place + 4]) == (65536,)
    struct.pack_into(">9i", content, place, 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    found = next(iter(frames(path)))
    assert found.size == (96, 160)
    turned = np.rot90(image, -1)
    assert np.abs(found.image.astype(int) - turned).mean() < 12


def with_edit(path: Path, shown: int, first: int) -> None:
    """Give an MP4 of OpenCV's an edit list that shows `shown` ticks from `first` on: what trimming on a phone does."""
    content = path.read_bytes()
    elst = struct.pack(">I4sIIIiHH", 28, b"elst", 0, 1, shown, first, 1, 0)
    edts = struct.pack(">I4s", 36, b"edts") + elst
    at = content.find(b"edts") - 4
    if at > 0:
        (size,) = struct.unpack(">I", content[at : at + 4])
        content = content[:at] + content[at + size :]
        grown = 36 - size
    else:
        at, grown = boxes_of(content, b"mdia"), 36
    content = bytearray(content[:at] + edts + content[at:])
    for name in (b"moov", b"trak"):
        place = boxes_of(content, name)
        (size,) = struct.unpack(">I", content[place : place + 4])
        struct.pack_into(">I", content, place, size + grown)
    assert content.index(b"mdat") < content.index(b"moov")  # so that offsets into it stay
    path.write_bytes(content)


def test_a_trimmed_video_is_not_damaged(tmp_path):
    path = parts.write_video(tmp_path / "v.mp4", [parts.frame((4 + k, 4)) for k in range(30)], codec="mp4v")
    assert trimmed(path) is False
    with_edit(path, 1000, 10240 * 2)
    assert trimmed(path) is True
    found = list(frames(path))
    assert [picture.reason for picture in found] == [None] * len(found)
    assert 8 <= len(found) <= 12
    assert found[0].time == 0
    assert np.diff([picture.time for picture in found]) == pytest.approx(0.1, abs=0.002)


@pytest.mark.parametrize(
    ("name", "codec"), [("v.mp4", "mp4v"), ("v.avi", "MJPG"), ("v.webm", "VP80"), ("v.mkv", "MJPG")]
)
def test_damage_is_said_of_files_that_are_cut_off(tmp_path, name, codec):
    path = parts.write_video(tmp_path / name, [parts.frame((4 + k, 4)) for k in range(30)], codec=codec)
    assert not cut_off(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    assert cut_off(path)
    last = list(frames(path))[-1]
    assert last.image is None
    assert "damaged" in last.reason


def test_a_track_without_a_handler_is_of_no_kind(tmp_path):
    box = lambda name, content: (8 + len(content)).to_bytes(4, "big") + name + content  # noqa: E731
    path = tmp_path / "x.mp4"
    path.write_bytes(box(b"ftyp", b"isom") + box(b"moov", box(b"trak", box(b"mdia", box(b"free", b"")))))
    assert [track.kind for track in tracks_of(path)] == [b""]
    assert not only_sound(path)


def test_a_beginning_of_a_container_is_cut_off_where_it_announces_more(tmp_path):
    path = tmp_path / "x.mp4"
    more = (b"\0\0\0\x18ftypmp42", b"\0\0\0\x01mdat" + b"\xff" * 8)
    for content in (b"", b"ftyp", b"\x1aE\xdf\xa3", b"RIFF", bytes(40), *more):
        path.write_bytes(content)
        assert not trimmed(path)
        assert cut_off(path) == (content in more)


@pytest.mark.parametrize("text", ["ffconcat version 1.0\nfile other.avi\n", "#EXTM3U\n#EXTINF:10,\nother.avi\n#EXT-X-ENDLIST\n",
                                  "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n"])  # fmt: skip
def test_a_playlist_is_no_video_whatever_its_name(tmp_path, text):
    parts.write_video(tmp_path / "other.avi", [parts.frame((4, 4))] * 3)
    path = tmp_path / "v.mp4"
    path.write_text(text)
    (found,) = pictures_in(path, None)
    assert str(found.reason).startswith(("a text file", "video without a readable frame"))


def test_addresses():
    assert address_of(str(Path("rtsp://host:554/a"))) == "rtsp://host:554/a"
    assert address_of("HTTP://host/a.mjpg") == "http://host/a.mjpg"
    assert address_of("http:/") is None
    assert address_of("C:/x.mp4") is None
    assert address_of("folder/x.mp4") is None
    assert shown("rtsp://name:secret@host/a") == "rtsp://host/a"
    assert list(files_of([Path("rtsp://host/a")])) == [(Path("rtsp://host/a"), None)]


class Stream:
    """Stands in for cv2.VideoCapture of a network stream: `count` frames at `rate`, then it is lost."""

    def __init__(self, count: int, first: int = 0, step: float = 0.005) -> None:
        self.count, self.at, self.step, self.released = count, first, step, False

    def isOpened(self):
        return self.count > 0

    def get(self, _):
        return 0.0

    def read(self):
        time.sleep(self.step)
        self.count -= 1
        if self.count < 0:
            return False, None
        self.at += 1
        return True, np.full((4, 4, 3), self.at % 256, np.uint8)

    def release(self):
        self.released = True


def test_late_frames_are_dropped_and_a_lost_stream_is_opened_again(capsys):
    made = []

    def connect(address):
        made.append(Stream([40, 0, 0, 1000][min(len(made), 3)], 100 * len(made)))
        return made[-1]

    found = []
    pauses = []
    for shot in live_shots("rtsp://name:secret@h/a", 1, 0.0, 1.2, connect, pauses.append):
        found.append(shot)
        time.sleep(0.05)  # nets that are slower than the stream
    numbers = [shot.number for shot in found]
    assert numbers == sorted(set(numbers))
    assert 5 < len(found) < 30
    assert numbers[-1] > 3 * len(found)  # the others were dropped, none waited
    assert [shot.time for shot in found] == sorted(shot.time for shot in found)
    assert pauses == [0.5, 1.0, 2.0]
    assert made[0].released
    told = capsys.readouterr().err
    assert "rtsp://h/a: the stream ended; connecting again" in told
    assert "secret" not in told
    assert all(thread.name != "stream" for thread in threading.enumerate())


def test_a_stream_that_is_not_there_is_told(monkeypatch):
    with pytest.raises(DataError, match="rtsp://h/a cannot be opened"):
        list(live_shots("rtsp://u:p@h/a", 1, 0.0, 1.0, lambda address: Stream(0)))
    monkeypatch.setattr(video, "OPEN_MS", 300)
    with pytest.raises(DataError, match=r"http://127\.0\.0\.1:9/x cannot be opened"):
        list(frames("http://127.0.0.1:9/x"))
    assert live.PAUSES[-1] == 10


def test_shots_of_nothing(tmp_path):
    assert list(shots(tmp_path / "gone.mp4")) == []
    path = parts.write_video(tmp_path / "v.avi", [parts.frame()] * 3)
    assert [type(shot) for shot in shots(path)] == [Shot] * 3
    path.write_bytes(path.read_bytes()[:-300])
    assert isinstance(list(shots(path))[-1], End)


# overlays


def overlaid(path: Path, folder: Path, every: int = 1, start: float = 0.0) -> Path:
    """The annotated video of a file, without faces."""
    with Album(folder) as album:
        for picture in frames(path, every, 0.0, start):
            album.add(
                picture, PicturePrediction(picture.source, 160, 96, (), "no face found", picture.frame, picture.time)
            )
    (made,) = folder.iterdir()
    return made


@pytest.mark.parametrize("pyav", [False, True])
def test_overlays_keep_times(tmp_path, monkeypatch, pyav):
    if pyav:
        pytest.importorskip("av")
    monkeypatch.setattr(films, "has_av", lambda: pyav)
    path = parts.write_video(tmp_path / "v.mp4", [parts.frame((4 + k, 4)) for k in range(25)], codec="mp4v")
    made = overlaid(path, tmp_path / "all")
    np.testing.assert_allclose([p.time for p in frames(made)], np.arange(25) / 10, atol=0.002)
    part = list(frames(overlaid(path, tmp_path / "part", 2, 1.0)))
    assert part[-1].time == pytest.approx(1.4, abs=0.21)
    assert len(part) == 8


def test_overlays_keep_variable_times(tmp_path):
    path = encode(tmp_path / "v.mkv", MILLISECONDS, 3, 2000)
    made = overlaid(path, tmp_path / "over")
    np.testing.assert_allclose([p.time for p in frames(made)], np.array(MILLISECONDS) / 1000, atol=0.002)


def with_sound(path: Path, seconds: float) -> Path:
    """10 frames a second, and a tone that begins at one second."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as file:
        stream, sound = file.add_stream("mpeg4", rate=10), file.add_stream("aac", rate=16000)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for k in range(round(seconds * 10)):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(parts.frame((4 + k, 4)), format="rgb24")))
        file.mux(stream.encode())
        moments = np.arange(int(seconds * 16000)) / 16000
        wave = (0.5 * np.sin(2 * np.pi * 440 * moments) * (moments >= 1)).astype(np.float32)
        for at in range(0, len(wave) - 1024, 1024):
            part = av.AudioFrame.from_ndarray(wave[None, at : at + 1024], format="fltp", layout="mono")
            part.sample_rate, part.pts = 16000, at
            file.mux(sound.encode(part))
        file.mux(sound.encode())
    return path


def heard(path: Path) -> tuple[float, float]:
    """When the tone begins, and how long the sound is."""
    av = pytest.importorskip("av")
    with av.open(str(path)) as file:
        parts_ = [(frame.time, frame.to_ndarray()[0], frame.sample_rate) for frame in file.decode(audio=0)]
    loud = [time + np.abs(wave).argmax() / rate for time, wave, rate in parts_ if np.abs(wave).max() > 0.2]
    return loud[0], parts_[-1][0] + len(parts_[-1][1]) / parts_[-1][2]


@pytest.mark.parametrize(("start", "begins"), [(0.0, 1.0), (0.5, 0.5)])
def test_overlays_keep_the_sound(tmp_path, start, begins):
    path = with_sound(tmp_path / "v.mp4", 3.0)
    made = overlaid(path, tmp_path / "over", 1, start)
    first, length = heard(made)
    assert first == pytest.approx(begins, abs=0.1)
    assert length == pytest.approx(3.0 - start, abs=0.2)


def test_sound_that_an_mp4_cannot_hold_is_left_out(tmp_path):
    path = parts.write_video(tmp_path / "v.avi", [parts.frame()] * 3)
    assert len(list(frames(overlaid(path, tmp_path / "over")))) == 3


FULL = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import predict_parts as parts
from mien.faces import films
from mien.predict.overlay import Album
from mien.predict.sources import frames
from mien.predict.results import PicturePrediction
films.has_av = lambda: {pyav}
path, folder = Path({path!r}), Path({folder!r})
folder.mkdir()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
try:
    with Album(folder) as album:
        for picture in frames(path):
            album.add(picture, PicturePrediction(picture.source, 160, 96, (), "no face found", picture.frame, picture.time))
except Exception as error:
    print(type(error).__name__, error)
print(sorted(path.suffix for path in folder.iterdir()))
"""


@pytest.mark.parametrize("pyav", [False, True])
def test_a_full_disk_leaves_no_video_that_cannot_be_opened(tmp_path, pyav):
    pytest.importorskip("resource")
    if pyav:
        pytest.importorskip("av")
    noise = [np.random.default_rng(k).integers(0, 255, (96, 160, 3), dtype=np.uint8) for k in range(20)]
    path = parts.write_video(tmp_path / "v.avi", noise)
    code = FULL.format(tests=str(Path(__file__).parent), pyav=pyav, path=str(path), folder=str(tmp_path / "over"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    error, left = done.stdout.splitlines()
    assert error.startswith("DataError cannot write '")
    assert left == "[]"


# from Python


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    import tiny

    import mien
    from mien.training.loop import fit

    out = tmp_path_factory.mktemp("runs") / "run"
    fit(tiny.recipe(tiny.store(tmp_path_factory.mktemp("data") / "store", each=2).path, optim={"epochs": 1}), out)
    return mien.load(out, faces=parts.find)


def test_predict_video_gives_frame_after_frame(model, tmp_path, monkeypatch):
    made = [parts.frame((4 + k, 4), (90 - k, 8)) for k in range(30)]
    path = parts.write_video(tmp_path / "v.avi", made)
    found = model.predict_video(path, start=0.5, seconds=1.0, every=2, smooth=0.3)
    first = next(found)
    assert (first.frame, first.time, [face.track for face in first.faces]) == (6, pytest.approx(0.6), [1, 2])
    rest = list(found)
    assert [one.frame for one in rest] == [8, 10, 12, 14]
    assert all([face.track for face in one.faces] == [1, 2] for one in rest)
    with pytest.raises(UsageError, match="every at least 1"):
        model.predict_video(path, every=0)
    streams = [Stream(1000)]
    monkeypatch.setattr(live, "open_capture", lambda address: streams.pop())
    monkeypatch.setattr("mien.predict.sources.live_shots", lambda address, every, start, end: live_shots(
        address, every, start, end, live.open_capture))  # fmt: skip
    seen = list(model.predict_video("rtsp://h/a", seconds=0.4))
    assert seen
    assert seen[0].source == "rtsp://h/a"
