"""Datasets on disk -> records -> prepared store -> splits."""

from collections.abc import Callable, Iterator
from typing import NamedTuple, cast

from mien.data.arrow import Skipped
from mien.datasets import (
    affectnet,
    affwild2,
    aligned,
    audetnet,
    bp4d,
    disfa,
    fer2013,
    folder,
    rafdb,
    synthetic_store,
    table,
)
from mien.errors import DataError, MienError, unknown_name
from mien.plugins import added, tell_refused
from mien.plugins import names as names_with_plugins  # `names` is a module here
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
    "affwild2": Reader(affwild2.records, notes=affwild2.notes, videos=True),
    "disfa": Reader(disfa.records, notes=disfa.notes, videos=True),
    "bp4d": Reader(bp4d.records, notes=bp4d.notes, videos=True),
    "audetnet": Reader(audetnet.records, notes=audetnet.notes, videos=True),
    "folder": Reader(folder.records),
    "table": Reader(table.records, notes=table.notes),
    "synthetic": Reader(synthetic_store.records, size=112, notes=synthetic_store.notes, landmarks=True),
    "aligned": Reader(aligned.records, notes=aligned.notes, shape=aligned.shape, landmarks=True),
}
"""Dataset name -> reader; the name is the `mien prepare` argument and the heading in docs/datasets.md."""


def reader_named(name: str) -> Reader:
    """A reader, Mien's own or a plugin's (entry point `mien.readers` that is a Reader); UsageError for an unknown name."""
    tell_refused("mien.readers", DATASETS)
    if name in DATASETS:
        return DATASETS[name]
    found = cast(Reader | None, added("mien.readers", name, DATASETS, Reader))
    if found is None:
        raise unknown_name("dataset", name, names_with_plugins("mien.readers", DATASETS))
    return found


def checked(dataset: str, read: Callable[[], Iterator[Record | Skipped]]) -> Iterator[Record | Skipped]:
    """What a reader gives; of a plugin's reader whatever it raises, or gives in place of faces, is one line."""
    if dataset in DATASETS:
        yield from read()
        return
    try:
        for item in read():
            if not isinstance(item, Record | Skipped):
                raise TypeError(f"it gave a {type(item).__name__}, not a Record or Skipped")
            yield item
    except MienError:
        raise
    except Exception as error:
        raise DataError(
            f"dataset '{dataset}': its reader failed ({type(error).__name__}: {error}); it is a plugin: tell its authors."
        ) from error
