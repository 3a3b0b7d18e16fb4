"""A prepared store whose action units come from a file beside it, for example what `mien audet predict` wrote."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mien.data.arrow import StoreInfo
from mien.data.au_table import read_unit_table, spread_units
from mien.data.store import Store, open_store
from mien.errors import DataError
from mien.schema import ACTION_UNITS, FloatArray


class ObservedStore(Store):
    """A store with other action units; everything else is the store's own. Picklable."""

    def __init__(self, path: Path, info: StoreInfo, file: Path) -> None:
        super().__init__(path, info)
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return ObservedStore, (self.path, self.info, self.file)

    @property
    def fingerprint(self) -> str:
        """sha256 over that of the store and the file."""
        return hashlib.sha256(super().fingerprint.encode() + self.file.read_bytes()).hexdigest()

    @cached_property
    def action_units(self) -> FloatArray:
        """(N, A) intensities 0-5 over ACTION_UNITS by the file; NaN for units and faces that it does not name."""
        table = read_unit_table(self.file)
        place = {name: row for row, name in enumerate(table.ids)}
        rows = np.array([place.get(str(name), -1) for name in self.ids])
        if (rows < 0).all():
            raise DataError(f"'{self.file}' names no face of the store '{self.path}'; its first is '{self.ids[0]}'.")
        whole = np.full((len(self), len(ACTION_UNITS)), np.nan, dtype=np.float32)
        whole[rows >= 0] = spread_units(table.units, table.values)[rows[rows >= 0]]
        return whole


def open_faces(path: Path, action_units: Path | None) -> Store:
    """A finished store, with the action units of a file (`id,AU1,...`) where one is given; DataError as `open_store`."""
    store = open_store(path)
    if action_units is None:
        return store
    observed = ObservedStore(store.path, store.info, Path(action_units))
    _ = observed.action_units  # a wrong file is told now, not in the first batch
    return observed
