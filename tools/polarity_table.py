"""Markdown table of cross-validated runs of recipes/fer2013-polarity, several seeds of a version taken together, for docs/results.md.

    python tools/polarity_table.py RUNS [--base simple_cnn]

RUNS holds the folders that `mien crossval --out` writes: VERSION-paper of seed 0, VERSION_seed1-paper of seed 1 and so on.
Accuracy and balanced accuracy are per cent, mean over seeds. The difference to the base is taken on the same faces; its
variance is that over faces (bootstrap) plus that over seeds, which all versions with several seeds estimate together, so
that a version of one seed has an interval that includes the luck of its training.
"""

import argparse
import csv
import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mien.metrics.intervals import Spread, compared, paired_bootstrap


class Version(NamedTuple):
    """The runs of one version, a row a seed."""

    faces: list[str]
    truth: np.ndarray
    right: np.ndarray
    """(S, N) bool, recognised."""
    epochs: list[float]
    """Epoch of each seed that was scored, mean over its folds."""
    folds: int

    @property
    def accuracies(self) -> np.ndarray:
        """(S,) share of the faces that are recognised."""
        return self.right.mean(axis=1)

    @property
    def balanced(self) -> np.ndarray:
        """(S,) mean over the classes of that share."""
        return np.mean([self.right[:, self.truth == name].mean(axis=1) for name in np.unique(self.truth)], axis=0)


def read(folders: list[Path]) -> Version:
    """The runs of one version on the faces of the first."""
    answers, epochs, folds = [], [], 0
    for folder in folders:
        with open(folder / "predictions.csv", newline="") as file:
            answers.append({row["id"]: (row["true"], row["true"] == row["predicted"]) for row in csv.DictReader(file)})
        found = json.loads((folder / "results.json").read_text())["folds"]
        epochs.append(found["mean"]["epoch"])
        folds = len(found["each"])
    faces = list(answers[0])
    truth = np.array([answers[0][face][0] for face in faces])
    return Version(faces, truth, np.array([[one[face][1] for face in faces] for one in answers]), epochs, folds)


def versions_of(runs: Path) -> dict[str, Version]:
    """Version by name, of all finished runs below a folder."""
    found: dict[str, list[Path]] = {}
    for path in sorted(runs.glob("*-paper/results.json")):
        found.setdefault(re.sub(r"_seed\d+$", "", path.parent.name.removesuffix("-paper")), []).append(path.parent)
    return {name: read(folders) for name, folders in found.items()}


def seed_variance(versions: dict[str, Version], score: str = "accuracies") -> tuple[float, int]:
    """Variance of a score over seeds, pooled over the versions that have several, and its degrees of freedom."""
    several = [getattr(one, score) for one in versions.values() if len(one.right) > 1]
    freedom = sum(len(values) - 1 for values in several)
    if not freedom:
        return 0.0, 0
    return float(sum(np.square(values - values.mean()).sum() for values in several) / freedom), freedom


def difference(ours: Version, base: Version, balanced: bool, seeds: tuple[float, int]) -> str:
    """Points that a version is above the base on the same faces, with an interval over faces and seeds."""
    place = {face: k for k, face in enumerate(base.faces)}
    rows = [place[face] for face in ours.faces]
    labels = np.unique(ours.truth, return_inverse=True)[1] if balanced else None
    found = paired_bootstrap(base.right[:, rows].mean(axis=0), ours.right.mean(axis=0), None, labels)
    luck = seeds[0] * (1 / len(ours.right) + 1 / len(base.right))
    variance = found.error**2 + luck
    freedom = variance**2 / (found.error**4 / found.freedom + (luck**2 / seeds[1] if seeds[1] else 0.0))
    both = compared(Spread(found.difference, variance**0.5, freedom + 1, found.clusters, False, found.n))
    return "{:+.2f} [{:+.2f}, {:+.2f}]".format(*(100 * np.array([both.difference, both.low, both.high])))


def spread(values: np.ndarray) -> str:
    """Mean, and standard deviation where there are several seeds, in per cent."""
    return f"{100 * values.mean():.2f}" + (f" ± {100 * values.std(ddof=1):.2f}" if len(values) > 1 else "")


def main() -> None:
    """One line a version."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--base", default="simple_cnn")
    options = parser.parse_args()
    versions = versions_of(options.runs)
    base, scores = versions[options.base], ("accuracies", "balanced")
    luck = {score: seed_variance(versions, score) for score in scores}
    less = f"less {options.base}"
    print(f"| version | seeds | folds, epoch | accuracy | {less} | balanced | {less} |\n| --- |" + " ---: |" * 6)
    for name, one in versions.items():
        cells = [str(len(one.right)), f"{one.folds}, {np.mean(one.epochs):.0f}"]
        for score in scores:
            apart = "" if one is base else difference(one, base, score == "balanced", luck[score])
            cells += [spread(getattr(one, score)), apart]
        print(f"| `{name}` | {' | '.join(cells)} |")
    words = ", ".join(f"{100 * luck[s][0] ** 0.5:.2f} ({s})" for s in scores)
    print(
        f"\n{len(base.faces)} faces; standard deviation over seeds, {luck['accuracies'][1]} degrees of freedom: {words}"
    )


if __name__ == "__main__":
    main()
