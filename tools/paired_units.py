"""One action unit on two expressions of the same people, from the predictions of `mien audet predict`.

    python tools/paired_units.py PREDICTIONS.csv STORE [AU12 Happiness Neutral]

AUC over all pairs of a face with the first expression and one with the second; share of people whose first face scores higher
(ties half), with a bootstrap interval over people.
"""

import csv
import sys
from pathlib import Path

import numpy as np

from mien.data.store import open_store
from mien.metrics.action_units import auc

DRAWS = 2000


def main(
    predictions: Path, folder: Path, unit: str = "AU12", first: str = "Happiness", second: str = "Neutral"
) -> None:
    with open(predictions, newline="") as file:
        value = {line["id"]: float(line[unit]) for line in csv.DictReader(file)}
    store = open_store(folder)
    scores = {
        name: {str(store.subject[k]): value[str(store.ids[k])] for k in np.flatnonzero(store.expression == name)}
        for name in (first, second)
    }
    people = sorted(scores[first].keys() & scores[second].keys())
    pairs = np.array([[scores[name][person] for name in (first, second)] for person in people])
    wins = (np.sign(pairs[:, 0] - pairs[:, 1]) + 1) / 2
    random = np.random.default_rng(0)
    drawn = random.integers(len(people), size=(DRAWS, len(people)))
    areas = [auc(pairs[rows].T.reshape(-1, 1), np.repeat([1, 0], len(people))[:, None])[0] for rows in drawn]
    area = auc(pairs.T.reshape(-1, 1), np.repeat([1, 0], len(people))[:, None])[0]
    print(f"{unit}, {first} against {second}, {len(people)} people")
    print("AUC {:.3f} [{:.3f}, {:.3f}]".format(area, *np.quantile(areas, [0.025, 0.975])))
    print(
        "first scores higher {:.3f} [{:.3f}, {:.3f}]".format(
            wins.mean(), *np.quantile(wins[drawn].mean(1), [0.025, 0.975])
        )
    )
    print("means {:.2f} and {:.2f}, deviation {:.2f} and {:.2f}".format(*pairs.mean(0), *pairs.std(0)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
