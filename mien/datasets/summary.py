"""What `mien prepare` says of a finished store."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

from mien.data.folds import own_folds
from mien.data.store import Skipped, Store
from mien.datasets.inventory import label_table, text_table, unit_counts, unit_lines
from mien.datasets.screen import face_share, share_line


def several_faces(store: Store) -> list[str]:
    """A line on pictures with several faces, and which face was taken in the first of them; none where there are none."""
    several = [(str(name), row) for name, row in zip(store.ids, store.attributes, strict=True) if "face_x" in row]
    if not several:
        return []
    name, row = several[0]
    return [
        f"several faces in {len(several)} pictures: the one in the dataset's box, otherwise the main one, is taken (first: {name}, "
        f"{row['faces']:g} faces, taken the one at {row['face_x']:.0%} from the left, {row['face_y']:.0%} from the top; the others' "
        "places are the attributes face_x, face_y)"
    ]


def own_folds_line(store: Store) -> list[str]:
    """A line on folds that the dataset itself has, with how they are used; none without."""
    numbers, counts = np.unique(own_folds(store), return_counts=True)
    sizes = [
        f"{number} {count}" for number, count in zip(numbers.tolist(), counts.tolist(), strict=True) if number >= 0
    ]
    if len(sizes) < 2:
        return []
    return [
        f"folds: {', '.join(sizes)}; mien crossval RECIPE --folds {len(sizes)} --protocol paper takes them as they are, strict deals "
        "its own"
    ]


def summary(store: Store) -> str:
    """Counts per class and split, landmark coverage, what was skipped and why, and whether faces are small."""
    known = store.known_points().all(axis=1)
    megabytes = sum(part["bytes"] for part in store.info.parts) / 2**20
    lines = [
        f"{store.path}: {len(store)} faces, {store.info.size} px, {store.info.channels} channel(s), "
        f"{store.info.encoding}, {megabytes:.0f} MiB",
        text_table(*label_table(store)),
        f"all 68 landmarks: {known.sum()} of {len(store)} faces ({known.mean():.1%})",
    ]
    if store.info.landmark_limit is not None:
        lines.append(
            f"landmarks dropped: {len(store.info.landmarks_dropped)}, beyond {store.info.landmark_limit:g} eye distances "
            "from the median shape"
        )
    lines += unit_lines(unit_counts(store), store.info.notes.get("au_scale"))
    for name in ("face", "crop", "polarity"):
        counts = Counter(str(row[name]) for row in store.attributes if name in row)
        if counts:
            lines.append(f"{name}: " + ", ".join(f"{word} {count}" for word, count in counts.most_common()))
    lines += several_faces(store) + own_folds_line(store)
    votes = int(np.isfinite(store.votes).all(axis=1).sum())
    if votes:
        lines.append(f"votes of annotators: {votes} faces")
    people = set(store.subject) - {None}
    if people:
        without = sum(name is None for name in store.subject)
        lines.append(f"subjects: {len(people)}" + (f"; {without} faces without" if without else ""))
    if store.skipped:
        lines.append(f"skipped {len(store.skipped)} (all in {store.path / 'skipped.csv'}):")
        kinds: dict[str, list[Skipped]] = {}
        for entry in store.skipped:
            kinds.setdefault(re.sub(r"'[^']*'|\d+", "_", entry.reason), []).append(entry)
        for entries in sorted(kinds.values(), key=len, reverse=True)[:10]:
            lines.append(f"  {len(entries)} x {entries[0].reason} (first: {entries[0].id})")
    lines.append(share_line(face_share(store)))
    if any(store.expression) and not (store.split == "test").any():
        lines.append(
            "no test split: mien crossval scores every face; mien evaluate --split valid scores the faces that select the epoch"
        )
    return "\n".join(line for line in lines if line)
