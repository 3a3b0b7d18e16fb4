"""The cropper that lies beside an exported graph: to the pixel as Mien cuts faces, with numpy alone."""

import re
from pathlib import Path

import numpy as np
import pytest

import mien.export
from mien.data.framing import Framing, frame_face
from mien.export import face_crop

POINTS = np.float32([[14, 18], [34, 18], [24, 28], [16, 36], [32, 36]])


def landmarks(five: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """68 points with these five in them; eyes of six points around their centre."""
    found = rng.uniform(0, 400, (68, 2)).astype(np.float32)
    around = rng.normal(0, 2, (6, 2)).astype(np.float32)
    found[36:42], found[42:48] = five[0] + around, five[1] + around[::-1]
    found[[30, 48, 54]] = five[2:]
    return found


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize(("size", "scale"), [(48, 1.0), (112, 3.0), (48, 0.51), (48, 0.3), (96, 0.12)])
def test_faces_are_cut_as_mien_cuts_them(size, scale, aligned):
    rng = np.random.default_rng(size)
    framing = Framing(size, 3, "x", aligned, (POINTS * size / 48).tolist())
    photo = rng.integers(0, 256, (401, 603, 3), dtype=np.uint8)
    for _ in range(4):
        turn, place = rng.uniform(-3, 3), rng.uniform(-20, 420, 2)  # also outside the photo
        spin = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        five = (np.array(framing.points) - size / 2) @ spin / scale + place + rng.normal(0, 1, (5, 2))
        points = landmarks(five.astype(np.float32), rng)
        wanted = frame_face(photo, points, None, framing, 64).pixels
        np.testing.assert_array_equal(face_crop.crop(photo, points, {"framing": framing._asdict()}), wanted)
        np.testing.assert_array_equal(
            face_crop.crop(photo, face_crop.five(points), {"framing": framing._asdict()}), wanted
        )


def test_it_stands_alone():
    text = Path(face_crop.__file__).read_text(encoding="utf-8")
    assert set(re.findall(r"^(?:import|from) (\w+)", text, re.M)) == {"typing", "numpy"}
    assert Path(mien.export.__file__).with_name(mien.export.CROPPER) == Path(face_crop.__file__)
