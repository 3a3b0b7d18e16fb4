"""Markdown table of cross-validated runs of recipes/fer2013-polarity, for docs/stn.md.

    python tools/polarity_table.py RUNS [--base simple_cnn]

RUNS holds a folder for each recipe and protocol, RECIPE-paper or RECIPE-strict, as `mien crossval --out` writes it. Accuracy
in per cent over the folds that are done, with the published kind of interval; beside it the difference to the base on
the same faces of the same protocol, with its paired bootstrap interval.
"""

import argparse
import csv
import json
from pathlib import Path

import numpy as np

from mien.metrics.intervals import paired_bootstrap

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


def main() -> None:
    """One line a recipe: accuracy (folds, mean epoch) and difference, for each protocol."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--base", default="simple_cnn")
    options = parser.parse_args()
    done = sorted(path.parent.name for path in options.runs.glob("*-*/results.json"))
    names = dict.fromkeys(name.rsplit("-", 1)[0] for name in done)
    heads = [head for protocol in PROTOCOLS for head in (f"{protocol} (folds, epoch)", f"less {options.base}")]
    print(f"| recipe | {' | '.join(heads)} |\n| --- |" + " ---: |" * len(heads))
    for name in names:
        cells = []
        for protocol in PROTOCOLS:
            run, base = (options.runs / f"{one}-{protocol}" for one in (name, options.base))
            there = [f"{one}-{protocol}" in done for one in (name, options.base)]
            cells += [accuracy(run) if there[0] else "", difference(run, base) if all(there) else ""]
        print(f"| `{name}` | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
