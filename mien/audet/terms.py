"""What the main net of an AUDetNet learns from: the terms of its loss and their sum."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mien.audet.dependency import dependency
from mien.audet.faces import au_loss
from mien.audet.output import AudetOutput
from mien.audet.players import Seen
from mien.audet.session import Session
from mien.audet.spec import Cfg
from mien.audet.swap_terms import group_means, regression_share, weighted_l1, within_share


class Faces(NamedTuple):
    """A batch as the nets take it."""

    seen: Tensor
    """(B, 3 or 4, H, W) what the encoder sees, normalised, with noise, and where it wants it the mask."""
    pictures: Tensor
    """(B, 3, H, W) the same without noise, in [-1, 1]."""
    rows: Tensor
    """(B,) rows of the store, on the CPU."""
    quiet: Tensor | None = None
    """(B, 1, H, W) 1 outside the boxes where a face acts, 0 inside; None where nothing asks for it."""
    takes: tuple[Tensor, Tensor] | None = None
    """Rows (B,) whose z1 and whose z2 each picture is decoded from; None for its own."""


class Told(NamedTuple):
    """What the store tells of a batch, on the device."""

    targets: Tensor
    """(B, A) of the net's own AU loss."""
    read: Tensor
    """(B, A') what the frozen reader should read; A' is 0 without one."""
    person: Tensor
    """(B, B) weights of `group_means` over faces of one person; (B, 0) where no term asks for them."""
    actions: Tensor
    """The same over faces with the same actions."""


def told_of(session: Session, rows: Tensor, device: torch.device) -> Told:
    """What the store tells of its rows (B,), in one copy to the device."""
    targets = session.labels.targets[rows]
    none = targets[:, :0]
    read = none if session.reader is None else session.reader.targets[rows]
    groups = [none, none]
    if session.cfg.loss.twin_loss_lambda:
        groups = [group_means(column) for column in session.groups(rows)]
    parts = (targets, read, *groups)
    return Told(*torch.cat(parts, 1).to(device).split([part.shape[1] for part in parts], 1))


def main_terms(session: Session, found: Seen, faces: Faces, order: Tensor) -> dict[str, Tensor]:
    """Unweighted terms of the main net's loss; the critics are those after their step of this batch, and do not learn here."""
    cfg, output, rows = session.cfg, found.output, faces.rows
    told = told_of(session, rows, faces.pictures.device)
    terms = {
        "au": au_loss(output.logits, told.targets, cfg.cross_entropy),
        "z1_variance": embedding_variance(output.z1),
    }
    if output.reconstruction is not None:
        terms["reconstruction"] = reconstruction_error(output.reconstruction, faces, cfg.loss.region_weight)
    terms |= critic_terms(session, output, order)
    if found.identities is not None:
        subjects = session.labels.subjects[rows].to(faces.pictures.device)
        terms["identity"] = F.cross_entropy(found.identities, subjects)
    if found.actions is not None:
        terms["actions"] = au_loss(found.actions, told.targets, cfg.cross_entropy)
    if cfg.loss.twin_loss_lambda:
        parts = ((output.z1, told.actions), (output.z2, told.person))
        terms["twins"] = torch.stack([within_share(z.float().flatten(1), means) for z, means in parts]).sum()
    return terms | swapped_terms(session, output, faces, order, told)


def reconstruction_error(pictures: Tensor, faces: Faces, region_weight: float) -> Tensor:
    """L1 of decoded pictures, pixels where a face acts weighted."""
    if faces.quiet is None or region_weight == 1:
        return F.l1_loss(pictures, faces.pictures)
    return weighted_l1(pictures, faces.pictures, region_weight + (1 - region_weight) * faces.quiet)


def swapped_terms(session: Session, output: AudetOutput, faces: Faces, order: Tensor, told: Told) -> dict[str, Tensor]:
    """What others, and the net itself, read in faces of one's z1 and another's z2: those decoded from twins, or where the cfg has
    none those of a random pairing, whose truth nobody knows but whose action units are those of z1's face.
    """
    cfg, net = session.cfg, session.net
    again = cfg.loss.swap_consistency_lambda or cfg.loss.latent_regression_lambda
    if output.reconstruction is None or not (again or session.reader):
        return {}
    pictures, (of_z1, of_z2) = output.reconstruction, faces.takes or (slice(None), order)
    terms = {}
    with session.fabric.autocast():
        if faces.takes is None:
            pictures = net.decode(output.z1, output.z2[order], tuple(skip[order] for skip in output.skips))
        if session.reader:
            terms["reader"] = session.reader.loss(pictures, told.read)
        if again:
            mask = None if faces.quiet is None else faces.quiet[of_z2]
            with still_statistics(net):
                back = net(net.standardise(pictures * 0.5 + 0.5, mask=mask), decode=False)
    if cfg.loss.swap_consistency_lambda:
        terms["consistency"] = au_loss(back.logits, told.targets, cfg.cross_entropy)
    if cfg.loss.latent_regression_lambda:
        pairs = ((back.z1, output.z1[of_z1]), (back.z2, output.z2[of_z2]))
        shares = [regression_share(one.float().flatten(1), other.float().flatten(1)) for one, other in pairs]
        terms["latent"] = torch.stack(shares).sum()
    return terms


@contextmanager
def still_statistics(net: nn.Module) -> Iterator[None]:
    """Batch normalisation inside goes by the batch and leaves its running statistics alone: decoded faces are none of the data."""
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    kept = [module.momentum for module in norms]
    for module in norms:
        module.momentum = 0.0
    try:
        yield
    finally:
        for module, momentum in zip(norms, kept, strict=True):
            module.momentum = momentum


def critic_terms(session: Session, output: AudetOutput, order: Tensor) -> dict[str, Tensor]:
    """What the critics say of the embedding and of the picture."""
    cfg, players, terms = session.cfg, session.players, {}
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
    return terms


def embedding_variance(z: Tensor) -> Tensor:
    """Mean over the channels of a part of the embedding (B, C, h, w) of its variance over faces and places; for the log."""
    return z.detach().float().transpose(0, 1).flatten(1).var(1, unbiased=False).mean()


WEIGHTS = {
    "reconstruction": "reconstruction_loss_lambda",
    "dependency": "discriminator_loss_lambda",
    "image_adversary": "img_discriminator_loss_lambda",
    "reader": "reader_loss_lambda",
    "consistency": "swap_consistency_lambda",
    "latent": "latent_regression_lambda",
    "twins": "twin_loss_lambda",
}
"""Term -> key of its weight; `au`, `identity` and `actions` have 1 (the reversed gradient carries the weight of the latter two)."""


def sum_of_losses(cfg: Cfg, terms: dict[str, Tensor]) -> Tensor:
    """Weighted sum of the main net's terms."""
    parts = [terms[name] * (getattr(cfg.loss, WEIGHTS[name]) if name in WEIGHTS else 1.0)
             for name in ("au", "identity", "actions", *WEIGHTS) if name in terms]  # fmt: skip
    return torch.stack(parts).sum()
