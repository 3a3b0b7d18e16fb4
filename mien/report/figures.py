"""Verb `mien figures`: the pictures of the papers as PNG files, from run folders and from tables of `mien reproduce`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from mien.errors import DataError, UsageError
from mien.files import read_json

__all__ = ["figures"]


def figures(
    *folders: Path, out: Path = Path("figures"), no_faces: bool = False, faces: Literal["some", "all"] = "some"
) -> Path:
    """Draw PNG files: strips of single faces and mean maps of classes from runs, curves and dots from tables.

    Args:
        folders: run folders that `mien evaluate` has scored (unguided ones first), and folders of `mien reproduce`.
        out: folder for the pictures.
        no_faces: maps without the faces under them, for datasets whose licence does not allow to show them.
        faces: some, or all: also a panel of every scored face of the first run (picture, cue, class map, attention), in
            OUT/faces; panels that are there already are left alone.

    """
    from mien.files import write_atomic
    from mien.report.table_plots import figure_of, png

    tables = {folder: tables_in(folder) for folder in folders}
    runs = [folder for folder in folders if (folder / "config.yaml").is_file()]
    for folder in folders:
        if folder not in runs and not tables[folder]:
            raise UsageError(f"{folder} is neither a run folder nor one of `mien reproduce` with a finished table.")
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for file in (file for found in tables.values() for file in found):
        table = read_table(file)
        written.append(out / f"{table['table']}.png")
        write_atomic(written[-1], png(figure_of(table)))
    if runs:
        written += draw_runs(runs, out, no_faces)
        if faces == "all":
            written.append(draw_panels(runs[0], out / "faces", no_faces))
    print("\n".join(str(path) for path in written))
    return out


def draw_runs(runs: Sequence[Path], out: Path, no_faces: bool) -> list[Path]:
    """faces.png (a strip for each expression) and class_maps.png of the runs."""
    from mien import draw
    from mien.report import pictures
    from mien.report.runs import group_runs, load_runs

    groups = group_runs(load_runs(runs))
    faces, reason = (None, "") if no_faces else pictures.open_faces(groups[0].first)
    if reason:
        print(f"no pictures of faces: {reason.rstrip('.')}")
    elif faces is not None and groups[0].first.results["store"] != "synthetic":
        print("These pictures show faces of the dataset: mind its licence before you pass them on (or use --no-faces).")
    alike = pictures.comparable(groups)
    count = groups[0].first.results["faces"]
    title = f"Mean maps of each class over {count} test faces, each over its own maximum"
    draw.write_png(out / "class_maps.png", pictures.class_maps(alike, faces, title))
    strips = pictures.expression_strips(alike, faces)
    if strips is None:
        return [out / "class_maps.png"]
    draw.write_png(out / "faces.png", strips)
    return [out / "class_maps.png", out / "faces.png"]


def draw_panels(run: Path, out: Path, no_faces: bool) -> Path:
    """One PNG a scored face of a run, a few at a time; the same command continues."""
    from mien import draw
    from mien.progress import track
    from mien.report import pictures
    from mien.report.runs import load_runs

    (scored,) = load_runs([run])
    faces, _ = (None, "") if no_faces else pictures.open_faces(scored)
    plain = [re.sub(r"[^A-Za-z0-9._-]+", "_", str(name)) for name in scored.faces["id"]]
    counts = Counter(plain)
    names = [f"{name}.png" if counts[name] == 1 else f"{name}-{k}.png" for k, name in enumerate(plain)]
    out.mkdir(parents=True, exist_ok=True)
    left = [k for k, name in enumerate(names) if not (out / name).is_file()]
    for k in track(left, "panels", len(left)):
        draw.write_png(out / names[k], pictures.panel(scored, faces, k))
    print(f"{out}: {len(names)} panels, {len(left)} drawn now")
    return out


def tables_in(folder: Path) -> list[Path]:
    """table.json of a folder of `mien reproduce`, or of one of its tables."""
    return sorted(file for pattern in ("table.json", "*/table.json") for file in folder.glob(pattern))


def read_table(file: Path) -> dict[str, Any]:
    """Content of a table.json; one clear line where it is damaged."""
    table = read_json(file, "run its `mien reproduce` again")
    if not table.get("lines"):
        raise DataError(f"{file} has no finished entries; run its `mien reproduce` again.")
    return table
