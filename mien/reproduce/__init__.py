"""Verb `mien reproduce`: the tables of the papers, trained, scored and set beside the published numbers."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mien import __version__
from mien.errors import DataError, UsageError

if TYPE_CHECKING:
    from mien.config import Recipe
    from mien.reproduce.grids import Entry
    from mien.reproduce.run import Cell

    Grid = dict[tuple[str, str], dict[int, Cell]]

__all__ = ["reproduce"]


def reproduce(
    table: str,
    *,
    data: Path,
    seeds: int = 5,
    scale: Literal["small", "paper"] = "small",
    protocol: Literal["strict", "paper"] = "strict",
    out: Path | None = None,
    only: str = "",
    workers: int | None = None,
    overrides: Sequence[str] = (),
) -> Path:
    """Train and score every cell of a table and set it beside the published numbers; the same command resumes.

    Args:
        table: methods (11 methods without and with AUs), lambda, layers, pal or controls (cues that are wrong on purpose).
        data: prepared store.
        seeds: trainings of each entry, seeds 0 to N-1.
        scale: small (narrow nets, about a minute each on a CPU) or paper (as published; a GPU).
        protocol: strict, or paper (test faces select the epoch, codebook as published).
        out: folder of the runs and tables; reproduce/DATASET-SCALE-PROTOCOL when not given.
        only: rows of the table, separated by commas, for example cam,wildcat; all when not given.
        workers: trainings side by side; one a core at the small scale, one at a time at the scale of the paper.
        overrides: --section.key value pairs, for example --optim.epochs 40.

    """
    from mien.data.store import open_store
    from mien.progress import default_workers
    from mien.reproduce.grids import entries_of, refuse_fixed, shared_recipe
    from mien.reproduce.run import run_cells

    if seeds < 1 or (workers is not None and workers < 1):
        raise UsageError(f"--seeds {seeds} --workers {workers}: give at least 1 of each.")
    entries = entries_of(table, [word.strip() for word in only.split(",") if word.strip()])
    refuse_fixed(table, entries, overrides)
    store = open_store(data)
    faces = int((store.split == "train").sum())
    shared = shared_recipe(scale, protocol, data, store.info.dataset, faces, overrides)
    folder = out or Path("reproduce") / f"{store.info.dataset}-{scale}-{protocol}"
    grid = {(entry.row, entry.column): cells_of(entry, folder / "runs", shared, scale, seeds) for entry in entries}
    unique = distinct(grid, store.fingerprint)
    count = workers or (default_workers() if scale == "small" else 1)
    threads = 1 if scale == "small" else max(1, default_workers() // count)  # a narrow net gains little from two
    failed = run_cells(unique, count, threads)

    words = ["mien", "reproduce", table, "--data", str(data), "--seeds", str(seeds), "--scale", scale]
    words += ["--protocol", protocol, *(["--only", only] if only else []), *overrides]
    made = assemble(entries, grid, failed, store.info.dataset)
    made = {"table": table, "command": shlex.join(words), "scale": scale, "protocol": protocol, **made}
    path = write(folder / table, made)
    if failed:
        raise DataError(
            f"{len(failed)} of {len(unique)} trainings failed, {path} has the others; the same command tries them again."
        )
    return path


def cells_of(entry: Entry, folder: Path, shared: Recipe, scale: str, seeds: int) -> dict[int, Cell]:
    """Seed -> cell of an entry."""
    from mien.reproduce.grids import cell_name, recipe_of
    from mien.reproduce.run import Cell

    recipes = [recipe_of(entry, shared, scale, seed) for seed in range(seeds)]
    return {recipe.run.seed: Cell(folder / cell_name(entry, recipe), recipe) for recipe in recipes}


def distinct(grid: Grid, fingerprint: str) -> list[Cell]:
    """Every run folder once, seed by seed, so that a stopped grid has whole seeds; other settings or faces are refused."""
    from mien.training.checkpoint import open_run

    cells = {cell.folder: cell for cells in grid.values() for cell in cells.values()}
    for cell in cells.values():
        if (cell.folder / "config.yaml").is_file():
            open_run(cell.folder, cell.recipe)
        if cell.done and cell.results()["store_fingerprint"] != fingerprint:
            raise DataError(f"{cell.folder} was trained on other faces than --data holds now; choose another --out.")
    return sorted(cells.values(), key=lambda cell: cell.recipe.run.seed)


def assemble(entries: Sequence[Entry], grid: Grid, failed: dict[str, str], dataset: str) -> dict[str, Any]:
    """The table as plain data, from the cells that are done."""
    from mien.reproduce.tables import lines_of

    results = {key: {seed: cell.results() for seed, cell in cells.items() if cell.done} for key, cells in grid.items()}
    first = next((result for runs in results.values() for result in runs.values()), None)
    if first is None:
        reasons = "; ".join(sorted(set(failed.values())))
        raise DataError(f"every training failed: {reasons}.")
    return {
        "mien": __version__,
        "dataset": dataset,
        "store_fingerprint": first["store_fingerprint"],
        "classes": first["classes"],
        "faces": first["faces"],
        "seeds": sorted({seed for cells in grid.values() for seed in cells}),
        "failed": failed,
        "lines": lines_of(entries, results, dataset),
    }


def write(folder: Path, table: dict[str, Any]) -> Path:
    """table.json, table.md and table.csv; the Markdown is printed too."""
    from mien.files import write_atomic, write_json
    from mien.reproduce.tables import as_csv, as_markdown

    folder.mkdir(parents=True, exist_ok=True)
    text = as_markdown(table)
    write_json(folder / "table.json", table)
    write_atomic(folder / "table.csv", as_csv(table))
    write_atomic(folder / "table.md", text)
    print(f"\n{text}\n{folder}: table.md, table.csv, table.json")
    return folder / "table.json"
