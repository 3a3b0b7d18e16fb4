"""The numbers of the report: a value with its interval for each recipe, and paired differences between two recipes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from mien.evaluation.scores import scored_faces
from mien.metrics.classification import f1_and_ece_spreads
from mien.metrics.decisions import Kept, kept
from mien.metrics.intervals import (
    Comparison,
    bootstrap_class_mean,
    bootstrap_mean,
    mcnemar,
    mean_over_seeds,
    paired_bootstrap,
    paired_people_and_seeds,
    paired_seeds,
    score_interval,
)
from mien.metrics.resampling import people
from mien.report.runs import Group, Run, same_cue

DRAWS = 1000
PREDICTED_END = "@predicted"
"""Ends the names of maps that are held against the cue of the predicted class."""


class Number(NamedTuple):
    """A value with its 95 % interval, where it has one."""

    value: float | None
    low: float | None = None
    high: float | None = None


class Difference(NamedTuple):
    """One line of the paired tests: second recipe minus baseline."""

    title: str
    faces: Comparison
    """Over the people (or faces) that both scored, averaged over common seeds."""
    seeds: Comparison | None = None
    """Paired t over seeds on these faces, where both recipes were trained with two or more common seeds."""
    both: Comparison | None = None
    """Over people and seeds at once, where there are seeds."""
    mcnemar: tuple[float, ...] = ()
    """Exact McNemar p of each pair of runs; for accuracy only."""
    kept: Kept | None = None
    """Is a loss of one point ruled out? For accuracies only."""

    @property
    def test(self) -> Comparison:
        """What the reading rests on: everything that is known to vary."""
        return self.both or self.faces


class Paired(NamedTuple):
    """A recipe against the baseline."""

    base: Group
    other: Group
    pairs: list[tuple[Run, Run]]
    same_seed: bool
    faces: int
    people: int
    """How many people were resampled; 0 when pictures were."""
    differences: dict[str, Difference]
    """By short name: accuracy, balanced, att_cos, att_pearson, att_energy, cam_cos."""


class Shared(NamedTuple):
    """Faces that several runs scored, in one order."""

    rows: list[np.ndarray]
    """Their places in each run."""
    labels: np.ndarray
    people: np.ndarray | None

    def stack(self, runs: Sequence[Run], score: Callable[[Run], np.ndarray]) -> np.ndarray:
        """(runs, faces)."""
        return np.stack([score(run)[own] for run, own in zip(runs, self.rows, strict=True)]).astype(np.float64)


def shared_faces(runs: Sequence[Run]) -> Shared:
    """The faces of the first run that all the others scored too."""
    ids = runs[0].faces["id"]
    for run in runs[1:]:
        ids = ids[np.isin(ids, run.faces["id"])]
    places = [{name: k for k, name in enumerate(run.faces["id"])} for run in runs]
    rows = [np.array([place[name] for name in ids], dtype=np.int64) for place in places]
    subjects = runs[0].faces.get("subject")
    persons = None if subjects is None or not len(ids) else people(subjects[rows[0]])
    return Shared(rows, runs[0].faces["label"][rows[0]], persons)


def right(run: Run) -> np.ndarray:
    """(N,) 1 where the answer is right."""
    return run.right.astype(float)


def classification(group: Group, seed: int) -> dict[str, Number]:
    """Accuracy, balanced accuracy, macro-F1 and ECE of a recipe: over people, and over seeds too where there are several."""
    names = ("accuracy", "balanced_accuracy", "macro_f1", "calibration_error")
    spreads = []
    for run in group.runs:
        persons = people(run.faces["subject"]) if "subject" in run.faces else None
        spreads.append(
            f1_and_ece_spreads(run.faces["probabilities"], run.faces["label"], persons, seed=seed, draws=DRAWS)
        )
    if len(group.runs) > 1:
        found = {
            name: Number(*mean_over_seeds(one)[:3])
            for name, one in zip(names[2:], zip(*spreads, strict=True), strict=True)
        }
        shared = shared_faces(group.runs)
        answers = shared.stack(group.runs, right)
        for name, labels in (("accuracy", None), ("balanced_accuracy", shared.labels)):
            values = [float(run.results["classification"][name]) for run in group.runs]
            alike = all(len(own) == len(run.right) for own, run in zip(shared.rows, group.runs, strict=True))
            found[name] = _over_both(answers, shared.people, labels, seed) if alike else over_seeds(values)
        return found
    run = group.first
    intervals = (
        bootstrap_mean(right(run), persons, seed=seed),
        bootstrap_class_mean(right(run), run.faces["label"], persons, seed=seed),
    )
    ends = [interval[1:3] for interval in intervals] + [score_interval(spread, share=True) for spread in spreads[0]]
    scores = run.results["classification"]
    return {name: Number(float(scores[name]), *between) for name, between in zip(names, ends, strict=True)}


def alignment(group: Group, map_: str, kind: str, seed: int = 0) -> Number:
    """Class mean of one score of one map; an empty Number where the recipe has no such map."""
    entries = [run.results["alignment"].get(map_, {}).get(kind) for run in group.runs]
    known = [entry for entry in entries if entry and entry["class_mean"] is not None]
    if not known:
        return Number(None)
    if len(known) == 1:
        return Number(known[0]["class_mean"], *(known[0]["interval"] or (None, None)))
    key = f"{map_}/{kind}"
    shared = shared_faces(group.runs)
    same = all(
        key in run.faces and len(own) == len(run.right) for own, run in zip(shared.rows, group.runs, strict=True)
    )
    valid = (
        shared.stack(group.runs, lambda run: scored_faces(run.faces, map_)).all(axis=0)
        if same
        else np.zeros(0, dtype=bool)
    )
    if not same or not valid.any() or map_.endswith(PREDICTED_END):  # each net predicts other classes, on other faces
        return over_seeds([entry["class_mean"] for entry in known])
    values = shared.stack(group.runs, score_of(lambda _: key))[:, valid]
    return _over_both(values, None if shared.people is None else shared.people[valid], shared.labels[valid], seed)


def over_seeds(values: Sequence[float]) -> Number:
    """Mean over runs with its Student t interval."""
    mean = paired_seeds(np.zeros(len(values)), values)
    return Number(mean.difference, mean.low, mean.high)


def _over_both(values: np.ndarray, persons: np.ndarray | None, labels: np.ndarray | None, seed: int) -> Number:
    mean = paired_people_and_seeds(np.zeros_like(values), values, persons, labels, seed=seed)
    return Number(mean.difference, mean.low, mean.high)


def mean_of(values: Sequence[float | None]) -> float | None:
    """Mean of the known values, None without any."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def right_and_wrong(group: Group, map_: str, seed: int) -> list[tuple[Number, int]]:
    """Mean cosine of a map over rightly and over wrongly predicted faces, with the number of predictions behind it.

    Runs of one recipe are pooled; the interval resamples people where they are known, else faces, so that a face seen by
    several runs counts as one.
    """
    values = np.concatenate([np.nan_to_num(run.faces[f"{map_}/cosine"]) for run in group.runs])
    ids = np.concatenate([_who(run) for run in group.runs])
    valid = np.concatenate([run.faces["valid"] for run in group.runs])
    answers = np.concatenate([run.right for run in group.runs])
    result = []
    for chosen in (valid & answers, valid & ~answers):
        count = int(chosen.sum())
        mean = bootstrap_mean(values[chosen], ids[chosen], seed=seed) if count else None
        known = mean is not None and np.isfinite(mean.low)
        result.append((Number(mean.value, *((mean.low, mean.high) if known else ())) if mean else Number(None), count))
    return result


def _who(run: Run) -> np.ndarray:
    """(N,) name of the person of each face, of the face where nobody is known."""
    ids = run.faces["id"].astype(str)
    subjects = run.faces.get("subject")
    return (
        ids
        if subjects is None
        else np.where(subjects == "", np.char.add("face ", ids), np.char.add("person ", subjects))
    )


class Sides(NamedTuple):
    """Two recipes on the faces that all their paired runs scored."""

    pairs: list[tuple[Run, Run]]
    same_seed: bool
    shared: Shared
    seed: int

    @property
    def runs(self) -> list[Run]:
        """Those of the baseline, then the others."""
        return [pair[0] for pair in self.pairs] + [pair[1] for pair in self.pairs]

    def difference(self, title: str, score: Callable[[Run], np.ndarray], classes: bool, use: np.ndarray) -> Difference:
        """Second minus first of a per-face score on the faces `use`; as a mean over classes where `classes`."""
        count, labels, persons = len(self.pairs), self.shared.labels, self.shared.people
        both = self.shared.stack(self.runs, score)[:, use]
        sides = both[:count], both[count:]
        truth, who = labels[use] if classes else None, persons[use] if persons is not None else None
        faces = possible(paired_bootstrap(sides[0].mean(0), sides[1].mean(0), who, truth, seed=self.seed), both)
        if count == 1 or not self.same_seed:
            return Difference(title, faces)
        classes_of = labels[use] if classes else np.zeros(int(use.sum()), dtype=np.int64)
        first, second = ([bootstrap_class_mean(row, classes_of, draws=1).value for row in side] for side in sides)
        together = paired_people_and_seeds(*sides, groups=who, labels=truth, seed=self.seed)
        return Difference(title, faces, possible(paired_seeds(first, second), both), possible(together, both))


def possible(test: Comparison, scores: np.ndarray) -> Comparison:
    """The ends of a difference of scores from 0 to 1 cut to [-1, 1], beyond which a t of few people goes; others as they are."""
    if not bool(((scores >= 0) & (scores <= 1)).all()):
        return test
    low, high = np.clip((test.low, test.high), -1.0, 1.0).tolist()
    return test._replace(low=low, high=high)


def sides_of(base: Group, other: Group, seed: int) -> Sides:
    """Runs side by side on the faces that they share."""
    pairs, same_seed = pair_runs(base, other)
    return Sides(pairs, same_seed, shared_faces([pair[0] for pair in pairs] + [pair[1] for pair in pairs]), seed)


def compare(base: Group, other: Group, seed: int, alike: Callable[[Run, Run], bool] = same_cue) -> Paired:
    """Second recipe minus baseline on the faces that all their paired runs scored; maps only where cues are `alike`."""
    sides = sides_of(base, other, seed)
    shared, pairs, runs = sides.shared, sides.pairs, sides.runs
    valid = runs[0].faces["valid"][shared.rows[0]]
    every = np.ones(len(shared.labels), dtype=bool)
    found = {
        "accuracy": sides.difference("accuracy", right, False, every),
        "balanced": sides.difference("balanced accuracy", right, True, every),
    }
    found = {name: entry._replace(kept=kept(entry.test)) for name, entry in found.items()}
    answers = shared.stack(runs, right)
    found["accuracy"] = found["accuracy"]._replace(
        mcnemar=tuple(mcnemar(answers[k], answers[k + len(pairs)]) for k in range(len(pairs)))
    )
    if alike(base.first, other.first) and valid.any():
        for name, title, key in (
            ("att_cos", "ATT-COS, last layer", lambda run: f"{run.last_layer}/cosine"),
            ("att_pearson", "Pearson, last layer", lambda run: f"{run.last_layer}/pearson"),
            ("att_energy", "energy in the cue, last layer", lambda run: f"{run.last_layer}/energy"),
            ("cam_cos", "CAM-COS", lambda run: f"{run.class_map}/cosine"),
        ):
            if all(group.first.layers and key(group.first) in group.first.faces for group in (base, other)):
                found[name] = sides.difference(title, score_of(key), True, valid)
    persons = shared.people
    count = len(np.unique(persons)) if persons is not None else 0
    return Paired(base, other, pairs, sides.same_seed, len(shared.labels), count, found)


def beyond(group: Group, map_: str, kind: str, seed: int) -> Comparison | None:
    """The last layer's score minus that of a baseline or of a wrong cue on the same faces, as a mean over classes.

    Over people, and over the seeds of the recipe too where there are several; None without such scores.
    """
    runs = [run for run in group.runs if f"{map_}/{kind}" in run.faces]
    if not runs:
        return None
    shared = shared_faces(runs)
    valid = shared.stack(runs, lambda run: scored_faces(run.faces, map_)).all(axis=0)
    if not valid.any():
        return None
    base, own = (
        shared.stack(runs, score_of(key))[:, valid]
        for key in (lambda _: f"{map_}/{kind}", lambda run: f"{run.last_layer}/{kind}")
    )
    who = None if shared.people is None else shared.people[valid]
    if len(runs) > 1:
        return paired_people_and_seeds(base, own, who, shared.labels[valid], seed=seed)
    return paired_bootstrap(base[0], own[0], who, shared.labels[valid], seed=seed)


def score_of(key: Callable[[Run], str]) -> Callable[[Run], np.ndarray]:
    """Score of a run by its key in faces.npz; undefined ones count as 0, as in the tables."""
    return lambda run: np.nan_to_num(run.faces[key(run)]).astype(float)


def pair_runs(base: Group, other: Group) -> tuple[list[tuple[Run, Run]], bool]:
    """Runs of equal seed side by side; where no seed is common, the first run of each."""
    seeds = {run.recipe.run.seed: run for run in reversed(base.runs)}
    pairs = [(seeds[run.recipe.run.seed], run) for run in other.runs if run.recipe.run.seed in seeds]
    return (pairs, True) if pairs else ([(base.first, other.first)], False)
