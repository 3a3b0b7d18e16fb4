"""Synthetic faces whose action units a person moves: units -> picture with exact landmarks."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from mien.errors import UsageError, unknown_name
from mien.faces.detect import points_box
from mien.faces.provider import Face
from mien.schema import ByteArray, FloatArray, Record
from mien.synthetic.render import FaceParameters, render_face
from mien.synthetic.rig import load_rig
from mien.synthetic.sample import PROTOTYPES, UNIT_ACTIONS, subject_appearance

UNIT_GROUPS: dict[str, dict[str, str]] = {
    "Nose and mouth": {
        "AU9": "nose wrinkler", "AU10": "upper lip raiser", "AU12": "lip corner puller", "AU15": "lip corner depressor",
        "AU17": "chin raiser", "AU20": "lip stretcher", "AU23": "lip tightener", "AU25": "lips part", "AU26": "jaw drop",
    },
    "Brows and eyes": {
        "AU1": "inner brow raiser", "AU2": "outer brow raiser", "AU4": "brow lowerer", "AU5": "upper lid raiser",
        "AU6": "cheek raiser", "AU7": "lid tightener", "AU43": "eyes closed",
    },
    "More of the mouth": {
        "AU14": "dimpler", "AU16": "lower lip depressor", "AU18": "lip pucker", "AU22": "lip funneler", "AU24": "lip pressor",
        "AU27": "mouth stretch", "AU28": "lip suck",
    },
}  # fmt: skip
"""Group -> action unit of the rig -> its name in FACS. AU45, a blink, looks like AU43."""
UNITS = tuple(name for group in UNIT_GROUPS.values() for name in group)
PRESETS = tuple(PROTOTYPES)
"""Expressions to set the sliders to."""
STRONGEST = 5.0
PRESET_STRENGTH, PRESET_CHANCE = 4.0, 0.5
PEOPLE = 24
YAW, PITCH = 40, 25
SIDE = 192
SEED = 7
START = {"AU6": 2.0, "AU12": 3.0}
"""What the page shows first: a moderate smile."""
EXAMPLES: tuple[tuple[str, int, int], ...] = (("Happiness", 3, 10), ("Surprise", 8, -12), ("Anger", 14, 0))
"""Expression, person and yaw of the three faces that can be tried without a photo."""


def preset(expression: str) -> dict[str, float]:
    """Units that usually take part in an expression, at intensity 4; UsageError for an unknown one."""
    if expression not in PROTOTYPES:
        raise unknown_name("expression", expression, PROTOTYPES)
    chances = PROTOTYPES[expression]
    return {name: PRESET_STRENGTH if chances.get(name, 0) >= PRESET_CHANCE else 0.0 for name in UNITS}


def actions_of(units: Mapping[str, float]) -> FloatArray:
    """(52,) strengths of the rig's actions, both sides alike, for intensities 0-5; UsageError for others."""
    rig = load_rig()
    actions = np.zeros(len(rig.action_names), np.float32)
    for name, intensity in units.items():
        if name not in UNIT_ACTIONS:
            raise unknown_name("action unit", name, UNIT_ACTIONS)
        if not 0 <= intensity <= STRONGEST:
            raise UsageError(f"{name} is {intensity}; an intensity lies between 0 and 5.")
        actions += rig.action_vector(
            {action: gain * intensity / STRONGEST for action, gain in UNIT_ACTIONS[name].items()}
        )
    jaw = rig.action_names.index("jawOpen")
    actions[jaw] = min(actions[jaw], 0.85)
    return np.clip(actions, 0, 1.6)


def draw_face(
    units: Mapping[str, float], person: int = 1, yaw: float = 0.0, pitch: float = 0.0, size: int = SIDE
) -> Record:
    """A person, numbered from 1, with action units 0-5, turned by yaw and pitch in degrees."""
    if not 1 <= person <= PEOPLE:
        raise UsageError(f"person {person} is not drawn; give 1 to {PEOPLE}.")
    if not (abs(yaw) <= YAW and abs(pitch) <= PITCH):
        raise UsageError(f"yaw {yaw} must lie within {YAW}, pitch {pitch} within {PITCH} degrees.")
    identity, appearance = subject_appearance(SEED, int(person))
    shape = np.array(identity, np.float32)
    return render_face(
        FaceParameters(
            shape, actions_of(units), appearance, pose=(float(yaw), float(pitch), 0.0), id=f"person {person}"
        ),
        size,
    )


def finder_of(record: Record) -> Callable[[ByteArray], list[Face]]:
    """A face provider that knows the landmarks of a synthetic face."""
    points = record.landmarks
    assert points is not None
    return lambda image: [Face(points_box(points), points, 1.0, "drawn")]
