"""The face rig: identity modes and 52 facial actions -> vertices, the 68 iBUG points, and their visibility.

Unit of length: the mean distance between the eye centres; origin between the eyes; x to the face's own left (the right
of the picture), y up, z out of the face towards the viewer. Baked by ``tools/bake_face_rig.py``; see
docs/synthetic-faces.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from mien.schema import FloatArray

IntArray = npt.NDArray[np.int64]

SKIN, LEFT_EYE, RIGHT_EYE, UPPER_TEETH, LOWER_TEETH, TONGUE = range(6)
"""Values of `Rig.part`; left and right are the face's own."""

MASKS = ("lips", "mouth", "lids", "ears", "lashes")
"""Columns of `Rig.masks`."""


@dataclass(frozen=True)
class Rig:
    """Arrays of the rig: V vertices, T triangles, K identity modes."""

    mean: FloatArray
    """(V, 3) mean head at rest."""
    modes: FloatArray
    """(K, V * 3) identity modes; one unit of a mode is one standard deviation of the population."""
    actions: FloatArray
    """(52, V * 3) offsets of the facial actions at full strength."""
    action_names: tuple[str, ...]
    triangles: IntArray
    """(T, 3), counter-clockwise when seen from outside."""
    part: npt.NDArray[np.uint8]
    """(V,) SKIN, LEFT_EYE, ... TONGUE."""
    masks: FloatArray
    """(V, 5) painted regions over MASKS in [0, 1]."""
    landmark_vertex: IntArray
    """(68, 3) vertices whose weighted mean is the landmark."""
    landmark_weight: FloatArray
    """(68, 3), rows sum to 1."""

    @property
    def identity_size(self) -> int:
        """Number of identity modes K."""
        return len(self.modes)

    def deform(self, identity: FloatArray, actions: FloatArray) -> FloatArray:
        """Vertices (V, 3) of identity coefficients (<= K,) and action strengths (52,), each usually 0 to 1."""
        flat = self.mean.reshape(-1) + identity @ self.modes[: len(identity)] + actions @ self.actions
        return flat.reshape(-1, 3).astype(np.float32)

    def landmarks(self, vertices: FloatArray) -> FloatArray:
        """(68, D) points of vertices (V, D)."""
        points: FloatArray = np.einsum("lk,lkd->ld", self.landmark_weight, vertices[self.landmark_vertex])
        return points

    def action_vector(self, strengths: dict[str, float]) -> FloatArray:
        """(52,) from names such as "jawOpen"; a name without Left/Right sets both sides."""
        out = np.zeros(len(self.action_names), np.float32)
        for name, strength in strengths.items():
            hits = [i for i, n in enumerate(self.action_names) if n in (name, name + "Left", name + "Right")]
            if not hits:
                raise KeyError(name)
            out[hits] = strength
        return out


@cache
def load_rig() -> Rig:
    """The rig that ships with the package, read once per process."""
    with files("mien.synthetic").joinpath("face_rig.npz").open("rb") as stream:
        baked = dict(np.load(stream, allow_pickle=False))
    vertices = len(baked["mean"])
    names = tuple(bytes(baked["action_names"]).decode().split("\n"))
    actions = np.zeros((len(names), vertices, 3), np.float32)
    starts = np.concatenate([[0], np.cumsum(baked["action_counts"].astype(np.int64))])
    for n, (first, last) in enumerate(pairwise(starts)):
        rows = baked["action_index"][first:last]
        actions[n, rows] = baked["action_offset"][first:last] * baked["action_scale"][n]
    modes = baked["modes"] * baked["modes_scale"][:, None, None]
    return Rig(
        mean=(baked["mean"] * baked["mean_scale"]).astype(np.float32),
        modes=modes.astype(np.float32).reshape(len(modes), -1),
        actions=actions.reshape(len(names), -1),
        action_names=names,
        triangles=baked["triangles"].astype(np.int64),
        part=baked["part"],
        masks=(baked["masks"] / 255).astype(np.float32),
        landmark_vertex=baked["landmark_vertex"].astype(np.int64),
        landmark_weight=baked["landmark_weight"],
    )
