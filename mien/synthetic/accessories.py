"""Glasses and occluders of the synthetic faces, drawn into the oversampled picture."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from mien.schema import FloatArray
from mien.synthetic.camera import Scene
from mien.synthetic.textures import SKIN_TONES, Appearance

SHIFT = 4
"""Fractional bits of OpenCV's fixed-point drawing."""


def fixed(points: FloatArray) -> npt.NDArray[np.int32]:
    """Float pixels (N, 2) -> OpenCV's fixed point."""
    return np.rint(points[:, :2] * 2**SHIFT).astype(np.int32)[:, None]


def blend(picture: FloatArray, layer: FloatArray, colour: FloatArray) -> None:
    """Mix a colour (3,) or (H, W, 3) into the picture in place where layer (H, W) in [0, 1] says."""
    picture += layer[..., None] * (colour - picture)


def draw_glasses(
    picture: FloatArray,
    cover: FloatArray,
    appearance: Appearance,
    head: FloatArray,
    project: Callable[[FloatArray], FloatArray],
) -> None:
    """Rims, bridge and arms before the eyes of `head` (68, 3); dark lenses add to `cover` (H, W)."""
    if appearance.glasses == "no":
        return
    rng = np.random.default_rng([appearance.seed, 41])
    size = len(picture)
    wide, high, square = rng.uniform(0.36, 0.45), rng.uniform(0.27, 0.38), rng.uniform(2.0, 4.5)
    frame = rng.uniform(0.02, 0.25) + np.array([0.12, 0.05, 0.0]) * rng.random()
    thick = max(1, round(size * rng.uniform(0.006, 0.016)))
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    cosine, sine = np.cos(turn), np.sin(turn)
    rim = [np.sign(v) * np.abs(v) ** (2 / square) for v in (cosine, sine)]
    lines, lenses = np.zeros((size, size), np.uint8), np.zeros((size, size), np.uint8)
    front = float(head[27, 2]) + 0.06
    for corners, ear, sign in ((slice(36, 42), head[0], -1), (slice(42, 48), head[16], 1)):
        eye = head[corners].mean(0)
        x, y = eye[0] + sign * 0.03 + wide * rim[0], eye[1] - 0.04 + high * rim[1]
        z = front - 0.25 * np.clip(np.abs(x) - 0.3, 0, 1) ** 1.5
        outline = project(np.stack([x, y, z], 1).astype(np.float32))
        cv2.fillPoly(lenses, [fixed(outline)], 255, cv2.LINE_AA, SHIFT)
        cv2.polylines(lines, [fixed(outline)], True, 255, thick, cv2.LINE_AA, SHIFT)
        hinge = np.array([eye[0] + sign * (0.03 + wide), eye[1] + 0.05, z.min()])
        back = np.array([ear[0] * 1.02, eye[1] + 0.05, ear[2]])
        arm = project(np.stack([hinge, back]).astype(np.float32))
        if (arm[1, 0] - arm[0, 0]) * sign > 0:  # the side that is turned towards the camera
            cv2.polylines(lines, [fixed(arm)], False, 255, thick, cv2.LINE_AA, SHIFT)
    half = 0.5 - wide + 0.03
    bridge = project(np.array([[-half, 0.03, front], [0, 0.08, front + 0.04], [half, 0.03, front]], np.float32))
    cv2.polylines(lines, [fixed(bridge)], False, 255, thick, cv2.LINE_AA, SHIFT)
    lens = lenses.astype(np.float32) / 255
    if appearance.glasses == "dark":
        blend(picture, (0.93 * lens).astype(np.float32), np.full(3, 0.06, np.float32))
        np.maximum(cover, lens, out=cover)
    else:
        ramp = np.linspace(-1, 1, size, dtype=np.float32)
        sheen: FloatArray = np.clip(-0.5 * ramp[:, None] + 0.3 * ramp[None], 0, 1)
        blend(picture, (lens * (0.04 + 0.12 * sheen)).astype(np.float32), np.full(3, 0.95, np.float32))
    blend(picture, np.asarray(lines / 255, np.float32), np.asarray(frame, np.float32))


def hand_shape(rng: np.random.Generator, points: FloatArray, size: int) -> npt.NDArray[np.uint8]:
    """Silhouette of a hand-like blob that comes from the border and reaches into the face."""
    layer = np.zeros((size, size), np.uint8)
    goal = points[rng.choice([3, 13, 5, 11, 8, 48, 54, 19, 24])]
    face = float(np.linalg.norm(points[36] - points[45]))
    outward = goal - points[30]
    outward = outward / max(float(np.linalg.norm(outward)), 1e-6)
    turn = rng.uniform(-0.7, 0.7)
    outward = outward @ np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    palm = goal + outward * face * 0.75
    aside = np.array([-outward[1], outward[0]])
    cv2.line(layer, tuple(map(int, palm)), tuple(map(int, palm + outward * size)), 255, int(face * 0.55), cv2.LINE_AA)
    cv2.circle(layer, tuple(map(int, palm)), int(face * 0.36), 255, -1, cv2.LINE_AA)
    for finger in (-0.75, -0.25, 0.25, 0.75):
        start = palm + aside * finger * face * 0.36
        stop = start - outward * face * rng.uniform(0.5, 0.75) + aside * finger * face * 0.12
        cv2.line(layer, tuple(map(int, start)), tuple(map(int, stop)), 255, max(2, int(face * 0.17)), cv2.LINE_AA)
    return layer


def cover_with(
    picture: FloatArray, cover: FloatArray, scene: Scene, appearance: Appearance, points: FloatArray
) -> None:
    """Draw the scene's occluder over picture (H, W, 3) in place and add it to `cover` (H, W); points (68, 2) pixels."""
    if scene.occluder == "no":
        return
    rng = np.random.default_rng([scene.seed, 31])
    size = len(picture)
    layer = np.zeros((size, size), np.uint8)
    if scene.occluder == "hand":
        layer = hand_shape(rng, points, size)
        colour = np.array(SKIN_TONES[appearance.skin], np.float32) / 255 * rng.uniform(0.7, 0.95)
    elif scene.occluder == "mask":
        cloth = np.concatenate([points[2:15], points[28:29] * 0.6 + points[29:30] * 0.4])
        cv2.fillPoly(layer, [fixed(cloth)], 255, cv2.LINE_AA, SHIFT)
        colour = np.array([(0.75, 0.85, 0.9), (0.92, 0.92, 0.92), (0.12, 0.12, 0.13)][rng.integers(3)], np.float32)
    else:
        middle, angle = points.mean(0) + rng.normal(0, 0.2, 2) * size, rng.uniform(0, 180)
        box = cv2.boxPoints((tuple(map(float, middle)), (size * rng.uniform(0.08, 0.2), size * 2.0), float(angle)))
        cv2.fillPoly(layer, [fixed(box)], 255, cv2.LINE_AA, SHIFT)
        colour = rng.uniform(0.05, 0.9, 3).astype(np.float32)
    soft = cv2.GaussianBlur(layer, (0, 0), size * 0.006).astype(np.float32) / 255
    inner = cv2.GaussianBlur(layer, (0, 0), size * 0.03).astype(np.float32) / 255
    blend(picture, soft, colour * (0.55 + 0.45 * inner[..., None]))
    np.maximum(cover, soft, out=cover)
