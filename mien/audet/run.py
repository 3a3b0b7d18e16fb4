"""The run folder of an AUDetNet: what was trained on what, checkpoints, and the net back from them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from mien.audet.cfg import parse
from mien.audet.check import read_cfg
from mien.audet.spec import Cfg
from mien.errors import DataError, UsageError
from mien.files import read_json, write_atomic, write_json
from mien.training import checkpoint

if TYPE_CHECKING:
    from mien.audet.nets import AudetNet

CFG = "audet.cfg"
HARMLESS = ("workers", "accelerator")
"""Keys that a resumed run may change."""


def load_audet(run: Path, which: str = "best") -> AudetNet:
    """Net of a run folder in evaluation mode, with the weights of its best (or `last`) epoch."""
    from mien.audet.nets import AudetNet

    cfg, _ = read_run(run)
    file = run / f"{which}.ckpt"
    tensors, meta = checkpoint.load_tensors(file)
    checkpoint.refuse_not_finite(tensors, file)
    refuse_unbound(file, meta, cfg)
    net = AudetNet(cfg, plain=True)
    try:
        net.load_state_dict(part(tensors, "net/" if which == "best" else "main/net."))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise DataError(f"{run}/{which}.ckpt does not fit its {CFG}: {reason}") from error
    return net.eval()


def read_run(run: Path) -> tuple[Cfg, dict[str, Any]]:
    """Cfg and environment of a run folder; one clear line for a wrong folder or another version."""
    if not (run / CFG).is_file():
        raise DataError(
            f"{run} is not a run folder of AUDetNet (no {CFG}); give the folder that `mien audet train` wrote."
        )
    file = run / "environment.json"
    facts = read_json(file, "train again")
    if facts.get("run_version") != checkpoint.RUN_VERSION:
        raise DataError(
            f"{run} was written by mien {facts.get('mien', '?')}, which this one does not read; train again."
        )
    return read_cfg(run / CFG), facts


def open_run(run: Path, cfg: Cfg) -> None:
    """Create a run folder, or check that an existing one holds the same cfg so that it can be resumed."""
    path = run / CFG
    if path.exists():
        before, now = _flat(path.read_text(encoding="utf-8")), _flat(cfg.text)
        changed = [key for key in {**now, **before} if before.get(key) != now.get(key)]
        changed = [key for key in changed if key.rsplit(" ", 1)[-1] not in HARMLESS]
        if changed:
            first = changed[0]
            raise UsageError(
                f"{run} holds a run with another cfg ({first}: {before.get(first, 'unset')} there, "
                f"{now.get(first, 'unset')} here); choose another --out, or delete the folder."
            )
        return
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot create {run}: {error}.") from error
    write_atomic(path, cfg.text)


def write_facts(run: Path, cfg: Cfg, store: Path, fingerprint: str, facts: dict[str, Any]) -> None:
    """environment.json; DataError where the folder was trained on other faces."""
    file = run / "environment.json"
    if file.exists() and read_json(file, "choose another --out").get("store_fingerprint") != fingerprint:
        raise DataError(f"{run} was trained on other data than {store} holds now; choose another --out.")
    whole = {
        **checkpoint.versions(),
        "seed": cfg.run.seed,
        "store": str(store),
        "store_fingerprint": fingerprint,
        "action_units": list(cfg.data.action_units),
        **facts,
    }
    write_json(file, whole)


NEEDED = ("mean", "std", "image_size", "action_units", "regress_au_intensities", "occurrence_threshold")
"""Data options that weights need in order to mean the same."""


def settings_sha256(cfg: Cfg) -> str:
    """Digest of what weights need: every net, and the options NEEDED."""
    nets = {key: value for key, value in _flat(cfg.text).items() if not key.startswith("{General}")}
    data = {name: str(getattr(cfg.data, name)) for name in NEEDED}
    return hashlib.sha256(json.dumps([nets, data], sort_keys=True).encode()).hexdigest()


def refuse_unbound(path: Path, meta: Mapping[str, Any], cfg: Cfg) -> None:
    """DataError where the weights of a run folder were trained under another cfg; those from before this was kept pass."""
    now = settings_sha256(cfg)
    if meta.get("settings", now) != now:
        raise DataError(
            f"{path} was trained with other nets or data options than its {CFG} says; bring back the {CFG} that was written "
            "beside it."
        )


def named(prefix: str, module: nn.Module | None) -> dict[str, Tensor]:
    """State of a module under a prefix; nothing for None."""
    return {} if module is None else {f"{prefix}/{name}": tensor for name, tensor in module.state_dict().items()}


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _flat(text: str) -> dict[str, str]:
    """'{Section} [block] key' (blocks numbered) -> value."""
    sections, _ = parse(text, CFG)
    flat = {}
    for section in sections:
        for number, block in enumerate(section.blocks):
            where = f"{{{section.name}}} block {number} [{block.type}]"
            if section.name != "General":  # where a block says nothing of its own
                flat[where] = "there"
            flat |= {f"{where} {key}": entry.value for key, entry in block.entries.items()}
    return flat
