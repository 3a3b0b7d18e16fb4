"""What the {General} section and the [net] blocks hold: every key with its type, default and range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mien.audet.cfg import limited
from mien.data.au_folds import DISFA_UNITS
from mien.schema import ACTION_UNITS

DEPENDENCY_KINDS = ("wgan", "logistic", "infonce", "hsic", "distance_correlation", "cross_correlation")
CRITIC_KINDS = DEPENDENCY_KINDS[:3]
"""Estimators of the dependency between z1 and z2; the first three train the {Discriminator}."""


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """First block of {General}."""

    batch_size: int = limited(16, least=2, most=65536)
    """Faces a step, in each process."""
    max_epochs: int = limited(60, least=1, most=1e5)
    """Passes over the training faces, or MOMU epochs."""
    max_test_iters: int = limited(0, least=0, most=1e9)
    """Batches that are validated after an epoch; 0 for all."""
    train_main_net_every_n_batches: int = limited(5, least=1, most=1e4)
    """Steps of the critics for one of encoder, AU predictor and decoder."""
    learning_rate_scheduler: Literal["None", "Linear"] = "None"
    """None: constant rates; Linear: down in the last epochs."""
    decay_lr_over_last_n_epochs: int = limited(0, least=0, most=1e5)
    """Linear: the last n epochs run at n/n, (n-1)/n .. 1/n of the rate."""


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Second block of {General}."""

    regress_au_intensities: bool = False
    """True: intensities 0-5; False: occurrence."""
    balance_dataset_with_momu: bool = False
    """Draw each epoch so that all units are about equally often active."""
    epoch_size: int = limited(0, least=0, most=1e9)
    """Faces of an epoch under MOMU."""
    sampling_size: int = limited(0, least=0, most=1e9)
    """Faces that MOMU draws of a class at a time; divides epoch_size."""
    mean: tuple[float, float, float] = limited((0.5, 0.5, 0.5), least=0, most=255)
    """Of the encoder's input, for pixels in 0-1; values above 1 are read for pixels in 0-255."""
    std: tuple[float, float, float] = limited((0.5, 0.5, 0.5), least=1e-6, most=255)
    """As mean."""
    image_size: int = limited(256, least=8, most=2048)
    """Side of the pictures in pixels."""
    action_units: tuple[str, ...] = limited(DISFA_UNITS)
    """Columns that are predicted."""
    occurrence_threshold: float = limited(2.0, least=0, most=5)
    """Intensity from which a unit counts as active."""
    noise: float = limited(0.015, least=0, most=1)
    """Largest standard deviation of the noise on the encoder's input, for pixels in 0-1; drawn anew for every face."""
    flip: float = limited(0.5, least=0, most=1)
    """Probability of a horizontal flip of a training face."""
    colour: float = limited(0.9, least=0, most=1)
    """Probability of a change of brightness and contrast (0.5 to 1.5 times) and saturation (0 to 1.5 times)."""
    affine: float = limited(0.0, least=0, most=0.5)
    """Largest shift (share of the side), scaling (share) and turn (radians) of a training face."""
    valid_fraction: float = limited(0.1, least=0.001, most=0.9)
    """Share of the training faces, whole subjects, that becomes the validation split where the store has none."""
    fold: str = "None"
    """Subjects of the test split: literature-1 and the like of DISFA and BP4D, published-1 of BP4D, subjects-1of5 of any
    store with subjects; None for the store's own splits."""
    twins: int = limited(0, least=0, most=64)
    """People of a block, and sets of actions, of batches of twins: batch_size is a multiple of its square; 0 for random faces."""
    shared_subjects: bool = False
    """Train although subjects stand in train and test (the published DISFA lists); the results say so."""


@dataclass(frozen=True, kw_only=True)
class LossOptions:
    """Third block of {General}."""

    au_regression_loss_function: Literal["MSE", "BCEWithLogits", "None"] = "None"
    """None: MSE for intensities, BCEWithLogits for occurrence."""
    reconstruction_loss_function: Literal["L1"] = "L1"
    """Mean absolute error of the picture without noise, in [-1, 1]."""
    reconstruction_loss_lambda: float = limited(1.0, least=0, most=1e6)
    """0 needs no {Decoder}."""
    discriminator_loss_lambda: float = limited(0.5, least=0, most=1e6)
    """Weight of the dependency between z1 and z2; 0 is the plain encoder."""
    gradient_loss_lambda_discr: float = limited(10.0, least=0, most=1e6)
    """Weight of the gradient penalty of the pair critic (wgan)."""
    img_discriminator_loss_lambda: float = limited(2e-4, least=0, most=1e6)
    """Weight of the score that the {Image Discriminator} gives to reconstructions."""
    gradient_loss_lambda_img_discr: float = limited(10.0, least=0, most=1e6)
    """Weight of the gradient penalty of the {Image Discriminator}."""
    dependency: Literal["wgan", "logistic", "infonce", "hsic", "distance_correlation", "cross_correlation"] = "wgan"
    """How the dependency between z1 and z2 is estimated."""
    pairing: Literal["derangement", "roll", "other_subject"] = "derangement"
    """Whose z2 a shuffled pair takes: anybody's but its own, the next face's (published), or that of another subject."""
    through_shuffled: bool = True
    """Let the encoder's gradient flow through shuffled pairs too; False: through real ones only (published), which lets z1 grow."""
    identity_loss_lambda: float = limited(0.0, least=0, most=1e6)
    """Weight of the reversed gradient of a subject classifier on z1; 0 for none."""
    twin_targets: float = limited(0.0, least=0, most=1)
    """Share of the pictures decoded from twins: z1 of another person with the same actions, z2 of the same person with others,
    where the batch has them. The target is the face itself. 0 decodes every face from its own z1 and z2."""
    region_weight: float = limited(1.0, least=0, most=1e3)
    """Weight of a pixel where a face acts (brows, eyes, nose, mouth, chin) in the L1 loss; others have 1."""
    reader: str = "None"
    """Run folder of another net that reads action units, frozen, of another loss on the decoded pictures."""
    reader_loss_lambda: float = limited(0.0, least=0, most=1e6)
    """Weight of the AU loss of the reader's reading of decoded pictures."""
    swap_consistency_lambda: float = limited(0.0, least=0, most=1e6)
    """Weight of the AU loss of the net's own reading of decoded pictures."""
    latent_regression_lambda: float = limited(0.0, least=0, most=1e6)
    """Weight of the difference between the z1 and z2 of decoded pictures and those that they were decoded from."""
    twin_loss_lambda: float = limited(0.0, least=0, most=1e6)
    """Weight of the share of the variance of z1 inside the same actions, and of z2 inside the same person."""
    action_loss_lambda: float = limited(0.0, least=0, most=1e6)
    """Weight of the reversed gradient of a reader of action units on z2; 0 for none."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Fourth block of {General}, which may be left out: where it runs, as `run` in a recipe."""

    seed: int = limited(0, least=0, most=2**32 - 1)
    """Of the start, the split, the order, the augmentation and the pairs."""
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"
    """lightning-fabric accelerator: auto, cpu, gpu, mps."""
    devices: int = limited(1, least=1, most=1024)
    """Processes."""
    strategy: Literal["auto", "ddp"] = "auto"
    """lightning-fabric strategy: auto, ddp."""
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    """auto: bf16-mixed where the device is faster in bfloat16, else 32-true; or lightning-fabric's 32-true, bf16-mixed, 16-mixed."""
    workers: int = limited(0, least=0, most=1024)
    """Loader processes; results do not depend on their number."""


PUBLISHED_IMAGE_WEIGHTS, IMAGE_WEIGHTS = (1000.0, 5e-7), (10.0, 2e-4)
"""gradient_loss_lambda_img_discr and img_discriminator_loss_lambda: as published, for a penalty with one norm a pixel, and what
stands for them here, where it has one norm a picture."""

GENERAL: dict[str, type] = {"training": TrainingOptions, "data": DataOptions, "loss": LossOptions, "run": RunOptions}
"""Blocks of {General} in their order; their names in brackets are free."""


@dataclass(frozen=True, kw_only=True)
class NetOptions:
    """First block of a net, [net]."""

    channels: int = limited(least=1, most=65536)
    """Of its input."""
    learning_rate: float = limited(1e-4, least=0, most=100)
    """Of Adam."""
    beta1: float = limited(0.5, least=0, most=0.9999)
    """Of Adam."""
    beta2: float = limited(0.999, least=0, most=0.999999)
    """Of Adam."""


NETS = ("Encoder", "AUPredictor", "Decoder", "Discriminator", "Image Discriminator")
"""Sections that are nets."""


def refuse_units(units: tuple[str, ...]) -> str | None:
    """What is wrong with a list of action units."""
    odd = [name for name in units if name not in ACTION_UNITS]
    if odd:
        return f"{odd[0]} is not one of {', '.join(ACTION_UNITS)}."
    return "a unit stands twice." if len(set(units)) < len(units) else None
