"""AUDetNet: action units from an embedding in two parts, defined by a cfg file. Verb `mien audet`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

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
    "swap": {"other", "run", "out", "finder", "steps"},
}
"""Action -> options that mean something to it."""


def audet(
    action: Literal["summary", "train", "momu", "evaluate", "predict", "disentangle", "swap"],
    source: Path,
    other: Path | None = None,
    *,
    data: Path | None = None,
    out: Path | None = None,
    split: Literal["train", "valid", "test", "all"] | None = None,
    against: Path | None = None,
    faces: int | None = None,
    draws: int | None = None,
    seed: int | None = None,
    reader: str | None = None,
    run: Path | None = None,
    finder: str | None = None,
    steps: int | None = None,
    overrides: Sequence[str] = (),
) -> None:
    """Action units from disentangled embeddings: look at a cfg, train it, score and examine a run, swap expressions.

    Args:
        action: summary, train or momu (ids of a balanced epoch) of a cfg; evaluate, predict or disentangle of a run; swap of two
            photos: the expression of each on the other.
        source: cfg file, run folder, or the first photo of swap.
        other: the second photo of swap.
        data: prepared store with action units; for evaluate and disentangle that of the training when not given.
        out: run folder (train; default runs/<cfg>-seed<seed>), file to write (momu, predict), or folder (swap; swaps when
            not given).
        split: faces to evaluate or disentangle (test when not given); evaluate takes valid or test.
        against: another run on the same units that disentangle examines beside the first.
        faces: most faces that disentangle looks at (1000 when not given).
        draws: permutations of disentangle's dependency tests (199 when not given).
        seed: of disentangle's draws (0 when not given).
        reader: who reads the action units of disentangle's swaps: blendshapes, the run folder of another net, or none; blendshapes
            where there is the face model, when not given.
        run: run folder whose net swaps.
        finder: who finds the faces of swap: mediapipe, dlib, none (whole pictures are faces), or auto (when not given), mediapipe
            where it is there.
        steps: pictures of swap's strip, from a face's own expression to the other's (9 when not given).
        overrides: --section.key value pairs, e.g. --training.max_epochs 3 --loss.dependency hsic --run.seed 1.

    """
    given: dict[str, Any] = {
        "data": data, "out": out, "split": split, "against": against, "faces": faces, "draws": draws, "seed": seed,
        "reader": reader, "other": other, "run": run, "finder": finder, "steps": steps, "overrides": overrides or None,
    }  # fmt: skip
    chosen = {name: value for name, value in given.items() if value is not None}
    _refuse_foreign(action, chosen)
    if action in ("summary", "train", "momu"):
        from mien.audet.check import read_cfg

        _of_cfg(action, read_cfg(source, overrides), source.stem, data, out)
    elif action == "swap":
        if other is None or run is None:
            raise UsageError("mien audet swap needs two photos and --run RUN, a run whose net has z2 and a decoder.")
        from mien.audet.swap import STEPS, swap_audet

        swap_audet(run, source, other, out or Path("swaps"), finder or "auto", STEPS if steps is None else steps)
    elif action == "predict":
        if data is None or out is None:
            raise UsageError("mien audet predict needs --data STORE and --out FILE.")
        from mien.audet.predict import predict_audet

        predict_audet(source, data, out)
    elif action == "evaluate":
        from mien.audet.evaluate import evaluate_audet

        evaluate_audet(source, data, split or "test")
    else:
        from mien.audet.disentangle import disentangle_audet

        numbers = {name: chosen[name] for name in ("faces", "draws", "seed") if name in chosen}
        disentangle_audet(source, data, split or "test", against, reader=reader or "auto", **numbers)


def _refuse_foreign(action: str, chosen: Mapping[str, object]) -> None:
    """UsageError for an option that means nothing to an action."""
    for name in chosen:
        if name not in TAKES[action]:
            words = {"overrides": "pairs of --section.key value", "other": "second path"}
            raise UsageError(f"mien audet {action} takes no {words.get(name, f'--{name}')}; see `mien audet --help`.")


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
