"""Synthetic faces with the truth of every action unit and side, for tools/units.py: rendered once, then found by mediapipe's nets.

    python tools/unit_faces.py --out FOLDER [--faces 2400] [--size 192]

Half of the faces show expressions as mien.synthetic draws them, half show units in any combination; a third of the units have one
weak side; gaze and blinks are drawn more often, and half of the heads are turned further and lit from more sides than in
`mien synthesize`. `test` and `train` have no person in common; `neutral` are the people of `test` at rest. Every face is also found
in its mirror image. 2,400 faces take 15 minutes on one core.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from mien.faces.detect import open_provider
from mien.schema import EXPRESSIONS
from mien.synthetic.render import FaceParameters, render_face
from mien.synthetic.rig import load_rig
from mien.synthetic.sample import UNIT_ACTIONS, generator, lips_apart, sample_face, sample_units

SEED = 7190
GAZE = {
    "AU61": ("eyeLookOutLeft", "eyeLookInRight"), "AU62": ("eyeLookInLeft", "eyeLookOutRight"),
    "AU63": ("eyeLookUpLeft", "eyeLookUpRight"), "AU64": ("eyeLookDownLeft", "eyeLookDownRight"),
}  # fmt: skip
"""Direction of gaze, as the person sees it -> facial actions."""
SUBJECTS = {"train": 300, "test": 100, "neutral": 100}
UNITS = tuple(unit for unit in UNIT_ACTIONS if unit != "AU43")


def is_sided(unit: str) -> bool:
    """Whether all facial actions of a unit have a left and a right."""
    names = load_rig().action_names
    return all(action + "Left" in names for action in UNIT_ACTIONS[unit])


COLUMNS = (
    *(name for unit in UNITS for name in ((f"{unit}_L", f"{unit}_R") if is_sided(unit) else (unit,))),
    *GAZE,
)  # fmt: skip


def draw_units(rng: np.random.Generator, index: int) -> dict[str, float]:
    """Intensities 0-5 of the units of face `index`."""
    if index % 2:
        return sample_units(rng, EXPRESSIONS[(index // 2) % len(EXPRESSIONS)], 0.3)
    chosen = [unit for unit in UNITS if unit not in ("AU45", "AU25") and rng.random() < 0.13]
    units = {unit: float(rng.uniform(0.5, 5)) for unit in chosen}
    if rng.random() < 0.3:
        units["AU25"] = float(rng.uniform(0.5, 5))
    if rng.random() < 0.15:
        units["AU45"] = float(rng.uniform(1, 5))
        units.pop("AU5", None)
    return units


def add_gaze(rng: np.random.Generator, actions: np.ndarray, truth: dict[str, float]) -> None:
    """Look far to one side, up or down, in place; 5 is 30 degrees across, 24 up or down."""
    names = load_rig().action_names
    across, upward = rng.uniform(-0.9, 0.9), rng.uniform(-0.8, 0.8)
    pairs = zip(GAZE, (max(across, 0), max(-across, 0), max(upward, 0), max(-upward, 0)), strict=True)
    for unit, amount in pairs:
        truth[unit] = 5 * float(amount)
        for action in GAZE[unit]:
            actions[names.index(action)] += amount


def draw_face(split: str, index: int) -> tuple[FaceParameters, np.ndarray]:
    """Parameters of a face and its (C,) intensities over COLUMNS."""
    rig, seed, subjects = load_rig(), SEED + (split != "train"), SUBJECTS[split]
    rng = generator(seed, 5, index)
    base = sample_face(seed, index, subjects, EXPRESSIONS)
    names = {name: k for k, name in enumerate(rig.action_names)}
    actions, truth = np.zeros(len(names), np.float32), dict.fromkeys(COLUMNS, 0.0)
    if split == "neutral":
        face = replace(base, actions=actions, pose=(0.0, 0.0, 0.0), light=(10.0, 25.0), contrast=0.5)
        return replace(face, scene=replace(base.scene, occluder="no")), np.zeros(len(COLUMNS), np.float32)
    for unit, intensity in draw_units(rng, index).items():
        weak = float(rng.uniform(0, 0.6)) if rng.random() < 0.33 else 1.0
        shares = (1.0, weak) if rng.random() < 0.5 else (weak, 1.0)
        sides = ("Left", "Right") if is_sided(unit) else ("",)
        for side, share in zip(sides, shares, strict=False):
            key = f"{unit}_{side[0]}" if side else unit
            truth[key] = float(np.clip(intensity * share * (1 + rng.normal(0, 0.05)), 0, 5))
            for action, gain in UNIT_ACTIONS[unit].items():
                for name in (action + side, action):
                    if name in names:
                        actions[names[name]] += gain * truth[key] / 5
                        break
    actions[names["jawOpen"]] = min(actions[names["jawOpen"]], 0.85)
    actions = np.clip(actions, 0, 1.6)
    if rng.random() < 0.6:
        add_gaze(rng, actions, truth)
    pose, light = base.pose, base.light
    if rng.random() < 0.5:
        pose = (float(rng.uniform(-35, 35)), float(rng.uniform(-20, 20)), float(rng.uniform(-20, 20)))
        light = (float(rng.uniform(-80, 80)), float(rng.uniform(-20, 70)))
    truth["AU25"] = lips_apart(base.identity, actions)
    face = replace(base, actions=actions, pose=pose, light=light)
    return face, np.array([truth[name] for name in COLUMNS], np.float32)


def make(out: Path, split: str, count: int, size: int) -> None:
    """Render a split into SPLIT.npy, and what the nets find in it into SPLIT.npz; pictures that are there are kept."""
    file = out / f"{split}.npy"
    again = not file.is_file()
    images = np.lib.format.open_memmap(
        file, "w+" if again else "r", np.uint8, (count, size, size, 3) if again else None
    )
    provider, rows = open_provider("mediapipe"), []
    for index in range(count):
        face, truth = draw_face(split, index)
        if again:
            images[index] = render_face(face, size).image
        for mirror in (False, True):
            found = provider(np.ascontiguousarray(images[index][:, ::-1] if mirror else images[index]))
            if found:
                rows.append({
                    "row": index, "mirror": mirror, "mesh": found[0].mesh, "blendshapes": found[0].blendshapes,
                    "truth": truth, "pose": face.pose, "light": (*face.light, face.contrast),
                    "subject": index % SUBJECTS[split],
                })  # fmt: skip
        if index % 100 == 0:
            print(split, index, flush=True)
    np.savez(
        out / f"{split}.npz",
        columns=np.array(COLUMNS),
        **{key: np.array([row[key] for row in rows]) for key in rows[0]},
    )


def main() -> None:
    """Make all splits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--faces", type=int, default=2400)
    parser.add_argument("--size", type=int, default=192)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    counts = {"test": given.faces // 4, "neutral": SUBJECTS["neutral"], "train": given.faces - given.faces // 4}
    for split, count in counts.items():
        make(given.out, split, count, given.size)


if __name__ == "__main__":
    main()
