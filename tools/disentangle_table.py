"""Markdown table of what runs of several seeds keep apart, for docs/results.md.

    python tools/disentangle_table.py RUN [RUN ...]

Runs are named VARIANT-SEED and have results.json (mien audet evaluate) and disentangle.json (mien audet disentangle). One row a
variant: mean and standard deviation over its seeds.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

COLUMNS: dict[str, Callable[[dict[str, Any], dict[str, Any]], float]] = {
    "AU macro F1": lambda scores, found: scores["occurrence"]["macro_f1"],
    "AU from z1": lambda scores, found: found["probes"]["AU"]["z1"]["score"],
    "AU from z2": lambda scores, found: found["probes"]["AU"]["z2"]["score"],
    "identity from z1": lambda scores, found: found["probes"]["identity"]["z1"]["score"],
    "identity from z2": lambda scores, found: found["probes"]["identity"]["z2"]["score"],
    "distance correlation": lambda scores, found: found["dependence"]["distance_correlation"]["value"],
    "swap F1": lambda scores, found: found["swap"]["f1_of_z1"],
    "own z2": lambda scores, found: found["swap"]["f1_of_z1_own_z2"],
    "swap: person of z2": lambda scores, found: found["swap"]["identity"]["z2"],
    "PSNR": lambda scores, found: found["collapse"]["psnr"]["own"],
}


def cell(values: list[float]) -> str:
    digits = 1 if np.mean(values) > 2 else 3
    return f"{np.mean(values):.{digits}f}" + (f" ± {np.std(values):.{digits}f}" if len(values) > 1 else "")


def main(folders: list[Path]) -> None:
    table: dict[str, list[list[float]]] = {}
    for folder in folders:
        scores = json.loads((folder / "results.json").read_text())
        report = json.loads((folder / "disentangle.json").read_text())
        found = report["runs"][folder.name]
        variant = folder.name.rpartition("-")[0]
        table.setdefault(variant, []).append([column(scores, found) for column in COLUMNS.values()])
    baselines = (
        f"identity {found['probes']['identity']['z1']['baseline']:.3f}, swap F1 {found['swap']['f1_always_active']:.3f}"
    )
    print(f"{report['faces']} faces of {report['subjects']} people; baselines: AU 0.5, {baselines}\n")
    print("| variant (seeds) | " + " | ".join(COLUMNS) + " |\n| --- |" + " ---: |" * len(COLUMNS))
    for variant, rows in table.items():
        print(
            f"| {variant} ({len(rows)}) | "
            + " | ".join(cell(list(column)) for column in zip(*rows, strict=True))
            + " |"
        )


if __name__ == "__main__":
    main([Path(word) for word in sys.argv[1:]])
