"""Who plays in the adversarial training: the main net and the critics, each with its optimiser."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mien.audet.nets import AudetNet
from mien.audet.options import NetOptions
from mien.audet.output import AudetOutput
from mien.audet.spec import Cfg
from mien.losses.adversarial import reverse_gradient


class MainNet(nn.Module):
    """What one optimiser trains: the AUDetNet, and with identity-adversarial training a subject classifier on z1.

    The classifier is a linear layer behind a gradient reversal (Ning et al. 2024, arXiv 2407.11243).
    """

    def __init__(self, net: AudetNet, subjects: int, weight: float) -> None:
        super().__init__()
        self.net, self.weight = net, weight
        self.classifier = nn.Linear(net.z1_channels, subjects) if weight else None

    def forward(self, images: Tensor, decode: bool = True) -> tuple[AudetOutput, Tensor | None]:
        """Normalised images -> AudetOutput and (B, S) logits of subjects, or None; without `decode` no reconstruction."""
        output = self.net(images, decode)
        if self.classifier is None:
            return output, None
        return output, self.classifier(reverse_gradient(output.z1.mean((2, 3)), self.weight))


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
        groups.append((cfg.nets["AUPredictor"].options, module.classifier))
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
