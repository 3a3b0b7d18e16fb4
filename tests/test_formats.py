"""Tables for other tools: columns by name and order, units of measure, nothing invented."""

import csv
import math

import numpy as np
import pytest

from mien.errors import UsageError
from mien.predict.formats import FORMATS, OPENFACE_UNITS, PY_FEAT_UNITS
from mien.predict.results import FacePrediction, PicturePrediction
from mien.predict.rows import Layout
from mien.predict.writers import check_out, open_writer

CLASSES = ("Neutral", "Happiness", "Surprise", "Fear", "Anger", "Disgust", "Sadness")
POINTS = np.arange(136, dtype=np.float32).reshape(68, 2)


def face(number: int, track: int | None, units: dict[str, float], points=POINTS) -> FacePrediction:
    named = dict(zip(CLASSES, [0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1], strict=True))
    return FacePrediction(
        number, (10.0, 20.0, 40.0, 70.0), points, 0.95, named, "Neutral", 0.4, False, "aligned", np.zeros((8, 8, 3), np.uint8),
        np.eye(2, 3), units, track=track,
    )  # fmt: skip


PICTURES = (
    PicturePrediction("a.mp4", 100, 80, (face(1, 3, {"AU12": 0.5, "AU1": 0.1, "AU45": 1.0}),), None, 0, 0.0),
    PicturePrediction("a.mp4", 100, 80, (), "no face found", 1, 0.04),
    PicturePrediction("b.png", 100, 80, (face(1, None, {}), face(2, None, {}, None))),
)


def written(tmp_path, format: str) -> tuple[list[str], list[dict[str, str]]]:
    path = tmp_path / "rows.csv"
    with open_writer(path, Layout(CLASSES, ("AU1", "AU12", "AU45"), False), format) as writer:
        for picture in PICTURES:
            writer.write(picture)
    lines = path.read_text().splitlines()
    return lines[0].split(","), list(csv.DictReader(lines))


def test_openface(tmp_path):
    names, rows = written(tmp_path, "openface")
    assert names[:5] == ["frame", "face_id", "timestamp", "confidence", "success"]
    assert names[5:13] == [*(f"gaze_{eye}_{axis}" for eye in "01" for axis in "xyz"), "gaze_angle_x", "gaze_angle_y"]
    assert names[13:19] == ["pose_Tx", "pose_Ty", "pose_Tz", "pose_Rx", "pose_Ry", "pose_Rz"]
    assert names[19:359] == [f"{axis}_{k}" for axis in "xyXYZ" for k in range(68)]
    assert names[359:399] == [f"p_{k}" for k in ("scale", "rx", "ry", "rz", "tx", "ty", *range(34))]
    assert len(set(names)) == len(names)
    assert [name for name in names if name.endswith("_r")] == [f"AU{unit:02}_r" for unit in OPENFACE_UNITS]
    assert [name for name in names if name.endswith("_c")][-2:] == ["AU28_c", "AU45_c"]
    first, none, second, third = rows
    assert (first["frame"], first["face_id"], first["success"], first["confidence"]) == ("1", "2", "1", "0.95")
    assert (first["AU12_r"], first["AU01_r"], first["AU45_r"], first["AU02_r"]) == ("2.5", "0.5", "5.0", "")
    assert (first["AU12_c"], first["AU01_c"], first["AU02_c"]) == ("1", "0", "")
    assert (first["x_30"], first["y_30"]) == ("60.0", "61.0")
    assert (none["frame"], none["timestamp"], none["success"], none["confidence"], none["x_0"]) == (
        "2",
        "0.04",
        "0",
        "0.0",
        "",
    )
    assert (second["face_id"], third["face_id"], third["x_0"], third["source"]) == ("0", "1", "", "b.png")


def test_py_feat(tmp_path):
    names, rows = written(tmp_path, "py-feat")
    assert names[:6] == ["frame", "FaceRectX", "FaceRectY", "FaceRectWidth", "FaceRectHeight", "FaceScore"]
    assert [name for name in names if name.startswith("AU")] == [f"AU{unit:02}" for unit in PY_FEAT_UNITS]
    first, none, *_ = rows
    assert [float(first[name]) for name in names[:6]] == [0, 10, 20, 30, 50, 0.95]
    assert [first[name] for name in ("neutral", "happiness", "AU12", "AU43", "AU04")] == [
        "0.4",
        "0.1",
        "0.5",
        "1.0",
        "",
    ]
    assert (none["frame"], none["input"], none["FaceScore"], none["anger"]) == ("1", "a.mp4", "", "")
    assert rows[3]["Identity"] == "Person_1"


def test_tables_are_read_by_pandas_with_gaps_as_nan(tmp_path):
    pandas = pytest.importorskip("pandas")
    for format in FORMATS:
        written(tmp_path, format)
        table = pandas.read_csv(tmp_path / "rows.csv")
        assert len(table) == 4
        for name in ("AU12_r", "AU12"):
            if name in table:
                assert table[name].dtype.kind == "f"


def test_angles_are_radians_about_the_axes_of_the_camera(monkeypatch):
    monkeypatch.setattr(
        "mien.predict.formats.rows_of", lambda picture: iter([{"yaw": 20.0, "pitch": 10.0, "roll": -5.0}])
    )
    row = next(FORMATS["openface"].rows(PICTURES[0]))
    assert (row["pose_Rx"], row["pose_Ry"], row["pose_Rz"]) == pytest.approx(tuple(map(math.radians, (10, -20, -5))))
    row = next(FORMATS["py-feat"].rows(PICTURES[0]))
    assert (row["Pitch"], row["Roll"], row["Yaw"]) == (10.0, -5.0, 20.0)


def test_what_cannot_be_meant(tmp_path):
    with pytest.raises(UsageError, match="Did you mean 'openface'"):
        check_out(tmp_path / "a.csv", "opnface")
    with pytest.raises(UsageError, match=r"give a file that ends in \.csv"):
        check_out(tmp_path / "a.parquet", "openface")
    with pytest.raises(UsageError, match=r"needs --out FILE\.csv"):
        check_out(None, "py-feat")
