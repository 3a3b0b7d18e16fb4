"""Head pose against known turns, and quality against pictures made worse on purpose."""

import cv2
import numpy as np
import pytest

from mien.faces import quality as q
from mien.faces.head import UNKNOWN, angles, head_of, mean_head
from mien.faces.landmarks import MESH_TO_68
from mien.faces.provider import Face
from mien.synthetic.render import render_face, rotation
from mien.synthetic.sample import sample_face

DOWN = np.diag([1.0, -1.0, -1.0])
"""Between the axes of the rig (y up, z to the viewer) and those of a picture with depth (y down, z away)."""


@pytest.mark.parametrize("pose", [(0, 0, 0), (20, -10, 5), (-35, 15, 170), (50, 30, -90)])
def test_known_turns_are_found(pose):
    turn = DOWN @ rotation(pose) @ DOWN
    assert angles(turn) == pytest.approx(pose, abs=1e-3)
    points = (40 * mean_head() @ turn.T + [100, 120, 7]).astype(np.float32)
    flat = head_of(points[:, :2])
    assert flat == pytest.approx((*pose, 40), abs=1e-2)
    mesh = np.zeros((478, 3), np.float32)
    mesh[list(MESH_TO_68)] = points
    assert head_of(points[:, :2], mesh) == pytest.approx((*pose, 40), abs=1e-2)


def test_synthetic_heads_with_exact_points():
    """The convention is that of the synthetic faces; other people's heads cost a few degrees."""
    off = []
    for index in range(24):
        face = sample_face(3, index, 24, ("Neutral",))
        found = head_of(render_face(face, 64).landmarks)
        off.append(np.abs(np.array(found[:3]) - face.pose))
    assert np.mean(off, axis=0)[[0, 2]].max() < 3
    assert np.mean(off, axis=0)[1] < 6


def test_unknown_points_have_no_pose():
    points = np.full((68, 2), np.nan, np.float32)
    assert all(np.isnan(value) for value in head_of(points))
    assert np.isnan(head_of(np.zeros((68, 2), np.float32)).yaw)
    assert len(UNKNOWN) == 4


@pytest.fixture(scope="module")
def picture():
    record = render_face(sample_face(4, 1, 8, ("Neutral",)), 128)
    return record.image, record.landmarks


def of(image: np.ndarray, points: np.ndarray) -> q.Quality:
    return q.quality_of(image, Face(np.float32([0, 0, 9, 9]), points, 1.0, "given"))


def test_worse_pictures_have_worse_numbers(picture):
    image, points = picture
    usual = of(image, points)
    assert of(cv2.GaussianBlur(image, (0, 0), 3), points).sharpness < 0.7 * usual.sharpness
    dark = of(image // 8, points)
    assert dark.contrast < 0.2 * usual.contrast
    assert dark.light < 0.2 * usual.light
    half = np.ascontiguousarray(image[:, 64:])
    moved = of(half, points - np.float32([64, 0]))
    assert 0.3 < moved.cut < 0.7
    assert usual.cut == 0
    small = of(cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA), (points + 0.5) / 4 - 0.5)
    assert small.size == pytest.approx(usual.size / 4, rel=1e-3)


def test_sharpness_and_outside_share_by_loops():
    grey = np.random.default_rng(0).random((6, 7)).astype(np.float32)
    total = [
        (4 * grey[i, j] - grey[i - 1, j] - grey[i + 1, j] - grey[i, j - 1] - grey[i, j + 1]) ** 2
        for i in range(1, 5)
        for j in range(1, 6)
    ]
    assert q.sharpness(grey) == pytest.approx(np.sqrt(np.mean(total)) / grey.std(), rel=1e-5)
    assert q.sharpness(2 * grey) == pytest.approx(q.sharpness(grey), rel=1e-5)
    assert q.sharpness(np.ones((5, 5), np.float32)) == 0
    points = np.float32([[0, 0], [-0.6, 0], [9.4, 4], [9.6, 4], [3, 4.6]])
    assert q.outside_share(points, 5, 10) == pytest.approx(3 / 5)


def test_a_face_without_points_has_unknown_quality(picture):
    assert all(np.isnan(of(picture[0], np.full((68, 2), np.nan, np.float32))))
