"""Who plays in the adversarial training: the main net and the critics, each with its optimiser."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mien.audet.nets import AudetNet
from mien.audet.options import LossOptions, NetOptions
from mien.audet.output import AudetOutput
from mien.audet.spec import Cfg
from mien.losses.adversarial import reverse_gradient


class Seen(NamedTuple):
    """What the main net makes of a batch."""

    output: AudetOutput
    identities: Tensor | None
    """(B, S) logits of subjects from z1, where a reversed gradient is trained."""
    actions: Tensor | None
    """(B, A) logits of action units from z2, where a reversed gradient is trained."""


class MainNet(nn.Module):
    """What one optimiser trains: the AUDetNet, and behind reversed gradients (Ganin and Lempitsky 2015, arXiv 1409.7495) readers of
    what a part of the embedding shall not know: subjects of z1 (a linear layer, Ning et al. 2024, arXiv 2407.11243) and action
    units of z2.
    """

    def __init__(self, net: AudetNet, subjects: int, loss: LossOptions, z2_numbers: int = 0) -> None:
        super().__init__()
        self.net, self.weights = net, (loss.identity_loss_lambda, loss.action_loss_lambda)
        self.classifier = nn.Linear(net.z1_channels, subjects) if loss.identity_loss_lambda else None
        self.action_reader = None
        if loss.action_loss_lambda:
            self.action_reader = nn.Sequential(
                nn.Linear(z2_numbers, HIDDEN), nn.LeakyReLU(0.1), nn.Linear(HIDDEN, len(net.action_units))
            )

    def forward(
        self, images: Tensor, decode: bool = True, of_z1: Tensor | None = None, of_z2: Tensor | None = None
    ) -> Seen:
        """As `AudetNet.forward`, with what the readers say."""
        output = self.net(images, decode, of_z1, of_z2)
        identities = actions = None
        if self.classifier is not None:
            identities = self.classifier(reverse_gradient(output.z1.mean((2, 3)), self.weights[0]))
        if self.action_reader is not None:
            actions = self.action_reader(reverse_gradient(output.z2.flatten(1), self.weights[1]))
        return Seen(output, identities, actions)


HIDDEN = 128
"""Width of the reader of action units on z2."""


class Player(NamedTuple):
    """A module with its optimiser."""

    module: nn.Module
    wrapped: nn.Module
    """The module as fabric runs it (device, precision, several processes)."""
    optimizer: torch.optim.Optimizer


def make_optimizer(name: str, module: nn.Module, cfg: Cfg) -> torch.optim.Optimizer:
    """Adam with the rates and betas of the cfg's [net] blocks; `base` keeps the rate before any decay."""
    groups: list[tuple[NetOptions, nn.Module | None]]
    if isinstance(module, MainNet):
        parts = {"Encoder": module.net.encoder, "AUPredictor": module.net.predictor, "Decoder": module.net.decoder}
        groups = [(cfg.nets[section].options, net) for section, net in parts.items() if net is not None]
        groups += [(cfg.nets["AUPredictor"].options, reader) for reader in (module.classifier, module.action_reader)]
    else:
        section = {"critic": "Discriminator", "image_critic": "Image Discriminator"}[name]
        groups = [(cfg.nets[section].options, module)]
    made = []
    for options, net in groups:
        weights = [weight for weight in net.parameters() if weight.requires_grad] if net is not None else []
        rate = {"lr": options.learning_rate, "base": options.learning_rate, "betas": (options.beta1, options.beta2)}
        made += [{"params": weights, **rate}] if weights else []
    return torch.optim.Adam(made, fused=True)


def learning_rate_factor(cfg: Cfg, epoch: int) -> float:
    """Share of the rates in an epoch (from 1): Linear comes down to 1/n in the last of the last n epochs."""
    if cfg.training.learning_rate_scheduler == "None":
        return 1.0
    return min(1.0, (cfg.training.max_epochs - epoch + 1) / cfg.training.decay_lr_over_last_n_epochs)


def take_step(player: Player) -> None:
    """Step of an optimiser; the gradients are gone afterwards."""
    player.optimizer.step()
    player.optimizer.zero_grad()
