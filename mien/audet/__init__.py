"""AUDetNet: action units from an embedding in two parts, defined by a cfg file. Verb `mien audet`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mien.errors import UsageError

if TYPE_CHECKING:
    from mien.audet.spec import Cfg

__all__ = ["audet", "override_keys"]

TAKES = {
    "summary": {"overrides"},
    "train": {"data", "out", "overrides"},
    "momu": {"data", "out", "overrides"},
    "evaluate": {"data", "split"},
    "predict": {"data", "out"},
    "disentangle": {"data", "split", "against", "faces", "draws", "seed", "reader"},
}
"""Action -> options that mean something to it."""


def audet(
    action: Literal["summary", "train", "momu", "evaluate", "predict", "disentangle"],
    source: Path,
    *,
    data: Path | None = None,
    out: Path | None = None,
    split: Literal["train", "valid", "test", "all"] | None = None,
    against: Path | None = None,
    faces: int | None = None,
    draws: int | None = None,
    seed: int | None = None,
    reader: str | None = None,
    overrides: Sequence[str] = (),
) -> None:
    """Action units from disentangled embeddings: look at a cfg, train it, score and examine a run.

    Args:
        action: summary, train or momu (ids of a balanced epoch) of a cfg; evaluate, predict or disentangle of a run.
        source: cfg file, or run folder.
        data: prepared store with action units; for evaluate and disentangle that of the training when not given.
        out: run folder (train; default runs/<cfg>-seed<seed>), or file to write (momu, predict).
        split: faces to evaluate or disentangle (test when not given); evaluate takes valid or test.
        against: another run on the same units that disentangle examines beside the first.
        faces: most faces that disentangle looks at (1000 when not given).
        draws: permutations of disentangle's dependency tests (199 when not given).
        seed: of disentangle's draws (0 when not given).
        reader: who reads the action units of disentangle's swaps: blendshapes, the run folder of another net, or none; blendshapes
            where there is the face model, when not given.
        overrides: --section.key value pairs, e.g. --training.max_epochs 3 --loss.dependency hsic --run.seed 1.

    """
    given: dict[str, object] = {
        "data": data,
        "out": out,
        "split": split,
        "against": against,
        "faces": faces,
        "draws": draws,
        "seed": seed,
        "reader": reader,
    }
    given["overrides"] = overrides or None
    for name, value in given.items():
        if value is not None and name not in TAKES[action]:
            what = "pairs of --section.key value" if name == "overrides" else f"--{name}"
            raise UsageError(f"mien audet {action} takes no {what}; see `mien audet --help`.")
    if action in ("summary", "train", "momu"):
        from mien.audet.check import read_cfg

        _of_cfg(action, read_cfg(source, overrides), source.stem, data, out)
    elif action == "predict":
        from mien.audet.predict import predict_audet

        if data is None or out is None:
            raise UsageError("mien audet predict needs --data STORE and --out FILE.")
        predict_audet(source, data, out)
    elif action == "evaluate":
        from mien.audet.evaluate import evaluate_audet

        evaluate_audet(source, data, split or "test")
    else:
        from mien.audet.disentangle import disentangle_audet

        numbers = {"faces": faces, "draws": draws, "seed": seed}
        chosen = {name: value for name, value in numbers.items() if value is not None}
        disentangle_audet(source, data, split or "test", against, reader=reader or "auto", **chosen)


def _of_cfg(action: str, cfg: Cfg, name: str, data: Path | None, out: Path | None) -> None:
    """What is done with a cfg itself; its warnings come first."""
    from mien.audet.summary import summary, warn

    warn(cfg)
    if action == "summary":
        print(summary(cfg))
        return
    if data is None:
        raise UsageError(f"mien audet {action} needs --data STORE, a prepared store with action units.")
    if action == "train":
        from mien.audet.train import train_audet

        train_audet(cfg, data, out or Path("runs") / f"{name}-seed{cfg.run.seed}")
    else:
        from mien.audet.data import momu_ids

        momu_ids(cfg, data, out or Path(f"{name}-train_ids.csv"))


def override_keys() -> list[str]:
    """Every key of a cfg that the command line can change, as section.key."""
    from mien.audet.check import override_keys as keys

    return keys()
