"""What surrounds a synthetic face: background, and the camera's blur, colour cast, noise and compression."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from mien.schema import ByteArray, FloatArray
from mien.synthetic.textures import Appearance, noise

KNEE = 0.72
"""Brightness from which highlights are compressed, as in a camera, rather than cut off."""


@dataclass(frozen=True)
class Scene:
    """Nuisance of one picture; nothing here depends on the subject or the expression."""

    seed: int = 0
    """Seed of the background, the sensor noise and the occluder's shape."""
    occluder: str = "no"
    """no, hand, mask or bar."""
    gain: float = 1.0
    gamma: float = 1.0
    warmth: float = 0.0
    """Colour temperature, -1 bluish to 1 yellowish."""
    grey: bool = False
    blur: float = 0.0
    """Gaussian blur, sigma as a share of the picture's side."""
    grain: float = 0.0
    """Spread of the sensor noise, 0 to about 0.06."""
    jpeg: int = 100
    """JPEG quality; 100 means no compression."""


def background(scene: Scene, appearance: Appearance, size: int) -> FloatArray:
    """(size, size, 3) in [0, 1]: a gradient, a few soft shapes, and the subject's shoulders."""
    rng = np.random.default_rng([scene.seed, 11])
    top, bottom = rng.uniform(0.08, 0.9, 3), rng.uniform(0.08, 0.9, 3)
    grey = rng.beta(2, 1)
    top, bottom = (c * (1 - grey) + grey * c.mean() for c in (top, bottom))
    ramp = np.linspace(0, 1, size, dtype=np.float32)[:, None, None]
    out = np.tile((top * (1 - ramp) + bottom * ramp).astype(np.float32), (1, size, 1))
    for _ in range(rng.integers(0, 6)):
        corner = rng.integers(-size // 4, size, 2)
        side = rng.integers(size // 8, size // 2, 2)
        colour = tuple(float(c) for c in np.clip(out.mean((0, 1)) + rng.normal(0, 0.18, 3), 0, 1))
        cv2.rectangle(out, tuple(map(int, corner)), tuple(map(int, corner + side)), colour, -1)
    out = cv2.GaussianBlur(out, (0, 0), size * rng.uniform(0.01, 0.06))
    out += 0.012 * noise(rng, (24, 24), (size, size))[..., None]
    middle = size * rng.uniform(0.42, 0.58)
    across = np.array([-0.75, -0.45, 0.0, 0.45, 0.75]) * size + middle
    shoulder = np.stack([across, np.array([1.3, 1.0, 0.86, 1.0, 1.3]) * size], 1)
    cv2.fillPoly(out, [np.rint(shoulder).astype(np.int32)], tuple(c / 255 * 0.7 for c in appearance.cloth), cv2.LINE_AA)
    return out


def finish(picture: FloatArray, scene: Scene, size: int) -> ByteArray:
    """Camera effects on the oversampled picture in [0, 1] -> (size, size, 3) uint8."""
    rng = np.random.default_rng([scene.seed, 23])
    small = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)
    if scene.blur > 0:
        small = cv2.GaussianBlur(small, (0, 0), max(scene.blur * size, 0.05))
    cast = np.array([1 + 0.08 * scene.warmth, 1.0, 1 - 0.12 * scene.warmth], np.float32)
    small = small * cast * scene.gain
    small = np.where(small > KNEE, KNEE + (1 - KNEE) * np.tanh((small - KNEE) / (1 - KNEE)), small)
    small = np.clip(small, 0, 1) ** scene.gamma
    if scene.grain > 0:
        small = small + scene.grain * rng.standard_normal(small.shape).astype(np.float32)
    image = np.asarray(np.clip(small * 255 + 0.5, 0, 255), np.uint8)
    if scene.grey:
        image = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    if scene.jpeg < 100:
        _, code = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, scene.jpeg])
        image = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR), np.uint8)[..., ::-1]
    return np.ascontiguousarray(image)
