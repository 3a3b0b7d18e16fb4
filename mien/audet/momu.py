"""MOMU: epochs in which every action unit is about equally often active (multi-label minority oversampling and majority
undersampling; after Chu, De la Torre and Cohn 2019, Image and Vision Computing 81, in AUDetNet's version, where an epoch
plays the part of a batch).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Sampler

from mien.errors import DataError
from mien.schema import FloatArray, IntArray

Mask = npt.NDArray[np.bool_]


def classes_of(units: FloatArray, threshold: float) -> Mask:
    """(N, A + 1) classes of faces: one for each unit that is active, the last for those with no unit known to be active.

    Args:
        units: (N, A) intensities 0-5, NaN unknown.
        threshold: intensity from which a unit is active.

    """
    active = np.nan_to_num(units, nan=-1.0) >= threshold
    return np.concatenate([active, ~active.any(1, keepdims=True)], axis=1)


class Momu(Sampler[int]):
    """Sampler of faces; epoch after epoch it goes on with what is left in the pools.

    Every class has a pool of its faces; a face stands in the pools of all of its classes or in none. Until the epoch is
    full, `draw` distinct faces of the class that the epoch has least of (at its start: whose pool is smallest) leave
    their pools. A class whose pool is too small first gets all of its faces back, into all of their pools. So rare units
    are oversampled, and common ones undersampled. The order is random at the end.

    What is drawn depends on (seed, epoch) and on the pools alone, not on loader processes; `state` and `restore` carry
    the pools over an interruption. The loader's order is that of the epoch set by `set_epoch`.

    Args:
        classes: (N, K) as from `classes_of`.
        size: faces of an epoch.
        draw: faces drawn at a time; divides `size`.
        seed: of the randomness.
        names: of the K classes, for errors.

    Raises:
        DataError: a class with fewer than `draw` faces.

    """

    def __init__(self, classes: Mask, size: int, draw: int, seed: int = 0, names: Sequence[str] | None = None) -> None:
        if draw < 1 or size < draw or size % draw:
            raise ValueError(f"draw {draw} must divide size {size}")
        self.classes, self.size, self.draw, self.seed = classes, size, draw, seed
        counts = classes.sum(0)
        rare = int(counts.argmin())
        if counts[rare] < draw:
            name = names[rare] if names else f"class {rare}"
            raise DataError(
                f"MOMU draws {draw} faces of a class at a time, but {name} has {counts[rare]}; lower data.sampling_size"
                f"{' or leave the unit out of data.action_units' if counts[rare] == 0 else ''}."
            )
        self.waiting = np.ones(len(classes), dtype=bool)
        self.epoch = 0
        self._order: IntArray | None = None

    def __len__(self) -> int:
        return self.size

    def set_epoch(self, epoch: int) -> None:
        """Draw epoch `epoch` (from 1); the pools move on. To be called once an epoch, in order."""
        self.epoch = epoch
        self._order = self.draw_epoch(np.random.default_rng((self.seed, epoch)))

    def __iter__(self) -> Iterator[int]:
        return iter(self.order.tolist())

    @property
    def order(self) -> IntArray:
        """(size,) faces of the current epoch; that of the next one where none is drawn yet."""
        if self._order is None:
            self.set_epoch(self.epoch + 1)
        assert self._order is not None
        return self._order

    def draw_epoch(self, random: np.random.Generator) -> IntArray:
        """(size,) faces, shuffled."""
        drawn = np.empty((self.size // self.draw, self.draw), dtype=np.int64)
        count = np.zeros(self.classes.shape[1], dtype=np.int64)
        needed = int((self.classes & self.waiting[:, None]).sum(0).argmin())
        members = [np.flatnonzero(column) for column in self.classes.T]
        for row in drawn:
            mine = members[needed]
            pool = mine[self.waiting[mine]]
            if len(pool) < self.draw:
                self.waiting[mine] = True
                pool = mine
            row[:] = random.choice(pool, self.draw, replace=False)
            self.waiting[row] = False
            count += self.classes[row].sum(0)
            needed = int(count.argmin())
        return random.permutation(drawn.reshape(-1))

    def state(self) -> dict[str, Tensor]:
        """The pools, as tensors for a checkpoint."""
        return {"waiting": torch.from_numpy(self.waiting.copy()), "epoch": torch.tensor(self.epoch)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Put back what `state` gave."""
        if len(state["waiting"]) != len(self.waiting):
            raise DataError(f"the pools of MOMU hold {len(state['waiting'])} faces, the data {len(self.waiting)}.")
        self.waiting, self.epoch, self._order = state["waiting"].numpy().copy(), int(state["epoch"]), None
