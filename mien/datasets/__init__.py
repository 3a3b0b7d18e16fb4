"""Datasets on disk -> records -> prepared store -> splits."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from mien.data.arrow import Skipped
from mien.datasets import affectnet, audetnet, bp4d, disfa, fer2013, folder, rafdb, synthetic_store, table
from mien.datasets import aligned as fitted
from mien.schema import Record


class Reader(NamedTuple):
    """How a dataset is read and prepared unless the user says otherwise."""

    records: Callable[..., Iterator[Record | Skipped]]
    """(root, *, options of this reader) -> faces, and what cannot be used."""
    size: int = 224
    channels: int = 3
    notes: Callable[..., dict[str, str]] | None = None
    """(root, *, some of the options) -> licence, choices: what the store should remember."""
    shape: Callable[..., tuple[int, int]] | None = None
    """(root, *, some of the options) -> size and channels, where the data decide."""
    landmarks: bool = False
    """Every face comes with its 68 landmarks: `--align` needs no `--faces`."""
    videos: bool = False
    """Faces are coded frames of videos: those of one person and those of equal codes are twins (`coded.with_twins`)."""


DATASETS: dict[str, Reader] = {
    "fer2013": Reader(fer2013.records, size=fer2013.SIZE, channels=1, notes=fer2013.notes),
    "rafdb": Reader(rafdb.records, notes=rafdb.notes),
    "affectnet": Reader(affectnet.records, notes=affectnet.notes),
    "disfa": Reader(disfa.records, notes=disfa.notes, videos=True),
    "bp4d": Reader(bp4d.records, notes=bp4d.notes, videos=True),
    "audetnet": Reader(audetnet.records, notes=audetnet.notes, videos=True),
    "folder": Reader(folder.records),
    "table": Reader(table.records, notes=table.notes),
    "synthetic": Reader(synthetic_store.records, size=112, notes=synthetic_store.notes, landmarks=True),
    "aligned": Reader(fitted.records, notes=fitted.notes, shape=fitted.shape, landmarks=True),
}
"""Dataset name -> reader; the name is the `mien prepare` argument and the heading in docs/datasets.md."""
