"""`mien check`: audit a prepared store before anything is trained on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien.errors import UsageError
from mien.files import write_atomic

if TYPE_CHECKING:
    from mien.data.store import Store


def check(
    store: Path,
    *,
    sheet: Path | None = None,
    out: Path | None = None,
    seed: int = 0,
    exact_only: bool = False,
    bits: int = 8,
    correlation: float = 0.8,
    landmark_limit: float = 0.25,
    verify: bool = False,
    cluster: str | None = None,
) -> dict[str, Any]:
    """Audit a prepared store: counts, duplicates, label conflicts, subject leaks, landmark and action-unit coverage.

    Args:
        store: Folder of the prepared store.
        sheet: Write a sheet of faces of each class, and of duplicates that cross splits or labels, to this PNG.
        out: Write the numbers to this JSON file too.
        seed: Draws the faces of the sheet.
        exact_only: Look for identical pictures only, not for near-duplicates.
        bits: Near-duplicates: most bits in which the 48-bit hashes of a picture and of a variant may differ, 0-12.
        correlation: Near-duplicates: least likeness, by the spread of the store, 0-1.
        landmark_limit: Landmarks: largest distance of a face's shape to the median shape that is not counted as odd, in eye
            distances; mien prepare --landmark-limit drops them.
        verify: Read every byte of the store first: digests of its files, its fingerprint and every picture.
        cluster: Ray cluster whose workers verify, and decode pictures for near-duplicates: HOST:PORT, or auto for that of RAY_ADDRESS
            or one of this machine's cores (docs/scale.md).

    """
    from mien.data.store import open_store
    from mien.data.verify import verify as verify_store
    from mien.datasets.inventory import audit, picture_sheet
    from mien.datasets.screen import check_limit

    if not 0 <= bits <= 12 or not 0 <= correlation <= 1:
        raise UsageError(f"--bits {bits} must be 0-12 and --correlation {correlation} 0-1.")
    check_limit(landmark_limit)
    opened = open_store(store, verified=not verify)
    if verify:
        verify_store(store, opened.info, deep=True, cluster=cluster)
        print(f"verified: {len(opened)} faces in {len(opened.info.parts)} files are what was written")
    report = audit(opened, not exact_only, bits, correlation, landmark_limit, cluster)
    print(describe(opened, report))
    if out is not None:
        write_atomic(out, json.dumps(report, indent=1) + "\n")
        print(f"numbers: {out}")
    if sheet is not None:
        from mien import draw

        if sheet.suffix.lower() != ".png":
            raise UsageError(f"--sheet '{sheet}' must end in .png.")
        draw.write_png(sheet, picture_sheet(opened, seed))
        print(f"sheet: {sheet}")
    return report


def describe(store: Store, report: dict[str, Any]) -> str:
    """The report as text for a terminal."""
    from mien.datasets.inventory import label_table, text_table, unit_lines
    from mien.datasets.screen import share_line

    info = store.info
    parts = [
        f"{store.path}: {report['faces']} faces of {info.dataset}, {info.size} px, {report['skipped']} skipped",
        "\n".join(f"{name}: {text}" for name, text in info.notes.items()),
        text_table(*label_table(store)),
        _duplicate_lines("identical pictures", report["identical"]),
    ]
    if "near_duplicates" in report:
        parts.append(_duplicate_lines("identical or near-duplicate pictures", report["near_duplicates"]))
    parts.append(_subject_lines(report["subjects"]))
    parts.append(_twin_lines(report.get("twins")))
    points = report["landmarks"]
    classes = ", ".join(f"{name} {share:.1%}" for name, share in points["coverage_per_class"].items())
    parts.append(
        f"landmarks: all 68 on {points['all_68']} faces, some on {points['some']}, none on {points['none']}; "
        f"points outside the picture on {points['faces_with_points_outside']}"
        + (f"\n  {classes}" if points["all_68"] else "")
        + _shape_lines(points["shape"])
    )
    parts.append(share_line(points["face_share"]))
    votes = report["votes"]
    if votes["faces"]:
        parts.append(
            f"votes: {votes['faces']} faces; the first choice has {votes['mean_share_of_first']:.1%} of the votes on "
            f"average and is the label for {votes['first_equals_label']:.1%}"
        )
    units = report["action_units"]
    if units:
        rows = [[name, str(unit["labelled"]), str(unit["active"])] for name, unit in units.items()]
        lines = unit_lines(units, info.notes.get("au_scale"))
        parts.append("\n".join([text_table(["action unit", "labelled", "active"], rows), *lines]))
    for key, values in report["groups"].items():
        header = [key, *next(iter(values.values())), "all"]
        parts.append(
            text_table(
                header, [[value, *map(str, row.values()), str(sum(row.values()))] for value, row in values.items()]
            )
        )
    return "\n\n".join(part for part in parts if part)


def _shape_lines(found: dict[str, Any]) -> str:
    if not found["measured"]:
        return ""
    lines = [
        f"distance to the median shape, in eye distances: median {found['median']:.3f}, 99 % {found['percentile_99']:.3f}, "
        f"largest {found['largest']:.3f}; beyond {found['limit']:g}: {found['beyond']} faces, dropped: {found['dropped']}"
    ]
    if found["beyond"]:
        some = found["worst"][: min(5, found["beyond"])]
        lines.append("oddest: " + ", ".join(f"{name} {distance:.3f}" for name, distance in some))
    return "".join(f"\n  {line}" for line in lines)


def _duplicate_lines(title: str, found: dict[str, Any]) -> str:
    if not found["groups"]:
        return f"{title}: none"
    across = [
        f"{count} {name.replace('_', ' ')}" for name, count in found.items() if " rows also in " in name and count
    ]
    lines = [
        f"{title}: {found['rows']} rows in {found['groups']} groups, {found['surplus']} to spare, "
        f"largest {found['largest']}",
        f"  across splits: {found['groups_across_splits']} groups" + (f" ({', '.join(across)})" if across else ""),
    ]
    lines += _conflict_lines(found)
    if found["groups_across_splits"]:
        lines.append(
            "  LEAK: the strict split leaves such rows out of training (data.near_duplicates report keeps near-duplicates)"
        )
    return "\n".join(lines)


def _conflict_lines(found: dict[str, Any]) -> list[str]:
    """How many rows of groups with several labels, and which; those of one known person apart from the others."""

    def named(conflicts: dict[str, int]) -> str:
        return ", ".join(f"{name}: {count}" for name, count in list(conflicts.items())[:5])

    rows, groups, every = (
        found[name] for name in ("rows_with_label_conflict", "groups_with_label_conflict", "conflicts")
    )
    lines = [f"  with different labels: {rows} rows in {groups} groups"]
    own = found["groups_with_label_conflict_of_one_person"]
    if own:
        one = found["conflicts_of_one_person"]
        lines.append(
            f"    one known person: {found['rows_with_label_conflict_of_one_person']} rows in {own} groups ({named(one)})"
        )
        rest = {name: count - one.get(name, 0) for name, count in every.items() if count > one.get(name, 0)}
        if groups > own:
            others = rows - found["rows_with_label_conflict_of_one_person"]
            lines.append(f"    person not known, or several: {others} rows in {groups - own} groups ({named(rest)})")
    elif every:
        lines.append(f"  {named(every)}")
    return lines


def _twin_lines(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    person, actions = found["same_person"], found["same_actions"]
    lines = [
        f"twins: {person['groups']} groups of one person ({person['faces']} faces, pose "
        f"{'fixed' if found['pose_fixed'] else 'not fixed'}), {actions['groups']} of the same actions ({actions['faces']} faces); "
        f"{found['whole_blocks']} of {found['blocks']} blocks hold each person with each set of actions once"
    ]
    if found["unit_spread"]:
        spread = ", ".join(f"{name} {value:g}" for name, value in found["unit_spread"].items())
        lines.append(f"  largest difference of intensities inside a group of the same actions: {spread}")
    if found["groups_of_several_subjects"]:
        lines.append(f"  WARNING: {found['groups_of_several_subjects']} groups of one person name several subjects")
    if found["person_groups_across_splits"]:
        lines.append(f"  LEAK: {found['person_groups_across_splits']} groups of one person are in several splits")
    return "\n".join(lines)


def _subject_lines(found: dict[str, Any]) -> str:
    if not found["known"]:
        return "subjects: none known; splits and folds can only keep duplicate pictures together"
    line = f"subjects: {found['known']} (train {found['train']}, valid {found['valid']}, test {found['test']})"
    if found["rows_without_subject"]:
        line += f"; {found['rows_without_subject']} rows without"
    if found["in_several_splits"]:
        line += f"\n  LEAK: {found['in_several_splits']} are in several splits, e.g. {', '.join(found['examples'][:5])}"
    return line
