"""Training of AUDetNet, from cfg to run folder, readable from top to bottom: the adversarial loop."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from mien.audet.dependency import critic_estimate, shuffled_order
from mien.audet.faces import au_loss, changed, first_alike, moved, noisy
from mien.audet.growth import tell_growth
from mien.audet.output import AudetOutput
from mien.audet.players import Player, learning_rate_factor, take_step
from mien.audet.regions import corners_of, inactive
from mien.audet.session import Session, keep, next_state, prepare_session, refuse_idle
from mien.audet.spec import Cfg
from mien.audet.swap_terms import partners
from mien.audet.terms import Faces, embedding_variance, main_terms, sum_of_losses
from mien.data.loader import Loader
from mien.data.twins import twin_batches
from mien.errors import DataError
from mien.files import alone
from mien.losses.adversarial import gradient_penalty, mixed
from mien.progress import track
from mien.schema import Batch, IntArray
from mien.training.checkpoint import read_log
from mien.training.devices import together

__all__ = ["Session", "embedding_variance", "fit", "refuse_idle", "train_audet", "train_step"]


def train_audet(cfg: Cfg, store: Path, out: Path) -> None:
    """Train a cfg on a prepared store into a run folder; the same command resumes. Behind `mien audet train`."""
    best = fit(cfg, store, out)
    swaps = "valid_swap" in read_log(out / "log.jsonl")[-1]
    what = "error of swapped validation faces" if swaps else "validation AU loss"
    print(f"{out}: best epoch {best['epoch']}, {what} {best['loss']:.4f}. Next: mien audet evaluate {out}")


def fit(cfg: Cfg, store: Path, out: Path) -> dict[str, Any]:
    """Train into `out`, resuming from `last.ckpt` where there is one. Returns epoch and loss of the best epoch.

    DataError where another process trains into the same folder.
    """
    with alone(out), together():
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


def epoch_rows(session: Session, epoch: int) -> IntArray:
    """Rows of one training epoch in random order, a multiple of the number of processes; the same in all of them."""
    rows, seed, processes = session.labels.train, session.cfg.run.seed, session.fabric.world_size
    if session.momu is not None:
        session.momu.set_epoch(epoch)
        rows = rows[session.momu.order]
    elif session.cfg.data.twins:
        return twin_rows(session, rows, epoch)
    else:
        rows = np.random.default_rng((seed, epoch)).permutation(rows)
    if len(rows) < 2 * processes:
        raise DataError(f"an epoch has {len(rows)} faces for {processes} processes; lower --run.devices.")
    return rows[: len(rows) // processes * processes]


def twin_rows(session: Session, rows: IntArray, epoch: int) -> IntArray:
    """Rows of an epoch in whole blocks of twins, as many batches for each process."""
    cfg, processes = session.cfg, session.fabric.world_size
    assert session.twins is not None
    side, batch = cfg.data.twins, cfg.training.batch_size
    blocks = batch // side**2
    batches = twin_batches(
        session.twins, rows, blocks=blocks, people=side, actions=side, seed=cfg.run.seed, epoch=epoch
    )
    whole = [each.reshape(-1) for each in batches if len(each) == blocks]
    if len(whole) < processes:
        raise DataError(
            f"{session.store.path}: {len(batches)} batches of {blocks} blocks of twins for {processes} processes; lower "
            "--training.batch_size."
        )
    whole = whole[: len(whole) // processes * processes]
    return np.concatenate([each for rank in range(processes) for each in whole[rank::processes]])


def rows_of_process(session: Session, rows: IntArray) -> IntArray:
    """The part of an epoch's rows that falls to a process."""
    rank, processes = session.fabric.global_rank, session.fabric.world_size
    return rows.reshape(processes, -1)[rank] if session.cfg.data.twins else rows[rank::processes]


def train_epoch(session: Session, epoch: int, rows: IntArray) -> dict[str, float]:
    """One pass over `rows`; mean of every term over the steps that had it, over all processes."""
    fabric, cfg = session.fabric, session.cfg
    rows = rows_of_process(session, rows)
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
        here_rows = torch.from_numpy(rows[step * cfg.training.batch_size :][: len(batch.images)])  # not from the device
        faces = faces_of(session, batch, here_rows, here, cpu)
        turn = ((epoch - 1) * len(loader) + step + 1) % every == 0
        for name, term in train_step(session, faces, turn, cpu).items():
            totals[name].append(term.detach())
    means = {name: torch.stack(values).float().mean() for name, values in totals.items()}
    return {name: float(fabric.all_reduce(value)) for name, value in means.items()}


def faces_of(session: Session, batch: Batch, rows: Tensor, here: torch.Generator, cpu: torch.Generator) -> Faces:
    """A batch as the nets take it: changed at random by `here` (twins alike), noisy for the encoder, with the partners of swaps."""
    cfg, net = session.cfg, session.net
    pictures = batch.images * 0.5 + 0.5
    first, takes = rows_that_share(session, rows, cpu)
    if cfg.uses_regions:
        mask = inactive(net.known_corners(corners_of(batch.landmarks, cfg.data.image_size)), cfg.data.image_size)
        pictures = torch.cat([pictures, mask], 1)
    pictures = changed(moved(pictures, cfg.data.affine, here, first), cfg.data.flip, cfg.data.colour, here, first)
    clean, quiet = pictures[:, :3], pictures[:, 3:] if cfg.uses_regions else None
    seen = net.standardise(noisy(clean, cfg.data.noise, here), mask=quiet)
    whole = (clean * 2 - 1).contiguous(memory_format=torch.channels_last)
    return Faces(seen, whole, rows, quiet, takes)


def rows_that_share(
    session: Session, rows: Tensor, generator: torch.Generator
) -> tuple[Tensor | None, tuple[Tensor, Tensor] | None]:
    """For each row of a batch, as (B,) on the device in one copy: that whose random changes it shares, and where faces are decoded
    from their twins those whose z1 and whose z2 it takes.
    """
    if not session.cfg.data.twins:
        return None, None
    (person, actions), share = session.groups(rows), session.cfg.loss.twin_targets
    found = [first_alike(torch.where(person < 0, -1 - torch.arange(len(rows)), person))]
    if share:
        found += [partners(actions, person, share, generator), partners(person, actions, share, generator)]
    first, *takes = torch.stack(found).to(session.fabric.device).unbind()
    return first, (takes[0], takes[1]) if takes else None


def train_step(session: Session, faces: Faces, turn: bool, generator: torch.Generator) -> dict[str, Tensor]:
    """A step of the critics, and where it is the main net's turn one of it; the unweighted terms, for the log.

    Args:
        session: of the run.
        faces: of the batch.
        turn: whether the main net learns; without, it keeps no graph.
        generator: of pairs and of the places of gradient penalties, on the CPU.

    """
    cfg, seen = session.cfg, faces.seen
    decode = turn or "image_critic" in session.players  # half of a step at 256 px, and nobody else looks at its picture
    takes = faces.takes or (None, None)
    with torch.set_grad_enabled(turn):
        found = session.players["main"].wrapped(seen, decode, *takes)
    order = shuffled_order(cfg.loss.pairing, len(seen), generator, session.labels.subjects[faces.rows])
    if cfg.splits or faces.takes is None:  # else nobody pairs by it
        order = order.to(seen.device)
    terms = critic_steps(session, found.output, faces.pictures, order, generator)
    if turn:
        terms |= main_terms(session, found, faces, order)
        session.fabric.backward(sum_of_losses(cfg, terms))
        take_step(session.players["main"])
    return terms


def critic_steps(
    session: Session, output: AudetOutput, pictures: Tensor, order: Tensor, generator: torch.Generator
) -> dict[str, Tensor]:
    """One step of each critic that there is, on what the main net gave; their estimates, for the log."""
    loss, terms = session.cfg.loss, {}
    share = torch.rand(2, len(order), generator=generator)
    if len(session.players) > 1:
        share = share.to(pictures.device)
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


@torch.no_grad()
def validate(session: Session) -> dict[str, float]:
    """AU loss and reconstruction error on the validation faces, each face counted alike; `swap` is the error of faces decoded from
    their twins, where those are trained.
    """
    cfg, net, device = session.cfg, session.net, session.fabric.device
    batch_size, rows = cfg.training.batch_size, session.labels.valid
    if cfg.training.max_test_iters:
        rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), cfg.training.max_test_iters * batch_size)).astype(int)]
    net.eval()
    logits, errors, swaps = [], [], []
    loader = Loader(
        session.store, rows, np.zeros(len(session.store), np.int64), size=cfg.data.image_size, batch=batch_size,
        device=device, workers=cfg.run.workers, preprocessing="half",
    )  # fmt: skip
    cpu = torch.Generator().manual_seed(0)
    for step, batch in enumerate(loader):
        with session.fabric.autocast():
            corners = corners_of(batch.landmarks, cfg.data.image_size)
            output = net(net.standardise(batch.images * 0.5 + 0.5, corners))
        logits.append(output.logits.float().cpu())
        if output.reconstruction is not None:
            errors.append((output.reconstruction.float() - batch.images).abs().mean((1, 2, 3)).cpu())
        if cfg.loss.twin_targets:
            here = torch.from_numpy(rows[step * batch_size :][: len(batch.images)])
            person, actions = session.groups(here)
            of_z1, of_z2 = partners(actions, person, 1.0, cpu), partners(person, actions, 1.0, cpu)
            with session.fabric.autocast():
                picture = net.decode(output.z1[of_z1], output.z2[of_z2], tuple(skip[of_z2] for skip in output.skips))
            swaps.append((picture.float() - batch.images).abs().mean((1, 2, 3)).cpu()[of_z1 != of_z2])
    net.train()
    scores = {"au": float(au_loss(torch.cat(logits), session.labels.targets[rows], cfg.cross_entropy))}
    if errors:
        scores["reconstruction"] = float(torch.cat(errors).mean())
    if swaps and len(torch.cat(swaps)):
        scores["swap"] = float(torch.cat(swaps).mean())
    return scores
