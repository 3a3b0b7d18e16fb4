"""The page: every table as plain data, filled into page.html."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien import __version__
from mien.report import pictures, plots
from mien.report.errors import errors_section
from mien.report.facts import facts_of, parameters_of, resampled
from mien.report.family import POINTS, family_of
from mien.report.folds import folds_section
from mien.report.map_plot import maps_figure
from mien.report.numbers import compare
from mien.report.places import places_section
from mien.report.runs import SEED_ONLY, Group, Run, choose_baseline, flat, group_runs, same_cue
from mien.report.tables import (
    alignment_table,
    beyond_table,
    beyond_tests,
    classification_table,
    faithfulness_table,
    levels,
    per_class_table,
    per_run_table,
    right_wrong_table,
    tests_table,
)
from mien.report.words import SCORES, verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def render(content: dict[str, Any]) -> str:
    """The whole page as HTML, from its `context`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(content)


def context(runs: Sequence[Run], show_faces: bool, seed: int, baseline: Path | None = None) -> dict[str, Any]:
    """Everything that the template shows; `show_faces` False leaves out all faces, `baseline` is one of the runs."""
    groups = group_runs(runs)
    base, partners = choose_baseline(groups, baseline)
    tests, beyond = [compare(base, other, seed) for other in partners], beyond_tests(groups, seed)
    family = family_of(tests, [test for row in beyond.values() for test in row if test is not None])
    results = groups[0].first.results
    faces = pictures.open_faces(groups[0].first)[0] if show_faces else None
    figures = figures_of(groups, seed)
    return {
        **headings(groups, base, partners),
        "verdict": verdict(groups, tests, family, seed),
        "runs": runs_table(groups),
        "per_run": per_run_table(groups) if any(len(group.runs) > 1 for group in groups) else None,
        "classification": classification_table(groups, seed),
        "levels": levels(groups[0].first),
        "alignment": alignment_table(groups),
        "scores": SCORES,
        "cue": results["cue"],
        "faces": results["faces"],
        "resampled": resampled(groups[0].first),
        "faces_with_cue": results["faces_with_cue"],
        "any_guidance": any(one.weight for group in groups for one in group.first.recipe.guidances().values()),
        "faithfulness": faithfulness_table(groups),
        "per_class": per_class_table(groups),
        "right_wrong": right_wrong_table(groups, seed),
        "beyond": beyond_table(beyond, family.beyond),
        "tests": [tests_table(test, family, k) for k, test in enumerate(tests)],
        "family": family._asdict(),
        "margin": POINTS,
        "figures": figures,
        "drawn": {name: plots.uri(figure) for name, figure in figures.items()},
        "folds": folds_section(groups),
        "errors": errors_section(groups, faces),
        "places": places_section(groups) if show_faces else [],
        **face_pictures(groups, show_faces),
        "commands": commands(groups, baseline),
    }


def headings(groups: Sequence[Group], base: Group, partners: Sequence[Group]) -> dict[str, Any]:
    """Title, warnings, and the facts that stand below each table."""
    first = groups[0].first
    return {
        "title": " · ".join(group.name for group in groups),
        "mien": __version__,
        "split": first.results["split"],
        "foreign": first.foreign,
        "paper": [group.name for group in groups if group.first.recipe.data.protocol == "paper"],
        "leaks": [group.name for group in groups if group.first.label_leak],
        "apart": [group.name for group in groups if group is not base and group not in partners],
        "base": base.name,
        "cues_differ": any(not same_cue(base.first, group.first) for group in groups),
        "groups": [{"name": g.name, "colour": plots.colour_of(k), "seeds": len(g.runs)} for k, g in enumerate(groups)],
        "facts": facts_of(groups),
    }


def figures_of(groups: Sequence[Group], seed: int) -> dict[str, Figure]:
    """The drawn figures by name, as far as there is something to draw."""
    made = {
        "maps": maps_figure(groups, seed),
        "curves": plots.curves(groups),
        "confusion": plots.confusion(groups),
        "reliability": plots.reliability(groups),
    }
    return {name: figure for name, figure in made.items() if figure is not None}


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
        row("parameters of the net", [parameters_of(run) for run in firsts]),
        row(
            "scored on",
            [", ".join(sorted({str(run.results.get("date", "?")) for run in group.runs})) for group in groups],
        ),
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


def commands(groups: Sequence[Group], baseline: Path | None = None) -> list[str]:
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
    against = f" --baseline {shlex.quote(str(baseline))}-again" if baseline else ""
    return [*lines, f"mien report {' '.join(folders)}{option}{against}"]
