"""`mien summarize`: by hand, by loops, and over all three kinds of tables."""

import csv

import numpy as np
import pytest

from mien.cli import main
from mien.errors import DataError, UsageError
from mien.predict.results import FacePrediction, PicturePrediction
from mien.predict.rows import Layout
from mien.predict.summarize import (
    Episode,
    blinks_of,
    episodes_of,
    lids_of,
    read_rows,
    shares_of,
    summarize,
    summary_of,
    timeline,
    weights_of,
)  # fmt: skip
from mien.predict.writers import open_writer


def test_weights_by_a_loop():
    times = np.array([0.0, 0.1, 0.2, 0.3, 2.3, 2.4])
    usual, found = 0.1, []
    for k, time in enumerate(times):
        step = times[k + 1] - time if k + 1 < len(times) else usual
        found.append(usual if step > 3 * usual else step)
    np.testing.assert_allclose(weights_of(times), found)
    assert weights_of(np.array([5.0])).tolist() == [0]
    assert weights_of(np.array([])).tolist() == []


def test_shares_and_episodes_by_hand():
    times = np.array([0.0, 0.1, 0.2, 0.3, 2.3, 2.4])
    labels = ["Fear", "Fear", "Anger", "Anger", "Anger", "unsure"]
    weights = weights_of(times)
    assert shares_of(labels, weights) == pytest.approx({"Anger": 0.5, "Fear": 1 / 3, "unsure": 1 / 6})
    found = episodes_of(times, labels, weights)
    assert [episode.expression for episode in found] == ["Fear", "Anger", "Anger", "unsure"]
    assert [episode.onset for episode in found] == [0.0, 0.2, 2.3, 2.4]
    np.testing.assert_allclose([episode.seconds for episode in found], [0.2, 0.2, 0.1, 0.1])
    assert episodes_of(np.array([1.0]), ["Fear"], np.zeros(1)) == (Episode("Fear", 1.0, 0.0),)
    assert shares_of(["Fear"], np.zeros(1)) == {"Fear": 1.0}


def test_blinks():
    times = np.arange(0, 10, 0.1)
    closed = np.zeros(100)
    closed[10:12] = closed[40:43] = 1.0  # two blinks
    closed[60:80] = 1.0  # asleep
    closed[98:] = 1.0  # not opened again
    assert blinks_of(times, closed) == 2
    assert blinks_of(times, np.full(100, np.nan)) == 0
    assert lids_of({"AU45_L": np.array([1.0]), "AU45_R": np.array([0.0])}, {"AU45_L": 1.0, "AU45_R": 1.0}).tolist() == [
        0.5
    ]
    assert lids_of({"AU45": np.array([5.0])}, {"AU45": 5.0}).tolist() == [1.0]
    assert lids_of({"AU12": np.array([1.0])}, {"AU12": 1.0}) is None


def test_a_face_that_was_seen_once():
    found = summary_of({"source": ["a.mp4"], "time": [1.0], "track": [1], "expression": ["Fear"], "abstained": [False],
                        "AU12": [0.4], "AU45": [0.1]})[0]  # fmt: skip
    assert (found.seconds, found.faces, dict(found.shares)) == (0.0, 1, {"Fear": 1.0})
    assert (found.means["AU12"], found.peaks["AU12"]) == (0.4, 0.4)
    assert np.isnan(found.blinks)


def face(expression: str, track: int | None, unit: float, abstained: bool = False) -> FacePrediction:
    named = {"Anger": 0.2, "Fear": 0.2} | {expression: 0.8}
    return FacePrediction(
        1, (0, 0, 9, 9), None, 1.0, named, expression, 0.8, abstained, "aligned", np.zeros((8, 8, 3), np.uint8),
        np.eye(2, 3), action_units={"AU12": unit, "AU45": float(unit > 0.5)}, track=track,
    )  # fmt: skip


@pytest.fixture(params=[".csv", ".jsonl", ".parquet"])
def rows(request, tmp_path):
    path = tmp_path / f"rows{request.param}"
    with open_writer(path, Layout(("Anger", "Fear"), ("AU12", "AU45"), False)) as writer:
        for k in range(20):
            faces = (face("Fear" if k < 10 else "Anger", 1, 0.1 * (k % 3)), face("Anger", 2, 0.9, k % 2 == 0))[
                : 1 + (k < 10)
            ]
            writer.write(PicturePrediction("a.mp4", 10, 10, faces, None, k, k / 10))
        writer.write(PicturePrediction("a.mp4", 10, 10, (), "no face found", 20, 2.0))
        writer.write(PicturePrediction("b.png", 10, 10, (face("Fear", None, 0.4),)))
        writer.write(PicturePrediction("c.png", 10, 10, (), "damaged picture"))
    return path


def test_every_kind_of_table_gives_the_same_summary(rows):
    first, second, photos = summary_of(read_rows(rows))
    assert (first.source, first.track, first.faces) == ("a.mp4", 1, 20)
    assert first.shares == pytest.approx({"Fear": 0.5, "Anger": 0.5})
    assert [tuple(np.round(e[1:], 6)) for e in first.episodes] == [(0.0, 1.0), (1.0, 1.0)]
    assert (first.begin, first.end, first.seconds) == pytest.approx((0.0, 2.0, 2.0))
    assert first.means["AU12"] == pytest.approx(np.mean([0.1 * (k % 3) for k in range(20)]))
    assert first.peaks["AU12"] == pytest.approx(0.2)
    assert first.blinks == 0
    assert second.shares == pytest.approx({"unsure": 0.5, "Anger": 0.5})
    assert len(second.episodes) == 10
    assert (photos.source, photos.track, photos.faces) == ("photos", None, 1)
    assert np.isnan(photos.seconds)


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_a_frame_late_in_a_long_video_has_its_own_time(tmp_path, ending):
    found = []
    for name, start in (("early", 0.0), ("late", 36_000.0)):
        path = tmp_path / f"{name}{ending}"
        with open_writer(path, Layout(("Anger", "Fear"), ("AU12", "AU45"), False)) as writer:
            for k in range(90):
                shown = face("Fear", 1, 0.9 if 30 <= k < 36 else 0.1)
                writer.write(PicturePrediction("a.mp4", 10, 10, (shown,), None, k, start + k / 30))
        found.append(summary_of(read_rows(path))[0])
    early, late = found
    assert late.seconds == pytest.approx(early.seconds, abs=0.01) == pytest.approx(3, abs=0.01)
    assert len(late.episodes) == len(early.episodes) == 1
    assert late.blinks == pytest.approx(early.blinks, rel=0.01)
    assert early.blinks > 0
    summarize(tmp_path / f"late{ending}", out=tmp_path / "summary.csv")
    with open(tmp_path / "summary.csv", newline="", encoding="utf-8") as file:
        assert float(next(csv.DictReader(file))["end"]) == pytest.approx(36_003, abs=0.002)


def test_a_gap_of_just_three_steps_is_bridged():
    times = np.append(np.arange(16) / 10, 1.5 + 0.3 * np.arange(1, 15))
    weights = weights_of(np.array([float(f"{time:.6g}") for time in times]))
    assert weights.sum() == pytest.approx(times[-1] + 0.1)
    assert len(episodes_of(times, ["Fear"] * len(times), weights)) == 1


def test_tables_and_timelines_are_written(rows, tmp_path, capsys):
    out = tmp_path / "s.csv"
    for ending in ("svg", "png", "pdf"):
        summarize(rows, out=out, plot=tmp_path / f"t.{ending}")
        assert (tmp_path / f"t.{ending}").stat().st_size > 1000
    lines = list(csv.DictReader(out.read_text().splitlines()))
    assert [line["track"] for line in lines] == ["1", "2", ""]
    assert float(lines[0]["share_Fear"]) == pytest.approx(0.5)
    assert lines[2]["blinks_per_minute"] == ""
    episodes = list(csv.DictReader((tmp_path / "s-episodes.csv").read_text().splitlines()))
    assert len(episodes) == 12
    assert "3 tracks: " in capsys.readouterr().out
    assert timeline(summary_of(read_rows(rows))).axes


def test_what_cannot_be_summarised(tmp_path, capsys):
    with pytest.raises(UsageError, match="ends in"):
        summarize(tmp_path / "x.txt")
    with pytest.raises(DataError, match="does not exist"):
        summarize(tmp_path / "x.csv")
    other = tmp_path / "o.csv"
    other.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="no table of mien predict: it has no column source"):
        summarize(other)
    for content in ("", "\x00\xff", "source,time\n1\n"):
        other.write_text(content)
        with pytest.raises(DataError):
            summarize(other)
    assert main(["summarize", str(other), "--plot", "x.doc"]) == 2
    other.write_text("source,time,track,expression,abstained\na.mp4,0,,,\n")
    with pytest.raises(DataError, match="no face"):
        summarize(other)
    capsys.readouterr()
