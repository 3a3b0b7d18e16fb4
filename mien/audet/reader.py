"""A frozen net that reads action units in decoded pictures, so that they must be seen by another than the net that made them."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from mien.audet.faces import au_loss, au_targets
from mien.audet.nets import AudetNet
from mien.audet.run import load_audet
from mien.audet.spec import Cfg
from mien.data.store import Store
from mien.schema import ACTION_UNITS


class FrozenReader:
    """The reader, and what it should read in each face of a store."""

    def __init__(self, net: AudetNet, store: Store, device: torch.device) -> None:
        self.net = net.to(device).requires_grad_(False).eval()
        units = store.action_units[:, [ACTION_UNITS.index(name) for name in net.action_units]]
        self.targets = au_targets(torch.from_numpy(units), net.regresses, net.threshold)
        """(N, A) of every face of the store, on the CPU."""

    def loss(self, pictures: Tensor, targets: Tensor) -> Tensor:
        """Its AU loss on pictures (B, 3, H, W) in [-1, 1] that should show these of its `targets` (B, A)."""
        size = [self.net.size, self.net.size]
        if list(pictures.shape[2:]) != size:
            pictures = F.interpolate(pictures, size, mode="bilinear", align_corners=False, antialias=True)
        logits = self.net(self.net.standardise(pictures * 0.5 + 0.5), decode=False).logits
        return au_loss(logits, targets, self.net.cross_entropy)


def open_frozen(cfg: Cfg, store: Store, device: torch.device) -> FrozenReader | None:
    """The reader of a cfg; None where it has none."""
    if cfg.loss.reader == "None":
        return None
    return FrozenReader(load_audet(Path(cfg.loss.reader)), store, device)
