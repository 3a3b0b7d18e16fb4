"""Cues against slow twins: scalar ellipse coverage, scipy's erf, and the published drawing with OpenCV."""

from __future__ import annotations

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
