"""What must fit between the parts of a cfg: options with each other, nets with nets, pictures and labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from mien.audet.blocks import BatchNorm, CombineConcat, Convolutional, Resnet50, Shape, VggFace
from mien.audet.cfg import Mistake, Place, Section
from mien.audet.options import CRITIC_KINDS, GENERAL, IMAGE_WEIGHTS, PUBLISHED_IMAGE_WEIGHTS, LossOptions, refuse_units
from mien.audet.spec import Cfg, skipped_blocks
from mien.schema import PREPROCESSING

LEAST_ROWS = 4
"""Faces of a batch that the dependencies in closed form need."""
IMAGENET_MEAN = PREPROCESSING["imagenet"].mean


class Report(NamedTuple):
    """Where mistakes and warnings gather."""

    mistakes: list[Mistake]
    warnings: list[Mistake]


def published_image_weights(loss: LossOptions, general: Section | None, report: Report) -> LossOptions | None:
    """The weights of the critic of pictures that stand for the published pair (1000, 5e-7), with a warning; None for others."""
    keys = ("gradient_loss_lambda_img_discr", "img_discriminator_loss_lambda")
    if tuple(getattr(loss, key) for key in keys) != PUBLISHED_IMAGE_WEIGHTS:
        return None
    block = general.blocks[2] if general is not None and len(general.blocks) > 2 else None
    entry = block.entries.get(keys[0]) if block is not None else None
    ours = " and ".join(f"{key}={value:g}" for key, value in zip(keys, IMAGE_WEIGHTS, strict=True))
    text = (
        "the published pair 1000 and 5e-7 belongs to a gradient penalty with one norm a pixel; here it has one norm a picture, "
        f"and {ours} are taken."
    )
    if entry is not None:
        report.warnings.append(Mistake(entry.place, text))
    penalty, weight = IMAGE_WEIGHTS
    return replace(loss, gradient_loss_lambda_img_discr=penalty, img_discriminator_loss_lambda=weight)


def check_options(cfg: Cfg, general: Section, report: Report) -> None:
    """Options that do not go together."""
    places = dict(zip(GENERAL, general.blocks, strict=False))

    def refuse(block: str, key: str, message: str) -> None:
        if block in places:
            entry = places[block].entries.get(key)
            report.mistakes.append(Mistake(entry.place if entry else places[block].place, message))

    training, data = cfg.training, cfg.data
    decay = training.decay_lr_over_last_n_epochs
    if training.learning_rate_scheduler == "Linear" and not 1 <= decay <= training.max_epochs:
        text = f"decay_lr_over_last_n_epochs is {decay}; Linear needs 1 to max_epochs, {training.max_epochs}."
        refuse("training", "decay_lr_over_last_n_epochs", text)
    if data.fold != "None" and data.shared_subjects:
        refuse("data", "shared_subjects", "shared_subjects goes with the store's own splits; a fold shares no subject.")
    if data.balance_dataset_with_momu and not (data.epoch_size and data.sampling_size):
        refuse("data", "balance_dataset_with_momu", "balance_dataset_with_momu needs epoch_size and sampling_size.")
    elif data.balance_dataset_with_momu and data.epoch_size % data.sampling_size:
        text = f"sampling_size {data.sampling_size} does not divide epoch_size {data.epoch_size}."
        refuse("data", "sampling_size", text)
    kind = cfg.loss.dependency
    if kind not in CRITIC_KINDS and training.batch_size < LEAST_ROWS:
        text = f"batch_size is {training.batch_size}; dependency={kind} compares at least {LEAST_ROWS} faces."
        refuse("training", "batch_size", text)
    _check_swaps(cfg, refuse)
    wrong = refuse_units(data.action_units)
    if wrong:
        refuse("data", "action_units", f"action_units: {wrong}")


def _check_swaps(cfg: Cfg, refuse: Callable[[str, str, str], None]) -> None:
    """Options of twins and of the terms on swapped faces."""
    loss, side, batch = cfg.loss, cfg.data.twins, cfg.training.batch_size
    if side == 1 or (side and batch % side**2):
        text = f"twins is {side}, blocks of {side**2} faces, and batch_size {batch}; give 2 or more and a multiple of the square."
        refuse("data", "twins", text)
    if side and cfg.data.balance_dataset_with_momu:
        refuse("data", "twins", "twins and balance_dataset_with_momu both say which faces a batch has; choose one.")
    for key in ("twin_targets", "twin_loss_lambda"):
        if getattr(loss, key) and not side:
            refuse("loss", key, f"{key} needs batches of twins; set data.twins, for example 4.")
    if (loss.reader == "None") != (loss.reader_loss_lambda == 0):
        refuse(
            "loss", "reader", "reader and reader_loss_lambda go together: a run folder and its weight, or None and 0."
        )
    for key in ("twin_targets", "reader_loss_lambda", "swap_consistency_lambda", "latent_regression_lambda"):
        if getattr(loss, key) and "Encoder" in cfg.nets and "Decoder" not in cfg.nets:
            refuse("loss", key, f"{key} is about decoded pictures; the cfg has no {{Decoder}}.")
    if loss.action_loss_lambda and "Encoder" in cfg.nets and "AUPredictor" in cfg.nets and cfg.z2_channels <= 0:
        refuse("loss", "action_loss_lambda", "action_loss_lambda reads action units in z2, which is empty.")


def check_joints(cfg: Cfg, named: dict[str, Section], last: Place, report: Report) -> None:
    """Nets that do not fit each other, the pictures or the labels; `last` is where a section would be missing."""
    nets = cfg.nets

    def need(name: str, right: bool, message: str) -> None:
        if name in nets and not right:
            report.mistakes.append(Mistake(nets[name].place, f"{{{name}}} {message}"))

    pictures = Shape(3, cfg.data.image_size, cfg.data.image_size)
    for name in ("Encoder", "Image Discriminator"):
        if name in nets:
            channels = nets[name].input.channels
            masked = name == "Encoder" and channels == 4
            hint = " (or 4, the last the mask of where a face acts)" if name == "Encoder" else ""
            need(name, masked or nets[name].input == pictures, f"sees pictures of 3 channels, not {channels}{hint}.")
    if "Image Discriminator" in nets:
        _end_in_score(cfg, "Image Discriminator", report)
    if "Encoder" in nets and "AUPredictor" in nets:
        z, units, count = nets["Encoder"].output, nets["AUPredictor"], len(cfg.data.action_units)
        wide = f"takes {units.input.channels} channels, but {{Encoder}} ends with {z.channels}."
        need("AUPredictor", units.input.channels <= z.channels, wide)
        text = f"must end with {count}x1x1, one channel for each of action_units; it ends with {units.output}."
        need("AUPredictor", units.output == (count, 1, 1), text)
        if "Decoder" in nets:
            decoder = nets["Decoder"]
            text = f"takes {decoder.input.channels} channels, but {{Encoder}} ends with {z.channels}."
            need("Decoder", decoder.input == z, text)
            need("Decoder", decoder.output == pictures, f"must end with {pictures}; it ends with {decoder.output}.")
        _check_critic(cfg, z, named, last, report)
        _warn_of_split(cfg, report)
        _warn_of_pixels(cfg, report)
    _warn_of_unused(cfg, report)
    if "Decoder" not in named and (cfg.loss.reconstruction_loss_lambda > 0 or "Image Discriminator" in named):
        text = "{Decoder} is missing; without it set reconstruction_loss_lambda=0 and leave {Image Discriminator} out."
        report.mistakes.append(Mistake(last, text))


def _check_critic(cfg: Cfg, z: Shape, named: dict[str, Section], last: Place, report: Report) -> None:
    """The {Discriminator}: there where it is needed, of the embedding's channels, with one score."""
    critic, kind = cfg.nets.get("Discriminator"), cfg.loss.dependency
    if cfg.uses_critic and "Discriminator" not in named:
        text = (
            f"{{Discriminator}} is missing: z2 has {cfg.z2_channels} channels, and dependency={kind} trains a critic."
        )
        report.mistakes.append(Mistake(last, text))
    if critic is None:
        return
    if not cfg.uses_critic:
        text = "{Discriminator} is not used: z2 is empty, its weight is 0, or the dependency trains no critic."
        report.warnings.append(Mistake(critic.place, text))
        return
    if critic.input != z:
        text = f"{{Discriminator}} takes {critic.input.channels} channels, but {{Encoder}} ends with {z.channels}."
        report.mistakes.append(Mistake(critic.place, text))
    _end_in_score(cfg, "Discriminator", report)


def _end_in_score(cfg: Cfg, name: str, report: Report) -> None:
    """One channel at the end of a critic; warnings for what hinders it."""
    net = cfg.nets[name]
    if net.output.channels != 1:
        text = f"{{{name}}} must end with 1 channel, its score; it ends with {net.output.channels}."
        report.mistakes.append(Mistake(net.place, text))
    for wired in net.blocks:
        block = wired.block
        if isinstance(block, BatchNorm) or (isinstance(block, Convolutional) and block.batch_normalise):
            text = "batch normalisation in a critic: its gradient penalty is meant sample by sample."
            report.warnings.append(Mistake(wired.place, text))
    activation = getattr(net.blocks[-1].block, "activation", "None")
    if activation not in ("None", "linear"):
        text = f"a critic that ends with {activation} cannot give every score; use linear."
        report.warnings.append(Mistake(net.blocks[-1].place, text))


def _warn_of_split(cfg: Cfg, report: Report) -> None:
    """A last concatenation none of whose parts ends where z1 does."""
    final = cfg.nets["Encoder"].blocks[-1]
    if not isinstance(final.block, CombineConcat) or final.block.dimension != 1 or cfg.z2_channels <= 0:
        return
    ends = [sum(shape.channels for shape in final.inputs[: k + 1]) for k in range(len(final.inputs))]
    if cfg.z1_channels not in ends:
        text = f"z1 is the first {cfg.z1_channels} channels, but the parts of the embedding end at"
        text += f" {', '.join(map(str, ends))}: z1 is no branch of its own."
        report.warnings.append(Mistake(final.place, text))


def _warn_of_pixels(cfg: Cfg, report: Report) -> None:
    """A net with published weights that gets other pixels than it was trained on."""
    first = cfg.nets["Encoder"].blocks[0]
    if isinstance(first.block, Resnet50) and first.block.weights == "imagenet" and cfg.data.mean != IMAGENET_MEAN:
        text = "ResNet-50 was trained on mean=0.485, 0.456, 0.406 and std=0.229, 0.224, 0.225; set these in the data options."
        report.warnings.append(Mistake(first.place, text))
    if isinstance(first.block, VggFace) and first.block.state_dict_filepath != "random" and max(cfg.data.mean) <= 1:
        text = "VGG-Face was trained on pixels in 0-255 less a mean; set mean=129.186, 104.762, 93.594 and std=1, 1, 1."
        report.warnings.append(Mistake(first.place, text))


def _warn_of_unused(cfg: Cfg, report: Report) -> None:
    """Blocks whose output no other block takes: often a number that points one block too far."""
    for name, net in cfg.nets.items():
        used = {source for wired in net.blocks for source in wired.sources} | {len(net.blocks) - 1}
        used |= set(skipped_blocks(cfg.nets.get("Decoder"))) if name == "Encoder" else set()
        for index, wired in enumerate(net.blocks):
            if index not in used:
                text = f"nothing takes the output of block {index}, [{wired.name}]."
                report.warnings.append(Mistake(wired.place, text))
