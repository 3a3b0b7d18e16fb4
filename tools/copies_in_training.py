"""What the bundled model reaches on PublicTest faces that have a near-duplicate in FER-2013's Training part, and on the others.

    python tools/copies_in_training.py STORE FER2013

For docs/box.md. STORE is FER-2013 as `mien prepare fer2013` made it, FER2013 the folder of its files. Faces are found and
cut as by `mien box score`; a face with a near-duplicate (`mien check`) among Training pictures counts as seen, whether or not
that picture was trained on.
"""

import argparse
from pathlib import Path

import numpy as np

from mien.box.score import answer
from mien.data.duplicates import same_picture_groups
from mien.data.store import open_store
from mien.datasets import DATASETS
from mien.metrics.intervals import wilson
from mien.predict.model import load


def main() -> None:
    """A line for each head, truth and kind of face: number, accuracy with its Wilson interval."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("root", type=Path)
    options = parser.parse_args()
    store = open_store(options.store)
    groups, test = same_picture_groups(store), np.flatnonzero(store.split == "test")
    seen = set(groups[store.split == "train"].tolist())
    copied = {str(store.ids[row]): int(groups[row]) in seen for row in test}
    for calibration in (None, "labels"):
        model = load(None, views=2, calibration=calibration)
        records = [r for r in DATASETS["fer2013"].records(options.root) if getattr(r, "split", "") == "test"]
        found = answer(model, iter(records))
        apart = np.array([copied[person] for person in found.people])
        said = found.probabilities.argmax(1)
        for name, truth in (("labels", found.labels), ("majority", found.majority)):
            for title, part in (
                ("all", truth >= 0),
                ("a copy", apart & (truth >= 0)),
                ("no copy", ~apart & (truth >= 0)),
            ):
                right = (said == truth)[part]
                low, high = wilson(float(right.mean()), len(right))
                head = calibration or "default"
                print(
                    f"{head}, {name}, {title}: {len(right)} faces, {right.mean():.3f} [{low:.3f}, {high:.3f}]",
                    flush=True,
                )


if __name__ == "__main__":
    main()
