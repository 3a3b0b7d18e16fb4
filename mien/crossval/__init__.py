"""Verb `mien crossval`: a recipe trained and scored on every fold, and all folds together as one scored run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mien.errors import DataError, UsageError

if TYPE_CHECKING:
    from mien.config import Recipe
    from mien.reproduce.run import Cell

__all__ = ["crossval"]

FOLDS = 5


def crossval(
    recipe: Path,
    *,
    folds: int | None = None,
    protocol: Literal["strict", "paper"] | None = None,
    workers: int | None = None,
    out: Path | None = None,
    only: str = "",
    overrides: Sequence[str] = (),
) -> Path:
    """Train and score a recipe on every fold and gather the folds in a folder that `mien report` reads; the same command resumes.

    Args:
        recipe: YAML file; any of its keys can be overridden, e.g. --guidance.weight 4 --run.seed 1.
        folds: how many; the recipe's data.folds, or 5.
        protocol: strict (whole subjects and duplicates in a fold, an inner validation part selects the epoch) or paper (faces
            dealt one by one, the test fold selects the epoch); the recipe's when not given.
        workers: folds side by side; by default as many as cores and free memory allow, one on a GPU.
        out: folder of the folds and of what they have in common (default runs/<recipe>-<folds>folds-<protocol>-seed<seed>).
        only: folds to train now, separated by commas, for example 0,2; all when not given.
        overrides: --section.key value pairs.

    """
    from mien.crossval.gather import gather, print_folds
    from mien.crossval.memory import workers_that_fit
    from mien.progress import default_workers
    from mien.reproduce.run import run_cells

    settings = settings_of(recipe, folds, protocol, overrides)
    data = settings.data
    chosen = fold_list(only, data.folds)
    if workers is not None and workers < 1:
        raise UsageError(f"--workers {workers}: give at least 1.")
    name = f"{recipe.stem}-{data.folds}folds-{data.protocol}-seed{settings.run.seed}"
    folder = out or Path("runs") / name
    cells = cells_of(settings, folder)
    todo = [cells[fold] for fold in chosen if not cells[fold].done]
    count = min(workers or workers_that_fit(settings), max(1, len(todo)))
    failed = run_cells([cells[fold] for fold in chosen], count, max(1, default_workers() // count))
    results = gather(folder, settings, cells, failed)
    print_folds(results)
    if failed:
        raise DataError(
            f"{len(failed)} of {len(chosen)} folds failed; {folder} has the others, the same command resumes."
        )
    print(f"Next: mien report {folder}")
    return folder


def settings_of(recipe: Path, folds: int | None, protocol: str | None, overrides: Sequence[str]) -> Recipe:
    """The recipe of the whole: data.folds set, data.fold open."""
    from mien.config import load_recipe, with_settings

    if any(word.split("=")[0] == "--data.fold" for word in overrides):
        raise UsageError("--data.fold is set by crossval; choose folds with --only, for example --only 0,2.")
    if folds is not None and folds < 2:
        raise UsageError(f"--folds {folds}: give at least 2.")
    settings = load_recipe(recipe, overrides)
    changes = {"data.folds": folds or settings.data.folds or FOLDS, "data.fold": None}
    return with_settings(settings, {**changes, **({"data.protocol": protocol} if protocol else {})})


def fold_list(only: str, folds: int) -> list[int]:
    """Fold numbers of `--only 0,2`, all when empty; UsageError for what is no fold."""
    words = [word.strip() for word in only.split(",") if word.strip()]
    wrong = [word for word in words if not word.isdecimal() or int(word) >= folds]
    if wrong:
        raise UsageError(f"--only {only}: '{wrong[0]}' is no fold; they are numbered 0 to {folds - 1}.")
    return sorted({int(word) for word in words}) or list(range(folds))


def cells_of(settings: Recipe, folder: Path) -> list[Cell]:
    """One run folder a fold; a folder with other settings or other faces is refused before anything is trained."""
    from mien.config import with_settings
    from mien.data.observed import open_faces
    from mien.reproduce.run import Cell
    from mien.training.checkpoint import open_run

    store = open_faces(settings.data.store, settings.data.action_units)
    open_run(folder, settings)
    cells = [
        Cell(folder / f"fold-{fold}", with_settings(settings, {"data.fold": fold}))
        for fold in range(settings.data.folds)
    ]
    for cell in cells:
        if (cell.folder / "config.yaml").is_file():
            open_run(cell.folder, cell.recipe)
        if cell.done and cell.results()["store_fingerprint"] != store.fingerprint:
            raise DataError(
                f"{cell.folder / 'results.json'} is of other faces than {store.path} holds; delete it to score the fold "
                "again, or choose another --out."
            )
    return cells
