"""Twins: blocks of synthetic faces in which each of N people shows each of N sets of actions.

Inside a block a person keeps pose, light, accessories, background and camera, and a set of actions is the same in all its
people, gaze and the difference between left and right included. So the rendered truth of one person with another's actions
is a face of the same block. Face i depends only on (seed, i) and the numbers of faces, twins, subjects and classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from mien.errors import UsageError
from mien.schema import Record
from mien.synthetic.render import render_face
from mien.synthetic.sample import (
    FACES_PER_SUBJECT,
    SPLIT_SHARES,
    generator,
    intensities,
    sample_actions,
    sample_view,
    splits_of,
    subject_appearance,
)


class Plan(NamedTuple):
    """How a set of twins is made up."""

    seed: int
    twins: int
    """People of a block, and sets of actions of a block."""
    blocks: int
    subjects: int
    """People to draw from."""

    @property
    def faces(self) -> int:
        """Faces of the whole set."""
        return self.blocks * self.twins**2


def plan_twins(faces: int, seed: int, twins: int, subjects: int | None) -> Plan:
    """Whole blocks for at least `faces` faces, and enough people; UsageError with the remedy for numbers that do not go."""
    if twins < 2:
        raise UsageError(f"twins is {twins}: give 2 or more, people and sets of actions of a block.")
    blocks = -(-faces // twins**2)
    least = twins * min(blocks, 3)
    people = max(least, round(blocks * twins**2 / FACES_PER_SUBJECT)) if subjects is None else subjects
    if not least <= people <= blocks * twins:
        raise UsageError(
            f"subjects is {people}: {blocks} blocks of {twins} people, other ones in train, valid and test, take {least} to "
            f"{blocks * twins}."
        )
    return Plan(seed, twins, blocks, people)


@lru_cache(maxsize=8)
def people_of(plan: Plan) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Split and people of every block. Splits share blocks about 70/10/20, and the people likewise, each in one split.

    Inside a split people take turns: a lap deals each of them at most once, in a new order.
    """
    splits = splits_of(plan.blocks, plan.seed)
    order = generator(plan.seed, 6).permutation(plan.subjects).tolist()
    left, dealt = list(order), {}
    for name, share in zip(("valid", "test", "train"), (*SPLIT_SHARES[1:], 1.0), strict=True):
        size = max(plan.twins, round(share * plan.subjects)) if name in splits and name != "train" else 0
        dealt[name], left = (left, []) if name == "train" else (left[:size], left[size:])
    out: list[tuple[str, tuple[int, ...]]] = [("", ())] * plan.blocks
    for name, pool in dealt.items():
        rng = generator(plan.seed, 7, len(pool))
        laps: list[int] = []
        for block in (k for k, split in enumerate(splits) if split == name):
            if len(laps) < plan.twins:
                laps = rng.permutation(pool).tolist()
            out[block] = (name, tuple(laps[: plan.twins]))
            laps = laps[plan.twins :]
    return tuple(out)


def render_twin(index: int, size: int, plan: Plan, classes: Sequence[str], least_intensity: float) -> Record:
    """Face `index`: of its block person index // twins % twins with the set of actions index % twins."""
    block, place, turn = index // plan.twins**2, index // plan.twins % plan.twins, index % plan.twins
    split, people = people_of(plan)[block]
    subject = people[place]
    expression = classes[(block * plan.twins + turn) % len(classes)]
    units, actions = sample_actions(generator(plan.seed, 5, block, turn), expression, least_intensity)
    coefficients, appearance = subject_appearance(plan.seed, subject)
    identity = np.array(coefficients, np.float32)
    face = replace(
        sample_view(generator(plan.seed, 4, block, place), identity, appearance, actions),
        id=twin_id(index, plan, classes),
        split=split,
        subject=f"s{subject:04d}",
        expression=expression,
        action_units=intensities(units, identity, actions),
    )
    person, same = f"block{block:05d}-person{place}", f"block{block:05d}-actions{turn}"
    return render_face(face, size)._replace(same_person=person, same_actions=same)


def twin_id(index: int, plan: Plan, classes: Sequence[str]) -> str:
    """Name of face `index`: block, subject, place in the block and class."""
    block, place, turn = index // plan.twins**2, index // plan.twins % plan.twins, index % plan.twins
    name = classes[(block * plan.twins + turn) % len(classes)].lower()
    return f"b{block:05d}-s{people_of(plan)[block][1][place]:04d}-{place}-{turn}-{name}"
