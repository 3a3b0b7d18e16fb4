"""Several nets that differ in their seed alone, as one: branches side by side whose logits are averaged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from mien.errors import DataError, UsageError
from mien.files import read_json, write_atomic, write_json
from mien.training import checkpoint

HEADS = ("model/head.", "model/label_head.")


def join_runs(runs: Sequence[Path], out: Path) -> None:
    """Write a run folder whose net gives the mean of the logits of several small_resnets, as an ensemble does.

    The mean of linear layers on pooled channels is one linear layer on the channels of all, so that maps, explanations and
    every runtime see one net.

    Args:
        runs: folders of `mien train`, equal but for run.seed, trained and validated on the same faces.
        out: folder to write.

    Raises:
        UsageError: nets or settings that cannot be joined. DataError: damaged runs, or other faces.

    """
    settings = [yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")) for run in runs]
    facts = [read_json(run / "environment.json", "train again") for run in runs]
    refuse_others(runs, settings, facts)
    loaded = [checkpoint.load_tensors(run / "best.ckpt") for run in runs]
    parts = [{name: one for name, one in tensors.items() if name.startswith("model/")} for tensors, _ in loaded]
    out.mkdir(parents=True, exist_ok=True)
    seeds = [one["run"]["seed"] for one in settings]
    settings[0]["model"]["backbone_options"] = {"branches": len(runs)}
    write_atomic(out / "config.yaml", yaml.safe_dump(settings[0], sort_keys=False))
    write_json(out / "environment.json", {**facts[0], "joined_seeds": seeds})
    meta = {**loaded[0][1], **checkpoint.bound_to(*checkpoint.read_run(out)), "joined_seeds": seeds}
    checkpoint.save_tensors(out / "best.ckpt", joined(parts), meta)


def joined(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Weights of small_resnets -> those of one with as many branches: channels one net after the other, heads averaged."""
    whole = {}
    for name, first in parts[0].items():
        own = [part[name] for part in parts]
        if name.startswith(HEADS):
            whole[name] = torch.cat(own, 1) / len(own) if first.dim() > 1 else torch.stack(own).mean(0)
        else:
            whole[name] = torch.cat(own) if first.dim() else first
    return whole


def refuse_others(runs: Sequence[Path], settings: Sequence[Any], facts: Sequence[dict[str, Any]]) -> None:
    """UsageError for nets that are no small_resnets of one recipe, DataError for other faces."""
    plain = []
    for run, one in zip(runs, settings, strict=True):
        model = one["model"]
        if model["backbone"] != "small_resnet" or model["head"] != "gap" or model["backbone_options"]:
            raise UsageError(f"{run}: only nets of model.backbone small_resnet with model.head gap can be joined.")
        plain.append({**one, "run": {**one["run"], "seed": None}})
    if any(one != plain[0] for one in plain):
        raise UsageError(f"{', '.join(map(str, runs))}: runs that are joined differ in run.seed alone.")
    if len({one["run"]["seed"] for one in settings}) < len(runs):
        raise UsageError(f"{', '.join(map(str, runs))}: two runs have the same run.seed.")
    if any(
        (one["store_fingerprint"], one["split"]) != (facts[0]["store_fingerprint"], facts[0]["split"]) for one in facts
    ):
        raise DataError(f"{', '.join(map(str, runs))}: runs that are joined see the same faces of the same store.")
    if facts[0]["split"]["validation"] != "official":
        raise DataError(f"{runs[0]}: validation faces that depend on run.seed were training faces of the other runs.")
