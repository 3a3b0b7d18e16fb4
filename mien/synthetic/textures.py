"""Procedural textures of the synthetic faces, painted in the frontal projection of the rig's mean head.

Texture space: x in [-X_HALF, X_HALF] to the face's own left, y in [Y_LOW, Y_HIGH] up; unit: distance of the eyes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from mien.schema import FloatArray

SIDE = 288
X_HALF, Y_LOW, Y_HIGH = 1.5, -2.3, 2.1

SKIN_TONES: dict[str, tuple[int, int, int]] = {
    "I": (230, 197, 177),
    "II": (219, 176, 149),
    "III": (203, 154, 121),
    "IV": (181, 127, 92),
    "V": (132, 86, 60),
    "VI": (84, 54, 40),
}
"""Group name (Fitzpatrick-like, by lightness of the rendered albedo) -> mean sRGB albedo. Exact by construction."""

HAIR_COLOURS: dict[str, tuple[int, int, int]] = {
    "black": (28, 24, 23),
    "dark brown": (56, 38, 27),
    "brown": (96, 64, 40),
    "blond": (184, 148, 96),
    "red": (140, 66, 34),
    "grey": (150, 148, 145),
    "white": (216, 214, 209),
}

BROW = ((0.20, 0.300), (0.34, 0.345), (0.54, 0.385), (0.73, 0.36), (0.93, 0.235))
"""Centre line of the (own left) eyebrow in texture space, from the nose outwards; iBUG 22-26 lie on it."""


@dataclass(frozen=True)
class Appearance:
    """What belongs to a subject besides shape."""

    skin: str = "III"
    """A key of SKIN_TONES."""
    tone: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Offset of the subject's own albedo within the group: lightness, redness, yellowness, each about -1 to 1."""
    age: float = 0.3
    """0 smooth to 1 strongly lined."""
    lips: float = 0.4
    """Redness of the lips, 0 like skin to 1 lipstick."""
    hair: str = "short"
    """A key of HAIR_STYLES in mien.synthetic.hair."""
    hair_colour: str = "dark brown"
    hairline: float = 0.0
    """Shift of the hairline upwards (receding) or downwards."""
    brows: float = 0.6
    """Density of the eyebrows, 0.2 to 1."""
    beard: str = "none"
    """none, stubble, moustache, goatee or full."""
    glasses: str = "no"
    """no, yes (clear) or dark."""
    iris: tuple[int, int, int] = (84, 56, 36)
    cloth: tuple[int, int, int] = (90, 90, 110)
    """Colour of clothing and of head coverings."""
    seed: int = 0
    """Seed of the skin's and hair's noise."""


def grid() -> tuple[FloatArray, FloatArray]:
    """Texture-space coordinates (SIDE, SIDE) of the texel centres; row 0 is the top."""
    x = (np.arange(SIDE, dtype=np.float32) + 0.5) / SIDE * 2 * X_HALF - X_HALF
    y = Y_HIGH - (np.arange(SIDE, dtype=np.float32) + 0.5) / SIDE * (Y_HIGH - Y_LOW)
    gx, gy = np.meshgrid(x, y)
    return gx.astype(np.float32), gy.astype(np.float32)


def texel(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Texture-space points -> float texel positions for cv2.remap."""
    column = (x + X_HALF) * (SIDE / (2 * X_HALF)) - 0.5
    row = (Y_HIGH - y) * (SIDE / (Y_HIGH - Y_LOW)) - 0.5
    return column.astype(np.float32), row.astype(np.float32)


def fetch(texture: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
    """Bilinear samples (P, C) of a texture (SIDE, SIDE, C) at texture-space points (P,)."""
    column, row = texel(x, y)
    # cv2.remap takes at most 32767 rows or columns, so the list of points is folded into a rectangle.
    width = 256
    padded = -(-len(column) // width) * width
    column, row = np.resize(column, padded), np.resize(row, padded)
    shape = (-1, width)
    out = cv2.remap(
        texture, column.reshape(shape), row.reshape(shape), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return out.reshape(padded, -1)[: len(x)]


def noise(rng: np.random.Generator, cells: tuple[int, int], size: tuple[int, int] = (SIDE, SIDE)) -> FloatArray:
    """Smooth noise of mean 0 and spread about 1: random `cells` (rows, columns) enlarged to `size`."""
    field = rng.standard_normal(cells).astype(np.float32)
    return np.asarray(cv2.resize(field, size[::-1], interpolation=cv2.INTER_CUBIC), np.float32)


def stroke(lines: list[list[tuple[float, float]]], width: float, soft: float, mirror: bool = True) -> FloatArray:
    """Soft polylines in texture space as a (SIDE, SIDE) map in [0, 1]; `mirror` adds the other side."""
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    per_unit = SIDE / (2 * X_HALF)
    for line in lines:
        for sign in (1, -1) if mirror else (1,):
            points = np.array(line, np.float32)
            column, row = texel(points[:, 0] * sign, points[:, 1])
            fixed = np.rint(np.stack([column, row], 1) * 16).astype(np.int32)[:, None]
            cv2.polylines(canvas, [fixed], False, 255, max(1, round(width * per_unit)), cv2.LINE_AA, 4)
    return np.asarray(cv2.GaussianBlur(canvas, (0, 0), soft * per_unit) / 255, np.float32)


def blob(x: float, y: float, rx: float, ry: float, mirror: bool = True) -> FloatArray:
    """Gaussian spot (both sides when mirrored) of radii rx, ry in texture space."""
    gx, gy = grid()
    out: FloatArray = np.exp(-(((gx - x) / rx) ** 2) - ((gy - y) / ry) ** 2).astype(np.float32)
    return np.asarray(np.maximum(out, out[:, ::-1]) if mirror else out, np.float32)


@lru_cache(maxsize=1)
def wrinkle_maps() -> tuple[tuple[str, ...], FloatArray]:
    """Names and (N, SIDE, SIDE) maps of the lines that facial actions fold into skin."""
    maps = {
        "forehead": stroke([[(0, 0.66), (0.3, 0.69), (0.62, 0.60)], [(0, 0.86), (0.32, 0.88), (0.66, 0.78)],
                            [(0, 1.06), (0.3, 1.07), (0.6, 0.98)]], 0.02, 0.025),
        "glabella": stroke([[(0.07, 0.2), (0.09, 0.45)], [(0.13, 0.26), (0.16, 0.42)]], 0.025, 0.025),
        "crow": stroke([[(0.85, -0.02), (1.05, 0.06)], [(0.86, -0.08), (1.06, -0.1)], [(0.84, -0.14), (1.02, -0.24)],
                        [(0.25, -0.24), (0.5, -0.32), (0.76, -0.24)]], 0.018, 0.02),
        "nose": stroke([[(0, 0.1), (0.14, 0.16)], [(0, 0.0), (0.15, 0.05)], [(0, -0.12), (0.16, -0.07)]], 0.02, 0.022),
        "nasolabial": stroke([[(0.3, -0.62), (0.45, -0.82), (0.56, -1.08)]], 0.03, 0.035),
        "chin": stroke([[(-0.2, -1.5), (0, -1.45), (0.2, -1.5)]], 0.03, 0.04, False)
        + 0.7 * blob(0, -1.6, 0.2, 0.12, False),
        "corner": stroke([[(0.5, -1.1), (0.56, -1.2), (0.58, -1.36)]], 0.025, 0.03),
        "dimple": stroke([[(0.58, -1.0), (0.63, -1.12), (0.6, -1.24)]], 0.03, 0.03),
    }  # fmt: skip
    return tuple(maps), np.stack(list(maps.values()))


def brow_map(rng: np.random.Generator) -> FloatArray:
    """Density of the eyebrows, with hair-like noise."""
    line = np.array(BROW)
    fine = np.linspace(0, 1, 24)
    at = np.linspace(0, 1, len(line))
    points = list(zip(np.interp(fine, at, line[:, 0]), np.interp(fine, at, line[:, 1]), strict=True))
    thick = (
        stroke([points[:14]], 0.07, 0.022) + stroke([points[12:20]], 0.045, 0.02) + stroke([points[18:]], 0.02, 0.02)
    )
    return np.clip(thick * (1.05 + 0.25 * noise(rng, (140, 140))), 0, 1)


def beard_map(kind: str, rng: np.random.Generator) -> FloatArray:
    """Density of facial hair in [0, 1]."""
    x, y = grid()
    ax = np.abs(x)
    line = -0.78 - 0.28 * np.clip(1 - ax / 0.9, 0, 1) ** 0.5 + 0.55 * np.clip(ax - 0.8, 0, 1)
    jaw = np.clip((line - y) / 0.1, 0, 1)
    below_lip = np.exp(-((ax / 0.16) ** 2) - ((y + 1.42) / 0.05) ** 2)
    mouth = np.exp(-((ax / 0.47) ** 4) - ((y + 1.2) / 0.21) ** 4)
    jaw = np.clip(jaw - 1.1 * mouth, 0, 1) + 0.6 * below_lip
    moustache = np.exp(-((ax / 0.42) ** 4) - ((y + 0.92 + 0.12 * ax) / 0.1) ** 2)
    jaw *= np.clip((y + 2.12) / 0.15, 0, 1)  # not down the neck
    goatee = jaw * np.exp(-((ax / 0.42) ** 6))
    kinds = {"stubble": 0.35 * np.maximum(jaw, 0.8 * moustache), "moustache": 0.95 * moustache,
             "goatee": np.maximum(0.9 * goatee, 0.85 * moustache),
             "full": np.maximum(0.95 * jaw, 0.95 * moustache)}  # fmt: skip
    return np.clip(kinds[kind] * (1 + 0.3 * noise(rng, (130, 130))), 0, 1)


@lru_cache(maxsize=96)
def skin_texture(appearance: Appearance) -> FloatArray:
    """Albedo (SIDE, SIDE, 3), 0-1 sRGB, of a subject: tone, mottling, blush, freckles, lines, brows, beard."""
    rng = np.random.default_rng([appearance.seed, 77])
    light, red, yellow = appearance.tone
    base = np.array(SKIN_TONES[appearance.skin], np.float32) / 255
    base = base * (1 + 0.06 * light) + np.array([0.02 * red, -0.008 * red, -0.02 * yellow - 0.01 * red], np.float32)
    mottle = 0.02 * noise(rng, (7, 7)) + 0.014 * noise(rng, (26, 26)) + 0.012 * noise(rng, (110, 110))
    albedo = base * (1 + mottle[..., None])
    blush = (blob(0.62, -0.55, 0.32, 0.26) + 0.8 * blob(0, -0.6, 0.2, 0.18, False)) * (0.5 + 0.5 * rng.random())
    albedo *= 1 + blush[..., None] * np.array([0.03, -0.06, -0.06], np.float32)
    socket = blob(0.48, -0.17, 0.26, 0.09) * (0.05 + 0.12 * rng.random() + 0.08 * appearance.age)
    albedo *= 1 - socket[..., None]
    if rng.random() < 0.15 and appearance.skin in ("I", "II", "III"):
        spots = np.clip(noise(rng, (120, 120)) - 1.3, 0, 1) * (
            blob(0.5, -0.5, 0.5, 0.4) + blob(0, -0.4, 0.3, 0.3, False)
        )
        albedo *= 1 - 0.35 * spots[..., None] * np.array([0.5, 0.8, 1], np.float32)
    for _ in range(rng.poisson(1.2)):
        mole = blob(rng.uniform(-0.9, 0.9), rng.uniform(-1.6, 0.9), 0.022, 0.022, False)
        albedo *= 1 - 0.6 * mole[..., None]
    names, maps = wrinkle_maps()
    static = dict(zip(names, maps, strict=True))
    lines = 0.6 * static["forehead"] + 0.7 * static["nasolabial"] + 0.6 * static["crow"] + 0.3 * static["glabella"]
    albedo *= 1 - (0.30 * appearance.age**1.5 * lines)[..., None]
    hair = np.array(HAIR_COLOURS[appearance.hair_colour], np.float32) / 255
    dark = np.minimum(hair * 0.75, base * 0.6)
    brows = brow_map(rng)[..., None] * appearance.brows
    albedo = albedo * (1 - brows) + dark * brows
    if appearance.beard != "none":
        beard = beard_map(appearance.beard, rng)[..., None]
        albedo = albedo * (1 - beard) + np.minimum(hair, base) * beard
    return np.clip(albedo, 0.01, 1).astype(np.float32)
