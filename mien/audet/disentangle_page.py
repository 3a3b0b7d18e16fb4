"""The report of `mien audet disentangle` as Markdown, and swapped faces as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from mien import draw
from mien.metrics.decisions import holm
from mien.schema import ByteArray

PARTS = ("z1", "z2", "z2 and skips", "z")
NAMES = {"z": "z1 and z2"}
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
            *_counterfactual(found["counterfactual"]),
            "",
            *_collapse(found),
        ]
    return "\n".join(lines) + "\n"


def _probes(probes: dict[str, Any]) -> list[str]:
    parts = [part for part in PARTS if any(part in row for row in probes.values())]
    lines = [
        f"| probed | score | on unseen | {' | '.join(NAMES.get(part, part) for part in parts)} | baseline | wanted of z1, z2 |",
        f"| --- | --- | --- |{' ---: |' * len(parts)} ---: | --- |",
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
            for part in parts
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


PARTS_OF_FACE = {"inner": "inner face", "head": "head with hair"}
KINDS = ("truth", "reconstruction", "swapped", "copy")
KIND_NAMES = ("outcome itself", "its reconstruction", "swapped face", "copy of z2's face")


def _counterfactual(found: dict[str, Any]) -> list[str]:
    """Swaps against the faces that they should have become."""
    if "skipped" in found:
        return [f"Not compared with the true outcome of swaps: {found['skipped']}."]
    lines = [
        f"Swaps whose outcome is known, {found['pairs']} of {found['people']} people; 95 % intervals over people:",
        "",
        f"| | {' | '.join(KIND_NAMES)} |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for region, metrics in found["error"].items():
        for metric, row in metrics.items():
            name = "PSNR in dB" if metric == "psnr" else "SSIM"
            where = "where a face acts" if region == "acting" else "in the rest of the picture"
            lines.append(f"| {name} {where} | {' | '.join(_interval(row.get(kind)) for kind in KINDS)} |")
    read, who = found["reader"], found["identity"]
    for metric, name in (("correlation", "correlation"), ("f1", "macro F1"), ("icc", "ICC(3,1)")):
        if "skipped" not in read and read["scores"]["truth"][metric] is not None:
            cells = (_interval(read["scores"][kind][metric]) for kind in KINDS)
            lines.append(f"| {name} of the action units, read by {read['name']} | {' | '.join(cells)} |")
    if "skipped" not in read and min(read["found"].values()) < 1:
        lines.append(
            f"| {read['name']} finds a face | {' | '.join(_interval(read['found'][kind]) for kind in KINDS)} |"
        )
    for part, row in who.items() if "skipped" not in who else ():
        cells = (_interval(row[name]) for name in ("reconstruction", "swapped", "own_face"))
        lines.append(f"| {PARTS_OF_FACE[part]} recognised as z2's person | - | {' | '.join(cells)} |")
    return [*lines, "", *_told(found)]


def _told(found: dict[str, Any]) -> list[str]:
    """What the table of the known swaps means, and what it leaves out."""
    read, who, gain = found["reader"], found["identity"], found["error"]["acting"]["psnr"]["nearer_than_copy"]
    side = "nearer to" if gain["difference"] > 0 else "further from"
    lines = [
        f"Where a face acts the swap is {side} the outcome than a copy of z2's face, which changes nothing: "
        f"{gain['difference']:+.2f} dB ({gain['low']:+.2f} to {gain['high']:+.2f}, p {gain['p']:.3f})."
    ]
    if "skipped" in read:
        lines.append(f"Not read by another net: {read['skipped']}.")
    else:
        share = "-" if read["f1_share_of_truth"] is None else f"{read['f1_share_of_truth']:.0%}"
        lines.append(
            f"Scored are the {read['scored']:.0%} of the swaps in which the reader finds a face in every kind of picture; on swaps it "
            f"gets {share} of the F1 that it gets on their outcomes."
        )
        if read["name"] != "blendshapes":
            lines.append(
                "A net that learnt from rendered faces can be pleased by what no face shows: look at the pictures, and compare with "
                "--reader blendshapes."
            )
    if "skipped" in who:
        lines.append(f"Identity not scored: {who['skipped']}.")
    else:
        told = [
            f"{PARTS_OF_FACE[part]} {'-' if row['kept'] is None else format(row['kept'], '.2f')} times (as z1's person "
            f"{row['as_z1']:.1%}, chance {row['chance']:.1%})"
            for part, row in who.items()
        ]
        lines.append(
            f"Swaps are recognised as z2's person, relative to z2's real faces: {'; '.join(told)}; by textures, in other views of the "
            "same people."
        )
    return lines


def _interval(value: Sequence[float] | float | None) -> str:
    if value is None or isinstance(value, int | float):
        return "-" if value is None else f"{value:.3f}"
    middle, low, high = value
    digits = 1 if abs(middle) > 1.5 else 3
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def outcome_picture(rows: Sequence[Sequence[ByteArray | Tensor]]) -> ByteArray:
    """Swaps with a known outcome: face of z1, face of z2, z1 on z2, outcome.

    Faces are uint8 (H, W, 3), decoded ones (3, H, W) in [-1, 1].
    """
    pictures = [[cell if isinstance(cell, np.ndarray) else _pixels(cell) for cell in row] for row in rows]
    columns = ("actions of", "on the face of", "z1 with the other z2", "as it should be")
    return draw.grid(pictures, columns=columns, cell=112, title="a swap is seen beside its true outcome")


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
