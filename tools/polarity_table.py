"""Markdown table of cross-validated runs of recipes/fer2013-polarity, for docs/stn.md.

    python tools/polarity_table.py RUNS

RUNS holds a folder for each recipe and protocol, RECIPE-paper or RECIPE-strict, as `mien crossval --out` writes it. Accuracy
in per cent over the folds that are done, with the published kind of interval; beside it the difference to `simple_cnn`
on the same faces of the same protocol, with its paired bootstrap interval.
"""

import csv
import json
import sys
from pathlib import Path

import numpy as np

from mien.metrics.intervals import paired_bootstrap

BASE = "simple_cnn"
PROTOCOLS = ("paper", "strict")


def correct(run: Path) -> dict[str, float]:
    """Face -> 1 where it was recognised, else 0."""
    with open(run / "predictions.csv", newline="") as file:
        return {row["id"]: float(row["true"] == row["predicted"]) for row in csv.DictReader(file)}


def accuracy(run: Path) -> str:
    folds = json.loads((run / "results.json").read_text())["folds"]
    low, high = folds["accuracy_interval"]
    done = len(folds["each"])
    epochs = f", epoch {folds['mean']['epoch']:.0f}"
    return f"{folds['mean']['accuracy']:.2%}".replace("%", "") + f" +- {50 * (high - low):.2f} ({done}{epochs})"


def difference(run: Path, base: Path) -> str:
    ours, theirs = correct(run), correct(base)
    shared = [face for face in ours if face in theirs]
    if run == base or not shared:
        return ""
    found = paired_bootstrap([theirs[face] for face in shared], [ours[face] for face in shared])
    return "{:+.2f} [{:+.2f}, {:+.2f}]".format(*(100 * np.array([found.difference, found.low, found.high])))


def main(folder: Path) -> None:
    """One line a recipe: accuracy (folds, mean epoch) and difference, for each protocol."""
    names = list(dict.fromkeys(path.name.rsplit("-", 1)[0] for path in sorted(folder.glob("*-*/results.json/.."))))
    heads = [head for protocol in PROTOCOLS for head in (f"{protocol} (folds, epoch)", f"less {BASE}")]
    print(f"| recipe | {' | '.join(heads)} |\n| --- |" + " ---: |" * len(heads))
    for name in names:
        cells = []
        for protocol in PROTOCOLS:
            run, base = folder / f"{name}-{protocol}", folder / f"{BASE}-{protocol}"
            if (run / "results.json").exists():
                cells += [accuracy(run), difference(run, base) if (base / "results.json").exists() else ""]
            else:
                cells += ["", ""]
        print(f"| `{name}` | {' | '.join(cells)} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
