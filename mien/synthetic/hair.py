"""Hair and head coverings of the synthetic faces: a shell around the scalp with a soft, per-pixel edge."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np

from mien.schema import FloatArray
from mien.synthetic.raster import IntArray
from mien.synthetic.rig import SKIN, load_rig
from mien.synthetic.textures import HAIR_COLOURS, Appearance, noise


class Style(NamedTuple):
    """Shape of a shell, lengths in eye distances."""

    thickness: float
    front: float
    """Height of the hairline above the eyes at the middle of the forehead."""
    side: float
    """Height down to which the sides reach in front of the ears."""
    length: float = 1.0
    """Stretch of everything below the ears (long hair)."""
    rough: float = 0.05
    """Raggedness of the edge."""
    cloth: bool = False
    """A head covering: clothing colour, sharp edge, covers ears and (when long) the neck."""


HAIR_STYLES: dict[str, Style] = {
    "bald": Style(0, 0, 0),
    "buzz": Style(0.02, 1.12, 0.15, rough=0.07),
    "short": Style(0.10, 1.10, 0.05),
    "quiff": Style(0.22, 1.05, 0.25, rough=0.07),
    "fringe": Style(0.15, 0.62, -0.1, rough=0.10),
    "bob": Style(0.20, 1.00, -0.9, 1.6, 0.08),
    "long": Style(0.16, 1.08, -1.0, 2.6, 0.06),
    "long fringe": Style(0.17, 0.66, -1.0, 2.6, 0.10),
    "afro": Style(0.42, 1.02, -0.05, rough=0.12),
    "cap": Style(0.09, 0.80, 0.35, rough=0.0, cloth=True),
    "scarf": Style(0.07, 0.92, -3.0, 1.3, rough=0.0, cloth=True),
}


@cache
def shell_triangles(ears: bool) -> IntArray:
    """Skin triangles that a shell may cover: everything but the middle of the face, with or without the ears."""
    rig = load_rig()
    rest = rig.mean
    middle = (np.abs(rest[:, 0]) < 0.85) & (rest[:, 1] < 0.45) & (rest[:, 2] > -0.3)
    ok = (rig.part == SKIN) & ~middle & (rig.masks[:, 1] < 0.1) & (ears | (rig.masks[:, 3] < 0.5))
    return rig.triangles[ok[rig.triangles].all(1)]


def coverage(style: Style, hairline: float, rest: FloatArray) -> FloatArray:
    """Signed distance-like value of rest points (P, 3): positive where the shell covers the head."""
    x, y, z = np.abs(rest[:, 0]), rest[:, 1], rest[:, 2]
    front = style.front + hairline
    if style.cloth and style.side < -2:  # a scarf frames the face with an oval
        return ((x / 1.06) ** 2 + ((y + 0.42) / (1.36 + hairline)) ** 2) ** 0.5 - 1 + np.clip(-z - 0.55, 0, 9)
    # From the middle of the forehead the line falls slowly to the temples, then steeply in front of the ears.
    line = front - 0.16 * (x / 0.7) ** 2
    sideburn = style.side + 2.2 * np.clip(z + 0.72, 0, 1)
    outer = np.clip((x - 0.78) / 0.3, 0, 1)
    line = line * (1 - outer) + np.minimum(line, sideburn) * outer
    nape = min(style.side, -0.75)
    back = np.clip((-0.85 - z) / 0.25, 0, 1)
    line = line * (1 - back) + nape * back
    return y - line


def shell_vertices(appearance: Appearance, vertices: FloatArray, normals: FloatArray) -> FloatArray:
    """Head vertices (V, 3) pushed outwards along normals by the style's thickness, long parts stretched down."""
    style = HAIR_STYLES[appearance.hair]
    rest = load_rig().mean
    cover = coverage(style, appearance.hairline, rest)
    grow = np.clip(cover / 0.25, 0, 1) ** 0.6 * style.thickness + 0.015
    up = np.clip(rest[:, 1] - 0.8, 0, 1.2)
    if appearance.hair == "quiff":
        grow = grow * (0.35 + 0.8 * up)
    out = vertices + normals * grow[:, None]
    if style.length > 1:
        below = np.clip(0.35 - rest[:, 1], 0, 2)
        out[:, 1] -= below * (style.length - 1)
        out[:, 0] *= 1 + np.clip(below, 0, 0.5) * (0.25 if not style.cloth else 0.0)
        out[:, 2] -= np.clip(below, 0, 0.5) * 0.15
        # Ears lie flat under long hair and scarves.
        beyond = np.clip(np.abs(out[:, 0]) - 1.25, 0, None) * (rest[:, 1] > -0.75)
        out[:, 0] -= np.sign(out[:, 0]) * 0.75 * beyond
    return out.astype(np.float32)


@lru_cache(maxsize=96)
def strand_noise(seed: int, curly: bool) -> FloatArray:
    """(128, 128) noise over angle and height: strands for straight hair, grain for curls."""
    rng = np.random.default_rng([seed, 5])
    cells = (48, 48) if curly else (5, 72)
    return noise(rng, cells, (128, 128)) * 0.6 + noise(rng, (9, 9), (128, 128)) * 0.4


def shell_colour(
    appearance: Appearance, rest: FloatArray, normal: FloatArray, light: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Colour (P, 3) lit by unit vector `light`, and opacity (P,), of shell points with rest positions (P, 3)."""
    style = HAIR_STYLES[appearance.hair]
    pattern = strand_noise(appearance.seed, appearance.hair == "afro")
    angle = np.arctan2(rest[:, 0], rest[:, 2] + 0.9) / (2 * np.pi) + 0.5
    row = np.clip((rest[:, 1] + 3) / 5.2, 0, 0.999)
    grain = pattern[(row * 128).astype(int), (np.clip(angle, 0, 0.999) * 128).astype(int)]
    edge = coverage(style, appearance.hairline, rest) + style.rough * grain
    alpha = np.clip(edge / (0.02 if style.cloth else 0.10), 0, 1)
    shade = np.clip(normal @ light, 0, 1) * 0.75 + 0.3
    if style.cloth:
        colour = np.array(appearance.cloth, np.float32) / 255 * (1 + 0.04 * grain)[:, None]
        return colour * shade[:, None], alpha
    alpha = alpha * (0.6 if appearance.hair == "buzz" else 1.0)
    colour = np.array(HAIR_COLOURS[appearance.hair_colour], np.float32) / 255 * (1 + 0.22 * grain)[:, None]
    gloss = np.clip(normal @ light, 0, 1) ** 12 * 0.12 * (1 + grain)
    return colour * shade[:, None] + gloss[:, None], alpha
