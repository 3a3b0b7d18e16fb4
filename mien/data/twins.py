"""Which faces of a store are twins, and batches of them: of one person with other actions, of other people with the same."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mien.data.store import Store
from mien.errors import DataError, UsageError
from mien.schema import IntArray


class Twins(NamedTuple):
    """Groups of the faces of a store, -1 for a face without one."""

    same_person: IntArray
    """(N,) equal where faces differ in their actions alone; of frames of a video where the person is one."""
    same_actions: IntArray
    """(N,) equal where the actions are the same."""


class Swaps(NamedTuple):
    """Rows of faces whose swap is known, (S,) each: z1 of `actions` on z2 of `person` is the face `truth`."""

    actions: IntArray
    person: IntArray
    truth: IntArray


def twin_groups(store: Store) -> Twins:
    """Groups of a store's faces; all -1 in one without twins."""
    return Twins(*(_numbered(column) for column in (store.same_person, store.same_actions)))


def _numbered(names: npt.NDArray[np.object_]) -> IntArray:
    """Numbers of the names by first appearance, -1 for None."""
    known: dict[str, int] = {}
    return np.array([-1 if name is None else known.setdefault(name, len(known)) for name in names], dtype=np.int64)


def crossed(twins: Twins, rows: IntArray) -> list[list[list[list[int]]]]:
    """The faces `rows` as blocks of person x actions -> rows, one block for what hangs together by any group.

    Faces without both groups are in none. Of `mien synthesize --twins N` a block is N x N cells with one face each; of a video
    it is all people and all sets of actions, most cells of which are empty.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows = rows[(twins.same_person[rows] >= 0) & (twins.same_actions[rows] >= 0)]
    if not len(rows):
        return []
    person, actions = (np.unique(column[rows], return_inverse=True)[1] for column in twins)
    people = int(person.max()) + 1
    nodes = people + int(actions.max()) + 1
    links = coo_array((np.ones(len(rows)), (person, people + actions)), shape=(nodes, nodes))
    part = connected_components(links, directed=False)[1]
    order = np.argsort(part[person], kind="stable")
    blocks = []
    for members in np.split(order, np.flatnonzero(np.diff(part[person][order])) + 1):
        own, mine = (np.unique(column[members], return_inverse=True) for column in (person, actions))
        cells: list[list[list[int]]] = [[[] for _ in mine[0]] for _ in own[0]]
        for row, i, k in zip(rows[members].tolist(), own[1].tolist(), mine[1].tolist(), strict=True):
            cells[i][k].append(row)
        blocks.append(cells)
    return blocks


def same_view(store: Store, twins: Twins) -> bool:
    """Whether faces of one `same_person` group have one known pose, so that a swap of actions has an exact outcome: no video does."""
    rows = np.flatnonzero(twins.same_person >= 0)
    _, first, inverse = np.unique(twins.same_person[rows], return_index=True, return_inverse=True)
    pose = store.pose[rows]
    return bool(len(rows)) and bool((pose == pose[first[inverse]]).all())  # NaN equals nothing


def sub_blocks(cells: list[list[list[int]]], people: int, actions: int, rng: np.random.Generator) -> list[IntArray]:
    """Whole sub-blocks (people, actions) of rows drawn from one block, no row twice, as long as one is found.

    A person starts one; others who share enough sets of actions join in random order, so that of a block with empty cells not
    always the most sub-blocks are found; a block without is used up.
    """
    stacks = [[rng.permutation(cell).tolist() for cell in line] for line in cells]
    left = np.array([[len(cell) for cell in line] for line in cells])
    out: list[IntArray] = []
    starts = rng.permutation(len(left)).tolist()
    while starts:
        first = starts[-1]
        chosen, shared = [first], left[first] > 0
        for other in rng.permutation(len(left)).tolist():
            both = shared & (left[other] > 0)
            if len(chosen) < people and other != first and both.sum() >= actions:
                chosen, shared = [*chosen, other], both
        if len(chosen) < people or shared.sum() < actions:
            starts.pop()  # nobody is left to go with this one; nor will there be, as faces only become fewer
            continue
        columns = rng.permutation(np.flatnonzero(shared))[:actions]
        out.append(np.array([[stacks[i][k].pop() for k in columns] for i in chosen], dtype=np.int64))
        left[np.ix_(chosen, columns)] -= 1
        starts = rng.permutation(starts).tolist()
    return out


def twin_batches(
    twins: Twins,
    rows: IntArray,
    *,
    blocks: int,
    people: int = 2,
    actions: int = 2,
    seed: int,
    epoch: int,
    most: int = 0,
) -> list[IntArray]:
    """Batches of an epoch, each (<= blocks, people, actions) rows: [b, i, k] is person i of sub-block b with actions k.

    By (seed, epoch) alone, so that a resumed training goes on with the same ones. No row is twice in an epoch; faces that fit in
    no whole sub-block stay out of it, and may be in the next.

    Args:
        twins: groups of the store.
        rows: faces to draw from, such as those of the training split.
        blocks: sub-blocks of a batch; the last batch may have fewer.
        people: of a sub-block, at least 2.
        actions: sets of actions of a sub-block, at least 2.
        seed: of the run.
        epoch: from 1.
        most: batches of an epoch; 0 for all.

    Raises:
        UsageError: numbers that cannot be. DataError: no whole sub-block among the rows.

    """
    if min(people, actions) < 2 or blocks < 1 or most < 0:
        raise UsageError(
            f"{blocks} blocks of {people} people and {actions} sets of actions: give at least 1 block of 2 and 2."
        )
    rng = np.random.default_rng((seed, epoch))
    found = [block for cells in crossed(twins, rows) for block in sub_blocks(cells, people, actions, rng)]
    if not found:
        raise DataError(
            f"no {people} people with the same {actions} sets of actions among {len(rows)} faces; "
            "`mien synthesize --twins` makes some."
        )
    drawn = np.stack(found)[rng.permutation(len(found))]
    batches = [drawn[start : start + blocks] for start in range(0, len(drawn), blocks)]
    return batches[:most] if most else batches


def known_swaps(twins: Twins, rows: IntArray, seed: int = 0) -> Swaps:
    """For each face that has one, a swap whose outcome is a face of the store too: another person's other actions on it.

    Rows of `person` in their order; `actions` is drawn by the seed among the faces that differ in both groups, and `truth` is the
    person of the one with the actions of the other.
    """
    rng = np.random.default_rng(seed)
    found: list[tuple[int, int, int]] = []
    for cells in crossed(twins, rows):
        filled = np.array([[len(cell) > 0 for cell in line] for line in cells])
        for i, k in np.argwhere(filled).tolist():
            other = filled & filled[i]  # (j, l): person i is there with actions l too
            other[i], other[:, k] = False, False
            places = np.argwhere(other)
            if not len(places):
                continue
            for row in cells[i][k]:
                j, target = places[rng.integers(len(places))].tolist()
                found.append((cells[j][target][rng.integers(len(cells[j][target]))], row, cells[i][target][0]))
    table = np.array(sorted(found, key=lambda one: one[1]), dtype=np.int64).reshape(-1, 3)
    return Swaps(*table.T)
