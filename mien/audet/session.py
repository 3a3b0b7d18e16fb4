"""What an AUDetNet training holds: data, nets and optimisers, made at its start and kept in its run folder after every epoch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from mien.audet import data, run
from mien.audet.momu import Momu
from mien.audet.nets import AudetNet, Critic
from mien.audet.players import MainNet, Player, make_optimizer
from mien.audet.reader import FrozenReader, open_frozen
from mien.audet.regions import USUAL, corners_of
from mien.audet.spec import Cfg
from mien.compat import ensure_torchvision
from mien.data.framing import framing_of
from mien.data.store import Store, open_store
from mien.data.twins import Twins, twin_groups
from mien.errors import DataError, UsageError
from mien.models.memory_format import to_channels_last
from mien.models.precision import resolve_precision
from mien.schema import IntArray
from mien.training import checkpoint
from mien.training.devices import open_fabric
from mien.training.notes import tell_few

ensure_torchvision()
from lightning_fabric import Fabric  # noqa: E402


class Session(NamedTuple):
    """What every epoch needs; made once by `prepare_session`."""

    fabric: Fabric
    cfg: Cfg
    store: Store
    labels: data.Labels
    players: dict[str, Player]
    """main, and where they are trained critic (of pairs) and image_critic."""
    momu: Momu | None = None
    twins: Twins | None = None
    """Where batches of them are trained on."""
    reader: FrozenReader | None = None

    def groups(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(B,) numbers of the same person and of the same actions of rows of the store, -1 for none; on the CPU."""
        if self.twins is None:
            return (torch.full_like(rows, -1),) * 2
        return torch.from_numpy(self.twins.same_person[rows]), torch.from_numpy(self.twins.same_actions[rows])

    @property
    def net(self) -> AudetNet:
        """The net that is kept."""
        return cast(MainNet, self.players["main"].module).net


def prepare_session(cfg: Cfg, path: Path, out: Path) -> tuple[Session, dict[str, Any]]:
    """Data, nets, optimisers and run folder of a cfg, with the state of `last.ckpt` where there is one."""
    where = cfg.run
    precision = resolve_precision(where.precision, where.accelerator)
    fabric = open_fabric(where, precision)
    store = open_store(path)
    labels = data.labels_of(store, cfg)
    momu = data.make_momu(cfg, labels)
    refuse_idle(cfg, len(labels.train), fabric.world_size)
    torch.manual_seed(where.seed)
    resumes = (out / "last.ckpt").exists()
    net, reader = AudetNet(cfg, plain=resumes), open_frozen(cfg, store, fabric.device)
    if net.masked:
        net.corners.copy_(usual_corners(store, labels.train))
    numbers = cfg.z2_channels * math.prod(cfg.nets["Encoder"].output[1:])
    modules: dict[str, nn.Module] = {"main": MainNet(net, labels.subject_count, cfg.loss, numbers)}
    if cfg.uses_critic:
        modules["critic"] = Critic(cfg.nets["Discriminator"])
    if "Image Discriminator" in cfg.nets:
        modules["image_critic"] = Critic(cfg.nets["Image Discriminator"])
    if fabric.is_global_zero:
        tell_few(len(labels.valid), "raise --data.valid_fraction, or prepare the store with more validation faces")
        run.open_run(out, cfg)
        facts = {
            "device": str(fabric.device), "precision": precision, "dataset": store.info.dataset, "split": labels.report,
            "framing": framing_of(store, labels.train)._asdict(),
        }  # fmt: skip
        run.write_facts(out, cfg, path, store.fingerprint, facts)
    fabric.barrier()
    players = {}
    for name, module in modules.items():
        to_channels_last(module)
        players[name] = Player(module, *fabric.setup(module, make_optimizer(name, module, cfg)))
    twins = twin_groups(store) if cfg.data.twins else None
    session = Session(fabric, cfg, store, labels, players, momu, twins, reader)
    state = resume(out, session)
    if fabric.is_global_zero:
        checkpoint.trim_log(out, state["epoch"])
    return session, state


def usual_corners(store: Store, rows: IntArray) -> Tensor:
    """Mean place (4, 2) of the corners of the eyes over faces of a store, in shares of the side; USUAL where none is known."""
    found = corners_of(torch.from_numpy(store.landmarks_of(rows)), store.info.size)
    known = found[found.flatten(1).isfinite().all(1)]
    return known.mean(0) if len(known) else torch.tensor(USUAL)


def refuse_idle(cfg: Cfg, faces: int, processes: int) -> None:
    """UsageError for a training whose main net would never have a turn; `faces` are those of train."""
    if not (cfg.uses_critic or "Image Discriminator" in cfg.nets):
        return  # without critics every batch is its turn
    faces = (cfg.data.epoch_size if cfg.data.balance_dataset_with_momu else faces) // processes
    batches = max(1, faces // cfg.training.batch_size) * cfg.training.max_epochs
    every = cfg.training.train_main_net_every_n_batches
    if batches < every:
        raise UsageError(
            f"training.train_main_net_every_n_batches is {every}, but the training has {batches} batches: the main net would "
            f"take no step. Lower it, or training.batch_size {cfg.training.batch_size}, or raise training.max_epochs."
        )


def next_state(state: dict[str, Any], line: dict[str, Any]) -> dict[str, Any]:
    """State after an epoch: which epoch was finished last, which was best so far (the first of equals) and its loss."""
    loss = line.get("valid_swap", line["valid_au"])
    if state["best_epoch"] and loss >= state["best_loss"]:
        return {**state, "epoch": line["epoch"]}
    return {"epoch": line["epoch"], "best_epoch": line["epoch"], "best_loss": loss}


def keep(out: Path, session: Session, line: dict[str, Any], state: dict[str, Any]) -> None:
    """Append to the log and TensorBoard, save best and last checkpoints, print one line."""
    bound = {"settings": run.settings_sha256(session.cfg)}
    if state["best_epoch"] == line["epoch"]:
        meta = {"epoch": state["best_epoch"], "loss": state["best_loss"], **bound}
        checkpoint.save_tensors(out / "best.ckpt", run.named("net", session.net), meta)
    checkpoint.log_line(out, line)
    tensors: dict[str, Tensor] = {}
    for name, player in session.players.items():
        tensors |= run.named(name, player.module)
        tensors |= {f"{name}/{key}": value for key, value in checkpoint.optimizer_tensors(player.optimizer).items()}
    if session.momu is not None:
        tensors |= {f"momu/{key}": value for key, value in session.momu.state().items()}
    checkpoint.save_tensors(out / "last.ckpt", tensors, state | bound)
    shown = {name: value for name, value in line.items() if name.startswith(("train_", "valid_"))}
    values = "  ".join(f"{name} {value:.4f}" for name, value in shown.items())
    print(f"{out.name} epoch {line['epoch']:>3}  {values}  {line['seconds']:.0f} s", flush=True)


def resume(out: Path, session: Session) -> dict[str, Any]:
    """Load `last.ckpt` where there is one, with optimisers and pools; the state says where training stands."""
    if not (out / "last.ckpt").exists():
        return {"epoch": 0, "best_epoch": 0, "best_loss": 0.0}
    tensors, meta = checkpoint.load_tensors(out / "last.ckpt")
    if meta.get("run_version") != checkpoint.RUN_VERSION:
        raise DataError(f"{out}/last.ckpt was written by another version of mien; choose another --out.")
    checkpoint.refuse_not_finite(tensors, out / "last.ckpt")
    run.refuse_unbound(out / "last.ckpt", meta, session.cfg)
    with checkpoint.resuming(out / "last.ckpt"):
        for name, player in session.players.items():
            own = run.part(tensors, f"{name}/")
            checkpoint.restore_optimizer(player.optimizer, own)
            weights = {key: value for key, value in own.items() if not key.startswith("optimizer/")}
            player.module.load_state_dict(weights)
        if session.momu is not None:
            session.momu.restore(run.part(tensors, "momu/"))
        best = {"best_epoch": int(meta["best_epoch"]), "best_loss": float(meta["best_loss"])}
        return {"epoch": int(meta["epoch"]), **best}
