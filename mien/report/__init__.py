"""Verb `mien report`: one self-contained HTML page that compares runs, and a model card for each of them.

Reads run folders only (config.yaml, environment.json, results.json, log.jsonl, maps/*.npz) and, for pictures of single
faces, the prepared store; no model is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mien.errors import UsageError

__all__ = ["report"]


def report(
    *runs: Path,
    out: Path = Path("report.html"),
    split: Literal["test", "valid", "train"] = "test",
    store: Path | None = None,
    baseline: Path | None = None,
    export: Path | None = None,
    rows: Path | None = None,
    no_faces: bool = False,
    seed: int = 0,
) -> Path:
    """Compare evaluated runs on one HTML page, and write model-card.md into each run folder (from test scores only).

    Runs whose recipes differ in nothing but the seed are taken together: their numbers are means over seeds. The folder of
    a cross-validation counts as one run. Faces that all runs get wrong are listed in a CSV beside the page.

    Args:
        runs: run folders that `mien evaluate` or `mien crossval` has scored, unguided ones first.
        out: the page; one file, no network needed to read it.
        split: which scores to compare.
        store: compare the scores on this other store, as `mien evaluate --store` wrote them; its name is enough. A model card
            has them only where a run has none on its own store.
        baseline: the run whose recipe the others are compared with; the first unguided one when not given.
        export: folder for every table as CSV and LaTeX and every figure as SVG and PDF.
        rows: a leaderboard file of `mien compare --rows` or `mien audit --row`, shown as the page in the place of runs.
        no_faces: leave out all pictures of faces, for datasets whose licence does not allow to show them.
        seed: of the bootstrap.

    """
    from mien.files import write_atomic
    from mien.report.card import write_card
    from mien.report.errors import common_csv, common_of
    from mien.report.export import write_export
    from mien.report.page import context, render
    from mien.report.runs import group_runs, load_runs

    if out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--out {out}: give a file name that ends in .html.")
    if rows is not None:
        if runs or export is not None:
            raise UsageError("--rows shows a file of rows alone; leave out runs and --export.")
        from mien.report.rows import read_rows, rows_page, tables_of_rows

        found = read_rows(rows)
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(out, rows_page(found, rows.stem))
        print(
            f"{out}: {len(found)} rows in {len(tables_of_rows(found))} tables; rows of other faces or cues stand apart"
        )
        return out
    loaded = load_runs(runs, split, store)
    content = context(loaded, not no_faces, seed, baseline)
    page = render(content)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, page)
    exported = write_export(content, export) if export is not None else []
    common = common_of(group_runs(loaded))
    if common is not None:
        write_atomic(out.with_name(f"{out.stem}-errors.csv"), common_csv(common))
    cards = [run for run in loaded if not run.folds] if split == "test" else []
    cards = [run for run in cards if store is None or not (run.path / "results.json").is_file()]
    for run in cards:
        write_card(run, seed)
    print(
        f"{out}: {len(loaded)} run{'s' * (len(loaded) > 1)}"
        + (f"; faces that all get wrong: {out.stem}-errors.csv" * (common is not None))
        + (
            f"; model-card.md written into {'each' if len(cards) == len(loaded) else len(cards)} run folder"
            * bool(cards)
        )
        + (f"; {len(exported)} tables and figures in {export}" if exported else "")
    )
    return out
