"""Training of AUDetNet, from cfg to run folder, readable from top to bottom: the adversarial loop."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mien.audet import data, run
from mien.audet.dependency import critic_estimate, dependency, shuffled_order
from mien.audet.faces import au_loss, changed, moved, noisy
from mien.audet.growth import tell_growth
from mien.audet.momu import Momu
from mien.audet.nets import AudetNet, Critic
from mien.audet.output import AudetOutput
from mien.audet.players import MainNet, Player, learning_rate_factor, make_optimizer, take_step
from mien.audet.spec import Cfg
from mien.compat import ensure_torchvision
from mien.data.framing import framing_of
from mien.data.loader import Loader
from mien.data.store import Store, open_store
from mien.errors import DataError, UsageError
from mien.files import alone
from mien.losses.adversarial import gradient_penalty, mixed
from mien.models.memory_format import to_channels_last
from mien.models.precision import resolve_precision
from mien.progress import track
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
    momu: Momu | None

    @property
    def net(self) -> AudetNet:
        """The net that is kept."""
        return cast(MainNet, self.players["main"].module).net


def train_audet(cfg: Cfg, store: Path, out: Path) -> None:
    """Train a cfg on a prepared store into a run folder; the same command resumes. Behind `mien audet train`."""
    best = fit(cfg, store, out)
    print(f"{out}: best epoch {best['epoch']}, validation AU loss {best['loss']:.4f}. Next: mien audet evaluate {out}")


def fit(cfg: Cfg, store: Path, out: Path) -> dict[str, Any]:
    """Train into `out`, resuming from `last.ckpt` where there is one. Returns epoch and loss of the best epoch.

    DataError where another process trains into the same folder.
    """
    with alone(out):
        return _fit(cfg, store, out)


def _fit(cfg: Cfg, store: Path, out: Path) -> dict[str, Any]:
    session, state = prepare_session(cfg, store, out)
    for epoch in range(state["epoch"] + 1, cfg.training.max_epochs + 1):
        began = time.perf_counter()
        rows = epoch_rows(session, epoch)
        terms = train_epoch(session, epoch, rows)
        seconds = time.perf_counter() - began
        scores = session.fabric.broadcast(validate(session))  # batch statistics differ between processes
        line: dict[str, Any] = {
            "epoch": epoch,
            "lr": session.players["main"].optimizer.param_groups[0]["lr"],
            **{f"train_{name}": value for name, value in terms.items()},
            **{f"valid_{name}": value for name, value in scores.items()},
        }
        bad = [name for name, value in line.items() if not math.isfinite(value)]
        if bad:
            raise DataError(f"{out}: {bad[0]} became {line[bad[0]]} in epoch {epoch}; lower --encoder.learning_rate.")
        line |= {
            "seconds": round(seconds, 2),
            "images_per_second": round(len(rows) / seconds, 1),
        }
        state = next_state(state, line)
        if session.fabric.is_global_zero:
            keep(out, session, line, state)
            tell_growth(out)
        session.fabric.barrier()
    return {"epoch": state["best_epoch"], "loss": state["best_loss"]}


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
    modules: dict[str, nn.Module] = {
        "main": MainNet(AudetNet(cfg, plain=resumes), labels.subject_count, cfg.loss.identity_loss_lambda)
    }
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
    session = Session(fabric, cfg, store, labels, players, momu)
    state = resume(out, session)
    if fabric.is_global_zero:
        checkpoint.trim_log(out, state["epoch"])
    return session, state


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


def epoch_rows(session: Session, epoch: int) -> IntArray:
    """Rows of one training epoch in random order, a multiple of the number of processes; the same in all of them."""
    rows, seed, processes = session.labels.train, session.cfg.run.seed, session.fabric.world_size
    if session.momu is not None:
        session.momu.set_epoch(epoch)
        rows = rows[session.momu.order]
    else:
        rows = np.random.default_rng((seed, epoch)).permutation(rows)
    if len(rows) < 2 * processes:
        raise DataError(f"an epoch has {len(rows)} faces for {processes} processes; lower --run.devices.")
    return rows[: len(rows) // processes * processes]


def train_epoch(session: Session, epoch: int, rows: IntArray) -> dict[str, float]:
    """One pass over `rows`; mean of every term over the steps that had it, over all processes."""
    fabric, cfg = session.fabric, session.cfg
    rows = rows[fabric.global_rank :: fabric.world_size]
    loader = Loader(
        session.store, rows, np.zeros(len(session.store), np.int64),
        size=cfg.data.image_size, batch=cfg.training.batch_size, device=fabric.device, workers=cfg.run.workers,
        drop_last=True, preprocessing="half",
    )  # fmt: skip
    seeds = np.random.SeedSequence((cfg.run.seed, epoch, fabric.global_rank)).generate_state(3)
    torch.manual_seed(int(seeds[0]))  # dropout of timm nets; all else draws from the two generators
    here, cpu = (
        torch.Generator(device).manual_seed(int(s)) for device, s in zip((fabric.device, "cpu"), seeds[1:], strict=True)
    )
    for player in session.players.values():
        player.module.train()
        for group in player.optimizer.param_groups:
            group["lr"] = group["base"] * learning_rate_factor(cfg, epoch)
    totals: dict[str, list[Tensor]] = defaultdict(list)
    every = 1 if len(session.players) == 1 else cfg.training.train_main_net_every_n_batches
    for step, batch in enumerate(track(loader, f"epoch {epoch}/{cfg.training.max_epochs}", len(loader))):
        placed = moved(batch.images * 0.5 + 0.5, cfg.data.affine, here)
        clean = changed(placed, cfg.data.flip, cfg.data.colour, here)
        seen = session.net.standardise(noisy(clean, cfg.data.noise, here))
        pictures = (clean * 2 - 1).contiguous(memory_format=torch.channels_last)
        turn = ((epoch - 1) * len(loader) + step + 1) % every == 0
        here_rows = torch.from_numpy(rows[step * cfg.training.batch_size :][: len(seen)])  # without asking the device
        for name, term in train_step(session, seen, pictures, here_rows, turn, cpu).items():
            totals[name].append(term.detach())
    means = {name: torch.stack(values).float().mean() for name, values in totals.items()}
    return {name: float(fabric.all_reduce(value)) for name, value in means.items()}


def train_step(
    session: Session, seen: Tensor, pictures: Tensor, rows: Tensor, turn: bool, generator: torch.Generator
) -> dict[str, Tensor]:
    """A step of the critics, and where it is the main net's turn one of it; the unweighted terms, for the log.

    Args:
        session: of the run.
        seen: (B, 3, H, W) what the encoder sees, normalised, with noise.
        pictures: (B, 3, H, W) the same without noise, in [-1, 1].
        rows: (B,) rows of the store, on the CPU.
        turn: whether the main net learns; without, it keeps no graph.
        generator: of pairs and of the places of gradient penalties, on the CPU.

    """
    cfg = session.cfg
    decode = turn or "image_critic" in session.players  # half of a step at 256 px, and nobody else looks at its picture
    with torch.set_grad_enabled(turn):
        output, identities = session.players["main"].wrapped(seen, decode)
    order = shuffled_order(cfg.loss.pairing, len(seen), generator, session.labels.subjects[rows]).to(seen.device)
    terms = critic_steps(session, output, pictures, order, generator)
    if turn:
        terms |= main_terms(session, output, identities, pictures, rows, order)
        session.fabric.backward(sum_of_losses(cfg, terms))
        take_step(session.players["main"])
    return terms


def critic_steps(
    session: Session, output: AudetOutput, pictures: Tensor, order: Tensor, generator: torch.Generator
) -> dict[str, Tensor]:
    """One step of each critic that there is, on what the main net gave; their estimates, for the log."""
    loss, terms = session.cfg.loss, {}
    share = torch.rand(2, len(order), generator=generator).to(pictures.device)
    if "image_critic" in session.players and output.reconstruction is not None:
        player, fake = session.players["image_critic"], output.reconstruction.detach()
        between = mixed(pictures, fake, share[0])
        real_score, fake_score = player.wrapped(torch.cat([pictures, fake])).chunk(2)
        gap = real_score.mean() - fake_score.mean()
        penalty = gradient_penalty(unwatched(session, player)(between), between)
        session.fabric.backward(loss.gradient_loss_lambda_img_discr * penalty - gap)
        take_step(player)
        terms["image_distance"] = gap
    if "critic" in session.players:
        player, z = session.players["critic"], torch.cat([output.z1, output.z2], 1)
        estimate = critic_estimate(
            loss.dependency, player.wrapped, z, output.z1.shape[1], order, share[1],
            loss.gradient_loss_lambda_discr, unwatched(session, player),
        )  # fmt: skip
        session.fabric.backward(estimate.loss)
        take_step(player)
        terms["critic"] = estimate.loss
    return terms


def unwatched(session: Session, player: Player) -> Callable[[Tensor], Tensor]:
    """A critic's scores in the run's precision; in mixed precision Fabric forbids torch.autograd.grad through its wrapper."""

    def scores(values: Tensor) -> Tensor:
        with session.fabric.autocast():
            return cast(Tensor, player.module(values))

    return scores


def main_terms(
    session: Session, output: AudetOutput, identities: Tensor | None, pictures: Tensor, rows: Tensor, order: Tensor
) -> dict[str, Tensor]:
    """Unweighted terms of the main net's loss; the critics are those after their step of this batch, and do not learn here."""
    cfg, players = session.cfg, session.players
    targets = session.labels.targets[rows].to(pictures.device)
    terms = {"au": au_loss(output.logits, targets, cfg.cross_entropy), "z1_variance": embedding_variance(output.z1)}
    if output.reconstruction is not None:
        terms["reconstruction"] = F.l1_loss(output.reconstruction, pictures)
    critics = [players[name].module for name in ("critic", "image_critic") if name in players]
    learning = [weight for critic in critics for weight in critic.parameters() if weight.requires_grad]
    for weight in learning:
        weight.requires_grad_(False)
    with session.fabric.autocast():
        if cfg.splits:
            score = players["critic"].module if "critic" in players else None
            z = torch.cat([output.z1, output.z2], 1)
            terms["dependency"] = dependency(
                cfg.loss.dependency, score, z, output.z1.shape[1], order, cfg.loss.through_shuffled
            )
        if "image_critic" in players and output.reconstruction is not None:
            terms["image_adversary"] = -players["image_critic"].module(output.reconstruction).mean()
    for weight in learning:
        weight.requires_grad_(True)
    if identities is not None:
        subjects = session.labels.subjects[rows].to(pictures.device)
        terms["identity"] = F.cross_entropy(identities, subjects)
    return terms


def embedding_variance(z: Tensor) -> Tensor:
    """Mean over the channels of a part of the embedding (B, C, h, w) of its variance over faces and places; for the log."""
    return z.detach().float().transpose(0, 1).flatten(1).var(1, unbiased=False).mean()


WEIGHTS = {
    "reconstruction": "reconstruction_loss_lambda",
    "dependency": "discriminator_loss_lambda",
    "image_adversary": "img_discriminator_loss_lambda",
}
"""Term -> key of its weight; `au` and `identity` have 1 (the reversed gradient carries the weight of the latter)."""


def sum_of_losses(cfg: Cfg, terms: dict[str, Tensor]) -> Tensor:
    """Weighted sum of the main net's terms."""
    parts = [terms[name] * (getattr(cfg.loss, WEIGHTS[name]) if name in WEIGHTS else 1.0)
             for name in ("au", "identity", *WEIGHTS) if name in terms]  # fmt: skip
    return torch.stack(parts).sum()


@torch.no_grad()
def validate(session: Session) -> dict[str, float]:
    """AU loss and reconstruction error on the validation faces, each face counted alike."""
    cfg, net, device = session.cfg, session.net, session.fabric.device
    batch_size, rows = cfg.training.batch_size, session.labels.valid
    if cfg.training.max_test_iters:
        rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), cfg.training.max_test_iters * batch_size)).astype(int)]
    net.eval()
    logits, errors = [], []
    loader = Loader(
        session.store, rows, np.zeros(len(session.store), np.int64), size=cfg.data.image_size, batch=batch_size,
        device=device, workers=cfg.run.workers, preprocessing="half",
    )  # fmt: skip
    for batch in loader:
        with session.fabric.autocast():
            output = net(net.standardise(batch.images * 0.5 + 0.5))
        logits.append(output.logits.float().cpu())
        if output.reconstruction is not None:
            errors.append((output.reconstruction.float() - batch.images).abs().mean((1, 2, 3)).cpu())
    net.train()
    scores = {"au": float(au_loss(torch.cat(logits), session.labels.targets[rows], cfg.cross_entropy))}
    if errors:
        scores["reconstruction"] = float(torch.cat(errors).mean())
    return scores


def next_state(state: dict[str, Any], line: dict[str, Any]) -> dict[str, Any]:
    """State after an epoch: which epoch was finished last, which was best so far (the first of equals) and its loss."""
    if state["best_epoch"] and line["valid_au"] >= state["best_loss"]:
        return {**state, "epoch": line["epoch"]}
    return {"epoch": line["epoch"], "best_epoch": line["epoch"], "best_loss": line["valid_au"]}


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
