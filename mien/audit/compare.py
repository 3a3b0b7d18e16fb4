"""Verb `mien compare`: runs and models of others on the same faces, paired, with every test of the page corrected together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from mien.audit.evaluate import evaluate_model
from mien.audit.paired import ROBUST, compare_models, seeds_words
from mien.audit.probe import probe_of
from mien.audit.robustness import broken
from mien.audit.sample import sample_of
from mien.audit.sources import face_model
from mien.config import CueConfig
from mien.data.store import Store, open_store
from mien.errors import DataError, UsageError
from mien.evaluation.evaluate import evaluate, in_framing
from mien.files import read_json, write_atomic
from mien.report.export import Cell, Table, as_csv, as_latex, test_of
from mien.report.facts import facts_of, resampled
from mien.report.family import POINTS, family_of
from mien.report.numbers import Paired
from mien.report.rows import add_row, row_of_results
from mien.report.runs import Run, each_once, group_runs, load_run
from mien.report.tables import classification_table, tests_table
from mien.training.checkpoint import read_run, results_suffix
from mien.wrapped.classes import labels_for

Split = Literal["test", "valid", "train"]


class Wanted(NamedTuple):
    """On what, and how, models are scored where they were not yet."""

    store: Store
    split: Split
    out: Path
    classes: str | None
    faithfulness: bool
    faces: int
    seed: int


def compare(
    *models: str,
    store: Path,
    split: Split = "test",
    out: Path = Path("compare"),
    classes: str | None = None,
    faithfulness: bool = False,
    faithfulness_faces: int = 200,
    robustness: int = 0,
    rows: Path | None = None,
    seed: int = 0,
) -> Path:
    """Compare expression models on the same faces, paired; the first is the baseline. What was scored before is read again.

    Runs whose recipes differ in the seed alone are one recipe, and seeds are then a unit of their tests. Differences come with an
    interval over people, exact McNemar, Holm's correction over all of them, and whether a loss of one point of accuracy is ruled
    out. Written: compare.csv and compare.tex (every table), compare.json, and the scores of models that are no runs.

    Args:
        models: run folders, folders of `mien.evaluate_model`, ONNX files, `bundled`, or FILE.py:FUNCTION that returns a
            wrapped model (docs/compare.md); from Python what `mien.wrap` gave, too. The baseline first.
        store: prepared store whose faces all of them are scored on.
        split: which part of it.
        out: folder of the tables.
        classes: names of the classes of ONNX files that do not bring them, separated by commas, in the order of the answers.
        faithfulness: measure deletion and insertion, too.
        faithfulness_faces: on how many faces.
        robustness: on how many faces accuracy under fifteen corruptions at five strengths is compared; 0 leaves it out. It takes
            75 passes a face, and the models themselves: a folder of `mien.evaluate_model` holds scores alone.
        rows: leaderboard file to which each model adds its checked row; `mien report --rows` shows it.
        seed: of draws and the bootstrap.

    """
    if len(models) < 2:
        raise UsageError("name at least two models; the first is the baseline.")
    wanted = Wanted(open_store(store), split, out, classes, faithfulness, faithfulness_faces, seed)
    cue = next((cue_of_run(Path(name)) for name in models if is_run(name)), CueConfig())
    loaded: list[Run] = []
    for name in models:
        run = scored(name, wanted, cue, [run.name for run in loaded])
        loaded.append(under_corruptions(run, name, wanted, robustness) if robustness > 0 else run)
    groups = group_runs(each_once(loaded))
    if len(groups) < 2:
        raise UsageError(
            f"{', '.join(run.name for run in loaded)} are runs of one recipe; name a second model to compare it with."
        )
    shared = set(groups[0].first.faces["id"])
    for group in groups[1:]:
        if not shared & set(group.first.faces["id"]):
            raise DataError(
                f"{groups[0].name} and {group.name} were scored on no face in common; see `mien check {store}`."
            )
    tests = [compare_models(groups[0], group, seed) for group in groups[1:]]
    family = family_of(tests, [])
    found = [tests_table(test, family, k) for k, test in enumerate(tests)]
    tables = [recognition(groups, seed), *(test_of(k, test) for k, test in enumerate(found, start=1))]
    words = [
        *(sentence(test, shown["rows"][0]["verdict"]) for test, shown in zip(tests, found, strict=True)),
        *map(seeds_words, tests),
        f"{family.size} differences were corrected together (Holm), {family.size_mcnemar} McNemar tests, {family.size_kept} claims "
        f"that a loss of {POINTS} is ruled out. Intervals resample {resampled(groups[0].first)}.",
    ]
    write(out, tables, facts_of(groups), words)
    show(tables, words)
    if rows is not None:
        for run in loaded:
            print(f"{rows}: row of {run.name} {add_row(rows, row_of_results(run.results, run.faces))}")
    print(f"written to {out / 'compare.csv'}, compare.tex and compare.json")
    return out


def is_run(model: Any) -> bool:
    """Whether it is a folder of `mien train` (not of `evaluate_model`, nor a model itself)."""
    return isinstance(model, str | Path) and (Path(model) / "config.yaml").is_file() and not is_wrapped(model)


def is_wrapped(model: Any) -> bool:
    """Whether it is a folder that `evaluate_model` wrote."""
    if not isinstance(model, str | Path) or not (Path(model) / "config.yaml").is_file():
        return False
    return "wrapped" in read_run(Path(model))[1].get("checkpoint", {})


def cue_of_run(path: Path) -> CueConfig:
    """What alignment of a run is measured with."""
    return replace(read_run(path)[0].cue, control="none")


def scored(name: Any, wanted: Wanted, cue: CueConfig, taken: Sequence[str]) -> Run:
    """The scores of one model on the wanted faces: read where they are there already, else made."""
    store = wanted.store
    if is_wrapped(name):
        path = Path(name)
        file = path / f"results{results_suffix(wanted.split, store.path)}.json"
        if not fits(file, store, wanted):
            raise DataError(
                f"{path} has no scores on these {wanted.split} faces of {store.path}{', with faithfulness' * wanted.faithfulness}; "
                "give the model itself, or run mien.evaluate_model on them."
            )
        return load_run(path, unlike(path.resolve().name, taken), wanted.split, store.path)
    if is_run(name):
        path = Path(name)
        env = read_run(path)[1]
        own = store.fingerprint == env.get("store_fingerprint")
        file = path / f"results{results_suffix(wanted.split, None if own else store.path)}.json"
        if not fits(file, in_framing(store, env), wanted):
            evaluate(
                path, split=wanted.split, store=store.path, faithfulness=wanted.faithfulness,
                faithfulness_faces=wanted.faces, seed=wanted.seed,
            )  # fmt: skip
        return load_run(path, unlike(path.resolve().name, taken), wanted.split, None if own else store.path)
    model = face_model(name, classes=wanted.classes)
    title = unlike(model.name, taken)
    folder = wanted.out / "models" / title
    file = folder / f"results{results_suffix(wanted.split, store.path)}.json"
    if not fits(file, model.view(store), wanted, model.identity):
        evaluate_model(
            model, store, out=folder, split=wanted.split, cue=cue, faithfulness=wanted.faithfulness,
            faithfulness_faces=wanted.faces, seed=wanted.seed,
        )  # fmt: skip
    return load_run(folder, title, wanted.split, store.path)


def under_corruptions(run: Run, name: Any, wanted: Wanted, count: int) -> Run:
    """The run with the share of right answers under corruptions of each of at most `count` faces, the same for every model."""
    if is_wrapped(name):
        print(f"{run.name}: its folder holds scores alone, so it is not corrupted; name the model itself.")
        return run
    try:
        model = face_model(name, classes=wanted.classes)
    except UsageError as error:  # a run that takes more than faces
        print(f"not corrupted: {error}")
        return run
    view = model.view(wanted.store)
    order = np.random.default_rng(wanted.seed).permutation(len(view))
    place = {int(row): k for k, row in enumerate(run.faces["row"])}
    rows = np.array([row for row in order if int(row) in place][:count], dtype=np.int64)
    labels = labels_for(view, model.classes)
    sample = sample_of(view, rows, labels, model.classes)
    answers = broken(sample, view.images(rows), probe_of(model).answer, seed=wanted.seed).answers
    right = np.where(np.isfinite(answers[..., 0]), answers.argmax(3) == labels[rows], np.nan)
    values = np.full(len(run.faces["row"]), np.nan, dtype=np.float32)
    values[[place[int(row)] for row in rows]] = np.nanmean(right, axis=(0, 1))
    return run._replace(faces={**run.faces, ROBUST: values})


def fits(file: Path, faces: Store, wanted: Wanted, identity: str | None = None) -> bool:
    """Whether a file holds scores of these faces (and weights), with faithfulness where it is wanted."""
    if not file.is_file() or identity == "":  # a function has no hash: it may have changed
        return False
    try:
        kept = read_json(file, "")
    except DataError:
        return False
    same = kept.get("store_fingerprint") == faces.fingerprint and identity in (None, kept.get("weights"))
    return same and (not wanted.faithfulness or "faithfulness" in kept)


def unlike(name: str, taken: Sequence[str]) -> str:
    """The name, or the name with a number where it is taken."""
    return next(one for one in (name, *(f"{name}-{k}" for k in range(2, 1000))) if one not in taken)


def recognition(groups: Sequence[Any], seed: int) -> Table:
    """A row a recipe: accuracy, balanced accuracy, macro-F1, ECE with their intervals."""
    rows: list[list[Cell]] = [[row["name"], *row["cells"]] for row in classification_table(groups, seed)]
    head = ["model", "accuracy ↑", "balanced accuracy ↑", "macro-F1 ↑", "ECE ↓"]
    return Table("recognition", "Recognition of expressions", head, rows)


def sentence(test: Paired, verdict: str) -> str:
    """What is known of the accuracy of a comparison, in one line."""
    accuracy = test.differences["accuracy"].test
    return (
        f"{test.other.name} against {test.base.name} on {test.faces} shared faces: accuracy {accuracy.difference:+.3f} "
        f"[{accuracy.low:+.3f}, {accuracy.high:+.3f}], {verdict}."
    )


def write(out: Path, tables: Sequence[Table], facts: str, words: Sequence[str]) -> None:
    """compare.csv (a table after the other), compare.tex and compare.json."""
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / "compare.csv", "\n".join(f"# {table.title}\n{as_csv(table)}" for table in tables))
    write_atomic(out / "compare.tex", "\n".join(as_latex(table, facts) for table in tables))
    content = {"facts": facts, "words": list(words), "tables": [table._asdict() for table in tables]}
    write_atomic(out / "compare.json", json.dumps(content, indent=1))


def show(tables: Sequence[Table], words: Sequence[str]) -> None:
    """The tables and sentences on the terminal."""
    for table in tables:
        print(f"\n{table.title}")
        lines = [table.head, *([plain(cell) for cell in row] for row in table.rows)]
        widths = [max(len(line[k]) for line in lines) for k in range(len(table.head))]
        for line in lines:
            print("  " + "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
    print("\n" + "\n".join(words))


def plain(cell: Cell) -> str:
    """A cell as text."""
    if isinstance(cell, str | int):
        return str(cell)
    return f"{cell['text']} {cell['note']}".rstrip()
