"""AUDetNet: action units from an embedding in two parts, defined by a cfg file. Verb `mien audet`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from mien.errors import UsageError

__all__ = ["audet", "override_keys"]


def audet(
    action: Literal["summary", "train", "momu", "evaluate"],
    source: Path,
    *,
    data: Path | None = None,
    out: Path | None = None,
    split: Literal["valid", "test"] = "test",
    overrides: Sequence[str] = (),
) -> None:
    """Action units from disentangled embeddings: look at a cfg, train it, score a run.

    Args:
        action: summary (shapes and parameters of a cfg), train, momu (ids of a balanced epoch) or evaluate.
        source: cfg file; for evaluate the run folder.
        data: prepared store with action units; for evaluate that of the training when not given.
        out: run folder (default runs/<cfg>-seed<seed>); for momu the file of ids.
        split: faces to evaluate.
        overrides: --section.key value pairs, e.g. --training.max_epochs 3 --loss.dependency hsic --run.seed 1.

    """
    if action == "evaluate":
        from mien.audet.evaluate import evaluate_audet

        _refuse(action, out=out, overrides=overrides)
        evaluate_audet(source, data, split)
        return
    from mien.audet.check import read_cfg
    from mien.audet.summary import summary, warn

    cfg = read_cfg(source, overrides)
    warn(cfg)
    if action == "summary":
        _refuse(action, data=data, out=out)
        print(summary(cfg))
        return
    if data is None:
        raise UsageError(f"mien audet {action} needs --data STORE, a prepared store with action units.")
    if action == "train":
        from mien.audet.train import train_audet

        train_audet(cfg, data, out or Path("runs") / f"{source.stem}-seed{cfg.run.seed}")
    else:
        from mien.audet.data import momu_ids

        momu_ids(cfg, data, out or Path(f"{source.stem}-train_ids.csv"))


def override_keys() -> list[str]:
    """Every key of a cfg that the command line can change, as section.key."""
    from mien.audet.check import override_keys as keys

    return keys()


def _refuse(action: str, **unused: object) -> None:
    given = [name for name, value in unused.items() if value]
    if given:
        raise UsageError(
            f"mien audet {action} takes no {'--section.key pairs' if given[0] == 'overrides' else '--' + given[0]}."
        )
