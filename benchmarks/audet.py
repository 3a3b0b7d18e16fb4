"""Steps of AUDetNet through the functions that `mien audet train` calls, against a plain implementation of the published loop."""

from __future__ import annotations

import copy
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from benchmarks.rows import Row, round_times
from mien.audet.check import read_cfg
from mien.audet.data import Labels
from mien.audet.nets import AudetNet, Critic
from mien.audet.players import MainNet, Player, make_optimizer
from mien.audet.spec import Cfg
from mien.audet.terms import Faces
from mien.audet.train import Session, train_step

CFGS = Path(__file__).resolve().parent.parent / "recipes" / "audet"


def measure(quick: bool = False) -> list[Row]:
    """One main step with the critic steps before it. The ratio is the median over rounds of neighbours."""
    plans = [("small", 8 if quick else 32, 1 if quick else 5)]
    plans += [] if quick else [("with_basic_and_image_discriminator_z1_size_64", 8, 2)]
    rows = []
    for name, batch, repeats in plans:
        cfg = read_cfg(CFGS / f"{name}.cfg", ["--loss.pairing", "roll", "--run.accelerator", "cpu"])
        ours, plain = both(cfg, batch)
        times = round_times({"ours": ours, "plain": plain}, repeats)
        ratio = statistics.median(b / a for a, b in zip(times["ours"], times["plain"], strict=True))
        every = cfg.training.train_main_net_every_n_batches
        faces = [every * batch / statistics.median(times[which]) for which in ("ours", "plain")]
        what = f"AUDetNet {name}, {cfg.data.image_size} px, batch {batch}, faces a second"
        rows.append(Row(what, *faces, ratio, ">= 1.5", 1))
    return rows


def both(cfg: Cfg, batch: int) -> tuple[Any, Any]:
    """Two calls that train the same start on the same faces, n critic steps and a main step each; they return their terms."""
    torch.manual_seed(0)
    size, every = cfg.data.image_size, cfg.training.train_main_net_every_n_batches
    faces = [torch.rand(batch, 3, size, size) * 2 - 1 for _ in range(every)]
    labels = torch.randint(0, 2, (every * batch, len(cfg.data.action_units))).float()
    nets: dict[str, nn.Module] = {
        "main": MainNet(AudetNet(cfg), 0, cfg.loss),
        "critic": Critic(cfg.nets["Discriminator"]),
    }
    if "Image Discriminator" in cfg.nets:
        nets["image_critic"] = Critic(cfg.nets["Image Discriminator"])
    plain = {name: copy.deepcopy(net).train() for name, net in nets.items()}
    session = session_of(cfg, nets, labels)
    optimizers = {name: torch.optim.Adam(_groups(name, net, cfg)) for name, net in plain.items()}
    return (
        partial(our_steps, session, faces, torch.Generator().manual_seed(0)),
        partial(plain_steps, cfg, plain, optimizers, faces, labels, torch.Generator().manual_seed(0)),
    )


def session_of(cfg: Cfg, nets: dict[str, nn.Module], targets: Tensor) -> Session:
    """As `prepare_session` makes it, of nets and labels at hand."""
    fabric = Fabric(accelerator="cpu", devices=1)
    players = {}
    for name, net in nets.items():
        net.train().to(memory_format=torch.channels_last)
        players[name] = Player(net, *fabric.setup(net, make_optimizer(name, net, cfg)))
    none: Any = None
    labels = Labels(none, none, none, none, targets, torch.full((len(targets),), -1), 0, {})
    return Session(fabric, cfg, none, labels, players)


def our_steps(session: Session, faces: list[Tensor], generator: torch.Generator) -> dict[str, float]:
    """Steps on every batch; the main net learns on the last."""
    terms: dict[str, Tensor] = {}
    for step, pictures in enumerate(faces):
        rows = torch.arange(step * len(pictures), (step + 1) * len(pictures))
        images = pictures.contiguous(memory_format=torch.channels_last)
        terms |= train_step(session, Faces(images, images, rows), step == len(faces) - 1, generator)
    return {name: term.item() for name, term in terms.items()}


def plain_steps(
    cfg: Cfg,
    nets: dict[str, Any],
    optimizers: dict[str, Any],
    faces: list[Tensor],
    labels: Tensor,
    generator: torch.Generator,
) -> dict[str, float]:
    """The published schedule as one writes it down: every score by a call of its own, every graph kept. The penalty of
    pictures is taken sample by sample, as ours."""
    terms: dict[str, Tensor] = {}
    for pictures in faces:
        output = nets["main"](pictures).output
        z, fake = torch.cat([output.z1, output.z2], 1), output.reconstruction
        shuffled = torch.cat([output.z1, output.z2.roll(-1, 0)], 1)
        share = torch.rand(2, len(pictures), generator=generator).view(2, -1, 1, 1, 1)
        if "image_critic" in nets:
            critic = nets["image_critic"]
            gap = critic(pictures).mean() - critic(fake.detach()).mean()
            between = share[0] * pictures + (1 - share[0]) * fake.detach()
            loss = cfg.loss.gradient_loss_lambda_img_discr * _penalty(critic, between) - gap
            _learn(optimizers["image_critic"], loss)
            terms["image_distance"] = gap
        critic = nets["critic"]
        between = share[1] * shuffled.detach() + (1 - share[1]) * z.detach()
        loss = critic(z.detach()).mean() - critic(shuffled.detach()).mean()
        loss = loss + cfg.loss.gradient_loss_lambda_discr * _penalty(critic, between)
        _learn(optimizers["critic"], loss)
        terms["critic"] = loss
    rows = slice((len(faces) - 1) * len(pictures), None)
    terms["au"] = F.binary_cross_entropy_with_logits(output.logits, labels[rows])
    terms["reconstruction"] = (fake - pictures).abs().mean()
    real = nets["critic"](z).mean()
    terms["dependency"] = nets["critic"](shuffled).mean().detach() - real
    weights = cfg.loss
    whole = terms["au"] + weights.reconstruction_loss_lambda * terms["reconstruction"]
    whole = whole - weights.discriminator_loss_lambda * real
    if "image_critic" in nets:
        terms["image_adversary"] = -nets["image_critic"](fake).mean()
        whole = whole + weights.img_discriminator_loss_lambda * terms["image_adversary"]
    _learn(optimizers["main"], whole)
    return {name: term.item() for name, term in terms.items()}


def _penalty(critic: nn.Module, between: Tensor) -> Tensor:
    between = between.requires_grad_()
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return ((slope.flatten(1).norm(2, 1) - 1) ** 2).mean()


def _learn(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _groups(name: str, net: nn.Module, cfg: Cfg) -> list[dict[str, Any]]:
    made = make_optimizer(name, net, cfg).param_groups
    return [{key: group[key] for key in ("params", "lr", "betas")} for group in made]
