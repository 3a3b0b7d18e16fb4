"""Synthetic faces with action units, and a cfg that trains on them in a second."""

from pathlib import Path

import numpy as np
import torch

from mien.audet.check import cfg_of
from mien.audet.spec import Cfg
from mien.data.au_folds import DISFA_UNITS
from mien.data.store import Store, write_store
from mien.schema import ACTION_UNITS, Record

torch.set_num_threads(1)

SIZE = 16


def records(faces: int = 48, size: int = SIZE, subjects: int = 8, seed: int = 0, units=DISFA_UNITS) -> list[Record]:
    """Each active unit is a bright row of its own, the subject is the colour of the ground; the last subjects are test."""
    random = np.random.default_rng(seed)
    made = []
    for n in range(faces):
        subject = n % subjects
        image = np.empty((size, size, 3), np.uint8)
        image[:] = 30 + 20 * np.array([subject % 4, subject // 4, subject % 3])
        values = np.full(len(ACTION_UNITS), np.nan, np.float32)
        for k, name in enumerate(units):
            value = random.integers(2, 6) if random.random() < 0.4 else random.integers(0, 2)
            values[ACTION_UNITS.index(name)] = value
            image[(k + 1) * size // (len(units) + 2)] += np.uint8(25 * value)
        image += random.integers(0, 20, image.shape, dtype=np.uint8)
        split = "test" if subject >= subjects - 2 else "train"
        made.append(Record(f"s{subject}_{n}", image, split, f"s{subject}", action_units=values))
    return made


def store(out: Path, **options) -> Store:
    made = records(**options)
    return write_store(made, out, dataset="toy", size=made[0].image.shape[0])


TEXT = """
{General}
[training_options]
batch_size=6
max_epochs=2
train_main_net_every_n_batches=2
[data_options]
image_size=16
valid_fraction=0.2
[loss_options]
reconstruction_loss_lambda=1

{Encoder}
[net]
channels=3
[convolutional]
batch_normalise=1
filters=8
kernel_size=4
stride=4
activation=relu
[convolutional]
filters=12
kernel_size=4

{AUPredictor}
[net]
channels=4
[connected]
output_features=12

{Decoder}
[net]
channels=12
[upsample]
scale_factor=16
[convolutional]
filters=3
kernel_size=3
pad=1
activation=tanh

{Discriminator}
[net]
channels=12
[connected]
output_features=8
activation=leaky_relu
[connected]
output_features=1

{Image Discriminator}
[net]
channels=3
[convolutional]
filters=4
kernel_size=4
stride=4
activation=leaky_relu
[convolutional]
filters=1
kernel_size=3
pad=1
"""


def cfg(*overrides: str, text: str = TEXT) -> Cfg:
    return cfg_of(text, "tiny.cfg", ["--run.accelerator", "cpu", *overrides])
