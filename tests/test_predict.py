"""`mien predict`: photos, folders, videos, lists and a camera become rows and pictures; nothing is lost in silence."""

import csv
import errno
import inspect
import io
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import predict_parts as parts
import pyarrow.parquet as pq
import pytest
import tiny
from PIL import Image

from mien.cli import main
from mien.errors import DataError
from mien.faces.films import writable
from mien.faces.units import strength_names
from mien.predict import predict
from mien.predict.calibration import FILE
from mien.predict.overlay import Album, annotated, label, legend
from mien.predict.results import Explanation, FacePrediction, PicturePrediction
from mien.predict.rows import Layout, columns
from mien.predict.runtimes import Answers
from mien.predict.sources import Picture, files_of, frames, is_video
from mien.predict.writers import open_writer
from mien.training.loop import fit


@pytest.fixture(autouse=True)
def noise_is_no_cover(monkeypatch):
    """The faces of these pictures are noise, which looks covered."""
    monkeypatch.setattr("mien.faces.quality.covered_share", lambda view: 0.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tiny.store(tmp_path_factory.mktemp("data") / "store").path
    out = tmp_path_factory.mktemp("runs") / "run"
    fit(tiny.recipe(path, guidance={"weight": 1.0}, optim={"epochs": 1}), out)
    return out


@pytest.fixture(autouse=True)
def provider(monkeypatch):
    monkeypatch.setattr("mien.predict.finders.open_provider", lambda name, model=None: parts.find)
    monkeypatch.setattr("mien.predict.limits.read_limits", dict)  # flat grey frames have no contrast


@pytest.fixture
def folder(tmp_path):
    """Two faces in a picture, one in another, none, and a damaged file."""
    here = tmp_path / "photos"
    (here / "deep").mkdir(parents=True)
    parts.save(here / "a.png", parts.picture((5, 5), (90, 9)))
    parts.save(here / "deep" / "b.png", parts.picture((20, 20), seed=1))
    parts.save(here / "c.png", parts.picture(seed=2))
    (here / "d.jpg").write_bytes(b"no picture")
    (here / "notes.txt").write_text("not read")
    return here


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_rows_of_a_folder(run, folder, tmp_path, capsys):
    out = tmp_path / "out" / "rows.csv"
    counts = predict(folder, run=run, out=out)
    assert counts == {"pictures": 4, "faces": 3, "without_face": 2, "unreadable": 1}
    rows = read_csv(out)
    assert [(Path(row["source"]).name, row["face"], row["faces"], row["reason"]) for row in rows] == [
        ("a.png", "1", "2", ""),
        ("a.png", "2", "2", ""),
        ("c.png", "", "0", "no face found"),
        ("d.jpg", "", "0", "a text file, not a picture"),
        ("b.png", "1", "1", ""),
    ]
    classes = tiny.NAMES
    assert list(rows[0]) == list(columns(Layout(classes, strength_names(), True)))
    assert {row["schema_version"] for row in rows} == {"1"}
    for row in (rows[0], rows[1], rows[4]):
        assert sum(float(row[f"p_{name}"]) for name in classes) == pytest.approx(1, abs=1e-4)
        assert float(row["confidence"]) == max(float(row[f"p_{name}"]) for name in classes)
        assert row["abstained"] == "false"
        assert row["words"].startswith(f"{row['expression']} rather than {row['runner_up']}")
    shown = capsys.readouterr()
    assert "3 faces in 4 pictures, 2 without a face, 1 of them unreadable" in shown.out
    assert shown.err.count("mien: ") == 2
    assert "d.jpg: a text file, not a picture." in shown.err
    assert not list(out.parent.glob("*.tmp"))


def test_the_three_tables_agree(run, folder, tmp_path):
    files = [tmp_path / f"rows{ending}" for ending in (".csv", ".jsonl", ".parquet")]
    for file in files:
        predict(folder, run=run, out=file, fast=True)
    rows = read_csv(files[0])
    lines = [json.loads(line) for line in files[1].read_text().splitlines()]
    table = pq.read_table(files[2])
    assert table.schema.metadata[b"mien.predict.schema_version"] == b"1"
    assert list(rows[0]) == list(lines[0]) == table.column_names
    for row, line, cells in zip(rows, lines, table.to_pylist(), strict=True):
        for name, value in cells.items():
            if value is None:
                assert (row[name], line[name]) == ("", None)
            elif isinstance(value, bool):
                assert (row[name], line[name]) == (str(value).lower(), value)
            elif isinstance(value, float):
                assert float(row[name]) == line[name] == pytest.approx(value, rel=1e-5)
            else:
                assert (row[name], line[name]) == (str(value), value)


def test_names_that_are_not_utf_8(run, tmp_path, monkeypatch, capsys):
    folder, odd = tmp_path / "photos", os.fsdecode(b"caf\xe9")
    folder.mkdir()
    try:
        parts.save(folder / f"{odd}.png", parts.picture((5, 5)))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    parts.save(folder / "a.png", parts.picture((5, 5)))
    (folder / f"{odd}.avi").write_bytes(b"anything")
    for ending in (".csv", ".jsonl", ".parquet"):
        counts = predict(folder, run=run, out=tmp_path / f"r{ending}", overlay=tmp_path / "over", explain="none")
        assert counts == {"pictures": 3, "faces": 2, "without_face": 1, "unreadable": 1}
    sources = [Path(name).name for name in pq.read_table(tmp_path / "r.parquet")["source"].to_pylist()]
    assert sources == ["a.png", "caf\\udce9.avi", "caf\\udce9.png"]
    assert len(list((tmp_path / "over").iterdir())) == 2
    listed = io.TextIOWrapper(io.BytesIO(os.fsencode(folder / f"{odd}.png")))
    monkeypatch.setattr(sys, "stdin", listed)
    assert predict(Path("-"), run=run, explain="none")["faces"] == 1
    with pytest.raises(DataError, match="none of 1 pictures"):
        predict(folder / f"{odd}.avi", run=run, explain="none")
    assert "path is not UTF-8" in capsys.readouterr().err


def test_without_out_the_faces_are_printed(run, folder, capsys):
    predict(folder / "a.png", run=run, explain="none")
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert len(lines) == 2  # rows alone, so that they can be piped on
    assert "a.png  face 2  " in lines[1]
    assert told.err.startswith("2 faces in 1 picture (run run, cpu)")


def test_exit_codes(run, folder, tmp_path, capsys):
    words = ["--run", str(run), "--explain", "none"]
    assert main(["predict", str(folder), *words]) == 0
    assert main(["predict", str(folder / "c.png"), *words]) == 0  # no face is an answer
    assert main(["predict", str(folder / "d.jpg"), str(folder / "a.png"), *words]) == 0
    out = tmp_path / "rows.csv"
    assert main(["predict", str(folder / "d.jpg"), str(tmp_path / "gone.jpg"), *words, "--out", str(out)]) == 1
    assert [row["reason"] for row in read_csv(out)] == ["a text file, not a picture", "no such file"]
    assert "none of 2 pictures could be read" in capsys.readouterr().err
    for wrong in (
        [],
        ["a.png", "--camera", "0"],
        ["a.png", "--out", "rows.xlsx"],
        ["a.png", "--every", "0"],
        ["a.png", "--smooth", "-1"],
        ["a.png", "--explain", "camm"],
        ["a.png", "--camara", "0"],
        ["a.png", "--device", "gpu"],
    ):
        assert main(["predict", *wrong, "--run", str(run)]) == 2, wrong
        assert capsys.readouterr().err.count("\n") == 1


def test_counts_are_numbers(run, folder, capsys):
    predict(folder / "c.png", run=run, explain="none")
    assert "0 faces in 1 picture, 1 without a face (run" in capsys.readouterr().err


def test_a_doubtful_face_is_no_unreadable_file(run, folder, capsys):
    counts = predict(folder / "a.png", run=run, explain="none", least_face=0.95)
    assert counts == {"pictures": 1, "faces": 0, "without_face": 1, "unreadable": 0}
    assert "a.png: no face found (best confidence 0.90, under 0.95)." in capsys.readouterr().err


def test_the_number_of_files_is_told_before_the_first_is_answered(run, folder, monkeypatch, tmp_path):
    said = []
    monkeypatch.setattr(Answers, "expect", lambda self, files: said.append(files))
    predict(folder, run=run, explain="none", out=tmp_path / "r.csv")
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(str(folder / "a.png").encode())))
    predict("-", run=run, explain="none", out=tmp_path / "s.csv")
    assert said == [4, None]


def test_pictures_that_were_drawn_are_not_read_again(run, folder, tmp_path):
    photos = tmp_path / "mine"
    shutil.copytree(folder, photos)
    first = predict(photos, run=run, overlay=photos / "drawn", explain="none")
    assert sorted((photos / "drawn").iterdir())
    assert predict(photos, run=run, explain="none") == first
    (one, *_) = (photos / "drawn").glob("a-*.png")
    assert predict(one, run=run, explain="none")["pictures"] == 1  # named itself it is


def test_annotated_pictures(run, folder, tmp_path):
    predict(folder, run=run, overlay=tmp_path / "over", out=tmp_path / "r.csv", fast=True)
    drawn = sorted(path.name.split("-")[0] for path in (tmp_path / "over").iterdir())
    assert drawn == ["a", "b", "c"]
    (path,) = (tmp_path / "over").glob("a-*.png")
    with Image.open(path) as image:
        assert image.size == (480, 288)  # enlarged three times, so that the labels can be read


def test_a_box_lies_where_the_face_is(run):
    from mien.predict.model import load

    image = parts.frame((10, 20), size=(640, 480))
    found = load(run, faces=parts.find).predict(image, explain="auto", masking=False, display=224)[0]
    drawn = annotated(image, found)
    assert drawn.shape == image.shape
    x0, y0, x1, y1 = (round(v) for v in found.faces[0].box)
    middle = (y0 + y1) // 2
    assert drawn[middle, x1].tolist() == pytest.approx([255, 196, 0], abs=40)
    inside, outside = drawn[middle, (x0 + x1) // 2], drawn[middle, x1 + 200]
    assert inside.tolist() != [110, 110, 110]  # the map
    assert outside.tolist() == [110, 110, 110]
    assert (drawn[-10:, :60] != image[-10:, :60]).any()  # the notice
    assert label(found.faces[0]) == f"{found.faces[0].expression} {found.faces[0].confidence:.0%}"


def test_the_map_lies_on_the_face():
    """A mark of the map at the nose is drawn at the nose, for a turned face in a large picture."""
    from mien.data.framing import Framing, frame_face
    from mien.faces.landmarks import five_points
    from mien.predict.overlay import with_map
    from mien.predict.results import Explanation, FacePrediction

    turn = np.array([[np.cos(0.5), -np.sin(0.5)], [np.sin(0.5), np.cos(0.5)]]) * 3
    points = (tiny.points(48) @ turn.T + [220, 60]).astype(np.float32)
    image = np.full((300, 400, 3), 128, np.uint8)
    framed = frame_face(image, points, None, Framing(48, 3, "x", False, five_points(tiny.points(48)).tolist()), 96)
    nose = framed.landmarks[30]
    values = np.zeros((48, 48), np.float32)
    values[round(float(nose[1])), round(float(nose[0]))] = 1
    explanation = Explanation("cam", "Fear", "Anger", values, values, None, None)
    face = FacePrediction(1, None, points, 1.0, {"Fear": 1.0}, "Fear", 1.0, False, "aligned", framed.display,
                          framed.placement, explanation=explanation)  # fmt: skip
    for scale in (1, 2):
        canvas = np.repeat(np.repeat(image, scale, 0), scale, 1)
        drawn = with_map(canvas, face, scale).astype(int)
        red = drawn[..., 0] - drawn[..., 2]
        y, x = np.unravel_index(red.argmax(), red.shape)
        assert np.allclose([x, y], (points[30] + 0.5) * scale - 0.5, atol=3 * scale)


@pytest.fixture
def video(tmp_path):
    """Two faces that walk; none in frames 4 and 5."""
    made = [parts.frame() if k in (4, 5) else parts.frame((4 + k, 4), (90 - k, 8)) for k in range(12)]
    return parts.write_video(tmp_path / "walk.avi", made)


def test_rows_of_a_video(run, video, tmp_path):
    out = tmp_path / "rows.csv"
    counts = predict(video, run=run, out=out, explain="none", batch=5)
    assert counts == {"pictures": 12, "faces": 20, "without_face": 2, "unreadable": 0}
    rows = read_csv(out)
    assert [row["frame"] for row in rows if row["reason"]] == ["4", "5"]
    assert [float(row["time"]) for row in rows if row["face"] in ("", "1")] == pytest.approx(
        [k / 10 for k in range(12)]
    )
    assert {(row["track"], row["face"]) for row in rows if row["face"]} == {("1", "1"), ("2", "2")}
    assert "method" not in rows[0]
    predict(video, run=run, out=out, explain="none", every=3, seconds=0.8)
    assert [row["frame"] for row in read_csv(out)] == ["0", "0", "3", "3", "6", "6"]


def test_smoothing_is_per_track(run, video, tmp_path):
    plain, smooth = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    predict(video, run=run, out=plain, explain="none")
    predict(video, run=run, out=smooth, explain="none", smooth=0.4)
    before, after = ([json.loads(line) for line in file.read_text().splitlines()] for file in (plain, smooth))
    for track in (1, 2):
        own, found = ([row for row in rows if row["track"] == track] for rows in (before, after))
        mean, last = own[0]["p_Fear"], own[0]["time"]
        for row, smoothed in zip(own, found, strict=True):
            weight = 1 - np.exp(-(row["time"] - last) / 0.4)
            mean, last = (1 - weight) * mean + weight * row["p_Fear"], row["time"]
            assert smoothed["p_Fear"] == pytest.approx(mean, abs=1e-5)


def test_a_video_that_is_named_twice_begins_again(run, video, tmp_path):
    once, twice = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    predict(video, run=run, out=once, explain="none", smooth=0.4)
    predict(video, video, run=run, out=twice, overlay=tmp_path / "over", explain="none", smooth=0.4)
    assert twice.read_text() == once.read_text() * 2
    assert sum(1 for _ in frames(next((tmp_path / "over").iterdir()))) == 12


def test_annotated_video(run, video, tmp_path):
    import cv2

    predict(video, run=run, overlay=tmp_path / "over", out=tmp_path / "r.csv", fast=True)
    (path,) = (tmp_path / "over").iterdir()
    assert path.suffix == ".mp4"
    capture = cv2.VideoCapture(str(path))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    count = 0
    while capture.read()[0]:
        count += 1
    assert count == 12


def test_the_video_of_a_camera_lasts_as_long_as_it_took(tmp_path, monkeypatch):
    monkeypatch.setattr("mien.faces.films.has_av", lambda: False)
    with Album(tmp_path) as album:
        for number, time in enumerate((0.0, 0.12, 0.5, 0.52)):
            shown = Picture("camera 0", parts.frame(), frame=number, time=time, size=(160, 96), rate=10.0)
            album.add(shown, PicturePrediction("camera 0", 160, 96, (), "no face found", number, time))
    (path,) = tmp_path.iterdir()
    assert sum(1 for _ in frames(path)) == 6


def test_every_frame_rate_becomes_one_of_mpeg_4(tmp_path):
    import cv2

    assert [writable(rate) for rate in (29.97, 23.976, 25, 120)] == [29.97, 23.976, 25, 120]
    for rate in (0.0004, 0.0694, 5.99, 65.537, 100.013, 119.967, 90000 / 750.3, 655.37, 999.99):
        file = cv2.VideoWriter(str(tmp_path / "a.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), writable(rate), (64, 64))
        assert file.isOpened(), rate
        assert writable(rate) == pytest.approx(rate, abs=0.05)


def test_a_video_that_cannot_be_written_is_left_out(run, video, tmp_path, monkeypatch, capsys):
    other = video.with_name("run.avi")
    shutil.copy(video, other)
    rates = iter([10.0, 0.0, 10.0])
    monkeypatch.setattr("mien.faces.films.has_av", lambda: False)
    monkeypatch.setattr("mien.faces.films.writable", lambda _: next(rates))
    out = tmp_path / "over"
    predict(video, other, other, run=run, overlay=out, out=tmp_path / "r.csv", explain="none")
    assert sorted(path.name.split("-")[0] for path in out.iterdir()) == ["run", "walk"]
    assert "run-" in (line := capsys.readouterr().err)
    assert line.count("cannot write this video; it is left out") == 1
    assert len(read_csv(tmp_path / "r.csv")) == 66


def test_videos_that_cannot_be_used(run, video, tmp_path):
    empty, text = tmp_path / "empty.mp4", tmp_path / "text.avi"
    empty.write_bytes(b"")
    text.write_text("no video " * 20)
    cut = tmp_path / "cut.avi"
    cut.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    picture = parts.save(tmp_path / "picture.png", parts.picture((9, 9))).rename(tmp_path / "named.mp4")
    renamed = tmp_path / "video.jpg"
    renamed.write_bytes(video.read_bytes())
    out = tmp_path / "rows.csv"
    predict(empty, text, cut, picture, renamed, run=run, out=out, explain="none")
    reasons = {}
    for row in read_csv(out):
        reasons.setdefault(Path(row["source"]).name, []).append(row["reason"])
    assert reasons["empty.mp4"] == ["empty file"]
    assert reasons["text.avi"] == ["a text file, not a picture"]
    assert reasons["named.mp4"] == [""]
    assert len(reasons["video.jpg"]) == 22
    assert reasons["cut.avi"][-1].startswith(("the video ends here", "a damaged video"))


@pytest.mark.parametrize("read", ["list", "picture", "nothing"])
def test_standard_input(run, folder, tmp_path, monkeypatch, read):
    text = f"{folder / 'a.png'}\n\n{folder / 'deep'}\n{folder / 'gone.png'}\n".encode()
    given = {"list": text, "picture": (folder / "a.png").read_bytes(), "nothing": b""}[read]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
    out = tmp_path / "rows.csv"
    if read == "nothing":
        with pytest.raises(DataError, match="nothing came on standard input"):
            predict(Path("-"), run=run, out=out)
        return
    predict(Path("-"), run=run, out=out, explain="none")
    sources = [Path(row["source"]).name for row in read_csv(out)]
    assert sources == {"list": ["a.png", "a.png", "b.png", "gone.png"], "picture": ["standard input"] * 2}[read]


class Camera:
    """Stands in for cv2.VideoCapture: five frames, then Ctrl-C."""

    def __init__(self, number, *_):
        assert number == 0
        self.left = 5

    def isOpened(self):
        return True

    def get(self, _):
        return 0.0

    def grab(self):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return True

    def retrieve(self):
        return True, parts.frame((10, 10))[:, :, ::-1]

    def release(self):
        pass


def test_a_camera_is_read_until_it_is_stopped(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("cv2.VideoCapture", Camera)
    out = tmp_path / "rows.csv"
    assert main(["predict", "--camera", "0", "--run", str(run), "--out", str(out), "--explain", "none"]) == 0
    rows = read_csv(out)
    assert [(row["source"], row["track"]) for row in rows] == [("camera 0", "1")] * 5
    times = [float(row["time"]) for row in rows]
    assert times == sorted(times)
    assert "5 faces in 5 pictures" in capsys.readouterr().out


def test_no_camera(run):
    with pytest.raises(DataError, match="no camera 77"):
        predict(run=run, camera=77)


def test_what_was_done_is_kept_when_it_is_stopped(run, video, tmp_path, monkeypatch, capsys):
    def stopped(*words):
        for k, found in enumerate(frames(*words)):
            if k == 7:
                raise KeyboardInterrupt
            yield found

    monkeypatch.setattr("mien.predict.sources.frames", stopped)
    out, over = tmp_path / "rows.csv", tmp_path / "over"
    out.write_text("older and whole")
    words = ["--run", str(run), "--out", str(out), "--overlay", str(over), "--explain", "none", "--batch", "2"]
    assert main(["predict", str(video), *words]) == 130
    assert out.read_text() == "older and whole"
    assert len(read_csv(tmp_path / "rows.part.csv")) > 5
    assert [path.suffixes for path in over.iterdir()] == [[".part", ".mp4"]]
    told = capsys.readouterr().err
    assert f"the rows until then are in {tmp_path / 'rows.part.csv'}" in told
    assert "mien: stopped; the same command starts over." in told


def write_rows(out: Path, rows: int, error: type[Exception] | None = None) -> None:
    with open_writer(out, Layout(("a",), (), False)) as writer:
        for _ in range(rows):
            writer.write(PicturePrediction("a.png", 1, 1, ()))
        if error is not None:
            raise error


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_an_error_leaves_the_old_table(tmp_path, ending):
    out, part = tmp_path / f"rows{ending}", tmp_path / f"rows.part{ending}"
    out.write_text("old")
    for rows in (0, 3):
        with pytest.raises(ZeroDivisionError):
            write_rows(out, rows, ZeroDivisionError)
        assert out.read_text() == "old"
        assert part.exists() == (rows > 0)
    assert (pq.read_table(part).num_rows if ending == ".parquet" else len(part.read_text().splitlines())) >= 3


def test_a_folder_that_is_a_file(run, folder, tmp_path):
    with pytest.raises(DataError, match="cannot write"):
        predict(folder / "a.png", run=run, out=folder / "a.png" / "below.csv", explain="none")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_leaves_the_old_table(tmp_path, capsys):
    out, part = tmp_path / "rows.csv", tmp_path / "rows.part.csv"
    out.write_text("old")
    part.symlink_to("/dev/full")
    with pytest.raises(DataError, match="disk is full"):
        write_rows(out, 3)
    assert out.read_text() == "old"
    assert "rows.part.csv" in capsys.readouterr().err


def test_a_parquet_file_without_its_end_is_not_kept(tmp_path, monkeypatch):
    def full(self):
        raise OSError(errno.ENOSPC, "No space left")

    monkeypatch.setattr("mien.predict.writers.ParquetWriter.flush", full)
    with pytest.raises(DataError, match="disk is full"):
        write_rows(tmp_path / "rows.parquet", 3)
    assert list(tmp_path.iterdir()) == []


def test_unsure_faces_say_so(run, folder, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (copy / FILE).write_text('{"temperature": 1.0, "threshold": 1.0}')
    out = tmp_path / "rows.csv"
    predict(folder / "a.png", run=copy, explain="none")
    predict(folder / "a.png", run=copy, explain="none", out=out)
    shown = capsys.readouterr().out
    assert shown.count("(unsure)") == 2
    assert "2 unsure" in shown
    assert [row["abstained"] for row in read_csv(out)] == ["true", "true"]


def test_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
    parts.save(tmp_path / "b.png", parts.picture())
    (tmp_path / "a").mkdir()
    real = __import__("os").scandir

    def scandir(path):
        if Path(path).name == "a":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr("mien.predict.sources.os.scandir", scandir)
    assert list(files_of([tmp_path], io.BytesIO())) == [
        (tmp_path / "a", "folder cannot be read (Permission denied)"),
        (tmp_path / "b.png", None),
    ]


def test_paths_that_cannot_be(tmp_path):
    file = parts.save(tmp_path / "a.png", parts.picture())
    wrong = [tmp_path / "gone.png", file / "below.png", Path("a\0b"), tmp_path / ("x" * 300)]
    reasons = [reason for _, reason in files_of([*wrong, file])]
    assert reasons[:3] == ["no such file"] * 3
    assert reasons[3].startswith("cannot be read (File name too long")
    assert reasons[4] is None


def test_videos_are_told_by_their_bytes(tmp_path):
    for head, name, video in (
        (b"\x00\x00\x00\x20ftypisom", "a.jpg", True),
        (b"\x00\x00\x00\x20ftypheic", "a.mp4", False),
        (b"RIFF\x00\x00\x00\x00AVI LIST", "a.png", True),
        (b"\x89PNG\r\n\x1a\n", "a.avi", False),
        (b"anything", "a.webm", True),
        (b"anything", "a.jpg", False),
    ):
        (tmp_path / name).write_bytes(head)
        assert is_video(tmp_path / name) == video, (head, name)
    assert not is_video(tmp_path / "gone.png")


def resident() -> float:
    """Resident memory of this process in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc here")
@pytest.mark.parametrize("count", [300, pytest.param(5000, marks=pytest.mark.slow)])
def test_memory_stays_flat(run, tmp_path, count):
    """Frames of 0.9 MB: 250 of them would be 230 MB."""
    from mien.predict.model import load
    from mien.predict.tracks import Tracker

    image = parts.frame((40, 40), size=(640, 480))
    path = parts.write_video(tmp_path / "long.avi", [image] * 50)
    model = load(run, faces=lambda _: [parts.face_at(40, 40)], runtime="fastest")  # all runtimes are there before
    tracker = Tracker(0.2)
    seen, before = 0, 0.0
    with open_writer(tmp_path / "rows.csv", Layout(model.classes, (), False)) as writer:
        pictures = (frame for _ in range(count // 50) for frame in frames(path))
        for _, found in model.stream(pictures, batch=16, keep_images=True):
            writer.write(tracker.follow(found))
            seen += 1
            before = resident() if seen == 50 else before
    assert seen == count
    assert resident() - before < 60


def test_every_column_and_option_is_documented():
    docs = Path(__file__).parent.parent / "docs"
    page = "".join((docs / name).read_text(encoding="utf-8") for name in ("predict.md", "predict-table.md"))
    for name in columns(Layout(tiny.NAMES, ("AU1",), True)):
        kind = name.split("_")[0]
        listed = f"`{kind}_..." if kind == "p" else f"`{kind}_forehead`" if kind in ("share", "effect") else f"`{name}`"
        assert listed in page or f"`{name}`" in page, name
    for name in inspect.signature(predict).parameters:
        assert name == "photos" or f"`--{name.replace('_', '-')}`" in page, name


def test_faces_are_numbered_where_a_picture_has_several_and_share_one_bar():
    told = Explanation("cam", "Fear", "Anger", np.eye(3, dtype=np.float32), np.ones((3, 3), np.float32), None, None)
    one = FacePrediction(1, (10, 10, 80, 80), None, 1.0, {"Fear": 1.0}, "Fear", 1.0, False, "aligned",
                         np.zeros((32, 32, 3), np.uint8), np.eye(2, 3), explanation=told)  # fmt: skip
    assert label(one) == "Fear 100%"
    assert label(one, 2) == "1: Fear 100%"
    assert label(replace(one, track=4), 2) == "#4 Fear 100%"
    two = PicturePrediction("p", 640, 480, (one, replace(one, face=2, box=(200, 10, 280, 80))))
    assert legend(two) == "expression recognition; map: cam, each face in its own range"
    image = np.full((480, 640, 3), 110, np.uint8)
    drawn = annotated(image, two)
    corner = drawn[-40:, -110:]
    assert len(np.unique(corner.reshape(-1, 3), axis=0)) > 30  # the bar
    plain = replace(two, faces=tuple(replace(face, explanation=None) for face in two.faces))
    assert (annotated(image, plain)[-40:, -110:] == 110).all()
