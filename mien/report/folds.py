"""The section on folds: every fold of a cross-validation, the mean, and the interval as it was published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mien.metrics.intervals import normal_interval
from mien.report.runs import Group

SCORES = ("accuracy", "balanced_accuracy", "macro_f1")


def folds_section(groups: Sequence[Group]) -> dict[str, Any] | None:
    """Rows of text for the recipes that were cross-validated; None where none was. Several seeds are averaged."""
    crossed = [group for group in groups if group.first.folds]
    if not crossed:
        return None
    numbers = sorted({row["fold"] for group in crossed for run in group.runs for row in (run.folds or {})["each"]})
    rows = [{"title": f"fold {number}", "cells": [_fold(group, number) for group in crossed]} for number in numbers]
    return {
        "names": [group.name for group in crossed],
        "rows": rows,
        "means": [
            {"title": "mean over folds", "cells": [_mean(group) for group in crossed]},
            {"title": "as published: ± 1.96 √(a (1 − a) / n)", "cells": [_published(group) for group in crossed]},
            {"title": "standard deviation over folds", "cells": [_deviation(group) for group in crossed]},
            {"title": "mean epoch chosen", "cells": [_epoch(group) for group in crossed]},
        ],
        "overlap": overlap(crossed),
        "incomplete": [
            f"{run.name}: {len(run.folds['each'])} of {run.folds['k']} folds"
            for group in crossed
            for run in group.runs
            if run.folds and len(run.folds["each"]) < run.folds["k"]
        ],
    }


def _rows(group: Group, number: int | None = None) -> list[dict[str, Any]]:
    every = [row for run in group.runs for row in (run.folds or {})["each"]]
    return [row for row in every if number is None or row["fold"] == number]


def _fold(group: Group, number: int) -> list[str]:
    rows = _rows(group, number)
    return [f"{np.mean([row[name] for row in rows]):.3f}" if rows else "–" for name in SCORES]


def _mean(group: Group) -> list[str]:
    return [f"{np.mean([(run.folds or {})['mean'][name] for run in group.runs]):.3f}" for name in SCORES]


def _deviation(group: Group) -> list[str]:
    known = [run.folds["deviation"] for run in group.runs if run.folds and run.folds["deviation"]]
    return [f"{np.mean([line[name] for line in known]):.3f}" if known else "–" for name in SCORES]


def _epoch(group: Group) -> list[str]:
    return [f"{np.mean([row['epoch'] for row in _rows(group)]):.1f}", "", ""]


def published(group: Group) -> tuple[float, float, int]:
    """Low and high end of the published interval of a recipe, and its n: all faces of one run."""
    accuracy = float(np.mean([(run.folds or {})["mean"]["accuracy"] for run in group.runs]))
    n = int(group.first.results["faces"])
    interval = normal_interval(accuracy, n)
    return interval.low, interval.high, n


def _published(group: Group) -> list[str]:
    low, high, n = published(group)
    return [f"± {(high - low) / 2:.4f}, n {n}", "", ""]


def overlap(groups: Sequence[Group]) -> list[str]:
    """What the published rule says: two recipes differ where their intervals do not overlap."""
    sentences = []
    for k, first in enumerate(groups):
        for second in groups[k + 1 :]:
            (low, high, _), (other_low, other_high, _) = published(first), published(second)
            apart = other_low > high or low > other_high
            sentences.append(f"{first.name} and {second.name} {'do not overlap' if apart else 'overlap'}")
    return sentences
