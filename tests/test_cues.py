"""Cues against slow twins: scalar ellipse coverage, scipy's erf, and the published drawing with OpenCV."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F

from mien.cues import (
    CONTROLS,
    CUES,
    CueConfig,
    controls,
    load_codebook,
    mean_cue,
    per_class_maps,
    render_cue,
)
from mien.cues.action_units import coverage, face_ellipses, pick, windowed_coverage
from mien.cues.codebook import HERE, Geometry, distinct_ellipses, geometry
from mien.cues.config import CONTROL_KINDS, CUE_KINDS
from mien.cues.heatmaps import gaussians
from mien.cues.verb import cues
from mien.errors import DataError, UsageError
from mien.schema import EXPRESSIONS, Cue, Record, scheme_classes


def face(size: float = 224, roll: float = 0.0, zoom: float = 1.0) -> np.ndarray:
    """A schematic frontal face, (68, 2): outer eye corners 100 px apart on a 224 px canvas."""
    jaw = [(112 - 78 * np.cos(t), 100 + 95 * np.sin(t) ** 1.1) for t in np.linspace(0, np.pi, 17)]
    brow_l = [(50, 86), (61, 78), (74, 76), (87, 79), (98, 84)]
    brow_r = [(224 - x, y) for x, y in brow_l[::-1]]
    nose = [(112, 98), (112, 110), (112, 122), (112, 134), (97, 142), (104, 145), (112, 147), (120, 145), (127, 142)]
    eye_l = [(62, 100), (71, 95), (83, 95), (92, 101), (83, 105), (71, 105)]
    eye_r = [(132, 101), (141, 95), (153, 95), (162, 100), (153, 105), (141, 105)]
    lips = [(84, 165), (95, 160), (105, 157), (112, 159), (119, 157), (129, 160), (140, 165), (130, 173), (120, 178)]
    lips += [(112, 179), (104, 178), (94, 173)]
    inner = [(88, 165), (104, 164), (112, 165), (120, 164), (136, 165), (120, 169), (112, 170), (104, 169)]
    points = np.array(jaw + brow_l + brow_r + nose + eye_l + eye_r + lips + inner, np.float64)
    turn = np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
    middle = np.array([111.5, 115.0])
    points = (points - middle) @ turn.T * zoom + middle
    return (points + 0.5) * (size / 224) - 0.5


def paper_ellipses(p: np.ndarray, h: int, w: int) -> dict[int, list[tuple[int, int, int, int]]]:
    """Centre and semi-axes of each AU as published, from integer landmarks; written out, not read from the codebook."""
    p = p.astype(int)
    x, y = p[:, 0], p[:, 1]

    def mid(i: int, j: int) -> tuple[int, int]:
        return int((x[i] + x[j]) / 2), int((y[i] + y[j]) / 2)

    def or_(value: float, other: int) -> int:
        return int(value) if int(value) > 0 else other

    brow = (round(w / 8), round(h / 10))
    cheek = (round(w / 10), round(h / 10))
    eyes = [(36, 39, 38, 41), (42, 45, 44, 47)]
    lid, opened = [], []
    for a, b, c, d in eyes:
        centre = (int((x[a] + x[b]) / 2), int((y[c] + y[d]) / 2))
        opened.append((*centre, or_((x[b] - x[a]) / 2, 5), or_((y[d] - y[c]) / 2, 5)))
        lid.append((*centre, or_((x[b] - x[a]) / 2, 5), or_((y[d] - y[c] + 20) / 2, 5)))
    lips = [
        (int((x[48] + x[54]) / 2), int((y[51] + y[57]) / 2), or_((x[54] - x[48]) / 2, 5), or_((y[57] - y[51]) / 2, 5))
    ]
    corners = [(x[48], y[48], 20, 20), (x[54], y[54], 20, 20)]
    return {
        1: [(x[20], y[20], *brow), (x[23], y[23], *brow)],
        2: [(x[18], y[18], *brow), (x[25], y[25], *brow)],
        4: [(*mid(19, 24), or_((x[24] - x[19]) / 2, 10), or_((y[24] - y[19]) / 2, 10))],
        5: opened,
        6: [(x[41], y[41] + round(h / 6), *cheek), (x[46], y[46] + round(h / 6), *cheek)],
        7: lid,
        9: [(x[31], y[29], 20, 20), (x[35], y[29], 20, 20)],
        10: [(x[48], y[50], 20, 20), (x[52], y[54], 20, 20)],
        12: corners,
        14: [(max(x[48] - 20, 0), y[48], 20, 20), (min(x[54] + 20, w), y[54], 20, 20)],
        15: corners,
        16: [(x[59], y[59], 20, 20), (x[55], y[55], 20, 20)],
        17: [(*mid(59, 8), or_((x[8] - x[59]) / 2, 5), or_((y[8] - y[59]) / 2, 5))],
        20: [(*mid(48, 6), 20, 20), (*mid(50, 10), 20, 20)],
        23: lips,
        24: lips,
        25: [(x[51], y[51], 25, 10), (x[57], y[57], 25, 10)],
        26: lips,
        27: lips,
        43: lid,
    }


PAPER_UNITS = {
    "Anger": (4, 5, 7, 10, 17, 23, 24, 25, 26),
    "Disgust": (9, 5, 16, 17, 25, 26),
    "Fear": (1, 2, 4, 5, 20, 25, 26, 27),
    "Happiness": (6, 12, 25),
    "Sadness": (1, 4, 6, 15, 17),
    "Surprise": (1, 2, 5, 26, 27),
}


def paper_twin(points: np.ndarray, expression: str, image_size: tuple[int, int], low: bool = True) -> np.ndarray:
    """The published drawing with OpenCV, one image; without `low`, the plain union of the filled ellipses."""
    ellipses = paper_ellipses(points, *image_size)
    return paper_drawing([ellipses[unit] for unit in PAPER_UNITS.get(expression, tuple(ellipses))], image_size, low)


def paper_drawing(
    units: list[list[tuple[int, int, int, int]]], image_size: tuple[int, int], low: bool = True
) -> np.ndarray:
    """The drawing alone: `units` holds the ellipses of each action unit."""
    h, w = image_size
    maps = []
    for ellipses in units:
        canvas = np.full((h, w), 1e-4, np.float32)
        for cx, cy, ax, ay in ellipses:
            cv2.ellipse(canvas, (int(cx), int(cy)), (int(ax), int(ay)), 0, 0, 360, 255, -1)
        if canvas.max() < 1:
            continue
        if low:
            canvas = cv2.resize(cv2.blur(cv2.resize(canvas, (28, 28)), (3, 3)), (w, h))
        maps.append(canvas)
    merged = np.stack(maps).max(0)
    spread = merged.max() - merged.min()
    return (merged - merged.min()) / (spread if spread > 0 else 1)


MIRROR = list(range(16, -1, -1)) + list(range(26, 16, -1)) + [27, 28, 29, 30, 35, 34, 33, 32, 31]
MIRROR += [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40, 54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55]
MIRROR += [64, 63, 62, 61, 60, 67, 66, 65]
FACES = torch.from_numpy(np.stack([face(), face(roll=0.3), face(roll=-0.5, zoom=0.6), face(zoom=1.2)])).float()
BASIC = {name: k for k, name in enumerate(scheme_classes("basic-7"))}
BOOK = geometry("corrected", (64, 64), torch.device("cpu"))
PLAIN = [CueConfig(), CueConfig("au_generic"), CueConfig("landmarks"), CueConfig("landmarks", merge="sum", jaw=True)]


def draw(
    config: CueConfig, landmarks: torch.Tensor, label: int | torch.Tensor, size: int = 56, canvas: int = 224, **more
):
    labels = torch.full((len(landmarks),), label) if isinstance(label, int) else label
    return render_cue(config, landmarks, labels, image_size=(canvas, canvas), size=(size, size), **more)


def corrected_twin(p: np.ndarray, expression: str, canvas: int, oversample: int = 4) -> np.ndarray:
    """Scalar loops over sub-pixels: inside any ellipse of the expression, in the head frame."""
    book = load_codebook("corrected")
    left, right = p[36], p[45]
    distance = float(np.hypot(*(right - left)))
    roll = np.arctan2(right[1] - left[1], right[0] - left[0])
    turn = np.array([[np.cos(roll), np.sin(roll)], [-np.sin(roll), np.cos(roll)]])
    head = [turn @ (q - (left + right) / 2) / distance for q in p]
    ellipses = []
    for unit in book.expressions[expression]:
        for e in book.action_units[unit]:
            cx = sum(w * head[i][0] for i, w in e.x) + e.dx
            cy = sum(w * head[i][1] for i, w in e.y) + e.dy
            ax = max(sum(w * head[i][0] for i, w in e.ax.span) + e.ax.plus, e.ax.least)
            ay = max(sum(w * head[i][1] for i, w in e.ay.span) + e.ay.plus, e.ay.least)
            ellipses.append((cx, cy, ax, ay))
    out = np.zeros((canvas, canvas))
    offsets = (np.arange(oversample) + 0.5) / oversample - 0.5
    for y in range(canvas):
        for x in range(canvas):
            for oy in offsets:
                for ox in offsets:
                    u, v = turn @ (np.array([x + ox, y + oy]) - (left + right) / 2) / distance
                    out[y, x] += any(((u - a) / c) ** 2 + ((v - b) / d) ** 2 <= 1 for a, b, c, d in ellipses)
    return out / oversample**2


@pytest.mark.parametrize("expression", ["Happiness", "Anger", "Contempt"])
def test_corrected_maps_equal_scalar_coverage(expression):
    points = face(size=48, roll=0.35, zoom=0.9)
    label = torch.tensor([scheme_classes("basic-8").index(expression)])
    landmarks = torch.from_numpy(points)[None]
    mine = (
        render_cue(CueConfig(), landmarks, label, scheme="basic-8", image_size=(48, 48), size=(48, 48))
        .maps[0, 0]
        .numpy()
    )
    twin = corrected_twin(points, expression, 48)
    assert np.abs(mine - twin).mean() < 0.012
    assert np.corrcoef(mine.ravel(), twin.ravel())[0, 1] > 0.995


def test_one_ellipse_has_the_area_that_geometry_says():
    ellipses = face_ellipses(FACES.double(), geometry("corrected", (224, 224), torch.device("cpu")))
    numbers = torch.zeros(len(FACES), 1, dtype=torch.int64)
    truth = torch.pi * 0.28 * 0.22 * (FACES[:, 45] - FACES[:, 36]).norm(dim=-1) ** 2
    for size in (7, 12, 14, 28, 224):
        area = coverage(pick(ellipses, numbers), (224, 224), (size, size)).sum((1, 2, 3)) * (224 / size) ** 2
        assert torch.allclose(area.float(), truth, rtol=0.01), size


@pytest.mark.parametrize("size", [7, 12, 14, 28, 56])
@pytest.mark.parametrize("label", range(1, 7))
def test_a_small_map_is_the_area_average_of_a_large_one(size, label):
    small = draw(CueConfig(), FACES, label, size, canvas=252 if size == 12 else 224).maps
    canvas = 252 if size == 12 else 224
    large = draw(CueConfig(), FACES, label, canvas, canvas).maps
    gap = (F.avg_pool2d(large, canvas // size) - small).abs()
    assert gap.mean() < 0.007
    assert size > 14 or gap.max() < 0.1


def test_every_action_unit_reaches_one_and_scales_with_the_face():
    book = geometry("corrected", (224, 224), torch.device("cpu"))
    ellipses = face_ellipses(FACES[:1], book)
    for number in range(len(book.offset)):
        assert coverage(pick(ellipses, torch.tensor([[number]])), (224, 224), (224, 224)).max() > 0.999
    near, far = (draw(CueConfig(), torch.from_numpy(face(zoom=z))[None], 4, 224).maps for z in (1.0, 0.5))
    assert (near.sum() / far.sum()).item() == pytest.approx(4, rel=0.03)
    assert torch.allclose(
        draw(CueConfig(), FACES * 2 + 0.5, 1, 28, 448).maps, draw(CueConfig(), FACES, 1, 28).maps, atol=1e-3
    )


def test_the_brow_lowerer_does_not_jump():
    points = FACES[:1].repeat(9, 1, 1)
    points[:, 24, 1] += torch.linspace(-4, 4, 9)
    book = geometry("corrected", (224, 224), torch.device("cpu"))
    number = distinct_ellipses(load_codebook("corrected")).index(load_codebook("corrected").action_units["AU4"][0])
    area = coverage(pick(face_ellipses(points, book), torch.full((9, 1), number)), (224, 224), (56, 56)).sum((1, 2, 3))
    assert (area.diff().abs() / area[:-1]).max() < 0.02


@pytest.mark.parametrize("config", PLAIN, ids=lambda c: f"{c.kind}-{c.merge}")
def test_flip_shift_batch_and_range(config):
    labels = torch.tensor([1, 3, 4, 6])
    cue = draw(config, FACES, labels)
    flipped = FACES[:, MIRROR].clone()
    flipped[..., 0] = 223 - flipped[..., 0]
    assert torch.allclose(draw(config, flipped, labels).maps, cue.maps.flip(-1), atol=2e-3)
    inner = slice(8, -8)
    moved = draw(config, FACES + torch.tensor([8.0, 4.0]), labels, 224).maps
    still = draw(config, FACES, labels, 224).maps.roll((4, 8), (-2, -1))
    if config.kind != "landmarks" or not config.jaw:  # the jaw leaves the canvas
        assert torch.allclose(moved[..., inner, inner], still[..., inner, inner], atol=2e-3)
    for i in range(4):
        assert torch.allclose(draw(config, FACES[i : i + 1], labels[i : i + 1]).maps[0], cue.maps[i], atol=1e-5)
    assert cue.maps.dtype == torch.float32
    assert 0 <= cue.maps.min() <= cue.maps.max() <= 1
    assert cue.valid.all()
    oblong = render_cue(config, FACES, labels, image_size=(224, 300), size=(9, 17))
    assert oblong.maps.shape == (4, 1, 9, 17)


def test_many_faces_in_pieces_equal_singles():
    crowd = FACES.repeat(40, 1, 1) + torch.randn(160, 68, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(160) % 7
    cue = draw(CueConfig(), crowd, labels, 14)
    assert torch.equal(cue.valid, labels > 0)
    for i in (1, 77, 159):
        assert torch.allclose(
            draw(CueConfig(), crowd[i : i + 1], labels[i : i + 1], 14).maps[0], cue.maps[i], atol=1e-5
        )


@pytest.mark.parametrize("size", [(7, 7), (14, 14), (28, 28), (9, 17), (60, 97)])
def test_drawing_in_windows_equals_drawing_on_the_whole_grid(size):
    generator = torch.Generator().manual_seed(0)
    far = torch.tensor([0.0, 150.0, -150.0, 4000.0]).repeat(20)[:, None, None]
    crowd = FACES.repeat(20, 1, 1) + far + torch.randn(80, 68, 2, generator=generator)
    ellipses = face_ellipses(crowd, geometry("corrected", (224, 300), torch.device("cpu")))
    numbers = torch.randint(len(ellipses.cx), (80, 9), generator=generator)
    used = torch.zeros(80, len(ellipses.cx), dtype=torch.bool).scatter_(1, numbers, True).T
    windowed = windowed_coverage(ellipses, used, (224, 300), size)
    assert torch.allclose(windowed, coverage(pick(ellipses, numbers), (224, 300), size), atol=1e-5)
    assert windowed_coverage(ellipses, used & False, (224, 300), size).max() == 0


@pytest.mark.parametrize("point", [36, 48, 54])
def test_one_absurd_face_leaves_the_others_alone(point):
    crowd = FACES.clone()
    crowd[1, point] = 3e38
    cue, alone = draw(CueConfig(), crowd, BASIC["Anger"], 14), draw(CueConfig(), FACES, BASIC["Anger"], 14)
    others = [0, 2, 3]
    assert cue.valid[others].all()
    assert torch.equal(cue.maps[others], alone.maps[others])
    assert cue.maps.isfinite().all()


@pytest.mark.parametrize("canvas", [(224, 224), (112, 112), (97, 131), (300, 200)])
def test_the_paper_codebook_equals_the_published_drawing(canvas):
    rng = np.random.default_rng(1)
    points = np.stack(
        [face(roll=rng.normal() * 0.1, zoom=rng.uniform(0.7, 1.2)) + rng.normal(0, 2, (68, 2)) for _ in "1234"]
    )
    points = (points * np.array([canvas[1] / 224, canvas[0] / 224])).astype(np.float32)
    for name in (*PAPER_UNITS, "generic"):
        config = CueConfig("au_generic" if name == "generic" else "au", codebook="paper")
        labels = torch.full((4,), BASIC.get(name, 0))
        mine = render_cue(config, torch.from_numpy(points), labels, image_size=canvas, size=canvas).maps[:, 0].numpy()
        for ours, face_points in zip(mine, points, strict=True):
            twin = paper_twin(face_points, name, canvas)
            assert np.abs(ours - twin).mean() < 0.01
            assert (ours * twin).sum() / np.linalg.norm(ours) / np.linalg.norm(twin) > 0.998


@pytest.mark.slow
@pytest.mark.parametrize("side", [48, 112, 224, 448])
def test_agreement_with_the_published_drawing(side):
    """The numbers of docs/cues.md: upright, rolled by up to 30 degrees, and turned (half as wide) faces; -s prints them."""
    for title, roll, narrow in (("upright", 0.05, 0.0), ("rolled", 0.52, 0.0), ("turned", 0.05, 0.5)):
        rng = np.random.default_rng(1)
        points = []
        for _ in range(40):
            place = face(roll=rng.uniform(-roll, roll), zoom=rng.uniform(0.7, 1.2)) + rng.normal(0, 2, (68, 2))
            place[:, 0] = (place[:, 0] - 112) * (1 - rng.uniform(0, narrow)) + 112
            points.append((place + 0.5) * side / 224 - 0.5)
        marks = np.stack(points).astype(np.float32)
        cosines, differences = [], []
        for name in (*PAPER_UNITS, "generic"):
            config = CueConfig("au_generic" if name == "generic" else "au", codebook="paper")
            labels = torch.full((len(marks),), BASIC.get(name, 0))
            cue = render_cue(config, torch.from_numpy(marks), labels, image_size=(side, side), size=(side, side))
            for ours, place in zip(cue.maps[:, 0].numpy(), marks, strict=True):
                twin = paper_twin(place, name, (side, side))
                cosines.append((ours * twin).sum() / np.linalg.norm(ours) / np.linalg.norm(twin))
                differences.append(np.abs(ours - twin).mean())
        low, middle, mean = np.min(cosines), np.median(cosines), np.mean(differences)
        print(f"| {side} px, {title} | {mean:.4f} | {middle:.4f} | {low:.4f} |")
        assert middle > 0.9998
        assert low > 0.995
        assert mean < 0.004


def test_paper_quirks():
    paper = CueConfig(codebook="paper")
    disgust, corrected = (draw(c, FACES[:1], BASIC["Disgust"], 224).maps[0, 0] for c in (paper, CueConfig()))
    assert disgust[97:104, 65:80].mean() > 0.05  # AU5: the eyes light up
    assert corrected[97:104, 65:80].max() == 0
    lopsided = draw(paper, FACES[:1], BASIC["Anger"], 224).maps
    assert (lopsided - lopsided.flip(-1)).abs().max() > 0.3
    full = draw(paper, FACES, 1, 224).maps
    small = F.interpolate(full, size=(14, 14), mode="bilinear", align_corners=True, antialias=True)
    assert torch.allclose(draw(paper, FACES, 1, 14).maps, small.clamp(0, 1), atol=1e-6)
    constant = draw(paper, FACES[:1], 1, 224).maps
    assert constant.max() == 1
    assert constant.min() == 0
    assert not render_cue(
        paper, FACES, torch.full((4,), 7), scheme="basic-8", image_size=(224, 224), size=(7, 7)
    ).valid.any()


@pytest.mark.parametrize("size", [7, 14, 56])
@pytest.mark.parametrize("merge", ["max", "sum"])
def test_landmark_heatmap_equals_scipy(size, merge):
    sigma = 0.06 * np.hypot(*(FACES[1, 45] - FACES[1, 36]).numpy())
    edges = np.arange(size + 1) * 224 / size - 0.5
    total = np.zeros((size, size))
    for x, y in FACES[1, 17:].double().numpy():
        across, down = (np.diff(scipy.stats.norm.cdf(edges, c, sigma)) for c in (x, y))
        cell = down[:, None] * across[None]
        total = total + cell if merge == "sum" else np.maximum(total, cell)
    mine = draw(CueConfig("landmarks", merge=merge), FACES[1:2], -1, size)
    assert mine.valid.all()
    assert np.abs(mine.maps[0, 0].numpy() - total / total.max()).max() < 1e-4


def test_gradients():
    def ellipses(points):
        book = Geometry(*(t.double() if t.is_floating_point() else t for t in BOOK))
        return coverage(pick(face_ellipses(points, book), torch.tensor([[0, 7]])), (64, 64), (3, 3))

    points = torch.from_numpy(face(64, roll=0.2))[None].requires_grad_()
    assert torch.autograd.gradcheck(ellipses, points, atol=1e-4)
    sigma = torch.tensor([5.0], dtype=torch.float64, requires_grad=True)
    some = points.detach()[:, :5].requires_grad_()
    assert torch.autograd.gradcheck(lambda p, s: gaussians(p, s, (64, 64), (4, 4), "sum"), (some, sigma))


@pytest.mark.parametrize(
    "config", [*PLAIN, CueConfig(codebook="paper")], ids=lambda c: f"{c.kind}-{c.codebook}-{c.merge}"
)
def test_corner_answers_are_finite_and_invalid(config):
    unknown = FACES.clone()
    unknown[0] = float("nan")
    unknown[1] = float("inf")
    unknown[2] += 5000
    cue = draw(config, unknown, 4, 14)
    assert cue.valid.tolist() == [False, False, False, True]
    assert cue.maps.isfinite().all()
    assert cue.maps[:3].abs().max() == 0
    same_point = draw(config, torch.full((2, 68, 2), 100.0), 4, 14)
    assert same_point.maps.isfinite().all()
    assert config.codebook == "paper" or not same_point.valid.any()
    neutral = draw(config, FACES, 0, 14)
    assert neutral.valid.all() if config.kind != "au" else not neutral.valid.any()
    assert draw(config, FACES[:0], torch.zeros(0, dtype=torch.int64), 14).maps.shape == (0, 1, 14, 14)


def test_only_needed_landmarks_must_be_known():
    no_jaw = FACES.clone()
    no_jaw[:, :17] = float("nan")
    assert draw(CueConfig(), no_jaw, BASIC["Happiness"]).valid.all()
    assert not draw(CueConfig(), no_jaw, BASIC["Anger"]).valid.any()
    assert draw(CueConfig("landmarks"), no_jaw, -1).valid.all()
    assert not draw(CueConfig("landmarks", jaw=True), no_jaw, -1).valid.any()


def test_labels_soft_unknown_and_schemes():
    soft = torch.eye(7)[[1, 3, 4, 0]] * 0.6 + 0.05
    assert torch.equal(draw(CueConfig(), FACES, soft).maps, draw(CueConfig(), FACES, soft.argmax(1)).maps)
    assert draw(CueConfig(), FACES, torch.tensor([-1, 1, 2, -1])).valid.tolist() == [False, True, True, False]
    maps = per_class_maps(CueConfig(), FACES, scheme="polarity-3", image_size=(224, 224), size=(28, 28))
    assert maps.shape == (4, 3, 28, 28)
    assert maps[:, 0].max() == 0
    assert torch.equal(maps[:, 1:2], draw(CueConfig(), FACES, BASIC["Happiness"], 28).maps)
    anger, sadness = (draw(CueConfig(), FACES, BASIC[n], 28).maps for n in ("Anger", "Sadness"))
    assert (maps[:, 2:] >= torch.maximum(anger, sadness) - 1e-5).all()


def test_controls():
    labels = torch.tensor([1, 0, 4, 6])
    generator = torch.Generator().manual_seed(3)
    plain = draw(CueConfig(), FACES, labels, 14)
    given = {"mean": torch.rand(1, 1, 14, 14), "class_mean": torch.rand(7, 1, 14, 14)}
    for control in CONTROLS:
        cue = draw(CueConfig(control=control), FACES, labels, 14, generator=generator, mean=given.get(control))
        if control == "same_class":  # every face is the only one of its class here
            assert not cue.valid.any()
            continue
        assert torch.equal(cue.valid, plain.valid), control
        assert cue.maps[1].max() == 0
        assert 0 <= cue.maps.min() <= cue.maps.max() <= 1
    assert draw(CueConfig(control="uniform"), FACES, labels, 14).maps[0].min() == 1
    assert torch.allclose(draw(CueConfig(control="inverted"), FACES, labels, 14).maps[2], 1 - plain.maps[2])
    for control, row in (("mean", 0), ("class_mean", 1)):
        found = draw(CueConfig(control=control), FACES, labels, 14, mean=given[control]).maps[0]
        assert torch.equal(found, given[control][row])
    blob = draw(CueConfig(control="centre"), FACES, labels, 15).maps[0, 0]
    assert blob[7, 7] == 1
    assert torch.allclose(blob, blob.flip(0), atol=1e-5)


def test_shuffled_never_keeps_its_own_and_leaves_invalid_out():
    maps = torch.arange(9.0).view(9, 1, 1, 1)
    valid = torch.tensor([1, 1, 0, 1, 1, 0, 1, 1, 1]).bool()
    for seed in range(30):
        cue = controls.shuffled(Cue(maps, valid), torch.Generator().manual_seed(seed))
        given = cue.maps.flatten()[valid].tolist()
        assert sorted(given) == [0, 1, 3, 4, 6, 7, 8]
        assert not (cue.maps.flatten() == maps.flatten())[valid].any()
        among = torch.tensor([0, 1, 0, 0, 1, 1, 0, 1, 2])
        cue = controls.shuffled(Cue(maps, valid), torch.Generator().manual_seed(seed), among)
        assert cue.valid.tolist() == [*valid.tolist()[:8], False], "the ninth is alone in its class"
        donors = cue.maps.flatten().long()
        assert (among[donors] == among)[cue.valid].all()
        assert not (donors == torch.arange(9))[cue.valid].any()
        assert sorted(donors[cue.valid].tolist()) == torch.arange(9)[cue.valid].tolist()
    alone = controls.shuffled(Cue(maps[:1], valid[:1]))
    assert not alone.valid.any()
    draws = [draw(CueConfig(control="shuffled"), FACES, 1, generator=torch.Generator().manual_seed(5)) for _ in "12"]
    assert torch.equal(draws[0].maps, draws[1].maps)


def test_other_class_is_another_class_with_a_cue():
    drawn = torch.tensor([False] + [True] * 6)
    labels = torch.arange(7).repeat(100)
    others = controls.other_labels(labels, drawn, torch.Generator().manual_seed(0))
    assert not (others == labels).any()
    assert (others > 0).all()
    assert len(others[labels == 3].unique()) == 5


def test_mean_cue_is_the_mean_over_batches():
    labels = torch.tensor([1, 0, 1, 6])
    pairs = [(FACES[:2], labels[:2]), (FACES[2:], labels[2:])]
    overall, per_class = mean_cue(CueConfig(control="inverted"), pairs, image_size=(224, 224), size=(14, 14))
    plain = draw(CueConfig(), FACES, labels, 14).maps
    assert torch.allclose(overall[0], plain[[0, 2, 3]].mean(0), atol=1e-6)
    assert torch.allclose(per_class[1], plain[[0, 2]].mean(0), atol=1e-6)
    assert per_class.shape == (7, 1, 14, 14)
    empty, _ = mean_cue(CueConfig(), [], image_size=(224, 224), size=(14, 14))
    assert empty.shape == (1, 1, 14, 14)


def test_autocast_does_not_coarsen_the_drawing():
    plain = draw(CueConfig(), FACES, 3).maps
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(draw(CueConfig(), FACES, 3).maps, plain)
    assert torch.equal(draw(CueConfig(), FACES.double(), 3).maps, plain)


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"kind": "aus"}, "au"),
        ({"codebook": "papr"}, "paper"),
        ({"control": "shufled"}, "shuffled"),
        ({"merge": "mean"}, "max"),
        ({"sigma": 0.0}, "sigma"),
        ({"kind": "landmarks", "control": "other_class"}, "other_class"),
    ],
)
def test_wrong_settings(change, hint):
    with pytest.raises(UsageError, match=hint):
        CueConfig(**change)


def test_wrong_calls():
    with pytest.raises(UsageError, match="mean_cue"):
        draw(CueConfig(control="mean"), FACES, 1)
    with pytest.raises(UsageError, match="68, 2"):
        draw(CueConfig(), FACES[0], 1)
    with pytest.raises(UsageError, match="does not exist"):
        draw(CueConfig(codebook="absent.json"), FACES, 1)


def test_tables_agree():
    assert list(CUES) == list(CUE_KINDS)
    assert tuple(CONTROLS) == CONTROL_KINDS
    assert set(load_codebook("corrected").expressions) == set(EXPRESSIONS) - {"Neutral"}
    for name, units in PAPER_UNITS.items():
        assert load_codebook("paper").expressions[name] == tuple(f"AU{u}" for u in units)


def test_own_codebook_and_its_mistakes(tmp_path):
    path = tmp_path / "own.json"
    raw = json.loads((HERE / "codebook_corrected.json").read_text())
    raw["expressions"] = {"Happiness": ["AU12"]}
    path.write_text(json.dumps(raw))
    own, full = draw(CueConfig(codebook=str(path)), FACES, 1), draw(CueConfig(), FACES, 1)
    assert own.maps.sum() < full.maps.sum()
    raw["expressions"] = {"Happiness": ["AU6", "AU12"]}
    path.write_text(json.dumps(raw))
    os.utime(path, ns=(1, 1))
    assert draw(CueConfig(codebook=str(path)), FACES, 1).maps.sum() > own.maps.sum()  # an edit is noticed
    wrong = [
        ("{", "is damaged"),
        ("[]", "not a mapping"),
        ("{}", "needs the objects"),
        ({**raw, "drawing": "cube"}, "drawing"),
        ({**raw, "expressions": {"Joy": ["AU12"]}}, "Joy"),
        ({**raw, "expressions": {"Happiness": ["AU99"]}}, "AU99"),
        ({**raw, "action_units": {"AU12": []}}, "list of ellipses"),
    ]
    ellipse = {"x": {"48": 1}, "y": {"48": 1}, "ax": 0.2, "ay": 0.2}
    for change, hint in [
        ({"x": {"68": 1}}, "outside 0-67"),
        ({"x": {"48": 0.5}}, "sum to 1"),
        ({"x": 48}, "must map"),
        ({"ax": "w/8"}, "write a number"),
        ({"ax": {"plus": 1}}, "span"),
        ({"ay": {"span": {"1": 1.0}}}, "sum to 0"),
        ({"rx": 2}, "rx"),
    ]:
        wrong.append(
            ({**raw, "expressions": {"Happiness": ["AU12"]}, "action_units": {"AU12": [{**ellipse, **change}]}}, hint)
        )
    for i, (content, hint) in enumerate(wrong):
        bad = tmp_path / f"bad{i}.json"
        bad.write_text(content if isinstance(content, str) else json.dumps(content))
        with pytest.raises(DataError, match=hint) as caught:
            load_codebook(str(bad))
        assert bad.name in str(caught.value)
        assert "\n" not in str(caught.value)


def landmark_file(folder: Path) -> Path:
    path = folder / "points.npz"
    points = FACES.numpy().copy()
    points[2] = np.nan
    np.savez(path, landmarks=points)
    return path


def test_verb_writes_maps(tmp_path, capsys):
    out = tmp_path / "deep" / "maps.npz"
    for control in CONTROLS:
        cues(landmark_file(tmp_path), expression="Happiness", size=56, out=out, control=control)
        assert "3 valid" in capsys.readouterr().out
        with np.load(out) as saved:
            assert saved["maps"].shape == (4, 56, 56)
            assert saved["maps"].dtype == np.float32
            assert saved["valid"].tolist() == [True, True, False, True]
            assert saved["maps"][2].max() == 0
    assert [p.name for p in out.parent.iterdir()] == ["maps.npz"]
    assert cues(landmark_file(tmp_path), cue="landmarks", out=out).shape == (4, 224, 224)


@pytest.mark.parametrize(
    ("change", "error", "hint"),
    [
        ({"expression": "Joy"}, UsageError, "Joy"),
        ({"expression": "Neutral"}, UsageError, "no action units"),
        ({"expression": "Contempt", "codebook": "paper"}, UsageError, "no action units"),
        ({"cue": "aus"}, UsageError, "unknown cue"),
        ({"codebook": "corected"}, UsageError, "corrected"),
        ({"expression": None}, UsageError, "--expression"),
        ({"out": None}, UsageError, "--out"),
        ({"size": 0}, UsageError, "--size"),
        ({"sheet": Path("x.png")}, UsageError, "prepared store"),
    ],
)
def test_verb_usage(tmp_path, change, error, hint):
    settings = {"expression": "Happiness", "size": 14, "out": tmp_path / "maps.npz"} | change
    with pytest.raises(error, match=hint) as caught:
        cues(landmark_file(tmp_path), **settings)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "maps.npz").exists()


def test_verb_bad_files(tmp_path):
    out = tmp_path / "maps.npz"

    def refuse(path: Path, hint: str) -> None:
        with pytest.raises(DataError, match=hint) as caught:
            cues(path, expression="Happiness", out=out)
        assert path.name in str(caught.value)

    refuse(tmp_path / "absent.npz", "does not exist")
    (tmp_path / "text.npz").write_text("hello")
    refuse(tmp_path / "text.npz", "no arrays, or objects")
    (tmp_path / "cut.npz").write_bytes(landmark_file(tmp_path).read_bytes()[:700])
    refuse(tmp_path / "cut.npz", "is damaged")
    np.savez(tmp_path / "key.npz", points=FACES.numpy())
    refuse(tmp_path / "key.npz", "points")
    np.savez(tmp_path / "shape.npz", landmarks=FACES.numpy()[:, :5])
    refuse(tmp_path / "shape.npz", r"\(N, 68, 2\)")
    np.savez(tmp_path / "words.npz", landmarks=np.full((1, 68, 2), "a"))
    refuse(tmp_path / "words.npz", "numbers")


def test_verb_sheet_of_a_store(tmp_path, capsys):
    store = pytest.importorskip("mien.data.store")
    grey = np.full((64, 64, 3), 128, np.uint8)
    points = face(64).astype(np.float32)
    names = ["Happiness", "Neutral", "Fear", None]
    records = [
        Record(str(i), grey, expression=n, landmarks=points if i else points * np.nan) for i, n in enumerate(names)
    ]
    store.write_store(records, tmp_path / "toy", dataset="toy", size=64)
    cues(tmp_path / "toy", sheet=tmp_path / "sheet.png", out=tmp_path / "maps.npz", size=16)
    assert cv2.imread(str(tmp_path / "sheet.png")).shape[2] == 3
    with np.load(tmp_path / "maps.npz") as saved:
        assert saved["valid"].tolist() == [False, False, True, False]
        assert saved["maps"].shape == (4, 16, 16)
    cues(tmp_path / "toy", sheet=tmp_path / "sheet.png", expression="Anger")
    with pytest.raises(DataError, match="prepare"):
        cues(tmp_path, sheet=tmp_path / "sheet.png")


def test_import_stays_light():
    code = "import sys, mien.cues.verb, mien.cues; assert not {'torch', 'cv2', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_corrected_codebook_is_its_own_mirror_image():
    from mien.faces.landmarks import FLIP

    def mirrored(ellipse):
        def swap(weights, sign=1.0):
            return tuple(sorted((FLIP[k], sign * w) for k, w in weights))

        ax = ellipse.ax._replace(span=swap(ellipse.ax.span, -1.0))
        ay = ellipse.ay._replace(span=swap(ellipse.ay.span))
        return ellipse._replace(x=swap(ellipse.x), y=swap(ellipse.y), dx=-ellipse.dx + 0.0, ax=ax, ay=ay)

    for unit, ellipses in load_codebook("corrected").action_units.items():
        assert {mirrored(e) for e in ellipses} == set(ellipses), unit
