"""Renderer of the face rig: `FaceParameters` -> `Record` with exact landmarks, visibility, pose and attributes.

Deferred shading in numpy over a z-buffer (mien.synthetic.raster) at twice the resolution, then camera effects.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from mien.schema import ACTION_UNITS, FloatArray, Record
from mien.synthetic.accessories import cover_with, draw_glasses
from mien.synthetic.camera import Scene, background, finish
from mien.synthetic.hair import HAIR_STYLES, shell_colour, shell_triangles, shell_vertices
from mien.synthetic.raster import Fragments, rasterise
from mien.synthetic.rig import LEFT_EYE, LOWER_TEETH, RIGHT_EYE, SKIN, TONGUE, UPPER_TEETH, load_rig
from mien.synthetic.textures import Appearance, fetch, skin_texture, wrinkle_maps

OVERSAMPLING = 2
DEPTH_TOLERANCE = 0.09
"""A landmark this far (eye distances) behind the nearest surface is hidden."""

WRINKLES: dict[str, dict[str, float]] = {
    "forehead": {"browInnerUp": 0.7, "browOuterUp": 0.6},
    "glabella": {"browDown": 1.0, "noseSneer": 0.3},
    "crow": {"cheekSquint": 0.7, "mouthSmile": 0.35, "eyeSquint": 0.3},
    "nose": {"noseSneer": 1.2},
    "nasolabial": {"mouthSmile": 0.9, "mouthUpperUp": 0.7, "noseSneer": 0.5, "mouthDimple": 0.3},
    "chin": {"mouthShrugLower": 0.9, "mouthPress": 0.3},
    "corner": {"mouthFrown": 0.9, "mouthStretch": 0.4},
    "dimple": {"mouthDimple": 0.9, "mouthStretch": 0.4, "mouthPress": 0.3},
}
"""Fold of mien.synthetic.textures.wrinkle_maps -> facial actions that press it (mean of both sides)."""


@dataclass(frozen=True)
class FaceParameters:
    """Everything that decides one picture; change one field at a time to vary one factor."""

    identity: FloatArray
    """(<= K,) coefficients of the rig's identity modes, in standard deviations."""
    actions: FloatArray
    """(52,) strengths of the rig's facial actions."""
    appearance: Appearance = field(default_factory=Appearance)
    pose: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Yaw (positive turns to the face's own left, the right of the picture), pitch (positive looks down), roll
    (positive tilts clockwise in the picture), degrees."""
    scale: float = 0.30
    """Distance of the eye centres as a share of the picture's side, for the frontal mean face."""
    centre: tuple[float, float] = (0.0, 0.0)
    """Shift of the face right and down, as a share of the picture's side."""
    distance: float = 12.0
    """Camera distance in eye distances; smaller is stronger perspective."""
    light: tuple[float, float] = (20.0, 30.0)
    """Azimuth (positive from the picture's right) and elevation of the key light, degrees."""
    contrast: float = 0.7
    """Share of the key light against the even ambient light, 0 to 1."""
    scene: Scene = field(default_factory=Scene)
    id: str = "face"
    split: str = "train"
    subject: str | None = None
    expression: str | None = None
    action_units: FloatArray | None = None
    """(A,) intensities over schema.ACTION_UNITS; None -> NaN."""


class Surface(NamedTuple):
    """Interpolated attributes at P covered pixels."""

    rest: FloatArray
    normal: FloatArray
    masks: FloatArray
    part: npt.NDArray[np.uint8]


def rotation(pose: tuple[float, float, float]) -> FloatArray:
    """(3, 3) matrix: roll @ yaw @ pitch, head to camera."""
    yaw, pitch, roll = np.deg2rad(pose)
    cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_z = np.array([[cr, sr, 0], [-sr, cr, 0], [0, 0, 1]])
    return np.asarray(about_z @ about_y @ about_x, np.float32)


PIVOT = np.array([0.0, -0.62, -0.45], np.float32)
"""Point of the head that the picture is centred on."""


def project(vertices: FloatArray, face: FaceParameters, size: int) -> FloatArray:
    """Head-space points (V, 3) -> x, y in pixels (centres at .0) and z towards the viewer in eye distances."""
    turned = (vertices - PIVOT) @ rotation(face.pose).T
    zoom = face.scale * size * face.distance / (face.distance - turned[:, 2])
    middle = (size - 1) / 2
    x = middle + face.centre[0] * size + turned[:, 0] * zoom
    y = middle + (face.centre[1] + 0.055) * size - turned[:, 1] * zoom
    return np.stack([x, y, turned[:, 2]], 1).astype(np.float32)


@cache
def vertex_columns() -> npt.NDArray[np.int64]:
    """Flat triangle corners, for summing face normals into vertices."""
    return load_rig().triangles.reshape(-1)


def vertex_normals(vertices: FloatArray) -> FloatArray:
    """Unit normals (V, 3), area-weighted."""
    rig = load_rig()
    corner = vertices[rig.triangles]
    normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    out = np.empty_like(vertices)
    for axis in range(3):
        out[:, axis] = np.bincount(vertex_columns(), np.repeat(normal[:, axis], 3), len(vertices))
    return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-9)


def interpolate(fragments: Fragments, triangles: npt.NDArray[np.int64], values: FloatArray) -> FloatArray:
    """Vertex values (V, D) at the fragments, (P, D)."""
    corner = triangles[fragments.triangle]
    out = values[corner[:, 0]] * fragments.weights[:, :1]
    out += values[corner[:, 1]] * fragments.weights[:, 1:2]
    out += values[corner[:, 2]] * fragments.weights[:, 2:]
    return out


def light_vector(face: FaceParameters) -> FloatArray:
    """Unit vector towards the key light in camera space."""
    azimuth, elevation = np.deg2rad(face.light)
    return np.array(
        [np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)], np.float32
    )


def wrinkle_strengths(face: FaceParameters) -> FloatArray:
    """(N,) strength of every fold in wrinkle_maps order, deeper with age."""
    names, _ = wrinkle_maps()
    action = dict(zip(load_rig().action_names, face.actions, strict=True))
    depth = 0.45 + 0.75 * face.appearance.age
    out = []
    for name in names:
        total = 0.0
        for key, weight in WRINKLES[name].items():
            sides = [action[k] for k in (key, key + "Left", key + "Right") if k in action]
            total += weight * float(np.mean(sides))
        out.append(min(total, 1.3) * depth)
    return np.array(out, np.float32)


def skin_colour(face: FaceParameters, surface: Surface, light: FloatArray) -> FloatArray:
    """Lit colour (P, 3) of skin, lips, lashes and the inside of the mouth."""
    albedo = fetch(skin_texture(face.appearance), surface.rest[:, 0], surface.rest[:, 1])
    lips = surface.masks[:, :1]
    tint = np.array([0.97, 0.72, 0.70], np.float32) * (1 - face.appearance.lips) + face.appearance.lips * np.array(
        [0.86, 0.40, 0.44], np.float32
    )
    albedo = albedo * (1 - lips + lips * tint)
    inner = np.clip(surface.masks[:, 1:2] * 1.6, 0, 1)
    albedo = albedo * (1 - inner) + inner * np.array([0.22, 0.07, 0.07], np.float32)
    rim = surface.masks[:, 4:5] * (0.55 + 0.3 * (face.appearance.lips > 0.7))
    albedo = albedo * (1 - rim * 0.85)
    _, maps = wrinkle_maps()
    fold_map = np.tensordot(wrinkle_strengths(face), maps, 1)
    # A fold is a dark groove with a lit lower lip: the map minus half of itself shifted down.
    fold_map = fold_map - 0.45 * np.roll(fold_map, 5, axis=0)
    fold = fetch(fold_map[..., None].astype(np.float32), surface.rest[:, 0], surface.rest[:, 1])
    albedo = albedo * (1 - 0.42 * fold)
    facing = surface.normal @ light
    wrapped = np.clip((facing + 0.25) / 1.25, 0, 1)[:, None] ** np.array([0.9, 1.1, 1.2], np.float32)
    sky = (0.75 + 0.25 * surface.normal[:, 1:2]) * (1 - 0.9 * face.contrast + 0.12)
    half = light + np.array([0, 0, 1], np.float32)
    half /= np.linalg.norm(half)
    shine = np.clip(surface.normal @ half, 0, 1) ** 22 * 0.16 * face.contrast * (1 + 1.2 * lips[:, 0])
    grazing = (1 - np.clip(surface.normal[:, 2], 0, 1)) ** 3 * 0.06
    lit = albedo * (1.02 * face.contrast * wrapped * 1.1 + sky)
    return np.asarray(lit + (shine + grazing)[:, None] * (1 - inner), np.float32)


def eye_colour(face: FaceParameters, surface: Surface, light: FloatArray, side: int) -> FloatArray:
    """Lit colour (P, 3) of the eyeball `side` (LEFT_EYE or RIGHT_EYE): sclera, limbus, iris, pupil, highlight."""
    rig = load_rig()
    ball = rig.mean[rig.part == side]
    away = surface.rest - ball.mean(0)
    away /= np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-6)
    action = dict(zip(rig.action_names, face.actions, strict=True))
    word = "Left" if side == LEFT_EYE else "Right"
    outward = 1.0 if side == LEFT_EYE else -1.0
    across = np.deg2rad(30) * outward * (action[f"eyeLookOut{word}"] - action[f"eyeLookIn{word}"])
    upward = np.deg2rad(24) * (action[f"eyeLookUp{word}"] - action[f"eyeLookDown{word}"])
    gaze = np.array([np.sin(across) * np.cos(upward), np.sin(upward), np.cos(across) * np.cos(upward)], np.float32)
    angle = np.degrees(np.arccos(np.clip(away @ gaze, -1, 1)))[:, None]
    white = np.array([0.80, 0.76, 0.73], np.float32) * (1 - 0.012 * np.clip(angle - 30, 0, 30) * 0.6)
    iris = np.array(face.appearance.iris, np.float32) / 255 * (0.75 + 0.6 * np.clip((angle - 12) / 16, 0, 1))
    in_iris = np.clip((30 - angle) / 3, 0, 1)
    limbus = np.clip(1 - np.abs(angle - 28.5) / 4, 0, 1) * 0.6
    pupil = np.clip((13 - angle) / 3, 0, 1)
    colour = white * (1 - in_iris) + iris * in_iris
    colour = colour * (1 - limbus) * (1 - 0.92 * pupil)
    shaded = np.clip(0.95 - 0.75 * np.clip(away[:, 1:2] - 0.12, 0, 1), 0.3, 1)
    facing = np.clip((surface.normal @ light + 0.4) / 1.4, 0, 1)[:, None]
    lit = colour * shaded * (0.95 * face.contrast * facing + 1.05 - 0.85 * face.contrast)
    half = light + np.array([0, 0, 1.2], np.float32)
    glint = np.clip(surface.normal @ (half / np.linalg.norm(half)), 0, 1)[:, None] ** 90
    return np.asarray(lit + 0.8 * glint, np.float32)


def mouth_colour(surface: Surface, part: int, light: FloatArray) -> FloatArray:
    """Lit colour (P, 3) of teeth or tongue, darker towards the back of the mouth."""
    base = np.array([0.62, 0.30, 0.30] if part == TONGUE else [0.86, 0.82, 0.74], np.float32)
    depth = np.clip((surface.rest[:, 2] + (0.45 if part == TONGUE else 0.05)) / 0.35, 0.25, 1)
    facing = np.clip(surface.normal @ light, 0, 1) * 0.5 + 0.45
    return base * (depth * facing)[:, None]


def shade(face: FaceParameters, fragments: Fragments, normals: FloatArray) -> FloatArray:
    """Colour (P, 3) of the head's fragments."""
    rig = load_rig()
    light = light_vector(face)
    values = interpolate(fragments, rig.triangles, np.concatenate([rig.mean, normals, rig.masks], 1))
    normal = values[:, 3:6] / np.maximum(np.linalg.norm(values[:, 3:6], axis=1, keepdims=True), 1e-6)
    part = rig.part[rig.triangles[fragments.triangle, 0]]
    surface = Surface(values[:, :3], normal, values[:, 6:], part)
    out = np.zeros((len(part), 3), np.float32)
    for number in (SKIN, LEFT_EYE, RIGHT_EYE, UPPER_TEETH, LOWER_TEETH, TONGUE):
        rows = np.flatnonzero(part == number)
        if not len(rows):
            continue
        piece = Surface(surface.rest[rows], surface.normal[rows], surface.masks[rows], part[rows])
        if number == SKIN:
            out[rows] = skin_colour(face, piece, light)
        elif number in (LEFT_EYE, RIGHT_EYE):
            out[rows] = eye_colour(face, piece, light, number)
        else:
            out[rows] = mouth_colour(piece, number, light)
    return out


def add_hair(
    canvas: FloatArray, cover: FloatArray, face: FaceParameters, vertices: FloatArray, depth: FloatArray, size: int
) -> None:
    """Blend the hair shell over canvas (size * size, 3) in place; cover (size * size,) collects its opacity."""
    style = HAIR_STYLES[face.appearance.hair]
    if style.thickness == 0:
        return
    triangles = shell_triangles(style.length > 1)
    rig = load_rig()
    normals = vertex_normals(vertices)
    shell = shell_vertices(face.appearance, vertices, normals)
    fragments = rasterise(project(shell, face, size), triangles, size, two_sided=True)
    in_front = fragments.depth[fragments.pixel] >= depth[fragments.pixel] - 0.02
    fragments = Fragments(
        fragments.pixel[in_front], fragments.triangle[in_front], fragments.weights[in_front], fragments.depth
    )
    turned = normals @ rotation(face.pose).T
    values = interpolate(fragments, triangles, np.concatenate([rig.mean, turned], 1))
    colour, alpha = shell_colour(face.appearance, values[:, :3], values[:, 3:], light_vector(face))
    canvas[fragments.pixel] += alpha[:, None] * (colour * (0.55 + 0.5 * face.contrast) - canvas[fragments.pixel])
    cover[fragments.pixel] = alpha


def visible_points(points: FloatArray, depth: FloatArray, cover: FloatArray, size: int) -> npt.NDArray[np.bool_]:
    """(68,) True where a projected landmark lies in the picture, on the nearest surface, and uncovered."""
    column, row = np.rint(points[:, 0]).astype(int), np.rint(points[:, 1]).astype(int)
    inside = (column >= 0) & (column < size) & (row >= 0) & (row < size)
    at = np.clip(row, 0, size - 1) * size + np.clip(column, 0, size - 1)
    # The nearest surface in the 3 x 3 neighbourhood that is farthest away: silhouettes count as visible.
    far = cv2.erode(np.where(np.isfinite(depth), depth, -9).reshape(size, size).astype(np.float32), np.ones((3, 3)))
    return inside & (points[:, 2] >= far.reshape(-1)[at] - DEPTH_TOLERANCE) & (cover[at] < 0.5)


def render_face(face: FaceParameters, size: int = 112) -> Record:
    """Picture (size, size, 3) uint8 RGB of one face with its exact truth.

    Landmarks are exact even where hidden or outside; `visible` is False for points behind the face itself, hair,
    glasses with dark lenses or an occluder, and for points outside the picture.
    """
    rig = load_rig()
    big = size * OVERSAMPLING
    vertices = rig.deform(face.identity, face.actions)
    projected = project(vertices, face, big)
    fragments = rasterise(projected, rig.triangles, big)
    normals = (vertex_normals(vertices) @ rotation(face.pose).T).astype(np.float32)
    canvas = background(face.scene, face.appearance, big).reshape(-1, 3)
    canvas[fragments.pixel] = shade(face, fragments, normals)
    cover = np.zeros(big * big, np.float32)
    add_hair(canvas, cover, face, vertices, fragments.depth, big)
    points = rig.landmarks(projected)
    picture = np.maximum(canvas, 0).reshape(big, big, 3)
    mask = cover.reshape(big, big)
    head = rig.landmarks(vertices)
    draw_glasses(picture, mask, face.appearance, head, lambda p: project(p, face, big))
    cover_with(picture, mask, face.scene, face.appearance, points[:, :2])
    seen = visible_points(points, fragments.depth, mask.reshape(-1), big)
    landmarks = ((points[:, :2] + 0.5) / OVERSAMPLING - 0.5).astype(np.float32)
    image = finish(picture, face.scene, size)
    units = face.action_units if face.action_units is not None else np.full(len(ACTION_UNITS), np.nan, np.float32)
    low, high = landmarks.min(0), landmarks.max(0)
    return Record(
        id=face.id, image=image, split=face.split, subject=face.subject, expression=face.expression,
        action_units=units.astype(np.float32), landmarks=landmarks, visible=seen,
        box=np.concatenate([low, high]).astype(np.float32), pose=np.array(face.pose, np.float32),
        attributes={
            "skin": face.appearance.skin, "hair": face.appearance.hair, "hair_colour": face.appearance.hair_colour,
            "beard": face.appearance.beard, "glasses": face.appearance.glasses, "occluder": face.scene.occluder,
            "light": float(face.contrast), "light_azimuth": float(face.light[0]),
            "light_elevation": float(face.light[1]),
            "lines": float(face.appearance.age), "blur": float(face.scene.blur),
        },
    )  # fmt: skip
