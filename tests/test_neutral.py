"""A person's neutral face: from a photo, from the quietest seconds of a video, and what is refused."""

import numpy as np
import predict_parts as parts
import pytest

from mien.errors import DataError, UsageError
from mien.faces import units as u
from mien.faces.blendshapes import BLENDSHAPES
from mien.faces.provider import Face
from mien.files import name_of
from mien.predict.model import load
from mien.predict.neutral import RESTLESS, neutral_of, quietest, told
from mien.predict.sources import Picture

SMILE = [BLENDSHAPES.index(f"mouthSmile{side}") for side in ("Left", "Right")]


def shapes(smile: float) -> np.ndarray:
    found = np.full(52, 0.01, np.float32)
    found[SMILE] = smile
    return found


def finder(image: np.ndarray) -> list[Face]:
    """One face that smiles the more the brighter the picture is; none in the dark."""
    level = float(image.mean()) / 255
    face = parts.face_at(5, 5)._replace(blendshapes=shapes(level))
    return [face] if level > 0.05 else []


def test_a_photo_is_subtracted():
    grey = np.full((40, 40, 3), 128, np.uint8)
    found = neutral_of(grey, finder)
    np.testing.assert_allclose(found, u.unit_intensities(shapes(128 / 255)[None])[0], rtol=1e-5)


def test_the_quietest_seconds_by_a_loop():
    rng = np.random.default_rng(0)
    times = np.sort(rng.uniform(0, 9, 40)).astype(np.float32)
    values = rng.uniform(-1, 5, (40, len(u.unit_columns()))).astype(np.float32)
    used = [
        u.unit_columns().index(column)
        for unit in u.read_units()
        if unit.name not in RESTLESS
        for column in unit.columns
    ]
    parts_of = [[k for k in range(40) if times[b] <= times[k] < times[b] + 2] for b in range(40)]
    most = max(len(part) for part in parts_of)
    means = [
        np.mean([np.clip(values[k, used] / 5, 0, 1).mean() for k in part]) if 2 * len(part) >= most else np.inf
        for part in parts_of
    ]
    expected = np.median(values[parts_of[int(np.argmin(means))]], axis=0)
    np.testing.assert_allclose(quietest(times, values), expected, rtol=1e-5)
    np.testing.assert_array_equal(quietest(times[:1], values[:1]), values[0])


def test_a_video_gives_its_calm_part(tmp_path):
    levels = [200] * 20 + [60] * 30 + [200] * 20
    video = parts.write_video(tmp_path / "talk.avi", [np.full((48, 64, 3), v, np.uint8) for v in levels])
    found = neutral_of(video, finder)
    calm, smile = (u.unit_intensities(shapes(v / 255)[None])[0] for v in (60, 200))
    at = u.unit_columns().index("AU12_L")
    assert abs(found[at] - calm[at]) < 0.2 * abs(smile[at] - calm[at])


def test_a_poor_neutral_face_is_told(tmp_path, capsys):
    told("calm.jpg", u.unit_weights().rest, 1)
    assert capsys.readouterr().err == ""
    neutral_of(np.full((40, 40, 3), 255, np.uint8), lambda image: [finder(image)[0], parts.face_at(30, 30)])
    lines = capsys.readouterr().err
    assert "up to 2 faces; the main one counts as neutral" in lines
    assert "this face shows AU12 both sides" in lines
    video = parts.write_video(tmp_path / "two.avi", [np.full((48, 64, 3), 30, np.uint8)] * 5)
    neutral_of(video, lambda image: finder(image) * 2)
    assert f"mien: {name_of(video)}: up to 2 faces" in capsys.readouterr().err


def test_what_a_video_lacks_is_told(tmp_path, monkeypatch):
    (tmp_path / "sound.mp4").write_bytes(b"")
    monkeypatch.setattr("mien.predict.neutral.is_video", lambda _: True)
    monkeypatch.setattr(
        "mien.predict.neutral.frames",
        lambda path: iter([Picture(str(path), None, reason="only sound, without pictures")]),
    )
    with pytest.raises(DataError, match=r"sound\.mp4: only sound, without pictures; name another, or a photo"):
        neutral_of(tmp_path / "sound.mp4", finder)


def test_what_is_refused(tmp_path):
    with pytest.raises(DataError, match="no face found; name a photo"):
        neutral_of(np.zeros((9, 9, 3), np.uint8), finder)
    with pytest.raises(DataError, match="has no blendshapes"):
        neutral_of(np.zeros((9, 9, 3), np.uint8), lambda _: [parts.face_at(1, 1)])
    with pytest.raises(DataError, match="does not exist; name a photo"):
        neutral_of(tmp_path / "gone.png", finder)
    dark = parts.write_video(tmp_path / "dark.avi", [np.zeros((48, 64, 3), np.uint8)] * 5)
    with pytest.raises(DataError, match="no frame of this video"):
        neutral_of(dark, finder)
    with pytest.raises(UsageError, match="needs the action units of mediapipe"):
        load(faces="none", neutral=np.zeros((9, 9, 3), np.uint8))
