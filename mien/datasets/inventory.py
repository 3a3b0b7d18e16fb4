"""What is in a store and what is wrong with it: counts, duplicates, leaks, conflicts and coverage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.data.duplicates import NEAR_BITS, NEAR_CORRELATION, components, exact_groups, near_pairs
from mien.data.store import ObjectArray, Store
from mien.data.twins import Twins, crossed, same_view, twin_groups
from mien.datasets.screen import LIMIT, face_share, point_blocks, shape_distances
from mien.metrics.action_units import ACTIVE, occurrence
from mien.schema import ACTION_UNITS, EXPRESSIONS, SPLITS, ByteArray, IntArray

MOST_VALUES = 20
"""A string attribute with more values than this is a name, not a group, and gets no table."""


WORST = 20
"""Odd landmark shapes that are listed."""


def audit(
    store: Store,
    near: bool = True,
    bits: int = NEAR_BITS,
    correlation: float = NEAR_CORRELATION,
    landmark_limit: float = LIMIT,
    cluster: str | None = None,
) -> dict[str, Any]:
    """Everything `mien check` reports, as plain numbers, lists and dicts.

    `near` also looks for near-duplicates (mien.data.near): difference hashes within `bits`, detail correlated at least
    `correlation`.
    Landmark shapes further than `landmark_limit` outer-eye distances from the median shape are counted.
    """
    exact = exact_groups(store.digest)
    report = {
        "dataset": store.info.dataset,
        "fingerprint": store.fingerprint,
        "faces": len(store),
        "skipped": store.info.skipped,
        "labels": _counts(store),
        "identical": _duplicates(store, exact),
        "subjects": _subjects(store),
        "landmarks": _landmarks(store) | {"face_share": face_share(store), "shape": _shapes(store, landmark_limit)},
        "action_units": unit_counts(store),
        "votes": _votes(store),
        "groups": _groups(store),
    }
    if twins := _twins(store):
        report["twins"] = twins
    if near:
        pairs = near_pairs(store, bits, correlation, cluster)
        links = np.concatenate([pairs, np.stack([np.arange(len(store)), exact], axis=1)])
        report["near_duplicates"] = {"pairs": len(pairs), **_duplicates(store, components(len(store), links))}
    return report


def _names(store: Store) -> npt.NDArray[np.str_]:
    return np.array([name or "unlabelled" for name in store.expression], dtype=str)


def _counts(store: Store) -> dict[str, dict[str, int]]:
    """Class -> split -> faces; only classes and splits that occur."""
    pairs = Counter(zip(_names(store).tolist(), store.split.tolist(), strict=True))
    classes = [name for name in (*EXPRESSIONS, "unlabelled") if any(pair[0] == name for pair in pairs)]
    splits = [name for name in SPLITS if any(pair[1] == name for pair in pairs)]
    return {name: {split: pairs[name, split] for split in splits} for name in classes}


def label_table(store: Store) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the class x split table, with totals and shares of the whole."""
    counts = _counts(store)
    splits = list(next(iter(counts.values()), {}))
    rows = [[name, *map(str, row.values()), f"{sum(row.values()) / len(store):.1%}"] for name, row in counts.items()]
    rows.append(["all", *(str(sum(row[split] for row in counts.values())) for split in splits), "100.0%"])
    return ["class", *splits, "share"], rows


def _duplicates(store: Store, groups: IntArray) -> dict[str, Any]:
    """Groups of more than one row: how many, how many rows are too many, where they cross splits and labels.

    Label conflicts among pictures of one known person, who may just change the expression, are also counted apart.
    """
    inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)[1:]
    rows = np.flatnonzero(counts[inverse] > 1)
    members: dict[int, list[int]] = {}
    for row in rows:
        members.setdefault(int(inverse[row]), []).append(int(row))
    labels, splits = store.expression, store.split
    conflicts = [rows for rows in members.values() if len({labels[row] for row in rows} - {None}) > 1]
    crossing = [rows for rows in members.values() if len({splits[row] for row in rows}) > 1]
    single = [rows for rows in conflicts if len(people := set(store.subject[rows])) == 1 and None not in people]
    across = {
        f"{second} rows also in {first}": int(
            np.isin(inverse[splits == second], np.unique(inverse[splits == first])).sum()
        )
        for first, second in (("train", "valid"), ("train", "test"), ("valid", "test"))
        if (splits == first).any() and (splits == second).any()
    }
    return {
        "groups": len(members),
        "rows": len(rows),
        "surplus": len(rows) - len(members),
        "largest": int(counts.max(initial=0)),
        "groups_across_splits": len(crossing),
        **across,
        "groups_with_label_conflict": len(conflicts),
        "rows_with_label_conflict": sum(map(len, conflicts)),
        "conflicts": _label_sets(labels, conflicts),
        "groups_with_label_conflict_of_one_person": len(single),
        "rows_with_label_conflict_of_one_person": sum(map(len, single)),
        "conflicts_of_one_person": _label_sets(labels, single),
        "examples": [[str(store.ids[row]) for row in rows[:4]] for rows in (crossing or conflicts)[:5]],
    }


def _label_sets(labels: ObjectArray, groups: list[list[int]]) -> dict[str, int]:
    """How many groups of rows have the labels "Happiness / Sadness", ...; the commonest first."""
    named = Counter(" / ".join(sorted({str(labels[row]) for row in rows if labels[row]})) for rows in groups)
    return dict(named.most_common())


def _subjects(store: Store) -> dict[str, Any]:
    """Known subjects per split, and those that are in more than one."""
    where: dict[str, set[str]] = {}
    for name, split in zip(store.subject, store.split, strict=True):
        if name is not None:
            where.setdefault(name, set()).add(split)
    shared = sorted(name for name, splits in where.items() if len(splits) > 1)
    return {
        "known": len(where),
        "rows_without_subject": int(sum(name is None for name in store.subject)),
        **{split: sum(split in splits for splits in where.values()) for split in SPLITS},
        "in_several_splits": len(shared),
        "examples": shared[:10],
    }


def _twins(store: Store) -> dict[str, Any]:
    """Groups of twins, what hangs together by them, and what they would have to be and are not; empty without any."""
    groups = twin_groups(store)
    report: dict[str, Any] = {}
    for name, column in zip(Twins._fields, groups, strict=True):
        _, counts = np.unique(column[column >= 0], return_counts=True)
        report[name] = {"groups": len(counts), "faces": int(counts.sum()), "largest": int(counts.max(initial=0))}
    if not any(found["groups"] for found in report.values()):
        return {}
    blocks = crossed(groups, np.arange(len(store)))
    grouped = [np.flatnonzero(groups.same_person == k) for k in range(report["same_person"]["groups"])]
    alike = [np.flatnonzero(groups.same_actions == k) for k in range(report["same_actions"]["groups"])]
    units = store.action_units
    spread = np.array([np.ptp(units[rows], axis=0) for rows in alike]).reshape(-1, units.shape[1])
    worst = np.nan_to_num(spread).max(axis=0, initial=0.0)
    return {
        **report,
        "blocks": len(blocks),
        "whole_blocks": sum(all(len(cell) == 1 for line in cells for cell in line) for cells in blocks),
        "pose_fixed": same_view(store, groups),
        "groups_of_several_subjects": sum(len(set(store.subject[rows])) > 1 for rows in grouped),
        "person_groups_across_splits": sum(len(set(store.split[rows])) > 1 for rows in grouped),
        "unit_spread": {name: round(float(worst[k]), 3) for k, name in enumerate(ACTION_UNITS) if worst[k] > 0},
    }


def _landmarks(store: Store) -> dict[str, Any]:
    """Faces with all, some and no known points; points outside the picture; coverage per class."""
    facts = []
    for points in point_blocks(store):
        known = np.asarray(np.isfinite(points).all(axis=2))
        with np.errstate(invalid="ignore"):
            beyond = ((points < -0.5) | (points > store.info.size - 0.5)).any(axis=2)
        facts.append(np.stack([known.all(axis=1), ~known.any(axis=1), (known & beyond).any(axis=1)]))
    whole, none, outside = np.concatenate(facts, axis=1)
    names = _names(store)
    return {
        "all_68": int(whole.sum()),
        "some": int((~whole & ~none).sum()),
        "none": int(none.sum()),
        "faces_with_points_outside": int(outside.sum()),
        "coverage_per_class": {name: round(float(whole[names == name].mean()), 4) for name in _counts(store)},
    }


def _shapes(store: Store, limit: float) -> dict[str, Any]:
    """Distances to the median shape: how many were measured, their spread, who is beyond the limit, the worst ones."""
    distance = shape_distances(store)
    known = np.flatnonzero(np.isfinite(distance))
    order = known[np.argsort(-distance[known], kind="stable")]
    spread = {"median": 50, "percentile_99": 99, "largest": 100}
    return {
        "measured": len(known),
        **{name: round(float(np.percentile(distance[known], at)), 4) for name, at in spread.items() if len(known)},
        "limit": limit,
        "beyond": int((distance > limit).sum()),
        "dropped": len(store.info.landmarks_dropped),
        "worst": [[str(store.ids[row]), round(float(distance[row]), 4)] for row in order[:WORST]],
    }


def unit_counts(store: Store) -> dict[str, dict[str, int]]:
    """Labelled AUs: faces with a label, and faces where the AU is active (intensity 2 and more, as in training and scores)."""
    labelled = np.isfinite(store.action_units).sum(axis=0)
    active = np.nansum(occurrence(store.action_units, ACTIVE), axis=0)
    return {
        name: {"labelled": int(labelled[k]), "active": int(active[k])}
        for k, name in enumerate(ACTION_UNITS)
        if labelled[k]
    }


def unit_lines(units: dict[str, dict[str, int]], scale: str | None) -> list[str]:
    """How many action units there are, and which are never active and would train to nothing; none without any."""
    if not units:
        return []
    cells, active = (sum(unit[key] for unit in units.values()) for key in ("labelled", "active"))
    kind = f" ({scale})" if scale is not None and "=" not in scale else ""
    lines = [
        f"action units: {len(units)}{kind}; {cells} labels, {active} active ({ACTIVE:g} and more): {', '.join(units)}"
    ]
    never = [name for name, unit in units.items() if not unit["active"]]
    if never:
        lines.append(f"  WARNING: never active: {', '.join(never)}; such a unit trains to nothing, see --au-scale")
    always = [name for name, unit in units.items() if unit["active"] == unit["labelled"]]
    if always:
        lines.append(
            f"  WARNING: never absent: {', '.join(always)}; an empty cell is unknown: write 0 where a unit is not there, "
            "or say --au-scale marks"
        )
    return lines


def _votes(store: Store) -> dict[str, Any]:
    """Faces with annotator votes, how sure the annotators are, and how often they side with the label."""
    rows = np.flatnonzero(np.isfinite(store.votes).all(axis=1))
    if not len(rows):
        return {"faces": 0}
    best = np.array(EXPRESSIONS)[store.votes[rows].argmax(axis=1)]
    return {
        "faces": len(rows),
        "mean_share_of_first": round(float(store.votes[rows].max(axis=1).mean()), 4),
        "first_equals_label": round(float((best == _names(store)[rows]).mean()), 4),
    }


def _groups(store: Store) -> dict[str, dict[str, dict[str, int]]]:
    """Attribute -> value -> class -> faces, for string attributes with few values."""
    names = _names(store)
    found: dict[str, dict[str, Counter[str]]] = {}
    for name, attributes in zip(names.tolist(), store.attributes, strict=True):
        for key, value in attributes.items():
            if isinstance(value, str):
                found.setdefault(key, {}).setdefault(value, Counter())[name] += 1
    classes = list(_counts(store))
    return {
        key: {value: {name: values[value][name] for name in classes} for value in sorted(values)}
        for key, values in sorted(found.items())
        if len(values) <= MOST_VALUES
    }


def picture_sheet(store: Store, seed: int = 0, columns: int = 12, tile: int = 96) -> ByteArray:
    """One row of faces a class, points on them where known; below, duplicates that cross splits or labels.

    RGB (H, W, 3) uint8.
    """
    import cv2

    generator = np.random.default_rng(seed)
    names = _names(store)
    strips = []
    for name in _counts(store):
        rows = np.flatnonzero(names == name)
        rows = np.sort(generator.choice(rows, min(columns, len(rows)), replace=False))
        strips.append((f"{name} ({int((names == name).sum())})", [_tile(store, int(row), tile) for row in rows]))
    for title, pairs in _example_pairs(store).items():
        some = [np.concatenate([_tile(store, row, tile, words=True) for row in pair]) for pair in pairs[:columns]]
        if some:
            strips.append((title, some))
    height = sum(22 + tiles[0].shape[0] for _, tiles in strips)
    sheet = np.full((height, columns * tile, 3), 255, dtype=np.uint8)
    top = 0
    for title, tiles in strips:
        cv2.putText(sheet, title, (4, top + 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
        joined = np.concatenate(tiles, axis=1)
        sheet[top + 22 : top + 22 + joined.shape[0], : joined.shape[1]] = joined
        top += 22 + joined.shape[0]
    return sheet


def _example_pairs(store: Store) -> dict[str, list[tuple[int, int]]]:
    """Pairs of identical pictures that disagree in label or split, and of near-duplicates in two splits."""
    first: dict[bytes, int] = {}
    labels: list[tuple[int, int]] = []
    splits: list[tuple[int, int]] = []
    for row, digest in enumerate(store.digest.tolist()):
        other = first.setdefault(digest, row)
        if store.expression[other] != store.expression[row]:
            labels.append((other, row))
        if store.split[other] != store.split[row]:
            splits.append((other, row))
    near = [(int(a), int(b)) for a, b in near_pairs(store) if store.split[a] != store.split[b]]
    return {
        "identical pictures with two labels": labels,
        "identical pictures in two splits": splits,
        "near-duplicates in two splits": near,
    }


def _tile(store: Store, row: int, tile: int, words: bool = False) -> ByteArray:
    import cv2

    image = cv2.resize(store.image(row), (tile, tile), interpolation=cv2.INTER_CUBIC)
    scale = tile / store.info.size
    for x, y in store.landmarks_of(np.array([row]))[0]:
        if np.isfinite(x + y):
            centre = (round((float(x) + 0.5) * scale - 0.5), round((float(y) + 0.5) * scale - 0.5))
            cv2.circle(image, centre, 1, (0, 230, 120), -1, cv2.LINE_AA)
    if words:
        text = f"{store.split[row]} {str(store.expression[row])[:9]}"
        cv2.rectangle(image, (0, tile - 13), (tile, tile), (0, 0, 0), -1)
        cv2.putText(image, text, (2, tile - 3), cv2.FONT_HERSHEY_SIMPLEX, 0.36, (255, 255, 255), 1, cv2.LINE_AA)
    return np.asarray(image, dtype=np.uint8)


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Plain text columns: the first to the left, the others to the right."""
    cells = [list(header), *map(list, rows)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if k == 0 else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    )
