"""Lists of ME-GraphAU (Luo et al. 2022, arXiv 2205.01782) for DISFA and BP4D: pictures and 0 or 1 for each unit, by fold.

``list/DISFA_train_img_path_fold1.txt`` has a path a line, ``list/DISFA_train_label_fold1.txt`` as many lines of numbers; pictures are
in ``img``. Units are DISFA's eight or BP4D's twelve of the papers, in their order.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mien.data.arrow import Skipped
from mien.data.au_folds import BP4D_UNITS, DISFA_PAPER_UNITS
from mien.data.au_scale import intensity
from mien.data.au_table import spread_units
from mien.datasets.picture_paths import find_base
from mien.errors import DataError, UsageError
from mien.files import listing
from mien.schema import Record

NAME = re.compile(r"(DISFA|BP4D)_(train|val|test)_img_path_fold(\d)\.txt", re.IGNORECASE)
UNITS = {"disfa": DISFA_PAPER_UNITS, "bp4d": BP4D_UNITS}
SUBJECTS = {"disfa": r"SN\d{3}", "bp4d": r"[FM]\d{3}"}


def find_lists(root: Path, dataset: str) -> list[Path]:
    """Lists of pictures of a dataset in, or one folder below, `root`."""
    folders = [root, *(path for path in listing(root) if path.is_dir())] if root.is_dir() else []
    files = [path for folder in folders for path in listing(folder)]
    return [path for path in files if (found := NAME.fullmatch(path.name)) and found[1].lower() == dataset]


def records(lists: list[Path], root: Path, dataset: str, fold: str | None) -> Iterator[Record | Skipped]:
    """Frames of a fold, 1 unless said otherwise, id as listed; test is split `test`. Occurrences are kept as 0 and 5.

    Raises:
        UsageError: no such fold. DataError: lists of different lengths, or with another number of units.

    """
    number = (fold or "1").removeprefix("literature-")
    chosen = [path for path in lists if path.stem.endswith(f"fold{number}")]
    if not chosen:
        numbers = sorted({path.stem[-1] for path in lists})
        raise UsageError(f"'{lists[0].parent}' has no lists of fold {number}; --fold {' or '.join(numbers)}.")
    order = sorted(chosen, key=lambda path: "train" not in path.name)
    for path in order:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        labels = path.with_name(path.name.replace("_img_path_", "_label_"))
        if not labels.is_file():
            raise DataError(f"'{labels}' is missing: it has the labels of '{path.name}'.")
        rows = [line.split() for line in labels.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        units = UNITS[dataset]
        if len(rows) != len(names) or any(len(row) != len(units) for row in rows):
            raise DataError(
                f"'{labels}': expected {len(names)} lines of {len(units)} numbers, as '{path.name}' has pictures."
            )
        pictures = find_base(names[:200], path.parent, root, None, path)
        split = "train" if "train" in path.name.lower() else "test"
        for name, row in zip(names, rows, strict=True):
            values = [intensity(cell, "occurrence") for cell in row]
            who = re.search(SUBJECTS[dataset], name)
            if any(value is None for value in values):
                yield Skipped(name, f"labels {' '.join(row)} are not 0, 1 or unknown")
                continue
            vector = spread_units(units, np.array([values], dtype=np.float32))[0]
            yield Record(name, pictures.find(name), split, who[0] if who else None, action_units=vector)
