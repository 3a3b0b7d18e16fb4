"""The dry run of a cfg: what would be built, with shapes and numbers of parameters, and nothing is trained."""

from __future__ import annotations

import sys

import torch

from mien.audet.blocks import Timm
from mien.audet.layers import make_layer
from mien.audet.spec import Cfg, NetSpec


def summary(cfg: Cfg) -> str:
    """Every net of a cfg as a table (block, where its input comes from, shape of its output, parameters), then the training."""
    lines = [line for spec in cfg.nets.values() for line in _net(spec)]
    training, data, loss = cfg.training, cfg.data, cfg.loss
    goal = f"intensities 0-5 of {len(data.action_units)} units" if data.regress_au_intensities else (
        f"occurrence (intensity >= {data.occurrence_threshold:g}) of {len(data.action_units)} units"
    )  # fmt: skip
    lines += [
        f"z1 {cfg.z1_channels} channels, z2 {cfg.z2_channels}; pictures of {data.image_size} px",
        f"predicts {goal}: {', '.join(data.action_units)}",
        f"loss: {'BCEWithLogits' if cfg.cross_entropy else 'MSE'} of units + {_weighted(cfg)}",
        f"{training.max_epochs} epochs, batches of {training.batch_size}, {_steps(cfg)}, "
        + (f"MOMU epochs of {data.epoch_size}" if data.balance_dataset_with_momu else "every face once an epoch"),
    ]
    if loss.identity_loss_lambda:
        lines.append(
            f"identity-adversarial: reversed gradient of a subject classifier on z1, x {loss.identity_loss_lambda:g}"
        )
    return "\n".join(lines)


def warn(cfg: Cfg) -> None:
    """Print a cfg's warnings on stderr."""
    for warning in cfg.warnings:
        print(f"warning: {warning}", file=sys.stderr)


def parameters(spec: NetSpec) -> list[int]:
    """Number of trained and frozen weights of every block."""
    counts = []
    for wired in spec.blocks:
        with torch.device("cpu" if isinstance(wired.block, Timm) else "meta"):  # timm probes itself with real pictures
            layer = make_layer(wired.block, wired.inputs, plain=True)
        counts.append(sum(weight.numel() for weight in layer.parameters()))
    return counts


def _net(spec: NetSpec) -> list[str]:
    counts = parameters(spec)
    rows = []
    for index, (wired, count) in enumerate(zip(spec.blocks, counts, strict=True)):
        origin = ", ".join(_origin(source) for source in wired.sources)
        rows.append((str(index), wired.name, origin, str(wired.output), f"{count:,}" if count else ""))
    widths = [
        max(map(len, column)) for column in zip(("", "block", "from", "output", "parameters"), *rows, strict=True)
    ]
    head = (
        f"{spec.name}: {spec.input} -> {spec.output}, {sum(counts):,} parameters, rate {spec.options.learning_rate:g}"
    )
    return [head, *(_row(row, widths) for row in (("", "block", "from", "output", "parameters"), *rows)), ""]


def _origin(source: int) -> str:
    if source >= 0:
        return str(source)
    return "input" if source == -1 else f"encoder {-2 - source}"


def _row(cells: tuple[str, ...], widths: list[int]) -> str:
    number, block, origin, output, count = cells
    a, b, c, d, e = widths
    return f"  {number:>{a}}  {block:<{b}}  {origin:<{c}}  {output:<{d}}  {count:>{e}}".rstrip()


def _weighted(cfg: Cfg) -> str:
    loss, kind = cfg.loss, cfg.loss.dependency
    decodes, critic = "Decoder" in cfg.nets, "Image Discriminator" in cfg.nets
    parts = [
        (loss.reconstruction_loss_lambda * decodes, "L1 of pictures"),
        (loss.discriminator_loss_lambda * cfg.splits, f"{kind} of z1 and z2"),
        (loss.img_discriminator_loss_lambda * critic, "critic of pictures"),
        (loss.reader_loss_lambda, f"AU loss of the reader {loss.reader}"),
        (loss.swap_consistency_lambda, "AU loss of decoded pictures"),
        (loss.latent_regression_lambda, "z of decoded pictures"),
        (loss.twin_loss_lambda, "variance inside twins"),
        (loss.action_loss_lambda, "reversed AU reader of z2"),
    ]
    return " + ".join(f"{weight:g} {what}" for weight, what in parts if weight) or "nothing else"


def _steps(cfg: Cfg) -> str:
    every = cfg.training.train_main_net_every_n_batches
    if not cfg.uses_critic and "Image Discriminator" not in cfg.nets:
        return "a step of the main net each"
    return f"a step of the critics each and of the main net every {every}"
