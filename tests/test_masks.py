"""Masks of facial regions against drawings with OpenCV and Pillow, and against loops over points."""

import cv2
import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from scipy.spatial import ConvexHull

from mien.cues import CueConfig, render_cue
from mien.cues.masks import HULLS, JAW, chords, covered, draw_masks, hull_edges, soften
from mien.errors import UsageError

KINDS = ("landmark_mask", "landmark_soft", "landmark_dilation")
REGIONS = [(first, end) for _, first, end in HULLS]


def faces(size, count=6, seed=0):
    """Jittered schematic faces on whole pixels, as the published drawing needs them."""
    rng = np.random.default_rng(seed)
    return np.stack([np.round(tiny.points(size) + rng.normal(0, 0.01 * size, (68, 2))) for _ in range(count)])


def draw(kind, points, image=48, size=48, **options):
    landmarks = torch.as_tensor(np.asarray(points), dtype=torch.float32)
    labels = torch.full((len(landmarks),), -1)
    return render_cue(CueConfig(kind, **options), landmarks, labels, image_size=(image, image), size=(size, size))


def opencv(points, size, jaw=True):
    """The published drawing: every hull filled, the jaw an open line of thickness 2."""
    canvas = np.zeros((size, size), np.uint8)
    points = points.astype(np.int32)
    for first, end in (*REGIONS, (60, 68)):
        cv2.drawContours(canvas, [cv2.convexHull(points[first:end])], -1, 255, -1)
    for k in range(1, 17 if jaw else 0):
        cv2.line(canvas, points[k - 1].tolist(), points[k].tolist(), 255, 2)
    return canvas / 255


def pillow(points, size):
    canvas = Image.new("L", (size, size))
    for first, end in REGIONS:
        corners = points[first:end][ConvexHull(points[first:end]).vertices]
        ImageDraw.Draw(canvas).polygon([tuple(map(int, corner)) for corner in corners], fill=1, outline=1)
    return np.asarray(canvas)


@pytest.mark.parametrize(("size", "limit", "alike"), [(48, 0.014, 0.96), (120, 0.005, 0.99), (240, 0.0025, 0.998)])
def test_mask_is_the_published_drawing(size, limit, alike):
    points = faces(size)
    small = [cv2.resize(opencv(p, size, jaw=False), (48, 48), interpolation=cv2.INTER_AREA) for p in points]
    mine = draw("landmark_mask", points, size, jaw=False).maps[:, 0].numpy()
    assert np.abs(mine - small).mean() < limit
    assert np.corrcoef(mine.ravel(), np.ravel(small))[0, 1] > alike
    assert mine.mean() == pytest.approx(np.mean(small), rel=0.04)


def test_mask_agrees_with_pillow():
    points = faces(240)
    small = [cv2.resize(pillow(p, 240) * 1.0, (48, 48), interpolation=cv2.INTER_AREA) for p in points]
    mine = draw("landmark_mask", points, 240, jaw=False).maps[:, 0].numpy()
    assert np.abs(mine - small).mean() < 0.005
    assert np.corrcoef(mine.ravel(), np.ravel(small))[0, 1] > 0.995


def test_jaw_line_is_as_wide_as_opencv_draws_it():
    points = faces(48)
    mine = draw("landmark_mask", points).maps[:, 0].numpy()
    published = np.stack([opencv(p, 48) for p in points])
    assert np.corrcoef(mine.ravel(), published.ravel())[0, 1] > 0.95
    assert mine.mean() == pytest.approx(published.mean(), rel=0.1)
    assert (draw("landmark_mask", faces(480), 480).maps.amax() - 1).abs() < 1e-6  # it does not fade on large pictures
    outline = (points[0, slice(*JAW)]).astype(int)
    assert all(mine[0, y, x] > 0.6 for x, y in outline)


@pytest.mark.parametrize("size", [48, 120, 240])
def test_the_published_jaw_line_fades_with_the_size_of_the_picture(size):
    points = faces(size)
    mine = draw("landmark_mask", points, size, jaw="published").maps[:, 0].numpy()
    published = np.stack([cv2.resize(opencv(p, size), (48, 48), interpolation=cv2.INTER_AREA) for p in points])
    assert np.corrcoef(mine.ravel(), published.ravel())[0, 1] > 0.95
    outline = (((points[0, slice(*JAW)] + 0.5) * 48 / size - 0.5).round()).astype(int)
    assert np.mean([mine[0, y, x] for x, y in outline]) == pytest.approx(
        np.mean([published[0, y, x] for x, y in outline]), abs=0.12
    )


def scalar_mask(points, side, cells, sub, rim):
    """Loops: is a sub-pixel in the hull, widened by a square? Tested by the hulls of all corners moved by the rim."""
    covered_cells = np.zeros((cells, cells))
    shapes = []
    for first, end in REGIONS:
        corners = np.concatenate([points[first:end] + np.array([dx, dy]) for dx in (-rim, rim) for dy in (-rim, rim)])
        shapes.append(ConvexHull(corners).equations)
    for row in range(cells * sub):
        for column in range(cells * sub):
            at = (np.array([column, row]) + 0.5) * side / (cells * sub) - 0.5
            inside = any((planes[:, :2] @ at + planes[:, 2] <= 0).all() for planes in shapes)
            covered_cells[row // sub, column // sub] += inside
    return covered_cells / sub**2


@pytest.mark.parametrize(("kind", "rim"), [("landmark_mask", 0.4), ("landmark_dilation", 1.4)])
def test_scalar_twin(kind, rim):
    points = tiny.points(48) + np.random.default_rng(5).normal(0, 0.7, (68, 2))
    gap = np.abs(draw(kind, points[None], 48, 6, jaw=False).maps[0, 0].numpy() - scalar_mask(points, 48, 6, 16, rim))
    assert gap.max() < 0.04
    assert gap.mean() < 0.01


def test_hull_edges_are_those_of_qhull():
    rng = np.random.default_rng(0)
    for count in (5, 9, 20):
        points = rng.normal(0, 10, (8, count, 2))
        starts, ends = hull_edges(torch.from_numpy(points))
        for each, a, b in zip(points, starts, ends, strict=True):
            found = {tuple(sorted(map(tuple, pair))) for pair in zip(a.tolist(), b.tolist(), strict=True)}
            for line in ConvexHull(each).simplices:
                assert tuple(sorted(map(tuple, each[line].tolist()))) in found


def test_chords_of_a_triangle_and_of_a_line():
    corners = torch.tensor([[[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]]])
    heights = torch.tensor([-2.0, 0.0, 5.0, 9.0, 11.0])
    left, right = chords(*hull_edges(corners), heights, 0.0)
    assert left[0, 1:4].tolist() == [0, 0, 0]
    assert right[0, 1:4].tolist() == [10, 5, 1]
    assert (left > right)[0].tolist() == [True, False, False, False, True]
    flat = torch.tensor([[[1.0, 3.0], [1.0, 3.0], [5.0, 3.0], [4.0, 3.0]]])  # a closed eye, two points the same
    left, right = chords(*hull_edges(flat), torch.tensor([2.4, 2.6, 3.0]), 0.5)
    assert (left > right)[0].tolist() == [True, False, False]
    assert (left[0, 1:].tolist(), right[0, 1:].tolist()) == ([0.5, 0.5], [5.5, 5.5])


def test_covered_is_the_union_of_intervals():
    left = torch.tensor([[[-0.5], [2.25], [9.0]]])
    right = torch.tensor([[[0.5], [3.0], [-9.0]]])  # the last is empty
    assert covered(left, right, 4, 4)[0, 0].tolist() == [1, 0, 0.25, 0.5]
    overlapping = covered(torch.tensor([[[0.0], [0.2]]]), torch.tensor([[[3.0], [2.0]]]), 4, 2)
    assert overlapping[0, 0].tolist() == pytest.approx([0.75, 0.75])


def test_soft_levels():
    levels = torch.tensor([0.0, 37.0, 38.0, 100.0, 255.0]) / 255
    assert soften(levels).tolist() == [0.5, 0.5, 1, 1, 1]
    points = faces(48)
    soft, mask = (draw(kind, points).maps for kind in ("landmark_soft", "landmark_mask"))
    assert set(soft.unique().tolist()) == {0.5, 1.0}
    assert torch.equal(soft == 1, mask >= 38 / 255)


def test_dilation_is_the_published_one():
    """cv2.dilate with a 2x2 kernel, twice: each pixel becomes a 3x3 block, 0 to 2 px to the right and down."""
    points = faces(48)
    kernel = np.ones((2, 2), np.uint8)
    published = np.stack([cv2.dilate(opencv(p, 48, jaw=False), kernel, iterations=2) for p in points])
    mine = draw("landmark_dilation", points, dilation="published").maps[:, 0].numpy()
    centred = draw("landmark_dilation", points).maps[:, 0].numpy()
    assert np.abs(mine - published).mean() < 0.02
    assert np.corrcoef(mine.ravel(), published.ravel())[0, 1] > 0.96
    assert np.abs(mine[:, 1:, 1:] - centred[:, :-1, :-1]).max() < 1e-5
    block = cv2.dilate(np.eye(9, dtype=np.uint8)[4][:, None] * np.eye(9, dtype=np.uint8)[4], kernel, iterations=2)
    assert np.argwhere(block).tolist() == [[y, x] for y in (4, 5, 6) for x in (4, 5, 6)]


def test_a_region_of_one_pixel_dilates_to_nine():
    points = torch.full((1, 68, 2), 20.0)
    mask = draw("landmark_dilation", points, dilation="published").maps[0, 0]
    assert (mask > 0.5).nonzero().tolist() == [[y, x] for y in (20, 21, 22) for x in (20, 21, 22)]
    assert (draw("landmark_dilation", points).maps[0, 0] > 0.5).nonzero().tolist()[0] == [19, 19]


@pytest.mark.parametrize("kind", ["landmark_mask", "landmark_dilation"])
@pytest.mark.parametrize("size", [6, 12, 24])
def test_a_small_map_is_the_area_average_of_a_large_one(kind, size):
    points = faces(96, count=3)
    large, small = draw(kind, points, 96, 96).maps, draw(kind, points, 96, size).maps
    assert (F.avg_pool2d(large, 96 // size) - small).abs().max() < 0.02


def test_flip_shift_batch_and_oblong_maps():
    points = torch.from_numpy(faces(96)).float()
    maps = draw("landmark_mask", points, 96, 48).maps
    mirrored = points.clone()
    mirrored[..., 0] = 95 - mirrored[..., 0]
    assert torch.allclose(draw("landmark_mask", mirrored, 96, 48).maps, maps.flip(-1), atol=1e-3)
    moved = draw("landmark_mask", points + torch.tensor([4.0, 2.0]), 96, 48).maps
    assert torch.allclose(moved[..., 1:, 2:], maps[..., :-1, :-2], atol=1e-4)
    for k in range(3):
        assert torch.allclose(draw("landmark_mask", points[k : k + 1], 96, 48).maps[0], maps[k], atol=1e-6)
    labels = torch.zeros(len(points), dtype=torch.int64)
    oblong = render_cue(CueConfig("landmark_mask"), points, labels, image_size=(96, 120), size=(9, 17))
    assert oblong.maps.shape == (6, 1, 9, 17)


@pytest.mark.parametrize("kind", KINDS)
def test_corners(kind):
    points = torch.from_numpy(faces(48, 6)).float()
    points[0] = float("nan")
    points[1] = float("inf")
    points[2] += 5000
    points[3, 50] = 3e38
    points[4] = 20.0  # all points in one place: still a pixel
    cue = draw(kind, points)
    assert cue.valid.tolist() == [False, False, False, True, True, True]
    assert cue.maps.isfinite().all()
    assert cue.maps[:3].abs().max() == 0
    assert 0 <= cue.maps.min() <= cue.maps.max() <= 1
    assert draw(kind, points[:0]).maps.shape == (0, 1, 48, 48)
    alone = draw(kind, faces(48, 6)[5:])
    assert torch.equal(alone.maps[0], cue.maps[5])  # an absurd face leaves the others alone


def test_only_points_that_are_drawn_must_be_known():
    points = torch.from_numpy(faces(48)).float()
    points[:, :17] = float("nan")
    assert not draw("landmark_mask", points).valid.any()
    assert draw("landmark_mask", points, jaw=False).valid.all()
    assert draw("landmark_dilation", points).valid.all()  # published without jaw
    assert not draw("landmark_dilation", points, jaw=True).valid.any()
    points[:, 60:] = float("nan")
    assert draw("landmark_mask", points, jaw=False, groups={"mouth": 0.0}).valid.all()


def test_groups_leave_out_and_weaken():
    points = faces(48, 2)
    whole = draw("landmark_mask", points, jaw=False).maps
    no_mouth = draw("landmark_mask", points, jaw=False, groups={"mouth": 0.0}).maps
    only_mouth = draw("landmark_mask", points, jaw=False, groups=dict.fromkeys(("brows", "nose", "eyes"), 0.0)).maps
    assert torch.allclose(torch.maximum(no_mouth, only_mouth), whole, atol=1e-5)
    assert (no_mouth * only_mouth).max() < 0.3  # they hardly share a pixel
    weak = draw("landmark_mask", points, jaw=False, groups={"mouth": 0.5}).maps
    assert torch.allclose(weak, torch.maximum(no_mouth, only_mouth * 0.5), atol=1e-5)
    doubled = draw("landmark_mask", points, jaw=False, groups={"mouth": 2.0}).maps
    assert torch.allclose(doubled, torch.maximum(no_mouth * 0.5, only_mouth), atol=1e-5)


def test_regions_cover_all_points():
    covered_points = sorted(k for first, end in (*REGIONS, JAW) for k in range(first, end))
    assert covered_points == list(range(68))


def test_double_precision_agrees():
    points = torch.from_numpy(faces(48, 3))
    exact, _ = draw_masks(CueConfig("landmark_mask"), points, (48, 48), (48, 48))
    assert torch.allclose(draw("landmark_mask", points).maps, exact.float(), atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dilation": "left"}, "unknown dilation 'left'"),
        ({"saliency": "spectral"}, "Did you mean 'spectral_residual'"),
        ({"saliency": "weights.pth"}, r"\.safetensors, \.npz, \.pb"),
        ({"kind": "landmark_dilation", "groups": {"jaw": 1.0}}, "jaw line is not drawn"),
    ],
)
def test_wrong_settings(change, message):
    with pytest.raises(UsageError, match=message):
        CueConfig(**change)
