"""For whom? Accuracy, recall, calibration and explanation quality of every group that the store names."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from mien.audit.sample import Sample
from mien.audit.table import Drawing, Line, Part, Table, p_words, percent, row, within
from mien.metrics.intervals import bootstrap_class_mean
from mien.metrics.parity import (
    LEAST_FACES,
    LEAST_PEOPLE,
    WIDEST,
    calibration_gaps,
    group_means,
    judged,
    largest_gaps,
    odds,
    smallest_group,
    spread_over_people,
)
from mien.schema import FloatArray

TITLE = "For whom?"
STEPS = ("low", "under", "middle", "15", "high", "over")
"""Beginnings of the names that `mien.audit.sample` gives to groups of numbers, in their order."""
ALL = "all faces"
GAPS = (
    "The largest of several gaps is biased upwards; the p-value allows for all pairs of all attributes in this table, the "
    "interval does not."
)
PEOPLE = (
    "People with at least 5 faces, by their accuracy. Beside it: the same of people who are all alike, whose faces are right or "
    "wrong by chance alone (mean of 500 draws)."
)
ODDS = (
    "Largest difference between groups of a class's recall or false alarms; the largest over the classes of which each group has "
    "at least 12 faces. Biased upwards where groups are small."
)
NO_GROUPS = "The faces carry no attribute with two values (gender, age, pose, light, ...): groups are never guessed from pictures."


def groups(
    sample: Sample, probabilities: FloatArray, explained: npt.NDArray[np.floating] | None = None, seed: int = 0
) -> Part:
    """Scores of each group, largest gaps with a test corrected for all of them, equalised odds.

    `explained` (N,): quality of each face's explanation, NaN where it was not scored.
    """
    hit = (probabilities.argmax(1) == sample.labels).astype(np.float64)
    persons = person_table(sample, hit, seed)
    if not sample.groups:
        told = ("For whom it is worse cannot be said: the faces carry no attributes.",)
        return Part("groups", TITLE, tuple(persons), cannot=(NO_GROUPS, *opinions(sample)), verdict=told)
    over = probabilities.max(1).astype(np.float64) - hit
    tables = [accuracies(sample, hit, seed), *persons, recalls(sample, hit, seed)]
    tables += [calibration(sample, probabilities, over, seed)]
    tables += [gaps("gaps", "Largest gaps in accuracy", sample, hit, seed)]
    tables += [gaps("calibration_gaps", "Largest gaps in confidence minus accuracy", sample, over, seed)]
    if explained is not None and np.isfinite(explained).any():
        tables += [explanations(sample, explained, seed)]
        tables += [gaps("explanation_gaps", "Largest gaps in explanation quality", sample, explained, seed)]
    tables += [equalised(sample, probabilities)]
    return Part("groups", TITLE, tuple(tables), (drawn(tables[0]),), sentences(tables, hit), tuple(notes(sample)))


def ordered(names: Iterable[str]) -> list[str]:
    """Names of groups, those of numbers from low to high."""
    return sorted(
        names, key=lambda name: next((k for k, word in enumerate(STEPS) if name.startswith(word)), len(STEPS))
    )


def accuracies(sample: Sample, hit: npt.NDArray[np.float64], seed: int) -> Table:
    """Accuracy of every group; those that may not be judged say so."""
    need, rows = smallest_group(float(hit.mean())), []
    for attribute, values in sample.groups.items():
        fit = judged(values, sample.people)
        means = group_means(hit, values, sample.people, seed=seed)
        for name in ordered(means):
            n, found = int((values == name).sum()), means[name]
            wide = (found.high - found.low) / 2
            few = "" if name in fit else f"fewer than {LEAST_FACES} faces or {LEAST_PEOPLE} people: not tested"
            note = few or ("" if wide <= WIDEST else f"interval of ±{100 * wide:.0f} points: too few to be judged")
            rows.append(row(f"{attribute}: {name}", found, n, "higher", hit.mean(), note))
    text = (
        f"A group is judged where its interval is ±{100 * WIDEST:.0f} points or less: about {need} independent faces "
        "at this accuracy, more where people have several."
    )
    return Table("accuracy", "Accuracy of each group", tuple(rows), ALL, text, "share")


def recalls(sample: Sample, hit: npt.NDArray[np.float64], seed: int) -> Table:
    """Mean recall over the classes that the group shows: unlike accuracy it does not follow the mix of expressions."""
    whole, rows = bootstrap_class_mean(hit, sample.labels, sample.people, seed=seed).value, []
    for attribute, values in sample.groups.items():
        for name in ordered(judged(values, sample.people)):
            own = values == name
            people = None if sample.people is None else sample.people[own]
            found = bootstrap_class_mean(hit[own], sample.labels[own], people, seed=seed, draws=500)
            rows.append(row(f"{attribute}: {name}", found, int(own.sum()), "higher", whole,
                            f"{len(np.unique(sample.labels[own]))} classes"))  # fmt: skip
    return Table("recall", "Mean recall of each group", tuple(rows), ALL, unit="share")


def person_table(sample: Sample, hit: npt.NDArray[np.float64], seed: int) -> list[Table]:
    """Accuracy of the people that it serves worst and best, beside what chance alone would show; [] where nobody has enough faces."""
    if sample.people is None:
        return []
    found = spread_over_people(hit, sample.people, seed=seed)
    if found is None:
        return []
    names = ("the tenth that it serves worst", "median person", "the tenth that it serves best")
    rows = [
        row(name, own, found.people, "", luck) for name, own, luck in zip(names, found.own, found.luck, strict=True)
    ]
    return [Table("people", "Accuracy person by person", tuple(rows), "people who are all alike", PEOPLE, "share")]


def calibration(sample: Sample, probabilities: FloatArray, over: npt.NDArray[np.float64], seed: int) -> Table:
    """Confidence minus accuracy, and ECE, of each group that may be tested; `over` (N,) is the former of each face."""
    rows = []
    for attribute, values in sample.groups.items():
        fit, errors = judged(values, sample.people), calibration_gaps(probabilities, sample.labels, values)
        means = group_means(over, values, sample.people, seed=seed)
        for name in ordered(means):
            if name in fit:
                n, found = int((values == name).sum()), means[name]
                one = row(f"{attribute}: {name}", found, n, "", over.mean(), f"ECE {errors[name][0]:.3f}")
                rows.append(within(one, -1, 1))
    return Table("calibration", "Confidence minus accuracy of each group", tuple(rows), ALL,
                 "Above 0: over-confident. ECE in bins of equal mass of 20 faces or more.", "share")  # fmt: skip


def explanations(sample: Sample, explained: npt.NDArray[np.floating], seed: int) -> Table:
    """How well the map follows the effect of the regions of a face, by group."""
    whole, rows = float(np.nanmean(explained)), []
    for attribute, values in sample.groups.items():
        known = np.where(np.isfinite(explained), values, "")
        fit = judged(known, sample.people)
        means = group_means(explained, known, sample.people, seed=seed)
        for name in ordered(means):
            if name in fit:
                one = row(f"{attribute}: {name}", means[name], int((known == name).sum()), "higher", whole)
                rows.append(within(one, -1, 1))
    return Table("explanation", "Explanation quality of each group", tuple(rows), ALL,
                 "Rank correlation between a region's share of the map and the effect of covering it, a face at a time.")  # fmt: skip


def gaps(key: str, title: str, sample: Sample, values: npt.NDArray[np.floating], seed: int) -> Table:
    """The largest gap of each attribute, p corrected for all pairs of all attributes (Holm)."""
    rows = []
    for attribute, gap in largest_gaps(values, sample.groups, sample.people, seed=seed).items():
        test, (first, second) = gap.test, (gap.first, gap.second)
        low, high = test.low, test.high
        if test.difference < 0:
            first, second, low, high = second, first, -high, -low
        found = row(f"{attribute}: {second} against {first}", abs(test.difference), test.n, "lower", 0.0,
                    f"{p_words(gap.corrected)} after Holm")  # fmt: skip
        rows.append(found._replace(low=low if np.isfinite(low) else None, high=high if np.isfinite(high) else None))
    rows.sort(key=lambda one: -(one.value or 0))
    return Table(key, title, tuple(rows), "no gap",
                 GAPS)  # fmt: skip


def equalised(sample: Sample, probabilities: FloatArray) -> Table:
    """Equalised-odds difference of every attribute, of the class where it is largest, among groups that may be tested."""
    predicted, rows = probabilities.argmax(1), []
    for attribute, values in sample.groups.items():
        fit = judged(values, sample.people)
        kept = np.where(np.isin(values, fit), values, "")
        if len(fit) < 2:
            continue
        shown = np.array([np.bincount(sample.labels[kept == name], minlength=len(sample.classes)) for name in fit])
        found = {name: odds(predicted, sample.labels, kept, k) for k, name in enumerate(sample.classes)
                 if shown[:, k].min() >= LEAST_FACES}  # fmt: skip
        known = {name: one for name, one in found.items() if np.isfinite(one.equalised)}
        if known:
            worst = max(known, key=lambda name: known[name].equalised)
            one = known[worst]
            rows.append(row(attribute, one.equalised, int((kept != "").sum()), "lower", 0.0,
                            f"{worst}: recall differs by {one.recall:.2f}, false alarms by {one.false_alarms:.2f}"))  # fmt: skip
    return Table("odds", "Equalised odds", tuple(rows), "equal", ODDS)  # fmt: skip


def drawn(table: Table) -> Drawing:
    """Accuracy of each group with its interval."""
    lines = tuple(
        Line(one.name, (0.0,), (one.value,), (one.low,), (one.high,)) for one in table.rows if "not tested" not in one.note
    )  # fmt: skip
    base = next((one.baseline for one in table.rows), None)
    return Drawing("dots", "Accuracy by group", lines, "accuracy", f"{base}" if base is not None else "",
                   caption="A dot is a group, its bar the 95 % interval over people; the line is all faces.")  # fmt: skip


def sentences(tables: list[Table], hit: npt.NDArray[np.float64]) -> tuple[str, ...]:
    """For the verdict."""
    found = next(table for table in tables if table.key == "gaps").rows
    if not found:
        need = smallest_group(float(hit.mean()))
        return (f"No attribute has two groups that are large enough to compare (about {need} faces each).",)
    if not any(one.value for one in found):
        return (f"No group differs in accuracy: all of them have {percent(float(hit.mean()))}.",)
    clear = [one for one in found if float(one.note.split()[2]) < 0.05]
    top = (clear or found)[0]
    word = "clear" if clear else "not clear of chance"
    return (
        f"The largest gap in accuracy between groups is {100 * (top.value or 0):.0f} points ({top.name}), {word} ({top.note}).",
    )


def opinions(sample: Sample) -> list[str]:
    """Attributes that are no groups."""
    return [f"{name} names expressions: another opinion on the label, no group." for name in sample.labels_like]


def notes(sample: Sample) -> list[str]:
    """What cannot be said."""
    found = opinions(sample)
    for attribute, values in sample.groups.items():
        fit = judged(values, sample.people)
        if len(fit) < 2:
            found.append(
                f"{attribute}: fewer than two groups of {LEAST_FACES} faces and {LEAST_PEOPLE} people; not tested."
            )
    if sample.people is None:
        found.append("Nobody is named: groups are tested over faces.")
    return found
