"""What the 68 landmarks alone recognise, on the folds of the polarity recipes and on the test part of the basic expressions.

    python tools/landmark_levels.py STORE

For docs/results.md: linear discriminant analysis and a small MLP (128 and 64 hidden units) of points without place, size and
turn. No pixel is read.
"""

import argparse
from pathlib import Path

import numpy as np

from mien.data.folds import k_folds, strict
from mien.data.labels import labels_of
from mien.data.store import open_store
from mien.evaluation.landmarks_only import landmarks_only


def main() -> None:
    """A line for each scheme and classifier: accuracy and balanced accuracy, mean over folds, and those of each fold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    store = open_store(parser.parse_args().store)
    for scheme in ("polarity-3", "basic-7"):
        labels = labels_of(store, scheme)
        splits = k_folds(store, 5, 2020, grouped=False, scheme=scheme) if scheme == "polarity-3" else [strict(store)]
        for kind in ("lda", "mlp"):
            scores = []
            for split in splits:
                train, test = (rows[labels[rows] >= 0] for rows in (split.train, split.test))
                said = landmarks_only(store, train, test, labels, int(labels.max()) + 1, kind)
                if said is None:
                    raise SystemExit(f"{store.path} has too few faces with landmarks.")
                right, truth = said.argmax(1) == labels[test], labels[test]
                scores.append((right.mean(), np.mean([right[truth == k].mean() for k in np.unique(truth)])))
            accuracy, balanced = np.mean(scores, axis=0)
            each = ", ".join(f"{score:.4f}" for score, _ in scores)
            print(f"{scheme} {kind}: accuracy {accuracy:.4f}, balanced {balanced:.4f} (folds {each})", flush=True)


if __name__ == "__main__":
    main()
