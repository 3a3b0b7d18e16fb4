"""Sampling of synthetic faces: subjects, expressions as action units with drop-outs, distractors and nuisance.

Face i of a set depends only on (seed, i), so sets are equal on every machine layout, may be rendered by any number of
processes in any order, and can be resumed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from mien.errors import UsageError, unknown_name
from mien.schema import ACTION_UNITS, EXPRESSIONS, FloatArray, Record
from mien.synthetic.camera import Scene
from mien.synthetic.render import FaceParameters, render_face
from mien.synthetic.rig import load_rig
from mien.synthetic.textures import SKIN_TONES, Appearance

FACES_PER_SUBJECT = 15
SPLIT_SHARES = (0.7, 0.1, 0.2)

IRISES = ((70, 46, 30), (96, 66, 40), (104, 112, 76), (98, 124, 146), (52, 34, 24))
"""sRGB of the irises."""

UNIT_ACTIONS: dict[str, dict[str, float]] = {
    "AU1": {"browInnerUp": 1.2},
    "AU2": {"browOuterUp": 1.2},
    "AU4": {"browDown": 1.35},
    "AU5": {"eyeWide": 1.2},
    "AU6": {"cheekSquint": 1.0},
    "AU7": {"eyeSquint": 1.2},
    "AU9": {"noseSneer": 1.25},
    "AU10": {"mouthUpperUp": 1.0},
    "AU12": {"mouthSmile": 0.95},
    "AU14": {"mouthDimple": 1.0},
    "AU15": {"mouthFrown": 1.25},
    "AU16": {"mouthLowerDown": 1.0},
    "AU17": {"mouthShrugLower": 0.9, "mouthShrugUpper": 0.4},
    "AU18": {"mouthPucker": 0.9},
    "AU20": {"mouthStretch": 1.25},
    "AU22": {"mouthFunnel": 0.9},
    "AU23": {"mouthPress": 0.4, "mouthRollLower": 0.3, "mouthPucker": 0.25},
    "AU24": {"mouthPress": 0.9, "mouthRollUpper": 0.25},
    "AU25": {"mouthUpperUp": 0.45, "mouthLowerDown": 0.7, "jawOpen": 0.05},
    "AU26": {"jawOpen": 0.38},
    "AU27": {"jawOpen": 0.55},
    "AU28": {"mouthRollLower": 0.8, "mouthRollUpper": 0.8},
    "AU43": {"eyeBlink": 0.72},
    "AU45": {"eyeBlink": 0.72},
}
"""Action unit -> facial actions at intensity 5. AU25 here is only a push: its truth is measured on
the lips. The lids meet at eyeBlink 0.7; beyond it the upper lid would slide over the lower one."""

PROTOTYPES: dict[str, dict[str, float]] = {
    "Neutral": {},
    "Happiness": {"AU6": 0.75, "AU12": 0.95, "AU25": 0.6, "AU26": 0.25},
    "Surprise": {"AU1": 0.9, "AU2": 0.9, "AU5": 0.85, "AU26": 0.85, "AU27": 0.4},
    "Fear": {"AU1": 0.9, "AU2": 0.6, "AU4": 0.75, "AU5": 0.8, "AU20": 0.85, "AU25": 0.5, "AU26": 0.6, "AU27": 0.15},
    "Anger": {
        "AU4": 0.92,
        "AU5": 0.5,
        "AU7": 0.8,
        "AU10": 0.25,
        "AU17": 0.4,
        "AU23": 0.6,
        "AU24": 0.55,
        "AU25": 0.15,
        "AU26": 0.15,
    },
    "Disgust": {"AU9": 0.85, "AU10": 0.8, "AU16": 0.45, "AU17": 0.5, "AU25": 0.3, "AU26": 0.25, "AU4": 0.25},
    "Sadness": {"AU1": 0.88, "AU4": 0.65, "AU6": 0.3, "AU15": 0.88, "AU17": 0.65},
    "Contempt": {"AU12": 0.9, "AU14": 0.9},
}
"""Expression -> probability that each unit of its prototype takes part in a sample."""

CORE: dict[str, tuple[str, ...]] = {
    "Happiness": ("AU12",), "Surprise": ("AU2", "AU26"), "Fear": ("AU1", "AU20"), "Anger": ("AU4",),
    "Disgust": ("AU9",), "Sadness": ("AU15",), "Contempt": ("AU14",),
}  # fmt: skip
"""Never all dropped: if a draw lost every core unit, the first one is put back."""

LEAST_INTENSITY, STRONGEST = 0.7, 1.1
"""How strong an expression is drawn unless said otherwise; 1 is the prototype."""
DISTRACTORS = (
    "AU1",
    "AU2",
    "AU4",
    "AU5",
    "AU6",
    "AU7",
    "AU9",
    "AU10",
    "AU12",
    "AU14",
    "AU15",
    "AU17",
    "AU18",
    "AU20",
    "AU24",
)


def generator(*key: int) -> np.random.Generator:
    """Counter-based generator of its own for every key."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def splits_of(subjects: int, seed: int) -> tuple[str, ...]:
    """Split of every subject, about 70/10/20, a seeded shuffle; every split has a subject from three subjects on."""
    valid = max(1, round(subjects * SPLIT_SHARES[1])) if subjects >= 3 else 0
    test = max(1, round(subjects * SPLIT_SHARES[2])) if subjects >= 2 else 0
    names = ["test"] * test + ["valid"] * valid + ["train"] * (subjects - test - valid)
    order = generator(seed, 3).permutation(subjects)
    out = [""] * subjects
    for place, name in zip(order, names, strict=True):
        out[place] = name
    return tuple(out)


def pick(rng: np.random.Generator, weights: dict[str, float]) -> str:
    """One key, drawn with the given weights."""
    keys = list(weights)
    share = np.array(list(weights.values()))
    return keys[int(rng.choice(len(keys), p=share / share.sum()))]


@lru_cache(maxsize=512)
def subject_appearance(seed: int, subject: int) -> tuple[tuple[float, ...], Appearance]:
    """Identity coefficients and look of a subject. Attributes are drawn independently of each other."""
    rng = generator(seed, 1, subject)
    identity = tuple((0.85 * rng.standard_normal(load_rig().identity_size)).tolist())
    skin = list(SKIN_TONES)[rng.integers(len(SKIN_TONES))]
    age = float(rng.beta(1.1, 1.7))
    colours = {
        "black": 3.0,
        "dark brown": 3.0,
        "brown": 2.0,
        "blond": 1.5,
        "red": 0.7,
        "grey": 0.2 + 3 * age**2,
        "white": 2 * age**3,
    }
    if skin in ("IV", "V", "VI"):
        colours |= {"blond": 0.2, "red": 0.1, "brown": 0.8}
    styles = {"bald": 0.7, "buzz": 1.0, "short": 2.2, "quiff": 1.0, "fringe": 1.2, "bob": 1.2, "long": 1.8,
              "long fringe": 0.9, "afro": 0.7, "cap": 0.6, "scarf": 0.8}  # fmt: skip
    hair = pick(rng, styles)
    bearded = hair not in ("bob", "long", "long fringe", "scarf") and rng.random() < 0.5
    appearance = Appearance(
        skin=skin,
        tone=tuple(rng.normal(0, 0.5, 3).tolist()),
        age=age,
        lips=float(rng.beta(1.2, 3.0)) if bearded else float(rng.beta(1.2, 1.8)),
        hair=hair,
        hair_colour=pick(rng, colours),
        hairline=float(rng.normal(0.0, 0.05)),
        brows=float(rng.uniform(0.4, 0.95)),
        beard=pick(rng, {"stubble": 1, "moustache": 0.7, "goatee": 0.8, "full": 1}) if bearded else "none",
        glasses="yes" if rng.random() < 0.2 else "no",
        iris=IRISES[rng.integers(len(IRISES))],
        cloth=(int(rng.integers(25, 225)), int(rng.integers(25, 225)), int(rng.integers(25, 225))),
        seed=int(rng.integers(2**31)),
    )
    return identity, appearance


def sample_units(
    rng: np.random.Generator, expression: str, least_intensity: float = LEAST_INTENSITY
) -> dict[str, float]:
    """Intensities 0-5 of the units that cause a picture: prototype with drop-outs, plus distractors."""
    units: dict[str, float] = {}
    strength = rng.uniform(least_intensity, STRONGEST)
    prototype = PROTOTYPES[expression]
    chosen = [name for name, chance in prototype.items() if rng.random() < chance]
    if expression in CORE and not any(name in chosen for name in CORE[expression]):
        chosen.append(CORE[expression][0])
    for name in chosen:
        units[name] = 5 * float(np.clip(strength * rng.normal(1.0, 0.18), 0.2, 1))
    for _ in range(rng.poisson(1.0 if expression == "Neutral" else 0.9)):
        name = DISTRACTORS[rng.integers(len(DISTRACTORS))]
        if name not in units:
            units[name] = 5 * float(np.clip(rng.gamma(2.0, 0.09), 0.02, 0.4))
    if rng.random() < 0.22:  # speech: a mouth shape that means nothing
        shape = pick(rng, {"AU26": 3, "AU18": 1, "AU22": 1, "AU24": 1, "AU16": 1})
        units[shape] = max(units.get(shape, 0.0), 5 * float(rng.uniform(0.15, 0.6)))
    if rng.random() < 0.06:
        units["AU45"] = 5 * float(rng.uniform(0.3, 1.0))
        units.pop("AU5", None)
    return units


def unit_actions(rng: np.random.Generator, units: dict[str, float], one_sided: bool = False) -> FloatArray:
    """(52,) strengths for unit intensities 0-5, nearly symmetric; `one_sided` moves AU12 and AU14 on one side."""
    rig = load_rig()
    out = np.zeros(len(rig.action_names), np.float32)
    index = {name: n for n, name in enumerate(rig.action_names)}
    tilt = float(rng.normal(0, 0.10))
    weak_side = "Left" if rng.random() < 0.5 else "Right"
    for unit, intensity in units.items():
        for action, gain in UNIT_ACTIONS[unit].items():
            amount = gain * intensity / 5
            if action in index:
                out[index[action]] += amount
                continue
            for side, sign in (("Left", 1), ("Right", -1)):
                share = np.clip(1 + sign * (tilt + float(rng.normal(0, 0.06))), 0, 1.5)
                if one_sided and unit in ("AU12", "AU14") and side == weak_side:
                    share = 0.08
                out[index[action + side]] += amount * share
    out[index["jawOpen"]] = min(out[index["jawOpen"]], 0.85)
    return np.clip(out, 0, 1.6)


def add_gaze(rng: np.random.Generator, actions: FloatArray) -> None:
    """Appearance somewhere, in place; both eyes together."""
    names = load_rig().action_names
    across, upward = rng.normal(0, 0.28, 2) * (rng.random() < 0.75)
    for name, amount in {
        "eyeLookOutLeft": across, "eyeLookInRight": across, "eyeLookInLeft": -across, "eyeLookOutRight": -across,
        "eyeLookUpLeft": upward, "eyeLookUpRight": upward, "eyeLookDownLeft": -upward, "eyeLookDownRight": -upward,
    }.items():  # fmt: skip
        actions[names.index(name)] += float(np.clip(amount, 0, 0.8))


def lips_apart(identity: FloatArray, actions: FloatArray) -> float:
    """AU25 intensity 0-5 from the gap of the inner lips: 0 under 2 % of the eye distance beyond rest, 5 from 35 %."""
    rig = load_rig()
    points = rig.landmarks(rig.deform(identity, actions))
    rest = rig.landmarks(rig.deform(identity, np.zeros_like(actions)))
    gap = np.linalg.norm(points[61:64] - points[[67, 66, 65]], axis=1).mean()
    closed = np.linalg.norm(rest[61:64] - rest[[67, 66, 65]], axis=1).mean()
    opened = gap - closed
    return 0.0 if opened < 0.02 else float(np.clip(opened / 0.35 * 5, 0.2, 5))


def intensities(units: dict[str, float], identity: FloatArray, actions: FloatArray) -> FloatArray:
    """(A,) over schema.ACTION_UNITS, all known: 0 where absent, AU25 measured on the lips."""
    out = np.zeros(len(ACTION_UNITS), np.float32)
    for name, value in units.items():
        out[ACTION_UNITS.index(name)] = value
    out[ACTION_UNITS.index("AU25")] = lips_apart(identity, actions)
    return out


def sample_scene(rng: np.random.Generator) -> Scene:
    """Background, occluder and camera of one picture."""
    return Scene(
        seed=int(rng.integers(2**31)),
        occluder=pick(rng, {"no": 0.92, "hand": 0.03, "mask": 0.005, "bar": 0.02}),
        gain=float(rng.uniform(0.75, 1.1)),
        gamma=float(rng.uniform(0.8, 1.25)),
        warmth=float(rng.normal(0, 0.5)),
        grey=bool(rng.random() < 0.1),
        blur=float(max(0.0, rng.normal(-0.001, 0.004))),
        grain=float(abs(rng.normal(0, 0.010))),
        jpeg=int(rng.integers(45, 95)) if rng.random() < 0.6 else 100,
    )


def face_id(index: int, subjects: int, classes: Sequence[str]) -> str:
    """Name of face `index`: subject index % subjects, classes by turns inside the subject."""
    subject, turn = index % subjects, index // subjects
    return f"s{subject:04d}-{turn:03d}-{classes[(turn + subject) % len(classes)].lower()}"


def sample_face(
    seed: int, index: int, subjects: int, classes: Sequence[str], least_intensity: float = LEAST_INTENSITY
) -> FaceParameters:
    """Parameters of face `index` of a set with that many subjects."""
    subject, turn = index % subjects, index // subjects
    expression = classes[(turn + subject) % len(classes)]
    identity_list, appearance = subject_appearance(seed, subject)
    identity = np.array(identity_list, np.float32)
    rng = generator(seed, 2, index)
    units, actions = sample_actions(rng, expression, least_intensity)
    return replace(
        sample_view(rng, identity, appearance, actions),
        id=face_id(index, subjects, classes),
        split=splits_of(subjects, seed)[subject],
        subject=f"s{subject:04d}",
        expression=expression,
        action_units=intensities(units, identity, actions),
    )


def sample_actions(
    rng: np.random.Generator, expression: str, least_intensity: float
) -> tuple[dict[str, float], FloatArray]:
    """What a face does: units with their intensities, and the (52,) facial actions of these and of the gaze."""
    units = sample_units(rng, expression, least_intensity)
    actions = unit_actions(rng, units, one_sided=expression == "Contempt")
    add_gaze(rng, actions)
    return units, actions


def sample_view(
    rng: np.random.Generator, identity: FloatArray, appearance: Appearance, actions: FloatArray
) -> FaceParameters:
    """Everything about a picture beside who is in it and what the face does: pose, light, glasses, camera."""
    wide = 2.0 if rng.random() < 0.12 else 1.0
    pose = (float(rng.normal(0, 8.5) * wide), float(rng.normal(0, 5) * wide), float(rng.normal(0, 4)))
    if appearance.glasses == "yes" and rng.random() < 0.3:
        appearance = Appearance(**{**appearance.__dict__, "glasses": "dark" if rng.random() < 0.12 else "no"})
    return FaceParameters(
        identity=identity,
        actions=actions,
        appearance=appearance,
        pose=tuple(np.clip(pose, -45, 45).tolist()),
        scale=float(np.clip(rng.normal(0.305, 0.016), 0.26, 0.35)),
        centre=tuple(rng.normal(0, 0.015, 2).tolist()),
        distance=float(rng.uniform(8, 24)),
        light=(float(rng.normal(0, 30)), float(rng.normal(25, 15))),
        contrast=float(rng.uniform(0.35, 0.8)),
        scene=sample_scene(rng),
    )


def check_request(count: int, size: int, subjects: int | None, classes: Sequence[str]) -> int:
    """Number of subjects for a request; UsageError with the remedy when it makes no sense."""
    if count < 1:
        raise UsageError(f"faces is {count}: give at least 1.")
    if not 32 <= size <= 1024:
        raise UsageError(f"size is {size}: give 32 to 1024 pixels.")
    if not classes:
        raise UsageError("classes is empty: give at least one expression.")
    for name in classes:
        if name not in EXPRESSIONS:
            raise unknown_name("expression", name, EXPRESSIONS)
    if subjects is not None and not 1 <= subjects <= count:
        raise UsageError(f"subjects is {subjects}: give 1 to {count} (the number of faces).")
    return subjects if subjects is not None else max(min(3, count), round(count / FACES_PER_SUBJECT))


def check_intensity(least_intensity: float) -> None:
    """UsageError for a least strength of an expression that cannot be."""
    if not 0 < least_intensity <= STRONGEST:
        raise UsageError(
            f"least_intensity is {least_intensity:g}: give a strength above 0 to {STRONGEST:g}; 1 is the prototype."
        )


def faces(
    count: int,
    *,
    size: int = 112,
    seed: int = 0,
    subjects: int | None = None,
    classes: Sequence[str] = EXPRESSIONS[:7],
    indices: Iterable[int] | None = None,
    least_intensity: float = LEAST_INTENSITY,
) -> Iterator[Record]:
    """Synthetic faces with exact truth, one Record at a time.

    Face i depends on (seed, i, subjects, classes) only: any part of a set can be rendered anywhere. Subject i %
    subjects keeps shape, skin, hair, beard and glasses habit; splits are by subject (about 70/10/20) and classes take
    turns, so every split holds every class once subjects have as many faces as there are classes.

    Args:
        count: number of faces of the set.
        size: side of the square picture in pixels, 32 to 1024.
        seed: of everything.
        subjects: number of identities; one per 15 faces when None.
        classes: expressions to draw; add "Contempt" for eight classes.
        indices: render only these faces of the set (resuming, sharding); all when None.
        least_intensity: least strength of an expression, above 0 to 1.1; strengths are even from there to 1.1, and 1 is the
            prototype with its units near intensity 5.

    Raises:
        UsageError: count, size, subjects, classes, an index or least_intensity out of range.

    """
    people = check_request(count, size, subjects, classes)
    check_intensity(least_intensity)
    for index in range(count) if indices is None else indices:
        if not 0 <= index < count:
            raise UsageError(f"index {index} is outside the set: give 0 to {count - 1}.")
        yield render_face(sample_face(seed, index, people, tuple(classes), least_intensity), size)
