"""What the mean of the logits of several runs reaches on the test faces of a store, beside each run alone.

    python tools/mean_of_nets.py STORE RUN RUN ... [--views 2]

For docs/box.md. Runs have two heads (data.targets both); each head is held against its own truth.
"""

import argparse
from pathlib import Path

import numpy as np

from mien.calibrate.faces import logits_of
from mien.data.labels import labels_of, voted_labels
from mien.data.store import open_store
from mien.metrics.intervals import wilson
from mien.predict.views import VIEWS
from mien.training.checkpoint import load_model


def main() -> None:
    """A line for each head and net: faces, accuracy with its Wilson interval, balanced accuracy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--views", type=int, default=2, choices=VIEWS)
    options = parser.parse_args()
    store = open_store(options.store)
    for head in ("votes", "labels"):
        said = {}
        for run in options.runs:
            model, recipe, _ = load_model(run)
            model.answer_by(head)
            truth = (voted_labels if head == "votes" else labels_of)(store, recipe.data.scheme)
            rows = np.flatnonzero((store.split == "test") & (truth >= 0))
            said[run.name] = logits_of(model, recipe, store, truth, rows, batch=256, views=options.views)
        if len(said) > 1:
            said["mean of the logits"] = np.mean(list(said.values()), axis=0)
        for name, logits in said.items():
            right = logits.argmax(1) == truth[rows]
            low, high = wilson(right.mean(), len(right))
            balanced = np.mean([right[truth[rows] == k].mean() for k in np.unique(truth[rows])])
            print(
                f"{head:<7}{name:<20}{len(rows):>6}  {right.mean():.3f} [{low:.3f}, {high:.3f}]  balanced {balanced:.3f}"
            )


if __name__ == "__main__":
    main()
