"""Run folders as the report sees them: read, checked, gathered into recipes, told apart where they do not compare."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mien.config import Recipe, as_dict
from mien.cues.identity import drawn_numbers, same_drawn
from mien.errors import DataError, MienError, UsageError
from mien.files import read_json, read_npz
from mien.training.checkpoint import RUN_VERSION, read_log, read_run, results_suffix

SEED_ONLY = {"run.seed", "run.accelerator", "run.devices", "run.strategy", "run.workers", "data.store"}
"""Settings that do not make another recipe."""

Arrays = dict[str, np.ndarray]


class Run(NamedTuple):
    """One evaluated run folder."""

    path: Path
    name: str
    recipe: Recipe
    env: dict[str, Any]
    results: dict[str, Any]
    log: list[dict[str, Any]]
    """One entry an epoch; empty when the log is missing."""
    faces: Arrays
    """maps/faces.npz: one row a face of the split."""
    means: Arrays
    """maps/class_means.npz: map name -> (K, H, W)."""
    fold_logs: tuple[list[dict[str, Any]], ...] = ()
    """The log of each fold, where this is a whole cross-validation; then `log` is empty."""

    @property
    def folds(self) -> dict[str, Any] | None:
        """Scores of each fold, their mean and spread, where this is a whole cross-validation of `mien crossval`."""
        return self.results.get("folds")

    @property
    def foreign(self) -> bool:
        """Scored on other faces than those of the store it was trained on."""
        scored = self.results["store_fingerprint"]
        return bool(self.env.get("store_fingerprint", scored) != scored)

    @property
    def trained_on(self) -> str:
        """Dataset and fingerprint of the store of the training."""
        of = {"dataset": self.results["store"], "store_fingerprint": self.results["store_fingerprint"]} | self.env
        return f"{of['dataset']}, fingerprint {of['store_fingerprint'][:12]}"

    @property
    def scored_on(self) -> str:
        """Dataset and fingerprint of the store whose faces were scored, and how many of these the net was trained on."""
        seen = self.results.get("scored_in_training")
        known = "not known whether training faces are among them" if seen is None else f"{seen} of them training faces"
        return f"{self.results['store']}, fingerprint {self.results['store_fingerprint'][:12]}, {known}"

    @property
    def classes(self) -> list[str]:
        """Class names in logit order."""
        return list(self.results["classes"])

    @property
    def right(self) -> np.ndarray:
        """(N,) bool: predicted rightly."""
        return np.asarray(self.faces["probabilities"].argmax(1) == self.faces["label"])

    @property
    def label_leak(self) -> bool:
        """Faces were scored behind masks drawn from their true label."""
        return bool(self.results.get("label_leak"))

    @property
    def layers(self) -> list[str]:
        """Names of the layers whose attention was scored; none of a model of which only answers are known."""
        return [name for name in self.results["alignment"] if name.startswith("layer-")]

    @property
    def last_layer(self) -> str:
        """Name of the deepest layer, e.g. layer-5."""
        return max(self.layers, key=lambda name: int(name.split("-")[1]))

    @property
    def class_map(self) -> str:
        """The map of a class that CAM-COS scores: TS-CAM's own where the net has one, else CAM."""
        return "ts_cam" if "ts_cam" in self.results["alignment"] else "cam"

    @property
    def picture_map(self) -> str | None:
        """Explainer whose maps were kept for pictures: the net's own class maps, else another; None without any."""
        return next((name for name in self.means if name not in ("cue", "attention")), None)


class Group(NamedTuple):
    """Runs of one recipe that differ in their seed only: a column of the report."""

    name: str
    runs: list[Run]

    @property
    def first(self) -> Run:
        """Stands for the group where only one run can be shown."""
        return self.runs[0]

    @property
    def guided(self) -> bool:
        """True when it was trained with guidance."""
        return any(guidance.weight > 0 for guidance in self.first.recipe.guidances().values())


def load_runs(paths: Sequence[Path], split: str = "test", store: Path | None = None) -> list[Run]:
    """Read run folders; one clear line for a folder that is no run, was not evaluated, is damaged or given twice."""
    if not paths:
        raise UsageError("no runs given; name one or more run folders of `mien train`.")
    full = [Path(path).resolve() for path in paths]
    for path in full:
        if full.count(path) > 1:
            raise UsageError(f"run {path.name} is given twice; name each run folder once.")
    names = [path.name for path in full]
    shown = [p.name if names.count(p.name) == 1 else f"{p.parent.name}/{p.name}" for p in full]
    loaded = [load_run(Path(path), name, split, store) for path, name in zip(paths, shown, strict=True)]
    for run in loaded:
        if not run.layers:
            raise DataError(f"{run.path} has no layer whose attention a page could show; `mien compare` takes it.")
    return each_once(loaded)


def each_once(runs: Sequence[Run]) -> list[Run]:
    """Runs without copies: the same recipe with the same weights is one net and one seed, in whatever folder; told on stderr."""
    kept: dict[str, Run] = {}
    for run in runs:
        key = json.dumps([_column_key(run), run.results["weights"]])
        if key in kept:
            print(
                f"mien: {run.name} and {kept[key].name} hold the same net (recipe and weights are equal); it counts once.",
                file=sys.stderr,
            )
        kept.setdefault(key, run)
    return list(kept.values())


def _column_key(run: Run) -> str:
    """What makes a column of the report: everything but the seed and where it ran, and the faces that were scored."""
    settings = {key: value for key, value in flat(run.recipe).items() if key not in SEED_ONLY}
    return json.dumps([settings, run.results["store_fingerprint"], run.classes], sort_keys=True)


def load_run(path: Path, name: str, split: str = "test", store: Path | None = None) -> Run:
    """Read one run folder scored on `split`, of its own store or of another one."""
    recipe, env = read_run(path)
    whole = recipe.data.folds > 0 and recipe.data.fold is None
    if whole and (split != "test" or store is not None):
        raise UsageError(
            f"{path} is a cross-validation: its faces are all scored as test faces; leave out --split and --store."
        )
    suffix = results_suffix(split, store)
    option = ("" if split == "test" else f" --split {split}") + ("" if store is None else f" --store {store}")
    command = f"mien crossval {path / 'config.yaml'} --out {path}" if whole else f"mien evaluate {path}{option}"
    file = path / f"results{suffix}.json"
    if not file.is_file():
        raise DataError(_unscored(path, env, file.name, command))
    again = f"run `{command}` again"
    results = read_json(file, again)
    if results.get("run_version") != RUN_VERSION:
        raise DataError(
            f"{file} has run version {results.get('run_version')}; this mien reads {RUN_VERSION}. "
            f"Run `{command}` again."
        )
    if "excess" not in results or "weights" not in results:
        raise DataError(f"{file} was scored by an older mien, without the class-mean baseline. Run `{command}` again.")
    faces, means = (read_npz(path / "maps" / f"{part}{suffix}.npz", again) for part in ("faces", "class_means"))
    if "probabilities" not in faces or len(faces["probabilities"]) != results["faces"]:
        raise DataError(f"{path}/maps/faces{suffix}.npz does not belong to {file.name}; {again}.")
    logs = (
        tuple(read_log(path / f"fold-{row['fold']}" / "log.jsonl") for row in results["folds"]["each"]) if whole else ()
    )
    return Run(path, name, recipe, env, results, read_log(path / "log.jsonl"), faces, means, logs)


def _unscored(path: Path, env: dict[str, Any], wanted: str, command: str) -> str:
    """What to do for a run that lacks the scores asked for: those of another split or store may be there."""
    shown = []
    for file in sorted(path.glob("results*.json")):
        part, _, store = file.stem.removeprefix("results").partition("-on-")
        options = (f" --split {part[1:]}" if part else "") + (f" --store {store}" if store else "")
        shown.append(f"`mien report {path}{options}`")
    there = f"; what it has is shown by {' or '.join(shown)}" if shown else ""
    if wanted == "results.json" and env.get("rows", {}).get("test") == 0:
        needed = f"its store has no test faces: run `mien evaluate {path} --split valid`, then `mien report {path} --split valid`"
        return f"{path} has no {wanted}{there}." if shown else f"{path} has no {wanted}, {needed}."
    return f"{path} has no {wanted}; run `{command}` first{there}."


def flat(recipe: Recipe) -> dict[str, Any]:
    """Every setting as section.key -> value."""
    tree = as_dict(recipe)
    return {f"{section}.{key}": value for section, content in tree.items() for key, value in content.items()}


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Gather runs whose recipes differ only in the seed (and where they ran), in the order given."""
    gathered: dict[str, list[Run]] = {}
    for run in runs:
        key = _column_key(run)
        gathered.setdefault(key, []).append(run)
    names = [_group_name(part) for part in gathered.values()]
    return [
        Group(name if names.count(name) == 1 else part[0].name, part)
        for name, part in zip(names, gathered.values(), strict=True)
    ]


def _group_name(runs: Sequence[Run]) -> str:
    if len(runs) == 1:
        return runs[0].name
    shared = re.sub(r"[-_. ]*(seed|s)?[-_. ]*$", "", _common_start([run.name for run in runs]))
    return shared or runs[0].name


def _common_start(names: Sequence[str]) -> str:
    alike = [len(set(letters)) == 1 for letters in zip(*names, strict=False)]
    return names[0][: alike.index(False) if False in alike else len(alike)]


def same_faces(first: Run, second: Run) -> bool:
    """True when both were scored on the same pictures with the same classes."""
    a, b = first.results, second.results
    return bool(a["store_fingerprint"] == b["store_fingerprint"] and a["classes"] == b["classes"]) and bool(
        np.isin(first.faces["id"], second.faces["id"]).any()
    )


def same_cue(first: Run, second: Run) -> bool:
    """True when alignment is measured against the same cue: what is drawn is the same, and from the same action units.

    Controls change the training, not the yardstick.
    """
    cues = [replace(run.recipe.cue, control="none") for run in (first, second)]
    if cues[0] != cues[1]:  # what the recipes say now counts too, where it can still be drawn
        with contextlib.suppress(MienError):
            drawn = [drawn_numbers(cue, run.recipe.data.scheme) for cue, run in zip(cues, (first, second), strict=True)]
            if not same_drawn(*drawn):
                return False
    return same_yardstick(first.results, second.results)


def same_yardstick(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """`same_cue` of two results.json."""
    a, b = first.get("cue", {}), second.get("cue", {})
    return same_drawn(a.get("drawn"), b.get("drawn")) and a.get("action_units") == b.get("action_units")


def choose_baseline(groups: Sequence[Group], wanted: Path | None = None) -> tuple[Group, list[Group]]:
    """The recipe that others are compared with, and those that can be.

    That of the run `wanted`, or else an unguided one where there is one, the first otherwise. UsageError when `wanted` is none of
    the runs, or when several recipes are given and no two of them (or none and `wanted`) were scored on the same faces.
    """
    partners = [[g for g in groups if g is not base and same_faces(base.first, g.first)] for base in groups]
    order = sorted(range(len(groups)), key=lambda k: (-len(partners[k]), groups[k].guided, k))
    best = order[0]
    if wanted is not None:
        own = [k for k, group in enumerate(groups) for run in group.runs if run.path.resolve() == wanted.resolve()]
        if not own:
            names = ", ".join(str(run.path) for group in groups for run in group.runs)
            raise UsageError(f"--baseline {wanted} is none of the runs given; choose one of {names}.")
        best = own[0]
    if len(groups) > 1 and not partners[best]:
        a, b = groups[best].first, next(group for group in groups if group is not groups[best]).first
        raise UsageError(f"nothing can be compared: {_difference(a, b)}. Evaluate runs of one store and label scheme.")
    return groups[best], partners[best]


def _difference(a: Run, b: Run) -> str:
    if a.results["classes"] != b.results["classes"]:
        return f"{a.name} has classes {', '.join(a.classes)}, {b.name} {', '.join(b.classes)}"
    if a.results["store_fingerprint"] != b.results["store_fingerprint"]:
        return (
            f"{a.name} was scored on store '{a.results['store']}' {a.results['store_fingerprint'][:8]}, "
            f"{b.name} on '{b.results['store']}' {b.results['store_fingerprint'][:8]}"
        )
    parent = a.path.parent
    if a.recipe.data.folds and parent == b.path.parent:
        return f"{a.name} and {b.name} are folds of one cross-validation, whose scores together are in {parent}"
    return f"{a.name} and {b.name} share no face of split '{a.results['split']}'"
