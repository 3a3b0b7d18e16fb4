"""Does it follow the face? Synthetic faces with exact truth, one thing moved at a time; response of probability and map."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mien.audit.probe import Probe
from mien.audit.table import Drawing, Line, Part, Table, numbers, row, within
from mien.cues.regions import unit_maps, unit_names
from mien.maps import resize
from mien.metrics.intervals import bootstrap_mean, paired_bootstrap
from mien.metrics.perturbed import region_shares
from mien.schema import FloatArray, Record
from mien.synthetic.camera import Scene
from mien.synthetic.render import FaceParameters, render_face
from mien.synthetic.rig import load_rig
from mien.synthetic.sample import UNIT_ACTIONS, generator, subject_appearance
from mien.synthetic.textures import Appearance

TITLE = "Does it follow the face?"
PEOPLE = 8
SIDE = 96
LEVELS = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)
UNITS = ("AU12", "AU1", "AU2", "AU4", "AU9", "AU15", "AU20", "AU26")
"""Moved alone, from 0 to 5."""
SHOWS = {"AU12": "Happiness", "AU2": "Surprise", "AU4": "Anger", "AU9": "Disgust", "AU15": "Sadness", "AU20": "Fear",
         "AU26": "Surprise"}  # fmt: skip
"""Expression whose probability should not fall as the unit grows; AU1 belongs to several."""
MONOTONE = 0.02
"""A fall of the probability smaller than this is none."""


class Response(NamedTuple):
    """What one factor did; P people, S steps."""

    name: str
    steps: tuple[str, ...]
    values: tuple[float, ...]
    probabilities: FloatArray
    """(P, S, K)."""
    shares: FloatArray
    """(P, S) share of the map of the class of interest in the region of the moved unit; NaN without."""
    kind: str
    """unit: the face moves; nuisance: the answer should stay."""


def neutral(person: int, seed: int = 7) -> FaceParameters:
    """A neutral frontal face of a person, without hair before the face, glasses, beard or noise."""
    identity, look = subject_appearance(seed, person)
    plain = replace(look, glasses="no", beard="none", hair="short", brows=max(look.brows, 0.6))
    actions = np.zeros(len(load_rig().action_names), np.float32)
    return FaceParameters(np.array(identity, np.float32), actions, plain, scene=Scene(seed=person))


def with_unit(face: FaceParameters, unit: str, intensity: float) -> FaceParameters:
    """The face with one action unit at an intensity from 0 to 5, the same on both sides, and nothing else moved."""
    names = load_rig().action_names
    actions = face.actions.copy()
    for action, gain in UNIT_ACTIONS[unit].items():
        for name in (action, f"{action}Left", f"{action}Right"):
            if name in names:
                actions[names.index(name)] += gain * intensity / 5
    return replace(face, actions=actions)


def factors() -> Iterator[
    tuple[str, str, tuple[str, ...], tuple[float, ...], Callable[[FaceParameters, int], FaceParameters]]
]:
    """Name, kind, names and values of the steps, and what makes a step of a face; the smile is there where nuisance is moved."""
    for unit in UNITS:
        yield unit, "unit", tuple(f"{v:g}" for v in LEVELS), LEVELS, partial(_unit_step, unit)

    hair = ("short", "bald", "long", "fringe", "cap", "scarf")
    yield "hair", "nuisance", hair, _count(hair), partial(_look_step, "hair", hair)
    glasses = ("no", "yes", "dark")
    yield "glasses", "nuisance", glasses, _count(glasses), partial(_look_step, "glasses", glasses)
    skin = ("I", "II", "III", "IV", "V", "VI")
    yield "skin", "nuisance", skin, _count(skin), partial(_look_step, "skin", skin)
    scenes = tuple(f"{k + 1}" for k in range(6))
    yield "background", "nuisance", scenes, _count(scenes), lambda face, s: replace(face, scene=Scene(seed=1000 + s))
    light = (-80.0, -40.0, 0.0, 40.0, 80.0)
    yield (
        "light from the side",
        "nuisance",
        tuple(f"{v:g}°" for v in light),
        light,
        lambda face, s: replace(face, light=(light[s], 25.0)),
    )
    yaw = (-30.0, -15.0, 0.0, 15.0, 30.0)
    yield "yaw", "nuisance", tuple(f"{v:g}°" for v in yaw), yaw, lambda face, s: replace(face, pose=(yaw[s], 0.0, 0.0))
    pitch = (-20.0, -10.0, 0.0, 10.0, 20.0)
    yield (
        "pitch",
        "nuisance",
        tuple(f"{v:g}°" for v in pitch),
        pitch,
        lambda face, s: replace(face, pose=(0.0, pitch[s], 0.0)),
    )
    yield "identity", "nuisance", scenes, _count(scenes), _identity_step


def _identity_step(face: FaceParameters, step: int) -> FaceParameters:
    """The face with another head: six of its own for each person, or all people would have one and the same answer."""
    return replace(face, identity=_stranger(6 * face.scene.seed + step))


def _unit_step(unit: str, face: FaceParameters, step: int) -> FaceParameters:
    return with_unit(face, unit, LEVELS[step])


def _look_step(field: str, values: tuple[str, ...], face: FaceParameters, step: int) -> FaceParameters:
    return replace(face, appearance=Appearance(**{**face.appearance.__dict__, field: values[step]}))


def _count(names: tuple[str, ...]) -> tuple[float, ...]:
    return tuple(float(k) for k in range(len(names)))


def _stranger(number: int) -> FloatArray:
    rng = generator(11, number)
    return np.asarray(0.85 * rng.standard_normal(load_rig().identity_size), np.float32)


def responses(
    probe: Probe, classes: tuple[str, ...], people: int = PEOPLE, late: Callable[[], bool] = bool
) -> list[Response]:
    """Probabilities, and shares of the map, of every factor; faces are rendered, no picture of anybody is used."""
    found = []
    for name, kind, words, values, change in factors():
        if late():
            break
        made = [
            render_face(change(neutral(p) if kind == "unit" else with_unit(neutral(p), "AU12", 4.0), s), SIDE)
            for p in range(people) for s in range(len(words))
        ]  # fmt: skip
        images, landmarks = tensors(made)
        wanted = SHOWS.get(name, "Happiness")
        probabilities = torch.cat([probe.probability(part) for part in images.split(64)])
        shares = np.full((people, len(words)), np.nan, np.float32)
        if kind == "unit" and wanted in classes and name in unit_names("corrected"):
            shares = map_shares(probe, images, landmarks, classes.index(wanted), name).reshape(people, -1)
        shape = (people, len(words), len(classes))
        found.append(Response(name, words, values, probabilities.numpy().reshape(shape), shares, kind))
    return found


def tensors(records: list[Record]) -> tuple[Tensor, Tensor]:
    """Pictures (B, 3, H, W) in [0, 1] and landmarks of rendered faces."""
    images = np.stack([np.asarray(one.image) for one in records])
    points = np.stack([np.asarray(one.landmarks, np.float32) for one in records])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255, torch.from_numpy(points)


def map_shares(probe: Probe, images: Tensor, landmarks: Tensor, label: int, unit: str) -> FloatArray:
    """(B,) share of the map of a class in the region of a unit."""
    out = []
    for part, points in zip(images.split(32), landmarks.split(32), strict=True):
        map_ = probe.look(part, torch.full((len(part),), label))
        regions, _ = unit_maps("corrected", points, (SIDE, SIDE), (56, 56))
        own = regions[:, unit_names("corrected").index(unit), None] >= 0.5
        out.append(region_shares(resize(map_, (56, 56)), own)[:, 0])
    return torch.cat(out).numpy()


def follow(found: list[Response], classes: tuple[str, ...], seed: int = 0) -> Part:
    """Response to each unit, monotony, and what confounds do."""
    if not found:
        return Part("follow", TITLE, cannot=("The time was over before any face was rendered.",))
    tables = [unit_table(found, classes, seed), confound_table(found, classes, seed)]
    drawings = [unit_curves(found, classes)]
    smile = next((one for one in found if one.name == "AU12"), None)
    if smile is not None:
        drawings.insert(0, smile_curve(smile, classes))
    cannot = [
        "These faces are rendered: a model that was trained on photos may answer photos otherwise, and the reverse."
    ]
    cannot += [f"{name} is no class of this model." for name in sorted(set(SHOWS.values())) if name not in classes]
    return Part("follow", TITLE, tuple(tables), tuple(drawings), sentences(tables, found, classes), tuple(cannot))


def monotony(values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """(P,) share of the steps of curves (P, S) at which the value does not fall by more than MONOTONE."""
    return np.asarray((np.diff(values, axis=1) >= -MONOTONE).mean(1), dtype=np.float64)


def unit_table(found: list[Response], classes: tuple[str, ...], seed: int) -> Table:
    """Rise of the expression's probability from 0 to 5, monotony, and the change of the map's share."""
    rows = []
    for one in found:
        wanted = SHOWS.get(one.name)
        if one.kind == "unit" and wanted in classes:
            curve = one.probabilities[:, :, classes.index(wanted)]
            test = paired_bootstrap(curve[:, 0], curve[:, -1], seed=seed, draws=500)
            steady = monotony(curve)
            base = row(f"{one.name} 0 to 5: rise of {wanted}", test.difference, test.n, "higher", 0.0,
                       f"from {curve[:, 0].mean():.2f} to {curve[:, -1].mean():.2f}")  # fmt: skip
            rows.append(within(base._replace(low=test.low, high=test.high), -1, 1))
            climbs = bootstrap_mean(steady, seed=seed, draws=500)
            rows.append(within(row(f"{one.name}: steps without a fall", climbs, test.n, "higher"), 0, 1))
            first, last = one.shares[:, 0], one.shares[:, -1]
            known = np.isfinite(first) & np.isfinite(last)
            if known.sum() > 1:
                moved = paired_bootstrap(first[known], last[known], seed=seed, draws=500)
                line = row(f"{one.name}: rise of the map's share in its region", moved.difference, moved.n, "higher", 0.0,
                           f"from {first[known].mean():.2f} to {last[known].mean():.2f}")  # fmt: skip
                rows.append(within(line._replace(low=moved.low, high=moved.high), -1, 1))
    return Table("units", "One action unit moved alone", tuple(rows), "no response",
                 f"Neutral frontal faces of {PEOPLE} rendered people; intervals over people.")  # fmt: skip


def confound_table(found: list[Response], classes: tuple[str, ...], seed: int) -> Table:
    """How far the probability of Happiness wanders on one smile when something else is changed, and how often the answer flips."""
    label = classes.index("Happiness") if "Happiness" in classes else None
    rows = []
    for one in found:
        if one.kind == "nuisance":
            shares = one.probabilities[:, :, label] if label is not None else one.probabilities.max(2)
            wander = (shares.max(1) - shares.min(1)).astype(np.float64)
            answers = one.probabilities.argmax(2)
            flips = float(np.mean([len(np.unique(person)) > 1 for person in answers]))
            away = bootstrap_mean(wander, seed=seed, draws=500)
            note = f"the answer changes for {100 * flips:.0f} % of the people"
            rows.append(within(row(one.name, away, len(wander), "lower", 0.0, note), 0, 1))
    rows.sort(key=lambda one: -(one.value or 0))
    return Table("confounds", "The same smile (AU12 at 4), something else changed", tuple(rows), "no effect",
                 "Largest minus smallest probability of Happiness over the steps, mean over people.")  # fmt: skip


def smile_curve(one: Response, classes: tuple[str, ...]) -> Drawing:
    """Probability of every class as AU12 grows."""
    lines = tuple(Line(name, one.values, numbers(one.probabilities[:, :, k].mean(0))) for k, name in enumerate(classes))
    if np.isfinite(one.shares).any():
        lines += (Line("map's share in AU12's region", one.values, numbers(np.nanmean(one.shares, axis=0))),)
    return Drawing(
        "lines", "A smile grows: AU12 from 0 to 5", lines, "intensity of AU12", "mean probability, share of the map"
    )


def unit_curves(found: list[Response], classes: tuple[str, ...]) -> Drawing:
    """Probability of the expression that each unit belongs to."""
    lines = tuple(
        Line(f"{one.name}: {SHOWS[one.name]}", one.values, numbers(one.probabilities[:, :, classes.index(SHOWS[one.name])].mean(0)))
        for one in found if one.kind == "unit" and SHOWS.get(one.name) in classes
    )  # fmt: skip
    return Drawing("lines", "Each unit and its expression", lines, "intensity", "mean probability")


def sentences(tables: list[Table], found: list[Response], classes: tuple[str, ...]) -> tuple[str, ...]:
    """For the verdict."""
    told = []
    smile = next((one for one in tables[0].rows if one.name.startswith("AU12 0 to 5")), None)
    if smile is not None:
        steady = next(one for one in tables[0].rows if one.name == "AU12: steps without a fall")
        text = f"On rendered faces a growing smile (AU12 0 to 5) moves Happiness {smile.note}"
        told.append(f"{text}, without a fall in {100 * (steady.value or 0):.0f} % of the steps.")
    if tables[1].rows:
        worst = tables[1].rows[0]
        told.append(
            f"With one and the same smile, {worst.name} alone moves the probability by {worst.value or 0:.2f}; {worst.note}."
        )
    return tuple(told)
