"""The report of `mien audet disentangle` as Markdown, and swapped faces as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from mien import draw
from mien.metrics.decisions import holm
from mien.schema import ByteArray

PARTS = ("z1", "z2", "z")
MEASURED = {"AU": "AUC", "identity": "balanced accuracy", "pose": "R²", "light": "R²", "skin": "balanced accuracy"}
UNSEEN = {"AU": "subjects", "identity": "recordings", "pose": "subjects", "light": "subjects", "skin": "subjects"}
WANTED = {"AU": ("high", "baseline"), "identity": ("baseline", "high"), "pose": ("baseline", "high"), "light": ("baseline", "high"),
          "skin": ("baseline", "high")}  # fmt: skip
"""Factor -> what disentangling wants of z1 and of z2."""


def page(report: dict[str, Any]) -> str:
    """The whole report, one section a run."""
    lines = [
        "# Disentangling",
        "",
        f"{report['faces']} faces of {report['subjects']} subjects, split {report['split']} of {report['store']}, seed "
        f"{report['seed']}. A score is read beside its baseline. Probes are linear: what they do not find may still be there.",
    ]
    for name, found in report["runs"].items():
        kind, weight = found["dependency"]["kind"], found["dependency"]["weight"]
        lines += ["", f"## {name}: {kind}, weight {weight:g}", ""]
        if found["faces_trained_on"]:
            lines += [f"Trained on {found['faces_trained_on']} of these faces, so its scores on them say less.", ""]
        lines += [
            *_probes(found["probes"]),
            "",
            *_dependence(found["dependence"]),
            "",
            *_swap(found),
            "",
            *_collapse(found),
        ]
    return "\n".join(lines) + "\n"


def _probes(probes: dict[str, Any]) -> list[str]:
    lines = [
        "| probed | score | on unseen | z1 | z2 | z1 and z2 | baseline | wanted of z1, z2 |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    skipped = []
    for factor, row in probes.items():
        if "skipped" in row:
            skipped.append(f"{factor}: {row['skipped']}")
            continue
        cells = [
            f"{row[part]['score']:.3f} ± {row[part]['spread']:.3f}, p {row[part]['p_corrected']:.3f}"
            if part in row
            else "-"
            for part in PARTS
        ]
        baseline = next(iter(row.values()))["baseline"]
        wanted = ", ".join(WANTED[factor])
        lines.append(
            f"| {factor} | {MEASURED[factor]} | {UNSEEN[factor]} | {' | '.join(cells)} | {baseline:.3f} | {wanted} |"
        )
    more = []
    for factor, row in probes.items():
        one = next(iter(row.values())) if "skipped" not in row else {}
        if "majority" in one:
            shares = ", ".join(f"{part} {row[part]['accuracy']:.3f}" for part in PARTS if part in row)
            more.append(f"{factor}: accuracy {shares}; always the commonest class {one['majority']:.3f}.")
        if "always_active" in one:
            shares = ", ".join(f"{part} {row[part]['f1']:.3f}" for part in PARTS if part in row)
            more.append(f"{factor}: macro F1 {shares}; always active {one['always_active']:.3f}.")
    known = [row[part] for row in probes.values() if "skipped" not in row for part in PARTS if part in row]
    if known:
        few, many = (int(pick(row["people"] for row in known)) for pick in (min, max))
        people = f"{few}" if few == many else f"{few} to {many}"
        more.append(
            "± is the standard deviation over the parts that were scored; p asks whether a score is above its baseline, by a t test "
            f"over {people} people, corrected for all {len(known)} probes (Holm)."
        )
    left = [f"Not probed: {'; '.join(skipped)}"] if skipped else []
    return [*lines, *(["", *more] if more else []), *(["", *left] if left else [])]


def _dependence(found: dict[str, Any]) -> list[str]:
    if "skipped" in found:
        return [f"Dependency not measured: {found['skipped']}."]
    lines = ["| dependency of z1 and z2 | value | if independent | p, corrected |", "| --- | ---: | ---: | ---: |"]
    tested = [row["p"] for row in found.values() if row["p"] is not None]
    corrected = iter(holm(tested).tolist())
    for name, row in found.items():
        shown = ["-", "-"] if row["p"] is None else [f"{row['independent']:.4g}", f"{next(corrected):.3f}"]
        lines.append(f"| {name.replace('_', ' ')} | {row['value']:.4g} | {' | '.join(shown)} |")
    one = next(iter(found.values()))
    what = f"{one['people']} people with {one['faces_each']} faces each"
    told = f"Whole people were exchanged, {what}." if tested else f"No test: {what} are too few to be exchanged."
    return [*lines, "", told]


def _swap(found: dict[str, Any]) -> list[str]:
    swap = found["swap"]
    if "skipped" in swap:
        return [f"Swap test not done: {swap['skipped']}."]
    lines = [
        f"Swap test, {swap['pairs']} faces decoded from z1 of one person and z2 of another:",
        "",
        "| | score | own z2 | baseline |",
        "| --- | ---: | ---: | ---: |",
        f"| action units are those of z1's face (1), of z2's (0) | {_number(swap['units_of_z1'])} | "
        f"{_number(swap['units_of_z1_own_z2'])} | 0.500 |",
        f"| macro F1 of the units of z1's face | {_number(swap['f1_of_z1'])} | {_number(swap['f1_of_z1_own_z2'])} | "
        f"{_number(swap['f1_always_active'])} |",
    ]
    who = swap["identity"]
    if "skipped" in who:
        return [*lines, "", f"Identity not probed: {who['skipped']}."]
    lines += [
        f"| misclassified as the person of z2 | {who['z2']:.3f} | {who['own_picture']:.3f} | {who['chance']:.3f} |",
        f"| misclassified as the person of z1 | {who['z1']:.3f} | | {who['chance']:.3f} |",
    ]
    return lines


def _collapse(found: dict[str, Any]) -> list[str]:
    lines = ["| | dimensions | effective rank | dead | variance |", "| --- | ---: | ---: | ---: | ---: |"]
    for part in ("z1", "z2"):
        row = found["collapse"][part]
        lines.append(
            f"| {part} | {row['dimensions']} | {row['effective_rank']:.1f} | {row['dead']:.0%} | {row['variance']:.3g} |"
        )
    signal = found["collapse"].get("psnr")
    if signal:
        lines += [
            "",
            f"Reconstruction {signal['own']:.1f} dB; with another face's z2 {signal['other_z2']:.1f}, with another face's z1 "
            f"{signal['other_z1']:.1f}. A part that can be exchanged at no cost is not used.",
        ]
    return lines


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


class Swap(NamedTuple):
    """One row of the picture: face of z1, its reconstruction, face of z2, z1 decoded with the other z2."""

    pictures: tuple[ByteArray, Tensor, ByteArray, Tensor]
    """Faces uint8 (H, W, 3), decoded pictures (3, H, W) in [-1, 1]."""
    units: tuple[np.ndarray, ...]
    """(A,) bool of each: labelled for faces, read by the net for decoded pictures."""


def swap_picture(rows: Sequence[Swap], names: Sequence[str]) -> ByteArray:
    """Rows of swaps as one picture with their units below."""
    pictures = [[cell if isinstance(cell, np.ndarray) else _pixels(cell) for cell in row.pictures] for row in rows]
    captions = [[_units(names, chosen) for chosen in row.units] for row in rows]
    columns = ("face of z1", "reconstruction", "face of z2", "z1 with the other z2")
    title = "action units follow z1, everything else z2, where the parts are disentangled"
    return draw.grid(pictures, columns=columns, captions=captions, cell=144, title=title)


def _units(names: Sequence[str], chosen: np.ndarray) -> str:
    return " ".join(name for name, yes in zip(names, chosen, strict=True) if yes) or "none"


def _pixels(picture: Tensor) -> ByteArray:
    values = (picture.permute(1, 2, 0).numpy() * 0.5 + 0.5).clip(0, 1) * 255
    return np.asarray(np.rint(values), dtype=np.uint8)
