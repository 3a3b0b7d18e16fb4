"""Verb `mien folds`: polarity folds of a prepared store, as published or strict, written in the published form."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mien.data.fold_files import write_fold_file
from mien.data.folds import k_folds
from mien.data.labels import POLARITY, labels_of
from mien.data.store import open_store
from mien.datasets.inventory import text_table
from mien.schema import scheme_classes


def folds(store: Path, *, out: Path, grouped: bool = False, folds: int = 5, seed: int = 2020) -> Path:
    """Deal the faces of a store into stratified folds of the polarity classes.

    Args:
        store: Prepared store.
        out: CSV to write, in the form published with the guided spatial transformers; `mien prepare --folds` reads it.
        grouped: Keep subjects, identical and near-duplicate pictures in one fold; otherwise single faces, as published.
        folds: How many.
        seed: Seed of the deal; 2020 is the published one.

    """
    faces = open_store(store)
    splits = k_folds(faces, folds, seed, grouped, POLARITY)
    count = write_fold_file(out, faces, [split.test for split in splits])
    labels, classes = labels_of(faces, POLARITY), scheme_classes(POLARITY)
    rows = [
        [str(fold), *(str(int((labels[split.test] == k).sum())) for k in range(len(classes))), str(len(split.test)),
         str(split.report["test_pictures_also_in_train"])]
        for fold, split in enumerate(splits)
    ]  # fmt: skip
    print(text_table(["fold", *classes, "faces", "pictures also in the other folds"], rows))
    left = int(np.sum(labels < 0))
    print(f"{out}: {count} faces in {folds} folds, seed {seed}; {left} faces have no polarity")
    return out
