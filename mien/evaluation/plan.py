"""What is scored, and with what: one object for the whole pass of `mien evaluate`."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from mien.config import Recipe
from mien.data.loader import Loader
from mien.data.masking import Masking
from mien.data.store import Store
from mien.evaluation.reference import ClassCues, Others
from mien.explain import Sampling
from mien.schema import Batch, IntArray
from mien.training.objective import masked
from mien.training.steering import with_guide


class Plan(NamedTuple):
    """What is scored, and with what."""

    model: nn.Module
    recipe: Recipe
    store: Store
    rows: IntArray
    """Rows of the store that are scored, all labelled."""
    labels: IntArray
    """Class index of every row of the store."""
    reference: ClassCues
    """Mean cue of each class over training faces, at the size of the last layer."""
    reference_rows: IntArray
    """Rows of these training faces."""
    others: Others
    """Whose cues a face is mismatched with."""
    device: torch.device
    methods: tuple[str, ...]
    """Names of mien.explain.EXPLAINERS."""
    sampling: Sampling
    masking: Masking
    seed: int
    batch: int

    def loader(self, rows: IntArray) -> Loader:
        """Batches of rows, without augmentation."""
        recipe = self.recipe
        return Loader(
            self.store, rows, self.labels, size=recipe.model.size, batch=self.batch, device=self.device,
            workers=recipe.run.workers, preprocessing=recipe.model.preprocessing,
        )  # fmt: skip

    def shown(self, batch: Batch) -> Batch:
        """The batch as the net gets it: masked by the cue where mask.evaluate says so, with its guide where it wants one."""
        batch = masked(self.recipe, batch, self.masking, float(self.recipe.mask.evaluate), 0, 0)
        return with_guide(self.recipe, batch, self.masking.mean, 0, 0)

    @property
    def main(self) -> str | None:
        """The map that is kept for pictures beside the attention: TS-CAM or CAM where there is one, else the first method."""
        own = [name for name in self.methods if name != "attention"]  # that key is the channel mean's
        return next((name for name in ("ts_cam", "cam") if name in own), own[0] if own else None)
