"""The page: every table as plain data, filled into page.html."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mien import __version__
from mien.report import pictures, plots
from mien.report.errors import errors_section
from mien.report.folds import folds_section
from mien.report.numbers import Number, Paired, alignment, beyond, classification, compare, mean_of, right_and_wrong
from mien.report.places import places_section
from mien.report.runs import SEED_ONLY, Group, Run, choose_baseline, flat, group_runs, same_cue
from mien.report.words import (
    BASELINES,
    MAPS,
    MISMATCHED,
    SCORES,
    direction,
    explain_map,
    interval,
    signed,
    strongest_baseline,
    verdict,
)

Cell = dict[str, Any]
"""text, note (small, below), weak (grey)."""


def render(runs: Sequence[Run], *, pictures: bool, seed: int) -> str:
    """The whole page as HTML; `pictures` False leaves out all faces."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(context(runs, pictures, seed))


def context(runs: Sequence[Run], show_faces: bool, seed: int) -> dict[str, Any]:
    """Everything that the template shows."""
    groups = group_runs(runs)
    base, partners = choose_baseline(groups)
    tests = [compare(base, other, seed) for other in partners]
    apart = [group.name for group in groups if group is not base and group not in partners]
    results = groups[0].first.results
    faces = pictures.open_faces(groups[0].first)[0] if show_faces else None
    return {
        "title": " · ".join(group.name for group in groups),
        "verdict": verdict(groups, tests, seed),
        "mien": __version__,
        "split": results["split"],
        "foreign": groups[0].first.foreign,
        "paper": [group.name for group in groups if group.first.recipe.data.protocol == "paper"],
        "leaks": [group.name for group in groups if group.first.label_leak],
        "apart": apart,
        "base": base.name,
        "cues_differ": any(not same_cue(base.first, group.first) for group in groups),
        "groups": [{"name": g.name, "colour": plots.colour_of(k), "seeds": len(g.runs)} for k, g in enumerate(groups)],
        "runs": runs_table(groups),
        "per_run": per_run_table(groups) if any(len(group.runs) > 1 for group in groups) else None,
        "classification": classification_table(groups, seed),
        "majority": majority(groups[0].first),
        "alignment": alignment_table(groups),
        "scores": SCORES,
        "cue": results["cue"],
        "faces": results["faces"],
        "faces_with_cue": results["faces_with_cue"],
        "any_guidance": any(one.weight for group in groups for one in group.first.recipe.guidances().values()),
        "per_class": per_class_table(groups),
        "right_wrong": right_wrong_table(groups, seed),
        "beyond": beyond_table(groups, seed),
        "tests": [tests_table(test) for test in tests],
        "curves": plots.curves(groups),
        "confusion": plots.confusion(groups),
        "folds": folds_section(groups),
        "errors": errors_section(groups, faces),
        "places": places_section(groups) if show_faces else [],
        "reliability": plots.reliability(groups),
        **face_pictures(groups, show_faces),
        "commands": commands(groups),
    }


def face_pictures(groups: Sequence[Group], show: bool) -> dict[str, Any]:
    """Mean maps and single faces, with a word about what could not be shown."""
    faces, reason = pictures.open_faces(groups[0].first) if show else (None, "")
    if not show:
        notes = ["Pictures of faces were left out on request (--no-faces)."]
    else:
        notes = [f"No pictures of faces: {reason.rstrip('.')}."] if reason else []
    alike = pictures.comparable(groups)
    maps = pictures.data_uri(
        pictures.class_maps([g for g in groups if g.first.classes == groups[0].first.classes], faces)
    )
    typical = pictures.expression_strips(alike, faces) if faces is not None else None
    strips = []
    for group in groups[: pictures.RECIPES] if show else ():
        own, why = (faces, reason) if group is groups[0] else pictures.open_faces(group.first)
        if own is not None:
            strips.append(
                {"name": group.name, "run": group.first.name, "selections": pictures.single_faces(group, own)}
            )
        elif why not in reason:
            notes.append(f"No pictures for {group.name}: {why.rstrip('.')}.")
    if faces is not None and groups[0].first.results["store"] != "synthetic":
        notes.append(
            "Pictures of the dataset follow: mind its licence before you pass this page on (or use --no-faces)."
        )
    if show and len(groups) > pictures.RECIPES:
        notes.append(f"Single faces are shown for the first {pictures.RECIPES} of {len(groups)} recipes.")
    return {
        "class_maps": maps,
        "mean_faces": faces is not None,
        "typical": pictures.data_uri(typical) if typical is not None else None,
        "strips": strips,
        "face_notes": notes,
    }


def cell(value: Number | float | None, weak: bool = False) -> Cell:
    """A number, its interval below it."""
    entry = value if isinstance(value, Number) else Number(value)
    if entry.value is None:
        return {"text": "–", "note": "", "weak": True}
    note = interval(entry.low, entry.high) if entry.low is not None and entry.high is not None else ""
    return {"text": f"{entry.value:.3f}".replace("-", "−"), "note": note, "weak": weak}


def runs_table(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """What was run: facts, then the settings in which the recipes differ."""

    def row(title: str, values: Sequence[Any], key: bool = False) -> dict[str, Any]:
        return {"title": title, "key": key, "cells": [_plain(value) for value in values]}

    firsts = [group.first for group in groups]
    rows = [
        row("run folders", [", ".join(run.name for run in group.runs) for group in groups]),
        row("seeds", [", ".join(str(run.recipe.run.seed) for run in group.runs) for group in groups]),
        row("data", [run.trained_on for run in firsts]),
        row("faces: train / validation / test", [_sizes(run) for run in firsts]),
        row("protocol", [run.recipe.data.protocol for run in firsts]),
        row("epoch chosen", [", ".join(_epoch(run) for run in group.runs) for group in groups]),
        row("versions", [_versions(run) for run in firsts]),
    ]
    if any(run.foreign for run in firsts):
        rows.insert(4, row("scored on another store", [run.scored_on if run.foreign else "no" for run in firsts]))
    settings = [{k: v for k, v in flat(run.recipe).items() if k not in SEED_ONLY} for run in firsts]
    for key in settings[0]:
        values = [setting.get(key) for setting in settings]
        if any(value != values[0] for value in values) and key != "data.protocol":
            rows.append(row(key, values, key=True))
    return rows


def _plain(value: Any) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _sizes(run: Run) -> str:
    if run.folds:
        done, count = len(run.folds["each"]), run.folds["k"]
        folds = f"{count} folds" if done == count else f"{done} of {count} folds"
        return f"{folds}, {run.results['faces']} faces, each scored once"
    sizes = run.env.get("rows", {})
    return " / ".join(str(sizes.get(name, "?")) for name in ("train", "valid", "test"))


def _epoch(run: Run) -> str:
    if run.folds:
        return "/".join(str(row["epoch"]) for row in run.folds["each"])
    chosen = run.results.get("checkpoint", {}).get("epoch")
    return f"{chosen} of {run.log[-1]['epoch'] if run.log else run.recipe.optim.epochs}" if chosen else "?"


def _versions(run: Run) -> str:
    packages = run.env.get("packages", {})
    return (
        f"mien {run.env.get('mien', '?')}, torch {packages.get('torch', '?')}, timm {packages.get('timm', '?')}, "
        f"Python {run.env.get('python', '?')}, {run.env.get('device', '?')}"
    )


def per_run_table(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """One line a run, for recipes with several seeds."""
    rows = []
    for group in groups:
        for run in group.runs:
            scores = run.results["classification"]
            values = [scores[name] for name in ("accuracy", "balanced_accuracy", "macro_f1", "calibration_error")]
            values += [
                alignment(Group(run.name, [run]), name, "cosine").value for name in (run.last_layer, run.class_map)
            ]
            rows.append({"name": run.name, "seed": run.recipe.run.seed, "cells": [cell(value) for value in values]})
    return rows


def classification_table(groups: Sequence[Group], seed: int) -> list[dict[str, Any]]:
    """A row a recipe."""
    names = ("accuracy", "balanced_accuracy", "macro_f1", "calibration_error")
    scores = [classification(group, seed) for group in groups]
    return [{"name": g.name, "cells": [cell(s[name]) for name in names]} for g, s in zip(groups, scores, strict=True)]


def majority(run: Run) -> dict[str, str]:
    """What naming the most frequent class of these faces for every face scores: the baseline of recognition."""
    counts = np.sum(run.results["classification"]["confusion"], axis=1)
    share, present = float(counts.max() / counts.sum()), int((counts > 0).sum())
    scores = {"accuracy": share, "balanced": 1 / present, "f1": 2 * share / (1 + share) / present}
    return {name: f"{value:.3f}" for name, value in scores.items()}


def alignment_table(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Sections of rows; a row has one list of cells (recipes) for each score. Grey: not above the strongest baseline."""
    present = {name for group in groups for name in group.first.results["alignment"]}
    layers = sorted((name for name in present if name.startswith("layer-")), key=lambda name: int(name.split("-")[1]))
    trained = sorted(name for name in present if name.startswith(("guided:", "second:")))
    lasts = {group.first.last_layer for group in groups}
    others = sorted({name for group in groups for name in group.first.results.get("methods", [])} - set(MAPS))
    sections = (
        ("Where the model looks", [*layers, *MAPS, *others], True),
        ("Attributions that were trained, each against its own cue", trained, False),
        ("Baselines: maps that never saw the face, against the right cue", list(BASELINES), False),
        ("Controls: the last layer's attention, against a wrong cue", list(MISMATCHED), False),
    )
    table = []
    for title, names, graded in sections:
        rows = []
        for name in (name for name in names if name in present):
            heading, note = explain_map(name, name if name in lasts else "")
            rows.append(
                {
                    "title": heading,
                    "note": note,
                    "scores": [_align_cells(groups, name, kind, graded) for kind, _, _ in SCORES],
                }
            )
        if rows:
            table.append({"title": title, "rows": rows})
    return table


def _align_cells(groups: Sequence[Group], name: str, kind: str, graded: bool) -> list[Cell]:
    cells = []
    for group in groups:
        value, baseline = alignment(group, name, kind), strongest_baseline(group, kind)
        low = graded and baseline is not None and value.value is not None and value.value <= baseline[1]
        cells.append(cell(value, weak=low))
    return cells


def per_class_table(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """A row a class: recall, F1 and ATT-COS of each recipe; classes of the first recipe."""
    rows = []
    for name in groups[0].first.classes:
        blocks = []
        for kind in ("recall", "f1"):
            values = [
                [run.results["classification"]["per_class"].get(name, {}).get(kind) for run in g.runs] for g in groups
            ]
            blocks.append([cell(mean_of(entry)) for entry in values])
        values = [
            [r.results["alignment"][r.last_layer]["cosine"]["per_class"].get(name) for r in g.runs] for g in groups
        ]
        blocks.append([cell(mean_of(entry)) for entry in values])
        count = groups[0].first.results["classification"]["per_class"][name]["count"]
        rows.append({"name": name, "count": count, "blocks": blocks})
    return rows


def right_wrong_table(groups: Sequence[Group], seed: int) -> list[dict[str, Any]]:
    """ATT-COS and CAM-COS of right and of wrong predictions."""
    rows = []
    for group in groups:
        for title, name in (("ATT-COS, last layer", group.first.last_layer), ("CAM-COS", group.first.class_map)):
            if name not in group.first.results["alignment"]:
                continue
            sides = right_and_wrong(group, name, seed)
            rows.append(
                {
                    "name": group.name,
                    "title": title,
                    "cells": [{**cell(value), "count": count} for value, count in sides],
                }
            )
    return rows


def beyond_table(groups: Sequence[Group], seed: int) -> list[dict[str, Any]]:
    """A row a baseline or control that matters: how far the last layer's attention is beyond it, by recipe."""
    names = {"baseline:mean": BASELINES["baseline:mean"][0]} | {
        name: MISMATCHED[name][0] for name in ("mismatched:other_class", "mismatched:shuffled")
    }
    rows = []
    for name, title in names.items():
        for kind in ("cosine", "pearson"):
            found = [beyond(group, name, kind, seed) for group in groups]
            cells = [
                {"text": signed(f.difference), "note": interval(f.low, f.high, sign=True), "weak": f.low <= 0}
                if f
                else cell(None)
                for f in found
            ]
            if any(found):
                rows.append({"title": title, "kind": {"cosine": "cosine", "pearson": "Pearson"}[kind], "cells": cells})
    return rows


def tests_table(test: Paired) -> dict[str, Any]:
    """One comparison with the baseline."""
    rows = []
    for difference in test.differences.values():
        faces, seeds = difference.faces, difference.seeds
        rows.append(
            {
                "title": difference.title,
                "faces": {"text": signed(faces.difference), "note": interval(faces.low, faces.high, sign=True)},
                "p": p_value(faces.p),
                "seeds": {"text": signed(seeds.difference), "note": interval(seeds.low, seeds.high, sign=True)}
                if seeds
                else None,
                "p_seeds": p_value(seeds.p) if seeds else "",
                "mcnemar": ", ".join(p_value(p) for p in difference.mcnemar),
                "verdict": direction(seeds or faces),
            }
        )
    return {
        "base": test.base.name, "other": test.other.name, "rows": rows, "faces": test.faces, "people": test.people,
        "pairs": len(test.pairs), "same_seed": test.same_seed, "seeds": len(test.pairs) > 1 and test.same_seed,
    }  # fmt: skip


def p_value(p: float) -> str:
    """Three decimals, or a bound."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def commands(groups: Sequence[Group]) -> list[str]:
    """What makes the same numbers again."""
    lines = []
    folders = []
    for run in (run for group in groups for run in group.runs):
        folder = shlex.quote(str(run.path))
        option = "" if run.results["split"] == "test" else f" --split {run.results['split']}"
        option += " --store STORE" if run.foreign else ""
        verb = "crossval" if run.folds else "train"
        lines.append(f"mien {verb} {shlex.quote(str(run.path / 'config.yaml'))} --out {folder}-again")
        if not run.folds:
            lines.append(f"mien evaluate {folder}-again{option}")
        folders.append(f"{folder}-again")
    return [*lines, f"mien report {' '.join(folders)}{option}"]
