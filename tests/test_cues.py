"""Cues against slow twins: scalar ellipse coverage, scipy's erf, and the published drawing with OpenCV."""

from __future__ import annotations

import cv2
import numpy as np


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
    lips = [(int((x[48] + x[54]) / 2), int((y[51] + y[57]) / 2), or_((x[54] - x[48]) / 2, 5), or_((y[57] - y[51]) / 2, 5))]
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
    h, w = image_size
    ellipses = paper_ellipses(points, h, w)
    maps = []
    for unit in PAPER_UNITS.get(expression, tuple(ellipses)):
        canvas = np.full((h, w), 1e-4, np.float32)
        for cx, cy, ax, ay in ellipses[unit]:
            cv2.ellipse(canvas, (int(cx), int(cy)), (int(ax), int(ay)), 0, 0, 360, 255, -1)
        if canvas.max() < 1:
            continue
        if low:
            canvas = cv2.resize(cv2.blur(cv2.resize(canvas, (28, 28)), (3, 3)), (w, h))
        maps.append(canvas)
    merged = np.stack(maps).max(0)
    spread = merged.max() - merged.min()
    return (merged - merged.min()) / (spread if spread > 0 else 1)
